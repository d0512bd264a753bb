"""Two models compared on the same patients, by a paired bootstrap."""

from __future__ import annotations

from typing import cast

import numpy as np

from ecgfit.metrics.bootstrap import (
    N_BOOTSTRAP,
    bootstrap_weights,
    describe_bootstrap,
    percentile_interval,
)
from ecgfit.metrics.definitions import (
    Floats,
    Ints,
    all_metrics,
    check_labels_and_probabilities,
    none_if_nan,
)
from ecgfit.metrics.delong import delong_test, independent
from ecgfit.metrics.results import DelongTest, MetricDifference, PairedDifference


def paired_difference(
    label: Ints,
    probability_a: Floats,
    probability_b: Floats,
    threshold_a: float | Floats,
    threshold_b: float | Floats,
    seed: int,
    n_bootstrap: int = N_BOOTSTRAP,
    cluster: Ints | None = None,
) -> PairedDifference:
    """Compare two models on the same entries (n,): every metric of both, and b minus a.

    The 95 % interval of a difference comes from resamples that both models share. p is two-sided:
    2 (1 + min(#{d <= 0}, #{d >= 0})) / (1 + replicates), at most 1 (Davison & Hinkley 1997,
    chapter 4). AUROCs are also compared by DeLong's test, unless patients have several entries.

    Net benefits at different thresholds weigh a false positive differently, so their difference is
    undefined. Raises ValueError as `compute_metrics` does.
    """
    check_labels_and_probabilities(label, probability_a)
    check_labels_and_probabilities(label, probability_b)
    once = np.ones((1, len(label)))
    point_a = all_metrics(label, probability_a, threshold_a, once)
    point_b = all_metrics(label, probability_b, threshold_b, once)
    blocks = []
    for weight in bootstrap_weights(len(label), seed, n_bootstrap, cluster):
        replicates_a = all_metrics(label, probability_a, threshold_a, weight)
        replicates_b = all_metrics(label, probability_b, threshold_b, weight)
        blocks.append({name: replicates_b[name] - replicates_a[name] for name in replicates_a})
    metrics = {}
    for name in point_a:
        value_a, value_b = float(point_a[name][0]), float(point_b[name][0])
        differences = np.concatenate([block[name] for block in blocks])
        metrics[name] = _compare_metric(name, value_a, value_b, differences)
    if np.any(np.not_equal(threshold_a, threshold_b)):
        _withdraw(metrics["net_benefit"], "undefined: the thresholds differ")
    return {
        "metrics": metrics,
        "delong": _delong(label, probability_a, probability_b, cluster),
        "bootstrap": describe_bootstrap(seed, n_bootstrap),
    }


def _compare_metric(
    name: str, value_a: float, value_b: float, differences: Floats
) -> MetricDifference:
    """Compare metric `name`, given the differences of all replicates (R,)."""
    interval = percentile_interval(name, value_b - value_a, differences)
    p = None
    if interval["value"] is not None:
        p = _two_sided_p(differences[~np.isnan(differences)])
    result = {
        "value_a": none_if_nan(value_a),
        "value_b": none_if_nan(value_b),
        "difference": interval["value"],
        **{key: entry for key, entry in interval.items() if key != "value"},
        "p": p,
    }
    return cast(MetricDifference, result)


def _two_sided_p(differences: Floats) -> float:
    on_the_rarer_side = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (1 + on_the_rarer_side) / (1 + len(differences)))


def _withdraw(entry: MetricDifference, reason: str) -> None:
    """Take back a difference that means nothing; the two values stay."""
    entry["difference"] = entry["ci95"] = entry["p"] = None
    entry["reason"] = reason


def _delong(
    label: Ints, probability_a: Floats, probability_b: Floats, cluster: Ints | None
) -> DelongTest:
    if not independent(cluster):
        return {"difference": None, "standard_error": None, "p": None}
    difference, error, p = delong_test(label, probability_a, probability_b)
    return {"difference": difference, "standard_error": error, "p": p}
