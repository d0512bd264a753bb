"""The contract between ecgprep and ecgfit: the layout of a store, format versions 1 and 2.

A store is a Zarr v3 group that any Zarr reader opens, laid out so that no reader is needed: every
chunk file is uncompressed, little-endian and C-ordered, so it *is* the array. A chunk of 256
records x 8 leads x L samples x 2 bytes is a whole number of 4 KiB pages, so the chunk files can be
mapped side by side into one address range. 256 records are 20 MB at L = 5000: a million records
are 3,907 files.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ecgprep.errors import STATUSES
from ecgprep.files.atomic import canonical_json
from ecgprep.leads import LEADS
from ecgprep.sex_code import SexCode

FORMAT_VERSION = 1

VERSION_WITH_TASK = 2
"""The version of a store whose settings hold a task; in all else it is version 1."""

CHUNK_RECORDS = 256

SPLITS = ("train", "val", "test")
"""The value k of `split` is SPLITS[k]."""

SPLIT_NONE = -1

LABEL_UNKNOWN = -1

PATIENT_NONE = -1

N_THREADS = min(4, os.cpu_count() or 1)

MAX_ABS_UV = 32767
"""A larger amplitude (32.767 mV) is a unit error, not a heart: it is rejected, never clipped."""


ATTRIBUTES = frozenset(
    {
        "format_version",
        "lead_names",
        "sample_rate_hz",
        "n_samples",
        "covariate_names",
        "settings",
        "software",
        "content_sha256",
    }
)
"""All that the group may say about itself: an allow-list, checked on opening.

No path, date, device or free text.
"""


SETTINGS = frozenset(
    "sample_rate_hz n_samples min_seconds min_leads resampler split_ratios split_seed "
    "allow_missing_class unlabelled covariates split_by_column fixed_test label_level "
    "exclude_quality duplicates merge_lookalikes follow_symlinks allow_covariate sex_code "
    "task sites".split()
)
"""All that `settings` may hold. The last six are there only where they say something.

`task`, the canonical text of the task that made the manifest, is there in version 2 only.
"""


def format_version(settings: Mapping[str, Any]) -> int:
    """Return the version of a store with these settings."""
    return VERSION_WITH_TASK if "task" in settings else FORMAT_VERSION


def sex_codes_of(settings: Mapping[str, Any]) -> dict[str, SexCode]:
    """Return {covariate: code} of the covariates that hold sexes of a known code.

    Raises InputError for what is no code.
    """
    return {name: SexCode.parse(code) for name, code in settings.get("sex_code", {}).items()}


QUALITY_FLAGS = (
    "flat",
    "clipped",
    "lead_off",
    "baseline_wander",
    "mains_hum",
    "noise",
    "amplitude",
    "einthoven",
    "arm_reversal",
    "out_of_range",
)
"""Bit k of `quality` is QUALITY_FLAGS[k]; quality.py explains them.

This list only grows; a store names the flags that it was built with.
"""


@dataclass(frozen=True)
class ArraySpec:
    """One array of the store: its axes after `record`, its numpy dtype and its CF attributes."""

    axes: tuple[str, ...]
    dtype: str
    attributes: dict[str, Any] = field(default_factory=dict)
    fill_value: float | bool | str = 0


def _flags(dtype: str, names: Sequence[str], first: int = 0) -> ArraySpec:
    """Describe an array of codes that count up from `first`."""
    codes = list(range(first, first + len(names)))
    attributes = {"flag_values": codes, "flag_meanings": " ".join(names)}
    return ArraySpec((), dtype, attributes, fill_value=first)


def quality_attributes(n_flags: int) -> dict[str, Any]:
    """Return the CF attributes of `quality` in a store that knows the first `n_flags` flags."""
    return {
        "flag_masks": [1 << k for k in range(n_flags)],
        "flag_meanings": " ".join(QUALITY_FLAGS[:n_flags]),
    }


ARRAYS: dict[str, ArraySpec] = {
    "waveforms": ArraySpec(("lead", "sample"), "int16", {"units": "mV", "scale_factor": 0.001}),
    "lead_mask": ArraySpec(("lead",), "bool", fill_value=False),
    "valid_span": ArraySpec(("bound",), "int32"),
    "moments": ArraySpec(("lead", "power"), "int64"),
    "label": ArraySpec((), "int8", fill_value=LABEL_UNKNOWN),
    "patient": ArraySpec((), "int32", fill_value=PATIENT_NONE),
    "split": _flags("int8", ("none", *SPLITS), first=SPLIT_NONE),
    "status": _flags("uint8", STATUSES),
    "quality": ArraySpec(("lead",), "uint32", quality_attributes(len(QUALITY_FLAGS))),
    "rate_hz": ArraySpec((), "float32", {"units": "Hz"}),
    "crc32c": ArraySpec((), "uint32"),
    "covariates": ArraySpec(("covariate",), "float32", fill_value="NaN"),
}


@dataclass(frozen=True)
class Layout:
    """The sizes that decide every shape."""

    n_records: int
    n_samples: int
    n_covariates: int = 0

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one array, records first."""
        sizes = {
            "lead": len(LEADS),
            "sample": self.n_samples,
            "bound": 2,
            "power": 2,
            "covariate": self.n_covariates,
        }
        return (self.n_records, *(sizes[axis] for axis in ARRAYS[name].axes))

    def chunk_shape(self, name: str) -> tuple[int, ...]:
        """Waveforms come in chunks of 256 records; every other array is one chunk."""
        records = CHUNK_RECORDS if name == "waveforms" else self.n_records
        edges = [max(1, size) for size in self.shape(name)[1:]]  # Zarr allows no edge of 0
        return (records, *edges)

    def chunk_files(self, name: str) -> list[str]:
        """List all chunks of an array, relative to the store; a complete store has them all."""
        if 0 in self.shape(name):
            return []
        n_chunks = math.ceil(self.n_records / self.chunk_shape(name)[0])
        return [self.chunk_file(name, i) for i in range(n_chunks)]

    @staticmethod
    def chunk_file(name: str, i: int) -> str:
        """Return the path of chunk i along the records, relative to the store."""
        other_axes = "/0" * len(ARRAYS[name].axes)  # of one chunk each
        return f"{name}/c/{i}{other_axes}"

    def chunk_bytes(self, name: str) -> int:
        """Return the bytes of each chunk file of an array; the last one is padded to this size."""
        return math.prod(self.chunk_shape(name)) * np.dtype(ARRAYS[name].dtype).itemsize

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the `zarr.json` of one array (Zarr v3 core specification)."""
        spec = ARRAYS[name]
        codec: dict[str, Any] = {"name": "bytes"}
        if np.dtype(spec.dtype).itemsize > 1:
            codec["configuration"] = {"endian": "little"}
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape(name)),
            "data_type": spec.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(self.chunk_shape(name))},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": spec.fill_value,
            "codecs": [codec],
            "attributes": spec.attributes,
            "dimension_names": ["record", *spec.axes],
            "storage_transformers": [],
        }

    def files(self) -> Iterator[tuple[str, int | None]]:
        """Yield all files but the root `zarr.json`, each with its size if the layout fixes it."""
        for name in ARRAYS:
            yield f"{name}/zarr.json", None
            for path in self.chunk_files(name):
                yield path, self.chunk_bytes(name)


CONSOLIDATED = "consolidated_metadata"
"""The key of the root that repeats the metadata of the arrays. It is no content of its own."""


def content_sha256(
    store: Path, root: dict[str, Any], layout: Layout, known: Mapping[str, str] | None = None
) -> str:
    """Hash the whole content of a store; `known` has hashes of files that need not be read.

    SHA-256 over one line `<path> <sha256 of the file>` (ended by a line feed) for every file but
    the root `zarr.json`, in sorted order of the paths, followed by the canonical JSON (sorted keys,
    no white space) of the root without `content_sha256` and consolidated metadata.
    """
    return sha256_of_content(file_hashes(store, layout, known), root)


def file_hashes(
    store: Path, layout: Layout, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the SHA-256 of every file but the root `zarr.json`, by name, in sorted order."""
    known = known or {}

    def hashed(name: str) -> str:
        if name in known:
            return known[name]
        with open(store / name, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    names = sorted(path for path, _ in layout.files())
    with ThreadPoolExecutor(N_THREADS) as threads:  # hashing lets other threads run
        return dict(zip(names, threads.map(hashed, names), strict=True))


def sha256_of_content(hashes: Mapping[str, str], root: dict[str, Any]) -> str:
    """Return the `content_sha256` of a store with these files and this root."""
    digest = hashlib.sha256()
    for name, hashed in hashes.items():
        digest.update(f"{name} {hashed}\n".encode())
    attributes = dict(root["attributes"])
    attributes.pop("content_sha256", None)
    hashed_root = {key: value for key, value in root.items() if key != CONSOLIDATED}
    digest.update(canonical_json(hashed_root | {"attributes": attributes}))
    return digest.hexdigest()
