"""HL7 annotated ECG `AnnotatedECG` (HL7 v3, FDA profile; namespace urn:hl7-org:v3, older versions, or none).

    element                                       meaning                        required   accepted
    component/series/code@code                    kind of series                 yes        RHYTHM, exactly one (derived beats lie in
                                                                                            series/derivation: never read)
      component/sequenceSet/component/sequence    time axis or lead              yes        one time axis, any order of leads
        code@code                                 what it is                     yes        TIME_ABSOLUTE, TIME_RELATIVE, MDC_ECG_LEAD_*
        value/increment@value, @unit              time step                      yes        s, ms, us (µs)
        value/origin@value, @unit                 amplitude at digit 0           no         nV, uV (µV), mV, V; defaults to 0
        value/scale@value, @unit                  amplitude of one digit         yes        nV, uV (µV), mV, V
        value/digits                              samples                        yes        integers or decimals, any white space

µV = origin + digit x scale, each with its own unit; rate = 1 / increment.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError, describe
from ecgprep.readers.fields import collect_leads, exact, number, parse_numbers
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
    """Read the rhythm series. Raises RecordError with a named reason for anything the table above does not allow."""
    sequences = _rhythm_sequences(root)
    rates_hz = {_rate_hz(value) for code, value in sequences if code in TIME_CODES}
    stored = (
        (code.removeprefix(LEAD_PREFIX), value)
        for code, value in sequences
        if code.startswith(LEAD_PREFIX)
    )
    leads = collect_leads(stored, _lead_uv)
    if len(rates_hz) != 1:
        raise RecordError(
            "bad_rate",
            f"the rhythm series has {len(rates_hz)} different time axes; exactly one is needed",
        )
    return Recording(leads, rates_hz.pop(), DIALECT)


def _rhythm_sequences(root: Element) -> list[tuple[str, Element]]:
    """Return (code, value element) of each sequence in the one rhythm series."""
    found = root.findall("{*}component/{*}series")
    series = [s for s in found if _code(s) == "RHYTHM"]
    if any(_code(s) == MEGACARE for s in found):
        raise RecordError(
            "unknown_format",
            "a MegaCare file (Siemens, Draeger) is not supported: its units have never been verified",
        )
    if not series:
        raise RecordError(
            "no_rhythm",
            "no series with code RHYTHM (a representative beat is not read in its place)",
        )
    if len(series) > 1:
        raise RecordError(
            "bad_waveform", f"{len(series)} series with code RHYTHM; which one is meant is not said"
        )
    sets = series[0].findall("{*}component/{*}sequenceSet")
    if len(sets) != 1:
        raise RecordError(
            "bad_waveform", f"the rhythm series has {len(sets)} sequence sets; exactly one is read"
        )
    sequences = [
        (_code(s), s.find("{*}value")) for s in sets[0].findall("{*}component/{*}sequence")
    ]
    return [(code, value) for code, value in sequences if value is not None]


def _code(element: Element) -> str:
    child = element.find("{*}code")
    return "" if child is None else (child.get("code") or "").strip()


def _rate_hz(value: Element) -> float:
    """Compute the rate from the time step, in exact arithmetic: 0.002 s is 500 Hz, not 499.99999999999994."""
    increment = value.find("{*}increment")
    step, unit = (
        (None, None) if increment is None else (increment.get("value"), increment.get("unit"))
    )
    if unit not in SECONDS_PER_UNIT:
        raise RecordError(
            "bad_rate",
            f"the unit of the time increment must be s, ms or us; found {describe(unit)}",
        )
    return float(1 / (exact(step, "the time increment", "bad_rate") * SECONDS_PER_UNIT[unit]))


def _microvolts(element: Element | None, what: str) -> float:
    """Read a physical quantity such as `<scale value="2.5" unit="uV"/>`."""
    value, unit = (None, None) if element is None else (element.get("value"), element.get("unit"))
    if unit not in UV_PER_UNIT:
        raise RecordError(
            "bad_units", f"{what}: the unit must be nV, uV, mV or V; found {describe(unit)}"
        )
    return number(value, what, "bad_units") * UV_PER_UNIT[unit]


def _lead_uv(value: Element, name: str) -> NDArray[np.float64]:
    origin = value.find("{*}origin")
    origin_uv = 0.0 if origin is None else _microvolts(origin, f"lead {name}, origin")
    scale_uv = _microvolts(value.find("{*}scale"), f"lead {name}, scale")
    if scale_uv == 0:
        raise RecordError("bad_units", f"lead {name}: the scale is 0")
    uv = parse_numbers(value.findtext("{*}digits"), " ", f"lead {name}")
    if scale_uv != 1:  # in place: new arrays would cost as much as a tenth of the parsing
        uv *= scale_uv
    if origin_uv:
        uv += origin_uv
    return uv
