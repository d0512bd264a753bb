"""Write the parts of vendor files that hold a header; `code` is escaped already."""

from __future__ import annotations

from ecgprep.header import Header
from ecgprep.simulation.headers import acquired, measured_texts, year_of_birth


def muse_header(header: Header, code: str) -> str:
    """Write PatientDemographics, TestDemographics and RestingECGMeasurements."""
    at, m = acquired(header), measured_texts(header)
    return (
        f"<PatientDemographics><PatientID>{code}</PatientID>"
        f"<PatientAge>{header.age_years:g}</PatientAge><AgeUnits>YEARS</AgeUnits>"
        f"<DateofBirth>01-01-{year_of_birth(header)}</DateofBirth>"
        f"<Gender>{'FEMALE' if header.sex == 'F' else 'MALE'}</Gender>"
        f"<PatientLastName>Synthétique {code}</PatientLastName></PatientDemographics>\n"
        "<TestDemographics><DataType>RESTING</DataType>"
        f"<AcquisitionTime>{at:%H:%M:%S}</AcquisitionTime>"
        f"<AcquisitionDate>{at:%m-%d-%Y}</AcquisitionDate></TestDemographics>\n"
        f"<RestingECGMeasurements><VentricularRate>{m['heart_rate_bpm']}</VentricularRate>"
        f"<PRInterval>{m['pr_ms']}</PRInterval><QRSDuration>{m['qrs_ms']}</QRSDuration>"
        f"<QTInterval>{m['qt_ms']}</QTInterval><QTCorrected>{m['qtc_ms']}</QTCorrected>"
        f"<PAxis>{m['p_axis_deg']}</PAxis><RAxis>{m['qrs_axis_deg']}</RAxis>"
        f"<TAxis>{m['t_axis_deg']}</TAxis></RestingECGMeasurements>\n"
    )


def aecg_annotations(header: Header) -> str:
    """Write the measurements for the whole recording, behind one beat's, which is not theirs."""
    m = measured_texts(header)
    beat = _aecg_quantity("TIME_PD_QT", "333", "ms")
    quantities = (
        ("HEART_RATE", m["heart_rate_bpm"], "bpm"),
        ("TIME_PD_PR", m["pr_ms"], "ms"),
        ("TIME_PD_QRS", m["qrs_ms"], "ms"),
        ("TIME_PD_QT", m["qt_ms"], "ms"),
        ("TIME_PD_QTcB", m["qtc_ms"], "ms"),
        ("ANGLE_P_FRONT", m["p_axis_deg"], "deg"),
        ("ANGLE_QRS_FRONT", m["qrs_axis_deg"], "deg"),
        ("ANGLE_T_FRONT", m["t_axis_deg"], "deg"),
    )
    return (
        "<subjectOf><annotationSet>\n"
        f'<component><annotation><code code="MDC_ECG_BEAT"/>{beat}</annotation></component>\n'
        f"{''.join(_aecg_quantity(*quantity) for quantity in quantities)}"
        "</annotationSet></subjectOf>\n"
    )


def _aecg_quantity(code: str, value: str, unit: str) -> str:
    return (
        f'<component><annotation><code code="MDC_ECG_{code}" codeSystem="2.16.840.1.113883.6.24"/>'
        f'<value xsi:type="PQ" value="{value}" unit="{unit}"/></annotation></component>\n'
    )


def cardiosoft_patient(header: Header, code: str) -> str:
    """Write ObservationDateTime and PatientInfo."""
    at = acquired(header)
    return (
        f"<ObservationDateTime><Hour>{at.hour}</Hour><Minute>{at.minute}</Minute>"
        f"<Second>{at.second}</Second><Day>{at.day}</Day><Month>{at.month}</Month>"
        f"<Year>{at.year}</Year></ObservationDateTime>\n"
        f"<PatientInfo><PID>{code}</PID><Name><FamilyName>Müller {code}</FamilyName></Name>"
        f'<Age units="Years">{header.age_years:g}</Age><BirthDateTime><Day>1</Day><Month>1</Month>'
        f"<Year>{year_of_birth(header)}</Year></BirthDateTime>"
        f"<Gender>{'FEMALE' if header.sex == 'F' else 'MALE'}</Gender></PatientInfo>\n"
    )


def cardiosoft_measurements(header: Header) -> str:
    """Write the children of RestingECGMeasurements."""
    m = measured_texts(header)
    return (
        f'<VentricularRate units="BPM">{m["heart_rate_bpm"]}</VentricularRate>'
        f'<PQInterval units="ms">{m["pr_ms"]}</PQInterval>'
        f'<QRSDuration units="ms">{m["qrs_ms"]}</QRSDuration>'
        f'<QTInterval units="ms">{m["qt_ms"]}</QTInterval>'
        f'<QTCInterval units="ms">{m["qtc_ms"]}</QTCInterval>'
        f'<PAxis units="degrees">{m["p_axis_deg"]}</PAxis>'
        f'<RAxis units="degrees">{m["qrs_axis_deg"]}</RAxis>'
        f'<TAxis units="degrees">{m["t_axis_deg"]}</TAxis>\n'
    )


def schiller_measurements(header: Header) -> str:
    """Write an annotation_global for each measurement."""
    names = ("HR", "PQ", "QRS", "QT", "QTC", "AXIS_P", "AXIS_QRS", "AXIS_T")
    return "".join(
        f"<annotation_global><name>{name}</name><value>{text}</value></annotation_global>\n\n"
        for name, text in zip(names, measured_texts(header).values(), strict=True)
    )


def sapphire_measurements(header: Header) -> str:
    """Write the measurements of medianTemplate."""
    m = measured_texts(header)
    return (
        f'<measurements><global><ventricularRate V="{m["heart_rate_bpm"]}" U="bpm"/>'
        f'<PR_Interval V="{m["pr_ms"]}" U="ms"/><QRS_Duration V="{m["qrs_ms"]}" U="ms"/>'
        f'<QT_Interval V="{m["qt_ms"]}" U="ms"/><QT_Corrected V="{m["qtc_ms"]}" U="ms"/>'
        f'<P_Axis V="{m["p_axis_deg"]}" U="deg"/><R_Axis V="{m["qrs_axis_deg"]}" U="deg"/>'
        f'<T_Axis V="{m["t_axis_deg"]}" U="deg"/></global></measurements>\n'
    )
