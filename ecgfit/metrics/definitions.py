"""Every metric by its definition, for one sample or for many bootstrap weights at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


N_BINS = 10
"""Bins of equal mass for the expected calibration error and the reliability diagram."""


EPSILON = 1e-7
"""Probabilities are held this far from 0 and 1 where their logit is taken."""


_CELLS_AT_ONCE = 1_000_000
"""Bootstrap weights held at a time: 8 MB, so that the temporary arrays stay in the cache."""


_NEWTON_STEPS = 60


def _dot(weight: Floats, values: NDArray[Any]) -> Floats:
    """Sum `values` (n,) over each row of `weight` (R, n). Not by BLAS: its rounding depends on how many rows are multiplied at once."""
    return np.asarray((weight * values).sum(axis=1))


def curve_metrics(label: Ints, score: Floats, weight: Floats) -> Columns:
    """Return AUROC and AUPRC for each row of `weight` (R, n): how often each patient counts. NaN where a class is absent."""
    order = np.argsort(-score, kind="stable")
    first = np.flatnonzero(
        np.r_[True, np.diff(score[order]) != 0]
    )  # equal scores are one threshold
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


def threshold_metrics(
    label: Ints, probability: Floats, threshold: float | Floats, weight: Floats
) -> Columns:
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
    if _overlap(label, x, np.ones((1, len(x))))[
        0
    ]:  # replicates are near the estimate of the whole: fewer steps from there
        whole = _logistic(label, z, np.ones((1, len(x))), start, fit_slope=True)[0]
        start = whole if np.isfinite(whole).all() else start
    result = np.full(len(weight), np.nan)
    result[defined] = _logistic(label, z, weight[defined], start, fit_slope=True)[:, 1] / scale
    return result


def _intercept(label: Ints, x: Floats, weight: Floats) -> Floats:
    truth = label == 1
    defined = ((weight * truth).sum(axis=1) > 0) & ((weight * ~truth).sum(axis=1) > 0)
    result = np.full(len(weight), np.nan)
    result[defined] = _logistic(label, x, weight[defined], np.array([0.0, 1.0]), fit_slope=False)[
        :, 0
    ]
    return result


def _overlap(label: Ints, x: Floats, weight: Floats) -> NDArray[np.bool_]:
    """Return for each row of `weight` whether both classes are there and no cut of `x` (n,), ascending, separates them, ties included."""
    last = len(x) - 1
    positive, negative = (weight > 0) & (label == 1), (weight > 0) & (label == 0)
    low = [x[np.argmax(there, axis=1)] for there in (positive, negative)]
    high = [x[last - np.argmax(there[:, ::-1], axis=1)] for there in (positive, negative)]
    return np.asarray(
        positive.any(axis=1) & negative.any(axis=1) & (low[0] < high[1]) & (low[1] < high[0])
    )


def _logistic(label: Ints, x: Floats, weight: Floats, start: Floats, *, fit_slope: bool) -> Floats:
    """Fit label ~ sigmoid(b0 + b1 x) for each row of `weight` by Newton's method. Return (R, 2), NaN where it does not converge."""
    beta = np.tile(start, (len(weight), 1))
    still = np.arange(len(weight))
    for _ in range(_NEWTON_STEPS):
        w, b = weight[still], beta[still]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            mu = 1 / (1 + np.exp(-(b[:, :1] + b[:, 1:] * x)))
            step = _newton_step(x, w * (label - mu), w * (mu * (1 - mu)), fit_slope)
        beta[still] += np.clip(
            step, -3, 3
        )  # where the likelihood is nearly flat a full step would leave the region
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
    return np.asarray(
        np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], axis=1) / determinant[:, None]
    )


def all_metrics(
    label: Ints, probability: Floats, threshold: float | Floats, weight: Floats
) -> Columns:
    """Return every metric of `METRICS`, in that order, for each row of `weight` (R, n)."""
    values = curve_metrics(label, probability, weight) | calibration_metrics(
        label, probability, weight
    )
    values |= threshold_metrics(label, probability, threshold, weight)
    return {name: values[name] for name in METRICS}


def auroc_auprc(label: Ints, score: Floats) -> tuple[float | None, float | None]:
    """Return the two curve metrics of one set of patients, None where a class is absent."""
    values = curve_metrics(label, score, np.ones((1, len(label))))
    auroc, auprc = (float(values[name][0]) for name in ("auroc", "auprc"))
    return (None, None) if math.isnan(auroc) else (auroc, auprc)


def check(label: Ints, probability: Floats) -> None:
    """Raise ValueError unless there are as many labels 0 or 1 as probabilities within [0, 1], and at least one."""
    if not len(label) or label.shape != probability.shape:
        raise ValueError(
            f"label has shape {label.shape}, probability {probability.shape}; they must be of one length, and not empty."
        )
    if not np.isin(label, (0, 1)).all():
        raise ValueError(
            f"label holds {sorted({*label.tolist()} - {0, 1})[:5]}; only 0 and 1 are allowed."
        )
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probability holds values outside [0, 1], or not a number.")
