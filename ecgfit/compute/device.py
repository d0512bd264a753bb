"""How the machine computes: threads, kernels, precision and memory, set once before a run."""

from __future__ import annotations

import ctypes
import os
import platform

import torch

from ecgprep.errors import StoreError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""


_GIB, _MMAP_THRESHOLD_MAX = 2**30, 2**25


def set_up(threads: int, *, deterministic: bool = True) -> None:
    """Fix threads and kernels, which decide the last bits, and let the process keep the memory that a step has used.

    Without `deterministic` a GPU takes whichever kernels it finds fastest: the same run twice then differs in the last bits.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # NaN in new memory, to find bugs: 5 % of a step
    torch.backends.cuda.matmul.allow_tf32 = (
        False  # what may be coarse is bfloat16 already (--amp); the rest is to be float32
    )
    torch.backends.cudnn.allow_tf32 = False
    keep_memory()


def keep_memory() -> None:
    """Keep glibc from giving large tensors back to the system after each operation: the fresh pages of the next cost a CPU 10 % of a step."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        if not mallopt(_MMAP_THRESHOLD, _GIB):
            mallopt(_MMAP_THRESHOLD, _MMAP_THRESHOLD_MAX)  # of an older glibc
        mallopt(_TRIM_THRESHOLD, 2 * _GIB - 1)


def pick_device(asked: str) -> str:
    """Resolve `auto` to a GPU where there is one. Raises StoreError for a GPU that is asked for and absent."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise StoreError(
            "--device cuda: no GPU is available to PyTorch here. Use --device auto or cpu."
        )
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def use_amp(asked: str, device: str) -> bool:
    """Resolve `auto` to bfloat16 on a GPU that has it; one older than NVIDIA's Ampere would emulate it, slowly."""
    return asked == "on" or (
        asked == "auto"
        and device == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
