"""One part of a build: 256 manifest rows in, one chunk file out, with what became of each row.

A part depends on its rows and the settings alone, so parts can be built in any order, by any number of processes, to the same bytes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgprep.conform import Conformity, Row, conform
from ecgprep.durable import write_file
from ecgprep.errors import STATUS_CODE, RecordError
from ecgprep.leads import LEADS
from ecgprep.readers import read_bytes
from ecgprep.store import CHUNK_RECORDS
from ecgprep.xmldoor import read_regular

Stamp = tuple[int, int] | None
"""Size and modification time (ns) of a source file when it was read; None where there was no file."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one file: a row and its dialect, or the status and message of its rejection."""

    stamp: Stamp
    row: Row | None = None
    dialect: str = ""
    status: str = "ok"
    message: str = ""


@dataclass(frozen=True)
class Part:
    """The work of one part: which files become which rows of which chunk file."""

    first_row: int
    root: Path
    paths: Sequence[str]
    lines: Sequence[int]
    target: Conformity
    chunk: Path


@dataclass(frozen=True, eq=False)
class PartResult:
    """Everything but the waveforms of one part, an entry per row."""

    first_row: int
    lead_mask: NDArray[np.bool_]
    valid_span: NDArray[np.int32]
    moments: NDArray[np.int64]
    status: NDArray[np.uint8]
    rate_hz: NDArray[np.float32]
    crc32c: NDArray[np.uint32]
    stamps: list[Stamp]
    dialects: list[str]
    messages: list[str]


Read = Callable[[Path, str, Conformity], Outcome]


def read_one(root: Path, path: str, target: Conformity) -> Outcome:
    """Read and conform one file; whatever is wrong with it is in the outcome."""
    stamp = stamp_of(root / path)
    try:
        recording = read_bytes(read_regular(root / path, root))
        return Outcome(stamp, conform(recording, target), recording.dialect)
    except RecordError as error:
        return Outcome(stamp, status=error.reason, message=error.message)
    except MemoryError:
        return Outcome(stamp, status="reader_crashed", message="the reader ran out of memory on this file")


def stamp_of(path: Path) -> Stamp:
    """Return size and modification time of a file, without following a symlink."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def build_part(part: Part, read: Read = read_one) -> PartResult:
    """Read the part's files, write its chunk (whole or not at all) and return what the small arrays need. Raises NoSpace."""
    n, leads = len(part.paths), len(LEADS)
    waveforms = np.zeros((CHUNK_RECORDS, leads, part.target.n_samples), "<i2")
    result = PartResult(
        part.first_row,
        np.zeros((n, leads), np.bool_),
        np.zeros((n, 2), np.int32),
        np.zeros((n, leads, 2), np.int64),
        np.zeros(n, np.uint8),
        np.zeros(n, np.float32),
        np.zeros(n, np.uint32),
        [],
        [],
        [],
    )
    empty = Row(waveforms[0].copy(), result.lead_mask[0].copy(), (0, 0), result.moments[0].copy(), 0.0)
    empty_crc = empty.crc32c()
    for i, path in enumerate(part.paths):
        try:
            outcome = read(part.root, path, part.target)
        except Exception as error:  # our bug: say where, and let it end the build
            error.add_note(f"while reading manifest line {part.lines[i]}")
            raise
        row = outcome.row or empty
        waveforms[i] = row.waveform
        result.lead_mask[i], result.valid_span[i], result.moments[i] = row.lead_mask, row.valid_span, row.moments
        result.status[i], result.rate_hz[i] = STATUS_CODE[outcome.status], row.rate_hz
        result.crc32c[i] = empty_crc if outcome.row is None else row.crc32c()
        result.stamps.append(outcome.stamp)
        result.dialects.append(outcome.dialect)
        result.messages.append(outcome.message)
    part.chunk.parent.mkdir(parents=True, exist_ok=True)
    write_file(part.chunk, waveforms.data)
    return result


def build_parts(parts: Sequence[Part], jobs: int) -> Iterator[PartResult]:
    """Build every part and yield the results as they come: in this process for `jobs` up to 1, else in that many processes.

    A worker that dies costs the file that killed it the status `reader_crashed`, not the build.
    """
    if jobs <= 1:
        yield from map(build_part, parts)
        return
    left = {part.first_row: part for part in parts}
    try:
        with _pool(jobs) as pool:
            futures = [pool.submit(build_part, part) for part in parts]
            try:
                for future in as_completed(futures):
                    result = future.result()
                    yield result
                    del left[result.first_row]
            except BaseException:
                pool.shutdown(cancel_futures=True)  # waits for the parts in flight: a late worker would write into a deleted folder
                raise
    except BrokenProcessPool:  # it takes every part in flight with it, so what is left is read one file at a time
        isolated = _Isolated()
        try:
            for part in left.values():
                yield build_part(part, isolated)
        finally:
            isolated.close()


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Start workers afresh (`spawn`): a forked copy of a process with threads can deadlock."""
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))


class _Isolated:
    """Read files one at a time in a process that may die."""

    def __init__(self) -> None:
        self._pool = _pool(1)

    def __call__(self, root: Path, path: str, target: Conformity) -> Outcome:
        try:
            return self._pool.submit(read_one, root, path, target).result()
        except BrokenProcessPool:
            self._pool = _pool(1)
            return Outcome(stamp_of(root / path), status="reader_crashed", message="the reader's process died on this file")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
