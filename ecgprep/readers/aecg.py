"""HL7 annotated ECG `AnnotatedECG` (HL7 v3, FDA profile).

The namespace is urn:hl7-org:v3, that of an older version, or absent.

    element                           meaning               required  accepted
    component/series                  one series            yes       exactly one with code RHYTHM
      code@code                       kind                  yes       RHYTHM
      component/sequenceSet           its sequences         yes       exactly one
        component/sequence            time axis or lead     yes       one time axis; any order
          code@code                   what it is            yes       TIME_ABSOLUTE, TIME_RELATIVE,
                                                                      MDC_ECG_LEAD_*
          value/increment             time step             yes       a number in s, ms, us (µs)
          value/origin                amplitude at digit 0  no        nV, uV (µV), mV, V; default 0
          value/scale                 amplitude of a digit  yes       nV, uV (µV), mV, V; not 0
          value/digits                samples               yes       integers or decimals

increment, origin and scale have attributes `value` and `unit`.
µV = origin + digit x scale, each with its own unit; rate = 1 / increment.
Derived beats are in series/derivation and are never read.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError
from ecgprep.header import Header
from ecgprep.readers.fields import (
    collect_leads,
    exact,
    exactly_one,
    number,
    parse_numbers,
    unit_factor,
)
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "aecg"
LEAD_PREFIX = "MDC_ECG_LEAD_"
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
    rates_hz = {_rate_hz(value) for code, value in sequences if code in TIME_CODES}
    stored = [
        (code.removeprefix(LEAD_PREFIX), value)
        for code, value in sequences
        if code.startswith(LEAD_PREFIX)
    ]
    leads = collect_leads(stored, _lead_uv)
    if len(rates_hz) != 1:
        raise RecordError(
            "bad_rate",
            f"the rhythm series has {len(rates_hz)} different time axes; exactly one is allowed",
        )
    return Recording(leads, rates_hz.pop(), DIALECT)


def _rhythm_sequences(root: Element) -> list[tuple[str, Element]]:
    """Return (code, value element) of each sequence in the one rhythm series."""
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
    sequences = []
    for sequence in sets[0].findall("{*}component/{*}sequence"):
        value = sequence.find("{*}value")
        if value is not None:
            sequences.append((_code(sequence), value))
    return sequences


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


def _lead_uv(value: Element, name: str) -> NDArray[np.float64]:
    origin = value.find("{*}origin")
    origin_uv = 0.0 if origin is None else _microvolts(origin, f"lead {name}, origin")
    scale_uv = _microvolts(value.find("{*}scale"), f"lead {name}, scale")
    if scale_uv == 0:
        raise RecordError("bad_units", f"lead {name}: the scale is 0")
    uv = parse_numbers(value.findtext("{*}digits"), " ", f"lead {name}")
    # In place, and only when needed: new arrays would cost a tenth of the parsing.
    if scale_uv != 1:
        uv *= scale_uv
    if origin_uv:
        uv += origin_uv
    return uv


def read_header(root: Element) -> Header:
    """Read the header."""
    return Header()
