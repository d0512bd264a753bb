"""GE "sapphire" DCAR `sapphire` (MAC 800 and other MAC carts; any namespace, such as urn:ge:sapphire:dcar_1).

    element                                          meaning                  required   accepted
    …/ecg/wav/ecgWaveformMXG                         the rhythm               yes        exactly one below a `wav` (that below medianTemplate
                                                                                         holds mean beats: never read)
      sampleRate@V, @U                               rate                     yes, no    a number; Hz (default) or kHz
      @S, @U                                         amplitude of a count     yes        a number above 0; uV, mV (also at each lead)
      @INV                                           count that means "none"  no         such samples become NaN (also at each lead)
      ecgWaveform@lead (or @label)                   lead                     yes        standard names, any case
      ecgWaveform@asizeVT                            samples                  no         the count found
      ecgWaveform@V                                  samples                  yes        integers separated by white space

µV = count x S x unit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError, describe
from ecgprep.readers.fields import collect_leads, count, number, parse_numbers, same_count
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "sapphire"
UV_PER_UNIT = {"nV": 1e-3, "uV": 1.0, "µV": 1.0, "μV": 1.0, "mV": 1e3}
HZ_PER_UNIT = {"Hz": 1.0, "kHz": 1e3}


def read(root: Element) -> Recording:
    """Read the rhythm. Raises RecordError with a named reason for anything the table above does not allow."""
    groups = [group for wav in root.iter("{*}wav") for group in wav.findall("{*}ecgWaveformMXG")]
    if not groups:
        raise RecordError(
            "no_rhythm", "no ecgWaveformMXG below wav (a median template is not read in its place)"
        )
    if len(groups) > 1:
        raise RecordError(
            "bad_waveform",
            f"{len(groups)} ecgWaveformMXG below wav; which one is meant is not said",
        )
    group = groups[0]
    rate = group.find("{*}sampleRate")
    unit = "Hz" if rate is None else (rate.get("U") or "Hz").strip()
    if rate is None or unit not in HZ_PER_UNIT:
        raise RecordError(
            "bad_rate",
            f"sampleRate must be given in Hz or kHz; found {describe(None if rate is None else unit)}",
        )
    rate_hz = number(rate.get("V"), "sampleRate", "bad_rate") * HZ_PER_UNIT[unit]
    waveforms = (
        (waveform.get("lead") or waveform.get("label"), waveform)
        for waveform in group.findall("{*}ecgWaveform")
    )
    return Recording(
        collect_leads(waveforms, lambda waveform, name: _lead_uv(waveform, group, name)),
        rate_hz,
        DIALECT,
    )


def _lead_uv(waveform: Element, group: Element, name: str) -> NDArray[np.float64]:
    scale, unit, missing = (waveform.get(key) or group.get(key) for key in ("S", "U", "INV"))
    if unit is None or unit.strip() not in UV_PER_UNIT:
        raise RecordError(
            "bad_units", f"lead {name}: unit must be uV, mV or nV; found {describe(unit)}"
        )
    uv_per_count = number(scale, f"lead {name}: S", "bad_units") * UV_PER_UNIT[unit.strip()]
    if uv_per_count <= 0:
        raise RecordError("bad_units", f"lead {name}: S must be above 0")
    counts = parse_numbers(waveform.get("V"), " ", f"lead {name}")
    same_count(len(counts), count(waveform.get("asizeVT"), "asizeVT"), f"lead {name}, samples")
    if missing is not None:
        counts[counts == number(missing, f"lead {name}: INV", "bad_waveform")] = np.nan
    return counts * uv_per_count
