"""One part of a build: up to 256 manifest rows in, one chunk file and one result file out.

A part depends on its rows and the settings alone, so parts can be built in any order, by any number of processes on any number of
machines, to the same bytes. What was built is found again by its key and the stamps of its sources: nothing is read twice.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.conform import Conformity, Row, conform
from ecgprep.errors import STATUS_CODE, RecordError
from ecgprep.files.atomic import PRIVATE, canonical_json, write_file
from ecgprep.leads import LEADS
from ecgprep.patients.duplicates import FINGERPRINT_SIZE, fingerprint
from ecgprep.quality import bins_per_hz, quality_flags, spectrum
from ecgprep.readers import read_bytes
from ecgprep.readers.xml import read_regular
from ecgprep.store.format import ARRAYS, CHUNK_RECORDS, Layout

Stamp = tuple[int, int] | None
"""Size and modification time (ns) of a source file when it was read; None where there was no file."""


ROW_ARRAYS = ("lead_mask", "valid_span", "moments", "status", "rate_hz", "crc32c", "quality")
"""Arrays of the store, other than the waveforms, that reading decides."""


RETRIED = ("file_unreadable", "reader_crashed")
"""Statuses that may be the machine's fault and not the file's: a part that holds one is built again when a build is resumed."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one file: a row with its dialect, quality flags (8,) and fingerprint, or why there is none."""

    stamp: Stamp
    row: Row | None = None
    dialect: str = ""
    quality: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(len(LEADS), np.uint32))
    fingerprint: NDArray[np.int8] = field(
        default_factory=lambda: np.zeros(FINGERPRINT_SIZE, np.int8)
    )
    status: str = "ok"
    message: str = ""


@dataclass(frozen=True)
class Part:
    """The work of one part: which files become which rows. `folder` is the build's work folder; `context` what else decides values."""

    index: int
    root: Path
    paths: Sequence[str]
    lines: Sequence[int]
    target: Conformity
    folder: Path
    context: str = ""

    @property
    def first_row(self) -> int:
        """Manifest row of the part's first file."""
        return self.index * CHUNK_RECORDS

    @property
    def chunk(self) -> Path:
        """Where the waveforms go: a chunk file of the store that is being built."""
        return self.folder / "store" / Layout.chunk_file("waveforms", self.index)

    @property
    def result(self) -> Path:
        """Where everything else goes (private: it holds what was wrong with which file)."""
        return self.folder / "parts" / f"{self.index:07d}.part"

    @property
    def key(self) -> str:
        """Hash of all that decides the part's bytes besides the content of the files."""
        return hashlib.sha256(
            canonical_json([str(self.root), list(self.paths), repr(self.target), self.context])
        ).hexdigest()


@dataclass(frozen=True, eq=False)
class PartResult:
    """Everything but the waveforms of one part, an entry per row: `arrays` by ROW_ARRAYS, and `fingerprint`."""

    arrays: dict[str, NDArray[Any]]
    stamps: list[Stamp]
    dialects: list[str]
    messages: list[str]

    @property
    def n_rejected(self) -> int:
        """Rows that are not usable."""
        return int(np.count_nonzero(self.arrays["status"]))


Read = Callable[[Part, int], Outcome]
"""Gives row i of a part."""


def read_one(root: Path, path: str, target: Conformity) -> Outcome:
    """Read and conform one file; whatever is wrong with it is in the outcome."""
    stamp = stamp_of(root / path)
    try:
        recording = read_bytes(read_regular(root / path, root))
        row = conform(recording, target)
    except RecordError as error:
        return Outcome(stamp, status=error.reason, message=error.message)
    except MemoryError:
        return Outcome(
            stamp, status="reader_crashed", message="the reader ran out of memory on this file"
        )
    bins = spectrum(row.waveform, row.valid_span, row.lead_mask, target.rate_hz)
    flags = quality_flags(recording, row, bins, target.rate_hz)
    return Outcome(
        stamp, row, recording.dialect, flags, fingerprint(bins, bins_per_hz(bins, target.rate_hz))
    )


def stamp_of(path: Path) -> Stamp:
    """Return size and modification time of a file, without following a symlink."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def read_row(part: Part, i: int) -> Outcome:
    """Read row i of a part from its file."""
    return read_one(part.root, part.paths[i], part.target)


def build_part(part: Part, read: Read = read_row) -> tuple[int, int]:
    """Read the part's files, write its chunk and then its result, each whole or not at all. Raises NoSpace.

    Returns the number of rows and how many of them are not usable.
    """
    n = len(part.paths)
    layout = Layout(n, part.target.n_samples)
    waveforms = np.zeros((CHUNK_RECORDS, len(LEADS), part.target.n_samples), "<i2")
    arrays = {name: np.zeros(layout.shape(name), ARRAYS[name].dtype) for name in ROW_ARRAYS}
    arrays["fingerprint"] = np.zeros((n, FINGERPRINT_SIZE), np.int8)
    result = PartResult(arrays, [], [], [])
    empty = Row(
        waveforms[0].copy(), arrays["lead_mask"][0].copy(), (0, 0), arrays["moments"][0].copy(), 0.0
    )
    empty_crc = empty.crc32c()
    for i in range(n):
        try:
            outcome = read(part, i)
        except Exception as error:  # our bug: say where, and let it end the build
            error.add_note(f"while reading manifest line {part.lines[i]}")
            raise
        row = outcome.row or empty
        waveforms[i] = row.waveform
        arrays["lead_mask"][i], arrays["valid_span"][i], arrays["moments"][i] = (
            row.lead_mask,
            row.valid_span,
            row.moments,
        )
        arrays["status"][i], arrays["rate_hz"][i] = STATUS_CODE[outcome.status], row.rate_hz
        arrays["crc32c"][i] = empty_crc if outcome.row is None else row.crc32c()
        arrays["quality"][i], arrays["fingerprint"][i] = outcome.quality, outcome.fingerprint
        result.stamps.append(outcome.stamp)
        result.dialects.append(outcome.dialect)
        result.messages.append(outcome.message)
    part.chunk.parent.mkdir(parents=True, exist_ok=True)
    write_file(part.chunk, waveforms.data)
    save_result(part, result)
    return n, result.n_rejected


def save_result(part: Part, result: PartResult) -> None:
    """Write the result of a part whose chunk is durable."""
    text = canonical_json(
        {
            "key": part.key,
            "stamps": result.stamps,
            "dialects": result.dialects,
            "messages": result.messages,
        }
    )
    buffer = io.BytesIO()
    np.savez(buffer, text=np.frombuffer(text, np.uint8), **result.arrays)  # type: ignore[arg-type]
    content = buffer.getvalue()
    part.result.parent.mkdir(exist_ok=True)
    write_file(part.result, hashlib.sha256(content).digest() + content, PRIVATE)


def load_result(part: Part) -> PartResult | None:
    """Return what was built of a part, or None if nothing was, or of other rows, settings or package versions."""
    n = len(part.paths)
    try:
        data = part.result.read_bytes()
        if (
            hashlib.sha256(data[32:]).digest() != data[:32]
        ):  # nothing is parsed that is not what was written
            return None
        with np.load(io.BytesIO(data[32:]), allow_pickle=False) as stored:
            text = json.loads(stored["text"].tobytes())
            arrays = {name: stored[name] for name in (*ROW_ARRAYS, "fingerprint")}
        result = PartResult(
            arrays,
            [stamp and (stamp[0], stamp[1]) for stamp in text["stamps"]],
            text["dialects"],
            text["messages"],
        )
        whole = part.chunk.stat().st_size == Layout(n, part.target.n_samples).chunk_bytes(
            "waveforms"
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return (
        result
        if whole and text["key"] == part.key and all(len(array) == n for array in arrays.values())
        else None
    )


def is_current(part: Part, result: PartResult) -> bool:
    """Say whether a part that was built needs no second look: its files are as they were, and none failed for the machine's sake."""
    return (
        is_unchanged(part, result)
        and not np.isin(result.arrays["status"], [STATUS_CODE[name] for name in RETRIED]).any()
    )


def is_unchanged(part: Part, result: PartResult) -> bool:
    """Say whether the files of a part are as they were when it was built, by size and modification time."""
    return all(
        stamp_of(part.root / path) == stamp
        for path, stamp in zip(part.paths, result.stamps, strict=True)
    )
