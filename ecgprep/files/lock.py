"""A lock file beside what is being written, so that no two programs write it at once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ecgprep.errors import TargetExists

_CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def locked(target: Path, wait: bool = True, shared: bool = False, busy: str = "") -> Iterator[None]:
    """Hold a lock file beside `target`, alone or `shared` with others that share it.

    Raises TargetExists when another process holds the lock and `wait` is off; the message begins
    with `busy`. Some file systems cannot lock (Lustre without `-o flock`, for example): there, a
    warning is issued and the work continues without a lock.
    """
    lock_file = target.with_name(f".{target.name}.lock")
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if not wait:
        operation |= fcntl.LOCK_NB
    try:
        held = _acquire(lock_file, operation)
    except BlockingIOError:
        busy = busy or f"{target.name} is being built"
        raise TargetExists(
            f"{busy} by another process. Wait for it to finish, or choose another name."
        ) from None
    if held is None:
        warnings.warn(
            f"The file system of {target.parent} does not support file locks. "
            f"Do not start two programs that write {target.name}.",
            stacklevel=3,
        )
    try:
        yield
    finally:
        _release(held, lock_file)


def _acquire(lock_file: Path, operation: int) -> TextIO | None:
    """Open and lock the file; None where the file system cannot lock. Raises BlockingIOError."""
    while True:
        held = open(lock_file, "w")  # noqa: SIM115 - stays open for as long as the lock is held
        try:
            fcntl.flock(held, operation)
        except OSError as error:
            held.close()
            if error.errno in _CANNOT_LOCK:
                return None
            raise BlockingIOError from error
        except BaseException:  # Ctrl-C while waiting
            held.close()
            raise
        if _is_same_file(lock_file, held):
            return held
        held.close()  # the last holder deleted this file after we had opened it: try again


def _is_same_file(lock_file: Path, held: TextIO) -> bool:
    try:
        return os.path.samestat(lock_file.stat(), os.fstat(held.fileno()))
    except FileNotFoundError:
        return False


def _release(held: TextIO | None, lock_file: Path) -> None:
    """Delete the lock file, unless others still share the lock: the last to leave deletes it."""
    with held or contextlib.nullcontext(), contextlib.suppress(OSError):
        if held is not None:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock_file.unlink(missing_ok=True)
