"""The floor of the loader's benchmarks: how long C takes to copy the same rows from memory."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Gather = Callable[[NDArray[np.int16], NDArray[np.int64], NDArray[np.int16]], Any]
"""Copy the rows of the first array that the second names into the third."""

SOURCE = """
#include <stdint.h>
#include <string.h>
void gather(const char *from, const int64_t *rows, int64_t n, int64_t size, char *to) {
    for (int64_t i = 0; i < n; i++) memcpy(to + i * size, from + rows[i] * size, size);
}
"""


def memcpy_gather(folder: Path) -> tuple[str, Gather]:
    """Return the floor and its name: a loop of memcpy, or numpy where there is no C compiler.

    The compiled library is kept in `folder`.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return 'np.take(mode="clip"), for want of a C compiler', _take
    library = folder / "floor.so"
    if not library.exists():
        source = folder / "floor.c"
        source.write_text(SOURCE)
        command = [compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).gather
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer, pointer, number, number, pointer]
    function.restype = None

    def gather(source: NDArray[np.int16], rows: NDArray[np.int64], out: NDArray[np.int16]) -> None:
        assert out.shape == (len(rows), *source.shape[1:])
        assert source.flags.c_contiguous
        assert rows.flags.c_contiguous
        function(source.ctypes.data, rows.ctypes.data, len(rows), source[0].nbytes, out.ctypes.data)

    return "a loop of memcpy in C", gather


def _take(source: NDArray[np.int16], rows: NDArray[np.int64], out: NDArray[np.int16]) -> None:
    np.take(source, rows, axis=0, out=out, mode="clip")
