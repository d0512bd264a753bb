"""GE MUSE `RestingECG` (also exported by MAC carts and Optima EMS).

    element                           meaning                  required  accepted
    RestingECG/Waveform               one waveform             yes       exactly one of type Rhythm
      WaveformType                    kind                     yes       Rhythm
      NumberofLeads                   count of LeadData        no        the count found
      SampleType                                               no        CONTINUOUS_SAMPLES
      SampleBase, SampleExponent      base x 10^exponent, Hz   yes, no   numbers; exponent default 0
      LeadData                        one lead
        LeadID                        name                     yes       standard names, any case
        LeadAmplitudeUnitsPerBit      gain                     yes       finite, not 0
        LeadAmplitudeUnits            unit of the gain         yes       MICROVOLTS, MILLIVOLTS,
                                                                         VOLTS
        FirstSampleBaseline           counts at 0 µV           no        a number; default 0
        LeadSampleSize                bytes of a sample        no        2
        LeadSampleCountTotal          samples                  no        the count found
        LeadByteCountTotal            bytes                    no        the count found
        LeadTimeOffset                start of the lead        no        the same for all leads
        LeadOffsetFirstSample         start of the lead        no        the same for all leads
        LeadOff                       electrode was off        no        TRUE sets a quality flag
        BaselineSway                  baseline swayed          no        TRUE is shown by `read`
        LeadDataCRC32                 CRC-32 of the bytes      no        equal; 0 means not set
        WaveFormData                  Base64                   no        little-endian signed 16-bit

µV = (count - FirstSampleBaseline) x gain x unit. Gain, unit and baseline are those of the lead.
A lead without WaveFormData is a missing lead. Waveforms of type Median are mean beats and are never
read.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError, describe
from ecgprep.header import Header
from ecgprep.leads import LEADS, canonical_lead
from ecgprep.readers.fields import (
    CONTRADICTION,
    check_count,
    collect_leads,
    count,
    decode_base64,
    exactly_one,
    fields_of,
    number,
    text_of,
    unit_factor,
)
from ecgprep.readers.header_fields import (
    age_years,
    child,
    clock_time,
    identifier,
    measurements,
    moment,
    sex_of,
    stated_age,
    texts_of,
    us_date,
)
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "muse"
UV_PER_UNIT = {"MICROVOLTS": 1.0, "MILLIVOLTS": 1e3, "VOLTS": 1e6}
START_TAGS = ("LeadTimeOffset", "LeadOffsetFirstSample")


def read(root: Element) -> Recording:
    """Read the rhythm. Raises RecordError for anything that the table above does not allow."""
    waveform = _rhythm(root)
    rate_hz = _rate_hz(waveform)
    parts = [fields_of(part) for part in waveform.findall("LeadData")]
    declared = text_of(waveform, "NumberofLeads")
    check_count(len(parts), declared, "NumberofLeads", "leads of the rhythm waveform")
    start = _start(parts)

    def lead_uv(part: dict[str, str], name: str) -> NDArray[np.float64]:
        return _lead_uv(part, name, start)

    leads = collect_leads([(part.get("LeadID"), part) for part in parts], lead_uv)
    return Recording(
        leads.uv,
        rate_hz,
        DIALECT,
        lead_off=_flagged(parts, "LeadOff"),
        baseline_sway=_flagged(parts, "BaselineSway"),
        unknown_leads=leads.unknown,
        notes=leads.notes,
    )


def _rhythm(root: Element) -> Element:
    """Find the rhythm waveform by its type, never by its position: vendors put the median first."""
    rhythms = []
    for waveform in root.findall("Waveform"):
        kind = text_of(waveform, "WaveformType") or ""
        if kind.lower() == "rhythm":
            rhythms.append(waveform)
    rhythm = exactly_one(rhythms, "waveform of type Rhythm", "median beats")
    samples = text_of(rhythm, "SampleType")
    if samples is not None and samples.upper() != "CONTINUOUS_SAMPLES":
        raise RecordError(
            "bad_waveform", f"SampleType must be CONTINUOUS_SAMPLES; found {describe(samples)}"
        )
    return rhythm


def _rate_hz(waveform: Element) -> float:
    exponent = count(text_of(waveform, "SampleExponent"), "SampleExponent") or 0
    if abs(exponent) > 6:
        raise RecordError("bad_rate", f"SampleExponent is {exponent}; -6 to 6 is allowed")
    base = number(text_of(waveform, "SampleBase"), "SampleBase", "bad_rate")
    return base * 10.0**exponent


def _start(parts: list[dict[str, str]]) -> dict[str, str | None]:
    """Return the fields that say when the first stored lead starts."""
    stored = (part for part in parts if canonical_lead(part.get("LeadID", "")) in LEADS)
    first = next(stored, {})
    return {tag: first.get(tag) for tag in START_TAGS}


def _check_start(part: dict[str, str], name: str, start: dict[str, str | None]) -> None:
    """Refuse a lead that starts at another time than the first. An absent field means 0."""
    for tag, text in start.items():
        own = part.get(tag)
        if own == text:
            continue
        if (count(own, tag) or 0) != (count(text, tag) or 0):
            raise RecordError(
                "bad_waveform", f"lead {name}: the leads start at different times ({tag} differs)"
            )


def _flagged(parts: list[dict[str, str]], tag: str) -> frozenset[str]:
    """Name the leads of which the cart says that `tag` is true."""
    flagged = [part for part in parts if tag in part and part[tag].strip().upper() == "TRUE"]
    names = {canonical_lead(part.get("LeadID", "")) for part in flagged}
    return frozenset(name for name in names if name is not None)


def _lead_uv(part: dict[str, str], name: str, start: dict[str, str | None]) -> NDArray[np.float64]:
    """Decode one lead: Base64 -> [low byte, high byte] per sample -> counts -> µV."""
    if CONTRADICTION in part:
        raise RecordError(
            "bad_waveform", f"lead {name} states one of its properties twice, differently"
        )
    data = _decode(part, name)
    if not data:
        return np.empty(0)
    _check_start(part, name, start)
    uv_per_count = _uv_per_count(part, name)
    baseline_text = part.get("FirstSampleBaseline", "").strip() or "0"
    baseline = number(baseline_text, f"lead {name}: FirstSampleBaseline", "bad_waveform")
    counts = np.frombuffer(data, "<i2")
    if baseline:
        counts = np.subtract(counts, baseline, dtype=np.float64)
    uv: NDArray[np.float64] = np.multiply(counts, uv_per_count, dtype=np.float64)
    return uv


def _decode(part: dict[str, str], name: str) -> bytes:
    """Return the bytes of one lead, once they match every count and checksum that the file has.

    Without WaveFormData there is nothing to match: the lead is empty.
    """
    sample_size = count(part.get("LeadSampleSize"), "LeadSampleSize")
    if sample_size not in (None, 2):
        raise RecordError(
            "bad_waveform", f"lead {name}: LeadSampleSize is {sample_size}; 2 bytes are read"
        )
    data = decode_base64(part.get("WaveFormData"), f"lead {name}: WaveFormData")
    if not data:
        return data
    if len(data) % 2:
        raise RecordError(
            "bad_waveform",
            f"lead {name}: WaveFormData holds {len(data)} bytes, "
            "not a whole number of 16-bit samples",
        )
    _check_crc(data, part.get("LeadDataCRC32"), name)
    n_bytes, n_samples = part.get("LeadByteCountTotal"), part.get("LeadSampleCountTotal")
    check_count(len(data), n_bytes, "LeadByteCountTotal", f"lead {name}, bytes")
    check_count(len(data) // 2, n_samples, "LeadSampleCountTotal", f"lead {name}, samples")
    return data


def _uv_per_count(part: dict[str, str], name: str) -> float:
    unit = part.get("LeadAmplitudeUnits", "").strip().upper()
    uv = unit_factor(unit, UV_PER_UNIT, f"lead {name}: LeadAmplitudeUnits", "bad_units")
    gain_text = part.get("LeadAmplitudeUnitsPerBit")
    gain = number(gain_text, f"lead {name}: LeadAmplitudeUnitsPerBit", "bad_units")
    if gain == 0:
        raise RecordError("bad_units", f"lead {name}: LeadAmplitudeUnitsPerBit is 0")
    return gain * uv


def _check_crc(data: bytes, declared: str | None, name: str) -> None:
    """Compare with the CRC-32 (ISO 3309) that every vendor export carries; 0 means not set.

    Some writers store it as a signed number.
    """
    stated = (declared or "").strip() or "0"
    if stated.isdecimal() and len(stated) < 16:
        crc = int(stated)
    else:
        crc = int(number(stated, f"lead {name}: LeadDataCRC32", "bad_checksum"))
    if crc and crc & 0xFFFFFFFF != zlib.crc32(data):
        raise RecordError(
            "bad_checksum",
            f"lead {name}: the data do not match LeadDataCRC32; the file was damaged or edited",
        )


PATIENT_TAGS = ("PatientID", "PatientAge", "AgeUnits", "DateofBirth", "Gender")
MEASUREMENT_TAGS = (
    "VentricularRate",
    "PRInterval",
    "QRSDuration",
    "QTInterval",
    "QTCorrected",
    "PAxis",
    "RAxis",
    "TAxis",
)
"""In the order of MEASUREMENTS."""


def read_header(root: Element) -> Header:
    """Read who, when and what the cart measured; never raises.

        element                           meaning             unit, or accepted
        PatientDemographics/PatientID     patient
          PatientAge, AgeUnits            age                 YEARS, MONTHS, WEEKS, DAYS, HOURS
          DateofBirth                     age, if not above   MM-DD-YYYY, DD-MMM-YYYY
          Gender                          sex                 MALE, FEMALE
        TestDemographics/AcquisitionDate  day                 the same; `XX-XX-XXXX` is masked
          AcquisitionTime                 time                HH:MM:SS
        RestingECGMeasurements            as confirmed
          VentricularRate                 rate                bpm
          PRInterval, QRSDuration         PR, QRS             ms
          QTInterval, QTCorrected         QT, QTc (Bazett)    ms
          PAxis, RAxis, TAxis             axes                degrees

    OriginalRestingECGMeasurements are what the cart had printed before an edit. They are read only
    where there are no others. 0, -1, 32767 and 65535 mean "not measured".
    """
    patient = texts_of(child(root, "PatientDemographics"), PATIENT_TAGS)
    test = texts_of(child(root, "TestDemographics"), ("AcquisitionDate", "AcquisitionTime"))
    acquired_at = moment(
        us_date(test.get("AcquisitionDate")), clock_time(test.get("AcquisitionTime"))
    )
    stated = stated_age(patient.get("PatientAge"), patient.get("AgeUnits"))
    measured = child(root, "RestingECGMeasurements")
    if measured is None:
        measured = child(root, "OriginalRestingECGMeasurements")
    texts = texts_of(measured, MEASUREMENT_TAGS)
    return Header(
        patient_id=identifier(patient.get("PatientID")),
        acquired_at=acquired_at,
        age_years=age_years(stated, us_date(patient.get("DateofBirth")), acquired_at),
        sex=sex_of(patient.get("Gender")),
        **measurements(map(texts.get, MEASUREMENT_TAGS)),
    )
