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
        @V                         samples                    no        integers separated by blanks

µV = count x S x unit. A lead without samples is a missing lead. The ecgWaveformMXG below
medianTemplate holds mean beats and is never read.
"""

from __future__ import annotations

import numpy as np

from ecgprep.header import MEASUREMENTS, Header
from ecgprep.readers.fields import (
    Microvolts,
    check_count,
    collect_leads,
    exactly_one,
    is_blank,
    number,
    parse_numbers,
    positive,
    unit_factor,
)
from ecgprep.readers.header_fields import (
    age_years,
    child,
    date_in,
    first_at,
    identifier,
    measurement,
    sex_of,
    stated_age,
    timestamp,
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
    leads = collect_leads(labelled, lead_uv)
    return Recording(leads.uv, rate_hz, DIALECT, unknown_leads=leads.unknown, notes=leads.notes)


def _rate_hz(group: Element) -> float:
    rate = group.find("{*}sampleRate")
    unit = None if rate is None else (rate.get("U") or "Hz").strip()
    hz = unit_factor(unit, HZ_PER_UNIT, "the unit of sampleRate", "bad_rate")
    value = None if rate is None else rate.get("V")
    return number(value, "sampleRate", "bad_rate") * hz


def _lead_uv(waveform: Element, group: Element, name: str) -> Microvolts:
    """Decode one lead; an attribute that it lacks is taken from the group."""
    text = waveform.get("V")
    if is_blank(text):
        return np.empty(0)
    unit = _attribute("U", waveform, group)
    scale = _attribute("S", waveform, group)
    missing = _attribute("INV", waveform, group)
    stripped = None if unit is None else unit.strip()
    uv = unit_factor(stripped, UV_PER_UNIT, f"lead {name}: unit", "bad_units")
    uv_per_count = positive(scale, f"lead {name}: S", "bad_units") * uv
    counts = parse_numbers(text, " ", f"lead {name}")
    check_count(len(counts), waveform.get("asizeVT"), "asizeVT", f"lead {name}, samples")
    if missing is not None:
        counts[counts == number(missing, f"lead {name}: INV", "bad_waveform")] = np.nan
    return counts * uv_per_count


def _attribute(key: str, waveform: Element, group: Element) -> str | None:
    text: str | None = waveform.get(key) or group.get(key)
    return text


MEASUREMENT_TAGS = (
    ("ventricularRate",),
    ("PR_Interval",),
    ("QRS_Duration",),
    ("QT_Interval",),
    ("qtcBazettCorrection", "QT_Corrected"),
    ("P_Axis",),
    ("R_Axis",),
    ("T_Axis",),
)
"""Elements of `global` in the order of MEASUREMENTS; the first that is there counts."""


def read_header(root: Element) -> Header:
    """Read who, when and what the cart measured; never raises.

        element                              meaning            unit, or accepted
        …/patientInfo/identifier/id@V        patient
          visit/patientData/patientAge@V @U  age                a, mo, wk, d, h (UCUM)
          birthDateTime@V                    age, if not above  ISO 8601
          gender@V                           sex                M, F
        …/testInfo/acquisitionDateTime@V     day and time       ISO 8601
        …/medianTemplate/…/global
          ventricularRate@V @U               rate               bpm
          PR_Interval, QRS_Duration @V @U    PR, QRS            ms
          QT_Interval@V @U                   QT                 ms
          qtcBazettCorrection or             QTc (Bazett)       ms
            QT_Corrected @V @U
          P_Axis, R_Axis, T_Axis @V @U       axes               deg

    `…` stands for levels that differ between the versions dcar_1 and sapphire_3.
    """
    patient, test = _first(root, "patientInfo"), _first(root, "testInfo")
    acquired_at = timestamp(_value_at(test, "acquisitionDateTime"))
    age = None if patient is None else first_at(patient, "visit", "patientData", "patientAge")
    stated = None if age is None else stated_age(age.get("V"), age.get("U"))
    born = date_in(_value_at(patient, "birthDateTime"))
    template = _first(root, "medianTemplate")
    measured = None if template is None else _first(template, "global")
    return Header(
        patient_id=identifier(_value_at(patient, "identifier", "id")),
        acquired_at=acquired_at,
        age_years=age_years(stated, born, acquired_at),
        sex=sex_of(_value_at(patient, "gender")),
        **{} if measured is None else _measurements(measured),
    )


def _first(root: Element, name: str) -> Element | None:
    """Return the first element of that name. These files have few: samples are in attributes."""
    return next(root.iter(f"{{*}}{name}"), None)


def _value_at(parent: Element | None, *path: str) -> str | None:
    element = None if parent is None else first_at(parent, *path)
    return None if element is None else element.get("V")


def _measurements(measured: Element) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, tags in zip(MEASUREMENTS, MEASUREMENT_TAGS, strict=True):
        for tag in tags:
            element = child(measured, tag)
            if element is not None:
                found.setdefault(name, measurement(name, element.get("V"), element.get("U")))
    return found
