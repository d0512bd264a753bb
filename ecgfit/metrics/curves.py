"""Points to draw: ROC, precision and recall, calibration, decision curve, histograms of the probability.

Labels are 0 or 1 (n,), probabilities (n,); all results are plain lists, ready for JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.metrics.bootstrap import wilson_interval
from ecgfit.metrics.definitions import Floats, Ints, equal_mass_bins

MAX_POINTS = 200


SMOOTH_POINTS = 100


_GRID = tuple(round(k / 100, 2) for k in range(1, 100))


def decision_curve(
    label: Ints, probability: Floats, thresholds: Sequence[float] = _GRID
) -> dict[str, list[float]]:
    """Return net benefit (per patient) over risk thresholds of using the model, treating all, and treating none (Vickers & Elkin 2006).

    Raises ValueError for thresholds outside (0, 1).
    """
    t = np.asarray(thresholds, np.float64)
    if not ((t > 0) & (t < 1)).all():
        raise ValueError("thresholds must lie between 0 and 1")
    call = probability[None, :] >= t[:, None]
    tp, fp = (call & (label == 1)).sum(axis=1), (call & (label == 0)).sum(axis=1)
    prevalence, odds = float((label == 1).mean()), t / (1 - t)
    return {
        "threshold": t.tolist(),
        "model": ((tp - fp * odds) / len(label)).tolist(),
        "treat_all": (prevalence - (1 - prevalence) * odds).tolist(),
        "treat_none": np.zeros(len(t)).tolist(),
    }


def reliability_curve(label: Ints, probability: Floats, frac: float = 2 / 3) -> dict[str, Any]:
    """Return the smooth calibration curve at up to 100 quantiles of the probability, and bins of equal mass with Wilson's 95 % interval.

    The curve is `lowess` with a span of `frac`, held within 0 and 1 (Van Calster 2016 recommends such a flexible curve).
    """
    at = np.unique(np.quantile(probability, np.linspace(0, 1, SMOOTH_POINTS)))
    smooth = np.clip(lowess(probability, label.astype(np.float64), at, frac), 0, 1)
    return {
        "smooth": {"predicted": at.tolist(), "observed": smooth.tolist(), "frac": frac},
        "bins": _bins(label, probability),
    }


def _bins(label: Ints, probability: Floats) -> list[dict[str, Any]]:
    index, bins = equal_mass_bins(probability), []
    for number in np.unique(index):
        y, p = label[index == number], probability[index == number]
        k, n = int((y == 1).sum()), len(y)
        bins.append(
            {
                "mean_predicted": float(p.mean()),
                "observed": k / n,
                "n": n,
                "n_positive": k,
                "ci95": wilson_interval(k, n),
            }
        )
    return bins


def lowess(x: Floats, y: Floats, at: Floats, frac: float = 2 / 3) -> Floats:
    """Return a local linear fit of y on x, both (n,), at the points `at` (m,), without robustness iterations (Cleveland 1979).

    The nearest `frac` of the points count, with tricube weights; where these all share one x the fit is their mean.
    """
    k = min(len(x), max(2, int(frac * len(x) + 1e-10)))
    return np.array([_local_line(x, y, point, k) for point in at])


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
    """Return false positive rate, sensitivity and threshold, from calling nobody positive (threshold None) to everyone, at most 200 points.

    Empty lists where a class is absent.
    """
    threshold, tp, fp = _counts(label, score)
    if not tp[-1] or not fp[-1]:
        return {"false_positive_rate": [], "sensitivity": [], "threshold": []}
    bends = np.r_[
        True, (np.diff(tp, 2) != 0) | (np.diff(fp, 2) != 0), True
    ]  # points within a straight line add nothing
    keep = _thin(np.flatnonzero(bends))
    cuts = [None if i == 0 else float(threshold[i - 1]) for i in keep]
    return {
        "false_positive_rate": (fp / fp[-1])[keep].tolist(),
        "sensitivity": (tp / tp[-1])[keep].tolist(),
        "threshold": cuts,
    }


def pr_curve(label: Ints, score: Floats) -> dict[str, list[Any]]:
    """Return recall (sensitivity), precision (PPV) and threshold from the highest score to the lowest, at most 200 points.

    Empty lists where a class is absent. To draw as steps: AUPRC does not interpolate.
    """
    threshold, tp, fp = _counts(label, score)
    if not tp[-1] or not fp[-1]:
        return {"recall": [], "precision": [], "threshold": []}
    keep = _thin(np.arange(len(threshold)))
    tp, fp = tp[1:], fp[1:]
    return {
        "recall": (tp / tp[-1])[keep].tolist(),
        "precision": (tp / (tp + fp))[keep].tolist(),
        "threshold": threshold[keep].tolist(),
    }


def _counts(label: Ints, score: Floats) -> tuple[Floats, Ints, Ints]:
    """Return the distinct scores (m,), descending, and true and false positives after calling the first 0 .. m of them (m + 1,)."""
    threshold, index = np.unique(-score, return_inverse=True)
    tp, fp = (
        np.cumsum(np.r_[0, np.bincount(index, label == value, len(threshold))]).astype(np.int64)
        for value in (1, 0)
    )
    return -threshold, tp, fp


def _thin(index: NDArray[np.intp]) -> NDArray[np.intp]:
    at = np.unique(
        np.round(np.linspace(0, len(index) - 1, min(len(index), MAX_POINTS))).astype(np.intp)
    )
    return np.asarray(index[at])


def probability_histogram(
    label: Ints, probability: Floats, n_bins: int = 20
) -> dict[str, list[Any]]:
    """Return bin edges (n_bins + 1) over [0, 1] and the number of negative and positive patients in each; the last bin holds 1."""
    edges = np.linspace(0, 1, n_bins + 1)
    negative, positive = (
        np.histogram(probability[label == value], edges)[0].tolist() for value in (0, 1)
    )
    return {"edges": edges.tolist(), "negative": negative, "positive": positive}
