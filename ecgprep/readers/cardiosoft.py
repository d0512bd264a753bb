"""GE CardioSoft / CASE `CardiologyXML`, resting and exercise.

UK Biobank's fields 20205 and 6025 have this format, too.

    element                        meaning                required   accepted
    StripData, or StripData/Strip  the rhythm strip       or below   exactly one with WaveformData
      NumberOfLeads                count of WaveformData  no         the count found
      SampleRate@units             rate                   yes        Hz
      ChannelSampleCountTotal      samples of each lead   no         the count found
      Resolution@units             µV of one count        yes        uVperLsb
      WaveformData@lead            samples of a lead      yes        integers separated by commas
    FullDisclosure                 all that was recorded  or above   read where there is no strip
      NumberOfChannels             count of leads         no         the count found
      LeadOrder                    leads                  yes        names separated by commas
      SampleRate, Resolution       as above               yes        as above
      FullDisclosureData           samples                yes        see `readers/disclosure.py`

µV = count x Resolution. A lead without samples is a missing lead. MedianSamples and MedianData have
the same children as StripData and are never read.
"""

from __future__ import annotations

from ecgprep.errors import RecordError, describe
from ecgprep.header import MEASUREMENTS, Header
from ecgprep.readers.disclosure import separate_leads
from ecgprep.readers.fields import (
    Microvolts,
    check_count,
    collect_leads,
    exactly_one,
    parse_numbers,
    positive,
    text_of,
)
from ecgprep.readers.header_fields import (
    age_years,
    child,
    clock_time,
    date_of,
    identifier,
    measurement,
    moment,
    sex_of,
    stated_age,
    texts_of,
)
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "cardiosoft"
NUMBERED_LIMB_LEADS = {"1": "I", "2": "II", "3": "III"}
"""Exercise files write the limb leads as `I`, `2`, `3`."""
MEAN_BEATS = "median samples"


def read(root: Element) -> Recording:
    """Read the rhythm strip, or the full disclosure of a file without one.

    Raises RecordError for anything that the table above does not allow.
    """
    holders = [*root.findall("StripData"), *root.findall("StripData/Strip")]
    strips = _holding(holders, "WaveformData")
    if strips:
        strip = exactly_one(strips, "StripData with waveforms", MEAN_BEATS)
        return _read_strip(strip, root.find("StripData"))
    disclosures = _holding(root.findall("FullDisclosure"), "FullDisclosureData")
    what = "StripData or FullDisclosure with waveforms"
    return _read_disclosure(exactly_one(disclosures, what, MEAN_BEATS))


def _holding(elements: list[Element], tag: str) -> list[Element]:
    return [element for element in elements if element.find(tag) is not None]


def _read_strip(strip: Element, around: Element | None) -> Recording:
    """Read one lead after another.

    Fields that a nested Strip leaves out are in `around`, the StripData that holds it.
    """
    places = [strip] if around is None else [strip, around]
    rate_hz = _quantity(places, "SampleRate", "hz", "bad_rate")
    uv_per_count = _quantity(places, "Resolution", "uvperlsb", "bad_units")
    waveforms = strip.findall("WaveformData")
    n_leads = text_of(strip, "NumberOfLeads")
    check_count(len(waveforms), n_leads, "NumberOfLeads", "leads of StripData")
    n_samples = text_of(strip, "ChannelSampleCountTotal")

    def lead_uv(waveform: Element, name: str) -> Microvolts:
        counts = parse_numbers(waveform.text, ",", f"lead {name}")
        if not len(counts):
            return counts
        tag = "ChannelSampleCountTotal"
        check_count(len(counts), n_samples, tag, f"lead {name}, samples")
        return counts * uv_per_count

    labelled = [(_lead_label(waveform.get("lead") or ""), waveform) for waveform in waveforms]
    leads = collect_leads(labelled, lead_uv)
    return Recording(leads.uv, rate_hz, DIALECT, unknown_leads=leads.unknown, notes=leads.notes)


def _read_disclosure(disclosure: Element) -> Recording:
    """Read all that was recorded, in whichever of the two layouts it is."""
    rate_hz = _quantity([disclosure], "SampleRate", "hz", "bad_rate")
    uv_per_count = _quantity([disclosure], "Resolution", "uvperlsb", "bad_units")
    order = (text_of(disclosure, "LeadOrder") or "").split(",")
    labels = [_lead_label(label) for label in order if label.strip()]
    n_leads = text_of(disclosure, "NumberOfChannels")
    check_count(len(labels), n_leads, "NumberOfChannels", "leads of FullDisclosure")
    if not labels:
        raise RecordError("bad_waveform", "LeadOrder names no lead")
    text = _disclosed_text(disclosure)
    counts = parse_numbers(text, ",", "FullDisclosureData", len(labels))
    by_lead = separate_leads(counts, labels, rate_hz)
    leads_uv = zip(labels, by_lead * uv_per_count, strict=True)
    leads = collect_leads(leads_uv, lambda lead_uv, _name: lead_uv)
    return Recording(leads.uv, rate_hz, DIALECT, unknown_leads=leads.unknown, notes=leads.notes)


def _disclosed_text(disclosure: Element) -> str:
    """Join the text of FullDisclosureData, which child elements may interrupt."""
    data = disclosure.find("FullDisclosureData")
    assert data is not None  # `read` chose the disclosure by it
    return (data.text or "") + "".join(child.tail or "" for child in data)


def _lead_label(label: str) -> str:
    return NUMBERED_LIMB_LEADS.get(label.strip(), label)


def _quantity(places: list[Element], tag: str, unit: str, reason: str) -> float:
    """Read a number above 0 from the first place that has it; its unit must be the format's."""
    elements = [place.find(tag) for place in places]
    stated = [element for element in elements if element is not None]
    units = stated[0].get("units") if stated else None
    if units is None or units.strip().lower() != unit:
        raise RecordError(reason, f"{tag} must be given in {unit}; found {describe(units)}")
    return positive(stated[0].text, tag, reason)


MEASUREMENT_TAGS = (
    "VentricularRate",
    "PQInterval",
    "QRSDuration",
    "QTInterval",
    "QTCInterval",
    "PAxis",
    "RAxis",
    "TAxis",
)
"""In the order of MEASUREMENTS."""


def read_header(root: Element) -> Header:
    """Read who, when and what the cart measured; never raises.

        element                           meaning             unit, or accepted
        PatientInfo/PID                   patient
          Age@units                       age                 years (default), months, weeks, days
          BirthDateTime/Year, Month, Day  age, if not above   numbers
          Gender                          sex                 MALE, FEMALE
        ObservationDateTime/Year, …, Day  day                 numbers
          Hour, Minute, Second            time                numbers
        RestingECGMeasurements
          VentricularRate@units           rate                BPM (default)
          PQInterval, QRSDuration @units  PR, QRS             ms (default)
          QTInterval, QTCInterval @units  QT, QTc             ms (default)
          PAxis, RAxis, TAxis @units      axes                degrees (default)

    The measurements of an exercise test are not read. 0 and -1 mean "not measured".
    """
    patient = child(root, "PatientInfo")
    texts = texts_of(patient, ("PID", "Gender"))
    acquired_at = moment(*_date_and_time(child(root, "ObservationDateTime")))
    born, _ = _date_and_time(child(patient, "BirthDateTime"))
    age = child(patient, "Age")
    stated = None if age is None else stated_age(age.text, age.get("units") or "years")
    measured = child(root, "RestingECGMeasurements")
    return Header(
        patient_id=identifier(texts.get("PID")),
        acquired_at=acquired_at,
        age_years=age_years(stated, born, acquired_at),
        sex=sex_of(texts.get("Gender")),
        **{} if measured is None else _measurements(measured),
    )


def _date_and_time(element: Element | None) -> tuple[str, str]:
    """Return the ISO date and the ISO time of an element with a child for each part."""
    part = texts_of(element, ("Year", "Month", "Day", "Hour", "Minute", "Second"))
    clock = [part.get(name, "").strip() for name in ("Hour", "Minute", "Second")]
    time = clock_time(":".join(text.zfill(2) for text in clock)) if all(clock) else ""
    return date_of(part.get("Year"), part.get("Month"), part.get("Day")), time


def _measurements(measured: Element) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, tag in zip(MEASUREMENTS, MEASUREMENT_TAGS, strict=True):
        element = child(measured, tag)
        if element is not None:
            found[name] = measurement(name, element.text, element.get("units"))
    return found
