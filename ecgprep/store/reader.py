"""Open a store read-only and read from it. Opening trusts nothing: see format.py."""

from __future__ import annotations

import json
import math
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import StoreError
from ecgprep.leads import LEADS
from ecgprep.store.format import (
    ARRAYS,
    ATTRIBUTES,
    CHUNK_RECORDS,
    FORMAT_VERSION,
    QUALITY_FLAGS,
    SETTINGS,
    Layout,
    _quality_attributes,
    content_sha256,
)
from ecgprep.store.mmap import is_cached, map_files, will_need

_METADATA_LIMIT_BYTES = 1_000_000


_ADDED_AT_ONCE = 8192
"""Rows whose moments are added in one go: 1 MB stays in the processor's cache, and memory does not grow with the rows."""


_SAMPLE = 512
"""Rows that `is_resident` looks at, at most: 5 ms where each is in a file of its own."""


def _read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a small JSON object that may come from anyone; a FIFO or a device is refused like any other non-file."""
    try:
        if not path.is_file() or path.stat().st_size > _METADATA_LIMIT_BYTES:
            raise StoreError(
                f"{what} is not a regular file of at most {_METADATA_LIMIT_BYTES} bytes. Build the store again."
            )
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{what} is not readable JSON ({type(error).__name__}). The store is damaged: build it again."
        ) from None
    if not isinstance(value, dict):
        raise StoreError(f"{what} is not a JSON object. The store is damaged: build it again.")
    return value


def looks_like_store(path: Path) -> bool:
    """Say whether a folder is a store of ours, intact or not: what may be replaced. A packed one may not: it may be the only copy."""
    try:
        attributes = _read_json(path / "zarr.json", path.name).get("attributes")
        if (path / "waveforms" / "zarr.json").is_file() and len(
            _read_json(path / "waveforms" / "zarr.json", path.name).get("codecs", [])
        ) > 1:
            return False
    except StoreError:
        return False
    return (
        isinstance(attributes, dict)
        and {"format_version", "lead_names", "content_sha256"} <= attributes.keys()
    )


def _read_root(store: Path) -> dict[str, Any]:
    """Read and check the group's own metadata: kind, version, exactly the allowed attributes with sane values."""
    if not (store / "zarr.json").exists():
        found = "does not exist"
        if store.exists():
            found = (
                "is a folder without zarr.json, so no finished store"
                if store.is_dir()
                else "is a file, so no store"
            )
        raise StoreError(f"{store}: {found}. `ecgprep build MANIFEST {store}` makes one.")
    root = _read_json(store / "zarr.json", f"{store}: zarr.json")
    attributes = root.get("attributes")
    if (
        root.get("zarr_format") != 3
        or root.get("node_type") != "group"
        or not isinstance(attributes, dict)
    ):
        raise StoreError(
            f"{store}: not a Zarr v3 group with attributes, so not an ecgprep store. `ecgprep build` makes one."
        )
    version = attributes.get("format_version")
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        advice = "Update ecgprep." if newer else "Build the store again with this ecgprep."
        raise StoreError(
            f"{store}: store format version is {version!r:.20}; this ecgprep reads version {FORMAT_VERSION}. {advice}"
        )
    if set(attributes) != ATTRIBUTES:
        odd = ", ".join(sorted(set(attributes) ^ ATTRIBUTES))
        raise StoreError(
            f"{store}: attributes are not those of format 1 (missing or unknown: {odd:.200}). Build the store again."
        )
    rate, settings, software = (
        attributes[key] for key in ("sample_rate_hz", "settings", "software")
    )
    plain = (
        isinstance(settings, dict)
        and isinstance(software, dict)
        and all(map(_is_version, software.values()))
    )
    if (
        not plain
        or not settings.keys() <= SETTINGS
        or type(rate) not in (int, float)
        or not 0 < rate < 1e6
    ):
        raise StoreError(
            f"{store}: sample_rate_hz, settings or software are not those of format 1. Build the store again."
        )
    return root


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9A-Za-z.+_-]{1,40}", value) is not None


class Store:
    """A finished store, opened read-only. Cheap to open and to pickle (the path only); maps its files on first use.

    Every array is indexed by manifest row. Raises StoreError when the store is missing, unfinished, damaged or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        root = _read_root(self.path)
        self.attributes: dict[str, Any] = root["attributes"]
        self.layout = self._check_arrays()
        self._check_sizes()
        self._root = root
        self._arrays: dict[str, NDArray[Any]] = {}

    def _check_arrays(self) -> Layout:
        """Compare each array's metadata with the one layout that version 1 allows."""
        names, n_samples = self.attributes["covariate_names"], self.attributes["n_samples"]
        shape = _read_json(
            self.path / "waveforms" / "zarr.json", f"{self.path}: waveforms/zarr.json"
        ).get("shape")
        whole = (
            isinstance(shape, list)
            and len(shape) == 3
            and all(type(size) is int and 0 < size < 2**28 for size in shape)
        )
        if not whole or shape != [shape[0], len(LEADS), n_samples] or not isinstance(names, list):  # type: ignore[index]
            raise StoreError(
                f"{self.path}: the shape of waveforms is not (records, 8, {n_samples!r:.20}). Build the store again."
            )
        if self.attributes["lead_names"] != list(LEADS):
            raise StoreError(
                f"{self.path}: lead_names are not {', '.join(LEADS)} in this order. Build the store again."
            )
        layout = Layout(shape[0], shape[2], len(names))  # type: ignore[index]
        for name in ARRAYS:
            found = _read_json(self.path / name / "zarr.json", f"{self.path}: {name}/zarr.json")
            expected = layout.metadata(name)
            if name == "waveforms" and found.get("codecs") != expected["codecs"]:
                raise StoreError(
                    f"{self.path}: is packed, or of other codecs than format 1. `ecgprep unpack {self.path} NEW.zarr` restores it."
                )
            if name == "quality":
                expected["attributes"] = _quality_attributes(self._n_quality_flags(found))
            odd = sorted(
                key for key in expected.keys() | found.keys() if found.get(key) != expected.get(key)
            )
            if odd:
                raise StoreError(
                    f"{self.path}: {name}/zarr.json differs from format 1 in {', '.join(odd):.200}. Build the store again."
                )
        return layout

    @staticmethod
    def _n_quality_flags(metadata: dict[str, Any]) -> int:
        """Count the flags a store was built with: an earlier version knew fewer, or none."""
        attributes = metadata.get("attributes")
        masks = attributes.get("flag_masks") if isinstance(attributes, dict) else None
        return (
            min(len(masks), len(QUALITY_FLAGS)) if isinstance(masks, list) else len(QUALITY_FLAGS)
        )

    def _check_sizes(self) -> None:
        """Refuse a missing, short or long chunk file before anything is mapped; all of them are counted in one message."""
        bad = []
        for name, size in self.layout.files():
            path = self.path / name
            if size is not None and (not path.is_file() or path.stat().st_size != size):
                found = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
                bad.append(f"{name} ({found}, must be {size} bytes)")
        if bad:
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            raise StoreError(
                f"{self.path}: damaged: {', '.join(bad[:3])}{more}. Build the store again."
            )

    def __repr__(self) -> str:
        n, n_samples = self.layout.n_records, self.n_samples
        return f"Store({str(self.path)!r}: {n:,} records x {len(LEADS)} leads x {n_samples:,} samples at {self.sample_rate_hz:g} Hz)"

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return type(self), (self.path,)

    def __len__(self) -> int:
        return self.layout.n_records

    @property
    def n_samples(self) -> int:
        """Samples per lead, L."""
        return self.layout.n_samples

    @property
    def sample_rate_hz(self) -> float:
        """Sampling rate of `waveforms`."""
        return float(self.attributes["sample_rate_hz"])

    @property
    def content_sha256(self) -> str:
        """The store's identity, recorded in every run trained on it."""
        return str(self.attributes["content_sha256"])

    @property
    def covariate_names(self) -> list[str]:
        """Names of the columns of `covariates`."""
        return list(self.attributes["covariate_names"])

    @property
    def quality_flags(self) -> tuple[str, ...]:
        """Names of the bits of `quality` that were computed when the store was built."""
        found = _read_json(self.path / "quality" / "zarr.json", f"{self.path}: quality/zarr.json")
        return QUALITY_FLAGS[: self._n_quality_flags(found)]

    def computed_sha256(self) -> str:
        """Hash the files as they are now; equals `content_sha256` in an intact store. Reads every byte."""
        return content_sha256(self.path, self._root, self.layout)

    def array(self, name: str) -> NDArray[Any]:
        """Return one array whole, read-only and mapped once: (N, ...) as the format table says."""
        if name == "waveforms":
            return self.waveforms
        if name not in self._arrays:
            shape, dtype = self.layout.shape(name), np.dtype(ARRAYS[name].dtype).newbyteorder("<")
            files = self.layout.chunk_files(name)
            self._arrays[name] = (
                np.asarray(np.memmap(self.path / files[0], dtype, "r", shape=shape))
                if files
                else np.empty(shape, dtype)
            )
        return self._arrays[name]

    @cached_property
    def _chunks(self) -> list[NDArray[np.int16]]:
        """The waveform chunks: one virtual array where the platform can map files side by side, else one array per file."""
        shape = self.layout.chunk_shape("waveforms")
        files = [self.path / name for name in self.layout.chunk_files("waveforms")]
        try:
            return [
                mapped.view("<i2").reshape(-1, *shape[1:])
                for mapped in map_files(files, self.layout.chunk_bytes("waveforms"))
            ]
        except OSError as error:
            limits = "On Linux `sysctl vm.max_map_count` says how many files a process may map, `ulimit -v` how much."
            raise StoreError(
                f"{self.path}: its {len(files):,} chunk files cannot be mapped ({error.strerror}). {limits}"
            ) from None

    @property
    def waveforms(self) -> NDArray[np.int16]:
        """All waveforms as one read-only array (N, 8, L) in µV. Raises StoreError where files cannot be mapped side by side."""
        if len(self._chunks) > 1:
            raise StoreError(
                "This platform cannot map a store as one array. Use gather(), which works everywhere."
            )
        return self._chunks[0][: len(self)]

    def gather(self, rows: NDArray[np.integer[Any]], out: NDArray[np.int16]) -> NDArray[np.int16]:
        """Copy the waveforms of `rows` into `out`, int16 µV (len(rows), 8, L), which the caller owns and may reuse.

        Raises IndexError for a row outside the store, ValueError when `out` does not fit.
        """
        index = self._checked(rows)
        if out.shape != (index.size, len(LEADS), self.n_samples) or out.dtype != np.int16:
            raise ValueError(
                f"out (={out.shape}, {out.dtype}) must be int16 of shape ({index.size}, {len(LEADS)}, {self.n_samples})"
            )
        if (
            len(self._chunks) == 1
        ):  # mode="clip" because the default buffers `out`: a third of the speed. The range was checked.
            return self._chunks[0].take(index, axis=0, out=out, mode="clip")
        chunk, offset = np.divmod(index, CHUNK_RECORDS)
        for position, (c, k) in enumerate(zip(chunk, offset, strict=True)):
            out[position] = self._chunks[c][k]
        return out

    def _checked(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        index = np.asarray(rows, dtype=np.int64)
        if index.size and index.view(np.uint64).max() >= len(self):  # a negative row is a large one
            raise IndexError(f"rows must be within 0..{len(self) - 1}")
        return index

    def prefetch(self, rows: NDArray[np.integer[Any]]) -> None:
        """Ask the system to begin reading the waveforms of `rows`, to be gathered soon: random rows then come at the speed of the disk.

        For rows that are in memory it costs 2-3 µs each and gains nothing: ask `is_resident`. Raises IndexError for a row outside the store.
        """
        index = self._checked(rows)
        starts = np.array([chunk.ctypes.data for chunk in self._chunks])
        per_chunk = len(self._chunks[0])
        size = self._chunks[0][0].nbytes
        will_need((starts[index // per_chunk] + index % per_chunk * size).tolist(), size)

    def is_resident(self, rows: NDArray[np.integer[Any]]) -> bool:
        """Say whether the waveforms of `rows` are in memory, judging by a page of every eighth, of 512 at most; False where the system does not tell.

        Of many rows of which 1 in 100 is not there, the sample holds one with a probability of 0.994. Raises IndexError for a row outside the store.
        """
        index = self._checked(rows)
        sample = np.sort(index[:: max(8, math.ceil(len(index) / _SAMPLE))])
        chunk, offset = np.divmod(sample, CHUNK_RECORDS)
        files, size = (
            self.layout.chunk_files("waveforms"),
            self.layout.chunk_bytes("waveforms") // CHUNK_RECORDS,
        )
        return all(
            is_cached(self.path / files[c], (offset[chunk == c] * size).tolist())
            for c in np.unique(chunk)
        )

    def lead_statistics(
        self, rows: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation (ddof 0) per lead, in µV, over the valid samples of `rows`: two arrays (8,).

        Exact up to the last rounding: the stored integer moments are added without overflow and no waveform is read.
        A lead that is present in none of the rows gets mean 0 and deviation 0. Raises IndexError for a row outside the store.
        """
        index = self._checked(rows)
        moments, spans, masks = (
            self.array(name) for name in ("moments", "valid_span", "lead_mask")
        )
        sums, counts = np.zeros((len(LEADS), 2), object), np.zeros(len(LEADS), np.int64)
        at_once = min(
            _ADDED_AT_ONCE, 2**33 // self.n_samples
        )  # the squares of so many full-scale rows add up to less than 2^63
        for part in (index[i : i + at_once] for i in range(0, len(index), at_once)):
            sums += moments[part].sum(axis=0)  # Python integers have no largest one
            span = spans[part].astype(np.int64)
            counts += (span[:, 1] - span[:, 0]) @ masks[part]
        mean, deviation = np.zeros(len(LEADS)), np.zeros(len(LEADS))
        for lead in range(len(LEADS)):
            n, total, squares = int(counts[lead]), int(sums[lead, 0]), int(sums[lead, 1])
            if n:
                mean[lead] = total / n
                deviation[lead] = math.sqrt((n * squares - total * total) / (n * n))
        return mean, deviation
