"""A labelled corpus of simulated ECGs in vendor XML: what `ecgprep synth` writes, `make demo` runs on and the tests start from."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ecgprep.errors import TargetExists
from ecgprep.files.atomic import out_of_space_is_named, write_file
from ecgprep.files.output import refuse_inside_store
from ecgprep.leads import TWELVE_LEADS
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import VENDORS

DIALECT_SHARES = {"muse": 0.5, "aecg": 0.3, "cardiosoft": 0.2}


RATE_SHARES = {500: 0.7, 250: 0.3}


RECORDINGS_SHARES = {1: 0.6, 2: 0.3, 3: 0.1}


Choice = TypeVar("Choice", int, str)


ELECTRODE_OFF_SHARE = 0.02
"""Share of recordings in which one chest electrode is off: its lead is flat."""


def write_corpus(
    out: Path,
    patients: int,
    seed: int,
    prevalence: float,
    replace: bool = False,
    dialects: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Write OUT/xml/*.xml and OUT/manifest.csv; return the numbers of files and of positive patients.

    A patient depends on (seed, its number) alone: a larger corpus starts with the smaller one. Labels depend on nothing but the
    heart: not on dialect, rate or number of recordings. `dialects` are written in equal shares instead of the usual ones.
    Raises TargetExists.
    """
    refuse_inside_store(out / "manifest.csv")
    if (out / "manifest.csv").exists() and not replace:
        raise TargetExists(
            f"{out} holds a corpus already. Use --replace to write into it, or another folder."
        )
    (out / "xml").mkdir(parents=True, exist_ok=True)
    shares = {name: 1 / len(dialects) for name in dialects} or DIALECT_SHARES
    rows: list[list[str | int]] = []
    n_positive = 0
    for number in range(patients):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number])))
        rows += _write_patient(out, number, prevalence, shares, generator)
        n_positive += int(rows[-1][2])
        if progress:
            progress(number + 1, patients)
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(
        [["patient_id", "path_xml", "label", "age", "sex"], *rows]
    )
    write_file(out / "manifest.csv", buffer.getvalue().encode())
    return len(rows), n_positive


def _write_patient(
    out: Path,
    number: int,
    prevalence: float,
    shares: dict[str, float],
    generator: np.random.Generator,
) -> list[list[str | int]]:
    """Write the recordings of one patient and return their manifest rows."""
    label = int(generator.random() < prevalence)
    severity = float(
        np.clip(generator.normal(1.1, 0.6) if label else generator.normal(0, 0.5), 0, 3)
    )
    heart = Heart.draw(generator, severity)
    age, sex = int(generator.integers(35, 85)), int(generator.integers(0, 2))
    rows: list[list[str | int]] = []
    for k in range(_choose(RECORDINGS_SHARES, generator)):
        rate_hz = _choose(RATE_SHARES, generator)
        dialect = _choose(shares, generator)
        uv = simulate(heart, rate_hz, generator)
        if generator.random() < ELECTRODE_OFF_SHARE:
            uv[TWELVE_LEADS.index(f"V{generator.integers(1, 7)}")] = 0
        name = f"xml/{number + 1:06d}_{k + 1}.xml"
        _write(out / name, VENDORS[dialect](uv, rate_hz, f"S{number + 1:06d}"))
        rows.append([f"S{number + 1:06d}", name, label, age, sex])
    return rows


def _write(path: Path, data: bytes) -> None:
    """Write a file that can be made again: not fsynced, but never left cut off. Raises NoSpace."""
    with out_of_space_is_named(path.parent):
        try:
            path.write_bytes(data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _choose(shares: dict[Choice, float], generator: np.random.Generator) -> Choice:
    return list(shares)[int(generator.choice(len(shares), p=list(shares.values())))]
