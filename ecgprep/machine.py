"""What this machine has that matters to a build or a training run; `ecgprep doctor` prints it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from ecgprep.readers.xml import LIBXML2_VERSION
from ecgprep.store.format import CHUNK_RECORDS, Layout
from ecgprep.store.mmap import can_map_side_by_side

_PACKAGES = (
    "ecgprep-ecgfit",
    "numpy",
    "scipy",
    "lxml",
    "pybase64",
    "zarr",
    "numcodecs",
    "google-crc32c",
    "click",
    "rich",
    "pandas",
    "torch",
    "scikit-learn",
    "pydantic",
    "tensorboard",
    "matplotlib",
    "jinja2",
    "distributed",
    "pandas",
    "scikit-learn",
    "onnx",
    "onnxruntime",
    "safetensors",
)
_SAMPLES_OF_10_S = 5000


def examine(folder: Path) -> dict[str, Any]:
    """Collect versions, limits, devices and the free space of `folder`.

    What is not installed is "not installed". There is no host name and no user name in it.
    """
    chunk_bytes = Layout(CHUNK_RECORDS, _SAMPLES_OF_10_S).chunk_bytes("waveforms")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: _version(name) for name in _PACKAGES},
        **_parsers(),
        "free space": _free_space(folder, chunk_bytes // CHUNK_RECORDS),
        "processors": _processors(),
        "store mapped as one array": _mapping(chunk_bytes),
        **_limits(),
        "accelerator": _accelerator(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _parsers() -> dict[str, str]:
    """Return the versions of the XML parsers in C; libxml2 is the one that reads vendor files."""
    from pyexpat import EXPAT_VERSION

    return {"libxml2": LIBXML2_VERSION, "expat": EXPAT_VERSION.removeprefix("expat_")}


def _free_space(folder: Path, row_bytes: int) -> str:
    free = shutil.disk_usage(folder).free
    return f"{free / 1e9:,.1f} GB: room for {free // row_bytes:,} recordings of 10 s"


def _processors() -> int | None:
    """Count the processors that this process may use, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _mapping(chunk_bytes: int) -> str:
    if can_map_side_by_side(chunk_bytes):
        return "yes"
    return "no: one map per chunk, slower batches"


def _limits() -> dict[str, str]:
    """Return the limits of this process; none are known on Windows."""
    try:
        import resource
    except ImportError:
        return {}

    def in_words(kind: int, unit: float, name: str) -> str:
        limit, _ = resource.getrlimit(kind)
        if limit == resource.RLIM_INFINITY:
            return "unlimited"
        return f"{limit / unit:,.0f} {name}"

    return {
        "open files": in_words(resource.RLIMIT_NOFILE, 1, "files"),
        "memory limit": in_words(resource.RLIMIT_AS, 1e6, "MB"),
    }


def _accelerator() -> str:
    if importlib.util.find_spec("torch") is None:
        return "not known: torch is not installed"
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return "none"
    name = torch.cuda.get_device_name(0)
    memory_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
    return f"{name}, {memory_gb:.0f} GB, CUDA {torch.version.cuda}"
