"""The ECG files of a simulated hospital, as its carts exported them.

Carts of four vendors stand in it, and each has its own folder. Some files are of no use: shorter
than a build accepts, without a signal, without a date, or cut off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path

import numpy as np

from ecgprep.header import Header
from ecgprep.simulation.corpus import RATE_SHARES, choose, write_plain
from ecgprep.simulation.headers import measure
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.trajectories import Course
from ecgprep.simulation.vendors import VENDORS
from ecgprep.simulation.visits import Ecg

DIALECT_SHARES = {"muse": 0.5, "aecg": 0.2, "cardiosoft": 0.2, "philips": 0.1}
SUFFIXES = {"cardiosoft": ".XML"}
"""The other carts write `.xml`."""
SHORT_SECONDS = 3
CLOCK_ZERO = date(1899, 12, 30)
"""What a cart says whose clock was never set: day 0 of many programs, and no date to a reader."""


_WRITTEN = re.compile(r"\d{6,}\.(xml|XML)")
"""Names that `Exports` gives."""


@dataclass(frozen=True)
class Person:
    """Who is in the files, and when the days of the visits begin."""

    patient_id: str
    born: int
    """Year; the day is the first of January."""
    sex: str
    day_zero: date
    heart_seed: tuple[int, ...]
    """What makes all hearts of this person alike."""


def remove_exports(folder: Path) -> None:
    """Delete the files of an earlier `Exports` in a folder: an index would find those, too."""
    for dialect in VENDORS:
        for path in (folder / dialect).glob("*"):
            if _WRITTEN.fullmatch(path.name):
                path.unlink()


class Exports:
    """Writes files below a folder and numbers them; no name says whose file it is."""

    def __init__(self, folder: Path, dialects: Sequence[str] = ()) -> None:
        self.folder = folder
        self.shares = {name: 1 / len(dialects) for name in dialects} or DIALECT_SHARES
        self.n_files = 0
        for dialect in self.shares:
            (folder / dialect).mkdir(parents=True, exist_ok=True)

    def write(
        self, ecg: Ecg, person: Person, course: Course, generator: np.random.Generator
    ) -> None:
        """Write one ECG. Raises NoSpace."""
        dialect, data = self._make(ecg, person, course, generator)
        self._add(dialect, data)

    def write_cut_off(
        self, ecg: Ecg, person: Person, course: Course, generator: np.random.Generator
    ) -> None:
        """Write the first half of a file, as when a transfer ends too early. Raises NoSpace."""
        dialect, data = self._make(ecg, person, course, generator)
        self._add(dialect, data[: len(data) // 2])

    def _make(
        self, ecg: Ecg, person: Person, course: Course, generator: np.random.Generator
    ) -> tuple[str, bytes]:
        dialect = choose(self.shares, generator)
        rate_hz = choose(RATE_SHARES, generator)
        # The same traits every time, moved by what the ECG shows on this day.
        heart = Heart.draw(np.random.default_rng(person.heart_seed), course.severity(ecg.day))
        header = _header(ecg, person, heart, generator)
        uv = simulate(heart, rate_hz, generator)
        if ecg.flaw == "short":
            uv = uv[:, : SHORT_SECONDS * rate_hz]
        elif ecg.flaw == "flat":
            uv = np.zeros_like(uv)
        return dialect, VENDORS[dialect](uv, rate_hz, person.patient_id, header=header)

    def _add(self, dialect: str, data: bytes) -> None:
        self.n_files += 1
        name = f"{self.n_files:06d}{SUFFIXES.get(dialect, '.xml')}"
        write_plain(self.folder / dialect / name, data)


def _header(ecg: Ecg, person: Person, heart: Heart, generator: np.random.Generator) -> Header:
    """Draw what the file says; a year of life is complete on the first of January."""
    on = person.day_zero + timedelta(days=ecg.day)
    said = CLOCK_ZERO if ecg.flaw == "undated" else on
    at = datetime.combine(said, time(8)) + timedelta(seconds=int(generator.integers(0, 36_000)))
    return Header(
        patient_id=person.patient_id,
        acquired_at=at.isoformat(),
        age_years=float(on.year - person.born),
        sex=person.sex,
        **measure(heart, generator),
    )
