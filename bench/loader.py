"""How fast do batches come? Ratios are taken side by side in one run.

    python bench/loader.py [--records 3072] [--rounds 15]

Floor: `np.take(..., out=, mode="clip")` of the same rows from a copy in RAM. Goal: `Store.gather`, warm, at no less than 0.6 of it for
batches of 256; memory beyond the page cache does not grow with the store.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from corpus import write_muse_corpus

from ecgfit.loader import make_loader
from ecgprep.build import build_store
from ecgprep.manifest import read_manifest
from ecgprep.plan import BuildSettings
from ecgprep.store import Store

BATCHES = (32, 256, 1024)


def anonymous_mb() -> float:
    """Memory of this process that is not backed by a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


def compare(store: Store, rounds: int) -> None:
    """Print records a second and the ratio to the floor for gather and for the loader as iterated."""
    n = len(store)
    copy = np.array(store.waveforms)
    print(f"{'batch':>6s} {'floor rec/s':>12s} {'gather':>8s} {'range':>14s} {'loader':>8s} {'range':>14s}")
    for batch in BATCHES:
        out = np.empty((batch, 8, store.n_samples), np.int16)
        floors, gathers, loaders = [], [], []
        loader: Any = make_loader(store, np.arange(n // batch * batch), batch, seed=0)
        for k in range(rounds):
            order = np.random.default_rng(k).permutation(n)[: n // batch * batch]
            rows = order.reshape(-1, batch)
            floors.append(timed(lambda rows=rows, out=out: [np.take(copy, r, axis=0, out=out, mode="clip") for r in rows]))
            gathers.append(timed(lambda rows=rows, out=out: [store.gather(r, out) for r in rows]))
            loader.dataset.epoch = k
            loaders.append(timed(lambda loader=loader: [None for _ in loader]))
        ratios = [[f / x for f, x in zip(floors, xs, strict=True)] for xs in (gathers, loaders)]
        rate = n / statistics.median(floors)
        cells = "".join(f" {statistics.median(r):8.2f} {f'[{min(r):.2f}..{max(r):.2f}]':>14s}" for r in ratios)
        print(f"{batch:6d} {rate:12,.0f}{cells}")


def timed(work: object) -> float:
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start


def main() -> None:
    """Build a store and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=3072)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = read_manifest(write_muse_corpus(Path(folder), arguments.records))
        store = build_store(manifest, Path(folder) / "s.zarr", BuildSettings(), registry_path=Path(folder) / "r.csv")
        before = anonymous_mb()
        out = np.empty((256, 8, store.n_samples), np.int16)
        for first in range(0, len(store), 256):
            rows = np.arange(first, min(first + 256, len(store)))
            store.gather(rows, out[: len(rows)])
        print(f"reading {len(store) * 80_000 / 1e6:.0f} MB of waveforms took {anonymous_mb() - before:.0f} MB of memory, the batch included")
        compare(store, arguments.rounds)


if __name__ == "__main__":
    main()
