"""How the machine computes: threads, kernels, precision and memory, set once before a run."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable

import torch
from torch import Tensor

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""
_GIB = 2**30


def set_up(threads: int) -> None:
    """Fix threads and kernels, which decide the last bits, and let the process keep the memory that a step has used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # NaN in new memory, to find bugs: 5 % of a step
    torch.backends.cuda.matmul.allow_tf32 = False  # what may be coarse is bfloat16 already (--amp); the rest is to be float32
    torch.backends.cudnn.allow_tf32 = False
    keep_memory()


def keep_memory() -> None:
    """Keep glibc from giving large tensors back to the system after each operation: the fresh pages of the next cost a CPU 10 % of a step."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _GIB)
        mallopt(_TRIM_THRESHOLD, 2 * _GIB - 1)


class Upload:
    """Copies batches to a device while the device still computes, at most one batch ahead.

    A copy from pinned memory is only begun when the call returns, and the loader fills its buffers anew: so each call first waits for the
    copy of the call before.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._copied: torch.cuda.Event | None = None

    def __call__(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return the tensors on the device."""
        if self._copied is not None:
            self._copied.synchronize()
        moved = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        if self.device == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        return moved
