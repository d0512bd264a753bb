"""Chunk files made of rows of other stores: linked where they stay whole, gathered where not."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgprep.building.writer import Taken
from ecgprep.errors import StoreError
from ecgprep.files.atomic import write_file
from ecgprep.store.format import CHUNK_RECORDS, Layout
from ecgprep.store.reader import Store

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Sources:
    """Where the rows of a new store come from: `row[i]` (N,) of `stores[store[i]]`."""

    stores: Sequence[Store]
    store: NDArray[np.int64]
    row: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def linked(self) -> dict[int, tuple[int, int]]:
        """Chunks that are whole chunks of a source: {chunk: (store, its chunk)}."""
        found = {}
        for chunk in range(-(-len(self) // CHUNK_RECORDS)):
            store, rows = self.store[self._part(chunk)], self.row[self._part(chunk)]
            k, start = int(store[0]), int(rows[0])
            n_there = min(CHUNK_RECORDS, len(self.stores[k]) - start)
            is_whole = start % CHUNK_RECORDS == 0 and (store == k).all()
            if is_whole and np.array_equal(rows, start + np.arange(n_there)):
                found[chunk] = (k, start // CHUNK_RECORDS)
        return found

    @staticmethod
    def _part(chunk: int) -> slice:
        return slice(chunk * CHUNK_RECORDS, (chunk + 1) * CHUNK_RECORDS)

    def check_intact(self) -> None:
        """Hash every byte of every source. Raises StoreError for one that is damaged."""
        for store in self.stores:
            if not store.is_intact():
                raise StoreError(
                    f"{store.path} is damaged. `ecgprep verify {store.path}` lists the faults."
                )

    def gather(self, chunk: int, layout: Layout) -> NDArray[np.int16]:
        """Return the waveforms of a chunk, with zeros below the last row."""
        waveforms = np.zeros(layout.chunk_shape("waveforms"), "<i2")
        store, row = self.store[self._part(chunk)], self.row[self._part(chunk)]
        for k in np.unique(store).tolist():
            of_store = np.flatnonzero(store == k)
            out = np.empty((len(of_store), *waveforms.shape[1:]), "<i2")
            waveforms[of_store] = self.stores[k].gather(row[of_store], out)
        return waveforms

    def array(self, name: str) -> NDArray[np.generic]:
        """Return one of the small arrays that all stores have, of every row."""
        first = self.stores[0].array(name)
        values = np.empty((len(self), *first.shape[1:]), first.dtype.newbyteorder("="))
        for k, store in enumerate(self.stores):
            of_store = self.store == k
            values[of_store] = store.array(name)[self.row[of_store]]
        return values

    def write_chunks(self, built: Path, layout: Layout, progress: Progress | None) -> Taken:
        """Write all chunks of a new store and return what was taken. Raises NoSpace."""
        hashes = {}
        for chunk, name in enumerate(layout.chunk_files("waveforms")):
            target = built / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if chunk in self.linked:
                k, number = self.linked[chunk]
                source = self.stores[k].layout.chunk_file("waveforms", number)
                target.unlink(missing_ok=True)
                _link_or_copy(self.stores[k].path / source, target)
                hashes[name] = self.stores[k].file_hashes[source]
            else:
                write_file(target, self.gather(chunk, layout).data)
            if progress:
                progress(min((chunk + 1) * CHUNK_RECORDS, len(self)), len(self))
        return Taken(_versions(self.stores), hashes, frozenset(self.linked))


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        write_file(target, source.read_bytes())


def _versions(stores: Sequence[Store]) -> dict[str, str]:
    """Return the versions that built the stores, such as 2.2.1, or 2.2.1+2.3.0 if they differ."""
    of_each = [store.attributes["software"] for store in stores]
    names = sorted({name for versions in of_each for name in versions})
    return {
        name: "+".join(dict.fromkeys(one[name] for one in of_each if name in one))[:40]
        for name in names
    }
