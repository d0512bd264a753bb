"""How far two labellings of the same patients agree beyond chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def cohens_kappa(first: ArrayLike, second: ArrayLike) -> float | None:
    """Return Cohen's kappa of two labellings (n,): 1 is agreement, 0 what chance would give.

    None where it is not defined: without patients, or if both give everyone the same label.
    Source: Cohen, Educ Psychol Meas 1960;20:37.
    """
    one, other = np.asarray(first), np.asarray(second)
    if not len(one):
        return None
    labels = np.union1d(one, other)
    shares = [np.array([np.mean(side == label) for label in labels]) for side in (one, other)]
    by_chance = float(np.dot(*shares))
    if by_chance >= 1:
        return None
    return float((np.mean(one == other) - by_chance) / (1 - by_chance))
