"""Other ways to keep the same records, each measured beside the loader in its own process.

`bench/loader.py` starts them. A way writes and opens its copy of the store. It returns a function
that goes once through the rows it was given and yields (rows, waveforms) of each batch; a stream
yields them in its own order. Every batch of the first pass is compared with the store. What is not
installed is named and left out. The extra `bench` installs all but mosaicml-streaming, which pins
an older numpy:

    python -m venv mosaic && mosaic/bin/pip install 'mosaicml-streaming>=0.13' torch
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from floor import memcpy_gather
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ecgfit.data.loader import make_loader
from ecgprep.store.reader import Store

Rows = NDArray[np.int64]
Pass = Callable[[], Iterator[tuple[Any, Any]]]


@dataclass
class Source:
    """The store and the corpus that it was built from, and a folder to write into."""

    store: Store
    corpus: Path
    folder: Path
    batch: int = 256

    def records(self) -> Iterator[tuple[int, NDArray[np.int16]]]:
        """Yield every row with its waveforms."""
        yield from enumerate(self.store.waveforms)


def one_by_one(rows: Rows, read: Callable[[int], Any]) -> Pass:
    """Read each record into the next place of one of two buffers.

    A batch so stays whole while the next one is made, as the loader's does.
    """
    ring = np.empty((2, rows.shape[1], *np.asarray(read(int(rows[0, 0]))).shape), np.int16)

    def go() -> Iterator[tuple[Rows, Any]]:
        for k, batch in enumerate(rows):
            out = ring[k % 2]
            for i, row in enumerate(batch.tolist()):
                out[i] = read(row)
            yield batch, out

    return go


class Records(Dataset[Any]):
    """A map-style dataset of single records, as it is usually written."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, row: int) -> tuple[int, NDArray[np.int16]]:
        return row, self.store.waveforms[row].copy()


def dataset_with_workers(source: Source, rows: Rows) -> Pass:
    loader: Any = DataLoader(
        Records(source.store), batch_sampler=rows.tolist(), num_workers=2, persistent_workers=True
    )
    return lambda: iter(loader)


def dataset_in_process(source: Source, rows: Rows) -> Pass:
    loader: Any = DataLoader(Records(source.store), batch_sampler=rows.tolist())
    return lambda: iter(loader)


def zarr_items(source: Source, rows: Rows) -> Pass:
    import zarr

    array: Any = zarr.create_array(
        source.folder / "items.zarr",
        shape=source.store.waveforms.shape,
        chunks=(1, 8, source.store.n_samples),
        dtype="int16",
    )
    array[:] = source.store.waveforms
    return one_by_one(rows, lambda row: array[row])


def zarr_blocks(source: Source, rows: Rows) -> Pass:
    """Whole chunks of 256 records of the store itself, in random order: not random records."""
    import zarr

    array: Any = zarr.open_array(source.store.path / "waveforms", mode="r")
    blocks = np.unique(rows // array.chunks[0])

    def go() -> Iterator[tuple[Rows, Any]]:
        for block in blocks:
            first = int(block) * array.chunks[0]
            values = array[first : first + array.chunks[0]]
            yield np.arange(first, first + len(values)), values

    return go


def hdf5(source: Source, rows: Rows) -> Pass:
    """Contiguous; a batch is one selection, which h5py wants sorted."""
    import h5py

    with h5py.File(source.folder / "x.h5", "w") as file:
        file.create_dataset("x", data=source.store.waveforms)
    array = h5py.File(source.folder / "x.h5")["x"]

    def go() -> Iterator[tuple[Rows, Any]]:
        for batch in rows:
            ordered = np.sort(batch)
            yield ordered, array[ordered]

    return go


def lmdb(source: Source, rows: Rows) -> Pass:
    import lmdb as database

    environment = database.open(
        str(source.folder / "x.lmdb"), map_size=4 * source.store.waveforms.nbytes + 2**20
    )
    with environment.begin(write=True) as transaction:
        for row, record in source.records():
            transaction.put(b"%09d" % row, record.tobytes())
    transaction = environment.begin(buffers=True)
    shape = source.store.waveforms.shape[1:]
    return one_by_one(
        rows, lambda row: np.frombuffer(transaction.get(b"%09d" % row), np.int16).reshape(shape)
    )


def webdataset(source: Source, rows: Rows) -> Pass:
    """One tar of all records, shuffled in a buffer of 1,000: a stream, without rows to choose."""
    import webdataset as wds

    with wds.TarWriter(str(source.folder / "x.tar")) as tar:
        for row in np.sort(rows, axis=None).tolist():
            tar.write({"__key__": f"{row:09d}", "bin": source.store.waveforms[row].tobytes()})
    shape = source.store.waveforms.shape[1:]
    stream = wds.WebDataset(str(source.folder / "x.tar"), shardshuffle=False).shuffle(1000)

    def go() -> Iterator[tuple[Rows, Any]]:
        for keys, values in stream.to_tuple("__key__", "bin").batched(source.batch):
            yield (
                np.array([int(key) for key in keys]),
                np.stack([np.frombuffer(value, np.int16).reshape(shape) for value in values]),
            )

    return go


def mosaic(source: Source, rows: Rows) -> Pass:
    import streaming

    columns = {"row": "int", "x": f"ndarray:int16:8,{source.store.n_samples}"}
    with streaming.MDSWriter(out=str(source.folder / "mds"), columns=columns) as writer:
        for row, record in source.records():
            writer.write({"row": row, "x": np.array(record)})
    dataset = streaming.StreamingDataset(local=str(source.folder / "mds"), batch_size=source.batch)
    return one_by_one(rows, lambda row: dataset[row]["x"])


def hugging_face(source: Source, rows: Rows) -> Pass:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"x": datasets.Array2D(source.store.waveforms.shape[1:], "int16")})
    datasets.Dataset.from_dict({"x": list(source.store.waveforms)}, features=features).save_to_disk(
        str(source.folder / "hf")
    )
    dataset = datasets.load_from_disk(str(source.folder / "hf")).with_format("numpy")
    return lambda: ((batch, dataset[batch.tolist()]["x"]) for batch in rows)


def tensorstore(source: Source, rows: Rows) -> Pass:
    import tensorstore as ts

    shape = source.store.waveforms.shape
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, *shape[1:]]}}
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(source.folder / "ts")}}
    spec["metadata"] = {"shape": list(shape), "data_type": "int16", "chunk_grid": grid}
    array = ts.open(spec, create=True).result()
    array.write(source.store.waveforms).result()
    return lambda: ((batch, array[batch].read().result()) for batch in rows)


def npy_files(source: Source, rows: Rows) -> Pass:
    for row, record in source.records():
        np.save(source.folder / f"{row}.npy", record)
    return one_by_one(rows, lambda row: np.load(source.folder / f"{row}.npy"))


def xml_again(source: Source, rows: Rows) -> Pass:
    """The vendor's files, read and conformed by ecgprep."""
    from ecgprep.conform import Conformity, conform
    from ecgprep.readers import read_recording

    return one_by_one(
        rows,
        lambda row: (
            conform(read_recording(source.corpus / "xml" / f"{row}.xml"), Conformity()).waveform
        ),
    )


@dataclass(frozen=True)
class Way:
    """Name of a way, the package it needs, and the most records of a pass: few where it is slow."""

    name: str
    package: str
    open: Callable[[Source, Rows], Pass]
    records: int = 16384


WAYS = [
    Way("Dataset per item, 2 workers", "torch", dataset_with_workers),
    Way("Dataset per item, no workers", "torch", dataset_in_process),
    Way("LMDB", "lmdb", lmdb),
    Way("HDF5 contiguous, h5py", "h5py", hdf5),
    Way("tensorstore, chunks of 1", "tensorstore", tensorstore, 1024),
    Way("one .npy per record", "numpy", npy_files),
    Way("zarr, blocks of 256", "zarr", zarr_blocks),
    Way("zarr, items", "zarr", zarr_items, 512),
    Way("Hugging Face datasets", "datasets", hugging_face, 1024),
    Way("webdataset, shuffle(1000)", "webdataset", webdataset),
    Way("MosaicML streaming", "streaming", mosaic, 1024),
    Way("XML, parsed again", "lxml", xml_again, 512),
]


def timed(way: Pass) -> tuple[int, float]:
    """Go through once: number of records, seconds."""
    start = time.perf_counter()
    n = sum(len(waveforms) for _, waveforms in way())
    return n, time.perf_counter() - start


def measure(way: Way, source: Source, rounds: int) -> dict[str, Any]:
    """Time a way, the loader and the floor in turn, after a pass of each that is only compared."""
    store = source.store
    batch = min(source.batch, len(store))
    rows = (
        np.random.default_rng(0)
        .permutation(len(store))[: len(store) // batch * batch]
        .reshape(-1, batch)
    )
    there = way.open(source, rows[: max(1, way.records // batch)])
    for seen, values in there():
        if not np.array_equal(np.asarray(values), store.waveforms[np.asarray(seen)]):
            raise ValueError(f"{way.name} does not return what the store holds")
    loader: Any = make_loader(store, rows.ravel(), batch, seed=0)
    copy, ring = (
        np.array(store.waveforms),
        np.empty((2, batch, *store.waveforms.shape[1:]), np.int16),
    )
    _, gather = memcpy_gather(source.corpus)

    def floor() -> Iterator[tuple[Rows, Any]]:
        for k, some in enumerate(rows):
            gather(copy, some, ring[k % 2])
            yield some, ring[k % 2]

    works: dict[str, Pass] = {
        "way": there,
        "gather": lambda: ((some, store.gather(some, ring[k % 2])) for k, some in enumerate(rows)),
        "loader": lambda: ((part.rows, part.waveforms) for part in loader),
        "floor": floor,
    }
    rates: dict[str, list[float]] = {name: [] for name in works}
    for k in range(rounds + 1):
        for name in np.random.default_rng(k).permutation(list(works)).tolist():
            n, taken = timed(works[name])
            rates[name].append(n / taken)
    return {name: values[1:] for name, values in rates.items()}


def in_own_process(
    way: Way, python: str, corpus: Path, store: Path, batch: int, rounds: int
) -> dict[str, Any] | str:
    """Return what `measure` found in a separate process, or a text that says why it found nothing.

    So workers and caches do not disturb the next way.
    """
    code = (
        f"import sys, importlib.util; sys.exit(importlib.util.find_spec({way.package!r}) is None)"
    )
    if subprocess.run([python, "-c", code], check=False).returncode:
        return f"skipped: {way.package} is not installed"
    program = [python, "-W", "ignore", __file__]
    arguments = [way.name, str(corpus), str(store), str(batch), str(rounds)]
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        return "failed: " + (done.stderr.strip().splitlines() or ["without a word"])[-1]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def spread(rates: dict[str, list[float]], name: str, other: str) -> str:
    """Median and range of the ratio of two speeds in the same round."""
    values = [one / two for one, two in zip(rates[name], rates[other], strict=True)]
    median = statistics.median(values)
    if median < 0.3:
        digits = 3
    elif median < 3:
        digits = 2
    else:
        digits = 1
    return f"{median:.{digits}f} [{min(values):.{digits}f}..{max(values):.{digits}f}]"


def compare_others(
    corpus: Path, store: Path, batch: int, rounds: int, mosaic_python: str | None
) -> None:
    """Print each way's speed, its share of the floor, and how many times faster ecgprep is.

    `Store.gather` is what a way does; the whole loader does more.
    """
    print(
        f"\n{f'batches of {batch}':30s} {'rec/s':>9s} {'of the floor':>20s} "
        f"{'gather is faster by':>22s} {'the loader is faster by':>24s}"
    )
    for way in WAYS:
        python = mosaic_python if way.package == "streaming" and mosaic_python else sys.executable
        found = in_own_process(way, python, corpus, store, batch, rounds)
        if isinstance(found, str):
            print(f"{way.name:30s} {found}", flush=True)
            continue
        share = spread(found, "way", "floor")
        gather = spread(found, "gather", "way")
        whole = spread(found, "loader", "way")
        speed = f"{statistics.median(found['way']):9,.0f}"
        print(f"{way.name:30s} {speed} {share:>20s} {gather:>22s} {whole:>24s}", flush=True)


def main() -> None:
    """Measure one way and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=[way.name for way in WAYS])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("batch", type=int)
    parser.add_argument("rounds", type=int)
    arguments = parser.parse_args()
    way = next(way for way in WAYS if way.name == arguments.way)
    folder = Path(tempfile.mkdtemp(dir=arguments.corpus))
    try:
        print(
            json.dumps(
                measure(
                    way,
                    Source(Store(arguments.store), arguments.corpus, folder, arguments.batch),
                    arguments.rounds,
                )
            )
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
