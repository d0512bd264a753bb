"""Write the small arrays and the metadata of a store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.building.plan import Plan, software_versions
from ecgprep.building.rows import Rows
from ecgprep.files.atomic import (
    canonical_json,
    fsync_dir,
    remove_partials,
    write_file,
    write_json,
)
from ecgprep.leads import LEADS
from ecgprep.patients.registry import Registry
from ecgprep.store.additions import LEAD_FILES, consolidated_metadata
from ecgprep.store.format import (
    ARRAYS,
    CONSOLIDATED,
    PATIENT_NONE,
    SPLIT_NONE,
    Layout,
    content_sha256,
    format_version,
)


@dataclass(frozen=True)
class Taken:
    """What a store has from another one: the versions that built it, and whole chunks.

    `hashes` are the SHA-256 of files that are linked, `chunks` their numbers.
    """

    software: Mapping[str, str]
    hashes: Mapping[str, str]
    chunks: frozenset[int]


def write_store(plan: Plan, rows: Rows, registry: Registry, taken: Taken | None = None) -> None:
    """Write the small arrays and all metadata beside the chunks that are there already."""
    attributes = {
        "sample_rate_hz": plan.settings.target.rate_hz,
        "covariate_names": list(plan.manifest.covariate_names),
        "settings": plan.recorded_settings,
    }
    write_content(plan.built, plan.layout, _small_arrays(plan, rows, registry), attributes, taken)


def write_content(
    built: Path,
    layout: Layout,
    arrays: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Any],
    taken: Taken | None = None,
) -> None:
    """Write small arrays, coordinate and metadata, and delete what does not belong to the store.

    `attributes` are those of the group that `layout` and `taken` do not decide.
    """
    remove_partials(built)
    for name in ARRAYS:
        (built / name).mkdir(exist_ok=True)
        write_file(built / name / "zarr.json", canonical_json(layout.metadata(name), indent=2))
        if name != "waveforms":
            _write_array(built, layout, name, arrays[name])
    for name, data in LEAD_FILES.items():
        (built / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(built / name, data)
    _remove_foreign_files(built, layout)
    write_json(built / "zarr.json", _root_metadata(built, layout, attributes, taken))
    for folder, _, _ in os.walk(built):
        fsync_dir(Path(folder))


def _small_arrays(plan: Plan, rows: Rows, registry: Registry) -> dict[str, NDArray[Any]]:
    """Return all arrays but the waveforms; only usable rows have a patient and a split."""
    manifest, n = plan.manifest, plan.layout.n_records
    patient = np.full(n, PATIENT_NONE, np.int32)
    split = np.full(n, SPLIT_NONE, np.int8)
    for row in np.flatnonzero(rows.ok):
        patient[row] = registry.number[manifest.patient_id[row]]
        split[row] = registry.split[manifest.patient_id[row]]
    return {
        **rows.arrays,
        "label": manifest.label,
        "covariates": manifest.covariates,
        "patient": patient,
        "split": split,
    }


def _write_array(built: Path, layout: Layout, name: str, values: NDArray[Any]) -> None:
    """Write a small array: it has one chunk, or none if it is empty."""
    little_endian = np.dtype(ARRAYS[name].dtype).newbyteorder("<")
    data = np.ascontiguousarray(values, little_endian).tobytes()
    for path in layout.chunk_files(name):
        (built / path).parent.mkdir(parents=True, exist_ok=True)
        write_file(built / path, data)


def _root_metadata(
    built: Path, layout: Layout, given: Mapping[str, Any], taken: Taken | None
) -> dict[str, Any]:
    """Return the content of the store's zarr.json, with the hash of all its other files."""
    attributes: dict[str, Any] = {
        **given,
        "format_version": format_version(given["settings"]),
        "lead_names": list(LEADS),
        "n_samples": layout.n_samples,
        "software": software_versions() if taken is None else dict(taken.software),
    }
    root = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": attributes,
        CONSOLIDATED: consolidated_metadata(layout, tuple(ARRAYS)),
    }
    known = None if taken is None else taken.hashes
    attributes["content_sha256"] = content_sha256(built, root, layout, known)
    return root


def _remove_foreign_files(built: Path, layout: Layout) -> None:
    """Delete what an earlier plan for the same store left in the work folder.

    That is, chunks beyond the last one and arrays of another shape.
    """
    expected = {"zarr.json", *LEAD_FILES, *(name for name, _ in layout.files())}
    for path in sorted(built.rglob("*"), reverse=True):
        if path.is_dir():
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()
        elif path.relative_to(built).as_posix() not in expected:
            path.unlink()
