"""The registry: which patient has which number and split. It is what keeps splits frozen."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ecgprep.errors import InputError
from ecgprep.files.atomic import PRIVATE, write_file
from ecgprep.store.format import SPLITS

_REGISTRY_FORMAT = 1


_COLUMNS = ["patient_id", "patient", "split"]


_GROUPS = "groups"


@dataclass(frozen=True)
class SplitPlan:
    """What is asked for: ratios in percent for train, val and test, the seed, and whether a split may lack a class.

    With `by_column` patients who share a value of that manifest column (a site) stay in one split; with `fixed_test` a list says who is
    tested, and the ratios of train and val are for all others.
    """

    ratios: tuple[float, float, float] = (70.0, 15.0, 15.0)
    seed: int = 42
    allow_missing_class: bool = False
    by_column: str | None = None
    fixed_test: bool = False

    def __post_init__(self) -> None:
        if self.by_column and self.fixed_test:
            raise InputError(
                "--split-by-column and --test-manifest both decide who is tested. Use one of them."
            )
        if not (
            len(self.ratios) == 3 and min(self.ratios) >= 0 and abs(sum(self.ratios) - 100) < 1e-9
        ):
            raise InputError(
                f"--split (={'/'.join(f'{ratio:g}' for ratio in self.ratios)}) must be three numbers from 0 up that add up to 100, such as 70/15/15"
            )

    def __str__(self) -> str:
        how = (
            f" by {self.by_column}"
            if self.by_column
            else " with a test list"
            if self.fixed_test
            else ""
        )
        return "/".join(f"{ratio:g}" for ratio in self.ratios) + how


@dataclass
class Registry:
    """Which patient has which number and split; private, and the only place that says so.

    `groups` are the values of the plan's `by_column` of each patient, so that a later manifest keeps them together, too.
    """

    path: Path
    plan: SplitPlan
    number: dict[str, int] = field(default_factory=dict)
    split: dict[str, int] = field(default_factory=dict)
    groups: dict[str, set[str]] = field(default_factory=dict)

    def digest(self, patients: Iterable[str]) -> str:
        """Hash the lines of these patients: says whether a store and this registry still agree."""
        lines = [
            f"{patient}\0{self.number.get(patient)}\0{self.split.get(patient)}\n"
            for patient in sorted(patients)
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def parse_ratios(text: str) -> tuple[float, float, float]:
    """Parse `70/15/15`. Raises InputError."""
    try:
        train, val, test = (float(part) for part in text.split("/"))
    except ValueError:
        raise InputError(
            "--split must be three numbers that add up to 100, such as 70/15/15"
        ) from None
    return train, val, test


def load_registry(path: Path, plan: SplitPlan) -> Registry:
    """Read the registry, or return an empty one where there is none. Raises InputError if it is damaged or of another plan."""
    registry = Registry(path, plan)
    if not path.exists():
        return registry
    damaged = InputError(
        f"Registry {path.name} is damaged. Restore it from a backup; it is what keeps patients in their splits."
    )
    try:
        first, *rows = list(
            csv.reader(io.StringIO(path.read_text("utf-8"), newline=""), strict=True)
        )
        if first[:1] != [f"ecgprep-registry {_REGISTRY_FORMAT}"] or rows[0] not in (
            _COLUMNS,
            [*_COLUMNS, _GROUPS],
        ):
            raise damaged
        recorded = (first[1], first[2])
        for patient_id, number, split, *groups in rows[1:]:
            registry.number[patient_id] = int(number)
            registry.split[patient_id] = SPLITS.index(split)
            if groups:
                registry.groups[patient_id] = set(json.loads(groups[0]))
    except (OSError, ValueError, IndexError, TypeError, csv.Error):
        raise damaged from None
    if len(set(registry.number.values())) != len(rows) - 1 or any(
        not 0 <= number < 2**31 for number in registry.number.values()
    ):
        raise damaged
    if recorded != _recorded(plan):
        raise InputError(
            f"Registry {path.name} was made with {' and '.join(recorded)}, but {' and '.join(_recorded(plan))} is asked for. Splitting the same "
            "patients again is how test sets leak. Use the recorded values, or keep the new split apart with --registry NEW.csv."
        )
    return registry


def save_registry(registry: Registry) -> None:
    """Write the registry atomically, readable by its owner only."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([f"ecgprep-registry {_REGISTRY_FORMAT}", *_recorded(registry.plan)])
    writer.writerow([*_COLUMNS, _GROUPS] if registry.plan.by_column else _COLUMNS)
    for patient_id, number in sorted(registry.number.items(), key=lambda item: item[1]):
        groups = (
            [json.dumps(sorted(registry.groups.get(patient_id, ())))]
            if registry.plan.by_column
            else []
        )
        writer.writerow([patient_id, number, SPLITS[registry.split[patient_id]], *groups])
    write_file(registry.path, buffer.getvalue().encode("utf-8"), PRIVATE)


def _recorded(plan: SplitPlan) -> tuple[str, str]:
    return f"seed {plan.seed}", f"split {plan}"
