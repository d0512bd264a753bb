"""Headers: what real files say, and that nothing implausible is ever taken for a value."""

from __future__ import annotations

import csv
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vendor_files import WRITERS, assert_plausible

from ecgprep.header import MEASUREMENTS, Header
from ecgprep.readers import open_file, parse_file
from ecgprep.readers.header_fields import (
    RANGES,
    age_years,
    clock_time,
    date_in,
    date_of,
    identifier,
    iso_date,
    measurement,
    moment,
    sex_of,
    stated_age,
    timestamp,
    us_date,
)
from ecgprep.simulation.corpus import write_corpus
from ecgprep.simulation.headers import EXAMPLE

NONE = None
# id, time, age, sex; rate, PR, QRS, QT, QTc; axes of P, QRS, T
REAL = {
    "muse/muse_ecg1.xml": (
        *("JAX01234", "2021-05-10T13:15:18", 60, "M"),
        *(60, 158, 78, 364, 364, 49, 54, 46),
    ),
    "muse/muse_ecg2.xml": (
        *("JAX12345", "2021-05-10T13:09:05", 60, "M"),
        *(60, 158, 80, 366, 366, 49, 55, 48),
    ),
    "muse/muse_ecg3.xml": (
        *("01234567", "2021-05-10T13:05:16", 60, "M"),
        *(60, 158, 80, 366, 366, 45, 55, 48),
    ),
    "muse/guangxi_teaching_sinus_rhythm.xml": (  # edited: the cart's own QTc was 416
        *("00000000", "2024-01-01T10:35:17", 11, "M"),
        *(97, 122, 74, 328, 417, 31, 63, 49),
    ),
    "muse/synthetic_muse_crc_zero.xml": (
        *("SYNTH0001", "2025-08-17T09:15:11", 45, "M"),
        *(72, 144, 86, 402, 440, 60, 45, 40),
    ),
    "philips/sierra_129DYPRG.XML": (
        *("1112010721168bdc", "2011-12-01T07:27:34", 50, "M"),
        *(41, 151, 135, 476, 393, 66, -21, 59),
    ),
    "philips/sierra_repbeats_example.xml": (
        *("1112010721168bdc", "2011-12-01T07:27:34", 50, "M"),
        *(41, 151, 135, 476, 393, 66, -21, 59),
    ),
    "philips/sierra_3191723_ZZDEMOPTONLY_1-04_orig.xml": (  # the age is from 1950-01-01
        *("9999", "2010-01-19T15:19:22", 60, "M"),
        *(84, 144, 84, 352, 417, 81, 78, 67),
    ),
    "philips/tbj128_ecg-example.xml": (
        *("9999", "2008-12-23T19:44:46", 32, "F"),
        *(41, 144, 102, 564, 466, 19, 85, 53),
    ),
    "philips/sierra_2020-5-18_15-48-11.xml": (  # its sex is Unknown
        *("xxxxxx", "2020-05-18T15:48:11", 69, ""),
        *(64, 164, 102, 399, 412, 27, 22, 80),
    ),
    "hl7aecg/fda_Example_aECG.xml": (  # measured on single beats and on the representative one
        *("SBJ-123", "2002-11-22T09:10:00", 46, "M"),
        *(NONE, 148, 120, 420, 443, 44, -61, 86),
    ),
    "hl7aecg/fda_subject1_0.xml": (
        *("subject1", "2002-11-22T09:10:00", 46, "M"),
        *(NONE, 148, 120, 420, 443, 44, -61, 86),
    ),
    "hl7aecg/fda_minimum_aecg.xml": (
        *("SBJ-123", "2002-11-22T09:10:00", NONE, ""),
        *(NONE,) * 8,
    ),
    "hl7aecg/cvrg_hl7aecg-Example2.xml": (  # the rate's unit is `bmp`, which is none
        *("106_ABC", "2004-01-15T11:20:04", 32, ""),
        *(NONE,) * 8,
    ),
    "hl7aecg/liryc_hl7aecg_example.xml": (
        *("25060897140", "2025-09-23T10:35:50", NONE, ""),
        *(57, 192, 88, 418, NONE, 60, 64, 11),
    ),
}
"""All public files. ecgdatakit 2.0.3 reads the same values but for two, checked by hand.

It takes a QTc only if the file names its formula, as Philips 1.04 does; the others are printed
values. It finds no id in the last file, where Mindray writes `PatientID`. That file's QTc is 0, and
the other one in it is Hodges's.
"""


def header_of(text: str) -> Header:
    return parse_file(text.encode()).header()


@pytest.mark.parametrize("file", REAL)
def test_a_real_file_says_what_another_reader_found(samples, file):
    header = open_file(samples / "data" / "xml" / file).header()
    assert tuple(vars(header).values()) == REAL[file]


def test_headers_of_files_written_by_an_independent_script(make_real_corpus):
    folder = make_real_corpus("--task", "CD", "--limit", "40") / "xml"
    found = [open_file(path).header() for path in sorted(folder.iterdir())]
    assert {header.acquired_at for header in found} == {"2019-03-04T08:15:00"}
    assert [header.patient_id for header in found] == [
        f"PHI{int(path.stem)}" for path in sorted(folder.iterdir())
    ]
    assert {header.age_years for header in found} == {69, None}  # CardioSoft: no date of birth


@pytest.mark.parametrize("dialect", WRITERS)
def test_a_simulated_file_says_what_was_written(uv, dialect):
    header = parse_file(WRITERS[dialect](uv[:, :500], 500, "A1")).header()
    expected = vars(EXAMPLE) | {"patient_id": "A1"}
    if dialect == "full_disclosure":  # it has no resting measurements
        expected |= dict.fromkeys(MEASUREMENTS)
    assert vars(header) == expected


def test_a_corpus_says_what_its_table_of_headers_says(tmp_path):
    write_corpus(tmp_path, 12, seed=2, prevalence=0.5, dialects=list(WRITERS)[:6])
    rows = list(csv.DictReader((tmp_path / "headers.csv").read_text().splitlines()))
    manifest = list(csv.DictReader((tmp_path / "manifest.csv").read_text().splitlines()))
    for row, line in zip(rows, manifest, strict=True):
        header = open_file(tmp_path / row["path_xml"]).header()
        assert {name: str(value) for name, value in vars(header).items()} == {
            field.name: row[field.name] for field in fields(Header)
        }
        assert (header.patient_id, header.age_years) == (line["patient_id"], float(line["age"]))
        assert header.sex == ("F" if line["sex"] == "1" else "M")


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_sentinels_and_texts_are_no_measurement(name):
    texts = ["", " ", None, "*", "Failed", "65535", "32767", "-32768", "nan", "inf", "1_0", "7 2"]
    assert [measurement(name, text) for text in texts] == [None] * len(texts)
    assert [measurement(name, text, "s") for text in ("65535", "x")] == [None, None]


@pytest.mark.parametrize(("name", "limits"), RANGES.items())
def test_a_measurement_is_plausible(name, limits):
    low, high = limits
    assert [measurement(name, f"{value}") for value in limits] == list(limits)
    assert measurement(name, f"{low - 1}") is measurement(name, f"{high + 1}") is None
    is_axis = name.endswith("_deg")
    assert [measurement(name, text) for text in ("0", "-1")] == ([0, -1] if is_axis else [None] * 2)
    assert measurement(name, " 120.5 ") == 120.5


@pytest.mark.parametrize(
    ("name", "text", "unit", "expected"),
    [
        ("qt_ms", "0.412", "s", 412),
        ("qt_ms", "412000", "us", 412),
        ("qt_ms", "412", "", 412),
        ("qt_ms", "412", "mV", None),
        ("qt_ms", "412", "bpm", None),
        ("heart_rate_bpm", "72", "{beats}/min", 72),
        ("heart_rate_bpm", "72", " BPM ", 72),
        ("heart_rate_bpm", "52", "bmp", None),
        ("t_axis_deg", "1", "rad", 57.29578),
        ("t_axis_deg", "-30", "degrees", -30),
    ],
)
def test_units_are_converted_or_refused(name, text, unit, expected):
    assert measurement(name, text, unit) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("03-04-2019", "2019-03-04"),
        ("2019-03-04", "2019-03-04"),
        ("13-04-2019", ""),  # a day cannot be first
        ("02-30-2019", ""),
        ("03/04/2019", ""),  # written in either order
        ("04-MAR-2019", "2019-03-04"),
        ("4-mar-2019", "2019-03-04"),
        ("31-FEB-2019", ""),
        ("04-MÄR-2019", ""),
        ("03-04-19", ""),
        ("XX-XX-XXXX", ""),
        ("03-04-1899", "1899-03-04"),  # a birth
        ("03-04-1849", ""),
        ("03-04-2101", ""),
        ("01-01-1900", ""),  # filled in for no date
        ("12-30-1899", ""),
        ("00-00-0000", ""),
        ("٠٣-٠٤-٢٠١٩", ""),
        (None, ""),
    ],
)
def test_dates_of_muse(text, expected):
    assert us_date(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20190304081500", "2019-03-04T08:15:00"),
        ("20190304081500.000", "2019-03-04T08:15:00"),
        ("20190304081500.2500+0100", "2019-03-04T08:15:00.25+01:00"),
        ("201903040815-0530", "2019-03-04T08:15-05:30"),
        ("2019-03-04T08:15:00.00", "2019-03-04T08:15:00"),
        ("2019-03-04T08:15:00+01:00", "2019-03-04T08:15:00+01:00"),
        ("2019-03-04T08:15:00Z", "2019-03-04T08:15:00Z"),
        ("2019-03-04T08:15:00-03", "2019-03-04T08:15:00-03:00"),
        ("20190304081500+05", "2019-03-04T08:15:00+05:00"),
        ("2019-03-04 08:15:00 +0100", "2019-03-04T08:15:00+01:00"),
        ("2019-03-04T08:15:00+1500", "2019-03-04"),  # no such zone
        ("20190304", "2019-03-04"),
        ("20190304+0100", "2019-03-04"),
        ("2019-03-04", "2019-03-04"),
        ("2019030408", "2019-03-04"),
        ("20190304246000", "2019-03-04"),
        ("201903", ""),
        ("20190230081500", ""),
        ("18990304081500", ""),
        ("", ""),
        ("432432", ""),
    ],
)
def test_times_of_hl7_and_iso(text, expected):
    assert timestamp(text) == expected


def test_a_time_of_day_is_iso_or_nothing():
    given = ["8:15", "08:15:00", "081500", "08:15:00.120", "24:00:00", "08:60", "8:15 PM", "", None]
    expected = ["08:15", "08:15:00", "08:15:00", "08:15:00.12", "", "", "", "", ""]
    assert [clock_time(text) for text in given] == expected
    assert moment("2019-03-04", "") == "2019-03-04"
    assert moment("", "08:15") == moment("1899-03-04", "08:15") == ""
    assert date_of("2019", "3", "4") == iso_date("20190304") == "2019-03-04"
    assert date_of("2019", "", "4") == date_of("2019", "3", None) == ""


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("60", "YEARS", 60),
        ("60.9", "years", 60),
        ("18", "MONTHS", 1.5),
        ("23", "mo", 1.92),
        ("30", "months", 2),
        ("6", "WEEKS", 0.11),
        ("10", "d", 0.03),
        ("12", "Hours", 0),
        ("0", "YEARS", 0),
        ("131", "YEARS", None),
        ("-1", "YEARS", None),
        ("60", "", None),
        ("60", "m", None),
        ("*", "YEARS", None),
    ],
)
def test_stated_ages_become_years(text, unit, expected):
    assert stated_age(text, unit) == expected


@pytest.mark.parametrize(
    ("stated", "birth", "acquired", "expected"),
    [
        (60.0, "1900-02-01", "2019-03-04", 60),
        (None, "1950-03-04", "2019-03-04T08:15:00", 69),
        (None, "1950-03-05", "2019-03-04", 68),
        (None, "1952-02-29", "2019-02-28", 66),
        (None, "2019-03-04", "2019-03-04", 0),
        (None, "2018-09-04", "2019-03-04", 0.5),
        (None, "2017-03-05", "2019-03-04", 1.99),
        (None, "2019-03-05", "2019-03-04", None),
        (None, "1893-01-01", "1987-06-05", 94),
        (None, "1880-01-01", "2019-03-04", None),
        (None, "", "2019-03-04", None),
        (None, "1950-03-04", "", None),
        (0.0, "1950-03-04", "2019-03-04", 69),
        (0.0, "", "2019-03-04", 0),
    ],
)
def test_an_age_is_stated_or_from_birth(stated, birth, acquired, expected):
    assert age_years(stated, birth, acquired) == expected


def test_ids_and_sexes_are_those_of_the_file():
    ids = [" 007 ", "\ufeff12 ", "\u00a0A-1\u200b", "---", "?", "UNK", "n/a", "", None, "Ä 1"]
    assert [identifier(text) for text in ids] == ["007", "12", "A-1", *[""] * 6, "Ä 1"]
    on_two_lines = ["7\n8", "7 \r\n\t8", "\t7\x7f8\n", "7  8"]
    assert [identifier(text) for text in on_two_lines] == ["7 8", "7 8", "7 8", "7  8"]
    sexes = ["F", "female", "FEMALE", "M", " Male ", "UN", "U", "1", "", None]
    assert [sex_of(text) for text in sexes] == [*"FFFMM", *[""] * 5]


DIGITS = st.text(alphabet="0123456789:.-+TZ ٤²e_", max_size=24)


@given(st.one_of(st.text(), DIGITS), st.one_of(st.none(), st.text(), DIGITS))
def test_any_text_gives_a_plausible_value_or_none(text, other):
    birth, at = us_date(text), timestamp(other)
    header = Header(
        patient_id=identifier(text),
        acquired_at=timestamp(text) or moment(iso_date(text), clock_time(other)),
        age_years=age_years(stated_age(text, other or "years"), birth or date_in(text), at),
        sex=sex_of(text),
        **{name: measurement(name, text, other) for name in MEASUREMENTS},
    )
    assert_plausible(header)
    assert date_of(text, other, text) == ""


def test_muse_takes_the_confirmed_measurements():
    original = "<OriginalRestingECGMeasurements><PRInterval>150</PRInterval></Original"
    original += "RestingECGMeasurements>"
    confirmed = "<RestingECGMeasurements><QTInterval>400</QTInterval></RestingECGMeasurements>"
    both = header_of(f"<RestingECG>{original}{confirmed}</RestingECG>")
    assert (both.pr_ms, both.qt_ms) == (None, 400)
    assert header_of(f"<RestingECG>{original}</RestingECG>").pr_ms == 150


def test_muse_without_a_date_or_an_age_unit():
    masked = header_of(
        "<RestingECG><PatientDemographics><PatientID>\ufeff 12\u00a0</PatientID>"
        "<PatientAge>11</PatientAge><DateofBirth>03-05-1950</DateofBirth></PatientDemographics>"
        "<TestDemographics><AcquisitionDate>XX-XX-XXXX</AcquisitionDate>"
        "<AcquisitionTime>08:15:00</AcquisitionTime></TestDemographics></RestingECG>"
    )
    assert (masked.patient_id, masked.acquired_at, masked.age_years) == ("12", "", None)


AECG = (
    '<AnnotatedECG{ns}><effectiveTime><low value="20190304"/></effectiveTime>'
    "<componentOf>{event}<subjectAssignment><subject><trialSubject><id root='1.2'/>"
    "<subjectDemographicPerson><administrativeGenderCode code='F'/><birthTime value='19500304'/>"
    "</subjectDemographicPerson></trialSubject></subject></subjectAssignment>{end}</componentOf>"
    "<component><series><code code='RHYTHM'/><effectiveTime><low value='20190304081500+0100'/>"
    "</effectiveTime>{sets}</series></component></AnnotatedECG>"
)
EVENT = ("<timepointEvent><componentOf>", "</componentOf></timepointEvent>")
ROI = "<support><supportingROI><component><boundary><code code='MDC_ECG_LEAD_V2'/></boundary>"
ROI += "</component></supportingROI></support>"


def annotation(code: str, value: str, unit: str = "ms", inside: str = "") -> str:
    quantity = f"<value value='{value}' unit='{unit}'/>"
    return (
        f"<component><annotation><code code='{code}'/>{quantity}{inside}</annotation></component>"
    )


def annotated(*annotations: str, author: str = "") -> str:
    found = "".join(annotations)
    return f"<subjectOf><annotationSet>{author}{found}</annotationSet></subjectOf>"


def aecg_header(sets: str, ns: str = "", event: tuple[str, str] = ("", "")) -> Header:
    return header_of(AECG.format(ns=ns, event=event[0], end=event[1], sets=sets))


@pytest.mark.parametrize("ns", ["", ' xmlns="urn:hl7-org:v3"', ' xmlns="urn:hl7-org:v2"'])
@pytest.mark.parametrize("event", [EVENT, ("", "")])
def test_aecg_with_any_namespace_and_with_or_without_an_event(ns, event):
    header = aecg_header(annotated(annotation("mdc_ecg_time_pd_Pr", "0.16", "s")), ns, event)
    assert (header.patient_id, header.sex, header.age_years) == ("", "F", 69)
    assert header.acquired_at == "2019-03-04T08:15:00+01:00"  # the only one with a time
    assert header.pr_ms == 160


def test_aecg_measurements_are_those_of_the_whole_recording():
    beat = annotation("MDC_ECG_TIME_PD_QT", "333")
    header = aecg_header(
        annotated(
            f"<component><annotation><code code='MDC_ECG_BEAT'/>{beat}</annotation></component>",
            annotation("MDC_ECG_TIME_PD_QRS", "88", inside=ROI),
            annotation("MDC_ECG_TIME_PD_PR", "160"),
            annotation("MDC_ECG_TIME_PD_PR", "170"),  # which of the two?
            annotation("MDC_ECG_TIME_PD_QTc", "410", inside=annotation("X_QTcH", "430")),
            annotation("MDC_ECG_TIME_PD_QTcF", "405"),
            annotation("MDC_ECG_HEART_RATE_GL", "72", "/min"),
            annotation("MDC_ECG_ANGLE_QRS_FRONT", "0", "deg"),
        )
    )
    expected = (72, None, None, None, 410, None, 0, None)
    assert tuple(getattr(header, name) for name in MEASUREMENTS) == expected


def test_aecg_prefers_a_person_the_rhythm_and_bazett():
    person = "<author><assignedEntity><assignedAuthorType><assignedPerson/></assignedAuthorType>"
    person += "</assignedEntity></author>"
    derived = annotated(
        annotation("MDC_ECG_TIME_PD_QT", "390"), annotation("MDC_ECG_TIME_PD_PR", "1")
    )
    header = aecg_header(
        annotated(
            annotation("MDC_ECG_TIME_PD_QTc", "410"),
            annotation("MDC_ECG_RHY", "", inside=annotation("MDC_ECG_TIME_PD_QTcB", "420")),
            annotation("MDC_ECG_TIME_PD_QRS", "90"),
        )
        + annotated(annotation("MDC_ECG_TIME_PD_QRS", "104"), author=person)
        + f"<derivation><derivedSeries>{derived}</derivedSeries></derivation>"
    )
    assert (header.qtc_ms, header.qrs_ms, header.qt_ms, header.pr_ms) == (420, 104, 390, None)


def test_cardiosoft_ages_and_units():
    text = (
        "<CardiologyXML><PatientInfo><PID> 7 </PID><Age{unit}>18</Age></PatientInfo>"
        "<ObservationDateTime><Hour>8</Hour><Minute>5</Minute><Day>4</Day><Month>3</Month>"
        "<Year>2019</Year></ObservationDateTime><RestingECGMeasurements>"
        '<PQInterval units="s">0.16</PQInterval><QTInterval units="x">400</QTInterval>'
        "<QRSDuration>90</QRSDuration></RestingECGMeasurements></CardiologyXML>"
    )
    header = header_of(text.format(unit=' units="Months"'))
    assert (header.patient_id, header.age_years) == ("7", 1.5)
    assert header.acquired_at == "2019-03-04"  # a time without seconds is not whole
    assert (header.pr_ms, header.qt_ms, header.qrs_ms) == (160, None, 90)
    assert header_of(text.format(unit="")).age_years == 18


@pytest.mark.parametrize("ns", ["", ' xmlns="http://www3.medical.philips.com"'])
def test_philips_takes_what_a_reader_of_the_ecg_left(ns):
    header = header_of(
        f"<restingecgdata{ns}><patient><generalpatientdata><patientid>---</patientid><MRN>12</MRN>"
        '<age defaultage="50"><years>0</years><months>5</months></age><sex>female</sex>'
        "</generalpatientdata></patient><internalmeasurements><crossleadmeasurements>"
        "<meanprint>160</meanprint><meanqrsdur>90</meanqrsdur></crossleadmeasurements>"
        "</internalmeasurements><interpretations><interpretation><globalmeasurements>"
        "<print/><pfrontaxis>Indeterminate</pfrontaxis></globalmeasurements></interpretation>"
        "</interpretations></restingecgdata>"
    )
    assert (header.patient_id, header.age_years, header.sex) == ("12", 0.42, "F")
    assert (header.pr_ms, header.qrs_ms, header.p_axis_deg) == (None, 90, None)
    assert header.acquired_at == ""


def test_sapphire_of_both_versions():
    patient = (
        '<patientInfo><identifier><id V="7"/></identifier><gender V="M"/><visit><patientData>'
        '<patientAge V="18" U="mo"/></patientData></visit></patientInfo>'
        '<testInfo><acquisitionDateTime V="2025-05-09T12:22:49.00"/></testInfo>'
    )
    values = '<QT_Interval V="400" U="ms"/><QT_Corrected V="411" U="ms"/><P_Axis V="*" U="deg"/>'
    newer = f'<num><global>{values}<qtcBazettCorrection V="420" U="ms"/></global></num>'
    older = f"<measurements><global>{values}</global></measurements>"
    for version, inner, qtc_ms in (("sapphire_3", newer, 420), ("dcar_1", older, 411)):
        header = header_of(
            f'<sapphire xmlns="urn:ge:sapphire:{version}"><a>{patient}</a><b><medianTemplate>'
            f"{inner}</medianTemplate></b></sapphire>"
        )
        assert (header.patient_id, header.age_years, header.sex) == ("7", 1.5, "M")
        assert header.acquired_at == "2025-05-09T12:22:49"
        assert (header.qt_ms, header.qtc_ms, header.p_axis_deg) == (400, qtc_ms, None)


def test_schiller_with_dashes_for_what_was_not_measured():
    root = "com.xiriuz.sema.xml.schillerEDI.SchillerEDI"
    header = header_of(
        f"<{root}><patdata><id>7</id><birthdate>19500304</birthdate></patdata><examdescript>"
        "<startdatetime><date>20190304</date><time>081500</time></startdatetime></examdescript>"
        "<eventdata><event><annotation_global><name>HR</name><value>72</value></annotation_global>"
        "<annotation_global><name>PQ</name><value>-</value><name>QRS</name><value>90</value>"
        f"</annotation_global></event></eventdata></{root}>"
    )
    assert (header.acquired_at, header.age_years) == ("2019-03-04T08:15:00", 69)
    assert (header.heart_rate_bpm, header.pr_ms, header.qrs_ms) == (72, None, 90)


@pytest.mark.parametrize("dialect", WRITERS)
def test_an_empty_document_has_an_empty_header(uv, dialect):
    root = parse_file(WRITERS[dialect](uv[:, :500], 500, "A1")).root
    assert (
        parse_file(f'<x:{root.tag.rpartition("}")[2]} xmlns:x="y"/>'.encode()).header() == Header()
    )
