"""Files that are whole or absent: write beside, fsync, rename, fsync the folder.

Without fsync, a rename can survive a power cut while the data do not (Pillai et al., OSDI 2014),
so every writer goes through here.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ecgprep.errors import NoSpace

PRIVATE = 0o600
"""Mode of files that hold identifiers or lead back to them: readable by their owner only."""

PARTIAL = ".partial"
"""Suffix of files that are still being written."""


@contextlib.contextmanager
def naming_full_disk(where: Path) -> Iterator[None]:
    """Turn "disk full" into `NoSpace`, which says what to do; the OSError would show a path."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        existing = where if where.exists() else where.parent
        free_mb = shutil.disk_usage(existing).free / 1e6
        raise NoSpace(
            f"The disk that holds {where.name} is full ({free_mb:.0f} MB free). "
            "No half-written file was left behind. Free some space, or write to another disk."
        ) from None


def fsync_dir(path: Path) -> None:
    """Make the entries of a folder durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes | memoryview, mode: int = 0o666) -> None:
    """Write `data` to `path`, whole or not at all; `mode` holds from the first byte on.

    Raises NoSpace when the disk is full.
    """
    write_chunks(path, [data], mode)


def write_chunks(path: Path, chunks: Iterable[bytes | memoryview], mode: int = 0o666) -> None:
    """Write as `write_file` does what need not be in memory at once."""
    temporary = _temporary_name(path)
    with naming_full_disk(path.parent):
        try:
            _write_durably(temporary, chunks, mode)
            os.replace(temporary, path)
        except BaseException as error:  # Ctrl-C included
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):  # name the file that the caller asked for
                error.filename, error.filename2 = str(path), None
            raise
        fsync_dir(path.parent)


def write_together(contents: Mapping[Path, bytes], mode: int = 0o666) -> None:
    """Write several files of one folder, all of them or none.

    All are written beside their targets before the first is renamed, so that a full disk leaves
    every target as it was. Raises NoSpace when the disk is full.
    """
    temporary = {path: _temporary_name(path) for path in contents}
    folders = {path.parent for path in contents}
    with naming_full_disk(next(iter(folders))):
        try:
            for path, data in contents.items():
                _write_durably(temporary[path], [data], mode)
            for path, written in temporary.items():
                os.replace(written, path)
        finally:  # what is left was not renamed: a failure, or Ctrl-C
            for written in temporary.values():
                with contextlib.suppress(OSError):
                    written.unlink(missing_ok=True)
        for folder in folders:
            fsync_dir(folder)


def _temporary_name(path: Path) -> Path:
    """Return a new name beside a file; the process id is not enough: machines share folders."""
    return path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}{PARTIAL}")


def _write_durably(path: Path, chunks: Iterable[bytes | memoryview], mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(fd, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(fd)


def write_json(path: Path, value: Any, mode: int = 0o666) -> None:
    """Write canonical JSON (sorted keys, one trailing newline), whole or not at all."""
    write_file(path, canonical_json(value, indent=2), mode)


def canonical_json(value: Any, indent: int | None = None) -> bytes:
    """Encode so that equal values give equal bytes; NaN is refused, since it is not JSON."""
    text = json.dumps(
        value,
        sort_keys=True,
        indent=indent,
        separators=None if indent else (",", ":"),
        ensure_ascii=True,
        allow_nan=False,
    )
    return text.encode() + (b"\n" if indent else b"")


def remove_partials(folder: Path) -> None:
    """Delete what killed `write_file` calls left in a folder that no other program writes to."""
    for path in list(folder.rglob(f".*{PARTIAL}")):
        path.unlink(missing_ok=True)


def remove_partials_of(path: Path) -> None:
    """Delete what killed `write_file` calls left of this file; call it under the file's lock.

    Leftovers of files whose names begin with this file's name are deleted, too.
    """
    for leftover in list(path.parent.glob(f".{glob.escape(path.name)}*{PARTIAL}")):
        leftover.unlink(missing_ok=True)


def publish_dir(built: Path, target: Path, replace: bool) -> None:
    """Give a finished folder its final name.

    With `replace`, the folder that has the name is moved aside first and deleted last. If the
    process is killed between the two renames, `finish_publishing` puts the old folder back.
    """
    if replace and target.exists():
        os.rename(target, _replaced(target))
    os.rename(built, target)
    fsync_dir(target.parent)
    finish_publishing(target)


def finish_publishing(target: Path) -> None:
    """Clean up after a `publish_dir` that was cut short.

    The old folder is deleted if the new one has its name, and put back if not.
    """
    old = _replaced(target)
    if old.exists() and not target.exists():
        os.rename(old, target)
        fsync_dir(target.parent)
    elif old.exists():
        shutil.rmtree(old)


def _replaced(target: Path) -> Path:
    """Return where `publish_dir` keeps the old folder until the new one has its name."""
    return target.with_name(f".{target.name}.old")
