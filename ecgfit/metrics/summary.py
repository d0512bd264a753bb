"""Metrics of predicted probabilities, and their intervals by a bootstrap over patients.

Scores are one number per patient (or per recording, with `cluster` naming the patient), labels 0 or 1. AUROC is the Mann-Whitney statistic,
AUPRC the average precision (step-wise sum, no interpolation): the definitions of scikit-learn, against which they are tested. Undefined values
are None, never 0.5 or 0. Every metric is computed for all bootstrap replicates at once, from how often each patient was drawn: a matrix
`weight` (R, n). docs/metrics.md has the formulas.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.metrics.bootstrap import (
    N_BOOTSTRAP,
    count_patients,
    describe_bootstrap,
    newcombe_interval,
    wilson_interval,
    with_intervals,
)
from ecgfit.metrics.definitions import Columns, Floats, Ints, _cells, all_metrics, check
from ecgfit.metrics.delong import delong_summary, independent


def evaluate(
    label: Ints,
    probability: Floats,
    threshold: float | Floats,
    seed: int,
    n_bootstrap: int = N_BOOTSTRAP,
    cluster: Ints | None = None,
) -> dict[str, Any]:
    """Return every metric with a 95 % percentile interval over `n_bootstrap` resamples of patients.

    `label`, `probability` and `cluster` are (n,), an entry per patient; or per recording, when `cluster` gives the patient's number: a patient
    is then drawn with all recordings. An entry is called positive at `probability >= threshold`, one for all or one
    for each entry (n,); `threshold` is then None in the result. Replicates in which a metric is undefined
    are left out and counted. Raises ValueError for no entries, labels other than 0 and 1, and probabilities outside [0, 1].
    """
    check(label, probability)

    def compute(weight: Floats) -> Columns:
        return all_metrics(label, probability, threshold, weight)

    tp, fp, fn, tn = (int(cell.sum()) for cell in _cells(label, probability >= threshold))
    n_patients, n_positive = count_patients(label, cluster)
    return {
        "n_patients": n_patients,
        "n_positive": n_positive,
        "n_items": len(label),
        "n_positive_items": int((label == 1).sum()),
        "prevalence": float((label == 1).mean()),
        "threshold": threshold if isinstance(threshold, float | int) else None,
        "confusion": {"tp": tp, "fp": fp, "fn": fn, "tn": tn},
        "metrics": filled(
            with_intervals(compute, len(label), seed, n_bootstrap, cluster),
            label,
            probability >= threshold,
            cluster,
        ),
        "delong": delong_summary(label, probability, cluster),
        "bootstrap": describe_bootstrap(seed, n_bootstrap),
    }


def filled(
    metrics: dict[str, Any], label: Ints, call: NDArray[np.bool_], cluster: Ints | None
) -> dict[str, Any]:
    """Return the metrics with score intervals where resamples give none: Wilson's for proportions, Newcombe's for the AUROC.

    Both take entries as independent: where a patient has several, the interval stays as it is.
    """
    if not independent(cluster):
        return metrics
    tp, fp, fn, tn = (int(cell.sum()) for cell in _cells(label, call))
    proportions = {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
        "ruled_out": (tn + fn, len(label)),
        "accuracy": (tp + tn, len(label)),
    }
    for name, entry in metrics.items():
        if entry["ci95"] and "reason" in entry:
            if name in proportions:
                entry |= {
                    "ci95": wilson_interval(*proportions[name]),
                    "reason": "Wilson's interval: every resample gives the same",
                }
            elif name == "auroc":
                entry |= {
                    "ci95": newcombe_interval(entry["value"], tp + fn, fp + tn),
                    "reason": "Newcombe's interval: every resample gives the same",
                }
    return metrics
