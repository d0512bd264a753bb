"""Write the small arrays and the metadata of a store."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from ecgprep.building.plan import (
    Plan,
    software_versions,
)
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
from ecgprep.store.format import (
    ARRAYS,
    FORMAT_VERSION,
    PATIENT_NONE,
    SPLIT_NONE,
    Layout,
    content_sha256,
)


def _write_store(plan: Plan, rows: Rows, registry: Registry) -> None:
    """Write the small arrays and all metadata beside the chunks that are there already."""
    manifest, layout, built = plan.manifest, plan.layout, plan.built
    remove_partials(built)
    arrays = dict(rows.arrays)
    arrays["label"] = manifest.label
    arrays["covariates"] = manifest.covariates
    arrays["patient"] = np.full(layout.n_records, PATIENT_NONE, np.int32)
    arrays["split"] = np.full(layout.n_records, SPLIT_NONE, np.int8)
    for row in np.flatnonzero(rows.ok):
        arrays["patient"][row] = registry.number[manifest.patient_id[row]]
        arrays["split"][row] = registry.split[manifest.patient_id[row]]
    for name, spec in ARRAYS.items():
        (built / name).mkdir(exist_ok=True)
        write_file(built / name / "zarr.json", canonical_json(layout.metadata(name), indent=2))
        if name != "waveforms":
            for path in layout.chunk_files(name):
                (built / path).parent.mkdir(parents=True, exist_ok=True)
                write_file(
                    built / path,
                    np.ascontiguousarray(
                        arrays[name], np.dtype(spec.dtype).newbyteorder("<")
                    ).tobytes(),
                )
    _remove_strangers(built, layout)
    attributes = {
        "format_version": FORMAT_VERSION,
        "lead_names": list(LEADS),
        "sample_rate_hz": plan.settings.target.rate_hz,
        "n_samples": layout.n_samples,
        "covariate_names": list(manifest.covariate_names),
        "settings": plan.settings.recorded(manifest.covariate_names),
        "software": software_versions(),
    }
    root: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    root["attributes"]["content_sha256"] = content_sha256(built, root, layout)
    write_json(built / "zarr.json", root)
    for folder, _, _ in os.walk(built):
        fsync_dir(Path(folder))


def _remove_strangers(built: Path, layout: Layout) -> None:
    """Delete what an earlier plan for the same store left in the work folder: chunks beyond the last, arrays of another shape."""
    expected = {"zarr.json", *(name for name, _ in layout.files())}
    for path in sorted(built.rglob("*"), reverse=True):
        if path.is_dir():
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()
        elif path.relative_to(built).as_posix() not in expected:
            path.unlink()
