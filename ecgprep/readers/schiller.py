"""Schiller SEMA `com.xiriuz.sema.xml.schillerEDI.SchillerEDI`.

    element                              meaning                required  accepted
    eventdata/event/wavedata             waveforms of one kind  yes       exactly one of ECG_RHYTHMS
      type (child or attribute)          kind                   yes       ECG_RHYTHMS
      resolution/samplerate/value        rate, Hz               yes       a number
      resolution/samplerate/exponent                            no        1 or 0
      resolution/yres/unitperbit, units  amplitude of a count   yes       above 0; NV, UV, MV
      channel/name                       lead                   yes       standard names, any case
      channel/datastype                  encoding               no        COMMASEPARATE
      channel/samplecount                samples                no        the count found
      channel/data                       samples                yes       integers, comma-separated

µV = count x unitperbit x unit. Wavedata of type ECG_AVERAGES are mean beats and are never read.
`exponent` is 1 in the only vendor file that is public. What another value would mean is not known,
so it is refused.
"""

from __future__ import annotations

from ecgprep.errors import RecordError, describe
from ecgprep.header import Header
from ecgprep.readers.fields import (
    Microvolts,
    check_count,
    collect_leads,
    count,
    exactly_one,
    number,
    parse_numbers,
    positive,
    text_of,
    unit_factor,
)
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "schiller"
UV_PER_UNIT = {"NV": 1e-3, "UV": 1.0, "MV": 1e3}


def read(root: Element) -> Recording:
    """Read the rhythm. Raises RecordError for anything that the table above does not allow."""
    wavedata = _rhythm(root)
    rate_hz = _rate_hz(wavedata)
    uv_per_count = _uv_per_count(wavedata)

    def lead_uv(channel: Element, name: str) -> Microvolts:
        return _counts(channel, name) * uv_per_count

    channels = wavedata.findall("{*}channel")
    # The name of the channel itself: annotations below it have names, too.
    labelled = [(text_of(channel, "{*}name"), channel) for channel in channels]
    return Recording(collect_leads(labelled, lead_uv), rate_hz, DIALECT)


def _rhythm(root: Element) -> Element:
    rhythms = []
    for wavedata in root.findall("{*}eventdata/{*}event/{*}wavedata"):
        kind = wavedata.get("type") or text_of(wavedata, "{*}type") or ""
        if kind.strip().upper() == "ECG_RHYTHMS":
            rhythms.append(wavedata)
    return exactly_one(rhythms, "wavedata of type ECG_RHYTHMS", "averages")


def _rate_hz(wavedata: Element) -> float:
    rate = wavedata.find("{*}resolution/{*}samplerate")
    if rate is None:
        raise RecordError("bad_rate", "samplerate is missing; it must be given")
    exponent = count(text_of(rate, "{*}exponent"), "samplerate/exponent")
    if exponent not in (None, 0, 1):
        raise RecordError("bad_rate", "samplerate/exponent must be 0 or 1")
    return number(text_of(rate, "{*}value"), "samplerate/value", "bad_rate")


def _uv_per_count(wavedata: Element) -> float:
    scale = wavedata.find("{*}resolution/{*}yres")
    if scale is None:
        raise RecordError("bad_units", "yres is missing; it must be given")
    unit = (text_of(scale, "{*}units") or "").upper()
    uv = unit_factor(unit, UV_PER_UNIT, "yres/units", "bad_units")
    return positive(text_of(scale, "{*}unitperbit"), "yres/unitperbit", "bad_units") * uv


def _counts(channel: Element, name: str) -> Microvolts:
    encoding = text_of(channel, "{*}datastype")
    if encoding is not None and encoding.upper() != "COMMASEPARATE":
        raise RecordError(
            "bad_waveform",
            f"lead {name}: datastype must be COMMASEPARATE; found {describe(encoding)}",
        )
    counts = parse_numbers(channel.findtext("{*}data"), ",", f"lead {name}")
    declared = text_of(channel, "{*}samplecount")
    check_count(len(counts), declared, "samplecount", f"lead {name}, samples")
    return counts


def read_header(root: Element) -> Header:
    """Read the header."""
    return Header()
