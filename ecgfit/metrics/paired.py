"""Comparisons: two models on the same patients, one model in groups of patients, a model against the mere number of recordings."""

from __future__ import annotations

from typing import Any

import numpy as np

from ecgfit.metrics.bootstrap import (
    N_BOOTSTRAP,
    bootstrap_weights,
    describe_bootstrap,
    interval,
)
from ecgfit.metrics.definitions import (
    Columns,
    Floats,
    Ints,
    all_metrics,
    check,
)
from ecgfit.metrics.delong import delong_test, independent


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
        return all_metrics(label, probability_a, threshold_a, weight), all_metrics(
            label, probability_b, threshold_b, weight
        )

    point_a, point_b = compute(np.ones((1, len(label))))
    parts = [
        compute(weight) for weight in bootstrap_weights(len(label), seed, n_bootstrap, cluster)
    ]
    metrics = {}
    for name in point_a:
        differences = np.concatenate([b[name] - a[name] for a, b in parts])
        metrics[name] = _difference(
            name, float(point_a[name][0]), float(point_b[name][0]), differences
        )
    if np.any(np.not_equal(threshold_a, threshold_b)):
        metrics["net_benefit"] |= {
            "difference": None,
            "ci95": None,
            "p": None,
            "reason": "undefined: the thresholds differ",
        }
    difference, error, p = (
        delong_test(label, probability_a, probability_b)
        if independent(cluster)
        else (None, None, None)
    )
    delong = {"difference": difference, "standard_error": error, "p": p}
    return {
        "metrics": metrics,
        "delong": delong,
        "bootstrap": describe_bootstrap(seed, n_bootstrap),
    }


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
