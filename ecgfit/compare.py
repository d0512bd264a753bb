"""Comparisons: two models on the same patients, one model in groups of patients, a model against the mere number of recordings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.delong import delong_test
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
    interval,
    threshold_metrics,
    with_intervals,
)
from ecgprep.counts import SMALLEST_COUNT

SUBGROUP_METRICS = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv")
N_BOOTSTRAP_SUBGROUP = 500


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

    p is two-sided: 2 (1 + min(#{d <= 0}, #{d >= 0})) / (1 + replicates), at most 1 (Davison & Hinkley 1997, chapter 4). AUROC is also tested
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
    independent = cluster is None or len(np.unique(cluster)) == len(cluster)
    difference, error, p = delong_test(label, probability_a, probability_b) if independent else (None, None, None)
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

    A group with fewer than 10 patients, positive patients or negative patients shows that count as "<10" and no metrics. Where that befalls
    one group of a grouping, the smallest other group is withheld, too: the total less the rest would give the first away.
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
    """Return {group: {n, n_positive, n_negative, suppressed, metrics}} with small counts, and what would give them away, withheld."""
    small = [name for name, count in counts.items() if min(count.values()) < SMALLEST_COUNT]
    others = sorted((name for name in counts if name not in small), key=lambda name: (counts[name]["n"], name))
    beside = others[:1] if len(small) == 1 else []
    result: dict[str, dict[str, Any]] = {}
    for name, count in counts.items():
        shown: dict[str, Any] = dict(count)
        if name in small:  # n stays where it is large enough; the other class is withheld, since n less it is the small count
            shown = {key: "<10" if value < SMALLEST_COUNT else (value if key == "n" else None) for key, value in count.items()}
        elif name in beside:
            shown = dict.fromkeys(count)
        why = "fewer than 10" if name in small else "beside a group of fewer than 10" if name in beside else None
        result[name] = {**shown, "suppressed": why, "metrics": None}
    return result


def _subgroup_metrics(label: Ints, probability: Floats, threshold: Floats, seed: int, n_bootstrap: int, cluster: Ints | None) -> dict[str, Any]:
    def compute(weight: Floats) -> Columns:
        values = curve_metrics(label, probability, weight) | threshold_metrics(label, probability, threshold, weight)
        return {name: values[name] for name in SUBGROUP_METRICS}

    return with_intervals(compute, len(label), seed, n_bootstrap, cluster)


def count_baseline(label: Ints, n_recordings: NDArray[Any], seed: int = 0, n_bootstrap: int = N_BOOTSTRAP) -> dict[str, Any]:
    """Return AUROC and AUPRC, with intervals, of each patient's number of recordings as the only predictor: more is taken as more risk.

    Sick patients are recorded more often. A model that sees all of a patient's recordings can use that; this says how far it would get.
    """
    score = n_recordings.astype(np.float64)
    return with_intervals(lambda weight: curve_metrics(label, score, weight), len(label), seed, n_bootstrap)
