"""Index folders of vendor files: walk -> read what is new -> write the table, sorted by path.

The bytes are the same whatever the number of processes, and whether or not an earlier run was
stopped in the middle.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from ecgprep.errors import InputError
from ecgprep.files.atomic import PRIVATE, naming_full_disk, remove_partials_of, write_chunks
from ecgprep.files.lock import locked
from ecgprep.files.output import check_output, is_stream
from ecgprep.indexing.fields import COLUMNS, TARGET, Batch, FileFields, died, read_batch
from ecgprep.indexing.known import IN_MEMORY, KnownFiles, known_path
from ecgprep.indexing.summary import IndexSummary, summarise
from ecgprep.indexing.walk import FoundFile, LeftOut, Places, Walk, locate
from ecgprep.workers import IsolatedProcess, run_tasks

Progress = Callable[[int, int, int], None]
"""Called with the files done, all files, and the files refused so far."""

MARK = b"\\A" + re.escape(",".join(COLUMNS).encode()) + b"\r?\n"
"""Matches the beginning of a table that nobody has added a column to."""

_BATCH = 256
_COMMIT_EVERY_S = 1.0
_LINES_PER_CHUNK = 1000

_SOFTWARE = ("numpy", "scipy", "lxml")
"""Packages whose version can change a value in the table."""


@dataclass(frozen=True)
class Search:
    """What to index: `exports` are folders and files, `glob` is what file names must match."""

    exports: Sequence[Path]
    root: Path | None = None
    glob: str = "*.xml"
    follow_symlinks: bool = False


def write_index(
    search: Search,
    table: Path,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> IndexSummary:
    """Write the table of all files of a search, and return what is in it.

    Raises:
        InputError: if an export does not exist or holds no file that matches.
        TargetExists: if `table` is something else, or another process is writing it.
        NoSpace: if the disk is full.
    """
    if is_stream(table):
        raise InputError("The output must be a file, as a later run continues from it.")
    target = check_output(table, [MARK], search.exports, overwrite)
    places = locate(search.exports, search.root, target)
    with (
        locked(target, wait=False, busy="The output is being written"),
        naming_full_disk(target.parent),
        KnownFiles(known_path(target), _context(places)) as known,
    ):
        remove_partials_of(target)
        summary = _index(known, places, search, target, jobs, progress)
        write_chunks(target, _as_csv(known.rows()), PRIVATE)
    return summary


def index_in_memory(
    search: Search, *, jobs: int = 1, progress: Progress | None = None
) -> tuple[IndexSummary, bytes]:
    """Return the summary and the table itself, and write nothing. Raises as `write_index`."""
    places = locate(search.exports, search.root, None)
    with KnownFiles(IN_MEMORY, _context(places)) as known:
        summary = _index(known, places, search, None, jobs, progress)
        return summary, b"".join(_as_csv(known.rows()))


def _context(places: Places) -> str:
    """Name what decides a line beside the file's bytes: versions, and what its path refers to."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _SOFTWARE]
    return " ".join([*versions, repr(TARGET), places.base])


def _index(
    known: KnownFiles,
    places: Places,
    search: Search,
    table: Path | None,
    jobs: int,
    progress: Progress | None,
) -> IndexSummary:
    """Walk, read what is not known, and count."""
    ignored = _own_files(table) if table else ()
    walk = Walk(places, search.glob, search.follow_symlinks, ignored)
    n_files = known.note(_counted(walk, progress))
    if not n_files:
        known.forget_this_walk()
        raise InputError(_nothing_found(walk.left_out))
    known.forget_others()
    n_unread = known.n_unread()
    batch = Batch(places.base, (), search.follow_symlinks)
    _read(known, batch, n_files, n_unread, jobs, progress)
    return summarise(known, n_files, n_unread, walk, places.needed_root)


def _own_files(table: Path) -> list[str]:
    """Return the files that this command writes: `--glob '*'` must not index them."""
    names = [table.name, f"{table.name}.known", f"{table.name}.known-journal"]
    return [str(table.with_name(name)) for name in (*names, f".{table.name}.lock")]


def _counted(found: Iterable[FoundFile], progress: Progress | None) -> Iterator[FoundFile]:
    """Pass on what is found, and show from time to time how much it is."""
    for n, file in enumerate(found, 1):
        if progress and n % 1000 == 0:
            progress(0, n, 0)
        yield file


def _read(
    known: KnownFiles,
    batch: Batch,
    n_files: int,
    n_unread: int,
    jobs: int,
    progress: Progress | None,
) -> None:
    """Read the files that are not known, in batches like `batch`, and keep what they say."""
    done, refused = n_files - n_unread, known.n_refused()
    if progress:
        progress(done, n_files, refused)
    committed = time.monotonic()
    some = _some_at_a_time(known.unread(), _BATCH)
    batches = (batch._replace(paths=paths) for paths in some)
    with contextlib.closing(run_tasks(_read_batch, batches, jobs, _read_isolated)) as results:
        for paths, rows in results:
            known.put(paths, rows)
            done += len(rows)
            refused += sum(row[_STATUS] != "ok" for row in rows)
            if progress:
                progress(done, n_files, refused)
            if time.monotonic() - committed > _COMMIT_EVERY_S:
                known.commit()
                committed = time.monotonic()
    known.commit()


_Item = TypeVar("_Item")

_STATUS = COLUMNS.index("status") - 1

_Read = tuple[Sequence[str], list[FileFields]]
"""Paths, and the fields of each."""


def _read_batch(batch: Batch) -> _Read:
    return batch.paths, read_batch(batch)


def _read_isolated(batches: Sequence[Batch]) -> Iterator[_Read]:
    """Read files one at a time in a process that may die."""
    with contextlib.closing(IsolatedProcess()) as process:
        for batch in batches:
            for path in batch.paths:
                rows = process.run(read_batch, batch._replace(paths=[path]))
                yield [path], rows or [died()]


def _as_csv(rows: Iterable[Sequence[str]]) -> Iterator[bytes]:
    """Yield the lines of the table, header first, some at a time."""
    for chunk in _some_at_a_time(_with_header(rows), _LINES_PER_CHUNK):
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(chunk)
        yield text.getvalue().encode()


def _with_header(rows: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
    yield COLUMNS
    yield from rows


def _some_at_a_time(items: Iterable[_Item], n: int) -> Iterator[list[_Item]]:
    """Yield lists of `n` items; the last may be shorter."""
    rest = iter(items)
    while some := list(islice(rest, n)):
        yield some


def _nothing_found(left_out: LeftOut) -> str:
    """Say what is there instead of files that match."""
    endings = [f"{n:,} {name}" for name, n in left_out.endings.most_common()]
    others = [
        (left_out.links, "symlinks (--follow-symlinks follows those that stay inside the root)"),
        (left_out.stores, "stores"),
        (left_out.folders, "folders that cannot be read"),
        (left_out.names, "files with names that a manifest cannot hold"),
    ]
    found = [*endings, *(f"{n:,} {what}" for n, what in others if n)]
    return (
        f"No file in the exports has a name that matches --glob. Found: "
        f"{', '.join(found) or 'no file'}. Name the folder that holds the files, or another --glob."
    )
