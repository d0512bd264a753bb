"""Read from a store. What is checked on opening: opening.py."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import EcgError, StoreError, missing_extra
from ecgprep.leads import LEADS
from ecgprep.sex_code import SexCode
from ecgprep.store.format import (
    ARRAYS,
    CHUNK_RECORDS,
    QUALITY_FLAGS,
    content_sha256,
    file_hashes,
    sex_codes_of,
    sha256_of_content,
)
from ecgprep.store.mmap import is_cached, map_files, will_need
from ecgprep.store.opening import (
    check_arrays,
    check_sizes,
    count_quality_flags,
    read_json,
    read_root,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_ADDED_AT_ONCE = 8192
"""Rows whose moments are added in one go.

1 MB stays in the processor's cache, and memory does not grow with the rows.
"""

_SAMPLE = 512
"""`is_resident` looks at this many rows at most: 5 ms if each is in a file of its own."""


class Store:
    """A finished store, opened read-only.

    Opening is cheap and so is pickling (the path only); files are mapped on first use. Row i of
    every array is data row i of the manifest. Raises StoreError when the store is missing,
    unfinished, damaged or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._root = read_root(self.path)
        self.attributes: dict[str, Any] = self._root["attributes"]
        self.layout = check_arrays(self.path, self.attributes)
        check_sizes(self.path, self.layout)
        self._arrays: dict[str, NDArray[Any]] = {}

    def __repr__(self) -> str:
        return (
            f"Store({str(self.path)!r}: {len(self):,} records x {len(LEADS)} leads x "
            f"{self.n_samples:,} samples at {self.sample_rate_hz:g} Hz)"
        )

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
    def sex_codes(self) -> dict[str, SexCode]:
        """The code of each covariate that holds sexes, where the manifest or its user said it."""
        return sex_codes_of(self.attributes["settings"])

    @property
    def task(self) -> str | None:
        """The canonical text of the task that labelled the recordings, None if it is not known.

        `ecgprep.cohorts.task.make_task` reads its JSON.
        """
        text: str | None = self.attributes["settings"].get("task")
        return text

    @property
    def quality_flags(self) -> tuple[str, ...]:
        """Names of the bits of `quality` that were computed when the store was built."""
        path = self.path / "quality" / "zarr.json"
        metadata = read_json(path, f"{self.path}: quality/zarr.json")
        return QUALITY_FLAGS[: count_quality_flags(metadata)]

    def computed_sha256(self) -> str:
        """Hash the files as they are now; equals `content_sha256` in an intact store.

        Reads every byte.
        """
        return content_sha256(self.path, self._root, self.layout)

    def has_content(self, content_sha256: str, software: Mapping[str, str] | None = None) -> bool:
        """Say whether this is the store with a content hash, or differs only in its versions.

        `software` are the versions that built that store. If they differ from these, every byte
        here is hashed as if they had built it, once for each store that is opened.
        """
        if content_sha256 == self.content_sha256:
            return True
        if not software or software == self.attributes["software"]:
            return False
        root = self._root | {"attributes": self.attributes | {"software": dict(software)}}
        return sha256_of_content(self.file_hashes, root) == content_sha256

    def is_intact(self) -> bool:
        """Say whether the files, as first hashed, are those of `content_sha256`."""
        return sha256_of_content(self.file_hashes, self._root) == self.content_sha256

    @cached_property
    def file_hashes(self) -> dict[str, str]:
        """SHA-256 of every file but the root `zarr.json`, as they were when first asked for."""
        return file_hashes(self.path, self.layout)

    def array(self, name: str) -> NDArray[Any]:
        """Return one whole array, read-only and mapped once: (N, ...) as the format says."""
        if name == "waveforms":
            return self.waveforms
        if name not in self._arrays:
            self._arrays[name] = self._map_array(name)
        return self._arrays[name]

    def _map_array(self, name: str) -> NDArray[Any]:
        shape = self.layout.shape(name)
        dtype = np.dtype(ARRAYS[name].dtype).newbyteorder("<")
        files = self.layout.chunk_files(name)
        if not files:  # no covariates
            return np.empty(shape, dtype)
        return np.asarray(np.memmap(self.path / files[0], dtype, "r", shape=shape))

    @cached_property
    def waveform_chunks(self) -> list[NDArray[np.int16]]:
        """The mapped waveforms: one array (N', 8, L) over all chunk files, or one for each file.

        The last chunk is padded, so N' may exceed the number of records. Raises StoreError when
        the system cannot map so many files.
        """
        shape = self.layout.chunk_shape("waveforms")
        files = [self.path / name for name in self.layout.chunk_files("waveforms")]
        try:
            mapped = map_files(files, self.layout.chunk_bytes("waveforms"))
        except OSError as error:
            raise StoreError(
                f"{self.path}: its {len(files):,} chunk files cannot be mapped "
                f"({error.strerror}). On Linux, `sysctl vm.max_map_count` limits how many files a "
                "process may map and `ulimit -v` how much memory. Raise the limit that is too low."
            ) from None
        return [chunk.view("<i2").reshape(-1, *shape[1:]) for chunk in mapped]

    @property
    def waveforms(self) -> NDArray[np.int16]:
        """All waveforms as one read-only array (N, 8, L) in µV.

        Raises StoreError where files cannot be mapped side by side.
        """
        if len(self.waveform_chunks) > 1:
            raise StoreError(
                "This platform cannot map a store as one array. "
                "Use gather(), which works everywhere."
            )
        return self.waveform_chunks[0][: len(self)]

    def gather(self, rows: NDArray[np.integer[Any]], out: NDArray[np.int16]) -> NDArray[np.int16]:
        """Copy the waveforms of `rows` into `out`, int16 µV (len(rows), 8, L), and return it.

        The caller owns `out` and may reuse it. Raises IndexError for a row outside the store,
        ValueError when `out` does not fit.
        """
        index = self._checked(rows)
        shape = (index.size, len(LEADS), self.n_samples)
        if out.shape != shape or out.dtype != np.int16:
            raise ValueError(f"out (={out.shape}, {out.dtype}) must be int16 of shape {shape}")
        if len(self.waveform_chunks) == 1:
            # The default mode would buffer `out`, at a third of the speed. Rows are in range.
            return self.waveform_chunks[0].take(index, axis=0, out=out, mode="clip")
        chunk, offset = np.divmod(index, CHUNK_RECORDS)
        for position, (c, k) in enumerate(zip(chunk, offset, strict=True)):
            out[position] = self.waveform_chunks[c][k]
        return out

    def _checked(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        index = np.asarray(rows, dtype=np.int64)
        if index.size and index.view(np.uint64).max() >= len(self):  # a negative row is a large one
            outside = index[(index < 0) | (index >= len(self))]
            raise IndexError(f"row {outside[0]} is outside 0..{len(self) - 1}")
        return index

    def prefetch(self, rows: NDArray[np.integer[Any]]) -> None:
        """Ask the system to start reading the waveforms of `rows`, which are soon gathered.

        Random rows then arrive at the sequential speed of the disk. For rows in memory it costs
        2-3 µs each and gains nothing: ask `is_resident`. Raises IndexError for a row outside.
        """
        index = self._checked(rows)
        starts = np.array([chunk.ctypes.data for chunk in self.waveform_chunks])
        per_chunk = len(self.waveform_chunks[0])
        size = self.waveform_chunks[0][0].nbytes
        addresses = starts[index // per_chunk] + index % per_chunk * size
        will_need(addresses.tolist(), size)

    def is_resident(self, rows: NDArray[np.integer[Any]]) -> bool:
        """Return whether the waveforms of `rows` are in memory; False where the system cannot tell.

        Every eighth row, but at most 512, is judged by one page. If 1 in 100 of many rows is not
        in memory, this is noticed with a probability of 0.994. Raises IndexError for a row outside.
        """
        index = self._checked(rows)
        step = max(8, math.ceil(len(index) / _SAMPLE))
        sample = np.sort(index[::step])
        chunk, offset = np.divmod(sample, CHUNK_RECORDS)
        files = self.layout.chunk_files("waveforms")
        record_bytes = self.layout.chunk_bytes("waveforms") // CHUNK_RECORDS
        for c in np.unique(chunk):
            offsets = offset[chunk == c] * record_bytes
            if not is_cached(self.path / files[c], offsets.tolist()):
                return False
        return True

    def lead_statistics(
        self, rows: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation (ddof 0) of each lead, two arrays (8,) in µV.

        They are taken over the valid samples of `rows` and are exact up to the last rounding: the
        stored integer moments are added without overflow, and no waveform is read. A lead that no
        row has gets mean 0 and deviation 0. Raises IndexError for a row outside the store.
        """
        index = self._checked(rows)
        moments, spans, masks = (
            self.array(name) for name in ("moments", "valid_span", "lead_mask")
        )
        sums, counts = np.zeros((len(LEADS), 2), object), np.zeros(len(LEADS), np.int64)
        # The squares of so many full-scale rows add up to less than 2^63.
        at_once = min(_ADDED_AT_ONCE, 2**33 // self.n_samples)
        for first in range(0, len(index), at_once):
            part = index[first : first + at_once]
            sums += moments[part].sum(axis=0)  # Python integers, which do not overflow
            span = spans[part].astype(np.int64)
            counts += (span[:, 1] - span[:, 0]) @ masks[part]
        mean, deviation = np.zeros(len(LEADS)), np.zeros(len(LEADS))
        for lead in range(len(LEADS)):
            n, total, squares = int(counts[lead]), int(sums[lead, 0]), int(sums[lead, 1])
            if n:
                mean[lead] = total / n
                deviation[lead] = math.sqrt((n * squares - total * total) / (n * n))
        return mean, deviation

    def table(self, moments: bool = False) -> DataFrame:
        """Return all but the waveforms as a pandas DataFrame: one line per row, index `row`.

        | column | dtype | meaning |
        |---|---|---|
        | status | category | `ok`, or why the row is unusable |
        | split | category | train, val or test; NA for none |
        | label | Int8 | 0 or 1; NA if not known |
        | patient | Int32 | number of the patient; NA if the row is unusable |
        | rate_hz | float32 | the recording's own sampling rate |
        | first_sample, end_sample | int32 | the signal: from the first up to, without, the end |
        | has_I … has_V6 | bool | whether the lead is present and usable |
        | quality | str | flags of each lead, as in `V1: clipped, noise; II: flat`; often empty |
        | crc32c | uint32 | checksum of the waveform |
        | covariates by name | float32 | NaN if missing |

        A covariate with the name of another column is prefixed with `covariate_`. With `moments`,
        columns such as sum_uv_I and sum_squares_uv2_I (int64, over the signal) follow. Raises
        StoreError for codes that the format does not define.
        """
        from ecgprep.store.table import rows_table

        arrays = {name: self.array(name) for name in ARRAYS if name != "waveforms"}
        try:
            return rows_table(arrays, self.covariate_names, self.quality_flags, moments)
        except ValueError as error:
            raise StoreError(
                f"{self.path}: damaged: {error}. `ecgprep verify {self.path}` lists the faults."
            ) from None

    def waveform(self, row: int) -> DataFrame:
        """Return one recording as a pandas DataFrame (8, L) of float64 in mV.

        The index `lead` names the leads; the columns `seconds` are the time since the first stored
        sample. A masked lead is NaN, and so are samples outside the signal (`valid_span`). Raises
        IndexError for a row outside the store.
        """
        from ecgprep.store.table import waveform_frame

        uv, mask, span = self.recording(row)
        return waveform_frame(uv, mask, span, self.sample_rate_hz)

    def plot(self, row: int, seconds: float = 5.0) -> Figure:
        """Draw one recording on ECG paper (25 mm/s, 10 mm/mV) as a matplotlib Figure.

        Two columns of four leads show `seconds` each: I to V2 from the first stored sample on, V3
        to V6 from where these end. A masked lead is named and left empty. No display is needed, and
        the figure is independent of pyplot: show it in a notebook, or save it with `savefig`.
        Raises IndexError for a row outside the store, ValueError unless `seconds` is positive,
        EcgError without matplotlib.
        """
        if not seconds > 0:
            raise ValueError(f"seconds (={seconds}) must be positive")
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise EcgError(f"Store.plot: {missing_extra('matplotlib', 'report')}") from error
        from ecgprep.drawing import draw_ecg

        uv, mask, _ = self.recording(row)
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        title = f"row {row}: 25 mm/s, 10 mm/mV"
        draw_ecg(figure.subplots(), uv, mask, self.sample_rate_hz, title, seconds)
        return figure

    def recording(self, row: int) -> tuple[NDArray[np.int16], NDArray[np.bool_], tuple[int, int]]:
        """Return one row's waveform (8, L) int16 in µV, lead mask (8,) and valid span.

        The waveform is a copy. Raises IndexError for a row outside the store.
        """
        rows = self._checked(np.array([operator.index(row)]))
        waveforms = self.gather(rows, np.empty((1, len(LEADS), self.n_samples), np.int16))
        first, last = self.array("valid_span")[row].tolist()
        return waveforms[0], self.array("lead_mask")[row], (first, last)
