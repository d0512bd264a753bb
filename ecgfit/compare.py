"""Comparisons: two models on the same patients, one model in groups of patients, a model against the mere number of recordings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.delong import delong_test, independent
from ecgfit.metrics import (
    N_BOOTSTRAP,
    Columns,
    Floats,
    Ints,
    all_metrics,
    bootstrap_weights,
    check,
    count_patients,
    curve_metrics,
    describe_bootstrap,
    filled,
    interval,
    threshold_metrics,
    with_intervals,
)
from ecgprep.counts import SMALLEST_COUNT, Range, leaves_open, possible

SUBGROUP_METRICS = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv")
N_BOOTSTRAP_SUBGROUP = 500
COUNTS = ("n", "n_positive", "n_negative")


def paired_difference(
    label: Ints,
    probability_a: Floats,
    probability_b: Floats,
    threshold_a: float | Floats,
    threshold_b: float | Floats,
    seed: int,
    n_bootstrap: int = N_BOOTSTRAP,
    cluster: Ints | None = None,
) -> dict[str, Any]:
    """Compare two models on the same entries (n,): every metric of both, b minus a with a 95 % interval from the same resamples, and p.

    p is two-sided: 2 (1 + min(#{d <= 0}, #{d >= 0})) / (1 + replicates), at most 1 (Davison & Hinkley 1997, chapter 4). Net benefits at
    different thresholds weigh a false positive differently: their difference is then undefined. AUROC is also tested
    by DeLong's method, unless patients have several entries. Raises ValueError as `evaluate`.
    """
    check(label, probability_a)
    check(label, probability_b)

    def compute(weight: Floats) -> tuple[Columns, Columns]:
        return all_metrics(label, probability_a, threshold_a, weight), all_metrics(label, probability_b, threshold_b, weight)

    point_a, point_b = compute(np.ones((1, len(label))))
    parts = [compute(weight) for weight in bootstrap_weights(len(label), seed, n_bootstrap, cluster)]
    metrics = {}
    for name in point_a:
        differences = np.concatenate([b[name] - a[name] for a, b in parts])
        metrics[name] = _difference(name, float(point_a[name][0]), float(point_b[name][0]), differences)
    if np.any(np.not_equal(threshold_a, threshold_b)):
        metrics["net_benefit"] |= {"difference": None, "ci95": None, "p": None, "reason": "undefined: the thresholds differ"}
    difference, error, p = delong_test(label, probability_a, probability_b) if independent(cluster) else (None, None, None)
    delong = {"difference": difference, "standard_error": error, "p": p}
    return {"metrics": metrics, "delong": delong, "bootstrap": describe_bootstrap(seed, n_bootstrap)}


def _difference(name: str, value_a: float, value_b: float, differences: Floats) -> dict[str, Any]:
    result: dict[str, Any] = {"value_a": _number(value_a), "value_b": _number(value_b)}
    between = interval(name, value_b - value_a, differences)
    result |= {"difference": between.pop("value"), **between, "p": None}
    if result["difference"] is not None:
        defined = differences[~np.isnan(differences)]
        fewer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
        result["p"] = min(1.0, 2 * (1 + fewer) / (1 + len(defined)))
    return result


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def subgroups(
    label: Ints,
    probability: Floats,
    threshold: float | Floats,
    groups: Mapping[str, NDArray[Any]],
    seed: int,
    n_bootstrap: int = N_BOOTSTRAP_SUBGROUP,
    cluster: Ints | None = None,
) -> dict[str, Any]:
    """Return for each grouping, an array of names (n,), and each of its groups: patients, positive and negative ones, metrics with intervals.

    A group with fewer than 10 patients, positive patients or negative patients shows that count as "<10" and no metrics; other groups are
    withheld beside it where the total less the rest would give it away (see `suppress`).
    Raises ValueError as `evaluate`, and for a grouping of another length.
    """
    check(label, probability)
    result = {}
    for grouping, names in groups.items():
        if names.shape != label.shape:
            raise ValueError(f"grouping {grouping} has shape {names.shape}; there are {len(label)} labels.")
        counts = {}
        for name in np.unique(names):
            here = names == name
            n, n_positive = count_patients(label[here], None if cluster is None else cluster[here])
            counts[str(name)] = {"n": n, "n_positive": n_positive, "n_negative": n - n_positive}
        result[grouping] = suppress(counts)
        for name, group in result[grouping].items():
            if group["suppressed"] is None:
                here = names == name
                part = None if cluster is None else cluster[here]
                own = np.broadcast_to(threshold, label.shape)[here]
                group["metrics"] = _subgroup_metrics(label[here], probability[here], own, seed, n_bootstrap, part)
    return result


def suppress(counts: Mapping[str, dict[str, int]]) -> dict[str, dict[str, Any]]:
    """Return {group: {n, n_positive, n_negative, suppressed, metrics}} with small counts, and what would give them away, withheld.

    A count under 10 is "<10". Its group's other class is withheld, since n less it is the small count; n stays where it is large enough.
    The smallest other groups are withheld one after the other until who knows the totals is left at least five values for each small
    count; where no group is left, no class is counted, nor any group with a small n.
    """
    small = [name for name, count in counts.items() if min(count.values()) < SMALLEST_COUNT]
    others = sorted((name for name in counts if name not in small), key=lambda name: (counts[name]["n"], name))
    for n_beside in range(len(others) + 1):
        beside = others[:n_beside]
        shown = {name: _shown(count, name in small, name in beside) for name, count in counts.items()}
        if all(leaves_open(values) for values in _guessed(counts, shown)):
            break
    else:
        of_all = min(count["n"] for count in counts.values()) >= SMALLEST_COUNT
        beside, shown = others, {name: dict.fromkeys(count) | ({"n": count["n"]} if of_all else {}) for name, count in counts.items()}
    why = dict.fromkeys(small, "fewer than 10") | dict.fromkeys(beside, "beside a group of fewer than 10")
    return {name: {**own, "suppressed": why.get(name), "metrics": None} for name, own in shown.items()}


def _shown(count: Mapping[str, int], small: bool, beside: bool) -> dict[str, Any]:
    if small:
        return {key: "<10" if value < SMALLEST_COUNT else (value if key == "n" else None) for key, value in count.items()}
    return dict.fromkeys(count) if beside else dict(count)


def _guessed(counts: Mapping[str, Mapping[str, int]], shown: Mapping[str, Mapping[str, Any]]) -> Iterator[Range]:
    """Yield for each "<10" the values that it can have for a reader who knows the sums over all groups."""
    ranges: dict[str, dict[str, Range]] = {}
    for key in COUNTS:
        everyone = sum(count[key] for count in counts.values())
        withheld = {name: own[key] for name, own in shown.items() if not isinstance(own[key], int)}
        bounds = {name: (0, SMALLEST_COUNT - 1) if text else (SMALLEST_COUNT, everyone) for name, text in withheld.items()}
        ranges[key] = possible(sum(counts[name][key] for name in withheld), bounds)
    for name, own in shown.items():
        for key, other in (("n", None), ("n_positive", "n_negative"), ("n_negative", "n_positive")):
            if own[key] != "<10":
                continue
            low, high = ranges[key][name]
            if other is not None and isinstance(own["n"], int):  # the classes add up to it
                low, high = max(low, own["n"] - ranges[other][name][1]), min(high, own["n"] - ranges[other][name][0])
            yield low, high


def _subgroup_metrics(label: Ints, probability: Floats, threshold: Floats, seed: int, n_bootstrap: int, cluster: Ints | None) -> dict[str, Any]:
    def compute(weight: Floats) -> Columns:
        values = curve_metrics(label, probability, weight) | threshold_metrics(label, probability, threshold, weight)
        return {name: values[name] for name in SUBGROUP_METRICS}

    return filled(with_intervals(compute, len(label), seed, n_bootstrap, cluster), label, probability >= threshold, cluster)


def count_baseline(label: Ints, n_recordings: NDArray[Any], seed: int = 0, n_bootstrap: int = N_BOOTSTRAP) -> dict[str, Any]:
    """Return AUROC and AUPRC, with intervals, of each patient's number of recordings as the only predictor: more is taken as more risk.

    Sick patients are recorded more often. A model that sees all of a patient's recordings can use that; this says how far it would get.
    """
    score = n_recordings.astype(np.float64)
    return with_intervals(lambda weight: curve_metrics(label, score, weight), len(label), seed, n_bootstrap)
