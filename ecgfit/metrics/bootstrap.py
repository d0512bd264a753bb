"""Intervals: the bootstrap over patients, Wilson and Newcombe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ecgfit.metrics.definitions import _CELLS_AT_ONCE, REASONS, Columns, Floats, Ints
from ecgfit.metrics.delong import Z95

N_BOOTSTRAP = 2000


_BOOTSTRAP_STREAM = 1979
"""Beside the seed, so that labels simulated with `default_rng(seed)` do not share the numbers of the first replicate."""


def count_patients(label: Ints, cluster: Ints | None) -> tuple[int, int]:
    """Return how many patients there are, and how many have any positive entry. Without `cluster` each entry is a patient."""
    if cluster is None:
        return len(label), int((label == 1).sum())
    return len(np.unique(cluster)), len(np.unique(cluster[label == 1]))


def describe_bootstrap(seed: int, n_bootstrap: int) -> dict[str, Any]:
    """Return how intervals were made, for the files that hold them."""
    return {"unit": "patient", "n": n_bootstrap, "seed": seed, "interval": "percentile, 95 %"}


def bootstrap_weights(
    n: int, seed: int, n_bootstrap: int, cluster: Ints | None = None
) -> Iterator[Floats]:
    """Yield how often each entry was drawn, in blocks (R, n), R summing to `n_bootstrap`. Entries of a patient are drawn together."""
    index = np.arange(n) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    n_drawn = int(index.max()) + 1
    generator = np.random.default_rng([seed, _BOOTSTRAP_STREAM])
    at_once = max(1, min(n_bootstrap, _CELLS_AT_ONCE // n))
    for start in range(0, n_bootstrap, at_once):
        draws = generator.multinomial(
            n_drawn, np.full(n_drawn, 1 / n_drawn), size=min(at_once, n_bootstrap - start)
        )
        yield (draws if cluster is None else draws[:, index]).astype(np.float64)


def with_intervals(
    compute: Callable[[Floats], Columns],
    n: int,
    seed: int,
    n_bootstrap: int,
    cluster: Ints | None = None,
) -> dict[str, Any]:
    """Return {metric: {value, ci95, ...}} of `compute`, which maps weights (R, n) to columns (R,)."""
    point = compute(np.ones((1, n)))
    parts = [compute(weight) for weight in bootstrap_weights(n, seed, n_bootstrap, cluster)]
    return {
        name: interval(name, float(point[name][0]), np.concatenate([part[name] for part in parts]))
        for name in point
    }


def newcombe_interval(auroc: float, n_positive: int, n_negative: int) -> list[float]:
    """Return the 95 % score interval of an AUROC (Newcombe 2006, method 5): all A with |auroc - A| at most 1.96 standard errors at A.

    The variance is Hanley and McNeil's of 1982 with both class sizes replaced by their mean, A (1 - A) (1 + N (1 - A) / (2 - A) + N A / (1 + A))
    / (n_positive n_negative), N their mean less 1. It has a width where the AUROC is 1, which no resample can have.
    """
    a = np.linspace(0, 1, 100_001)
    size = (n_positive + n_negative) / 2 - 1
    variance = (
        a
        * (1 - a)
        * (1 + size * (1 - a) / (2 - a) + size * a / (1 + a))
        / (n_positive * n_negative)
    )
    inside = a[(auroc - a) ** 2 <= Z95**2 * variance + 1e-15]
    return [float(min(inside[0], auroc)), float(max(inside[-1], auroc))]


def wilson_interval(k: int, n: int) -> list[float]:
    """Return the 95 % score interval of the proportion k / n (Wilson 1927)."""
    p, z2 = k / n, Z95**2
    middle, half = (
        (p + z2 / (2 * n)) / (1 + z2 / n),
        Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n),
    )
    return [
        max(0.0, middle - half) if k else 0.0,
        min(1.0, middle + half) if k < n else 1.0,
    ]  # exact where rounding would not be


def interval(name: str, value: float, replicates: Floats) -> dict[str, Any]:
    """Return value and percentile interval of the metric `name`; None and the reason where it is undefined (NaN), and the reason, too, where
    the interval has no width: no resample changes a sensitivity of 1, nor the difference of two models that agree."""
    defined = replicates[~np.isnan(replicates)]
    if math.isnan(value) or not defined.size:
        return {"value": None, "ci95": None, "reason": f"undefined: {REASONS[name]}"}
    low, high = np.quantile(defined, [0.025, 0.975])
    found = {
        "value": value,
        "ci95": [float(low), float(high)],
        "n_undefined_replicates": len(replicates) - len(defined),
    }
    return found | (
        {"reason": "no true interval: every resample gives the same"} if low == high else {}
    )
