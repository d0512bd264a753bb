"""How the machine computes: threads, kernels, precision and memory, set once before a run."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from functools import cache

import torch

from ecgprep.errors import StoreError

_log = logging.getLogger(__name__)

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""

_GIB = 2**30
_MMAP_THRESHOLD_MAX = 2**25
"""The largest that an older glibc accepts."""

HARDWARE_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Instruction sets that multiply in bfloat16, as torch.cpu.get_capabilities() names them.

The first two are those of x86, the last is Arm's.
"""


def set_up(threads: int, *, deterministic: bool = True) -> None:
    """Fix threads and kernels, which decide the last bits, and keep the memory that a step used.

    Without `deterministic` a GPU takes whichever kernels it finds fastest: the same run repeated
    then differs in the last bits.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    # Filling new memory with NaN finds bugs, and costs 5 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Reduced precision is what --amp is for; everything else stays in float32.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    keep_memory()


def keep_memory() -> None:
    """Keep glibc from giving large tensors back to the system after each operation.

    The fresh pages of the next operation would cost a CPU 10 % of a step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    if not mallopt(_MMAP_THRESHOLD, _GIB):
        mallopt(_MMAP_THRESHOLD, _MMAP_THRESHOLD_MAX)
    mallopt(_TRIM_THRESHOLD, 2 * _GIB - 1)


def pick_device(asked: str) -> str:
    """Resolve `auto` to a GPU where there is one.

    Raises StoreError when a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if asked == "cuda" and not has_gpu:
        raise StoreError(
            "--device cuda: no GPU is available to PyTorch here. Use --device auto or cpu."
        )
    return "cuda" if has_gpu and asked != "cpu" else "cpu"


def use_amp(asked: str, device: str, trained: bool | None = None) -> bool:
    """Return whether to compute in bfloat16, resolving `auto`.

    `auto` takes bfloat16 where the device multiplies in it. Measured on two cores with AVX-512 BF16
    (AMD EPYC, Zen 4 or later), an epoch takes 0.72 of the time for resnet1d, 0.59 for xresnet1d18
    and 0.52 for inception1d. `trained` says whether a run that is resumed or used again was trained
    in bfloat16: if not, `auto` computes in float32 as well.
    """
    if asked != "auto":
        return asked == "on"
    return trained is not False and has_bfloat16(device)


def has_bfloat16(device: str) -> bool:
    """Return whether a device multiplies in bfloat16 itself, rather than emulating it.

    NVIDIA's GPUs do from Ampere on, x86 CPUs with AVX-512 BF16 or AMX, and Arm CPUs with BF16 where
    PyTorch was built with kernels for it. PyTorch before 2.13 does not tell what a CPU has.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    if not any(capabilities.get(name, False) for name in HARDWARE_BF16):
        return False
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


@cache
def warn_of_emulation(device: str) -> None:
    """Log a warning, once, where bfloat16 is emulated.

    Measured with resnet1d on one core: a step takes 1.9 times as long where oneDNN may use AVX-512
    without BF16, and 18 times as long where it may use AVX2 only.
    """
    if not has_bfloat16(device):
        _log.warning(
            "--amp on: this %s has no bfloat16 and emulates it, so training can take ten times as "
            "long. Use --amp auto or off.",
            {"cpu": "CPU", "cuda": "GPU"}[device],
        )
