"""What an AUROC and a prevalence say about a model, if its linear predictor is binormal.

The linear predictor (the log-odds that a model gives) is taken to be normal among patients with
the event and among those without, with one variance σ² in both. An AUROC C then fixes
σ = √2 Φ⁻¹(C), and a calibrated model has the means logit(φ) ± σ²/2 at a prevalence φ. All else
follows by integration, without a simulation.

Source: Riley, Van Calster, Collins, "A note on estimating the Cox-Snell R² from a reported C
statistic (AUROC)", Stat Med 2021;40:859. They draw a million patients; this takes the integral
that the draw approximates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, logit, ndtr, ndtri

_STANDARD = np.linspace(-12, 12, 4801)
"""Points of a standard normal. The trapezoidal rule on them is exact to 12 digits."""

_WEIGHTS = np.exp(-(_STANDARD**2) / 2)
_WEIGHTS /= _WEIGHTS.sum()

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearPredictor:
    """A distribution of log-odds in a population, as points with weights that sum to 1, (n,)."""

    log_odds: Array
    weights: Array

    def mean(self, values: Array) -> float:
        """Return the mean of a quantity over the population; `values` has one per point, (n,)."""
        return float(np.dot(self.weights, values))


@dataclass(frozen=True)
class Binormal:
    """A calibrated model with a given AUROC, above 0.5 and below 1, at a given prevalence."""

    prevalence: float
    auroc: float

    @property
    def sd(self) -> float:
        """The standard deviation σ of the log-odds within each class."""
        return float(np.sqrt(2) * ndtri(self.auroc))

    @property
    def means(self) -> tuple[float, float]:
        """The mean log-odds of patients without the event, and with it."""
        centre, half = float(logit(self.prevalence)), self.sd**2 / 2
        return centre - half, centre + half

    def linear_predictor(self) -> LinearPredictor:
        """Return the distribution of log-odds over all patients."""
        without, with_event = (mean + self.sd * _STANDARD for mean in self.means)
        shares = (1 - self.prevalence) * _WEIGHTS, self.prevalence * _WEIGHTS
        return LinearPredictor(np.concatenate([without, with_event]), np.concatenate(shares))

    def cox_snell_r2(self) -> float:
        """Return the Cox-Snell R² = 1 − exp(2 (l₀ − l)), with mean log-likelihoods l."""
        without, with_event = (mean + self.sd * _STANDARD for mean in self.means)
        likelihood = self.prevalence * np.dot(_WEIGHTS, log_expit(with_event))
        likelihood += (1 - self.prevalence) * np.dot(_WEIGHTS, log_expit(-without))
        return float(-np.expm1(2 * (null_log_likelihood(self.prevalence) - likelihood)))

    def sensitivity_and_specificity(self, threshold: float) -> tuple[float, float]:
        """Return both, where a risk above `threshold` counts as positive."""
        without, with_event = self.means
        cut = float(logit(threshold))
        return float(ndtr((with_event - cut) / self.sd)), float(ndtr((cut - without) / self.sd))


def null_log_likelihood(prevalence: float) -> float:
    """Return the mean log-likelihood of a model that gives everyone the prevalence."""
    return float(
        prevalence * np.log(prevalence) + (1 - prevalence) * np.log1p(-prevalence),
    )


def largest_cox_snell_r2(prevalence: float) -> float:
    """Return the Cox-Snell R² of a model that knows the outcome; it is below 1."""
    return float(-np.expm1(2 * null_log_likelihood(prevalence)))
