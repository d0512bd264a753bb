"""How long does the search for re-exported recordings take? All pairs are compared, so the time grows with the square of their number.

    python bench/copies.py [--rows 100000] [--samples FOLDER]

Timed are the products of all fingerprints, and the full comparison of pairs that are alike: pairs of 400 simulated recordings, or with
--samples (a folder with data/ptbxl/waveforms_500hz_uv.npz) of real ones, every track made anew as in a large cohort, where pairs are far
apart. On 1,987 real recordings 0.5 pairs in 10,000 are alike; the sum is for as many. Goal: 100,000 in five minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgprep.patients.duplicates import FINGERPRINT_SIZE, _Track, correlation, similar_pairs
from ecgprep.quality import bins_per_hz, spectrum
from ecgprep.simulation.simulator import Heart, simulate

EIGHT = [0, 1, 6, 7, 8, 9, 10, 11]
MASK = np.ones(8, bool)
ALIKE = 0.5e-4
N_PAIRS = 5_000


def recordings(samples: Path | None) -> list[NDArray[np.int16]]:
    """Return recordings (8, 5000) int16 µV: real ones, or 400 simulated."""
    if samples:
        return [
            np.asarray(uv[EIGHT], np.int16)
            for uv in np.load(samples / "data" / "ptbxl" / "waveforms_500hz_uv.npz")["uv"]
        ]
    generator = np.random.default_rng(0)
    return [
        np.rint(simulate(Heart.draw(generator, i % 2), 500, generator)[EIGHT]).astype(np.int16)
        for i in range(400)
    ]


def main() -> None:
    """Print the time of both steps, and their sum for a cohort."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--samples", type=Path)
    arguments = parser.parse_args()
    known = recordings(arguments.samples)

    def track(row: int) -> _Track:
        bins = spectrum(known[row], (0, 5000), MASK, 500)
        return _Track(bins, bins_per_hz(bins, 500), MASK, 10.0)

    generator = np.random.default_rng(1)
    drawn = generator.normal(0, 30, (arguments.rows, FINGERPRINT_SIZE)).astype(np.int8)
    start = time.perf_counter()
    sum(
        1
        for _ in similar_pairs(drawn, np.ones((arguments.rows, 8), bool), np.arange(arguments.rows))
    )
    products = time.perf_counter() - start
    start = time.perf_counter()
    for i, j in generator.integers(0, len(known), (N_PAIRS, 2)).tolist():
        correlation(track(i), track(j))
    a_pair = (time.perf_counter() - start) / N_PAIRS
    n_pairs = ALIKE * arguments.rows * (arguments.rows - 1) / 2
    print(
        f"{arguments.rows:,} recordings: all products {products:.0f} s; one full comparison {1e6 * a_pair:.0f} µs"
    )
    print(
        f"with {1e4 * ALIKE:g} alike in 10,000: {n_pairs:,.0f} full comparisons, {products + n_pairs * a_pair:.0f} s in all"
    )


if __name__ == "__main__":
    main()
