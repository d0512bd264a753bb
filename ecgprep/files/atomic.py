"""Files that are whole or absent: write beside, fsync, rename, fsync the folder.

A rename without fsync can survive a power cut while the data do not (Pillai et al., OSDI 2014), so every writer goes through here.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecgprep.errors import NoSpace

PRIVATE = 0o600
"""Mode of files that hold identifiers or lead back to them: readable by their owner only."""


PARTIAL = ".partial"


@contextlib.contextmanager
def out_of_space_is_named(where: Path) -> Iterator[None]:
    """Turn "disk full" into `NoSpace`, which says what to do; the OSError would echo the file's path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free_mb = shutil.disk_usage(where if where.exists() else where.parent).free / 1e6
            raise NoSpace(
                f"The disk that holds {where.name} is full ({free_mb:.0f} MB free). No half-written file was left. Free space, or write elsewhere."
            ) from None
        raise


def fsync_dir(path: Path) -> None:
    """Make the entries of a folder durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes | memoryview, mode: int = 0o666) -> None:
    """Write `data` to `path`, whole or not at all; the mode counts from the first byte on. Raises NoSpace."""
    temporary = path.with_name(
        f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}{PARTIAL}"
    )  # pids of two machines may be equal
    with out_of_space_is_named(path.parent):
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.replace(temporary, path)
        except (
            BaseException
        ) as error:  # Ctrl-C included: whatever ends the write takes its leftover with it
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                error.filename, error.filename2 = (
                    str(path),
                    None,
                )  # what was asked for, not the file beside it
            raise
        fsync_dir(path.parent)


def write_json(path: Path, value: Any, mode: int = 0o666) -> None:
    """Write canonical JSON (sorted keys, one trailing newline), whole or not at all."""
    write_file(path, canonical_json(value, indent=2), mode)


def canonical_json(value: Any, indent: int | None = None) -> bytes:
    """Encode so that equal values give equal bytes; NaN is refused, since it is not JSON."""
    separators = None if indent else (",", ":")
    text = json.dumps(
        value,
        sort_keys=True,
        indent=indent,
        separators=separators,
        ensure_ascii=True,
        allow_nan=False,
    )
    return text.encode() + (b"\n" if indent else b"")


def remove_partials(folder: Path) -> None:
    """Delete what a killed `write_file` has left anywhere under a folder that nobody else is writing to."""
    for path in list(folder.rglob(f".*{PARTIAL}")):
        path.unlink(missing_ok=True)


def remove_partials_of(path: Path) -> None:
    """Delete what a killed `write_file` of this file, or of one whose name begins with its name, has left; call it under the file's lock."""
    for leftover in list(path.parent.glob(f".{glob.escape(path.name)}*{PARTIAL}")):
        leftover.unlink(missing_ok=True)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def publish_dir(built: Path, target: Path, replace: bool) -> None:
    """Give a finished folder its final name; with `replace`, what stood there is moved aside first and deleted last.

    A process that is killed between the two renames leaves the old folder aside: `recover_published` puts it back.
    """
    if replace and target.exists():
        os.rename(target, _aside(target))
    os.rename(built, target)
    fsync_dir(target.parent)
    recover_published(target)


def recover_published(target: Path) -> None:
    """End a `publish_dir` that was cut short: delete the old folder where the new one has its name, put it back where not."""
    old = _aside(target)
    if old.exists() and not target.exists():
        os.rename(old, target)
        fsync_dir(target.parent)
    elif old.exists():
        shutil.rmtree(old)
