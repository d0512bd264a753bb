"""How long does the search for re-exported recordings take?

    python bench/duplicates.py [--rows 100000] [--samples FOLDER]

All pairs are compared, so the time grows with the square of the number of recordings. Two steps are
timed: the products of all fingerprints, and the full comparison of pairs whose fingerprints are
similar. The pairs come from 400 simulated recordings or, with --samples (a folder with
data/ptbxl/waveforms_500hz_uv.npz), from real ones. Each track is made anew, as in a large cohort,
where the two recordings of a pair lie far apart. Among 1,987 real recordings, 0.5 pairs in 10,000
are similar; the total is for as many. Goal: 100,000 recordings in five minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgprep.patients.duplicates import FINGERPRINT_SIZE, Track, correlation, similar_pairs
from ecgprep.quality import bins_per_hz, spectrum
from ecgprep.simulation.simulator import Heart, simulate

EIGHT = [0, 1, 6, 7, 8, 9, 10, 11]
"""Positions of the store's leads among the twelve."""
MASK = np.ones(8, bool)
SIMILAR_SHARE = 0.5e-4
N_PAIRS = 5_000


def real_recordings(samples: Path) -> list[NDArray[np.int16]]:
    """Return recordings (8, 5000) int16 µV of PTB-XL."""
    path = samples / "data" / "ptbxl" / "waveforms_500hz_uv.npz"
    return [np.asarray(uv[EIGHT], np.int16) for uv in np.load(path)["uv"]]


def simulated_recordings() -> list[NDArray[np.int16]]:
    """Return 400 recordings (8, 5000) int16 µV."""
    generator = np.random.default_rng(0)
    recordings = []
    for i in range(400):
        uv = simulate(Heart.draw(generator, i % 2), 500, generator)
        recordings.append(np.rint(uv[EIGHT]).astype(np.int16))
    return recordings


def time_products(n_rows: int) -> float:
    """Return the seconds that the products of all fingerprints take."""
    generator = np.random.default_rng(1)
    fingerprints = generator.normal(0, 30, (n_rows, FINGERPRINT_SIZE)).astype(np.int8)
    masks = np.ones((n_rows, 8), bool)
    start = time.perf_counter()
    for _ in similar_pairs(fingerprints, masks, np.arange(n_rows)):
        pass
    return time.perf_counter() - start


def time_comparison(recordings: list[NDArray[np.int16]]) -> float:
    """Return the seconds that a full comparison of one pair takes."""

    def track(row: int) -> Track:
        bins = spectrum(recordings[row], (0, 5000), MASK, 500)
        return Track(bins, bins_per_hz(bins, 500), MASK, 10.0)

    pairs = np.random.default_rng(2).integers(0, len(recordings), (N_PAIRS, 2)).tolist()
    start = time.perf_counter()
    for i, j in pairs:
        correlation(track(i), track(j))
    return (time.perf_counter() - start) / N_PAIRS


def main() -> None:
    """Print the time of both steps, and their sum for a cohort."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--samples", type=Path)
    arguments = parser.parse_args()
    samples = arguments.samples
    recordings = real_recordings(samples) if samples else simulated_recordings()
    n_rows = arguments.rows
    products_s = time_products(n_rows)
    comparison_s = time_comparison(recordings)
    n_pairs = SIMILAR_SHARE * n_rows * (n_rows - 1) / 2
    total_s = products_s + n_pairs * comparison_s
    print(
        f"{n_rows:,} recordings: all products {products_s:.0f} s; "
        f"one full comparison {1e6 * comparison_s:.0f} µs"
    )
    print(
        f"with {1e4 * SIMILAR_SHARE:g} similar pairs in 10,000: "
        f"{n_pairs:,.0f} full comparisons, {total_s:.0f} s in total"
    )


if __name__ == "__main__":
    main()
