"""Ranks and the area under the ROC curve, in numpy alone: scipy.stats costs 0.8 s of import."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def midranks(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Rank scores (n,) from 1 for the smallest to n; tied scores share the mean of their ranks."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place], np.float64)


def auroc(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve of scores (n,); ties count half.

    This is the Mann-Whitney U statistic divided by the number of pairs of a positive and a
    negative (Hanley & McNeil, Radiology 1982;143:29). NaN where either class is absent.
    """
    n_positive = int(np.count_nonzero(positive))
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return math.nan
    rank_sum = midranks(scores)[positive].sum()
    u_statistic = rank_sum - n_positive * (n_positive + 1) / 2
    return float(u_statistic / (n_positive * n_negative))
