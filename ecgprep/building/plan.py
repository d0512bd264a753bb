"""The plan of a build: what is asked for, where it is worked on, and how the manifest's rows fall into parts.

.NAME.building/            beside the store, mode 0700, until the store is published; a build that was stopped goes on from it
    plan.json              what `ecgprep part` and `ecgprep finalise` need to know (private)
    parts/0000000.part     the results of each part (private): SHA-256, then an .npz file
    store/                 the store in the making
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ecgprep import __version__
from ecgprep.building.parts import Part
from ecgprep.conform import RESAMPLER, Conformity
from ecgprep.errors import InputError
from ecgprep.files.atomic import PRIVATE, canonical_json, write_json
from ecgprep.patients.duplicates import FINGERPRINT_VERSION
from ecgprep.patients.manifest import Manifest, read_manifest
from ecgprep.patients.registry import SplitPlan
from ecgprep.quality import FLAGS
from ecgprep.store.format import CHUNK_RECORDS, Layout

Progress = Callable[[int, int, int], None]
"""Called with rows done, rows in all, rows rejected so far."""


_PLAN_FORMAT = 1


_SOFTWARE = ("numpy", "scipy", "lxml")
"""Packages whose version can change a value in the store."""


@functools.cache
def software_versions() -> dict[str, str]:
    """The `software` attribute of the store."""
    return {
        "ecgprep": __version__,
        **{name: importlib.metadata.version(name) for name in _SOFTWARE},
    }


@dataclass(frozen=True)
class BuildSettings:
    """Everything that decides a value in the store besides the manifest, the files and the registry."""

    target: Conformity = field(default_factory=Conformity)
    plan: SplitPlan = field(default_factory=SplitPlan)
    unlabelled: bool = False
    label_level: str = "record"
    exclude_quality: tuple[str, ...] = ()
    duplicates: str = "near"

    def __post_init__(self) -> None:
        if self.duplicates not in ("near", "exact"):
            raise InputError(f"--duplicates (={self.duplicates}) must be near or exact")
        if self.label_level not in ("record", "patient"):
            raise InputError(f"--label-level (={self.label_level}) must be record or patient")
        if unknown := sorted(set(self.exclude_quality) - set(FLAGS)):
            raise InputError(
                f"--exclude-quality: unknown flag {', '.join(unknown)}; there are {', '.join(FLAGS)}"
            )

    def recorded(self, covariates: tuple[str, ...]) -> dict[str, Any]:
        """The `settings` attribute of the store."""
        return {
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


def default_registry(manifest: Path) -> Path:
    """The registry of `m.csv` is `m.registry.csv`."""
    return manifest.with_name(f"{manifest.stem}.registry.csv")


def work_folder(store: Path) -> Path:
    """Where a store is built: beside it, so that publishing is a rename."""
    return store.with_name(f".{store.name}.building")


@dataclass(frozen=True, eq=False)
class Plan:
    """One build: of this manifest, to this store, with these settings and this registry."""

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
        return Layout(
            len(self.manifest), self.settings.target.n_samples, len(self.manifest.covariate_names)
        )

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
        manifest, target = self.manifest, self.settings.target
        context = canonical_json(
            [software_versions(), RESAMPLER, list(FLAGS), FINGERPRINT_VERSION]
        ).decode()
        rows = [
            slice(first, first + CHUNK_RECORDS) for first in range(0, len(manifest), CHUNK_RECORDS)
        ]
        return [
            Part(
                i,
                manifest.root,
                manifest.path_xml[cut],
                manifest.line[cut],
                target,
                self.work.absolute(),
                context,
            )
            for i, cut in enumerate(rows)
        ]


def write_plan(plan: Plan) -> None:
    """Write down a plan, so that other processes can carry it out (`read_plan`)."""
    manifest = plan.manifest
    record = {
        "format": _PLAN_FORMAT,
        "manifest": str(manifest.path.absolute()),
        "manifest_sha256": manifest.sha256,
        "root": str(manifest.root),
        "covariates": manifest.covariate_names,
        "registry": str(plan.registry_path.absolute()),
        "max_rejected": plan.max_rejected,
        "test_patients": sorted(plan.test_patients),
        "replace": plan.replace,
        "extend": plan.extend,
        "target": asdict(plan.settings.target),
        "split": asdict(plan.settings.plan),
        "unlabelled": plan.settings.unlabelled,
        "label_level": plan.settings.label_level,
        "exclude_quality": plan.settings.exclude_quality,
        "duplicates": plan.settings.duplicates,
    }
    write_json(plan.work / "plan.json", record, PRIVATE)


def read_plan(store: Path) -> Plan:
    """Read the plan of a store that is being built. Raises InputError when there is none, or its manifest has changed."""
    try:
        record = json.loads((work_folder(store) / "plan.json").read_bytes())
        split = record["split"] | {"ratios": tuple(record["split"]["ratios"])}
        settings = BuildSettings(
            Conformity(**record["target"]),
            SplitPlan(**split),
            record["unlabelled"],
            record["label_level"],
            tuple(record["exclude_quality"]),
            record["duplicates"],
        )
        known = (
            Path(record["manifest"]),
            Path(record["root"]),
            record["covariates"],
            record["manifest_sha256"],
        )
        rest = (
            Path(record["registry"]),
            record["max_rejected"],
            frozenset(record["test_patients"]),
            record["replace"],
        )
        extends = record["extend"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"There is no plan for {store}. Make one first: `ecgprep plan MANIFEST {store}`."
        ) from None
    if extends:
        raise InputError(
            f"The plan for {store} is that of `ecgprep build --extend`, which is not done in shares: run that command again."
        )
    path, root, covariates, digest = known
    manifest = read_manifest(path, root, covariates, settings.unlabelled, settings.plan.by_column)
    if manifest.sha256 != digest:
        raise InputError(
            f"Manifest {path.name} has changed since `ecgprep plan`. Plan again; parts whose rows are the same are kept."
        )
    return Plan(manifest, store, settings, *rest)


def share(parts: Sequence[Part], part: int, n: int) -> list[Part]:
    """Return the parts that job `part` of `n` (from 1) builds: every n-th."""
    return list(parts[part - 1 :: n])
