"""Write the build record, and compare it with a plan to see whether a store is stale."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.building.parts import Stamp, stamp_of
from ecgprep.building.plan import Plan, software_versions
from ecgprep.building.rows import Rows
from ecgprep.files.atomic import PRIVATE, canonical_json, write_file
from ecgprep.patients.manifest import Manifest
from ecgprep.patients.registry import load_registry
from ecgprep.store import Store, looks_like_store
from ecgprep.store.format import PATIENT_NONE
from ecgprep.store.record import BUILD_RECORD_FORMAT, private_path, read_build_record
from ecgprep.store.row_ids import packed_row_ids

NO_RECORD = "its build record is missing or unreadable, so nothing says what it was built from"
OTHER_RECORD = "its build record belongs to another store"
OTHER_SETTINGS = "the settings differ"
OTHER_SOFTWARE = "it was built with other versions of ecgprep, numpy, scipy or lxml"
OTHER_MANIFEST = "the manifest has changed"
OTHER_COLUMNS = "another column of the manifest is used, or a column is read in another way"
OTHER_TEST_LIST = "the list of patients to test has changed"
OTHER_REGISTRY = "the registry is missing, or is not the one it was built with"
DAMAGED_RECORD = "its build record is damaged"


def stale_reason(plan: Plan) -> str | None:
    """Say why an existing store is not what its plan would give now, or None if it is.

    Files are compared by size and modification time.

    Raises:
        StoreError: if the store cannot be opened.
    """
    store, record = Store(plan.store), read_build_record(plan.store)
    if record is None:
        return NO_RECORD
    is_other_manifest = record["manifest_sha256"] != plan.manifest.sha256
    reason = difference_of_origin(store, record, plan, may_have_new_rows=is_other_manifest)
    if reason is not None:
        return reason
    if is_other_manifest:
        return OTHER_MANIFEST
    if record["rows_sha256"] != _rows_sha256(plan.manifest, len(plan.manifest)):
        return OTHER_COLUMNS
    if record["tested_sha256"] != _sha256_of(plan.test_patients):
        return OTHER_TEST_LIST
    if not has_same_registry(store, record, plan):
        return OTHER_REGISTRY
    if len(record["sources"]) != len(plan.manifest):
        return DAMAGED_RECORD
    return _changed_files(record, plan)


def difference_of_origin(
    store: Store, record: dict[str, Any], plan: Plan, *, may_have_new_rows: bool
) -> str | None:
    """Say whether the record is another store's, or the settings or software are not the plan's."""
    if record["content_sha256"] != store.content_sha256:
        return OTHER_RECORD
    recorded, wanted = store.attributes["settings"], plan.recorded_settings
    if may_have_new_rows:
        recorded = _with_what_rows_add(store, wanted)
    changed = _changed_settings(recorded, wanted)
    if changed:
        return f"{OTHER_SETTINGS} ({changed})"
    if store.attributes["software"] != software_versions():
        return OTHER_SOFTWARE
    return None


def _with_what_rows_add(store: Store, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return a store's settings, and those wanted that need not change a row that it has.

    They are the codes of columns of sexes in which it has no value, and the merging of look-alikes:
    `has_first_rows` finds out if that gives one of its rows another patient.
    """
    settings = dict(store.attributes["settings"])
    if wanted.get("merge_lookalikes"):
        settings["merge_lookalikes"] = True
    codes = dict(settings.get("sex_code", {}))
    for name, code in wanted.get("sex_code", {}).items():
        if name not in codes and name in settings["covariates"]:
            column = store.array("covariates")[:, settings["covariates"].index(name)]
            codes |= {name: code} if np.isnan(column).all() else {}
    return settings | ({"sex_code": codes} if codes else {})


def _changed_settings(recorded: dict[str, Any], wanted: dict[str, Any]) -> str:
    """List the settings that are not as recorded, with both values; empty if all are."""
    changed = []
    for name in sorted(recorded.keys() | wanted.keys()):
        before, now = recorded.get(name), wanted.get(name)
        if before != now:
            values = f": {before}, now {now}" if name != "task" else ""  # a task is long
            changed.append(name + values)
    return ", ".join(changed)


def has_same_registry(store: Store, record: dict[str, Any], plan: Plan) -> bool:
    """Say whether the plan's registry gives the store's patients the numbers and splits it has."""
    rows = np.flatnonzero(store.array("patient") != PATIENT_NONE)
    patients = {plan.manifest.patient_id[row] for row in rows}
    registry = load_registry(plan.registry_path, plan.settings.plan)
    return bool(registry.digest(patients) == record["registry_sha256"])


def has_first_rows(store: Store, record: dict[str, Any], manifest: Manifest) -> bool:
    """Say whether a manifest begins with the rows that a store was built from."""
    n = len(store)
    return len(manifest) >= n and _rows_sha256(manifest, n) == record["rows_sha256"]


def _changed_files(record: dict[str, Any], plan: Plan) -> str | None:
    """Count the source files that are not as they were when the store was built."""
    root, follow_symlinks = plan.manifest.root, plan.settings.follow_symlinks
    n_changed = 0
    for path, source in zip(plan.manifest.path_xml, record["sources"], strict=True):
        n_changed += stamp_of(root / path, follow_symlinks) != stamp_from_record(source)
    if n_changed == 0:
        return None
    if n_changed == 1:
        return "1 source file has changed"
    return f"{n_changed:,} source files have changed"


def recorded_registry(store: Path) -> Path | None:
    """Return the registry that an existing store was built with, or None where nothing says it.

    Whoever builds the store again or extends it must use no other.
    """
    if not store.name or not looks_like_store(store):
        return None
    record = read_build_record(store)
    return None if record is None else Path(record["registry"])


def stamp_from_record(source: NDArray[np.int64]) -> Stamp:
    """Return the stamp that the record's `sources` hold for a row: a size below 0 is no file."""
    size, modified = source.tolist()
    return None if size < 0 else (size, modified)


def write_build_record(plan: Plan, rows: Rows, built: Store, registry_sha256: str) -> None:
    """Keep what staleness, `--extend`, `rows` and the reports need and the store must not hold.

    The file is named `next` until the store is published.
    """
    sources = rows.stamps.astype("<i8").tobytes()
    record = {
        "format": BUILD_RECORD_FORMAT,
        "content_sha256": built.content_sha256,
        "manifest_sha256": plan.manifest.sha256,
        "registry": str(plan.registry_path.absolute()),
        "registry_sha256": registry_sha256,
        "tested_sha256": _sha256_of(plan.test_patients),
        "rows_sha256": _rows_sha256(plan.manifest, len(plan.manifest)),
        "sources": base64.b64encode(sources).decode(),  # a list would be ten times as large
        "ids": packed_row_ids(plan.manifest.patient_id, plan.manifest.path_xml, plan.manifest.line),
        "dialects": rows.dialects,
        "copies": rows.duplicates,
        "messages": {str(row): message for row, message in enumerate(rows.messages) if message},
        "warnings": rows.warnings,
    }
    write_file(private_path(plan.store, "build.next.json"), canonical_json(record), PRIVATE)


def _sha256_of(patients: frozenset[str]) -> str:
    return hashlib.sha256("\n".join(sorted(patients)).encode()).hexdigest()


def _rows_sha256(manifest: Manifest, n: int) -> str:
    """Hash what the first n rows of a manifest say."""
    digest = hashlib.sha256(canonical_json(list(manifest.covariate_names)))
    for row in range(n):
        fields = (manifest.patient_id[row], manifest.path_xml[row], str(manifest.label[row]))
        digest.update(("\0".join(fields) + "\n").encode())
    digest.update(manifest.covariates[:n].tobytes())
    return digest.hexdigest()
