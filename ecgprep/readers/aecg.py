"""HL7 annotated ECG `AnnotatedECG` (HL7 v3, FDA profile).

The namespace is urn:hl7-org:v3, that of an older version, or absent.

    element                           meaning               required  accepted
    component/series                  one series            yes       exactly one with code RHYTHM
      code@code                       kind                  yes       RHYTHM
      component/sequenceSet           its sequences         yes       exactly one
        component/sequence            time axis or lead     yes       one time axis; any order
          code@code                   what it is            yes       TIME_ABSOLUTE, TIME_RELATIVE,
                                                                      MDC_ECG_LEAD_* or another
                                                                      known lead name
          value/increment             time step             yes       a number in s, ms, us (µs)
          value/origin                amplitude at digit 0  no        nV, uV (µV), mV, V; default 0
          value/scale                 amplitude of a digit  yes       nV, uV (µV), mV, V; not 0
          value/digits                samples               no        integers or decimals

increment, origin and scale have attributes `value` and `unit`.
µV = origin + digit x scale, each with its own unit; rate = 1 / increment. A lead without digits
is a missing lead.
Derived beats are in series/derivation and are never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError
from ecgprep.header import Header
from ecgprep.readers.fields import (
    collect_leads,
    exact,
    exactly_one,
    is_blank,
    number,
    parse_numbers,
    unit_factor,
)
from ecgprep.readers.header_fields import (
    age_years,
    all_at,
    child,
    date_in,
    first_at,
    identifier,
    measurement,
    sex_of,
    stated_age,
    texts_of,
    timestamp,
)
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "aecg"
MEGACARE = "ECG_RHYTHM_WAVEFORMS"
TIME_CODES = ("TIME_ABSOLUTE", "TIME_RELATIVE")
UV_PER_UNIT = {"nV": 1e-3, "uV": 1.0, "µV": 1.0, "μV": 1.0, "mV": 1e3, "V": 1e6}
SECONDS_PER_UNIT = {
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "μs": Fraction(1, 10**6),
}
"""Both Unicode signs for micro occur: U+00B5 and U+03BC."""


def read(root: Element) -> Recording:
    """Read the rhythm. Raises RecordError for anything that the table above does not allow."""
    sequences = _rhythm_sequences(root)
    rates_hz = {
        _rate_hz(value) for code, value in sequences if code in TIME_CODES and value is not None
    }
    stored = [(code, value) for code, value in sequences if code not in TIME_CODES]
    leads = collect_leads(stored, _lead_uv)
    if len(rates_hz) != 1:
        raise RecordError(
            "bad_rate",
            f"the rhythm series has {len(rates_hz)} different time axes; exactly one is allowed",
        )
    rate_hz = rates_hz.pop()
    return Recording(leads.uv, rate_hz, DIALECT, unknown_leads=leads.unknown, notes=leads.notes)


def _rhythm_sequences(root: Element) -> list[tuple[str, Element | None]]:
    """Return (code, value element or None) of each sequence in the one rhythm series."""
    rhythms = []
    for series in root.findall("{*}component/{*}series"):
        kind = _code(series)
        if kind == MEGACARE:
            raise RecordError(
                "unknown_format",
                "a MegaCare file (Siemens, Draeger) is not supported: "
                "its units have never been verified",
            )
        if kind == "RHYTHM":
            rhythms.append(series)
    rhythm = exactly_one(rhythms, "series with code RHYTHM", "representative beats")
    sets = rhythm.findall("{*}component/{*}sequenceSet")
    if len(sets) != 1:
        raise RecordError(
            "bad_waveform",
            f"the rhythm series has {len(sets)} sequence sets; exactly one is allowed",
        )
    sequences = sets[0].findall("{*}component/{*}sequence")
    return [(_code(sequence), sequence.find("{*}value")) for sequence in sequences]


def _code(element: Element) -> str:
    child = element.find("{*}code")
    return "" if child is None else (child.get("code") or "").strip()


def _value_and_unit(element: Element | None) -> tuple[str | None, str | None]:
    """Return both parts of a physical quantity such as `<scale value="2.5" unit="uV"/>`."""
    if element is None:
        return None, None
    return element.get("value"), element.get("unit")


def _rate_hz(value: Element) -> float:
    """Compute the rate exactly: a step of 0.002 s is 500 Hz, not 499.99999999999994."""
    step, unit = _value_and_unit(value.find("{*}increment"))
    seconds = unit_factor(unit, SECONDS_PER_UNIT, "the unit of the time increment", "bad_rate")
    return float(1 / (exact(step, "the time increment", "bad_rate") * seconds))


def _microvolts(element: Element | None, what: str) -> float:
    value, unit = _value_and_unit(element)
    uv = unit_factor(unit, UV_PER_UNIT, f"{what}: the unit", "bad_units")
    return number(value, what, "bad_units") * uv


def _lead_uv(value: Element | None, name: str) -> NDArray[np.float64]:
    digits = None if value is None else value.findtext("{*}digits")
    if value is None or is_blank(digits):
        return np.empty(0)
    origin = value.find("{*}origin")
    origin_uv = 0.0 if origin is None else _microvolts(origin, f"lead {name}, origin")
    scale_uv = _microvolts(value.find("{*}scale"), f"lead {name}, scale")
    if scale_uv == 0:
        raise RecordError("bad_units", f"lead {name}: the scale is 0")
    uv = parse_numbers(digits, " ", f"lead {name}")
    # In place, and only when needed: new arrays would cost a tenth of the parsing.
    if scale_uv != 1:
        uv *= scale_uv
    if origin_uv:
        uv += origin_uv
    return uv


TRIAL_SUBJECT = ("componentOf", "subjectAssignment", "subject", "trialSubject")
REPORTED_AGE = "21612-7"
"""LOINC."""

MEASUREMENT_CODES = {
    "heart_rate_bpm": ("MDC_ECG_HEART_RATE",),
    "pr_ms": ("MDC_ECG_TIME_PD_PR",),
    "qrs_ms": ("MDC_ECG_TIME_PD_QRS",),
    "qt_ms": ("MDC_ECG_TIME_PD_QT",),
    "qtc_ms": ("MDC_ECG_TIME_PD_QTCB", "MDC_ECG_TIME_PD_QTC"),
    "p_axis_deg": ("MDC_ECG_ANGLE_P_FRONT", "MINDRAY_ECG_P_AXIS"),
    "qrs_axis_deg": ("MDC_ECG_ANGLE_QRS_FRONT", "MINDRAY_ECG_QRS_AXIS"),
    "t_axis_deg": ("MDC_ECG_ANGLE_T_FRONT", "MINDRAY_ECG_T_AXIS"),
}
"""Measurement -> codes in upper case and without `_GL` (global), the preferred one first."""

OF_ONE_BEAT_OR_WAVE = ("MDC_ECG_BEAT", "MDC_ECG_WAVC")

Quantities = dict[str, set[tuple[str, str]]]
"""Code -> the (value, unit) pairs that one annotation set gives it."""


def read_header(root: Element) -> Header:
    """Read who, when and what the cart measured; never raises.

        element                              meaning            unit, or accepted
        …/trialSubject/id@extension          patient            `?` and UNK are none
          subjectDemographicPerson
            PatientID                        patient, if not    Mindray writes it there
                                             above
            birthTime@value                  age, if not below  YYYYMMDD
            administrativeGenderCode@code    sex                F, M
        controlVariable/relatedObservation   reported age       code 21612-7 (LOINC)
          value@value, @unit                                    a, mo, wk, d, h
        effectiveTime@value, or that of      day and time       YYYYMMDDHHMMSS.F+ZZZZ
          its low or center
        series/effectiveTime                 if not above       the same
        …/sequence/value/head@value          if not above       the same, of TIME_ABSOLUTE
        series/subjectOf/annotationSet/component/annotation, also nested
          code@code                          what it is         MEASUREMENT_CODES, any case
          value@value, @unit                 its value          bpm, /min; ms, s; deg, rad

    QTc is Bazett's, or one whose formula is not said; never Fridericia's or Hodges's. Measurements
    of the rhythm count before those of a derived series, and those of a person before those of a
    device. Those of one lead, beat or wave are never read, and neither are several different ones
    of a kind. id@root names who gave the id out, not the patient.
    """
    subject = first_at(root, "componentOf", "timepointEvent", *TRIAL_SUBJECT)
    if subject is None:
        subject = first_at(root, *TRIAL_SUBJECT)
    person = child(subject, "subjectDemographicPerson")
    mindray_id = texts_of(person, ("PatientID",)).get("PatientID")
    rhythms: list[Element] = []
    others: list[Element] = []
    for series in all_at([root], "component", "series"):
        (rhythms if _upper_code(series) == "RHYTHM" else others).append(series)
    acquired_at = _acquired_at(root, rhythms)
    born = date_in(_attribute(child(person, "birthTime"), "value"))
    return Header(
        patient_id=identifier(_attribute(child(subject, "id"), "extension"))
        or identifier(mindray_id),
        acquired_at=acquired_at,
        age_years=age_years(_reported_age(root), born, acquired_at),
        sex=sex_of(_attribute(child(person, "administrativeGenderCode"), "code")),
        **_measurements(rhythms, others),
    )


def _attribute(element: Element | None, name: str) -> str:
    return "" if element is None else element.get(name) or ""


def _upper_code(element: Element) -> str:
    return _attribute(child(element, "code"), "code").strip().upper()


def _acquired_at(root: Element, rhythms: list[Element]) -> str:
    """Return the first time that has a clock time, else the first date."""
    date = ""
    for element in _times(root, rhythms):
        time = timestamp(_attribute(element, "value"))
        if "T" in time:
            return time
        date = date or time
    return date


def _times(root: Element, rhythms: list[Element]) -> Iterator[Element | None]:
    """Yield the elements that may hold the time of acquisition, the best one first."""
    for effective in all_at([root, *rhythms], "effectiveTime"):
        yield effective
        yield child(effective, "low")
        yield child(effective, "center")
    for sequence in all_at(rhythms, "component", "sequenceSet", "component", "sequence"):
        if _upper_code(sequence) == "TIME_ABSOLUTE":
            yield child(child(sequence, "value"), "head")


def _reported_age(root: Element) -> float | None:
    for observation in all_at([root], "controlVariable", "relatedObservation"):
        if _upper_code(observation) == REPORTED_AGE:
            value = child(observation, "value")
            return stated_age(_attribute(value, "value"), _attribute(value, "unit"))
    return None


def _measurements(rhythms: list[Element], others: list[Element]) -> dict[str, float | None]:
    """Return each measurement from the first annotation set that has a plausible one."""
    derived = [*all_at(rhythms, "derivation", "derivedSeries"), *others]
    sets: list[Quantities] = []
    for annotation_set in (*_annotation_sets(rhythms), *_annotation_sets(derived)):
        sets.append({})
        _collect_quantities(annotation_set, sets[-1])
    found: dict[str, float | None] = {}
    for name, codes in MEASUREMENT_CODES.items():
        values = (_only_value(name, quantities, codes) for quantities in sets)
        found[name] = next((value for value in values if value is not None), None)
    return found


def _annotation_sets(series: list[Element]) -> list[Element]:
    """Return the annotation sets of some series, those that a person wrote first."""
    person = ("author", "assignedEntity", "assignedAuthorType", "assignedPerson")
    sets = all_at(series, "subjectOf", "annotationSet")
    return sorted(sets, key=lambda one: first_at(one, *person) is None)


def _collect_quantities(parent: Element, found: Quantities) -> None:
    """Add the quantities that stand in a set or an annotation for the whole recording."""
    for annotation in all_at([parent], "component", "annotation"):
        part = {element.tag.rpartition("}")[2]: element for element in annotation}
        code = _attribute(part.get("code"), "code").strip().upper().removesuffix("_GL")
        if code.startswith(OF_ONE_BEAT_OR_WAVE) or _is_of_one_lead(part.get("support")):
            continue
        value = part.get("value")
        if _attribute(value, "value"):
            pair = (_attribute(value, "value"), _attribute(value, "unit"))
            found.setdefault(code, set()).add(pair)
        if "component" in part:
            _collect_quantities(annotation, found)


def _is_of_one_lead(support: Element | None) -> bool:
    if support is None:
        return False
    boundaries = all_at([support], "supportingROI", "component", "boundary")
    return any("_ECG_LEAD_" in _upper_code(boundary) for boundary in boundaries)


def _only_value(name: str, quantities: Quantities, codes: tuple[str, ...]) -> float | None:
    """Return the value of the first code that has a plausible one, and no second."""
    for code in codes:
        values = {measurement(name, value, unit) for value, unit in quantities.get(code, ())}
        values.discard(None)
        if len(values) == 1:
            return values.pop()
    return None
