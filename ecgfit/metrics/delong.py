"""Standard errors of the AUROC without resampling, as a check on the bootstrap.

DeLong 1988, in the fast form of Sun & Xu 2014.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from ecgfit.metrics.results import DelongAuroc
from ecgprep.ranking import midranks

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Z95 = float(ndtri(0.975))

_NO_ERROR = 1e-12
"""A standard error at or below this is rounding: the two scores rank alike."""


def _components(label: Ints, score: Floats) -> tuple[Floats, Floats]:
    """Return DeLong's structural components of positives and negatives, in O(n log n).

    For each positive the share of negatives that score lower, and for each negative the share of
    positives that score higher; ties count half.
    """
    truth = label == 1
    ranks = midranks(score)
    above = (ranks[truth] - midranks(score[truth])) / (~truth).sum()
    below = 1 - (ranks[~truth] - midranks(score[~truth])) / truth.sum()
    return above, below


def _standard_error(above: Floats, below: Floats) -> float:
    return math.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))


def delong(label: Ints, score: Floats) -> tuple[float | None, float | None]:
    """Return AUROC and its standard error (DeLong 1988) for independent patients (n,).

    Both are None where a class is absent; the error is None where a class has one patient.
    """
    n_positive, n_negative = int((label == 1).sum()), int((label == 0).sum())
    if not n_positive or not n_negative:
        return None, None
    above, below = _components(label, score)
    auroc = float(above.mean())
    if min(n_positive, n_negative) < 2:
        return auroc, None
    return auroc, _standard_error(above, below)


def delong_interval(auroc: float | None, standard_error: float | None) -> list[float] | None:
    """Return the 95 % interval, made on the logit scale so that it stays within 0 and 1.

    None where the AUROC is 0 or 1, or the error is unknown.
    """
    if auroc is None or standard_error is None or not 0 < auroc < 1:
        return None
    half_width = Z95 * standard_error / (auroc * (1 - auroc))  # delta method
    middle = math.log(auroc / (1 - auroc))
    low = 1 / (1 + math.exp(half_width - middle))
    high = 1 / (1 + math.exp(-half_width - middle))
    return [low, high]


def independent(cluster: Ints | None) -> bool:
    """Say whether each entry is another patient's; `cluster` (n,) holds the patients' numbers."""
    return cluster is None or len(np.unique(cluster)) == len(cluster)


def delong_summary(label: Ints, score: Floats, cluster: Ints | None = None) -> DelongAuroc:
    """Return AUROC, standard error and interval by DeLong's method.

    All are None where patients have several entries, as these are not independent.
    """
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
    """Return the AUROC of b minus that of a, its standard error and the two-sided p (DeLong 1988).

    Both scores are of the same patients (n,). All are None where a class has fewer than two
    patients; p is None where the two scores rank alike.
    """
    if min(int((label == 1).sum()), int((label == 0).sum())) < 2:
        return None, None, None
    above_a, below_a = _components(label, score_a)
    above_b, below_b = _components(label, score_b)
    above, below = above_b - above_a, below_b - below_a
    difference, error = float(above.mean()), _standard_error(above, below)
    if error <= _NO_ERROR:
        return difference, error, None
    return difference, error, float(2 * ndtr(-abs(difference) / error))
