"""Points to draw: ROC, precision and recall, calibration, decision curve, histograms.

Labels are 0 or 1 (n,) and probabilities (n,). All results are plain lists, ready for JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.metrics.bootstrap import wilson_interval
from ecgfit.metrics.definitions import Floats, Ints, equal_mass_bins

MAX_POINTS = 200
"""Points of a ROC or precision-recall curve at most; more cannot be seen."""

SMOOTH_POINTS = 100

LOWESS_SHARE = 2 / 3
"""Share of the patients that counts at each point of the smooth calibration curve."""

_RISK_THRESHOLDS = tuple(round(k / 100, 2) for k in range(1, 100))


def decision_curve(
    label: Ints, probability: Floats, thresholds: Sequence[float] = _RISK_THRESHOLDS
) -> dict[str, list[float]]:
    """Return net benefit per patient of the model, of treating all and of treating none.

    One value for each risk threshold (Vickers & Elkin 2006). Raises ValueError for thresholds
    outside (0, 1).
    """
    t = np.asarray(thresholds, np.float64)
    if not ((t > 0) & (t < 1)).all():
        raise ValueError(f"thresholds (={list(thresholds)}) must lie between 0 and 1.")
    call = probability[None, :] >= t[:, None]
    tp = (call & (label == 1)).sum(axis=1)
    fp = (call & (label == 0)).sum(axis=1)
    prevalence, odds = float((label == 1).mean()), t / (1 - t)
    return {
        "threshold": t.tolist(),
        "model": ((tp - fp * odds) / len(label)).tolist(),
        "treat_all": (prevalence - (1 - prevalence) * odds).tolist(),
        "treat_none": np.zeros(len(t)).tolist(),
    }


def reliability_curve(
    label: Ints, probability: Floats, frac: float = LOWESS_SHARE
) -> dict[str, Any]:
    """Return a smooth calibration curve, and bins of equal mass with Wilson's 95 % interval.

    The curve is `lowess` with a span of `frac` at up to 100 quantiles of the probability, clipped
    to [0, 1]. Van Calster 2016 recommends such a flexible curve.
    """
    quantiles = np.quantile(probability, np.linspace(0, 1, SMOOTH_POINTS))
    points = np.unique(quantiles)
    smooth = np.clip(lowess(probability, label.astype(np.float64), points, frac), 0, 1)
    return {
        "smooth": {"predicted": points.tolist(), "observed": smooth.tolist(), "frac": frac},
        "bins": _bins(label, probability),
    }


def _bins(label: Ints, probability: Floats) -> list[dict[str, Any]]:
    index = equal_mass_bins(probability)
    return [_bin(label[index == k], probability[index == k]) for k in np.unique(index)]


def _bin(label: Ints, probability: Floats) -> dict[str, Any]:
    n_positive, n = int((label == 1).sum()), len(label)
    return {
        "mean_predicted": float(probability.mean()),
        "observed": n_positive / n,
        "n": n,
        "n_positive": n_positive,
        "ci95": wilson_interval(n_positive, n),
    }


def lowess(x: Floats, y: Floats, points: Floats, frac: float = LOWESS_SHARE) -> Floats:
    """Return a local linear fit of y on x, both (n,), at `points` (m,) (Cleveland 1979).

    The nearest `frac` of the data count, with tricube weights and without robustness iterations.
    Where these all share one x, the fit is their mean.
    """
    k = min(len(x), max(2, int(frac * len(x) + 1e-10)))
    return np.array([_local_line(x, y, point, k) for point in points])


def _local_line(x: Floats, y: Floats, point: float, k: int) -> float:
    distance = np.abs(x - point)
    radius = np.partition(distance, k - 1)[k - 1]
    if radius == 0:
        return float(y[distance == 0].mean())
    weight = np.clip(1 - (distance / radius) ** 3, 0, None) ** 3
    if not weight.any():  # all neighbours lie on the rim
        weight = (distance <= radius).astype(np.float64)
    weight /= weight.sum()
    centred = x - weight @ x
    spread = max(float(weight @ centred**2), 1e-12)
    return float(weight @ y + (point - weight @ x) * (weight @ (centred * y)) / spread)


def roc_curve(label: Ints, score: Floats) -> dict[str, list[Any]]:
    """Return false positive rate, sensitivity and threshold, at most 200 points.

    The first point calls nobody positive (threshold None), the last everyone. Empty lists where a
    class is absent.
    """
    if not _has_both_classes(label):
        return {"false_positive_rate": [], "sensitivity": [], "threshold": []}
    from sklearn import metrics

    # Points inside a straight line add nothing and are dropped.
    fpr, tpr, threshold = metrics.roc_curve(label, score, drop_intermediate=True)
    keep = _thin(len(threshold))
    return {
        "false_positive_rate": fpr[keep].tolist(),
        "sensitivity": tpr[keep].tolist(),
        "threshold": [None, *threshold[keep][1:].tolist()],  # scikit-learn starts at infinity
    }


def pr_curve(label: Ints, score: Floats) -> dict[str, list[Any]]:
    """Return recall (sensitivity), precision (PPV) and threshold, at most 200 points.

    They go from the highest score to the lowest. Draw them as steps: AUPRC does not interpolate.
    Empty lists where a class is absent.
    """
    if not _has_both_classes(label):
        return {"recall": [], "precision": [], "threshold": []}
    from sklearn import metrics

    precision, recall, threshold = metrics.precision_recall_curve(label, score)
    # scikit-learn begins at the lowest score and adds a last point without a threshold.
    keep = len(threshold) - 1 - _thin(len(threshold))
    return {
        "recall": recall[keep].tolist(),
        "precision": precision[keep].tolist(),
        "threshold": threshold[keep].tolist(),
    }


def _has_both_classes(label: Ints) -> bool:
    return bool((label == 1).any() and (label == 0).any())


def _thin(n: int) -> NDArray[np.intp]:
    """Return at most `MAX_POINTS` positions among n, evenly spaced and with both ends."""
    positions = np.linspace(0, n - 1, min(n, MAX_POINTS))
    return np.unique(np.round(positions).astype(np.intp))


def probability_histogram(
    label: Ints, probability: Floats, n_bins: int = 20
) -> dict[str, list[Any]]:
    """Return bin edges (n_bins + 1) over [0, 1] and the patients of each class in each bin.

    The last bin includes 1.
    """
    edges = np.linspace(0, 1, n_bins + 1)
    negative, _ = np.histogram(probability[label == 0], edges)
    positive, _ = np.histogram(probability[label == 1], edges)
    return {
        "edges": edges.tolist(),
        "negative": negative.tolist(),
        "positive": positive.tolist(),
    }
