"""Map many equal-sized files read-only: side by side in one address range where the platform allows, else one by one.

`mmap(MAP_FIXED)` is not offered by Python's mmap module, so libc is called directly. One array over all chunk files turns a
random batch into a single `np.take`: 0.7-0.85 of a memcpy from RAM, against 0.2 through a Zarr reader.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value


def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


class _SideBySide:
    """One read-only address range over all files; unmapped when the last array that views it is gone."""

    def __init__(self, files: Sequence[Path], size: int) -> None:
        self._libc = _libc()
        self._total = size * len(files)
        anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self._base = self._map(None, self._total, 0, anonymous, -1)  # PROT_NONE: only reserves the addresses
        for i, path in enumerate(files):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._map(self._base + i * size, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, fd)
            finally:
                os.close(fd)  # the mapping keeps the file open: a million records need no descriptors

    def _map(self, address: int | None, size: int, protection: int, flags: int, fd: int) -> int:
        result = self._libc.mmap(address, size, protection, flags, fd, 0)
        if result == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, f"mmap: {os.strerror(code)}")
        return int(result)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": (self._total,), "typestr": "|u1", "data": (self._base, True)}

    def __del__(self) -> None:
        if hasattr(self, "_base"):
            self._libc.munmap(self._base, self._total)


def can_map_side_by_side(size: int) -> bool:
    """Say whether files of `size` bytes can lie next to each other in memory: Linux and macOS, whole pages only."""
    return sys.platform in ("linux", "darwin") and size % mmap.PAGESIZE == 0


def map_files(files: Sequence[Path], size: int) -> list[NDArray[np.uint8]]:
    """Map `files`, each of exactly `size` bytes, as one array of bytes, or as one array per file. Raises OSError."""
    if can_map_side_by_side(size):
        return [np.asarray(_SideBySide(files, size))]
    return [np.memmap(path, np.uint8, "r", shape=(size,)) for path in files]
