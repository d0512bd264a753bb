"""How fast do batches come? Ratios are taken side by side in one run.

    python bench/loader.py [--records 2048] [--rounds 15] [--other-batches 32,256,1024]
                           [--without-others] [--mosaic-python PYTHON]

Warm: against a C loop of memcpy that copies the same rows from memory into as many buffers of the
same size. Goals: `Store.gather` at 0.70 of it, the loader as iterated at 0.60. Cold, with the
store's own files evicted: against reading them from one end to the other, and against what the disk
can do with random rows; goal: 0.9 of the first. A store of a million records: opening, memory,
statistics. Then every other way to keep the same records (alternatives.py).
"""

from __future__ import annotations

import argparse
import gc
import mmap
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alternatives import compare_others
from corpus import anonymous_mb, fill, sparse_store, write_muse_corpus
from floor import Gather, memcpy_gather
from numpy.typing import NDArray

from ecgfit.data.loader import Batches, make_loader, prefetch
from ecgprep.building.plan import BuildSettings
from ecgprep.building.run import build_store
from ecgprep.patients.manifest import read_manifest
from ecgprep.store.format import CHUNK_RECORDS
from ecgprep.store.reader import Store

BATCHES = (32, 256, 1024)
_IN_FLIGHT = 16
"""Reads that the disk is given at once, where it is to show what it can do with random rows."""
_RING = 2
"""Buffers that the loader fills in turn without a thread."""


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_rounds(
    works: dict[str, Callable[[int], object]],
    rounds: int,
    before: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Run every work once a round, in a new order, and return seconds; a first round is dropped."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for k in range(rounds + 1):
        for name in np.random.default_rng(k).permutation(list(works)).tolist():
            before()
            taken[name].append(seconds(lambda name=name, k=k: works[name](k)))  # type: ignore[misc]
    return {name: times[1:] for name, times in taken.items()}


def ratios(taken: dict[str, list[float]], name: str, floor: str) -> str:
    """Median and range of a work's speed as a share of the floor's in the same round."""
    values = [low / time for low, time in zip(taken[floor], taken[name], strict=True)]
    return f"{statistics.median(values):6.2f} {f'[{min(values):.2f}..{max(values):.2f}]':14s}"


def exhaust(items: Iterable[object]) -> None:
    for _ in items:
        pass


def warm_works(
    store: Store, copy: NDArray[np.int16], batch: int, floor: Gather
) -> dict[str, Callable[[int], object]]:
    """Return what is timed at one batch size: the same random rows in each."""
    n = len(store) // batch * batch
    ring = list(np.ones((_RING, batch, *copy.shape[1:]), np.int16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: the array is read-only
        mapped = torch.from_numpy(store.waveforms)
    loader: Any = make_loader(store, np.arange(n), batch, seed=0)
    threaded = Batches(store, np.arange(n), batch, seed=0)

    def each(gather: Gather) -> Callable[[int], object]:
        def work(k: int) -> None:
            for i, rows in enumerate(np.random.default_rng(k).permutation(n).reshape(-1, batch)):
                gather(copy, rows, ring[i % _RING])

        return work

    def iterate(k: int) -> None:
        loader.dataset.epoch = k
        exhaust(loader)

    def iterate_threaded(k: int) -> None:
        threaded.epoch = k
        exhaust(prefetch(iter(threaded), 1))

    return {
        "floor": each(floor),
        "gather": each(lambda _, rows, out: store.gather(rows, out)),
        "loader": iterate,
        "with a thread": iterate_threaded,
        "index_select": each(
            lambda _, rows, out: torch.index_select(
                mapped, 0, torch.from_numpy(rows), out=torch.from_numpy(out)
            )
        ),
        "np.take": each(lambda _, rows, out: np.take(store.waveforms, rows, axis=0, out=out)),
    }


def compare_warm(store: Store, rounds: int, floor: Gather) -> None:
    """Print records a second and ratios to the floor, for each batch size."""
    copy = np.array(store.waveforms)
    # index_select would start a second thread for every row: a tenth of the speed where others
    # compute, too.
    torch.set_num_threads(1)
    columns = ("gather", "loader", "with a thread", "index_select", "np.take")
    print(f"{'batch':>6s} {'floor, rec/s':>13s}" + "".join(f" {name:>21s}" for name in columns))
    for batch in (size for size in BATCHES if size <= len(store)):
        taken = in_rounds(warm_works(store, copy, batch, floor), rounds)
        rate = len(store) // batch * batch / statistics.median(taken["floor"])
        print(
            f"{batch:6d} {rate:13,.0f}"
            + "".join(f" {ratios(taken, name, 'floor')}" for name in columns),
            flush=True,
        )


def evict(path: Path) -> None:
    """Drop a store's waveforms from the page cache; pages that are mapped anywhere stay."""
    gc.collect()
    for name in (store := Store(path)).layout.chunk_files("waveforms"):
        fd = os.open(store.path / name, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def read_direct(store: Store, rows: NDArray[np.int64]) -> None:
    """Read the waveforms of rows past the page cache: what the disk can do with random rows.

    It reads so many at a time that the disk always has enough to do.
    """
    size = store.layout.chunk_bytes("waveforms") // CHUNK_RECORDS
    files = [
        os.open(store.path / name, os.O_RDONLY | os.O_DIRECT)
        for name in store.layout.chunk_files("waveforms")
    ]

    def read(share: NDArray[np.int64]) -> None:
        with mmap.mmap(-1, size + 2 * mmap.PAGESIZE) as buffer:
            for chunk, offset in zip(
                (share // CHUNK_RECORDS).tolist(),
                (share % CHUNK_RECORDS * size).tolist(),
                strict=True,
            ):
                start = offset // mmap.PAGESIZE * mmap.PAGESIZE
                length = -(-(offset + size - start) // mmap.PAGESIZE) * mmap.PAGESIZE
                with memoryview(buffer)[:length] as part:
                    os.preadv(files[chunk], [part], start)

    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        list(pool.map(read, (rows[i::_IN_FLIGHT] for i in range(_IN_FLIGHT))))
    for file in files:
        os.close(file)


def compare_cold(path: Path, rounds: int) -> None:
    """Print the speed of random batches from disk.

    It is a share of that of reading the files from one end to the other, and of `read_direct`.
    """
    n, buffer = len(Store(path)), bytearray(8 << 20)

    def sequential(_: int) -> None:
        for name in Store(path).layout.chunk_files("waveforms"):
            with (path / name).open("rb", buffering=0) as file:
                while file.readinto(buffer):  # type: ignore[attr-defined]
                    pass

    def direct(k: int) -> None:
        read_direct(Store(path), np.random.default_rng(k).permutation(n))

    def random(batch: int) -> Callable[[int], object]:
        batches = Batches(Store(path), np.arange(n), batch, seed=0)
        exhaust(batches)  # its buffers are touched, as those of a later epoch are

        def work(k: int) -> None:
            batches.store, batches.epoch = Store(path), k
            exhaust(batches)
            batches.store = Store(path)  # unmapped, or nothing could be evicted

        batches.store = Store(path)
        return work

    works = {"sequential": sequential, "random, direct": direct} | {
        f"batches of {size}": random(size) for size in BATCHES if size <= n
    }
    evict(path)
    if not hasattr(os, "RWF_NOWAIT") or Store(path).is_resident(np.arange(n)):
        print("cold: skipped, files cannot be evicted here (a file system in memory?)")
        return
    taken = in_rounds(works, rounds, lambda: evict(path))
    for name, times in taken.items():
        rate = n / statistics.median(times)
        print(
            f"cold: {name:17s} {rate:9,.0f} rec/s"
            + "".join(
                f" {ratios(taken, name, floor)}" for floor in ("sequential", "random, direct")
            ),
            flush=True,
        )


def measure_large(folder: Path, n_records: int) -> None:
    """Print how long it takes to open a store of many short records, iterate it, and average it."""
    store, generator = sparse_store(folder, n_records, n_samples=2), np.random.default_rng(0)
    mask = generator.random((n_records, 8)) < 0.95
    total = generator.integers(-1000, 1000, (n_records, 8))
    fill(store, "lead_mask", mask)
    fill(store, "moments", np.stack([total, total**2], axis=2) * mask[:, :, None])
    fill(store, "valid_span", np.tile(np.array([0, 2], np.int32), (n_records, 1)))
    n_files, before, most = len(store.layout.chunk_files("waveforms")), anonymous_mb(), 0.0
    opening = seconds(lambda: Store(folder))
    mapping = seconds(lambda: store.waveforms)
    for i, _ in enumerate(make_loader(store, np.arange(n_records), 1024, seed=0)):
        most = max(most, anonymous_mb() - before) if i % 50 == 0 else most
    print(
        f"{n_records:,} records in {n_files:,} chunk files: opened in {opening:.2f} s, "
        f"mapped in {mapping * 1e3:.0f} ms, an epoch took {most:.0f} MB"
    )
    for name, rows in {
        "all rows": np.arange(n_records),
        "half of them, at random": generator.permutation(n_records)[: n_records // 2],
    }.items():
        times = [seconds(lambda rows=rows: store.lead_statistics(rows)) for _ in range(5)]  # type: ignore[misc]
        print(f"mean and deviation of {name}: {statistics.median(times) * 1e3:.0f} ms")


def main(argv: Sequence[str] | None = None) -> None:
    """Build a store and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--large", type=int, default=1_024_000, help="records of the large store")
    parser.add_argument(
        "--other-batches",
        default="256",
        help="batch sizes at which the other formats are compared, a minute and a half each  [256]",
    )
    parser.add_argument("--without-others", action="store_true", help="leave the other formats out")
    parser.add_argument(
        "--mosaic-python",
        help="an interpreter that has mosaicml-streaming, whose pins need their own environment",
    )
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = read_manifest(write_muse_corpus(folder, arguments.records))
        path = folder / "s.zarr"
        n_samples = build_store(
            manifest, path, BuildSettings(), registry_path=folder / "r.csv"
        ).n_samples
        floor_name, floor = memcpy_gather(folder)
        print(
            f"{arguments.records:,} records of 8 x {n_samples}; floor: {floor_name}; "
            f"median [range] of {arguments.rounds} rounds"
        )
        compare_warm(Store(path), arguments.rounds, floor)
        measure_large(folder / "large.zarr", arguments.large)
        if not arguments.without_others:
            for batch in map(int, arguments.other_batches.split(",")):
                compare_others(
                    folder, path, batch, max(1, arguments.rounds // 3), arguments.mosaic_python
                )
        # At the end: pages that come back one record at a time are copied a little more slowly.
        compare_cold(path, max(1, arguments.rounds // 3))


if __name__ == "__main__":
    main()
