"""GE MUSE `RestingECG` (also exported by MAC carts and Optima EMS).

    element                                       meaning                        required   accepted
    RestingECG/Waveform                           one waveform                   yes        exactly one of type Rhythm
      WaveformType                                kind                           yes        Rhythm (Median is a mean beat: never read)
      NumberofLeads                               count of LeadData              no         the count found
      SampleType                                                                 no         CONTINUOUS_SAMPLES
      SampleBase, SampleExponent                  rate = base x 10^exponent, Hz  yes, no    numbers; exponent defaults to 0
      LeadData/LeadID                             lead name                      yes        standard names, any case
      LeadData/LeadAmplitudeUnitsPerBit           gain                           yes        finite, not 0; per lead
      LeadData/LeadAmplitudeUnits                 unit of the gain               yes        MICROVOLTS, MILLIVOLTS, VOLTS; per lead
      LeadData/FirstSampleBaseline                counts at 0 µV                 no         a number; defaults to 0
      LeadData/LeadSampleSize                     bytes a sample                 no         2
      LeadData/LeadSampleCountTotal, LeadByteCountTotal                          no         what the data hold
      LeadData/LeadTimeOffset, LeadOffsetFirstSample                             no         the same for all leads
      LeadData/LeadOff                            the electrode was off          no         TRUE becomes a quality flag, all else nothing
      LeadData/LeadDataCRC32                      CRC-32 of the decoded bytes    no         equal; 0 = not set
      LeadData/WaveFormData                       Base64                         yes        little-endian signed 16-bit

µV = (count - FirstSampleBaseline) x gain x unit.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError, describe
from ecgprep.leads import canonical_lead
from ecgprep.readers.fields import (
    collect_leads,
    count,
    decode_base64,
    fields_of,
    number,
    same_count,
    text_of,
)
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "muse"
UV_PER_UNIT = {"MICROVOLTS": 1.0, "MILLIVOLTS": 1e3, "VOLTS": 1e6}


def read(root: Element) -> Recording:
    """Read the rhythm waveform. Raises RecordError with a named reason for anything the table above does not allow."""
    waveform = _rhythm(root)
    exponent = count(text_of(waveform, "SampleExponent"), "SampleExponent") or 0
    if abs(exponent) > 6:
        raise RecordError("bad_rate", f"SampleExponent is {exponent}; -6 to 6 is allowed")
    rate_hz = number(text_of(waveform, "SampleBase"), "SampleBase", "bad_rate") * 10.0**exponent
    parts = [fields_of(part) for part in waveform.findall("LeadData")]
    same_count(
        len(parts),
        count(text_of(waveform, "NumberofLeads"), "NumberofLeads"),
        "leads of the rhythm waveform",
    )
    for tag in ("LeadTimeOffset", "LeadOffsetFirstSample"):
        stated = {part.get(tag) for part in parts}
        if len(stated) > 1 and len({count(text, tag) or 0 for text in stated}) > 1:
            raise RecordError("bad_waveform", f"leads start at different times ({tag} differs)")
    off = frozenset(
        canonical_lead(part.get("LeadID", "")) or ""
        for part in parts
        if part.get("LeadOff", "").strip().upper() == "TRUE"
    )
    return Recording(
        collect_leads(((part.get("LeadID"), part) for part in parts), _lead_uv),
        rate_hz,
        DIALECT,
        off,
    )


def _rhythm(root: Element) -> Element:
    """Find the rhythm waveform by its type, never by its position: vendors put the median first."""
    found = [
        w
        for w in root.findall("Waveform")
        if (text_of(w, "WaveformType") or "").lower() == "rhythm"
    ]
    if not found:
        raise RecordError(
            "no_rhythm", "no waveform of type Rhythm (a median beat is not read in its place)"
        )
    if len(found) > 1:
        raise RecordError(
            "bad_waveform", f"{len(found)} waveforms of type Rhythm; which one is meant is not said"
        )
    kind = text_of(found[0], "SampleType")
    if kind is not None and kind.upper() != "CONTINUOUS_SAMPLES":
        raise RecordError(
            "bad_waveform", f"SampleType must be CONTINUOUS_SAMPLES; found {describe(kind)}"
        )
    return found[0]


def _lead_uv(part: dict[str, str], name: str) -> NDArray[np.float64]:
    """Decode one lead: Base64 -> [low byte, high byte] per sample -> counts -> µV."""
    size = count(part.get("LeadSampleSize"), "LeadSampleSize")
    if size not in (None, 2):
        raise RecordError(
            "bad_waveform", f"lead {name}: LeadSampleSize is {size}; 2 bytes are read"
        )
    data = _decode(part.get("WaveFormData"), name)
    _check_crc(data, part.get("LeadDataCRC32"), name)
    same_count(
        len(data),
        count(part.get("LeadByteCountTotal"), "LeadByteCountTotal"),
        f"lead {name}, bytes",
    )
    same_count(
        len(data) // 2,
        count(part.get("LeadSampleCountTotal"), "LeadSampleCountTotal"),
        f"lead {name}, samples",
    )
    unit = part.get("LeadAmplitudeUnits", "").strip().upper()
    if unit not in UV_PER_UNIT:
        raise RecordError(
            "bad_units",
            f"lead {name}: LeadAmplitudeUnits must be one of {', '.join(UV_PER_UNIT)}; found {describe(unit)}",
        )
    gain = number(
        part.get("LeadAmplitudeUnitsPerBit"), f"lead {name}: LeadAmplitudeUnitsPerBit", "bad_units"
    )
    if gain == 0:
        raise RecordError("bad_units", f"lead {name}: LeadAmplitudeUnitsPerBit is 0")
    baseline = number(
        part.get("FirstSampleBaseline", "").strip() or "0",
        f"lead {name}: FirstSampleBaseline",
        "bad_waveform",
    )
    counts = np.frombuffer(data, "<i2").astype(np.float64)
    if baseline:
        counts -= baseline
    counts *= gain * UV_PER_UNIT[unit]
    return counts


def _decode(text: str | None, name: str) -> bytes:
    data = decode_base64(text, f"lead {name}: WaveFormData")
    if not data or len(data) % 2:
        raise RecordError(
            "bad_waveform",
            f"lead {name}: WaveFormData holds {len(data)} bytes, not a whole number of 16-bit samples",
        )
    return data


def _check_crc(data: bytes, declared: str | None, name: str) -> None:
    """Compare with CRC-32 (ISO 3309), which every vendor export carries; some writers store it as a signed number."""
    stated = (declared or "0").strip() or "0"
    crc = (
        int(stated)
        if stated.isdecimal() and len(stated) < 16
        else int(number(stated, f"lead {name}: LeadDataCRC32", "bad_checksum"))
    )
    if crc and crc & 0xFFFFFFFF != zlib.crc32(data):
        raise RecordError(
            "bad_checksum",
            f"lead {name}: the data do not match LeadDataCRC32; the file was damaged or edited",
        )
