"""Discrimination and classification metrics, and their intervals by a bootstrap over patients.

Scores are one number per patient, labels 0 or 1. AUROC is the Mann-Whitney statistic, AUPRC the average precision (step-wise sum, no
interpolation): the definitions of scikit-learn, against which they are tested. Undefined values are None, never 0.5 or 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

METRICS = ("auroc", "auprc", "accuracy", "f1", "sensitivity", "specificity")
"""The headline metrics, in the order in which they are shown."""
N_BOOTSTRAP = 2000
_CELLS_AT_ONCE = 20_000_000
"""Bootstrap weights held at a time: 160 MB."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def curve_metrics(label: Ints, score: Floats, weight: Floats) -> dict[str, Floats]:
    """Return AUROC and AUPRC for each row of `weight` (R, n): how often each patient counts. NaN where a class is absent."""
    order = np.argsort(-score, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])  # equal scores are one threshold
    w = weight[:, order]
    positive = np.add.reduceat(w * (label[order] == 1), first, axis=1)
    negative = np.add.reduceat(w * (label[order] == 0), first, axis=1)
    true, false = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    n_positive, n_negative = true[:, -1], false[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        above = true - positive / 2  # a positive of equal score counts half
        auroc = (negative * above).sum(axis=1) / (n_positive * n_negative)
        precision = np.where(true + false > 0, true / np.maximum(true + false, 1), 0.0)
        auprc = (positive * precision).sum(axis=1) / n_positive
    defined = (n_positive > 0) & (n_negative > 0)
    return {"auroc": np.where(defined, auroc, np.nan), "auprc": np.where(defined, auprc, np.nan)}


def threshold_metrics(label: Ints, positive_call: NDArray[np.bool_], weight: Floats) -> dict[str, Floats]:
    """Return accuracy, F1, sensitivity and specificity for each row of `weight` (R, n). NaN where the denominator is 0."""
    tp, fp, fn, tn = (weight @ cell.astype(np.float64) for cell in _cells(label, positive_call))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
        }


def _cells(label: Ints, call: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], ...]:
    truth = label == 1
    return truth & call, ~truth & call, truth & ~call, ~truth & ~call


def auroc_auprc(label: Ints, score: Floats) -> tuple[float | None, float | None]:
    """Return the two curve metrics of one set of patients, None where a class is absent."""
    values = curve_metrics(label, score, np.ones((1, len(label))))
    auroc, auprc = (float(values[name][0]) for name in ("auroc", "auprc"))
    return (None, None) if math.isnan(auroc) else (auroc, auprc)


def evaluate(label: Ints, probability: Floats, threshold: float, seed: int, n_bootstrap: int = N_BOOTSTRAP) -> dict[str, Any]:
    """Return every headline metric with a 95 % percentile interval over `n_bootstrap` resamples of patients.

    A patient is called positive at `probability >= threshold`. Replicates in which a metric is undefined are left out and counted.
    """
    call = probability >= threshold

    def compute(weight: Floats) -> dict[str, Floats]:
        return curve_metrics(label, probability, weight) | threshold_metrics(label, call, weight)

    point = compute(np.ones((1, len(label))))
    resampled = _bootstrap(compute, len(label), seed, n_bootstrap)
    tp, fp, fn, tn = (int(cell.sum()) for cell in _cells(label, call))
    return {
        "n_patients": len(label),
        "n_positive": int((label == 1).sum()),
        "prevalence": float((label == 1).mean()),
        "threshold": threshold,
        "confusion": {"tp": tp, "fp": fp, "fn": fn, "tn": tn},
        "metrics": {name: _with_interval(float(value[0]), resampled[name]) for name, value in point.items()},
        "bootstrap": {"unit": "patient", "n": n_bootstrap, "seed": seed, "interval": "percentile, 95 %"},
    }


def _bootstrap(compute: Callable[[Floats], dict[str, Floats]], n: int, seed: int, n_bootstrap: int) -> dict[str, Floats]:
    generator = np.random.Generator(np.random.PCG64(seed))
    at_once = max(1, min(n_bootstrap, _CELLS_AT_ONCE // max(n, 1)))
    parts = []
    for start in range(0, n_bootstrap, at_once):
        draws = generator.multinomial(n, np.full(n, 1 / n), size=min(at_once, n_bootstrap - start))
        parts.append(compute(draws.astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _with_interval(value: float, replicates: Floats) -> dict[str, Any]:
    defined = replicates[~np.isnan(replicates)]
    if math.isnan(value) or not defined.size:
        return {"value": None, "ci95": None, "reason": "undefined: a class, or its calls, are absent"}
    low, high = np.quantile(defined, [0.025, 0.975])
    return {"value": value, "ci95": [float(low), float(high)], "n_undefined_replicates": len(replicates) - len(defined)}


def choose_threshold(label: Ints, probability: Floats, rule: str) -> float:
    """Choose the operating point: `youden` maximises sensitivity + specificity - 1, `f1` the F1 score.

    Candidates lie midway between neighbouring distinct probabilities, so that a score next to the cut is not decided by rounding; of
    equal ones the highest is taken. Raises ValueError for an unknown rule.
    """
    order = np.argsort(-probability, kind="stable")
    p, truth = probability[order], (label[order] == 1)
    last = np.flatnonzero(np.r_[np.diff(p) != 0, True])  # calls all patients up to here positive
    tp, fp = np.cumsum(truth)[last], np.cumsum(~truth)[last]
    n_positive, n_negative = max(1, int(truth.sum())), max(1, int((~truth).sum()))
    if rule == "youden":
        value = tp / n_positive - fp / n_negative
    elif rule == "f1":
        value = 2 * tp / (tp + fp + n_positive)
    else:
        raise ValueError(f"rule (={rule}) must be youden or f1")
    best = int(np.argmax(value))
    following = p[last[best] + 1] if last[best] + 1 < len(p) else 0.0
    return float((p[last[best]] + following) / 2)
