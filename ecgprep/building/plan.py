"""The plan of a build: what is asked for, where the work happens, and how rows fall into parts.

.NAME.building/            beside the store, mode 0700, until the store is published; a build that
                           was stopped continues from it
    plan.json              what `ecgprep part` and `ecgprep finalise` need to know (private)
    parts/0000000.part     the results of each part (private): SHA-256, then an .npz file
    store/                 the store in the making
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecgprep import __version__
from ecgprep.building.parts import Part
from ecgprep.conform import RESAMPLER, Conformity
from ecgprep.errors import InputError
from ecgprep.files.atomic import PRIVATE, canonical_json, write_json
from ecgprep.options import check_options
from ecgprep.patients.duplicates import FINGERPRINT_VERSION
from ecgprep.patients.manifest import Manifest, read_manifest
from ecgprep.patients.manifest_columns import ManifestColumns
from ecgprep.patients.registry import SplitPlan, load_registry
from ecgprep.quality import FLAGS, checked_flags
from ecgprep.sex_code import SexCode
from ecgprep.store.format import CHUNK_RECORDS, Layout, sex_codes_of

Progress = Callable[[int, int, int], None]
"""Called with the rows done, all rows, and the rows rejected so far."""

_PLAN_FORMAT = 3

_SOFTWARE = ("numpy", "scipy", "lxml")
"""Packages whose version can change a value in the store."""


@functools.cache
def software_versions() -> dict[str, str]:
    """Return the `software` attribute of the store."""
    versions = {name: importlib.metadata.version(name) for name in _SOFTWARE}
    return {"ecgprep": __version__, **versions}


@dataclass(frozen=True)
class BuildSettings:
    """All that decides a value in the store besides the manifest, the files and the registry."""

    target: Conformity = field(default_factory=Conformity)
    plan: SplitPlan = field(default_factory=SplitPlan)
    unlabelled: bool = False
    label_level: str = "record"
    exclude_quality: tuple[str, ...] = ()
    duplicates: str = "near"
    merge_lookalikes: bool = False
    follow_symlinks: bool = False
    allow_covariate: tuple[str, ...] = ()
    sex_codes: Mapping[str, SexCode] = field(default_factory=dict)
    """The code that the user states for a column of sexes."""
    task: str | None = None
    """The canonical text of the task that made the manifest, if it carries one."""

    def __post_init__(self) -> None:
        check_options(duplicates=self.duplicates, label_level=self.label_level)
        checked_flags(self.exclude_quality, "--exclude-quality")

    def recorded(
        self, covariates: Sequence[str], sex_codes: Mapping[str, SexCode]
    ) -> dict[str, Any]:
        """Return the `settings` attribute of the store, which `plan.json` holds too.

        `sex_codes` are those that are known, from the manifest or stated.
        """
        # Later settings are recorded where they are used, so that other stores keep their bytes.
        later = {
            "merge_lookalikes": self.merge_lookalikes,
            "follow_symlinks": self.follow_symlinks,
            "allow_covariate": sorted(self.allow_covariate),
            "sex_code": {name: str(code) for name, code in sex_codes.items()},
            "task": self.task,
        }
        return {name: value for name, value in later.items() if value} | {
            "sample_rate_hz": self.target.rate_hz,
            "n_samples": self.target.n_samples,
            "min_seconds": self.target.min_seconds,
            "min_leads": self.target.min_leads,
            "resampler": RESAMPLER,
            "split_ratios": list(self.plan.ratios),
            "split_seed": self.plan.seed,
            "split_by_column": self.plan.by_column,
            "fixed_test": self.plan.fixed_test,
            "allow_missing_class": self.plan.allow_missing_class,
            "unlabelled": self.unlabelled,
            "label_level": self.label_level,
            "exclude_quality": sorted(self.exclude_quality),
            "duplicates": self.duplicates,
            "covariates": list(covariates),
        }

    @classmethod
    def from_recorded(cls, recorded: dict[str, Any]) -> BuildSettings:
        """Return the settings that `recorded` wrote down.

        Raises:
            KeyError: if one is missing.
            InputError: if a value is not allowed.
        """
        target = Conformity(
            rate_hz=recorded["sample_rate_hz"],
            n_samples=recorded["n_samples"],
            min_seconds=recorded["min_seconds"],
            min_leads=recorded["min_leads"],
        )
        split = SplitPlan(
            ratios=tuple(recorded["split_ratios"]),
            seed=recorded["split_seed"],
            allow_missing_class=recorded["allow_missing_class"],
            by_column=recorded["split_by_column"],
            fixed_test=recorded["fixed_test"],
        )
        return cls(
            target=target,
            plan=split,
            unlabelled=recorded["unlabelled"],
            label_level=recorded["label_level"],
            exclude_quality=tuple(recorded["exclude_quality"]),
            duplicates=recorded["duplicates"],
            merge_lookalikes=recorded.get("merge_lookalikes", False),
            follow_symlinks=recorded.get("follow_symlinks", False),
            allow_covariate=tuple(recorded.get("allow_covariate", ())),
            sex_codes=sex_codes_of(recorded),
            task=recorded.get("task"),
        )


def default_registry(manifest: Path) -> Path:
    """Return where the registry of a manifest lies: that of `m.csv` is `m.registry.csv`."""
    return manifest.with_name(f"{manifest.stem}.registry.csv")


def work_folder(store: Path) -> Path:
    """Return where a store is built: beside it, so that publishing is a rename."""
    return store.with_name(f".{store.name}.building")


@dataclass(frozen=True, eq=False)
class Plan:
    """One build: of this manifest, to this store, with these settings and this registry.

    With `replace` an existing store is built again. With `extend` the rows of the existing store
    stay and only those that the manifest has beyond them are read.
    """

    manifest: Manifest
    store: Path
    settings: BuildSettings
    registry_path: Path
    max_rejected: float = 0.05
    test_patients: frozenset[str] = frozenset()
    replace: bool = False
    extend: bool = False

    @property
    def layout(self) -> Layout:
        """Sizes of the store to be."""
        n_covariates = len(self.manifest.covariate_names)
        return Layout(len(self.manifest), self.settings.target.n_samples, n_covariates)

    @property
    def recorded_settings(self) -> dict[str, Any]:
        """The `settings` attribute of the store to be."""
        return self.settings.recorded(self.manifest.covariate_names, self.manifest.sex_codes)

    @property
    def work(self) -> Path:
        """The work folder."""
        return work_folder(self.store)

    @property
    def built(self) -> Path:
        """The store in the making, inside the work folder."""
        return self.work / "store"

    def parts(self) -> list[Part]:
        """Cut the manifest into parts of 256 rows."""
        values = [software_versions(), RESAMPLER, list(FLAGS), FINGERPRINT_VERSION]
        context = canonical_json(values).decode()
        firsts = range(0, len(self.manifest), CHUNK_RECORDS)
        return [self._part(index, first, context) for index, first in enumerate(firsts)]

    def _part(self, index: int, first: int, context: str) -> Part:
        rows = slice(first, first + CHUNK_RECORDS)
        return Part(
            index=index,
            root=self.manifest.root,
            paths=self.manifest.path_xml[rows],
            lines=self.manifest.line[rows],
            target=self.settings.target,
            folder=self.work.absolute(),
            context=context,
            follow_symlinks=self.settings.follow_symlinks,
        )


def write_plan(plan: Plan) -> None:
    """Write down a plan, so that other processes can carry it out (`read_plan`)."""
    record = {
        "format": _PLAN_FORMAT,
        "manifest": str(plan.manifest.path.absolute()),
        "manifest_sha256": plan.manifest.sha256,
        "root": str(plan.manifest.root),
        "columns": list(plan.manifest.columns),
        "registry": str(plan.registry_path.absolute()),
        "max_rejected": plan.max_rejected,
        "test_patients": sorted(plan.test_patients),
        "replace": plan.replace,
        "extend": plan.extend,
        "settings": plan.recorded_settings,
    }
    write_json(plan.work / "plan.json", record, PRIVATE)


def read_rows(
    path: Path,
    root: Path | None,
    covariates: Sequence[str],
    settings: BuildSettings,
    columns: ManifestColumns,
    registry_path: Path,
) -> Manifest:
    """Read a manifest as the settings of a build say. Raises InputError."""
    merge_with = None
    if settings.merge_lookalikes:
        merge_with = load_registry(registry_path, settings.plan)
    return read_manifest(
        path,
        root,
        covariates,
        settings.unlabelled,
        settings.plan.by_column,
        allow_covariate=settings.allow_covariate,
        sex_codes=settings.sex_codes,
        columns=columns,
        merge_with=merge_with,
    )


def read_plan(store: Path) -> Plan:
    """Read the plan of a store that is being built.

    Raises:
        InputError: if there is no plan, if it extends a store, or if its manifest has changed.
    """
    try:
        record = json.loads((work_folder(store) / "plan.json").read_bytes())
        settings = BuildSettings.from_recorded(record["settings"])
        covariates = record["settings"]["covariates"]
        path, root = Path(record["manifest"]), Path(record["root"])
        columns = ManifestColumns(*record["columns"])
        registry_path = Path(record["registry"])
        test_patients = frozenset(record["test_patients"])
        max_rejected, replace = record["max_rejected"], record["replace"]
        extend, manifest_sha256 = record["extend"], record["manifest_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"There is no plan for {store}, or another version of ecgprep made it. "
            f"Run `ecgprep plan MANIFEST {store}` first."
        ) from None
    if extend:
        raise InputError(
            f"The plan for {store} is that of `ecgprep build --extend`, which cannot be shared "
            "between machines. Run that command again."
        )
    manifest = read_rows(path, root, covariates, settings, columns, registry_path)
    if manifest.sha256 != manifest_sha256:
        raise InputError(
            f"Manifest {path.name} has changed since `ecgprep plan`. Run `ecgprep plan` again; "
            "parts whose rows are the same are kept."
        )
    return Plan(manifest, store, settings, registry_path, max_rejected, test_patients, replace)


def share(parts: Sequence[Part], part: int, n: int) -> list[Part]:
    """Return the parts that job `part` of `n` (from 1) builds: every n-th."""
    return list(parts[part - 1 :: n])
