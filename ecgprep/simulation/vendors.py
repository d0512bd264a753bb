"""Write 12-lead signals as vendor XML, after the vendors' files and independently of the readers.

Every writer takes `uv`, (12, n) whole µV in the order of TWELVE_LEADS, the sampling rate, and a code that stands in the invented
demographic fields, which are there to be dropped by whoever reads the file.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from ecgprep.leads import TWELVE_LEADS
from ecgprep.simulation.philips import philips

MUSE_UV_PER_COUNT = 4.88


CARDIOSOFT_UV_PER_COUNT = 5


EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


Signal = NDArray[np.int64]


def muse(uv: Signal, rate_hz: int, code: str, leads: Sequence[str] = EIGHT) -> bytes:
    """GE MUSE: a median and a rhythm waveform, Base64 counts of 4.88 µV, checksums, ISO-8859-1."""
    code = escape(code)
    body = "".join(
        _muse_waveform(
            kind, uv if kind == "Rhythm" else uv[:, : int(1.2 * rate_hz)], rate_hz, leads
        )
        for kind in ("Median", "Rhythm")
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n<RestingECG>\n'
        f"<PatientDemographics><PatientID>{code}</PatientID><PatientLastName>Synthétique {code}</PatientLastName></PatientDemographics>\n"
        "<TestDemographics><DataType>RESTING</DataType><AcquisitionDate>01-01-2000</AcquisitionDate></TestDemographics>\n"
        f"{body}</RestingECG>\n"
    ).encode("iso-8859-1")


def _muse_waveform(kind: str, uv: Signal, rate_hz: int, leads: Sequence[str]) -> str:
    parts = [
        f"<Waveform>\n<WaveformType>{kind}</WaveformType>\n<NumberofLeads>{len(leads)}</NumberofLeads>\n"
        f"<SampleType>CONTINUOUS_SAMPLES</SampleType>\n<SampleBase>{rate_hz}</SampleBase>\n<SampleExponent>0</SampleExponent>\n"
    ]
    for lead in leads:
        data = np.rint(uv[TWELVE_LEADS.index(lead)] / MUSE_UV_PER_COUNT).astype("<i2").tobytes()
        parts.append(
            f"<LeadData>\n<LeadByteCountTotal>{len(data)}</LeadByteCountTotal>\n<LeadTimeOffset>0</LeadTimeOffset>\n"
            f"<LeadSampleCountTotal>{len(data) // 2}</LeadSampleCountTotal>\n"
            f"<LeadAmplitudeUnitsPerBit>{MUSE_UV_PER_COUNT}</LeadAmplitudeUnitsPerBit>\n<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>\n"
            f"<LeadID>{lead}</LeadID>\n<FirstSampleBaseline>0</FirstSampleBaseline>\n"
            f"<LeadSampleSize>2</LeadSampleSize>\n<LeadDataCRC32>{zlib.crc32(data)}</LeadDataCRC32>\n"
            f"<WaveFormData>\n{base64.encodebytes(data).decode()}</WaveFormData>\n</LeadData>\n"
        )
    return "".join(parts) + "</Waveform>\n"


def aecg(uv: Signal, rate_hz: int, code: str, leads: Sequence[str] = TWELVE_LEADS) -> bytes:
    """HL7 aECG: decimal digits of 1 µV, UTF-8."""
    sequences = "".join(
        f'<component><sequence><code code="MDC_ECG_LEAD_{lead.upper()}" codeSystem="2.16.840.1.113883.6.24"/><value xsi:type="SLIST_PQ">'
        f'<origin value="0" unit="uV"/><scale value="1" unit="uV"/><digits>{" ".join(map(str, uv[TWELVE_LEADS.index(lead)].tolist()))}</digits>'
        "</value></sequence></component>\n"
        for lead in leads
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
        f'<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject><id extension="{escape(code)}"/></trialSubject>'
        "</subject></subjectAssignment></componentOf></timepointEvent></componentOf>\n"
        '<component><series><code code="RHYTHM" codeSystem="2.16.840.1.113883.5.4"/><component><sequenceSet>\n'
        '<component><sequence><code code="TIME_ABSOLUTE" codeSystem="2.16.840.1.113883.5.4"/><value xsi:type="GLIST_TS">'
        f'<head value="20000101000000.000"/><increment value="{1 / rate_hz:g}" unit="s"/></value></sequence></component>\n'
        f"{sequences}</sequenceSet></component></series></component>\n</AnnotatedECG>\n"
    ).encode()


def cardiosoft(uv: Signal, rate_hz: int, code: str, leads: Sequence[str] = TWELVE_LEADS) -> bytes:
    """GE CardioSoft: comma-separated counts of 5 µV, ISO-8859-1, with median samples that a reader must not take."""
    counts = np.rint(uv / CARDIOSOFT_UV_PER_COUNT).astype(int)
    head = (
        f'<NumberOfLeads>{len(leads)}</NumberOfLeads><SampleRate units="Hz">{rate_hz}</SampleRate>'
    )
    resolution = f'<Resolution units="uVperLsb">{CARDIOSOFT_UV_PER_COUNT}</Resolution>'
    data = "".join(
        f'<WaveformData lead="{lead}">\n{_comma_lines(counts[TWELVE_LEADS.index(lead)])}\n</WaveformData>\n'
        for lead in leads
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<CardiologyXML>\n<ObservationType>RestECG</ObservationType>\n'
        f"<PatientInfo><PID>{escape(code)}</PID><Name><FamilyName>Müller {escape(code)}</FamilyName></Name></PatientInfo>\n"
        f"<RestingECGMeasurements><MedianSamples>{head}<ChannelSampleCountTotal>4</ChannelSampleCountTotal>{resolution}"
        '<WaveformData lead="I">1,2,3,4</WaveformData></MedianSamples></RestingECGMeasurements>\n'
        f"<StripData>{head}<ChannelSampleCountTotal>{uv.shape[1]}</ChannelSampleCountTotal>{resolution}\n{data}</StripData>\n</CardiologyXML>\n"
    ).encode("iso-8859-1")


def _comma_lines(counts: Signal) -> str:
    return ",\n".join(
        "\t\t" + ",".join(map(str, row.tolist()))
        for row in np.array_split(counts, max(1, len(counts) // 20))
    )


def full_disclosure(uv: Signal, rate_hz: int, code: str) -> bytes:
    """GE CardioSoft without a strip: blocks of one second, lead after lead, of as many whole seconds as there are."""
    seconds = uv.shape[1] // rate_hz
    counts = np.rint(uv[:, : seconds * rate_hz] / CARDIOSOFT_UV_PER_COUNT).astype(int)
    blocks = counts.reshape(len(TWELVE_LEADS), seconds, rate_hz).transpose(1, 0, 2).ravel()
    return (
        '<?xml version="1.0" encoding="ISO8859-1"?>\n<CardiologyXML>\n<ObservationType>RestECG</ObservationType>\n'
        f"<PatientInfo><PID>{escape(code)}</PID></PatientInfo>\n<FullDisclosure><NumberOfChannels>{len(TWELVE_LEADS)}</NumberOfChannels>"
        f'<SampleRate units="Hz">{rate_hz}</SampleRate><Resolution units="uVperLsb">{CARDIOSOFT_UV_PER_COUNT}</Resolution>'
        f"<LeadOrder>{','.join(TWELVE_LEADS)}</LeadOrder>\n<FullDisclosureData>{_comma_lines(blocks)}</FullDisclosureData></FullDisclosure>\n"
        "</CardiologyXML>\n"
    ).encode("iso-8859-1")


def schiller(uv: Signal, rate_hz: int, code: str) -> bytes:
    """Schiller SEMA: averages first, then rhythms, 1 µV, upper-case lead names, a UTF-8 mark and doubled line breaks."""

    def wavedata(kind: str, signal: Signal) -> str:
        channels = "".join(
            f"<channel><annotation_lead><name>P</name></annotation_lead><name>{lead.upper()}</name><datastype>COMMASEPARATE</datastype>"
            f"<samplecount>{len(row)}</samplecount><data>{','.join(map(str, row.tolist()))}</data></channel>\n\n"
            for lead, row in zip(TWELVE_LEADS, signal, strict=True)
        )
        return (
            f"<wavedata><type>{kind}</type><resolution><samplerate><exponent>1</exponent><value>{rate_hz}</value></samplerate>"
            f"<yres><unitperbit>1.0</unitperbit><units>UV</units></yres></resolution>\n\n{channels}</wavedata>\n\n"
        )

    root = "com.xiriuz.sema.xml.schillerEDI.SchillerEDI"
    return (
        f'\ufeff<?xml version="1.0" encoding="UTF-8"?>\n\n<{root}>\n\n<patdata><id>{escape(code)}</id><lastname>Müller</lastname></patdata>\n\n'
        f"<eventdata><event>{wavedata('ECG_AVERAGES', uv[:, :580])}{wavedata('ECG_RHYTHMS', uv)}</event></eventdata>\n\n</{root}>\n"
    ).encode()


def sapphire(uv: Signal, rate_hz: int, code: str) -> bytes:
    """GE "sapphire" DCAR: counts of 4.88 µV as text in attributes, and a median template that a reader must not take."""

    def group(signal: Signal) -> str:
        waveforms = "".join(
            f'<ecgWaveform lead="{lead}" label="{lead}" asizeVT="{len(row)}" VT="xs:short" V="{" ".join(map(str, row.tolist()))}"/>\n'
            for lead, row in zip(TWELVE_LEADS, signal, strict=True)
        )
        return f'<ecgWaveformMXG U="uV" S="{MUSE_UV_PER_COUNT}" INV="-32768"><sampleRate V="{rate_hz}" U="Hz"/>\n{waveforms}</ecgWaveformMXG>'

    counts = np.rint(uv / MUSE_UV_PER_COUNT).astype(int)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<sapphire xmlns="urn:ge:sapphire:dcar_1"><dcarRecord><patientInfo>'
        f'<identifier><id V="{escape(code)}"/></identifier>'
        "<visit><order><ecgResting><params><ecg>"
        f"<var><medianTemplate>{group(counts[:, :600])}</medianTemplate></var><wav>{group(counts)}</wav>"
        "</ecg></params></ecgResting></order></visit></patientInfo></dcarRecord></sapphire>\n"
    ).encode()


VENDORS: dict[str, Callable[[Signal, int, str], bytes]] = {
    "muse": muse,
    "aecg": aecg,
    "cardiosoft": cardiosoft,
    "philips": philips,
    "schiller": schiller,
    "sapphire": sapphire,
}
"""Dialect -> writer."""
