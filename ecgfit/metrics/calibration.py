"""Recalibration on validation: from the difference of two logits to a probability.

Class weights and overconfidence distort what the softmax gives. A line through the logits, fitted
by maximum likelihood, undoes most of this and leaves every ranking unchanged.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from ecgfit.metrics.definitions import Floats, Ints

METHODS = ("none", "temperature", "platt")

EQUAL = 1e-12
"""Logits that differ by less than this, relative to their size, are equal.

It is far below what float32 can tell apart; dividing by such a difference would overflow.
"""

SMALLEST_SLOPE = 1e-6
"""A slope at or below this is rounding, or validation ranks backwards."""

_FIELDS = {"method", "slope", "intercept", "note"}


@dataclass(frozen=True)
class Calibration:
    """probability = sigmoid(slope * d + intercept) with d = logit_1 - logit_0.

    The temperature of Guo 2017 is 1 / slope.
    """

    method: str
    slope: float
    intercept: float
    note: str = ""
    """Why the fit is not what the method asks for; empty where it is."""

    def apply(self, d: Floats) -> Floats:
        """Return the probability of label 1 for logit differences of any shape.

        It never falls as d rises, as the slope is positive.
        """
        return np.asarray(expit(self.slope * d + self.intercept))

    def to_json(self) -> dict[str, Any]:
        """Return the content of calibration.json."""
        return asdict(self)

    @staticmethod
    def from_json(content: Any) -> Calibration:
        """Rebuild from `to_json`. Raises ValueError for anything else."""
        if not isinstance(content, dict) or set(content) != _FIELDS:
            raise ValueError(
                "calibration must hold method, slope, intercept and note, and nothing else."
            )
        method, note = content["method"], content["note"]
        if method not in METHODS or not isinstance(note, str):
            raise ValueError(
                f"calibration: method (={method}) must be one of {', '.join(METHODS)}, "
                "and note must be text."
            )
        slope = _finite_number(content, "slope")
        intercept = _finite_number(content, "intercept")
        if slope <= 0:
            raise ValueError(
                f"calibration: slope (={slope}) must be positive, as any other would reverse "
                "the ranking."
            )
        return Calibration(method, slope, intercept, note)


def _finite_number(content: dict[str, Any], name: str) -> float:
    value = content[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise ValueError(f"calibration: {name} (={value}) must be a finite number.")
    return float(value)


def fit_calibration(method: str, d: Floats, label: Ints) -> Calibration:
    """Fit on validation: `d` (n,) are differences of logits, `label` (n,) is 0 or 1.

    - `none` leaves d as it is.
    - `temperature` fits the slope by maximum likelihood (Guo 2017).
    - `platt` fits slope and intercept to Platt's smoothed targets (Platt 1999), so the fit stays
      finite where the classes are separated.

    A slope that is not positive would reverse the ranking. In that case the slope stays 1, only the
    intercept is fitted, and `note` says so. Raises ValueError for an unknown method, no patients,
    values that are not finite, and labels other than 0 and 1.
    """
    if method not in METHODS:
        raise ValueError(f"method (={method}) must be one of {', '.join(METHODS)}.")
    _check_input(d, label)
    if method == "none":
        return Calibration(method, 1.0, 0.0)
    if not 0 < label.sum() < len(label):
        return _fit_intercept_only(method, d, label, "validation holds one class only")
    if method == "temperature":
        return _fit_temperature(d, label)
    if d.std() <= EQUAL * max(1.0, float(np.abs(d).max())):
        return _fit_intercept_only(method, d, label, "all logits are equal")
    slope, intercept = _fit_platt(d, _smoothed_targets(label))
    if slope <= SMALLEST_SLOPE:
        return _fit_intercept_only(method, d, label, "the fitted slope is not positive")
    return Calibration(method, slope, intercept)


def _check_input(d: Floats, label: Ints) -> None:
    same_length = len(d) > 0 and d.shape == label.shape
    if not same_length or not np.isfinite(d).all() or not np.isin(label, (0, 1)).all():
        raise ValueError(
            "d must be finite and labels must be 0 or 1; both must have the same length and at "
            "least one entry."
        )


def _fit_intercept_only(method: str, d: Floats, label: Ints, why: str) -> Calibration:
    """Fit the intercept at which the mean probability equals the mean smoothed target."""
    target = float(_smoothed_targets(label).mean())
    base = math.log(target / (1 - target))
    low = base - float(d.max()) - 1  # every probability is below the target
    high = base - float(d.min()) + 1  # every probability is above the target

    def excess(intercept: float) -> float:
        return float(expit(d + intercept).mean()) - target

    intercept = float(brentq(excess, low, high, xtol=1e-12))
    note = f"{why}: slope 1 is kept, only the intercept is fitted"
    return Calibration(method, 1.0, intercept, note)


def _fit_temperature(d: Floats, label: Ints) -> Calibration:
    margin = np.where(label == 1, d, -d)

    def derivative(slope: float) -> float:
        """Return that of the log-likelihood, which falls as the slope grows."""
        return float((margin * expit(-slope * margin)).sum())

    if derivative(SMALLEST_SLOPE) <= 0:
        return _fit_intercept_only("temperature", d, label, "the fitted slope is not positive")
    if (margin >= 0).all():
        note = "validation is classified without error: no temperature is best, 1 is kept"
        return Calibration("temperature", 1.0, 0.0, note)
    high = 1.0
    while derivative(high) > 0:
        high *= 2
    slope = float(brentq(derivative, SMALLEST_SLOPE, high, xtol=1e-13))
    return Calibration("temperature", slope, 0.0)


def _smoothed_targets(label: Ints) -> Floats:
    """Return Platt's targets: (N+ + 1) / (N+ + 2) for positives and 1 / (N- + 2) for negatives."""
    n_positive, n_negative = int((label == 1).sum()), int((label == 0).sum())
    return np.where(label == 1, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))


def _fit_platt(d: Floats, target: Floats) -> tuple[float, float]:
    """Return slope and intercept of a logistic regression of fractional targets (n,) on d (n,).

    scikit-learn takes no fractional targets, so each entry stands twice: as a positive weighted by
    its target and as a negative weighted by the rest. `d` is not constant, so the answer is unique.
    """
    from sklearn.linear_model import LogisticRegression  # importing it costs a second

    middle, scale = float(d.mean()), float(d.std())
    z = (d - middle) / scale
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    model.fit(
        np.concatenate([z, z])[:, None],
        np.repeat([1, 0], len(z)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    return slope / scale, intercept - slope * middle / scale
