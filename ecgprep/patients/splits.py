"""Patient-level splits, stratified and frozen.

Three policies place patients who are not yet in the registry:

* `place_fresh`, for an empty registry: patients are cut by largest remainder within each label
  pattern (none of the patient's recordings positive, all, mixed), and of 64 seeded candidates the
  one is kept whose records and positive records lie closest to the requested ratios.
* `place_more`, for a registry that holds patients: each new patient goes where the label pattern
  is furthest below the requested ratios.
* `place_groups`, for splits by a column: whole groups of patients who share a value are placed.

The registry freezes the result: a later build keeps every line of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import InputError
from ecgprep.patients.duplicates import join_pairs
from ecgprep.patients.registry import Registry, SplitPlan
from ecgprep.store.format import SPLITS

N_CANDIDATES = 64

TEST = SPLITS.index("test")

_PATTERNS = ("none", "all", "mixed")

_NUMBERING, _PLACING = 2**31, 2**31 + 1
"""Keys of random streams, beyond those of the candidates."""

Labels = Mapping[str, Sequence[int]]
"""Patient id -> labels of the patient's usable recordings."""


def assign(
    registry: Registry,
    labels: Labels,
    groups: Mapping[str, set[str]] | None = None,
    test_patients: frozenset[str] = frozenset(),
) -> Registry:
    """Return a registry that holds every patient of `labels`; those already in it stay as they are.

    `groups` (patient id -> values of the plan's column) keeps patients who share a value together;
    `test_patients` go to test. The result depends on the set of patients, not on their order.
    Raises InputError when a split with a ratio above 0 would lack a positive or a negative
    patient, or when the groups or the test list contradict the registry.
    """
    _check_test_list(registry, labels, test_patients)
    new = sorted(patient for patient in labels if patient not in registry.number)
    task = Placement(
        patients=[patient for patient in new if patient not in test_patients],
        labels=labels,
        registry=registry,
        groups=_all_groups(registry, groups or {}),
    )
    place = _choose_policy(registry, groups)
    listed = [patient for patient in new if patient in test_patients]
    result = Registry(
        registry.path,
        registry.plan,
        number=registry.number | _new_numbers(new, registry),
        split=registry.split | dict.fromkeys(listed, TEST) | place(task),
        groups=task.groups,
    )
    _check_classes(result, labels)
    return result


@dataclass(frozen=True)
class Placement:
    """The patients to place, in sorted order, and all that decides where they go.

    `labels` holds every patient of the manifest; `registry` is the one before, and `groups` also
    holds the values of patients who are only in the registry.
    """

    patients: list[str]
    labels: Labels
    registry: Registry
    groups: dict[str, set[str]] = field(default_factory=dict)

    @property
    def plan(self) -> SplitPlan:
        """The settings of the split that the registry was made with."""
        return self.registry.plan


Policy = Callable[[Placement], dict[str, int]]
"""Patients to place -> the split of each."""


def _choose_policy(registry: Registry, groups: Mapping[str, set[str]] | None) -> Policy:
    if groups is not None:
        return place_groups
    if registry.number:
        return place_more
    return place_fresh


def _all_groups(registry: Registry, groups: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Add the values of this manifest to those that the registry remembers."""
    merged = dict(registry.groups)
    for patient, values in groups.items():
        merged[patient] = merged.get(patient, set()) | values
    return merged


def _new_numbers(new: list[str], registry: Registry) -> dict[str, int]:
    """Draw the numbers of new patients at random (seeded): a number says nothing about the id."""
    first = max(registry.number.values(), default=-1) + 1
    generator = _generator(registry.plan.seed, len(registry.number), _NUMBERING)
    order = generator.permutation(len(new))
    return {patient: first + int(k) for patient, k in zip(new, order, strict=True)}


def _check_test_list(registry: Registry, labels: Labels, test_patients: frozenset[str]) -> None:
    """Refuse a test list that contradicts the registry. Raises InputError."""
    n_trained = sum(registry.split.get(patient, TEST) != TEST for patient in test_patients)
    if n_trained:
        raise InputError(
            f"--test-manifest lists {n_trained:,} patients whom registry {registry.path.name} has "
            "in train or val: a model may have seen them. Take them off the list, or keep the new "
            "split apart with --registry NEW.csv."
        )
    if not registry.plan.fixed_test:
        return
    unlisted = [
        patient
        for patient in labels
        if registry.split.get(patient) == TEST and patient not in test_patients
    ]
    if unlisted:
        raise InputError(
            f"Registry {registry.path.name} has {len(unlisted):,} patients of this manifest in "
            "test who are not on the list of --test-manifest. A test split is frozen: use a list "
            "that includes them, or keep the new split apart with --registry NEW.csv."
        )


def place_fresh(task: Placement) -> dict[str, int]:
    """Draw 64 stratified candidates for all patients and keep the most balanced one."""
    shares = _shares(task.plan)
    n_splits = len(shares)
    strata = _strata(task)
    sizes = _stratum_sizes([len(stratum) for stratum in strata], shares)

    def draw(candidate: int) -> NDArray[np.int64]:
        generator = _generator(task.plan.seed, candidate)
        split = np.empty(len(task.patients), np.int64)
        for stratum, cut in zip(strata, sizes, strict=True):
            split[generator.permutation(stratum)] = np.repeat(np.arange(n_splits), cut)
        return split

    counts = [_record_counts(task.labels[patient]) for patient in task.patients]
    weight = np.array(counts, np.int64).reshape(-1, 2)
    best = _most_balanced(map(draw, range(N_CANDIDATES)), weight, shares)
    return {patient: int(k) for patient, k in zip(task.patients, best, strict=True)}


def _strata(task: Placement) -> list[NDArray[np.int64]]:
    """Return the positions of the patients of each label pattern, the largest stratum last."""
    patterns = np.array([_pattern(task.labels[patient]) for patient in task.patients])
    return sorted((np.flatnonzero(patterns == name) for name in _PATTERNS), key=len)


def _stratum_sizes(
    stratum_sizes: Sequence[int], shares: NDArray[np.float64]
) -> list[NDArray[np.int64]]:
    """Cut each stratum into splits; the last one absorbs the rounding of the others if it can."""
    cuts = [_largest_remainder(n, shares) for n in stratum_sizes[:-1]]
    total = _largest_remainder(sum(stratum_sizes), shares)
    rest = total - sum(cuts, np.zeros(len(shares), np.int64))
    is_possible = rest.min() >= 0 and not ((shares > 0) & (rest == 0)).any()
    if not is_possible:
        rest = _largest_remainder(stratum_sizes[-1], shares)
    return [*cuts, rest]


def place_more(task: Placement) -> dict[str, int]:
    """Put each new patient, in seeded order, where the label pattern is furthest below its share.

    Patients who are in the registry stay.
    """
    shares = _shares(task.plan)
    held = {name: np.zeros(len(shares)) for name in _PATTERNS}
    for patient, split in task.registry.split.items():
        # A listed test split takes no share, so nothing is owed to the others in return.
        if not (task.plan.fixed_test and split == TEST):
            held[_pattern(task.labels.get(patient, ()))][split] += 1
    placed = {}
    generator = _generator(task.plan.seed, len(task.registry.number), _PLACING)
    for k in generator.permutation(len(task.patients)):
        patient = task.patients[k]
        count = held[_pattern(task.labels[patient])]
        need = np.where(shares > 0, shares * (count.sum() + 1) - count, -np.inf)
        placed[patient] = int(np.argmax(need))
        count[placed[patient]] += 1
    return placed


def place_groups(task: Placement) -> dict[str, int]:
    """Place whole groups of patients who share a value, directly or through other patients.

    Of 64 seeded orders the most balanced result is kept. A group with patients in the registry
    goes where they are. Raises InputError if there are fewer groups than splits, or if the
    registry has the patients of a group in different splits.
    """
    shares = _shares(task.plan)
    units = _join_groups(task.groups)
    fixed = np.array([_known_split(unit, task) for unit in units], np.int64)
    n_splits = np.count_nonzero(shares)
    if len(units) < n_splits:
        raise InputError(
            f"--split-by-column {task.plan.by_column}: {len(units)} groups of patients who share "
            f"no value; {n_splits} splits need as many. Set the ratio of a split to 0, or split by "
            "patient."
        )
    counts = [_patient_counts(unit, task.labels) for unit in units]
    weight = np.array(counts, np.int64).reshape(-1, 2)
    free = np.flatnonzero(fixed < 0)

    def draw(candidate: int) -> NDArray[np.int64]:
        order = _generator(task.plan.seed, candidate).permutation(free)
        if candidate % 2 == 0:  # the largest first; the odd candidates keep the random order
            order = order[np.argsort(-weight[order, 0], kind="stable")]
        return _fill(order, fixed, weight[:, 0], shares)

    best = _most_balanced(map(draw, range(N_CANDIDATES)), weight, shares)
    split_of = {}
    for unit, split in zip(units, best, strict=True):
        split_of.update(dict.fromkeys(unit, int(split)))
    return {patient: split_of[patient] for patient in task.patients}


def _known_split(unit: list[str], task: Placement) -> int:
    """Return the split in which the registry has patients of a group; -1 for none."""
    registry = task.registry
    known = {registry.split[patient] for patient in unit if patient in registry.split}
    if len(known) > 1:
        raise InputError(
            f"--split-by-column {task.plan.by_column}: {len(unit):,} patients share a value, but "
            f"registry {registry.path.name} has them in different splits. "
            "Keep the new split apart with --registry NEW.csv."
        )
    return known.pop() if known else -1


def _fill(
    order: NDArray[np.int64],
    fixed: NDArray[np.int64],
    size: NDArray[np.int64],
    shares: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Put groups one by one where most is lacking; the last ones fill splits still empty."""
    split = fixed.copy()
    for n_placed, k in enumerate(order):
        held = np.bincount(split[split >= 0], size[split >= 0], minlength=len(shares))
        need = np.where(shares > 0, shares * size.sum() - held, -np.inf)
        empty = (shares > 0) & (held == 0)
        n_left = len(order) - n_placed
        if n_left <= np.count_nonzero(empty):
            need[~empty] = -np.inf
        split[k] = int(np.argmax(need))
    return split


def _join_groups(groups: Mapping[str, set[str]]) -> list[list[str]]:
    """Join patients who share a value, also through other patients, into sorted units."""
    links: list[tuple[tuple[str, str], tuple[str, str]]] = []
    for patient, values in groups.items():
        here = ("patient", patient)
        links.append((here, here))
        links += [(here, ("value", value)) for value in values]
    return sorted(_patients_of(unit) for unit in join_pairs(links))


def _patients_of(unit: list[tuple[str, str]]) -> list[str]:
    """Return the patients of a unit, without the values that they share."""
    return [name for kind, name in unit if kind == "patient"]


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(key))))


def _pattern(labels: Sequence[int]) -> str:
    n_positive = sum(label == 1 for label in labels)
    if n_positive == 0:
        return "none"
    return "all" if n_positive == len(labels) else "mixed"


def _record_counts(labels: Sequence[int]) -> tuple[int, int]:
    """Count a patient's records and positive records."""
    return len(labels), sum(label == 1 for label in labels)


def _patient_counts(unit: list[str], labels: Labels) -> tuple[int, int]:
    """Count a group's patients and its patients with a positive record."""
    return len(unit), sum(1 in labels.get(patient, ()) for patient in unit)


def _shares(plan: SplitPlan) -> NDArray[np.float64]:
    """Return the share of the patients to place for each split. Raises InputError."""
    shares = np.array(plan.ratios) / 100
    if plan.fixed_test:  # the list makes the test split; train and val share the others
        shares[TEST] = 0
        if not shares.any():
            raise InputError(
                "--split leaves nothing for the patients who are not on the test list. "
                "Give train or val a ratio above 0."
            )
        shares /= shares.sum()
    return shares


def _largest_remainder(n: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cut n into whole parts closest to the shares (Hamilton's method).

    Every share above 0 gets at least one where n allows.
    """
    sizes = np.floor(n * shares + 1e-9).astype(np.int64)
    order = np.argsort(-(n * shares - sizes), kind="stable")
    sizes[order[: n - sizes.sum()]] += 1
    if n >= np.count_nonzero(shares):
        while (empty := (shares > 0) & (sizes == 0)).any():
            sizes[np.argmax(sizes)] -= 1
            sizes[np.argmax(empty)] += 1
    return sizes


def _most_balanced(
    candidates: Iterator[NDArray[np.int64]],
    weight: NDArray[np.int64],
    shares: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the first of the candidates with the smallest imbalance."""
    return min(candidates, key=lambda split: _imbalance(split, weight, shares))


def _imbalance(
    split: NDArray[np.int64], weight: NDArray[np.int64], shares: NDArray[np.float64]
) -> float:
    """Add up the largest deviations from the shares of both columns of `weight` (n, 2).

    The columns are records and positive records, or patients and positive patients.
    """
    cost = 0.0
    for column in weight.T:
        held = np.bincount(split, column, minlength=len(shares)) / max(column.sum(), 1)
        cost += np.abs(held - shares).max()
    return float(cost)


def _check_classes(registry: Registry, labels: Labels) -> None:
    """Refuse a split without a positive or a negative patient. Raises InputError with the counts.

    Patients without a known label count as neither.
    """
    counts = np.zeros((len(SPLITS), 2), np.int64)
    for patient, values in labels.items():
        known = [label for label in values if label in (0, 1)]
        if known:
            counts[registry.split[patient], int(1 in known)] += 1
    lacking = [
        name for k, name in enumerate(SPLITS) if _is_used(registry.plan, k) and counts[k].min() == 0
    ]
    if not lacking or not counts.any() or registry.plan.allow_missing_class:
        return
    held = "; ".join(
        f"{name} {n_positive} positive, {n_negative} negative"
        for name, (n_negative, n_positive) in zip(SPLITS, counts.tolist(), strict=True)
    )
    raise InputError(
        f"Every split needs a positive and a negative patient; {', '.join(lacking)} would lack one "
        f"(patients: {held}). Add patients, change --split, or add --allow-missing-class."
    )


def _is_used(plan: SplitPlan, k: int) -> bool:
    return bool(plan.ratios[k] > 0 or (plan.fixed_test and k == TEST))
