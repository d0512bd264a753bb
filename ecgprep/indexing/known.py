"""What is known of every file, in one private SQLite file beside the table.

A run that was stopped continues from it, and a later run reads only what is new or has changed.
Nothing piles up in memory: the table, sorted by path, and the counts come straight out of it. Each
commit is whole or absent, whenever the process is killed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from ecgprep import __version__
from ecgprep.errors import RETRIED, InputError, NoSpace, TargetExists
from ecgprep.files.atomic import PRIVATE
from ecgprep.indexing.fields import COLUMNS, FileFields
from ecgprep.indexing.walk import FoundFile

IN_MEMORY = Path(":memory:")
"""Keeps nothing."""

_APPLICATION = 0x65636769
""""ecgi" in ASCII: the mark of our files in SQLite's header, at byte 68."""
_HEADER_BYTES = 100

_READ_AT_ONCE = 4096

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_SCHEMA = f"""
CREATE TABLE files (
    path_xml TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    run INTEGER NOT NULL,
    {", ".join(f"{name} TEXT" for name in COLUMNS[1:])}
) WITHOUT ROWID;
CREATE TABLE about (context TEXT NOT NULL, run INTEGER NOT NULL);
"""
"""`status` is null until a file is read; `run` is the last run that found the file."""

_NOTE = f"""
INSERT INTO files (path_xml, size, mtime_ns, run) VALUES (?, ?, ?, ?)
ON CONFLICT (path_xml) DO UPDATE SET
    run = excluded.run,
    status = CASE
        WHEN size = excluded.size AND mtime_ns = excluded.mtime_ns
            AND status NOT IN ({", ".join(f"'{name}'" for name in (*RETRIED, "file_missing"))})
        THEN status
    END,
    size = excluded.size,
    mtime_ns = excluded.mtime_ns
"""  # noqa: S608 - built from our own names

_ASSIGNED = ", ".join(f"{name} = ?" for name in COLUMNS[1:])
_PUT = f"UPDATE files SET {_ASSIGNED} WHERE path_xml = ?"  # noqa: S608 - our own names


def known_path(table: Path) -> Path:
    """Return where the files of a table are known: that of `ecg.csv` is `ecg.csv.known`."""
    return table.with_name(f"{table.name}.known")


class KnownFiles:
    """The files of one table. Use it in a `with` block; one process at a time.

    `context` names all that decides the fields of a file beside its bytes. What another context has
    written is read again.

    Raises:
        TargetExists: if something else has the name.
        NoSpace: in any method, when the disk is full.
    """

    def __init__(self, path: Path, context: str) -> None:
        self._path = path
        with _naming_faults():
            self._connection = _open(path)
            self._run = self._begin(f"{__version__} {' '.join(COLUMNS)} {context}")

    def __enter__(self) -> KnownFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None
    ) -> None:
        """Keep what was read, also when the run was interrupted; a file without any is deleted."""
        with contextlib.closing(self._connection), _naming_faults():
            if kind is None or not issubclass(kind, NoSpace):
                self._connection.commit()
            is_empty = not self._number("SELECT EXISTS (SELECT 1 FROM files)")
        if is_empty and self._path != IN_MEMORY:
            self._path.unlink(missing_ok=True)

    def _begin(self, context: str) -> int:
        found = self._connection.execute("SELECT context, run FROM about").fetchone()
        if found is None or found[0] != context:
            self._connection.execute("DELETE FROM files")
            self._connection.execute("DELETE FROM about")
            self._connection.execute("INSERT INTO about VALUES (?, 0)", [context])
        self._connection.execute("UPDATE about SET run = run + 1")
        return int(self._connection.execute("SELECT run FROM about").fetchone()[0])

    def commit(self) -> None:
        """Keep what was put so far, whatever happens next."""
        with _naming_faults():
            self._connection.commit()

    def note(self, found: Iterable[FoundFile]) -> int:
        """Take in the files that a walk finds, and return their number.

        A file whose size or time has changed, or that may have failed through no fault of its own,
        is not read any more.
        """
        with _naming_faults():
            self._connection.executemany(_NOTE, ((*file, self._run) for file in found))
        return self._number("SELECT COUNT(*) FROM files WHERE run = ?", self._run)

    def forget_others(self) -> None:
        """Drop the files that this run's walk did not find."""
        with _naming_faults():
            self._connection.execute("DELETE FROM files WHERE run != ?", [self._run])
            self._connection.commit()

    def forget_this_walk(self) -> None:
        """Go back to what was known before the walk."""
        self._connection.rollback()

    def unread(self) -> Iterator[str]:
        """Yield the paths of files that are not read, in order."""
        last = ""
        while True:
            with _naming_faults():
                rows = self._connection.execute(
                    "SELECT path_xml FROM files WHERE path_xml > ? AND status IS NULL "
                    "ORDER BY path_xml LIMIT ?",
                    [last, _READ_AT_ONCE],
                ).fetchall()
            if not rows:
                return
            yield from (path for (path,) in rows)
            last = rows[-1][0]

    def put(self, paths: Sequence[str], fields: Sequence[FileFields]) -> None:
        """Keep the fields of files that were read."""
        with _naming_faults():
            values = ((*row, path) for path, row in zip(paths, fields, strict=True))
            self._connection.executemany(_PUT, values)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield the lines of the table, sorted by the bytes of their paths."""
        with _naming_faults():
            names = ", ".join(COLUMNS)
            query = f"SELECT {names} FROM files ORDER BY path_xml"  # noqa: S608 - our own names
            yield from self._connection.execute(query)

    def count(self, column: str) -> dict[str, int]:
        """Count files by the value of a column, most frequent first; empty values do not count."""
        with _naming_faults():
            found = self._connection.execute(
                f"SELECT {column}, COUNT(*) AS n FROM files WHERE {column} != '' "  # noqa: S608
                "GROUP BY 1 ORDER BY n DESC, 1"
            )
            return dict(found.fetchall())

    def filled(self, columns: Sequence[str]) -> dict[str, int]:
        """Count the files that have a value, for each of some columns."""
        sums = ", ".join(f"SUM({name} != '')" for name in columns)
        with _naming_faults():
            found = self._connection.execute(f"SELECT {sums} FROM files").fetchone()  # noqa: S608
        return dict(zip(columns, found, strict=True))

    def n_distinct(self, column: str) -> int:
        """Count the values of a column."""
        return self._number(f"SELECT COUNT(DISTINCT NULLIF({column}, '')) FROM files")  # noqa: S608

    def n_refused(self) -> int:
        """Count the files that were read and are not `ok`."""
        return self._number("SELECT COUNT(*) FROM files WHERE status != 'ok'")

    def n_unread(self) -> int:
        """Count the files that are not read."""
        return self._number("SELECT COUNT(*) FROM files WHERE status IS NULL")

    def months(self) -> tuple[str, str] | None:
        """Return the first and the last month (`2019-03`) in which a file was acquired."""
        with _naming_faults():
            first, last = self._connection.execute(
                "SELECT MIN(acquired_at), MAX(acquired_at) FROM files WHERE acquired_at != ''"
            ).fetchone()
        return (first[:7], last[:7]) if first else None

    def _number(self, query: str, *values: object) -> int:
        with _naming_faults():
            return int(self._connection.execute(query, values).fetchone()[0])


def _open(path: Path) -> sqlite3.Connection:
    """Open a file of ours, or begin one; one that is damaged is begun again."""
    if path == IN_MEMORY:
        return _prepared(sqlite3.connect(":memory:"))
    _make_private(path)
    try:
        return _prepared(_connect(path))
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode not in _DAMAGED:
            raise
    path.unlink()
    _make_private(path)
    return _prepared(_connect(path))


def _connect(path: Path) -> sqlite3.Connection:
    # nolock: the table has a lock of its own, which also copes with file systems that have none.
    return sqlite3.connect(f"{path.absolute().as_uri()}?nolock=1", uri=True)


def _prepared(connection: sqlite3.Connection) -> sqlite3.Connection:
    try:
        connection.execute("PRAGMA temp_store = MEMORY")  # no ids in the folder for temporary files
        connection.execute("PRAGMA trusted_schema = OFF")
        tables = connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0]
        if not tables:
            connection.executescript(
                f"BEGIN; PRAGMA application_id = {_APPLICATION}; {_SCHEMA} COMMIT;"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _make_private(path: Path) -> None:
    """Make the file if there is none, readable by its owner only. Raises TargetExists."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, PRIVATE)
    except OSError as error:
        if os.path.lexists(path):
            raise TargetExists(_NOT_OURS) from None
        raise error
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not _is_ours(file.read(_HEADER_BYTES)):
            raise TargetExists(_NOT_OURS)
        os.fchmod(descriptor, PRIVATE)


_NOT_OURS = (
    "Beside the output, a file with its name and the ending .known exists, and ecgprep index did "
    "not write it. Move it away, or name another output."
)


def _is_ours(header: bytes) -> bool:
    return not header or (
        header.startswith(b"SQLite format 3\0") and header[68:72] == _APPLICATION.to_bytes(4, "big")
    )


@contextlib.contextmanager
def _naming_faults() -> Iterator[None]:
    """Turn SQLite's errors that a user can mend into ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC):
            raise NoSpace(
                "The disk that holds the table is full. What was read before is kept, and no "
                "half-written table was left behind. Free some space and run again, or write to "
                "another disk."
            ) from None
        if code in _DAMAGED:
            raise InputError(
                "The file beside the table whose name ends in .known is damaged. "
                "Delete it and run again: every file is then read anew."
            ) from None
        raise
