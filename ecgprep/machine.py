"""What this machine has that matters to a build or a training run: the content of `ecgprep doctor`."""

from __future__ import annotations

import contextlib
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
    "ecgprep-ecgfit numpy scipy lxml pybase64 zarr numcodecs google-crc32c click rich torch pydantic tensorboard matplotlib jinja2 distributed"
).split()


def examine(folder: Path) -> dict[str, Any]:
    """Collect versions, space, limits and devices; what is not installed is "not installed". No host or user name."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found |= _parsers()
    row_bytes = Layout(CHUNK_RECORDS, 5000).chunk_bytes("waveforms") // CHUNK_RECORDS
    free = shutil.disk_usage(folder).free
    found["free space"] = f"{free / 1e9:,.1f} GB: room for {free // row_bytes:,} recordings of 10 s"
    found["processors"] = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    found["store mapped as one array"] = (
        "yes"
        if can_map_side_by_side(row_bytes * CHUNK_RECORDS)
        else "no: one map per chunk, slower batches"
    )
    found |= _limits()
    found["accelerator"] = _accelerator()
    return found


def _parsers() -> dict[str, str]:
    """Versions of the C parsers underneath; expat is not used to read vendor files, libxml2 is."""
    from pyexpat import EXPAT_VERSION

    return {"libxml2": LIBXML2_VERSION, "expat": EXPAT_VERSION.removeprefix("expat_")}


def _limits() -> dict[str, str]:
    with contextlib.suppress(ImportError):
        import resource

        def words(limit: int, unit: float, name: str) -> str:
            return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit / unit:,.0f} {name}"

        return {
            "open files": words(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1, "files"),
            "memory limit": words(resource.getrlimit(resource.RLIMIT_AS)[0], 1e6, "MB"),
        }
    return {}


def _accelerator() -> str:
    if importlib.util.find_spec("torch") is None:
        return "not known: torch is not installed"
    torch: Any = importlib.import_module("torch")
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, {torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
    return "none"
