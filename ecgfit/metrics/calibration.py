"""Recalibration on validation: from the difference of two logits to a probability, without changing any ranking.

Class weights and over-confidence distort what the softmax gives; a line through the logits, fitted by maximum likelihood, undoes most of it.
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
"""Logits that differ by no more, for their size, are equal: far below what float32 tells apart, and dividing by it would overflow."""


SMALLEST_SLOPE = 1e-6
"""A slope at or below is rounding, or validation ranks backwards."""


_STEPS = 200


@dataclass(frozen=True)
class Calibration:
    """probability = sigmoid(slope * d + intercept), d = logit_1 - logit_0. The temperature of Guo 2017 is 1 / slope."""

    method: str
    slope: float
    intercept: float
    note: str = ""
    """Why the fit is not what the method asks for; empty where it is."""

    def apply(self, d: Floats) -> Floats:
        """Return the probability of label 1 for logit differences `d`, of any shape. Never decreasing in d, as the slope is positive."""
        return np.asarray(expit(self.slope * d + self.intercept))

    def to_json(self) -> dict[str, Any]:
        """Return the content of calibration.json."""
        return asdict(self)

    @staticmethod
    def from_json(content: Any) -> Calibration:
        """Rebuild from `to_json`. Raises ValueError for anything else."""
        if not isinstance(content, dict) or set(content) != {
            "method",
            "slope",
            "intercept",
            "note",
        }:
            raise ValueError(
                "calibration must hold method, slope, intercept and note, and nothing else."
            )
        if content["method"] not in METHODS or not isinstance(content["note"], str):
            raise ValueError(
                f"calibration: method (={content['method']}) must be one of {', '.join(METHODS)}, and note a text."
            )
        for name in ("slope", "intercept"):
            value = content[name]
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not math.isfinite(value)
            ):
                raise ValueError(f"calibration: {name} (={value}) must be a finite number.")
        if content["slope"] <= 0:
            raise ValueError(
                f"calibration: slope (={content['slope']}) must be positive, or it would turn the ranking round."
            )
        return Calibration(
            content["method"], float(content["slope"]), float(content["intercept"]), content["note"]
        )


def fit_calibration(method: str, d: Floats, label: Ints) -> Calibration:
    """Fit on validation: `d` (n,) differences of logits, `label` (n,) 0 or 1.

    `none` leaves d as it is. `temperature` fits the slope by maximum likelihood (Guo 2017). `platt` fits slope and intercept to Platt's
    smoothed targets (Platt 1999), so that it stays finite where the classes are separated. A slope that is not positive would turn the ranking
    round: then slope 1 is kept, only the intercept is fitted, and `note` says so.
    Raises ValueError for an unknown method, no patients, values that are not finite and labels other than 0 and 1.
    """
    if method not in METHODS:
        raise ValueError(f"method (={method}) must be one of {', '.join(METHODS)}.")
    if (
        not len(d)
        or d.shape != label.shape
        or not np.isfinite(d).all()
        or not np.isin(label, (0, 1)).all()
    ):
        raise ValueError("d must be finite, labels 0 or 1, both of one length, and not empty.")
    if method == "none":
        return Calibration(method, 1.0, 0.0)
    if not 0 < label.sum() < len(label):
        return _intercept_only(method, d, label, "validation holds one class only")
    if method == "temperature":
        return _temperature(d, label)
    if d.std() <= EQUAL * max(1.0, float(np.abs(d).max())):
        return _intercept_only(method, d, label, "all logits are equal")
    slope, intercept = _platt(d, _smoothed_targets(label))
    if slope <= SMALLEST_SLOPE:
        return _intercept_only(method, d, label, "the fitted slope is not positive")
    return Calibration(method, slope, intercept)


def _intercept_only(method: str, d: Floats, label: Ints, why: str) -> Calibration:
    target = float(_smoothed_targets(label).mean())
    base = math.log(target / (1 - target))
    low, high = (
        base - float(d.max()) - 1,
        base - float(d.min()) + 1,
    )  # at `low` every probability is below the target, at `high` above
    intercept = brentq(lambda b: float(expit(d + b).mean()) - target, low, high, xtol=1e-12)
    return Calibration(
        method, 1.0, float(intercept), f"{why}: slope 1 is kept, only the intercept is fitted"
    )


def _temperature(d: Floats, label: Ints) -> Calibration:
    margin = np.where(label == 1, d, -d)

    def gain(
        slope: float,
    ) -> float:  # derivative of the log-likelihood; it falls as the slope grows
        return float((margin * expit(-slope * margin)).sum())

    if gain(SMALLEST_SLOPE) <= 0:
        return _intercept_only("temperature", d, label, "the fitted slope is not positive")
    if (margin >= 0).all():
        return Calibration(
            "temperature",
            1.0,
            0.0,
            "validation is classified without error: no temperature is best, 1 is kept",
        )
    high = 1.0
    while gain(high) > 0:
        high *= 2
    return Calibration("temperature", float(brentq(gain, SMALLEST_SLOPE, high, xtol=1e-13)), 0.0)


def _smoothed_targets(label: Ints) -> Floats:
    """Return Platt's targets: (N+ + 1) / (N+ + 2) for positives and 1 / (N- + 2) for negatives."""
    n_positive, n_negative = int((label == 1).sum()), int((label == 0).sum())
    return np.where(label == 1, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))


def _platt(d: Floats, target: Floats) -> tuple[float, float]:
    """Minimise the cross-entropy by Newton's method with step halving (Lin, Lin & Weng 2007). `d` is not constant, so the answer is unique."""
    middle, scale = float(d.mean()), float(d.std())
    z = (d - middle) / scale
    design = np.stack([z, np.ones_like(z)])
    mean = target.mean()
    beta = np.array([0.0, math.log(mean / (1 - mean))])

    def loss(b: Floats) -> float:
        eta = b @ design
        return float((np.logaddexp(0, eta) - target * eta).sum())

    for _ in range(_STEPS):
        p = expit(beta @ design)
        step = np.linalg.solve(
            (design * (p * (1 - p))) @ design.T + 1e-12 * np.eye(2), design @ (target - p)
        )
        factor, here = 1.0, loss(beta)
        while loss(beta + factor * step) > here + 1e-12 * abs(here) and factor > 1e-10:
            factor /= 2
        beta = beta + factor * step
        if np.abs(factor * step).max() < 1e-12:
            break
    return float(beta[0] / scale), float(beta[1] - beta[0] * middle / scale)
