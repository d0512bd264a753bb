"""A labelled corpus of simulated ECGs in vendor XML.

`ecgprep synth` writes it, `make demo` runs on it, and the tests start from it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import TypeVar

import numpy as np

from ecgprep.errors import TargetExists
from ecgprep.files.atomic import naming_full_disk, write_file
from ecgprep.files.output import refuse_inside_store
from ecgprep.header import Header
from ecgprep.leads import TWELVE_LEADS
from ecgprep.simulation.headers import draw_headers
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import VENDORS

HEADER = ("patient_id", "path_xml", "label", "age", "sex")
"""Columns of the manifest; `sex` is 1 for F."""
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
    """Write OUT/xml/*.xml, OUT/manifest.csv, and OUT/headers.csv with what stands in each file.

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
    headers: list[Header] = []
    n_positive = 0
    for number in range(patients):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number])))
        beside = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number, 1])))
        written = _write_patient(out, number, prevalence, shares, generator, beside)
        rows += [row for row, _ in written]
        headers += [header for _, header in written]
        n_positive += written[0][0][2]
        if progress:
            progress(number + 1, patients)
    names = [field.name for field in fields(Header)]
    texts = [[row[1], *astuple(header)] for row, header in zip(rows, headers, strict=True)]
    write_csv(out / "headers.csv", [["path_xml", *names], *texts])
    write_csv(manifest, [HEADER, *rows])
    return len(rows), n_positive


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a table whole or not at all; None becomes an empty field. Raises NoSpace."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_file(path, text.getvalue().encode())


def _write_patient(
    out: Path,
    number: int,
    prevalence: float,
    shares: dict[str, float],
    generator: np.random.Generator,
    beside: np.random.Generator,
) -> list[tuple[ManifestRow, Header]]:
    """Write the recordings of one patient and return the manifest row and the header of each.

    `beside` draws the headers: what they say changes no waveform.
    """
    label = int(generator.random() < prevalence)
    mean, spread = (1.1, 0.6) if label else (0, 0.5)
    severity = float(np.clip(generator.normal(mean, spread), 0, 3))
    heart = Heart.draw(generator, severity)
    age, sex = int(generator.integers(35, 85)), int(generator.integers(0, 2))
    patient = f"S{number + 1:06d}"
    written = []
    headers = draw_headers(patient, age, sex == 1, heart, beside)
    for k in range(choose(RECORDINGS_SHARES, generator)):
        name = f"xml/{number + 1:06d}_{k + 1}.xml"
        header = next(headers)
        write_plain(out / name, _vendor_file(heart, header, shares, generator))
        written.append(((patient, name, label, age, sex), header))
    return written


def _vendor_file(
    heart: Heart, header: Header, shares: dict[str, float], generator: np.random.Generator
) -> bytes:
    """Simulate one recording and return it in a dialect drawn from `shares`."""
    rate_hz = choose(RATE_SHARES, generator)
    dialect = choose(shares, generator)
    uv = simulate(heart, rate_hz, generator)
    if generator.random() < ELECTRODE_OFF_SHARE:
        chest_lead = f"V{generator.integers(1, 7)}"
        uv[TWELVE_LEADS.index(chest_lead)] = 0
    return VENDORS[dialect](uv, rate_hz, header.patient_id, header=header)


def write_plain(path: Path, data: bytes) -> None:
    """Write a file that can be made again: not fsynced, but never left cut off. Raises NoSpace."""
    with naming_full_disk(path.parent):
        try:
            path.write_bytes(data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def choose(shares: dict[Choice, float], generator: np.random.Generator) -> Choice:
    """Draw one of the keys with the probabilities that are its values."""
    choices = list(shares)
    return choices[int(generator.choice(len(choices), p=list(shares.values())))]
