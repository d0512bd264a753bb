"""Check a store against itself, and with an independent reader: what `ecgprep verify` and every build run before publishing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import STATUS_CODE, STATUSES, StoreError
from ecgprep.files.atomic import canonical_json
from ecgprep.leads import LEADS
from ecgprep.store.format import ARRAYS, CHUNK_RECORDS, LABEL_UNKNOWN, N_THREADS, SPLITS
from ecgprep.store.reader import Store

MAX_SHOWN = 20


@dataclass(frozen=True)
class Verification:
    """The result of a verification: `faults` is empty for an intact store; `bad_rows` are those whose checksum fails."""

    faults: tuple[str, ...]
    bad_rows: tuple[int, ...]


class VerificationFailed(StoreError):
    """A store that has just been written is damaged; `bad_rows` are the rows whose waveforms are."""

    def __init__(self, result: Verification) -> None:
        super().__init__(
            f"What was written is not what was meant: {'; '.join(result.faults)}. Is the disk sound? Run the same command again: the parts "
            "concerned are built anew, what is sound is kept."
        )
        self.bad_rows = result.bad_rows


def verify_new_store(path: Path) -> None:
    """Check a store whose content hash has just been computed from its files. Raises VerificationFailed listing the faults."""
    result = check_store(path, rehash=False)
    if result.faults:
        raise VerificationFailed(result)


def check_store(path: Path, rehash: bool = True) -> Verification:
    """Check shapes and sizes (by opening), the content hash, every row's checksum and moments, patient-disjoint splits and
    the agreement of zarr-python's arrays with the map. Raises StoreError when the store cannot even be opened."""
    store = Store(path)
    faults = []
    if rehash and store.computed_sha256() != store.content_sha256:
        faults.append("its files do not match content_sha256")
    if (path / "zarr.json").read_bytes() != canonical_json(
        json.loads((path / "zarr.json").read_bytes()), indent=2
    ):
        faults.append("zarr.json is not written as format 1 writes it")
    expected = {"zarr.json", *(name for name, _ in store.layout.files())}
    strangers = sum(
        1
        for found in path.rglob("*")
        if not found.is_dir() and found.relative_to(path).as_posix() not in expected
    )
    if strangers:
        faults.append(f"{strangers} files are in it that do not belong to a store")
    bad_rows = _bad_rows(store)
    if bad_rows:
        listed = ", ".join(map(str, bad_rows[:MAX_SHOWN])) + (
            f" and {len(bad_rows) - MAX_SHOWN} more" if len(bad_rows) > MAX_SHOWN else ""
        )
        faults.append(f"waveform checksum or moments are wrong in row {listed}")
    faults += _bad_tables(store)
    faults += _zarr_differs(store)
    return Verification(tuple(faults), tuple(bad_rows))


def _bad_rows(store: Store) -> list[int]:
    """Return the rows whose waveform fails its CRC-32C, or whose moments, mask and span do not describe it."""
    arrays = {name: store.array(name) for name in ("crc32c", "lead_mask", "valid_span", "moments")}

    def of_chunk(first: int) -> list[int]:
        rows = np.arange(first, min(first + CHUNK_RECORDS, len(store)))
        waveforms = store.gather(
            rows, np.empty((len(rows), len(LEADS), store.n_samples), np.dtype("<i2"))
        )
        return [
            int(row)
            for row, waveform in zip(rows, waveforms, strict=True)
            if not intact(row, waveform)
        ]

    def intact(row: np.int64, waveform: NDArray[np.int16]) -> bool:
        described = _described(
            waveform, *(arrays[name][row] for name in ("lead_mask", "valid_span", "moments"))
        )
        return described and bool(google_crc32c.value(waveform.tobytes()) == arrays["crc32c"][row])

    with ThreadPoolExecutor(N_THREADS) as threads:
        return [
            row for bad in threads.map(of_chunk, range(0, len(store), CHUNK_RECORDS)) for row in bad
        ]


def _described(
    waveform: NDArray[np.int16],
    mask: NDArray[np.bool_],
    span: NDArray[np.int32],
    moments: NDArray[np.int64],
) -> bool:
    if not 0 <= span[0] <= span[1] <= waveform.shape[1]:
        return False
    silent = not (
        waveform[~mask].any() or waveform[:, : span[0]].any() or waveform[:, span[1] :].any()
    )
    x = waveform.astype(np.float64)  # exact: see conform.py
    sums = np.stack([x.sum(axis=1), np.einsum("ij,ij->i", x, x)], axis=1)
    return bool(silent and np.array_equal(sums, moments))


def _bad_tables(store: Store) -> list[str]:
    """Check the small arrays against each other: values within their lists, usable rows placed, patients in one split only."""
    status, split, patient, label = (
        store.array(name) for name in ("status", "split", "patient", "label")
    )
    ok = status == STATUS_CODE["ok"]
    faults = []
    if (
        status.max() >= len(STATUSES)
        or split.min() < -1
        or split.max() >= len(SPLITS)
        or not np.isin(label, (LABEL_UNKNOWN, 0, 1)).all()
    ):
        faults.append("status, split or label holds a value that format 1 does not define")
    if not ((split >= 0) == ok).all() or not ((patient >= 0) == ok).all():
        faults.append("usable rows without a patient or split, or unusable rows with one")
    pairs = np.unique(np.stack([patient[ok], split[ok]]), axis=1)
    shared = len(pairs[0]) - len(np.unique(pairs[0]))
    if shared:
        faults.append(f"{shared} patients have recordings in more than one split")
    return faults


def _zarr_differs(store: Store) -> list[str]:
    """Read the small arrays and the last waveform chunk with zarr-python and compare them with the map."""
    import zarr  # 0.3 s

    group = zarr.open_group(store.path, mode="r")
    last = np.arange((len(store) - 1) // CHUNK_RECORDS * CHUNK_RECORDS, len(store))
    mapped = {name: store.array(name) for name in ARRAYS if name != "waveforms"}
    mapped["waveforms"] = store.gather(
        last, np.empty((len(last), len(LEADS), store.n_samples), "<i2")
    )
    differing = []
    for name, expected in mapped.items():
        array: Any = group[name]
        found = np.asarray(array[last[0] :] if name == "waveforms" else array[:])
        if not np.array_equal(found, expected, equal_nan=name == "covariates"):
            differing.append(name)
    return [f"zarr-python reads other values in {', '.join(differing)}"] if differing else []
