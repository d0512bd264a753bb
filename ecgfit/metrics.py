"""Metrics of predicted probabilities, and their intervals by a bootstrap over patients.

Scores are one number per patient (or per recording, with `cluster` naming the patient), labels 0 or 1. AUROC is the Mann-Whitney statistic,
AUPRC the average precision (step-wise sum, no interpolation): the definitions of scikit-learn, against which they are tested. Undefined values
are None, never 0.5 or 0. Every metric is computed for all bootstrap replicates at once, from how often each patient was drawn: a matrix
`weight` (R, n). docs/metrics.md has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.delong import Z95, delong_summary, independent

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Columns = dict[str, Floats]
"""For each metric its value in every replicate (R,), NaN where it is undefined."""

REASONS = {
    "auroc": "a class is absent",
    "auprc": "a class is absent",
    "brier": "there are no patients",
    "calibration_slope": "a class is absent, or one cut of the probability separates the classes",
    "calibration_intercept": "a class is absent",
    "observed_expected": "every probability is 0",
    "ece": "there are no patients",
    "sensitivity": "there are no positive patients",
    "specificity": "there are no negative patients",
    "ppv": "nobody is called positive",
    "npv": "nobody is called negative",
    "net_benefit": "the threshold is not between 0 and 1",
    "ruled_out": "there are no patients",
    "accuracy": "there are no patients",
    "f1": "nobody is positive or called positive",
}
METRICS = tuple(REASONS)
"""The metrics in the order in which they are shown: discrimination, calibration, decisions at the threshold; F1 last (Van Calster 2025)."""
N_BOOTSTRAP = 2000
N_BINS = 10
"""Bins of equal mass for the expected calibration error and the reliability diagram."""
EPSILON = 1e-7
"""Probabilities are held this far from 0 and 1 where their logit is taken."""
_CELLS_AT_ONCE = 1_000_000
"""Bootstrap weights held at a time: 8 MB, so that the temporary arrays stay in the cache."""
_BOOTSTRAP_STREAM = 1979
"""Beside the seed, so that labels simulated with `default_rng(seed)` do not share the numbers of the first replicate."""
_NEWTON_STEPS = 60


def _dot(weight: Floats, values: NDArray[Any]) -> Floats:
    """Sum `values` (n,) over each row of `weight` (R, n). Not by BLAS: its rounding depends on how many rows are multiplied at once."""
    return np.asarray((weight * values).sum(axis=1))


def curve_metrics(label: Ints, score: Floats, weight: Floats) -> Columns:
    """Return AUROC and AUPRC for each row of `weight` (R, n): how often each patient counts. NaN where a class is absent."""
    order = np.argsort(-score, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])  # equal scores are one threshold
    w = weight[:, order]
    positive = np.add.reduceat(w * (label[order] == 1), first, axis=1)
    negative = np.add.reduceat(w * (label[order] == 0), first, axis=1)
    true, false = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    n_positive, n_negative = true[:, -1], false[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        above = true - positive / 2  # a positive of equal score counts half
        auroc = (negative * above).sum(axis=1) / (n_positive * n_negative)
        precision = np.where(true + false > 0, true / np.maximum(true + false, 1), 0.0)
        auprc = (positive * precision).sum(axis=1) / n_positive
    defined = (n_positive > 0) & (n_negative > 0)
    return {"auroc": np.where(defined, auroc, np.nan), "auprc": np.where(defined, auprc, np.nan)}


def threshold_metrics(label: Ints, probability: Floats, threshold: float | Floats, weight: Floats) -> Columns:
    """Return what follows from calling `probability >= threshold` positive, for each row of `weight` (R, n). NaN where a denominator is 0.

    `threshold` is one for all or one for each entry (n,).

    Net benefit (Vickers & Elkin 2006) takes the threshold as the risk at which one would act: a false positive costs t / (1 - t).
    """
    cells = [cell.astype(np.float64) for cell in _cells(label, probability >= threshold)]
    tp, fp, fn, tn = (weight @ cell for cell in cells)
    n = tp + fp + fn + tn
    risk = np.broadcast_to(threshold, label.shape)
    odds = np.where((risk >= 0) & (risk < 1), risk / np.where(risk < 1, 1 - risk, 1), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "net_benefit": tp / n - weight @ (cells[1] * odds) / n,
            "ruled_out": (tn + fn) / n,
            "accuracy": (tp + tn) / n,
            "f1": 2 * tp / (2 * tp + fp + fn),
        }


def _cells(label: Ints, call: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], ...]:
    truth = label == 1
    return truth & call, ~truth & call, truth & ~call, ~truth & ~call


def calibration_metrics(label: Ints, probability: Floats, weight: Floats) -> Columns:
    """Return Brier score, calibration slope and intercept, observed / expected and ECE for each row of `weight` (R, n).

    The slope is that of a logistic regression of the label on the logit of the probability (Cox 1958); the intercept is calibration in the
    large: the same regression with the slope held at 1 (Van Calster 2016). Both are NaN where maximum likelihood has no finite answer.
    """
    n = weight.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "brier": _dot(weight, (probability - label) ** 2) / n,
            "calibration_slope": _slope(label, logit(probability), weight),
            "calibration_intercept": _intercept(label, logit(probability), weight),
            "observed_expected": _dot(weight, label) / _dot(weight, probability),
            "ece": _expected_calibration_error(label, probability, weight),
        }


def logit(probability: Floats) -> Floats:
    """Return log(p / (1 - p)), with p held within `EPSILON` of 0 and 1."""
    p = np.clip(probability, EPSILON, 1 - EPSILON)
    return np.asarray(np.log(p / (1 - p)))


def equal_mass_bins(probability: Floats) -> Ints:
    """Return the bin (n,) of each probability, 0 to `N_BINS` - 1, cut at the deciles. Equal probabilities share a bin; bins may be empty."""
    edges = np.quantile(probability, np.arange(1, N_BINS) / N_BINS)
    return np.searchsorted(edges, probability, side="right").astype(np.int64)


def _expected_calibration_error(label: Ints, probability: Floats, weight: Floats) -> Floats:
    """Sum over bins, fixed from all patients, of |sum of labels - sum of probabilities|, divided by the number of patients."""
    index = equal_mass_bins(probability)
    order = np.argsort(index, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(index[order]) != 0])
    gaps = np.add.reduceat(weight[:, order] * (label - probability)[order], first, axis=1)
    return np.asarray(np.abs(gaps).sum(axis=1) / weight.sum(axis=1))


def _slope(label: Ints, x: Floats, weight: Floats) -> Floats:
    order = np.argsort(x, kind="stable")
    x, label, weight = x[order], label[order], weight[:, order]
    defined = _overlap(label, x, weight)
    centred = x - x.mean()
    scale = max(float(np.abs(centred).max()), EPSILON)
    z = centred / scale
    start = np.zeros(2)
    if _overlap(label, x, np.ones((1, len(x))))[0]:  # replicates are near the estimate of the whole: fewer steps from there
        whole = _logistic(label, z, np.ones((1, len(x))), start, fit_slope=True)[0]
        start = whole if np.isfinite(whole).all() else start
    result = np.full(len(weight), np.nan)
    result[defined] = _logistic(label, z, weight[defined], start, fit_slope=True)[:, 1] / scale
    return result


def _intercept(label: Ints, x: Floats, weight: Floats) -> Floats:
    truth = label == 1
    defined = ((weight * truth).sum(axis=1) > 0) & ((weight * ~truth).sum(axis=1) > 0)
    result = np.full(len(weight), np.nan)
    result[defined] = _logistic(label, x, weight[defined], np.array([0.0, 1.0]), fit_slope=False)[:, 0]
    return result


def _overlap(label: Ints, x: Floats, weight: Floats) -> NDArray[np.bool_]:
    """Return for each row of `weight` whether both classes are there and no cut of `x` (n,), ascending, separates them, ties included."""
    last = len(x) - 1
    positive, negative = (weight > 0) & (label == 1), (weight > 0) & (label == 0)
    low = [x[np.argmax(there, axis=1)] for there in (positive, negative)]
    high = [x[last - np.argmax(there[:, ::-1], axis=1)] for there in (positive, negative)]
    return np.asarray(positive.any(axis=1) & negative.any(axis=1) & (low[0] < high[1]) & (low[1] < high[0]))


def _logistic(label: Ints, x: Floats, weight: Floats, start: Floats, *, fit_slope: bool) -> Floats:
    """Fit label ~ sigmoid(b0 + b1 x) for each row of `weight` by Newton's method. Return (R, 2), NaN where it does not converge."""
    beta = np.tile(start, (len(weight), 1))
    still = np.arange(len(weight))
    for _ in range(_NEWTON_STEPS):
        w, b = weight[still], beta[still]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            mu = 1 / (1 + np.exp(-(b[:, :1] + b[:, 1:] * x)))
            step = _newton_step(x, w * (label - mu), w * (mu * (1 - mu)), fit_slope)
        beta[still] += np.clip(step, -3, 3)  # where the likelihood is nearly flat a full step would leave the region
        size = np.abs(step).max(axis=1)
        beta[still[~np.isfinite(size)]] = np.nan
        still = still[np.isfinite(size) & (size > 1e-9)]
        if not len(still):
            return beta
    beta[still] = np.nan
    return beta


def _newton_step(x: Floats, residual: Floats, curvature: Floats, fit_slope: bool) -> Floats:
    g0, h00 = residual.sum(axis=1), curvature.sum(axis=1)
    if not fit_slope:
        return np.stack([g0 / h00, np.zeros_like(g0)], axis=1)
    g1, weighted = _dot(residual, x), curvature * x
    h01, h11 = weighted.sum(axis=1), _dot(weighted, x)
    determinant = h00 * h11 - h01**2
    determinant[determinant <= 1e-13 * h00 * h11] = np.nan
    return np.asarray(np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], axis=1) / determinant[:, None])


def all_metrics(label: Ints, probability: Floats, threshold: float | Floats, weight: Floats) -> Columns:
    """Return every metric of `METRICS`, in that order, for each row of `weight` (R, n)."""
    values = curve_metrics(label, probability, weight) | calibration_metrics(label, probability, weight)
    values |= threshold_metrics(label, probability, threshold, weight)
    return {name: values[name] for name in METRICS}


def auroc_auprc(label: Ints, score: Floats) -> tuple[float | None, float | None]:
    """Return the two curve metrics of one set of patients, None where a class is absent."""
    values = curve_metrics(label, score, np.ones((1, len(label))))
    auroc, auprc = (float(values[name][0]) for name in ("auroc", "auprc"))
    return (None, None) if math.isnan(auroc) else (auroc, auprc)


def evaluate(
    label: Ints, probability: Floats, threshold: float | Floats, seed: int, n_bootstrap: int = N_BOOTSTRAP, cluster: Ints | None = None
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
        "metrics": filled(with_intervals(compute, len(label), seed, n_bootstrap, cluster), label, probability >= threshold, cluster),
        "delong": delong_summary(label, probability, cluster),
        "bootstrap": describe_bootstrap(seed, n_bootstrap),
    }


def check(label: Ints, probability: Floats) -> None:
    """Raise ValueError unless there are as many labels 0 or 1 as probabilities within [0, 1], and at least one."""
    if not len(label) or label.shape != probability.shape:
        raise ValueError(f"label has shape {label.shape}, probability {probability.shape}; they must be of one length, and not empty.")
    if not np.isin(label, (0, 1)).all():
        raise ValueError(f"label holds {sorted({*label.tolist()} - {0, 1})[:5]}; only 0 and 1 are allowed.")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probability holds values outside [0, 1], or not a number.")


def count_patients(label: Ints, cluster: Ints | None) -> tuple[int, int]:
    """Return how many patients there are, and how many have any positive entry. Without `cluster` each entry is a patient."""
    if cluster is None:
        return len(label), int((label == 1).sum())
    return len(np.unique(cluster)), len(np.unique(cluster[label == 1]))


def describe_bootstrap(seed: int, n_bootstrap: int) -> dict[str, Any]:
    """Return how intervals were made, for the files that hold them."""
    return {"unit": "patient", "n": n_bootstrap, "seed": seed, "interval": "percentile, 95 %"}


def bootstrap_weights(n: int, seed: int, n_bootstrap: int, cluster: Ints | None = None) -> Iterator[Floats]:
    """Yield how often each entry was drawn, in blocks (R, n), R summing to `n_bootstrap`. Entries of a patient are drawn together."""
    index = np.arange(n) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    n_drawn = int(index.max()) + 1
    generator = np.random.default_rng([seed, _BOOTSTRAP_STREAM])
    at_once = max(1, min(n_bootstrap, _CELLS_AT_ONCE // n))
    for start in range(0, n_bootstrap, at_once):
        draws = generator.multinomial(n_drawn, np.full(n_drawn, 1 / n_drawn), size=min(at_once, n_bootstrap - start))
        yield (draws if cluster is None else draws[:, index]).astype(np.float64)


def with_intervals(compute: Callable[[Floats], Columns], n: int, seed: int, n_bootstrap: int, cluster: Ints | None = None) -> dict[str, Any]:
    """Return {metric: {value, ci95, ...}} of `compute`, which maps weights (R, n) to columns (R,)."""
    point = compute(np.ones((1, n)))
    parts = [compute(weight) for weight in bootstrap_weights(n, seed, n_bootstrap, cluster)]
    return {name: interval(name, float(point[name][0]), np.concatenate([part[name] for part in parts])) for name in point}


def filled(metrics: dict[str, Any], label: Ints, call: NDArray[np.bool_], cluster: Ints | None) -> dict[str, Any]:
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
                entry |= {"ci95": wilson_interval(*proportions[name]), "reason": "Wilson's interval: every resample gives the same"}
            elif name == "auroc":
                entry |= {"ci95": newcombe_interval(entry["value"], tp + fn, fp + tn), "reason": "Newcombe's interval: every resample gives the same"}
    return metrics


def newcombe_interval(auroc: float, n_positive: int, n_negative: int) -> list[float]:
    """Return the 95 % score interval of an AUROC (Newcombe 2006, method 5): all A with |auroc - A| at most 1.96 standard errors at A.

    The variance is Hanley and McNeil's of 1982 with both class sizes replaced by their mean, A (1 - A) (1 + N (1 - A) / (2 - A) + N A / (1 + A))
    / (n_positive n_negative), N their mean less 1. It has a width where the AUROC is 1, which no resample can have.
    """
    a = np.linspace(0, 1, 100_001)
    size = (n_positive + n_negative) / 2 - 1
    variance = a * (1 - a) * (1 + size * (1 - a) / (2 - a) + size * a / (1 + a)) / (n_positive * n_negative)
    inside = a[(auroc - a) ** 2 <= Z95**2 * variance + 1e-15]
    return [float(min(inside[0], auroc)), float(max(inside[-1], auroc))]


def wilson_interval(k: int, n: int) -> list[float]:
    """Return the 95 % score interval of the proportion k / n (Wilson 1927)."""
    p, z2 = k / n, Z95**2
    middle, half = (p + z2 / (2 * n)) / (1 + z2 / n), Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return [max(0.0, middle - half) if k else 0.0, min(1.0, middle + half) if k < n else 1.0]  # exact where rounding would not be


def interval(name: str, value: float, replicates: Floats) -> dict[str, Any]:
    """Return value and percentile interval of the metric `name`; None and the reason where it is undefined (NaN), and the reason, too, where
    the interval has no width: no resample changes a sensitivity of 1, nor the difference of two models that agree."""
    defined = replicates[~np.isnan(replicates)]
    if math.isnan(value) or not defined.size:
        return {"value": None, "ci95": None, "reason": f"undefined: {REASONS[name]}"}
    low, high = np.quantile(defined, [0.025, 0.975])
    found = {"value": value, "ci95": [float(low), float(high)], "n_undefined_replicates": len(replicates) - len(defined)}
    return found | ({"reason": "no true interval: every resample gives the same"} if low == high else {})
