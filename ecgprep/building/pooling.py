"""Make one store of several: of other hospitals, say, that send no names and no files.

Rows follow each other store by store. Patients of different stores stay different, and everyone
stays in the split where they were. A recording that is in two stores is a conflict: it cannot be
two people's, and may have trained one model and tested another.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.building.chunks import Progress, Sources
from ecgprep.building.parts import ROW_ARRAYS
from ecgprep.building.rows import Rows
from ecgprep.building.run import MAX_COMPARED, check_store_name
from ecgprep.building.writer import write_content
from ecgprep.errors import STATUS_CODE, InputError, StoreError
from ecgprep.files.publishing import publishing
from ecgprep.patients.manifest import Manifest
from ecgprep.store.format import PATIENT_NONE, QUALITY_FLAGS, SPLIT_NONE, Layout
from ecgprep.store.opening import SITE, SITE_NAME
from ecgprep.store.reader import Store
from ecgprep.store.verify import verify_new_store

log = logging.getLogger(__name__)


def merge_stores(
    stores: Sequence[Store],
    out: Path,
    sites: Sequence[str],
    near: bool,
    progress: Progress | None = None,
) -> Store:
    """Make one store of several and publish it, whole or not at all.

    Raises:
        InputError: for stores that do not fit each other, or names that are no sites.
        StoreError: for a store that is damaged.
        TargetExists, NoSpace: as a build.
    """
    check_store_name(out)
    _check_stores(stores, near)
    _check_sites(stores, sites)
    sources = _sources(stores)
    names = _common_covariates(stores)
    layout = Layout(len(sources), stores[0].n_samples, len(names) + 1)
    with publishing(out) as built:
        sources.check_intact()
        taken = sources.write_chunks(built, layout, progress)
        arrays = _arrays(sources, names)
        n_copies = _exclude_copies(sources, arrays, built, layout, near)
        attributes = {
            "sample_rate_hz": stores[0].attributes["sample_rate_hz"],
            "covariate_names": [*names, SITE],
            "settings": _settings(stores, names, sites),
        }
        write_content(built, layout, arrays, attributes, taken)
        verify_new_store(built, taken.chunks)
    if n_copies:
        log.warning(
            "%s recordings are in more than one of the stores. They are a `conflict` and are not "
            "used: they cannot be of two people.",
            f"{n_copies:,}",
        )
    return Store(out)


def _check_stores(stores: Sequence[Store], near: bool) -> None:
    """Refuse stores that cannot be one. Raises InputError and StoreError."""
    if len(stores) < 2:
        raise InputError("Give two stores or more to merge.")
    first = stores[0]
    for store in stores:
        if store.quality_flags != QUALITY_FLAGS:
            raise StoreError(
                f"{store.path} was built before some quality flags existed. Build it again."
            )
        if "sites" in store.attributes["settings"] or SITE in store.covariate_names:
            raise InputError(
                f"{store.path} has a covariate {SITE} already. Merge all stores in one command, "
                "and build them without a covariate of that name."
            )
        if (store.sample_rate_hz, store.n_samples) != (first.sample_rate_hz, first.n_samples):
            raise InputError(
                f"{store.path} has {store.n_samples:,} samples at {store.sample_rate_hz:g} Hz, "
                f"{first.path} has {first.n_samples:,} at {first.sample_rate_hz:g} Hz. Stores of "
                "one length and rate can be merged: build one of them again."
            )
    repeated = len(stores) - len({store.content_sha256 for store in stores})
    if repeated:
        raise InputError("The same store is given more than once. Give each store once.")
    n_rows = sum(len(store) for store in stores)
    if near and n_rows > MAX_COMPARED:
        raise InputError(
            f"{n_rows:,} recordings are too many to compare every pair in a day; the limit is "
            f"{MAX_COMPARED:,}. --duplicates exact finds those that are identical to the byte."
        )


def _check_sites(stores: Sequence[Store], sites: Sequence[str]) -> None:
    are_names = all(SITE_NAME.fullmatch(name) for name in sites)
    if len(sites) != len(stores) or len(set(sites)) < len(sites) or not are_names:
        raise InputError(
            f"--sites must name each of the {len(stores)} stores once, in their order, by a "
            "letter and up to 19 letters, digits, _ or -: such as --sites a,b. The names are "
            "stored."
        )


def _sources(stores: Sequence[Store]) -> Sources:
    """Put the rows of the stores below each other."""
    sizes = [len(store) for store in stores]
    return Sources(
        stores,
        np.repeat(np.arange(len(stores)), sizes),
        np.concatenate([np.arange(size) for size in sizes]),
    )


def _common_covariates(stores: Sequence[Store]) -> list[str]:
    """Return the covariates that all stores have, and say which are left out.

    A covariate that only one site has would tell the site. Raises InputError where numbers mean
    other sexes.
    """
    common = [
        name
        for name in stores[0].covariate_names
        if all(name in store.covariate_names for store in stores)
    ]
    others = {name for store in stores for name in store.covariate_names} - set(common)
    if others:
        log.warning(
            "covariates that not every store has are left out: %s", ", ".join(sorted(others))
        )
    for name in common:
        codes = {str(store.sex_codes[name]) for store in stores if name in store.sex_codes}
        if len(codes) > 1:
            raise InputError(
                f"The stores have other codes of {name} ({' and '.join(sorted(codes))}). Derive "
                "one of them with the code of the other."
            )
    return common


def _arrays(sources: Sources, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the small arrays of the new store, before copies are excluded."""
    kept = ("label", "split", *ROW_ARRAYS)
    arrays: dict[str, NDArray[Any]] = {name: sources.array(name) for name in kept}
    patient = np.empty(len(sources), np.int32)
    covariates = np.empty((len(sources), len(names) + 1), np.float32)
    first_free = 0
    for k, store in enumerate(sources.stores):
        here, own = sources.store == k, np.asarray(store.array("patient"))
        patient[here] = np.where(own == PATIENT_NONE, PATIENT_NONE, own + first_free)
        first_free += int(own.max()) + 1
        columns = [store.covariate_names.index(name) for name in names]
        covariates[here, :-1] = store.array("covariates")[:, columns]
        covariates[here, -1] = k
    return arrays | {"patient": patient, "covariates": covariates}


def _exclude_copies(
    sources: Sources, arrays: dict[str, NDArray[Any]], built: Path, layout: Layout, near: bool
) -> int:
    """Make copies across stores conflicts, and return how many rows they are.

    Rows that are conflicts in their own store are compared, too, and stay what they are.
    """
    status, conflict = arrays["status"], STATUS_CODE["conflict"]
    was = status.copy()
    is_compared = (was == STATUS_CODE["ok"]) | (was == conflict)
    rows = Rows.empty(_as_manifest(sources, arrays), layout)
    rows.arrays = {name: arrays[name] for name in ROW_ARRAYS} | {
        "status": np.where(is_compared, STATUS_CODE["ok"], was).astype(np.uint8)
    }
    rate_hz = sources.stores[0].sample_rate_hz
    if near:
        rows.compute_fingerprints(built, rate_hz, np.flatnonzero(is_compared).tolist())
    rows.exclude_duplicates(built, rate_hz, near)
    across = [group for group in rows.duplicates if len(set(sources.store[group].tolist())) > 1]
    found = np.array([row for group in across for row in group], np.int64)
    status[found] = conflict
    arrays["patient"][found], arrays["split"][found] = PATIENT_NONE, SPLIT_NONE
    return len(found)


def _as_manifest(sources: Sources, arrays: dict[str, NDArray[Any]]) -> Manifest:
    """Describe the rows for the search of copies. Who has no patient here is somebody else."""
    n = len(sources)
    patients = [
        f"row {row}" if patient == PATIENT_NONE else str(patient)
        for row, patient in enumerate(arrays["patient"].tolist())
    ]
    return Manifest(
        path=Path(),
        root=Path(),
        patient_id=patients,
        path_xml=[""] * n,
        label=arrays["label"],
        line=range(n),
        covariate_names=(),
        covariates=np.empty((n, 0), np.float32),
        warnings=(),
        sha256="",
    )


def _settings(
    stores: Sequence[Store], names: Sequence[str], sites: Sequence[str]
) -> dict[str, Any]:
    """Return the settings that all stores share, the common covariates and the sites."""
    of_each = [store.attributes["settings"] for store in stores]
    absent = object()
    shared = {
        key: value
        for key, value in of_each[0].items()
        if all(one.get(key, absent) == value for one in of_each)
    }
    codes = {
        name: str(code)
        for store in stores
        for name, code in store.sex_codes.items()
        if name in names
    }
    allowed = {name for one in of_each for name in one.get("allow_covariate", ())} & set(names)
    later = {"sex_code": codes, "allow_covariate": sorted(allowed)}
    for key in later:
        shared.pop(key, None)
    return (
        shared
        | {key: value for key, value in later.items() if value}
        | {"covariates": [*names, SITE], "sites": list(sites)}
    )
