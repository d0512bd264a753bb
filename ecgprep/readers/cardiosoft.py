"""GE CardioSoft / CASE `CardiologyXML`, resting and exercise (also UK Biobank fields 20205 and 6025).

    element                                       meaning                        required   accepted
    CardiologyXML/StripData, or StripData/Strip   the rhythm strip               or below   exactly one with WaveformData (MedianSamples and
                                                                                            MedianData have the same children: never read)
      NumberOfLeads                               count of WaveformData          no         the count found
      SampleRate@units                            rate                           yes        Hz
      ChannelSampleCountTotal                     samples of each lead           no         the count found
      Resolution@units                            µV of one count                yes        uVperLsb
      WaveformData@lead                           samples                        yes        comma-separated integers, any white space
    CardiologyXML/FullDisclosure                  all that was recorded          or above   read only where there is no strip
      NumberOfChannels, LeadOrder                 leads                          no, yes    the count found; standard names, commas
      SampleRate@units, Resolution@units          as above                       yes        Hz; uVperLsb
      FullDisclosureData                          samples                        yes        blocks of one second, lead after lead

µV = count x Resolution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError, describe
from ecgprep.readers.fields import collect_leads, count, number, parse_numbers, same_count, text_of
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "cardiosoft"


def read(root: Element) -> Recording:
    """Read the rhythm strip, else the full disclosure. Raises RecordError with a named reason for anything the table does not allow."""
    holders = [*root.findall("StripData"), *root.findall("StripData/Strip")]
    strips = [strip for strip in holders if strip.find("WaveformData") is not None]
    disclosures = [
        one for one in root.findall("FullDisclosure") if one.find("FullDisclosureData") is not None
    ]
    if len(strips) > 1 or (not strips and len(disclosures) > 1):
        raise RecordError(
            "bad_waveform",
            f"{max(len(strips), len(disclosures))} rhythm strips; which one is meant is not said",
        )
    if strips:
        return _read_strip(strips[0], root)
    if disclosures:
        return _read_disclosure(disclosures[0])
    raise RecordError(
        "no_rhythm",
        "neither StripData nor FullDisclosure holds waveforms (median samples are not read in their place)",
    )


def _read_strip(strip: Element, root: Element) -> Recording:
    """Read one lead after another; what a nested Strip does not say stands in StripData."""
    around = root.find("StripData")
    rate_hz = _quantity((strip, around), "SampleRate", "hz", "bad_rate")
    uv_per_count = _quantity((strip, around), "Resolution", "uvperlsb", "bad_units")
    waveforms = strip.findall("WaveformData")
    same_count(
        len(waveforms),
        count(text_of(strip, "NumberOfLeads"), "NumberOfLeads"),
        "leads of StripData",
    )
    declared = count(text_of(strip, "ChannelSampleCountTotal"), "ChannelSampleCountTotal")

    def lead_uv(waveform: Element, name: str) -> NDArray[np.float64]:
        counts = parse_numbers(waveform.text, ",", f"lead {name}")
        same_count(len(counts), declared, f"lead {name}, samples")
        return counts * uv_per_count

    return Recording(
        collect_leads(((_lead_label(w.get("lead") or ""), w) for w in waveforms), lead_uv),
        rate_hz,
        DIALECT,
    )


def _read_disclosure(disclosure: Element) -> Recording:
    """Read blocks of one second: all samples of lead 1, then of lead 2, … then the next second."""
    rate_hz = _quantity((disclosure,), "SampleRate", "hz", "bad_rate")
    uv_per_count = _quantity((disclosure,), "Resolution", "uvperlsb", "bad_units")
    labels = [
        _lead_label(label)
        for label in (text_of(disclosure, "LeadOrder") or "").split(",")
        if label.strip()
    ]
    same_count(
        len(labels),
        count(text_of(disclosure, "NumberOfChannels"), "NumberOfChannels"),
        "leads of FullDisclosure",
    )
    data = disclosure.find("FullDisclosureData")
    text = (data.text or "") + "".join(child.tail or "" for child in data)
    values = parse_numbers(text, ",", "FullDisclosureData")
    block = len(labels) * int(rate_hz)
    if not labels or rate_hz != int(rate_hz) or len(values) % block:
        raise RecordError(
            "bad_waveform",
            f"{len(values):,} samples are not whole seconds of {len(labels)} leads at {rate_hz:g} Hz",
        )
    by_lead = (
        values.reshape(-1, len(labels), int(rate_hz)).transpose(1, 0, 2).reshape(len(labels), -1)
        * uv_per_count
    )
    return Recording(
        collect_leads(zip(labels, by_lead, strict=True), lambda samples_uv, _: samples_uv),
        rate_hz,
        DIALECT,
    )


def _lead_label(label: str) -> str:
    """Exercise files write the limb leads as `I`, `2`, `3`."""
    return {"1": "I", "2": "II", "3": "III"}.get(label.strip(), label)


def _quantity(places: tuple[Element | None, ...], tag: str, unit: str, reason: str) -> float:
    """Read a positive number, from the first place that has it, whose unit attribute must be the one that the format defines."""
    element = next(
        (child for place in places if place is not None and (child := place.find(tag)) is not None),
        None,
    )
    found = None if element is None else element.get("units")
    if found is None or found.strip().lower() != unit:
        raise RecordError(reason, f"{tag} must be given in {unit}; found {describe(found)}")
    value = number(element.text, tag, reason)  # type: ignore[union-attr]
    if value <= 0:
        raise RecordError(reason, f"{tag} must be above 0; found {value:g}")
    return value
