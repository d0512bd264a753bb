"""Patient-level splits, stratified and frozen.

Patients are cut by largest remainder within each label pattern (none of the patient's recordings positive, all, mixed), and of 64
seeded candidates the one whose records and positive records lie closest to the asked ratios is kept. The registry freezes the
result: a later build keeps every line of it, and patients new to it go where the ratios are neediest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import InputError
from ecgprep.patients.duplicates import join_pairs
from ecgprep.patients.registry import Registry, SplitPlan
from ecgprep.store.format import SPLITS

N_CANDIDATES = 64


TEST = SPLITS.index("test")


def assign(
    registry: Registry,
    labels: Mapping[str, Sequence[int]],
    groups: Mapping[str, set[str]] | None = None,
    test_patients: frozenset[str] = frozenset(),
) -> Registry:
    """Return a registry that holds every patient of `labels` (patient id -> labels of the usable recordings).

    Patients already in it keep number and split. `groups` (patient id -> values of the plan's column) keeps patients who share a value
    together, `test_patients` go to test. The result depends on the set of patients, not on their order. Raises InputError when a split
    with a ratio above 0 would lack a positive or a negative patient, or when groups or test list contradict the registry.
    """
    plan = registry.plan
    new = sorted(patient for patient in labels if patient not in registry.number)
    result = Registry(
        registry.path, plan, dict(registry.number), dict(registry.split), dict(registry.groups)
    )
    if moved := sum(registry.split.get(patient, TEST) != TEST for patient in test_patients):
        raise InputError(
            f"--test-manifest lists {moved:,} patients whom registry {registry.path.name} has in train or val: a model may have seen them. "
            "Take them off the list, or keep the new split apart with --registry NEW.csv."
        )
    if plan.fixed_test and (
        unlisted := sum(
            registry.split.get(patient) == TEST and patient not in test_patients
            for patient in labels
        )
    ):
        raise InputError(
            f"Registry {registry.path.name} has {unlisted:,} patients of this manifest in test who are not on the list of --test-manifest. A test "
            "split is frozen: use a list that holds them, or keep the new split apart with --registry NEW.csv."
        )
    if groups is not None:
        known = dict(registry.groups)
        for patient, values in groups.items():
            known[patient] = known.get(patient, set()) | values
        result.groups = known
        result.split.update(_place_groups(new, labels, known, registry, plan))
    else:
        listed = [patient for patient in new if patient in test_patients]
        rest = [patient for patient in new if patient not in test_patients]
        result.split.update(dict.fromkeys(listed, TEST))
        place = (
            _place(rest, labels, registry, plan)
            if registry.number
            else _split_afresh(rest, labels, plan)
        )
        result.split.update(place)
    first = max(registry.number.values(), default=-1) + 1
    order = _generator(plan.seed, len(registry.number), 2**31).permutation(len(new))
    result.number.update({patient: first + int(k) for patient, k in zip(new, order, strict=True)})
    _check_classes(result, labels)
    return result


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(key))))


def _pattern(labels: Sequence[int]) -> str:
    positives = sum(label == 1 for label in labels)
    return "none" if positives == 0 else "all" if positives == len(labels) else "mixed"


def _shares(plan: SplitPlan) -> NDArray[np.float64]:
    shares = np.array(plan.ratios) / 100
    if plan.fixed_test:  # the list makes the test split; the others share what is left
        shares[TEST] = 0
        if not shares.any():
            raise InputError(
                "--split leaves nothing for the patients who are not on the test list. Give train or val a ratio above 0."
            )
        shares /= shares.sum()
    return shares


def _largest_remainder(n: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cut n into whole parts closest to the shares (Hamilton's method), with one for every share above 0 where n allows."""
    sizes = np.floor(n * shares + 1e-9).astype(np.int64)
    order = np.argsort(-(n * shares - sizes), kind="stable")
    sizes[order[: n - sizes.sum()]] += 1
    while n >= np.count_nonzero(shares) and ((shares > 0) & (sizes == 0)).any():
        sizes[np.argmax(sizes)] -= 1
        sizes[np.argmax((shares > 0) & (sizes == 0))] += 1
    return sizes


def _split_afresh(
    patients: list[str], labels: Mapping[str, Sequence[int]], plan: SplitPlan
) -> dict[str, int]:
    """Draw 64 stratified candidates and keep the best; the largest stratum absorbs the rounding of the others."""
    shares = _shares(plan)
    patterns = np.array([_pattern(labels[patient]) for patient in patients])
    strata = sorted(
        (np.flatnonzero(patterns == name) for name in ("none", "all", "mixed")), key=len
    )
    sizes = [_largest_remainder(len(stratum), shares) for stratum in strata[:-1]]
    rest = _largest_remainder(len(patients), shares) - sum(sizes, np.zeros(len(shares), np.int64))
    exact_total = rest.min() >= 0 and not ((shares > 0) & (rest == 0)).any()
    sizes.append(rest if exact_total else _largest_remainder(len(strata[-1]), shares))
    weight = np.array(
        [
            (len(labels[patient]), sum(label == 1 for label in labels[patient]))
            for patient in patients
        ]
    ).reshape(-1, 2)
    best, best_cost = np.zeros(len(patients), np.int64), np.inf
    for candidate in range(N_CANDIDATES):
        generator = _generator(plan.seed, candidate)
        split = np.empty(len(patients), np.int64)
        for stratum, cut in zip(strata, sizes, strict=True):
            split[generator.permutation(stratum)] = np.repeat(np.arange(len(shares)), cut)
        cost = _imbalance(split, weight, shares)
        if cost < best_cost:
            best, best_cost = split, cost
    return {patient: int(k) for patient, k in zip(patients, best, strict=True)}


def _imbalance(
    split: NDArray[np.int64], weight: NDArray[np.int64], shares: NDArray[np.float64]
) -> float:
    """Sum the largest deviations, in shares, of records and of positive records."""
    totals = np.maximum(weight.sum(axis=0), 1)
    held = (
        np.stack([np.bincount(split, weight[:, j], minlength=len(shares)) for j in (0, 1)], axis=1)
        / totals
    )
    return float(np.abs(held - shares[:, None]).max(axis=0).sum())


def _place(
    new: list[str], labels: Mapping[str, Sequence[int]], registry: Registry, plan: SplitPlan
) -> dict[str, int]:
    """Put each new patient, in seeded order, where its label pattern is furthest below the asked share; old patients stand."""
    shares = _shares(plan)
    held = {name: np.zeros(len(shares)) for name in ("none", "all", "mixed")}
    for (
        patient,
        split,
    ) in registry.split.items():  # of a listed test split nothing is expected in return
        if plan.fixed_test and split == TEST:
            continue
        held[_pattern(labels.get(patient, ()))][split] += 1
    placed = {}
    for k in _generator(plan.seed, len(registry.number), 2**31 + 1).permutation(len(new)):
        count = held[_pattern(labels[new[k]])]
        need = np.where(shares > 0, shares * (count.sum() + 1) - count, -np.inf)
        split = int(np.argmax(need))
        count[split] += 1
        placed[new[k]] = split
    return placed


def _is_used(plan: SplitPlan, k: int) -> bool:
    return bool(plan.ratios[k] > 0 or (plan.fixed_test and k == TEST))


def _place_groups(
    new: list[str],
    labels: Mapping[str, Sequence[int]],
    groups: Mapping[str, set[str]],
    registry: Registry,
    plan: SplitPlan,
) -> dict[str, int]:
    """Place whole groups of patients who share a value of the column, directly or through others; the largest first, where need is most.

    Of 64 seeded orders the one closest to the ratios is kept. A group with patients in the registry goes where they are.
    """
    shares = _shares(plan)
    units = _join_groups(groups)
    weight = np.array(
        [(len(unit), sum(1 in labels.get(patient, ()) for patient in unit)) for unit in units]
    ).reshape(-1, 2)
    fixed = np.full(len(units), -1)
    for k, unit in enumerate(units):
        known = {registry.split[patient] for patient in unit if patient in registry.split}
        if len(known) > 1:
            raise InputError(
                f"--split-by-column {plan.by_column}: {len(unit):,} patients share a value, but registry {registry.path.name} has them in "
                "different splits. Keep the new split apart with --registry NEW.csv."
            )
        fixed[k] = known.pop() if known else -1
    free = np.flatnonzero(fixed < 0)
    if len(units) < np.count_nonzero(shares):
        raise InputError(
            f"--split-by-column {plan.by_column}: {len(units)} groups of patients who share no value; {np.count_nonzero(shares)} splits need "
            "as many. Set the ratio of a split to 0, or split by patient."
        )
    best, best_cost = fixed, np.inf
    for candidate in range(N_CANDIDATES):
        order = _generator(plan.seed, candidate).permutation(free)
        if candidate % 2 == 0:
            order = order[np.argsort(-weight[order, 0], kind="stable")]
        split = _fill(order, fixed, weight[:, 0], shares)
        cost = _imbalance(split, weight, shares)
        if cost < best_cost:
            best, best_cost = split, cost
    wanted = set(new)
    return {
        patient: int(k)
        for unit, k in zip(units, best, strict=True)
        for patient in unit
        if patient in wanted
    }


def _fill(
    order: NDArray[np.int64],
    fixed: NDArray[np.int64],
    size: NDArray[np.int64],
    shares: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Put units one by one into the split that lacks most; the last ones go to splits that would stay empty."""
    split = fixed.copy()
    for n_left, k in zip(range(len(order), 0, -1), order, strict=True):
        held = np.bincount(split[split >= 0], size[split >= 0], minlength=len(shares))
        need = np.where(shares > 0, shares * size.sum() - held, -np.inf)
        empty = (shares > 0) & (held == 0)
        if n_left <= np.count_nonzero(empty):
            need[~empty] = -np.inf
        split[k] = int(np.argmax(need))
    return split


def _join_groups(groups: Mapping[str, set[str]]) -> list[list[str]]:
    """Join patients who share a value, also through other patients, into sorted units."""
    links = [
        (("patient", patient), node)
        for patient in groups
        for node in [("patient", patient), *(("value", value) for value in groups[patient])]
    ]
    return sorted([name for kind, name in unit if kind == "patient"] for unit in join_pairs(links))


def _check_classes(registry: Registry, labels: Mapping[str, Sequence[int]]) -> None:
    """Refuse a split without a positive or a negative patient, with the counts; unlabelled patients count as neither."""
    counts = np.zeros((len(SPLITS), 2), np.int64)
    for patient, values in labels.items():
        known = [label for label in values if label in (0, 1)]
        if known:
            counts[registry.split[patient], int(1 in known)] += 1
    lacking = [
        name for k, name in enumerate(SPLITS) if _is_used(registry.plan, k) and counts[k].min() == 0
    ]
    if lacking and counts.sum() and not registry.plan.allow_missing_class:
        held = "; ".join(
            f"{name} {counts[k, 1]} positive, {counts[k, 0]} negative"
            for k, name in enumerate(SPLITS)
        )
        raise InputError(
            f"Every split needs a positive and a negative patient; {', '.join(lacking)} would lack one (patients: {held}). "
            "Add patients, change --split, or go on with --allow-missing-class."
        )
