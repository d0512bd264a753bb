"""The store of a manifest, built only when it is absent or stale."""

from __future__ import annotations

from pathlib import Path

from ecgprep.building.plan import (
    BuildSettings,
    Progress,
    default_registry,
)
from ecgprep.building.record import NO_RECORD, OTHER_RECORD, OTHER_REGISTRY, stale_reason
from ecgprep.building.run import build_store, recover
from ecgprep.errors import TargetExists
from ecgprep.patients.manifest import read_manifest
from ecgprep.store.reader import Store

_GIVEN = {"sample_rate_hz", "n_samples", "resampler", "split_seed", "covariates"}
"""Settings by which `ensure_store` may replace a store; a store that differs in others was made on purpose, by other means."""


_KEEP = "Train on it with `ecgfit train --store {store}`, or move it away."


def ensure_store(
    manifest: Path,
    store: Path,
    settings: BuildSettings,
    covariates: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> tuple[Store, str]:
    """Return the store of a manifest, built when it is absent or stale, and a line that says which it was.

    Covariates that a store has are kept beside those asked for. Raises TargetExists for a store that was built with options that are not
    given here, such as exclusions or a split by column, or by another registry or from files that are not known.
    """
    recover(store)
    existed = store.exists()
    if existed:
        recorded = Store(store).attributes["settings"]
        covariates = (
            *recorded["covariates"],
            *(name for name in covariates if name not in recorded["covariates"]),
        )
        wanted = settings.recorded(covariates)
        if other := sorted(
            key for key in wanted if key not in _GIVEN and recorded[key] != wanted[key]
        ):
            raise TargetExists(
                f"{store} was built with options of `ecgprep build` that are not given here ({', '.join(other)}). {_KEEP.format(store=store)}"
            )
    rows = read_manifest(manifest, covariates=covariates)
    stale = (
        stale_reason(store, rows, settings, default_registry(manifest))
        if existed
        else "it does not exist yet"
    )
    if stale is None:
        return Store(store), f"{store} is up to date"
    if stale in (NO_RECORD, OTHER_RECORD, OTHER_REGISTRY):
        raise TargetExists(
            f"{store} would be built again, but {stale}: its splits could change. {_KEEP.format(store=store)}"
        )
    built = build_store(
        rows,
        store,
        settings,
        registry_path=default_registry(manifest),
        replace=True,
        progress=progress,
    )
    lost = (
        "; runs that were trained on what stood there can be applied, but not evaluated on it any more"
        if existed
        else ""
    )
    return built, f"{store} was built: {stale}{lost}"
