"""A corpus for the benchmarks: simulated MUSE files at 500 Hz, all different, written once per run into a temporary folder."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ecgprep.synth.simulator import Heart, simulate
from ecgprep.synth.vendors import muse


def write_muse_corpus(folder: Path, n_files: int) -> Path:
    """Write `n_files` recordings of as many patients and return the manifest."""
    (folder / "xml").mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows: list[tuple[str, str, str | int]] = [("patient_id", "path_xml", "label")]
    for i in range(n_files):
        (folder / "xml" / f"{i}.xml").write_bytes(muse(simulate(Heart.draw(generator, i % 2), 500, generator), 500, f"B{i}"))
        rows.append((f"B{i}", f"xml/{i}.xml", i % 2))
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "manifest.csv"
