"""Patients whose ids look alike: warn of them, or treat each group as one patient.

One person under two ids may be trained on and tested on. Messages name lines and never an id.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from ecgprep.errors import InputError
from ecgprep.patients.identifiers import differences, lookalike_key, lookalikes
from ecgprep.patients.private_csv import counted, listed_lines
from ecgprep.patients.registry import Registry

_MAX_GROUPS = 5
"""Groups whose lines are named in one message; the rest are counted."""


def lookalike_warning(
    patients: Sequence[str], lines: Sequence[int], merge_with: Registry | None
) -> list[str]:
    """Warn in one sentence of all ids that look alike; an empty list where none do.

    Ids are equal once blanks, case and the like are set aside (`identifiers.lookalike_key`). They
    stay different patients unless they are merged, but may be one person.
    """
    groups = lookalikes(patients)
    if not groups:
        return []
    first_line = _first_lines(patients, lines)
    places = ["lines " + ", ".join(str(first_line[one]) for one in group) for group in groups]
    kinds = Counter(kind for group in groups for kind in differences(group))
    listed = "; ".join(places[:_MAX_GROUPS])
    if len(groups) > _MAX_GROUPS:
        listed += f"; and {counted(len(groups) - _MAX_GROUPS, 'more group')}"
    done = "each group is one patient (--merge-lookalikes)"
    if merge_with is None:
        done = "they are kept as different patients. If they are not, add --merge-lookalikes"
    return [
        f"{listed}: patient ids differ only by {_counted(kinds)}, in "
        f"{counted(len(groups), 'group')} of {_n_rows(groups, patients):,} rows; {done}"
    ]


def _counted(kinds: Counter[str]) -> str:
    """Write `leading zeros`, or `leading zeros (3 groups), case (1 group)` where there are more."""
    if len(kinds) == 1:
        return next(iter(kinds))
    return ", ".join(f"{kind} ({counted(n, 'group')})" for kind, n in kinds.most_common())


def _n_rows(groups: Iterable[Iterable[str]], patients: Sequence[str]) -> int:
    alike = {patient for group in groups for patient in group}
    return sum(patient in alike for patient in patients)


def _first_lines(patients: Sequence[str], lines: Sequence[int]) -> dict[str, int]:
    first: dict[str, int] = {}
    for patient, line in zip(patients, lines, strict=True):
        first.setdefault(patient, line)
    return first


def one_spelling(patients: Sequence[str], lines: Sequence[int], registry: Registry) -> list[str]:
    """Return the ids with one spelling for each group of look-alikes.

    It is the one that the registry knows, so that the patient keeps number and split, or else the
    first of the file. Raises InputError where the registry knows two, in different splits.
    """
    known = _known_by_key(registry)
    spelling: dict[str, str] = {}
    by_key: dict[str, str] = {}
    torn = []
    for patient, line in _first_lines(patients, lines).items():
        key = lookalike_key(patient)
        alike = known.get(key, [])
        if len({registry.split[one] for one in alike}) > 1:
            torn.append(line)
        spelling[patient] = by_key.setdefault(key, alike[0] if alike else patient)
    if torn:
        raise InputError(
            f"--merge-lookalikes: {listed_lines(torn)}: the registry {registry.path.name} holds "
            "the spellings of this patient as several patients, in different splits. Models may "
            "have been tested on a patient who trained them. Correct the ids, or begin anew with "
            "--registry NEW.csv."
        )
    return [spelling[patient] for patient in patients]


def _known_by_key(registry: Registry) -> dict[str, list[str]]:
    """Map keys to the spellings that a registry knows, the lowest number first."""
    known: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(registry.number, key=registry.number.__getitem__):
        known[lookalike_key(patient)].append(patient)
    return known


def new_lookalikes(patients: Sequence[str], lines: Sequence[int], registry: Registry) -> list[int]:
    """Return first lines of patients that the registry knows only under another spelling."""
    known = {lookalike_key(patient) for patient in registry.number}
    return [
        line
        for patient, line in _first_lines(patients, lines).items()
        if patient not in registry.number and lookalike_key(patient) in known
    ]


def as_spelled_in(listed: Iterable[str], patients: Iterable[str]) -> frozenset[str]:
    """Return a list of ids in the spelling of `patients`, where one of those looks alike."""
    spelling = {lookalike_key(patient): patient for patient in dict.fromkeys(patients)}
    return frozenset(spelling.get(lookalike_key(one), one) for one in listed)
