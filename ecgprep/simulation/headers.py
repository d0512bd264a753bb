"""Draw what a simulated file says beside its waveform: time, age, sex and the cart's measurements.

The numbers come from a generator of their own, so that waveforms do not depend on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np

from ecgprep.header import MEASUREMENTS, Header
from ecgprep.simulation.simulator import Heart

EXAMPLE = Header(
    acquired_at="2000-01-01T08:15:00",
    age_years=60,
    sex="F",
    heart_rate_bpm=72,
    pr_ms=160,
    qrs_ms=92,
    qt_ms=384,
    qtc_ms=421,
    p_axis_deg=49,
    qrs_axis_deg=-12,
    t_axis_deg=0,
)
"""What a file says whose header nobody has drawn; the patient is the writer's `code`."""


def draw_headers(
    patient: str, age: int, is_female: bool, heart: Heart, generator: np.random.Generator
) -> Iterator[Header]:
    """Yield the headers of a patient's recordings, without end.

    They lie a month apart and begin in one half of a year, so that the age stays the same for six.
    """
    year, day = int(generator.integers(2012, 2021)), int(generator.integers(0, 180))
    on = datetime(year, 1, 1) + timedelta(days=day)
    while True:
        at = timedelta(hours=8, seconds=int(generator.integers(0, 36_000)))
        yield Header(
            patient_id=patient,
            acquired_at=(on + at).isoformat(),
            age_years=float(age),
            sex="F" if is_female else "M",
            **measure(heart, generator),
        )
        on += timedelta(days=30)


def measure(heart: Heart, generator: np.random.Generator) -> dict[str, float]:
    """Draw measurements as a cart would print them for this heart, whole numbers all."""
    rate_bpm = round(heart.rate_bpm + generator.normal(0, 1))
    qtc_ms = round(1000 * heart.qtc_s + generator.normal(0, 5))
    values = (
        rate_bpm,
        float(generator.integers(120, 210)),
        92 * heart.qrs_width + generator.normal(0, 3),
        qtc_ms * math.sqrt(60 / rate_bpm),  # Bazett: QTc = QT / sqrt(RR in s)
        qtc_ms,
        float(generator.integers(20, 75)),
        45 + math.degrees(heart.axis_turn) + generator.normal(0, 5),
        float(generator.integers(-5, 70)),
    )
    return {name: float(round(value)) for name, value in zip(MEASUREMENTS, values, strict=True)}


def acquired(header: Header) -> datetime:
    """Return the time of acquisition of a simulated header."""
    return datetime.fromisoformat(header.acquired_at)


def year_of_birth(header: Header) -> int:
    """Return the year on whose first day the patient was born: the age is complete all year."""
    assert header.age_years is not None
    return acquired(header).year - int(header.age_years)


def measured_texts(header: Header) -> dict[str, str]:
    """Return measurement -> text."""
    return {name: f"{getattr(header, name):g}" for name in MEASUREMENTS}
