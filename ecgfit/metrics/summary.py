"""Metrics of predicted probabilities, with intervals by a bootstrap over patients.

There is one probability per patient, or per recording with `cluster` naming the patient. Labels
are 0 or 1. AUROC is the Mann-Whitney statistic and AUPRC the average precision, as scikit-learn
defines them; the tests compare with scikit-learn. Undefined values are None, never 0.5 or 0.

Every metric is computed for all bootstrap replicates at once, from a matrix `weight` (R, n) of how
often each patient was drawn. docs/metrics.md has the formulas.
"""

from __future__ import annotations

from ecgfit.metrics.bootstrap import (
    N_BOOTSTRAP,
    count_patients,
    describe_bootstrap,
    newcombe_interval,
    wilson_interval,
    with_intervals,
)
from ecgfit.metrics.definitions import (
    Booleans,
    Columns,
    Floats,
    Ints,
    all_metrics,
    check_labels_and_probabilities,
    confusion_cells,
)
from ecgfit.metrics.delong import delong_summary, independent
from ecgfit.metrics.results import Confusion, Metrics, MetricValue


def compute_metrics(
    label: Ints,
    probability: Floats,
    threshold: float | Floats,
    seed: int,
    n_bootstrap: int = N_BOOTSTRAP,
    cluster: Ints | None = None,
) -> Metrics:
    """Return every metric with a 95 % percentile interval over `n_bootstrap` resamples of patients.

    `label` and `probability` are (n,). Without `cluster` an entry is a patient; with it an entry is
    a recording, `cluster` (n,) holds the patient's number, and a patient is drawn with all
    recordings. An entry is called positive at `probability >= threshold`. The threshold is one for
    all entries or (n,); the result's `threshold` is None in the latter case.

    Replicates in which a metric is undefined are left out and counted. Raises ValueError for no
    entries, labels other than 0 and 1, and probabilities outside [0, 1].
    """
    check_labels_and_probabilities(label, probability)

    def compute(weight: Floats) -> Columns:
        return all_metrics(label, probability, threshold, weight)

    call = probability >= threshold
    n_patients, n_positive = count_patients(label, cluster)
    by_bootstrap = with_intervals(compute, len(label), seed, n_bootstrap, cluster)
    return {
        "n_patients": n_patients,
        "n_positive": n_positive,
        "n_items": len(label),
        "n_positive_items": int((label == 1).sum()),
        "prevalence": float((label == 1).mean()),
        "threshold": threshold if isinstance(threshold, float | int) else None,
        "confusion": confusion(label, call),
        "metrics": with_score_intervals(by_bootstrap, label, call, cluster),
        "delong": delong_summary(label, probability, cluster),
        "bootstrap": describe_bootstrap(seed, n_bootstrap),
    }


def confusion(label: Ints, call: Booleans) -> Confusion:
    """Count true and false positives and negatives of calls (n,)."""
    tp, fp, fn, tn = (int(cell.sum()) for cell in confusion_cells(label, call))
    return {"tp": tp, "fp": fp, "fn": fn, "tn": tn}


def with_score_intervals(
    metrics: dict[str, MetricValue], label: Ints, call: Booleans, cluster: Ints | None
) -> dict[str, MetricValue]:
    """Put score intervals where the bootstrap gives none; changes `metrics` and returns it.

    Proportions get Wilson's interval and the AUROC gets Newcombe's. Both take entries as
    independent, so where a patient has several, the intervals stay as they are.
    """
    if not independent(cluster):
        return metrics
    cells = confusion(label, call)
    n_positive = cells["tp"] + cells["fn"]
    proportions = _proportions(cells)
    for name, entry in metrics.items():
        has_width = "reason" not in entry
        if has_width or entry["value"] is None:
            continue
        if name in proportions:
            entry["ci95"] = wilson_interval(*proportions[name])
            entry["reason"] = "Wilson's interval: every resample gives the same"
        elif name == "auroc":
            n_negative = len(label) - n_positive
            entry["ci95"] = newcombe_interval(entry["value"], n_positive, n_negative)
            entry["reason"] = "Newcombe's interval: every resample gives the same"
    return metrics


def _proportions(cells: Confusion) -> dict[str, tuple[int, int]]:
    """Return the numerator and denominator of each metric that is a proportion of entries."""
    tp, fp, fn, tn = cells["tp"], cells["fp"], cells["fn"], cells["tn"]
    n = tp + fp + fn + tn
    return {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
        "ruled_out": (tn + fn, n),
        "accuracy": (tp + tn, n),
    }
