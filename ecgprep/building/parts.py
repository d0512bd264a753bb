"""One part of a build: up to 256 manifest rows in, one chunk file and one result file out.

A part depends only on its rows and the settings. So any number of processes on any number of
machines can build the parts in any order, and the bytes are the same. A built part is found again
by its key and the stamps of its sources: nothing is read twice.
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
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecgprep.conform import Conformity, Row, conform
from ecgprep.errors import RETRIED, STATUS_CODE, RecordError
from ecgprep.files.atomic import PRIVATE, canonical_json, write_file
from ecgprep.leads import LEADS
from ecgprep.patients.duplicates import FINGERPRINT_SIZE, fingerprint
from ecgprep.quality import bins_per_hz, quality_flags, spectrum
from ecgprep.readers import read_bytes
from ecgprep.readers.xml import read_regular
from ecgprep.store.format import ARRAYS, CHUNK_RECORDS, Layout
from ecgprep.workers import READER_OUT_OF_MEMORY

Stamp = tuple[int, int] | None
"""Size and modification time (ns) of a source file when it was read; None for a missing file."""

ROW_ARRAYS = ("lead_mask", "valid_span", "moments", "status", "rate_hz", "crc32c", "quality")
"""Arrays of the store, other than the waveforms, that reading decides."""

_DIGEST_BYTES = 32
"""Length of the SHA-256 at the head of a result file."""


class PartCounts(NamedTuple):
    """How many rows a built part has, and how many of them are not usable."""

    rows: int
    rejected: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of reading one file: a conformed row, or the status and message that say why not.

    `quality` holds flags (8,) uint32, `fingerprint` is int8.
    """

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
    """The work of one part: which files become which rows.

    `folder` is the build's work folder; `context` names what else decides values. With
    `follow_symlinks` a symlink to a file inside the root is read.
    """

    index: int
    root: Path
    paths: Sequence[str]
    lines: Sequence[int]
    target: Conformity
    folder: Path
    context: str = ""
    follow_symlinks: bool = False

    @property
    def first_row(self) -> int:
        """Manifest row of the part's first file."""
        return self.index * CHUNK_RECORDS

    @property
    def rows(self) -> slice:
        """Manifest rows of the part."""
        return slice(self.first_row, self.first_row + len(self.paths))

    @property
    def chunk(self) -> Path:
        """File of the waveforms: a chunk file of the store that is being built."""
        return self.folder / "store" / Layout.chunk_file("waveforms", self.index)

    @property
    def result(self) -> Path:
        """File of everything else (private: it says what was wrong with which file)."""
        return self.folder / "parts" / f"{self.index:07d}.part"

    @property
    def key(self) -> str:
        """Hash of all that decides the part's bytes besides the content of the files."""
        decisive = [str(self.root), list(self.paths), repr(self.target), self.context]
        if self.follow_symlinks:
            decisive.append("follow symlinks")
        return hashlib.sha256(canonical_json(decisive)).hexdigest()


@dataclass(frozen=True, eq=False)
class PartResult:
    """Everything but the waveforms of one part, an entry per row.

    `arrays` has those of ROW_ARRAYS, and `fingerprint`.
    """

    arrays: dict[str, NDArray[Any]]
    stamps: list[Stamp]
    dialects: list[str]
    messages: list[str]

    @property
    def n_rejected(self) -> int:
        """Rows that are not usable."""
        return int(np.count_nonzero(self.arrays["status"]))


ReadRow = Callable[[Part, int], Outcome]
"""Gives row i of a part."""


def read_one(root: Path, path: str, target: Conformity, follow_symlinks: bool = False) -> Outcome:
    """Read and conform one file; whatever is wrong with it is in the outcome."""
    stamp = stamp_of(root / path, follow_symlinks)
    try:
        recording = read_bytes(read_regular(root / path, root, follow_symlinks))
        row = conform(recording, target)
    except RecordError as error:
        return Outcome(stamp, status=error.reason, message=error.message)
    except MemoryError:
        return Outcome(stamp, status="reader_crashed", message=READER_OUT_OF_MEMORY)
    bins = spectrum(row.waveform, row.valid_span, row.lead_mask, target.rate_hz)
    return Outcome(
        stamp=stamp,
        row=row,
        dialect=recording.dialect,
        quality=quality_flags(recording, row, bins, target.rate_hz),
        fingerprint=fingerprint(bins, bins_per_hz(bins, target.rate_hz)),
    )


def stamp_of(path: Path, follow_symlinks: bool = False) -> Stamp:
    """Return size and modification time of a file, or of a symlink itself if none are followed."""
    try:
        status = os.stat(path, follow_symlinks=follow_symlinks)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def read_row(part: Part, i: int) -> Outcome:
    """Read row i of a part from its file."""
    return read_one(part.root, part.paths[i], part.target, part.follow_symlinks)


def build_part(part: Part, read: ReadRow = read_row) -> PartCounts:
    """Read the part's files, write its chunk and then its result, each whole or not at all.

    Raises:
        NoSpace: if the disk is full.
    """
    rows = _PartRows.empty(part)
    for i in range(len(part.paths)):
        try:
            outcome = read(part, i)
        except Exception as error:  # our bug: say where, and let it end the build
            error.add_note(f"while reading manifest line {part.lines[i]}")
            raise
        rows.put(i, outcome)
    part.chunk.parent.mkdir(parents=True, exist_ok=True)
    write_file(part.chunk, rows.waveforms.data)
    save_result(part, rows.result)
    return PartCounts(len(part.paths), rows.result.n_rejected)


@dataclass(frozen=True, eq=False)
class _PartRows:
    """The rows of a part as they are filled in: zeros where a file gave nothing."""

    waveforms: NDArray[np.int16]
    result: PartResult
    empty_row: Row

    @classmethod
    def empty(cls, part: Part) -> _PartRows:
        n, n_samples = len(part.paths), part.target.n_samples
        layout = Layout(n, n_samples)
        arrays = {name: np.zeros(layout.shape(name), ARRAYS[name].dtype) for name in ROW_ARRAYS}
        arrays["fingerprint"] = np.zeros((n, FINGERPRINT_SIZE), np.int8)
        empty_row = Row(
            waveform=np.zeros((len(LEADS), n_samples), np.int16),
            lead_mask=np.zeros(len(LEADS), np.bool_),
            valid_span=(0, 0),
            moments=np.zeros((len(LEADS), 2), np.int64),
            rate_hz=0.0,
        )
        waveforms = np.zeros((CHUNK_RECORDS, len(LEADS), n_samples), "<i2")
        return cls(waveforms, PartResult(arrays, [], [], []), empty_row)

    def put(self, i: int, outcome: Outcome) -> None:
        """Fill in row i, and append what is not an array: rows come in order."""
        row = outcome.row or self.empty_row
        self.waveforms[i] = row.waveform
        values = {
            "lead_mask": row.lead_mask,
            "valid_span": row.valid_span,
            "moments": row.moments,
            "status": STATUS_CODE[outcome.status],
            "rate_hz": row.rate_hz,
            "crc32c": row.crc32c(),
            "quality": outcome.quality,
            "fingerprint": outcome.fingerprint,
        }
        for name, value in values.items():
            self.result.arrays[name][i] = value
        self.result.stamps.append(outcome.stamp)
        self.result.dialects.append(outcome.dialect)
        self.result.messages.append(outcome.message)


def save_result(part: Part, result: PartResult) -> None:
    """Write the result of a part whose chunk is on the disk already."""
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
    """Return the result of a part, or None where it has none that is whole and its own.

    The result of other rows, other settings or other package versions has another key.
    """
    try:
        key, result = _read_result(part.result)
        chunk_bytes = part.chunk.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    n = len(part.paths)
    has_chunk = chunk_bytes == Layout(n, part.target.n_samples).chunk_bytes("waveforms")
    has_rows = all(len(array) == n for array in result.arrays.values())
    return result if key == part.key and has_chunk and has_rows else None


def _read_result(path: Path) -> tuple[str, PartResult]:
    """Read a result file. Raises ValueError, KeyError and others where it is damaged."""
    data = path.read_bytes()
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:  # damaged bytes are never parsed
        raise ValueError("the digest differs")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        text = json.loads(stored["text"].tobytes())
        arrays = {name: stored[name] for name in (*ROW_ARRAYS, "fingerprint")}
    stamps: list[Stamp] = [stamp and (stamp[0], stamp[1]) for stamp in text["stamps"]]
    return text["key"], PartResult(arrays, stamps, text["dialects"], text["messages"])


def is_current(part: Part, result: PartResult) -> bool:
    """Say whether a built part needs no second look.

    Its files are as they were, and none failed for a reason that may be the machine's fault.
    """
    retried = [STATUS_CODE[name] for name in RETRIED]
    may_succeed_now = np.isin(result.arrays["status"], retried).any()
    return not may_succeed_now and is_unchanged(part, result)


def is_unchanged(part: Part, result: PartResult) -> bool:
    """Say whether the files of a part have the size and modification time that they had."""
    sources = zip(part.paths, result.stamps, strict=True)
    return all(stamp_of(part.root / path, part.follow_symlinks) == stamp for path, stamp in sources)
