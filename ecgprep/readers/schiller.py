"""Schiller SEMA `com.xiriuz.sema.xml.schillerEDI.SchillerEDI`.

    element                                          meaning                   required   accepted
    eventdata/event/wavedata                         waveforms of one kind     yes        exactly one of type ECG_RHYTHMS (ECG_AVERAGES are
                                                                                          mean beats: never read)
      type (child or attribute)                      kind                      yes        ECG_RHYTHMS
      resolution/samplerate/value, exponent          rate, Hz                  yes, no    a number; exponent 1 or 0 or absent
      resolution/yres/unitperbit, units              amplitude of a count      yes        UV, MV, NV
      channel/name                                   lead                      yes        standard names, any case
      channel/datastype                              encoding                  no         COMMASEPARATE
      channel/samplecount                            samples                   no         the count found
      channel/data                                   samples                   yes        comma-separated integers, any white space

µV = count x unitperbit x unit. `exponent` is 1 in the only vendor file that is public; what another would mean is not known, so it is refused.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError, describe
from ecgprep.readers.fields import collect_leads, count, number, parse_numbers, same_count, text_of
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "schiller"
UV_PER_UNIT = {"NV": 1e-3, "UV": 1.0, "MV": 1e3}


def read(root: Element) -> Recording:
    """Read the rhythm. Raises RecordError with a named reason for anything the table above does not allow."""
    wavedata = _rhythm(root)
    rate = wavedata.find("{*}resolution/{*}samplerate")
    scale = wavedata.find("{*}resolution/{*}yres")
    if rate is None or count(text_of(rate, "{*}exponent"), "samplerate/exponent") not in (
        None,
        0,
        1,
    ):
        raise RecordError("bad_rate", "samplerate must be given, with exponent 1")
    rate_hz = number(text_of(rate, "{*}value"), "samplerate/value", "bad_rate")
    unit = "" if scale is None else (text_of(scale, "{*}units") or "").upper()
    if scale is None or unit not in UV_PER_UNIT:
        raise RecordError(
            "bad_units",
            f"yres/units must be one of {', '.join(UV_PER_UNIT)}; found {describe(unit)}",
        )
    uv_per_count = (
        number(text_of(scale, "{*}unitperbit"), "yres/unitperbit", "bad_units") * UV_PER_UNIT[unit]
    )
    if uv_per_count <= 0:
        raise RecordError("bad_units", "yres/unitperbit must be above 0")
    channels = (
        (text_of(channel, "{*}name"), channel) for channel in wavedata.findall("{*}channel")
    )  # annotations below have names too
    return Recording(
        collect_leads(channels, lambda channel, name: _counts(channel, name) * uv_per_count),
        rate_hz,
        DIALECT,
    )


def _rhythm(root: Element) -> Element:
    found = []
    for wavedata in root.findall("{*}eventdata/{*}event/{*}wavedata"):
        kind = wavedata.get("type") or text_of(wavedata, "{*}type") or ""
        if kind.strip().upper() == "ECG_RHYTHMS":
            found.append(wavedata)
    if not found:
        raise RecordError(
            "no_rhythm", "no wavedata of type ECG_RHYTHMS (averages are not read in its place)"
        )
    if len(found) > 1:
        raise RecordError(
            "bad_waveform",
            f"{len(found)} wavedata of type ECG_RHYTHMS; which one is meant is not said",
        )
    return found[0]


def _counts(channel: Element, name: str) -> NDArray[np.float64]:
    encoding = text_of(channel, "{*}datastype")
    if encoding is not None and encoding.upper() != "COMMASEPARATE":
        raise RecordError(
            "bad_waveform",
            f"lead {name}: datastype must be COMMASEPARATE; found {describe(encoding)}",
        )
    values = parse_numbers(channel.findtext("{*}data"), ",", f"lead {name}")
    same_count(
        len(values),
        count(text_of(channel, "{*}samplecount"), "samplecount"),
        f"lead {name}, samples",
    )
    return values
