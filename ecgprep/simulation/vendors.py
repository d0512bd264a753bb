"""Write 12-lead signals as vendor XML, modelled on the vendors' files, not on the readers.

Every writer takes `uv`, (12, n) whole µV in the order of TWELVE_LEADS, the sampling rate, a code,
and a header. The code is in the invented demographic fields, the patient's id among them, and so is
what the header says; a reader of the waveform must drop all of it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from html import escape
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecgprep.header import Header
from ecgprep.leads import LEADS, TWELVE_LEADS
from ecgprep.simulation.header_texts import (
    aecg_annotations,
    cardiosoft_measurements,
    cardiosoft_patient,
    muse_header,
    sapphire_measurements,
    schiller_measurements,
)
from ecgprep.simulation.headers import EXAMPLE, acquired, year_of_birth
from ecgprep.simulation.mortara import mortara
from ecgprep.simulation.philips import philips

MUSE_UV_PER_COUNT = 4.88
CARDIOSOFT_UV_PER_COUNT = 5

Signal = NDArray[np.int64]

_LATIN_1 = '<?xml version="1.0" encoding="ISO-8859-1"?>\n'
_UTF_8 = '<?xml version="1.0" encoding="UTF-8"?>\n'


def _of(uv: Signal, lead: str) -> Signal:
    samples: Signal = uv[TWELVE_LEADS.index(lead)]
    return samples


def _joined(separator: str, numbers: NDArray[np.int64]) -> str:
    return separator.join(map(str, numbers.tolist()))


def muse(
    uv: Signal,
    rate_hz: int,
    code: str,
    leads: Sequence[str] = LEADS,
    header: Header = EXAMPLE,
) -> bytes:
    """Write GE MUSE: a median and a rhythm waveform in Base64, checksums, ISO-8859-1."""
    code = escape(code)
    median = _muse_waveform("Median", uv[:, : int(1.2 * rate_hz)], rate_hz, leads)
    rhythm = _muse_waveform("Rhythm", uv, rate_hz, leads)
    return (
        f'{_LATIN_1}<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n<RestingECG>\n'
        f"{muse_header(header, code)}{median}{rhythm}</RestingECG>\n"
    ).encode("iso-8859-1")


def _muse_waveform(kind: str, uv: Signal, rate_hz: int, leads: Sequence[str]) -> str:
    lead_data = "".join(_muse_lead(lead, _of(uv, lead)) for lead in leads)
    return (
        f"<Waveform>\n<WaveformType>{kind}</WaveformType>\n"
        f"<NumberofLeads>{len(leads)}</NumberofLeads>\n"
        "<SampleType>CONTINUOUS_SAMPLES</SampleType>\n"
        f"<SampleBase>{rate_hz}</SampleBase>\n<SampleExponent>0</SampleExponent>\n"
        f"{lead_data}</Waveform>\n"
    )


def _muse_lead(lead: str, uv: Signal) -> str:
    data = np.rint(uv / MUSE_UV_PER_COUNT).astype("<i2").tobytes()
    return (
        f"<LeadData>\n<LeadByteCountTotal>{len(data)}</LeadByteCountTotal>\n"
        "<LeadTimeOffset>0</LeadTimeOffset>\n"
        f"<LeadSampleCountTotal>{len(data) // 2}</LeadSampleCountTotal>\n"
        f"<LeadAmplitudeUnitsPerBit>{MUSE_UV_PER_COUNT}</LeadAmplitudeUnitsPerBit>\n"
        "<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>\n"
        f"<LeadID>{lead}</LeadID>\n<FirstSampleBaseline>0</FirstSampleBaseline>\n"
        "<LeadSampleSize>2</LeadSampleSize>\n"
        f"<LeadDataCRC32>{zlib.crc32(data)}</LeadDataCRC32>\n"
        f"<WaveFormData>\n{base64.encodebytes(data).decode()}</WaveFormData>\n</LeadData>\n"
    )


def aecg(
    uv: Signal,
    rate_hz: int,
    code: str,
    leads: Sequence[str] = TWELVE_LEADS,
    header: Header = EXAMPLE,
) -> bytes:
    """Write HL7 aECG: digits of 1 µV, UTF-8."""
    sequences = "".join(_aecg_sequence(lead, _of(uv, lead)) for lead in leads)
    at = f"{acquired(header):%Y%m%d%H%M%S}"
    return (
        f'{_UTF_8}<AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
        f'<effectiveTime><low value="{at}"/></effectiveTime>\n'
        "<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject>"
        f'<id extension="{escape(code)}"/><subjectDemographicPerson><name>{escape(code)}</name>'
        f'<administrativeGenderCode code="{header.sex}"/>'
        f'<birthTime value="{year_of_birth(header)}0101"/></subjectDemographicPerson>'
        "</trialSubject></subject></subjectAssignment></componentOf>"
        "</timepointEvent></componentOf>\n"
        '<component><series><code code="RHYTHM" codeSystem="2.16.840.1.113883.5.4"/>'
        "<component><sequenceSet>\n"
        '<component><sequence><code code="TIME_ABSOLUTE" codeSystem="2.16.840.1.113883.5.4"/>'
        f'<value xsi:type="GLIST_TS"><head value="{at}.000"/>'
        f'<increment value="{1 / rate_hz:g}" unit="s"/></value></sequence></component>\n'
        f"{sequences}</sequenceSet></component>\n{aecg_annotations(header)}"
        "</series></component>\n</AnnotatedECG>\n"
    ).encode()


def _aecg_sequence(lead: str, uv: Signal) -> str:
    return (
        f'<component><sequence><code code="MDC_ECG_LEAD_{lead.upper()}" '
        'codeSystem="2.16.840.1.113883.6.24"/><value xsi:type="SLIST_PQ">'
        '<origin value="0" unit="uV"/><scale value="1" unit="uV"/>'
        f"<digits>{_joined(' ', uv)}</digits></value></sequence></component>\n"
    )


def cardiosoft(
    uv: Signal,
    rate_hz: int,
    code: str,
    leads: Sequence[str] = TWELVE_LEADS,
    header: Header = EXAMPLE,
) -> bytes:
    """Write GE CardioSoft: comma-separated counts of 5 µV, ISO-8859-1.

    Median samples come first; a reader must not take them.
    """
    code = escape(code)
    counts = np.rint(uv / CARDIOSOFT_UV_PER_COUNT).astype(int)
    n_leads_and_rate = (
        f'<NumberOfLeads>{len(leads)}</NumberOfLeads><SampleRate units="Hz">{rate_hz}</SampleRate>'
    )
    resolution = f'<Resolution units="uVperLsb">{CARDIOSOFT_UV_PER_COUNT}</Resolution>'
    waveforms = "".join(_cardiosoft_lead(lead, _of(counts, lead)) for lead in leads)
    return (
        f"{_LATIN_1}<CardiologyXML>\n<ObservationType>RestECG</ObservationType>\n"
        f"{cardiosoft_patient(header, code)}"
        f"<RestingECGMeasurements>{cardiosoft_measurements(header)}"
        f"<MedianSamples>{n_leads_and_rate}"
        f"<ChannelSampleCountTotal>4</ChannelSampleCountTotal>{resolution}"
        '<WaveformData lead="I">1,2,3,4</WaveformData></MedianSamples></RestingECGMeasurements>\n'
        f"<StripData>{n_leads_and_rate}"
        f"<ChannelSampleCountTotal>{uv.shape[1]}</ChannelSampleCountTotal>{resolution}\n"
        f"{waveforms}</StripData>\n</CardiologyXML>\n"
    ).encode("iso-8859-1")


def _cardiosoft_lead(lead: str, counts: Signal) -> str:
    return f'<WaveformData lead="{lead}">\n{_comma_lines(counts)}\n</WaveformData>\n'


def _comma_lines(counts: Signal) -> str:
    """Join with commas in lines of about 20 numbers, each indented."""
    rows = np.array_split(counts, max(1, len(counts) // 20))
    return ",\n".join("\t\t" + _joined(",", row) for row in rows)


def full_disclosure(uv: Signal, rate_hz: int, code: str, header: Header = EXAMPLE) -> bytes:
    """Write GE CardioSoft without a strip: blocks of one second, lead after lead.

    A last second that is not whole is left out.
    """
    n_leads = len(TWELVE_LEADS)
    n_seconds = uv.shape[1] // rate_hz
    counts = np.rint(uv[:, : n_seconds * rate_hz] / CARDIOSOFT_UV_PER_COUNT).astype(int)
    blocks = counts.reshape(n_leads, n_seconds, rate_hz).transpose(1, 0, 2).ravel()
    return (
        '<?xml version="1.0" encoding="ISO8859-1"?>\n<CardiologyXML>\n'
        "<ObservationType>RestECG</ObservationType>\n"
        f"{cardiosoft_patient(header, escape(code))}"
        f"<FullDisclosure><NumberOfChannels>{n_leads}</NumberOfChannels>"
        f'<SampleRate units="Hz">{rate_hz}</SampleRate>'
        f'<Resolution units="uVperLsb">{CARDIOSOFT_UV_PER_COUNT}</Resolution>'
        f"<LeadOrder>{','.join(TWELVE_LEADS)}</LeadOrder>\n"
        f"<FullDisclosureData>{_comma_lines(blocks)}</FullDisclosureData></FullDisclosure>\n"
        "</CardiologyXML>\n"
    ).encode("iso-8859-1")


def schiller(uv: Signal, rate_hz: int, code: str, header: Header = EXAMPLE) -> bytes:
    """Write Schiller SEMA: averages first, then rhythms of 1 µV.

    Lead names are in upper case; there are a UTF-8 mark and doubled line breaks.
    """
    root = "com.xiriuz.sema.xml.schillerEDI.SchillerEDI"
    averages = _schiller_wavedata("ECG_AVERAGES", uv[:, :580], rate_hz)
    rhythms = _schiller_wavedata("ECG_RHYTHMS", uv, rate_hz)
    at = acquired(header)
    return (
        f"\ufeff{_UTF_8}\n<{root}>\n\n"
        f"<patdata><id>{escape(code)}</id><lastname>Müller</lastname>"
        f"<birthdate>{year_of_birth(header)}0101</birthdate>"
        f"<gender>{'FEMALE' if header.sex == 'F' else 'MALE'}</gender></patdata>\n\n"
        f"<examdescript><startdatetime><date>{at:%Y%m%d}</date><time>{at:%H%M%S}</time>"
        "</startdatetime></examdescript>\n\n"
        f"<eventdata><event>{averages}{rhythms}{schiller_measurements(header)}</event></eventdata>"
        f"\n\n</{root}>\n"
    ).encode()


def _schiller_wavedata(kind: str, uv: Signal, rate_hz: int) -> str:
    channels = "".join(_schiller_channel(lead, _of(uv, lead)) for lead in TWELVE_LEADS)
    return (
        f"<wavedata><type>{kind}</type><resolution><samplerate><exponent>1</exponent>"
        f"<value>{rate_hz}</value></samplerate><yres><unitperbit>1.0</unitperbit>"
        f"<units>UV</units></yres></resolution>\n\n{channels}</wavedata>\n\n"
    )


def _schiller_channel(lead: str, uv: Signal) -> str:
    return (
        "<channel><annotation_lead><name>P</name></annotation_lead>"
        f"<name>{lead.upper()}</name><datastype>COMMASEPARATE</datastype>"
        f"<samplecount>{len(uv)}</samplecount><data>{_joined(',', uv)}</data></channel>\n\n"
    )


def sapphire(uv: Signal, rate_hz: int, code: str, header: Header = EXAMPLE) -> bytes:
    """Write GE "sapphire" DCAR: counts of 4.88 µV as text in attributes.

    A median template comes first; a reader must not take it.
    """
    counts = np.rint(uv / MUSE_UV_PER_COUNT).astype(int)
    median, rhythm = _sapphire_group(counts[:, :600], rate_hz), _sapphire_group(counts, rate_hz)
    return (
        f'{_UTF_8}<sapphire xmlns="urn:ge:sapphire:dcar_1"><dcarRecord><patientInfo>'
        f'<identifier><id V="{escape(code)}"/></identifier>'
        f'<birthDateTime V="{year_of_birth(header)}-01-01"/><gender V="{header.sex}"/>'
        f'<visit><patientData><patientAge V="{header.age_years:g}" U="a"/></patientData><order>'
        f'<testInfo><acquisitionDateTime V="{header.acquired_at}"/></testInfo>'
        "<ecgResting><params><ecg>"
        f"<var><medianTemplate>{sapphire_measurements(header)}{median}</medianTemplate></var>"
        f"<wav>{rhythm}</wav>"
        "</ecg></params></ecgResting></order></visit></patientInfo></dcarRecord></sapphire>\n"
    ).encode()


def _sapphire_group(counts: Signal, rate_hz: int) -> str:
    waveforms = "".join(_sapphire_waveform(lead, _of(counts, lead)) for lead in TWELVE_LEADS)
    return (
        f'<ecgWaveformMXG U="uV" S="{MUSE_UV_PER_COUNT}" INV="-32768">'
        f'<sampleRate V="{rate_hz}" U="Hz"/>\n{waveforms}</ecgWaveformMXG>'
    )


def _sapphire_waveform(lead: str, counts: Signal) -> str:
    return (
        f'<ecgWaveform lead="{lead}" label="{lead}" asizeVT="{len(counts)}" VT="xs:short" '
        f'V="{_joined(" ", counts)}"/>\n'
    )


class Writer(Protocol):
    """Writes one recording as a vendor file."""

    def __call__(
        self, uv: Signal, rate_hz: int, code: str, /, *, header: Header = EXAMPLE
    ) -> bytes:
        """Return the file's bytes."""


VENDORS: dict[str, Writer] = {
    "muse": muse,
    "aecg": aecg,
    "cardiosoft": cardiosoft,
    "philips": philips,
    "schiller": schiller,
    "sapphire": sapphire,
    "mortara": mortara,
}
"""Dialect -> writer."""
