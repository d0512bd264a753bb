"""The floor of the loader's benchmarks: what copying the same rows from memory takes, in C."""

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
    """Return the floor and its name: a loop of memcpy, or numpy where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return 'np.take(mode="clip"), for want of a C compiler', lambda source, rows, out: np.take(
            source, rows, axis=0, out=out, mode="clip"
        )
    library = folder / "floor.so"
    if not library.exists():
        (folder / "floor.c").write_text(SOURCE)
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", folder / "floor.c", "-o", library], check=True
        )
    function = ctypes.CDLL(str(library)).gather
    function.argtypes, function.restype = (
        [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p],
        None,
    )

    def gather(source: NDArray[np.int16], rows: NDArray[np.int64], out: NDArray[np.int16]) -> None:
        assert out.shape == (len(rows), *source.shape[1:])
        assert source.flags.c_contiguous
        assert rows.flags.c_contiguous
        function(source.ctypes.data, rows.ctypes.data, len(rows), source[0].nbytes, out.ctypes.data)

    return "a loop of memcpy in C", gather
