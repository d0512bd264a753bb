"""Confidence intervals: the bootstrap over patients, Wilson's and Newcombe's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ecgfit.metrics.definitions import REASONS, Columns, Floats, Ints
from ecgfit.metrics.delong import Z95
from ecgfit.metrics.results import BootstrapSettings, MetricValue

N_BOOTSTRAP = 2000

PERCENTILES_95 = (0.025, 0.975)

CELLS_AT_ONCE = 1_000_000
"""Bootstrap weights held at a time: 8 MB, so that temporary arrays stay in the cache."""

_BOOTSTRAP_STREAM = 1979
"""Added to the seed, so that labels simulated with `default_rng(seed)` do not share the random
numbers of the first replicate."""


def count_patients(label: Ints, cluster: Ints | None) -> tuple[int, int]:
    """Return how many patients there are, and how many have any positive entry.

    `cluster` (n,) is each entry's patient; without it each entry is a patient.
    """
    if cluster is None:
        return len(label), int((label == 1).sum())
    return len(np.unique(cluster)), len(np.unique(cluster[label == 1]))


def describe_bootstrap(seed: int, n_bootstrap: int) -> BootstrapSettings:
    """Return how intervals were made, for the files that hold them."""
    return {"unit": "patient", "n": n_bootstrap, "seed": seed, "interval": "percentile, 95 %"}


def bootstrap_weights(
    n: int, seed: int, n_bootstrap: int, cluster: Ints | None = None
) -> Iterator[Floats]:
    """Yield how often each of n entries was drawn, in blocks (R, n).

    The R sum to `n_bootstrap`. With `cluster` (n,) patients are drawn, each with all entries.
    """
    patient = np.arange(n) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    n_patients = int(patient.max()) + 1
    probabilities = np.full(n_patients, 1 / n_patients)
    generator = np.random.default_rng([seed, _BOOTSTRAP_STREAM])
    block = max(1, min(n_bootstrap, CELLS_AT_ONCE // n))
    for start in range(0, n_bootstrap, block):
        size = min(block, n_bootstrap - start)
        draws = generator.multinomial(n_patients, probabilities, size=size)
        if cluster is not None:
            draws = draws[:, patient]
        yield draws.astype(np.float64)


def with_intervals(
    compute: Callable[[Floats], Columns],
    n: int,
    seed: int,
    n_bootstrap: int,
    cluster: Ints | None = None,
) -> dict[str, MetricValue]:
    """Return each metric with its interval; `compute` maps weights (R, n) to columns (R,)."""
    point = compute(np.ones((1, n)))
    blocks = [compute(weight) for weight in bootstrap_weights(n, seed, n_bootstrap, cluster)]
    result = {}
    for name, value in point.items():
        replicates = np.concatenate([block[name] for block in blocks])
        result[name] = percentile_interval(name, float(value[0]), replicates)
    return result


def percentile_interval(name: str, value: float, replicates: Floats) -> MetricValue:
    """Return the value of metric `name` with its percentile interval over replicates (R,).

    An undefined value (NaN) becomes None, with the reason. An interval without width is reported
    with a reason, too: no resample changes a sensitivity of 1, nor the difference between two
    models that agree.
    """
    defined = replicates[~np.isnan(replicates)]
    if math.isnan(value) or not defined.size:
        return {"value": None, "ci95": None, "reason": f"undefined: {REASONS[name]}"}
    low, high = np.quantile(defined, PERCENTILES_95)
    entry: MetricValue = {
        "value": value,
        "ci95": [float(low), float(high)],
        "n_undefined_replicates": len(replicates) - len(defined),
    }
    if low == high:
        entry["reason"] = "no true interval: every resample gives the same"
    return entry


def newcombe_interval(auroc: float, n_positive: int, n_negative: int) -> list[float]:
    """Return the 95 % score interval of an AUROC (Newcombe 2006, method 5).

    It holds every A with |auroc - A| within 1.96 standard errors at A. The variance is that of
    Hanley & McNeil 1982 with both class sizes replaced by their mean: with N that mean less 1,

        A (1 - A) (1 + N (1 - A) / (2 - A) + N A / (1 + A)) / (n_positive n_negative).

    Unlike a bootstrap interval it has a width where the AUROC is 1.
    """
    a = np.linspace(0, 1, 100_001)
    size = (n_positive + n_negative) / 2 - 1
    spread = 1 + size * (1 - a) / (2 - a) + size * a / (1 + a)
    variance = a * (1 - a) * spread / (n_positive * n_negative)
    inside = a[(auroc - a) ** 2 <= Z95**2 * variance + 1e-15]
    return [float(min(inside[0], auroc)), float(max(inside[-1], auroc))]


def wilson_interval(k: int, n: int) -> list[float]:
    """Return the 95 % score interval of the proportion k / n (Wilson 1927)."""
    p, z2 = k / n, Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half_width = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At k = 0 and k = n the bound is known exactly; rounding would miss it.
    low = max(0.0, middle - half_width) if k else 0.0
    high = min(1.0, middle + half_width) if k < n else 1.0
    return [low, high]
