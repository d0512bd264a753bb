"""Standard errors of the AUROC without resampling, as a check of the bootstrap: DeLong 1988, in the fast form of Sun & Xu 2014."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


Z95 = float(ndtri(0.975))


def _components(label: Ints, score: Floats) -> tuple[Floats, Floats]:
    """Return DeLong's structural components of positives and negatives from midranks (Sun & Xu 2014): O(n log n)."""
    truth = label == 1
    ranks = _midranks(score)
    above = (ranks[truth] - _midranks(score[truth])) / (~truth).sum()
    below = 1 - (ranks[~truth] - _midranks(score[~truth])) / truth.sum()
    return above, below


def _midranks(score: Floats) -> Floats:
    _, index, count = np.unique(score, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[index])


def delong(label: Ints, score: Floats) -> tuple[float | None, float | None]:
    """Return AUROC and its standard error (DeLong 1988) for independent patients (n,). None with an absent class, or one patient in a class."""
    n_positive, n_negative = int((label == 1).sum()), int((label == 0).sum())
    if not n_positive or not n_negative:
        return None, None
    above, below = _components(label, score)
    if min(n_positive, n_negative) < 2:
        return float(above.mean()), None
    return float(above.mean()), math.sqrt(
        above.var(ddof=1) / n_positive + below.var(ddof=1) / n_negative
    )


def delong_interval(auroc: float | None, standard_error: float | None) -> list[float] | None:
    """Return the 95 % interval on the logit scale, which stays within 0 and 1. None where AUROC is 0 or 1, or the error is unknown."""
    if auroc is None or standard_error is None or not 0 < auroc < 1:
        return None
    half = Z95 * standard_error / (auroc * (1 - auroc))  # delta method
    middle = math.log(auroc / (1 - auroc))
    return [1 / (1 + math.exp(half - middle)), 1 / (1 + math.exp(-half - middle))]


def independent(cluster: Ints | None) -> bool:
    """Say whether entries are independent: each of another patient, whose number `cluster` (n,) is."""
    return cluster is None or len(np.unique(cluster)) == len(cluster)


def delong_summary(label: Ints, score: Floats, cluster: Ints | None = None) -> dict[str, Any]:
    """Return AUROC, standard error and interval by DeLong's method; None where patients have several entries, which are not independent."""
    if not independent(cluster):
        return {
            "auroc": None,
            "standard_error": None,
            "ci95": None,
            "reason": "undefined: patients have several recordings",
        }
    auroc, error = delong(label, score)
    return {
        "auroc": auroc,
        "standard_error": error,
        "ci95": delong_interval(auroc, error),
        "interval": "logit scale, 95 %",
    }


def delong_test(
    label: Ints, score_a: Floats, score_b: Floats
) -> tuple[float | None, float | None, float | None]:
    """Return AUROC of b minus that of a on the same patients, its standard error, and the two-sided p (DeLong 1988). None where undefined."""
    if min(int((label == 1).sum()), int((label == 0).sum())) < 2:
        return None, None, None
    (above_a, below_a), (above_b, below_b) = (
        _components(label, score_a),
        _components(label, score_b),
    )
    above, below = above_b - above_a, below_b - below_a
    difference, error = (
        float(above.mean()),
        math.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)),
    )
    return difference, error, float(2 * ndtr(-abs(difference) / error)) if error > 1e-12 else None
