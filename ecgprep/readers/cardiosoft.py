"""GE CardioSoft / CASE `CardiologyXML`, resting ECG (also UK Biobank field 20205).

    element                                       meaning                        required   accepted
    CardiologyXML/StripData                       the rhythm strip               yes        exactly one (RestingECGMeasurements/MedianSamples
                                                                                            has the same children: never read)
      NumberOfLeads                               count of WaveformData          no         the count found
      SampleRate@units                            rate                           yes        Hz
      ChannelSampleCountTotal                     samples of each lead           no         the count found
      Resolution@units                            µV of one count                yes        uVperLsb
      WaveformData@lead                           samples                        yes        comma-separated integers, any white space

µV = count x Resolution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError, describe
from ecgprep.leads import canonical_lead
from ecgprep.readers.fields import count, number, parse_numbers, same_count, text_of
from ecgprep.recording import Recording
from ecgprep.xmldoor import Element

DIALECT = "cardiosoft"


def read(root: Element) -> Recording:
    """Read the rhythm strip. Raises RecordError with a named reason for anything the table above does not allow."""
    strips = [strip for strip in root.findall("StripData") if strip.find("WaveformData") is not None]
    if not strips:
        raise RecordError("no_rhythm", "no StripData with waveforms (median samples are not read in its place)")
    if len(strips) > 1:
        raise RecordError("bad_waveform", f"{len(strips)} StripData elements with waveforms; which one is meant is not said")
    strip = strips[0]
    rate_hz = _quantity(strip, "SampleRate", "hz", "bad_rate")
    uv_per_count = _quantity(strip, "Resolution", "uvperlsb", "bad_units")
    waveforms = strip.findall("WaveformData")
    same_count(len(waveforms), count(text_of(strip, "NumberOfLeads"), "NumberOfLeads"), "leads of StripData")
    declared = count(text_of(strip, "ChannelSampleCountTotal"), "ChannelSampleCountTotal")
    leads: dict[str, NDArray[np.float64]] = {}
    for waveform in waveforms:
        name = canonical_lead(waveform.get("lead") or "")
        if name in leads:
            raise RecordError("bad_waveform", f"lead {name} is stored twice")
        if name is not None:
            leads[name] = parse_numbers(waveform.text, ",", f"lead {name}") * uv_per_count
            same_count(len(leads[name]), declared, f"lead {name}, samples")
    return Recording(leads, rate_hz, DIALECT)


def _quantity(strip: Element, tag: str, unit: str, reason: str) -> float:
    """Read a positive number whose unit attribute must be the one that the format defines."""
    element = strip.find(tag)
    found = None if element is None else element.get("units")
    if found is None or found.strip().lower() != unit:
        raise RecordError(reason, f"{tag} must be given in {unit}; found {describe(found)}")
    value = number(text_of(strip, tag), tag, reason)
    if value <= 0:
        raise RecordError(reason, f"{tag} must be above 0; found {value:g}")
    return value
