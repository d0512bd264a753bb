"""A labelled corpus of simulated ECGs in vendor XML.

`ecgprep synth` writes it, `make demo` runs on it, and the tests start from it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ecgprep.errors import TargetExists
from ecgprep.files.atomic import naming_full_disk, write_file
from ecgprep.files.output import refuse_inside_store
from ecgprep.leads import TWELVE_LEADS
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import VENDORS

HEADER = ("patient_id", "path_xml", "label", "age", "sex")
DIALECT_SHARES = {"muse": 0.5, "aecg": 0.3, "cardiosoft": 0.2}
RATE_SHARES = {500: 0.7, 250: 0.3}
RECORDINGS_SHARES = {1: 0.6, 2: 0.3, 3: 0.1}
"""Shares of patients with one, two and three recordings."""
ELECTRODE_OFF_SHARE = 0.02
"""Share of recordings in which one chest electrode is off: its lead is flat."""

Choice = TypeVar("Choice", int, str)
ManifestRow = tuple[str, str, int, int, int]
"""One row under HEADER."""


def write_corpus(
    out: Path,
    patients: int,
    seed: int,
    prevalence: float,
    replace: bool = False,
    dialects: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Write OUT/xml/*.xml and OUT/manifest.csv.

    A patient depends on (seed, its number) alone, so a larger corpus starts with the smaller one.
    Labels depend on nothing but the heart: not on dialect, rate or number of recordings.
    `dialects`, if given, are written in equal shares instead of the usual ones. `progress` is
    called with the numbers of patients written and wanted.

    Returns the numbers of files and of positive patients. Raises TargetExists, and NoSpace when the
    disk is full.
    """
    manifest = out / "manifest.csv"
    refuse_inside_store(manifest)
    if manifest.exists() and not replace:
        raise TargetExists(
            f"{out} already holds a corpus. Use --replace to write into it, or another folder."
        )
    (out / "xml").mkdir(parents=True, exist_ok=True)
    shares = {name: 1 / len(dialects) for name in dialects} or DIALECT_SHARES
    rows: list[ManifestRow] = []
    n_positive = 0
    for number in range(patients):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number])))
        label, patient_rows = _write_patient(out, number, prevalence, shares, generator)
        rows += patient_rows
        n_positive += label
        if progress:
            progress(number + 1, patients)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
    write_file(manifest, text.getvalue().encode())
    return len(rows), n_positive


def _write_patient(
    out: Path,
    number: int,
    prevalence: float,
    shares: dict[str, float],
    generator: np.random.Generator,
) -> tuple[int, list[ManifestRow]]:
    """Write the recordings of one patient and return (label, manifest rows)."""
    label = int(generator.random() < prevalence)
    mean, spread = (1.1, 0.6) if label else (0, 0.5)
    severity = float(np.clip(generator.normal(mean, spread), 0, 3))
    heart = Heart.draw(generator, severity)
    age, sex = int(generator.integers(35, 85)), int(generator.integers(0, 2))
    patient = f"S{number + 1:06d}"
    rows = []
    for k in range(_choose(RECORDINGS_SHARES, generator)):
        name = f"xml/{number + 1:06d}_{k + 1}.xml"
        _write(out / name, _vendor_file(heart, patient, shares, generator))
        rows.append((patient, name, label, age, sex))
    return label, rows


def _vendor_file(
    heart: Heart, patient: str, shares: dict[str, float], generator: np.random.Generator
) -> bytes:
    """Simulate one recording and return it in a dialect drawn from `shares`."""
    rate_hz = _choose(RATE_SHARES, generator)
    dialect = _choose(shares, generator)
    uv = simulate(heart, rate_hz, generator)
    if generator.random() < ELECTRODE_OFF_SHARE:
        chest_lead = f"V{generator.integers(1, 7)}"
        uv[TWELVE_LEADS.index(chest_lead)] = 0
    return VENDORS[dialect](uv, rate_hz, patient)


def _write(path: Path, data: bytes) -> None:
    """Write a file that can be made again: not fsynced, but never left cut off. Raises NoSpace."""
    with naming_full_disk(path.parent):
        try:
            path.write_bytes(data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _choose(shares: dict[Choice, float], generator: np.random.Generator) -> Choice:
    """Draw one of the keys with the probabilities that are its values."""
    choices = list(shares)
    return choices[int(generator.choice(len(choices), p=list(shares.values())))]
