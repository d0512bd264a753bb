"""The store of a manifest, built only when it is absent or stale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ecgprep.building.plan import BuildSettings, Plan, Progress, default_registry
from ecgprep.building.record import NO_RECORD, OTHER_RECORD, OTHER_REGISTRY, stale_reason
from ecgprep.building.run import build_store, recover
from ecgprep.cohorts.carried import carried_task
from ecgprep.errors import TargetExists
from ecgprep.patients.manifest import Manifest, read_manifest
from ecgprep.patients.manifest_columns import DEFAULT_COLUMNS, ManifestColumns
from ecgprep.store.format import sex_codes_of
from ecgprep.store.reader import Store

_REPLACEABLE = frozenset(
    "sample_rate_hz n_samples resampler split_seed covariates allow_covariate sex_code task".split()
)
"""Settings whose change lets `ensure_store` replace a store.

A store that differs in others was made on purpose, by other means.
"""

_ABSENT = "it does not exist yet"


class EnsuredStore(NamedTuple):
    """A store that is up to date, and a sentence that says whether it was built for that."""

    store: Store
    note: str


def ensure_store(
    manifest: Path,
    store: Path,
    settings: BuildSettings,
    covariates: tuple[str, ...] = (),
    progress: Progress | None = None,
    columns: ManifestColumns = DEFAULT_COLUMNS,
) -> EnsuredStore:
    """Return the store of a manifest, built if it is absent or stale.

    The covariates that a store has, and those allowed by name, are kept beside those that are asked
    for. `columns` are the names that the manifest has for patient, path and label.

    Raises:
        TargetExists: for a store that this function must not replace: it was built with options
            that are not given here, such as exclusions or a split by column, or with another
            registry, or from files that are not known.
    """
    recover(store)
    existed = store.exists()
    if existed:
        recorded = Store(store).attributes["settings"]
        covariates = tuple(dict.fromkeys([*recorded["covariates"], *covariates]))
        allowed = {*recorded.get("allow_covariate", ()), *settings.allow_covariate}
        settings = replace(settings, allow_covariate=tuple(sorted(allowed)))
        _check_settings(store, recorded, settings.recorded(covariates, {}))
    rows = read_manifest(
        manifest,
        covariates=covariates,
        allow_covariate=settings.allow_covariate,
        sex_codes=settings.sex_codes,
        columns=columns,
    )
    settings = replace(settings, task=carried_task(rows))
    plan = Plan(rows, store, settings, default_registry(manifest), replace=True)
    if existed:
        _check_sex_codes(store, recorded, rows)
    reason = stale_reason(plan) if existed else _ABSENT
    if reason is None:
        return EnsuredStore(Store(store), f"{store} is up to date")
    if reason in (NO_RECORD, OTHER_RECORD, OTHER_REGISTRY):
        raise TargetExists(
            f"{store} would be built again, but {reason}: its splits could change. {_keep(store)}"
        )
    note = f"{store} was built: {reason}"
    if existed:
        note += (
            "; runs that were trained on the store before can be applied, "
            "but no longer evaluated on it"
        )
    return EnsuredStore(build_store(plan, progress=progress), note)


def _check_settings(store: Path, recorded: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a store that differs in what cannot be asked for here. Raises TargetExists."""
    fixed = (recorded.keys() | wanted.keys()) - _REPLACEABLE
    differing = sorted(key for key in fixed if recorded.get(key) != wanted.get(key))
    _refuse_differing(store, differing)


def _check_sex_codes(store: Path, recorded: dict[str, Any], rows: Manifest) -> None:
    """Refuse a store with a code of sexes that is not the manifest's. Raises TargetExists."""
    if any(rows.sex_codes.get(name) != code for name, code in sex_codes_of(recorded).items()):
        _refuse_differing(store, ["sex_code"])


def _refuse_differing(store: Path, settings: list[str]) -> None:
    """Refuse a store that differs in these settings, if there are any. Raises TargetExists."""
    if settings:
        raise TargetExists(
            f"{store} was built with options of `ecgprep build` that are not given here "
            f"({', '.join(settings)}). {_keep(store)}"
        )


def _keep(store: Path) -> str:
    return f"Train on it with `ecgfit train --store {store}`, or move it away."
