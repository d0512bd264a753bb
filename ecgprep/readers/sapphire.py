"""GE "sapphire" DCAR `sapphire` (MAC 800 and other MAC carts).

The namespace may be any, such as urn:ge:sapphire:dcar_1.

    element                        meaning                    required  accepted
    …/ecg/wav/ecgWaveformMXG       the rhythm                 yes       exactly one below a `wav`
      sampleRate@V, @U             rate                       yes, no   a number; Hz (default), kHz
      @S, @U                       amplitude of a count       yes       above 0; nV, uV (µV), mV
      @INV                         count that means "none"    no        such samples become NaN
      ecgWaveform                  one lead                   yes
        @lead, or @label           name                       yes       standard names, any case
        @S, @U, @INV               as above, for this lead    no        as above
        @asizeVT                   samples                    no        the count found
        @V                         samples                    yes       integers separated by blanks

µV = count x S x unit. The ecgWaveformMXG below medianTemplate holds mean beats and is never read.
"""

from __future__ import annotations

import numpy as np

from ecgprep.header import Header
from ecgprep.readers.fields import (
    Microvolts,
    check_count,
    collect_leads,
    exactly_one,
    number,
    parse_numbers,
    positive,
    unit_factor,
)
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "sapphire"
UV_PER_UNIT = {"nV": 1e-3, "uV": 1.0, "µV": 1.0, "μV": 1.0, "mV": 1e3}
HZ_PER_UNIT = {"Hz": 1.0, "kHz": 1e3}


def read(root: Element) -> Recording:
    """Read the rhythm. Raises RecordError for anything that the table above does not allow."""
    groups = [group for wav in root.iter("{*}wav") for group in wav.findall("{*}ecgWaveformMXG")]
    group = exactly_one(groups, "ecgWaveformMXG below wav", "median templates")
    rate_hz = _rate_hz(group)

    def lead_uv(waveform: Element, name: str) -> Microvolts:
        return _lead_uv(waveform, group, name)

    labelled = [
        (waveform.get("lead") or waveform.get("label"), waveform)
        for waveform in group.findall("{*}ecgWaveform")
    ]
    return Recording(collect_leads(labelled, lead_uv), rate_hz, DIALECT)


def _rate_hz(group: Element) -> float:
    rate = group.find("{*}sampleRate")
    unit = None if rate is None else (rate.get("U") or "Hz").strip()
    hz = unit_factor(unit, HZ_PER_UNIT, "the unit of sampleRate", "bad_rate")
    value = None if rate is None else rate.get("V")
    return number(value, "sampleRate", "bad_rate") * hz


def _lead_uv(waveform: Element, group: Element, name: str) -> Microvolts:
    """Decode one lead; an attribute that it lacks is taken from the group."""
    unit = _attribute("U", waveform, group)
    scale = _attribute("S", waveform, group)
    missing = _attribute("INV", waveform, group)
    stripped = None if unit is None else unit.strip()
    uv = unit_factor(stripped, UV_PER_UNIT, f"lead {name}: unit", "bad_units")
    uv_per_count = positive(scale, f"lead {name}: S", "bad_units") * uv
    counts = parse_numbers(waveform.get("V"), " ", f"lead {name}")
    check_count(len(counts), waveform.get("asizeVT"), "asizeVT", f"lead {name}, samples")
    if missing is not None:
        counts[counts == number(missing, f"lead {name}: INV", "bad_waveform")] = np.nan
    return counts * uv_per_count


def _attribute(key: str, waveform: Element, group: Element) -> str | None:
    text: str | None = waveform.get(key) or group.get(key)
    return text


def read_header(root: Element) -> Header:
    """Read the header."""
    return Header()
