"""Write the build record, and compare it with a manifest: is the store stale?"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.building.parts import (
    Stamp,
    stamp_of,
)
from ecgprep.building.plan import (
    BuildSettings,
    Plan,
    software_versions,
)
from ecgprep.building.rows import Rows
from ecgprep.files.atomic import (
    PRIVATE,
    canonical_json,
    write_file,
)
from ecgprep.patients.manifest import Manifest
from ecgprep.patients.registry import load_registry
from ecgprep.store import Store, looks_like_store
from ecgprep.store.format import (
    PATIENT_NONE,
)
from ecgprep.store.record import BUILD_RECORD_FORMAT, private_path, read_build_record

NO_RECORD = "its build record is missing or unreadable, so what it was built from is not known"


OTHER_RECORD = "its build record belongs to another store"


OTHER_REGISTRY = "the registry is missing, or is not the one it was built with"


def stale_reason(
    store: Path,
    manifest: Manifest,
    settings: BuildSettings,
    registry_path: Path,
    test_patients: frozenset[str] = frozenset(),
) -> str | None:
    """Say why an existing store is not what this manifest, these files and settings would give, or None if it is.

    Files are compared by size and modification time. Raises StoreError when the store cannot be opened.
    """
    opened = Store(store)
    record = read_build_record(store)
    if record is None:
        return NO_RECORD
    if record["content_sha256"] != opened.content_sha256:
        return OTHER_RECORD
    if opened.attributes["settings"] != settings.recorded(manifest.covariate_names):
        return "the settings differ"
    if opened.attributes["software"] != software_versions():
        return "it was built with other versions of ecgprep, numpy, scipy or lxml"
    if record["manifest_sha256"] != manifest.sha256:
        return "the manifest has changed"
    if record["tested_sha256"] != _sha256_of(test_patients):
        return "the list of patients to test has changed"
    if not _registry_agrees(opened, manifest, settings, registry_path, record):
        return OTHER_REGISTRY
    if len(record["sources"]) != len(manifest):
        return "its build record is damaged"
    recorded = map(_stamp, record["sources"])
    changed = sum(
        stamp_of(manifest.root / path) != stamp
        for path, stamp in zip(manifest.path_xml, recorded, strict=True)
    )
    return (
        f"{changed:,} source file{'s have' if changed > 1 else ' has'} changed" if changed else None
    )


def standing_registry(store: Path) -> Path | None:
    """Return the registry that an existing store was built with: whoever builds it again or extends it must use no other."""
    if not store.name:
        return None
    record = read_build_record(store)
    return Path(record["registry"]) if record is not None and looks_like_store(store) else None


def _sha256_of(patients: frozenset[str]) -> str:
    return hashlib.sha256("\n".join(sorted(patients)).encode()).hexdigest()


def _stamp(source: NDArray[np.int64]) -> Stamp:
    size, modified = source.tolist()
    return None if size < 0 else (size, modified)


def _registry_agrees(
    opened: Store,
    manifest: Manifest,
    settings: BuildSettings,
    registry_path: Path,
    record: dict[str, Any],
) -> bool:
    usable = np.flatnonzero(opened.array("patient") != PATIENT_NONE)
    patients = {manifest.patient_id[row] for row in usable}
    return bool(
        load_registry(registry_path, settings.plan).digest(patients) == record["registry_sha256"]
    )


def _write_build_record(plan: Plan, rows: Rows, built: Store, registry: str) -> None:
    """Keep what "is it stale?", `--extend` and the reports need and the store must not hold; named `next` until the store is published."""
    record = {
        "format": BUILD_RECORD_FORMAT,
        "content_sha256": built.content_sha256,
        "manifest_sha256": plan.manifest.sha256,
        "registry": str(plan.registry_path.absolute()),
        "registry_sha256": registry,
        "tested_sha256": _sha256_of(plan.test_patients),
        "rows_sha256": _rows_sha256(plan.manifest, len(plan.manifest)),
        "sources": base64.b64encode(
            rows.stamps.astype("<i8").tobytes()
        ).decode(),  # a list would be ten times as large
        "dialects": rows.dialects,
        "copies": rows.copies,
        "messages": {str(row): message for row, message in enumerate(rows.messages) if message},
        "warnings": rows.warnings,
    }
    write_file(private_path(plan.store, "build.next.json"), canonical_json(record), PRIVATE)


def _rows_sha256(manifest: Manifest, n: int) -> str:
    """Hash what the first n rows of a manifest say."""
    digest = hashlib.sha256(canonical_json(list(manifest.covariate_names)))
    for row in range(n):
        digest.update(
            f"{manifest.patient_id[row]}\0{manifest.path_xml[row]}\0{manifest.label[row]}\n".encode()
        )
    digest.update(manifest.covariates[:n].tobytes())
    return digest.hexdigest()
