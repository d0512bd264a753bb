"""How long does the search for re-exported recordings take? All pairs are compared, so the time grows with the square of their number.

    python bench/copies.py [--rows 100000] [--samples FOLDER]

Fingerprints are drawn from a normal distribution with mean and covariance of those of 400 simulated recordings (with --samples, a folder with
data/ptbxl/waveforms_500hz_uv.npz, of real ones), so that about as many pairs are alike as in a cohort; each pair that is alike is then
compared in full, with the spectra of recordings that exist. Goal: 100,000 in five minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgprep.copies import correlation, fingerprint, near_copies, similar_pairs
from ecgprep.quality import Spectrum, bins_per_hz, spectrum
from ecgprep.synth.simulator import Heart, simulate

EIGHT = [0, 1, 6, 7, 8, 9, 10, 11]
MASK = np.ones(8, bool)


def recordings(samples: Path | None) -> list[NDArray[np.int16]]:
    """Return recordings (8, 5000) int16 µV: real ones, or 400 simulated."""
    if samples:
        return [np.asarray(uv[EIGHT], np.int16) for uv in np.load(samples / "data" / "ptbxl" / "waveforms_500hz_uv.npz")["uv"]]
    generator = np.random.default_rng(0)
    return [np.rint(simulate(Heart.draw(generator, i % 2), 500, generator)[EIGHT]).astype(np.int16) for i in range(400)]


def main() -> None:
    """Print the time of both steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--samples", type=Path)
    arguments = parser.parse_args()
    known = recordings(arguments.samples)

    def load(row: int) -> tuple[Spectrum, float, NDArray[np.bool_], float]:
        bins = spectrum(known[row % len(known)], (0, 5000), MASK, 500)
        return bins, bins_per_hz(bins, 500), MASK, 10.0

    prints = np.stack([fingerprint(*load(row)[:2]) for row in range(len(known))]).astype(np.float64)
    generator = np.random.default_rng(1)
    root = np.linalg.svd(prints - prints.mean(axis=0), full_matrices=False)
    spread = (root.S[:, None] * root.Vh) / np.sqrt(len(known))
    drawn = np.empty((arguments.rows, prints.shape[1]), np.float16)
    for first in range(0, arguments.rows, 10_000):
        block = generator.normal(size=(min(10_000, arguments.rows - first), len(spread))) @ spread + prints.mean(axis=0)
        drawn[first : first + len(block)] = block
    rows = np.arange(arguments.rows)
    start = time.perf_counter()
    n_pairs = sum(1 for _ in similar_pairs(drawn, rows))
    products = time.perf_counter() - start
    start = time.perf_counter()
    groups = near_copies(drawn, rows, load)
    whole = time.perf_counter() - start
    print(f"{arguments.rows:,} recordings: {n_pairs:,} pairs are alike ({products:.0f} s); {whole:.0f} s in all, {len(groups):,} groups")
    print(f"({correlation.__module__}; drawn fingerprints stand for recordings that exist many times, so the groups mean nothing)")


if __name__ == "__main__":
    main()
