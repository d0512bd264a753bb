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

_TITLE = "ecgprep-registry 1"
"""Name and format version, the first field of the file."""

_COLUMNS = ["patient_id", "patient", "split"]

_COLUMNS_WITH_GROUPS = [*_COLUMNS, "groups"]


@dataclass(frozen=True)
class SplitPlan:
    """How to split: ratios in percent for train, val and test, the seed, and what is allowed.

    With `allow_missing_class` a split may lack a class. With `by_column`, patients who share a
    value of that manifest column (a site) stay in one split. With `fixed_test`, a list decides who
    is tested, and the ratios of train and val apply to all others. Raises InputError for ratios
    that do not add up and for both ways of choosing the test split.
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
        add_up = abs(sum(self.ratios) - 100) < 1e-9
        if len(self.ratios) != 3 or min(self.ratios) < 0 or not add_up:
            raise InputError(
                f"--split (={self._ratios()}) must be three numbers of at least 0 that add up to "
                "100, such as 70/15/15."
            )

    def _ratios(self) -> str:
        return "/".join(f"{ratio:g}" for ratio in self.ratios)

    def __str__(self) -> str:
        if self.by_column:
            return f"{self._ratios()} by {self.by_column}"
        if self.fixed_test:
            return f"{self._ratios()} with a test list"
        return self._ratios()


@dataclass
class Registry:
    """Which patient has which number and split: private, and the only place that records it.

    `groups` holds each patient's values of the plan's `by_column`, so that patients of a later
    manifest who share one are placed with them.
    """

    path: Path
    plan: SplitPlan
    number: dict[str, int] = field(default_factory=dict)
    split: dict[str, int] = field(default_factory=dict)
    groups: dict[str, set[str]] = field(default_factory=dict)

    def digest(self, patients: Iterable[str]) -> str:
        """Hash the lines of these patients, to tell whether a store and this registry agree."""
        digest = hashlib.sha256()
        for patient in sorted(patients):
            number, split = self.number.get(patient), self.split.get(patient)
            digest.update(f"{patient}\0{number}\0{split}\n".encode())
        return digest.hexdigest()


def parse_ratios(text: str) -> tuple[float, float, float]:
    """Parse `70/15/15`. Raises InputError."""
    try:
        train, val, test = (float(part) for part in text.split("/"))
    except ValueError:
        raise InputError(
            "--split must be three numbers that add up to 100, such as 70/15/15."
        ) from None
    return train, val, test


def load_registry(path: Path, plan: SplitPlan) -> Registry:
    """Read the registry, or return an empty one where there is no file.

    Raises InputError if it is damaged or was made with another plan.
    """
    registry = Registry(path, plan)
    if not path.exists():
        return registry
    try:
        recorded = _parse(path.read_text("utf-8-sig"), registry)
    except (OSError, ValueError, IndexError, TypeError, csv.Error):
        raise InputError(
            f"Registry {path.name} is damaged, or is not a registry. Restore it from a backup, or "
            "name another with --registry: it is what keeps patients in their splits."
        ) from None
    expected = _describe(plan)
    if recorded != expected:
        raise InputError(
            f"Registry {path.name} was made with {' and '.join(recorded)}; this build asks for "
            f"{' and '.join(expected)}. Splitting the same patients again is how test sets leak. "
            "Use the recorded values, or keep the new split apart with --registry NEW.csv."
        )
    return registry


def _parse(text: str, registry: Registry) -> tuple[str, str]:
    """Fill a registry from the text of its file and return the plan that the file records.

    Raises ValueError, IndexError, TypeError or csv.Error for a damaged file.
    """
    title, header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    if title[:1] != [_TITLE] or header not in (_COLUMNS, _COLUMNS_WITH_GROUPS):
        raise ValueError("not a registry")
    for patient_id, number, split, *groups in rows:
        registry.number[patient_id] = int(number)
        registry.split[patient_id] = SPLITS.index(split)
        if groups:
            registry.groups[patient_id] = set(json.loads(groups[0]))
    numbers = set(registry.number.values())
    if len(numbers) != len(rows) or not all(0 <= number < 2**31 for number in numbers):
        raise ValueError("numbers are repeated or out of range")
    return title[1], title[2]


def save_registry(registry: Registry) -> None:
    """Write the registry atomically, readable by its owner only. Raises NoSpace."""
    by_column = registry.plan.by_column
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_TITLE, *_describe(registry.plan)])
    writer.writerow(_COLUMNS_WITH_GROUPS if by_column else _COLUMNS)
    for patient_id, number in sorted(registry.number.items(), key=lambda item: item[1]):
        fields = [patient_id, number, SPLITS[registry.split[patient_id]]]
        if by_column:
            fields.append(json.dumps(sorted(registry.groups.get(patient_id, ()))))
        writer.writerow(fields)
    write_file(registry.path, buffer.getvalue().encode("utf-8"), PRIVATE)


def _describe(plan: SplitPlan) -> tuple[str, str]:
    """Return what the file records of a plan."""
    return f"seed {plan.seed}", f"split {plan}"
