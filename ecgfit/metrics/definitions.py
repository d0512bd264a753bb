"""Every metric by its definition, for one sample or for many bootstrap weights at once.

`label` is 0 or 1 (n,), `probability` and `score` are float64 (n,), and `weight` (R, n) says how
often each entry counts in each of R replicates.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Booleans = NDArray[np.bool_]

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
"""Why each metric can be undefined."""

METRICS = tuple(REASONS)
"""The metrics in the order in which they are shown.

Discrimination first, then calibration, then decisions at the threshold; F1 last, as Van Calster
2025 advises against it.
"""

N_BINS = 10
"""Bins of equal mass for the expected calibration error and the reliability diagram."""

EPSILON = 1e-7
"""Probabilities are kept this far from 0 and 1 before their logit is taken."""

_NEWTON_STEPS = 60
_LARGEST_STEP = 3.0
"""Longer Newton steps leave the region of the optimum where the likelihood is nearly flat."""
_CONVERGED = 1e-9
_SINGULAR = 1e-13


def curve_metrics(label: Ints, score: Floats, weight: Floats) -> Columns:
    """Return AUROC and AUPRC for each row of `weight` (R, n), NaN where a class is absent.

    AUROC is the Mann-Whitney statistic, AUPRC the average precision (no interpolation).
    """
    order = np.argsort(-score, kind="stable")
    first_of_ties = _starts_of_runs(score[order])  # equal scores are one threshold
    ordered_weight = weight[:, order]
    positive = np.add.reduceat(ordered_weight * (label[order] == 1), first_of_ties, axis=1)
    negative = np.add.reduceat(ordered_weight * (label[order] == 0), first_of_ties, axis=1)
    tp, fp = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    n_positive, n_negative = tp[:, -1], fp[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        positives_above = tp - positive / 2  # a positive of equal score counts half
        auroc = (negative * positives_above).sum(axis=1) / (n_positive * n_negative)
        precision = np.where(tp + fp > 0, tp / np.maximum(tp + fp, 1), 0.0)
        auprc = (positive * precision).sum(axis=1) / n_positive
    defined = (n_positive > 0) & (n_negative > 0)
    return {"auroc": np.where(defined, auroc, np.nan), "auprc": np.where(defined, auprc, np.nan)}


def _starts_of_runs(values: NDArray[Any]) -> NDArray[np.intp]:
    """Return where runs of equal values begin in sorted values (n,)."""
    return np.flatnonzero(np.r_[True, np.diff(values) != 0])


def threshold_metrics(
    label: Ints, probability: Floats, threshold: float | Floats, weight: Floats
) -> Columns:
    """Return the metrics of calling `probability >= threshold` positive, for each row of `weight`.

    `threshold` is one for all entries, or (n,). A metric is NaN where its denominator is 0. Net
    benefit (Vickers & Elkin 2006) takes the threshold as the risk at which one would act, so a
    false positive costs t / (1 - t).
    """
    cells = confusion_cells(label, probability >= threshold)
    tp, fp, fn, tn = (weight @ cell.astype(np.float64) for cell in cells)
    n = tp + fp + fn + tn
    odds = _odds(np.broadcast_to(threshold, label.shape))
    false_positive_cost = weight @ (cells[1].astype(np.float64) * odds)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "net_benefit": tp / n - false_positive_cost / n,
            "ruled_out": (tn + fn) / n,
            "accuracy": (tp + tn) / n,
            "f1": 2 * tp / (2 * tp + fp + fn),
        }


def confusion_cells(label: Ints, call: Booleans) -> tuple[Booleans, Booleans, Booleans, Booleans]:
    """Return which entries (n,) are true positives, false positives, false and true negatives."""
    truth = label == 1
    return truth & call, ~truth & call, truth & ~call, ~truth & ~call


def _odds(risk: Floats) -> Floats:
    """Return risk / (1 - risk), NaN outside [0, 1)."""
    inside = (risk >= 0) & (risk < 1)
    return np.where(inside, risk / np.where(risk < 1, 1 - risk, 1), np.nan)


def calibration_metrics(label: Ints, probability: Floats, weight: Floats) -> Columns:
    """Return Brier score, calibration slope and intercept, observed / expected and ECE.

    The slope is that of a logistic regression of the label on the logit of the probability (Cox
    1958). The intercept is calibration in the large: the same regression with the slope held at 1
    (Van Calster 2016). Both are NaN where maximum likelihood has no finite answer.
    """
    n = weight.sum(axis=1)
    x = logit(probability)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "brier": _weighted_sums(weight, (probability - label) ** 2) / n,
            "calibration_slope": _calibration_slope(label, x, weight),
            "calibration_intercept": _calibration_intercept(label, x, weight),
            "observed_expected": (
                _weighted_sums(weight, label) / _weighted_sums(weight, probability)
            ),
            "ece": _expected_calibration_error(label, probability, weight),
        }


def _weighted_sums(weight: Floats, values: NDArray[Any]) -> Floats:
    """Sum `values` (n,) over each row of `weight` (R, n).

    Not by BLAS, whose rounding depends on how many rows are multiplied at once.
    """
    return np.asarray((weight * values).sum(axis=1))


def logit(probability: Floats) -> Floats:
    """Return log(p / (1 - p)), with p kept within `EPSILON` of 0 and 1."""
    p = np.clip(probability, EPSILON, 1 - EPSILON)
    return np.asarray(np.log(p / (1 - p)))


def equal_mass_bins(probability: Floats) -> Ints:
    """Return the bin (n,) of each probability, 0 to `N_BINS` - 1, cut at the deciles.

    Equal probabilities share a bin, and bins may be empty.
    """
    edges = np.quantile(probability, np.arange(1, N_BINS) / N_BINS)
    return np.searchsorted(edges, probability, side="right").astype(np.int64)


def _expected_calibration_error(label: Ints, probability: Floats, weight: Floats) -> Floats:
    """Sum |labels - probabilities| over bins fixed from all patients, and divide by patients."""
    index = equal_mass_bins(probability)
    order = np.argsort(index, kind="stable")
    first_of_bin = _starts_of_runs(index[order])
    residual = (label - probability)[order]
    gaps = np.add.reduceat(weight[:, order] * residual, first_of_bin, axis=1)
    return np.asarray(np.abs(gaps).sum(axis=1) / weight.sum(axis=1))


def _calibration_slope(label: Ints, x: Floats, weight: Floats) -> Floats:
    order = np.argsort(x, kind="stable")
    x, label, weight = x[order], label[order], weight[:, order]
    centred = x - x.mean()
    scale = max(float(np.abs(centred).max()), EPSILON)
    z = centred / scale
    start = _fit_to_all(label, x, z)
    defined = _classes_overlap(label, x, weight)
    slope = np.full(len(weight), np.nan)
    slope[defined] = _fit_logistic(label, z, weight[defined], start, fit_slope=True)[:, 1] / scale
    return slope


def _fit_to_all(label: Ints, x: Floats, z: Floats) -> Floats:
    """Return the fit to the whole sample: replicates lie near it and need fewer steps from there.

    Zeros where it has no finite answer.
    """
    zeros = np.zeros(2)
    once = np.ones((1, len(x)))
    if not _classes_overlap(label, x, once)[0]:
        return zeros
    whole = _fit_logistic(label, z, once, zeros, fit_slope=True)[0]
    return whole if np.isfinite(whole).all() else zeros


def _calibration_intercept(label: Ints, x: Floats, weight: Floats) -> Floats:
    truth = label == 1
    has_positive = (weight * truth).sum(axis=1) > 0
    has_negative = (weight * ~truth).sum(axis=1) > 0
    defined = has_positive & has_negative
    start = np.array([0.0, 1.0])
    intercept = np.full(len(weight), np.nan)
    intercept[defined] = _fit_logistic(label, x, weight[defined], start, fit_slope=False)[:, 0]
    return intercept


def _classes_overlap(label: Ints, x: Floats, weight: Floats) -> Booleans:
    """Say for each row of `weight` whether both classes are present and no cut of x separates them.

    `x` (n,) ascends. A cut through tied values separates the classes, too.
    """
    positive, negative = (weight > 0) & (label == 1), (weight > 0) & (label == 0)
    both = positive.any(axis=1) & negative.any(axis=1)
    positives_start_below = _lowest(x, positive) < _highest(x, negative)
    negatives_start_below = _lowest(x, negative) < _highest(x, positive)
    return np.asarray(both & positives_start_below & negatives_start_below)


def _lowest(x: Floats, present: Booleans) -> Floats:
    """Return the first of ascending x (n,) that is present, for each row of `present` (R, n)."""
    return np.asarray(x[np.argmax(present, axis=1)])


def _highest(x: Floats, present: Booleans) -> Floats:
    from_the_end = np.argmax(present[:, ::-1], axis=1)
    return np.asarray(x[len(x) - 1 - from_the_end])


def _fit_logistic(
    label: Ints, x: Floats, weight: Floats, start: Floats, *, fit_slope: bool
) -> Floats:
    """Fit label ~ sigmoid(b0 + b1 x) for each row of `weight` by Newton's method.

    Returns (R, 2), NaN where it does not converge.
    """
    beta = np.tile(start, (len(weight), 1))
    active = np.arange(len(weight))
    for _ in range(_NEWTON_STEPS):
        w, b = weight[active], beta[active]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            mu = 1 / (1 + np.exp(-(b[:, :1] + b[:, 1:] * x)))
            step = _newton_step(x, w * (label - mu), w * (mu * (1 - mu)), fit_slope)
        beta[active] += np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        size = np.abs(step).max(axis=1)
        failed = ~np.isfinite(size)
        beta[active[failed]] = np.nan
        active = active[~failed & (size > _CONVERGED)]
        if not len(active):
            return beta
    beta[active] = np.nan
    return beta


def _newton_step(x: Floats, residual: Floats, curvature: Floats, fit_slope: bool) -> Floats:
    """Return the Newton step (R, 2) of intercept and slope; NaN where the Hessian is singular."""
    g0, h00 = residual.sum(axis=1), curvature.sum(axis=1)
    if not fit_slope:
        return np.stack([g0 / h00, np.zeros_like(g0)], axis=1)
    g1 = _weighted_sums(residual, x)
    weighted = curvature * x
    h01, h11 = weighted.sum(axis=1), _weighted_sums(weighted, x)
    determinant = h00 * h11 - h01**2
    determinant[determinant <= _SINGULAR * h00 * h11] = np.nan
    adjugate = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], axis=1)
    return np.asarray(adjugate / determinant[:, None])


def all_metrics(
    label: Ints, probability: Floats, threshold: float | Floats, weight: Floats
) -> Columns:
    """Return every metric of `METRICS`, in that order, for each row of `weight` (R, n)."""
    values = curve_metrics(label, probability, weight)
    values |= calibration_metrics(label, probability, weight)
    values |= threshold_metrics(label, probability, threshold, weight)
    return {name: values[name] for name in METRICS}


def auroc_auprc(label: Ints, score: Floats) -> tuple[float | None, float | None]:
    """Return AUROC and AUPRC of one set of patients; both None where a class is absent."""
    values = curve_metrics(label, score, np.ones((1, len(label))))
    auroc, auprc = float(values["auroc"][0]), float(values["auprc"][0])
    if math.isnan(auroc):
        return None, None
    return auroc, auprc


def none_if_nan(value: float) -> float | None:
    """Return `value`, or None where it is undefined: JSON has no NaN."""
    return None if math.isnan(value) else value


def check_labels_and_probabilities(label: Ints, probability: Floats) -> None:
    """Raise ValueError unless labels are 0 or 1 and probabilities within [0, 1].

    Both must be (n,), with n > 0.
    """
    if not len(label) or label.shape != probability.shape:
        raise ValueError(
            f"label has shape {label.shape}, probability {probability.shape}; "
            "both must have the same length and at least one entry."
        )
    if not np.isin(label, (0, 1)).all():
        others = sorted({*label.tolist()} - {0, 1})[:5]
        raise ValueError(f"label holds {others}; only 0 and 1 are allowed.")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probability holds values that are not numbers within [0, 1].")
