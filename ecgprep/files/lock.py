"""A lock file beside what is being written, so that no two programs write it at once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from ecgprep.errors import TargetExists

_CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def locked(target: Path, wait: bool = True, shared: bool = False, busy: str = "") -> Iterator[None]:
    """Hold a lock file beside `target`, alone or `shared` with others that share it.

    Raises TargetExists when another process holds it and `wait` is off; the message begins with `busy`. Where the file system cannot lock
    (Lustre without `-o flock`, say), it is warned of and gone on without: it is then for the user not to start two.
    """
    lock = target.with_name(f".{target.name}.lock")
    while True:
        with open(lock, "w") as held:
            can_lock = True
            try:
                fcntl.flock(
                    held,
                    (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB),
                )
            except OSError as error:
                can_lock = error.errno not in _CANNOT_LOCK
                if can_lock:
                    busy = busy or f"{target.name} is being built"
                    raise TargetExists(
                        f"{busy} by another process. Wait for it, or give another name."
                    ) from None
                warnings.warn(
                    f"The file system of {target.parent} cannot lock: start no two programs that write {target.name}.",
                    stacklevel=3,
                )
            if can_lock and (
                not lock.exists() or lock.stat().st_ino != os.fstat(held.fileno()).st_ino
            ):
                continue  # its last holder deleted the file that we opened
            try:
                yield
            finally:
                with contextlib.suppress(
                    OSError
                ):  # another one shares it: the last to leave deletes it
                    if can_lock:
                        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    lock.unlink(missing_ok=True)
            return
