"""Check a store against itself and with an independent reader.

`ecgprep verify` does this, and so does every build before it publishes a store.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import STATUS_CODE, STATUSES, StoreError
from ecgprep.leads import LEADS
from ecgprep.store.additions import LEAD_FILES, addition_faults, is_plainly_written
from ecgprep.store.format import (
    ARRAYS,
    CHUNK_RECORDS,
    LABEL_UNKNOWN,
    N_THREADS,
    SPLIT_NONE,
    SPLITS,
)
from ecgprep.store.reader import Store

MAX_SHOWN = 20
"""Rows named in a message; the rest are counted."""

MAX_STRAYS_SHOWN = 5
"""Stray files named in a message; the rest are counted."""


@dataclass(frozen=True)
class Verification:
    """The result: `faults` is empty for an intact store, `bad_rows` are damaged waveforms."""

    faults: tuple[str, ...]
    bad_rows: tuple[int, ...]
    stray_files: tuple[str, ...] = ()
    differs_in: tuple[str, ...] = ()
    """Attributes and arrays that are not those of a store that it was compared with."""

    @property
    def intact(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    @property
    def advice(self) -> str:
        """What to do about the faults."""
        if self.stray_files and len(self.faults) == 1:
            return "Delete the files that do not belong."
        return "Restore it from a copy, or build it again."


class VerificationFailed(StoreError):
    """A store that has just been written is damaged; `bad_rows` are its damaged waveforms."""

    def __init__(self, result: Verification) -> None:
        super().__init__(
            "Verification failed: the store read back differs from what was written "
            f"({'; '.join(result.faults)}). Check the disk, then run the same command again: "
            "damaged parts are built again, intact ones are kept."
        )
        self.bad_rows = result.bad_rows


def verify_new_store(path: Path, intact_chunks: Collection[int] = ()) -> None:
    """Check a store whose content hash has just been computed from its files.

    Waveforms in `intact_chunks` are known to be those of a verified store.

    Raises VerificationFailed listing the faults.
    """
    result = check_store(path, rehash=False, intact_chunks=intact_chunks)
    if result.faults:
        raise VerificationFailed(result)


def check_store(
    path: Path, rehash: bool = True, intact_chunks: Collection[int] = ()
) -> Verification:
    """Check everything that a store promises.

    Opening checks shapes and sizes. Then follow the content hash (with `rehash`), files that do not
    belong, every row's checksum and moments (but for `intact_chunks`), patient-disjoint splits, and
    whether zarr-python reads the same values as the map. Raises StoreError when the store cannot
    even be opened.
    """
    store = Store(path)
    faults = []
    if rehash and store.computed_sha256() != store.content_sha256:
        faults.append("its files do not match content_sha256")
    faults += _root_faults(store)
    strays = _stray_files(store)
    if strays:
        faults.append(_describe_strays(strays))
    bad_rows = _bad_rows(store, intact_chunks)
    if bad_rows:
        listed = ", ".join(map(str, bad_rows[:MAX_SHOWN])) + _and_more(bad_rows, MAX_SHOWN)
        faults.append(f"waveform checksum or moments are wrong in row {listed}")
    faults += _table_faults(store)
    faults += _zarr_faults(store)
    return Verification(tuple(faults), tuple(bad_rows), tuple(strays))


def _and_more(found: list[Any], shown: int) -> str:
    n_more = len(found) - shown
    return f" and {n_more:,} more" if n_more > 0 else ""


def _root_faults(store: Store) -> list[str]:
    """Check the bytes of the root `zarr.json`, and what was added beside the format."""
    data = (store.path / "zarr.json").read_bytes()
    root = json.loads(data)
    faults = addition_faults(store.path, root, tuple(ARRAYS))
    if not is_plainly_written(data, root):
        faults.append("zarr.json is not written as format 1 writes it")
    return faults


def _stray_files(store: Store) -> list[str]:
    """Return the files that do not belong to a store, relative to it."""
    expected = {"zarr.json", *LEAD_FILES, *(name for name, _ in store.layout.files())}
    strays = []
    for path in store.path.rglob("*"):
        name = path.relative_to(store.path).as_posix()
        if name not in expected and not path.is_dir():
            strays.append(name)
    return sorted(strays)


def _describe_strays(strays: list[str]) -> str:
    listed = ", ".join(strays[:MAX_STRAYS_SHOWN]) + _and_more(strays, MAX_STRAYS_SHOWN)
    count = "1 file does" if len(strays) == 1 else f"{len(strays):,} files do"
    return (
        f"{count} not belong to a store: {listed} (files that a system adds, such as .DS_Store, "
        "may be deleted; if no other fault is listed, nothing else is wrong)"
    )


def _bad_rows(store: Store, intact_chunks: Collection[int]) -> list[int]:
    """Return the rows whose waveform fails its CRC-32C or is not what the small arrays say."""
    crc32c, mask = store.array("crc32c"), store.array("lead_mask")
    span, moments = store.array("valid_span"), store.array("moments")

    def is_intact(row: int, waveform: NDArray[np.int16]) -> bool:
        if not _is_described(waveform, mask[row], span[row], moments[row]):
            return False
        return bool(google_crc32c.value(waveform.tobytes()) == crc32c[row])

    def bad_rows_of_chunk(first: int) -> list[int]:
        rows = np.arange(first, min(first + CHUNK_RECORDS, len(store)))
        waveforms = _gather(store, rows)
        return [
            row
            for row, waveform in zip(rows.tolist(), waveforms, strict=True)
            if not is_intact(row, waveform)
        ]

    firsts = [
        first
        for first in range(0, len(store), CHUNK_RECORDS)
        if first // CHUNK_RECORDS not in intact_chunks
    ]
    bad_rows: list[int] = []
    with ThreadPoolExecutor(N_THREADS) as threads:
        for found in threads.map(bad_rows_of_chunk, firsts):
            bad_rows += found
    return bad_rows


def _gather(store: Store, rows: NDArray[np.int64]) -> NDArray[np.int16]:
    """Copy the waveforms of `rows` into a new little-endian array."""
    return store.gather(rows, np.empty((len(rows), len(LEADS), store.n_samples), "<i2"))


def _is_described(
    waveform: NDArray[np.int16],
    mask: NDArray[np.bool_],
    span: NDArray[np.int32],
    moments: NDArray[np.int64],
) -> bool:
    """Return whether mask, span and moments of a row describe its waveform (8, L)."""
    first, last = span
    if not 0 <= first <= last <= waveform.shape[1]:
        return False
    if waveform[~mask].any() or waveform[:, :first].any() or waveform[:, last:].any():
        return False
    x = waveform.astype(np.float64)  # exact: see conform.py
    sums = np.stack([x.sum(axis=1), np.einsum("ij,ij->i", x, x)], axis=1)
    return bool(np.array_equal(sums, moments))


def _table_faults(store: Store) -> list[str]:
    """Check the small arrays against each other.

    Values must be defined, usable rows must have a patient and a split, and a patient may be in
    one split only.
    """
    status, split, patient, label = (
        store.array(name) for name in ("status", "split", "patient", "label")
    )
    ok = status == STATUS_CODE["ok"]
    faults = []
    is_defined = (
        status.max() < len(STATUSES)
        and split.min() >= SPLIT_NONE
        and split.max() < len(SPLITS)
        and np.isin(label, (LABEL_UNKNOWN, 0, 1)).all()
    )
    if not is_defined:
        faults.append("status, split or label holds a value that format 1 does not define")
    if not ((split >= 0) == ok).all() or not ((patient >= 0) == ok).all():
        faults.append("usable rows lack a patient or a split, or unusable rows have one")
    pairs = np.unique(np.stack([patient[ok], split[ok]]), axis=1)
    n_shared = len(pairs[0]) - len(np.unique(pairs[0]))
    if n_shared:
        faults.append(f"{n_shared} patients have recordings in more than one split")
    return faults


def _zarr_faults(store: Store) -> list[str]:
    """Compare the small arrays and the last waveform chunk with what zarr-python reads."""
    import zarr  # 0.3 s

    group = zarr.open_group(store.path, mode="r", use_consolidated=False)
    last_chunk = np.arange((len(store) - 1) // CHUNK_RECORDS * CHUNK_RECORDS, len(store))
    differing = []
    for name in ARRAYS:
        array: Any = group[name]
        if name == "waveforms":
            found, expected = array[last_chunk[0] :], _gather(store, last_chunk)
        else:
            found, expected = array[:], store.array(name)
        if not np.array_equal(found, expected, equal_nan=name == "covariates"):
            differing.append(name)
    if not differing:
        return []
    return [f"zarr-python reads other values in {', '.join(sorted(differing))}"]
