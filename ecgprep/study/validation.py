"""How many patients the external validation of a prediction model needs, for a binary outcome.

Source: Riley et al., "Minimum sample size for external validation of a clinical prediction model
with a binary outcome", Stat Med 2021;40:4230, sections 3.1 to 3.4. Each measure has a variance
that falls with the number of patients n, and a width that its 95 % interval should have.
The model is taken to be calibrated, as the paper recommends: O/E = 1, slope = 1.
"""

from __future__ import annotations

import math

from scipy.special import expit

from ecgprep.study.binormal import LinearPredictor
from ecgprep.study.development import Z

WIDTHS = {"O/E": 0.2, "calibration slope": 0.2, "C statistic": 0.1, "net benefit": 0.2}
"""The width that the 95 % interval of each measure should have, as in the paper.

Net benefit is standardised: divided by the prevalence, so that 1 is the best.
"""


def oe_variance(prevalence: float) -> float:
    """Return n times the variance of ln(O/E): (1 − φ) / φ (section 3.1)."""
    return (1 - prevalence) / prevalence


def slope_variance(population: LinearPredictor) -> float:
    """Return n times the variance of the calibration slope (section 3.2).

    It is an entry of the inverse of the information matrix of a logistic model with intercept 0
    and slope 1: I₀₀ / (I₀₀ I₁₁ − I₀₁²).
    """
    risk = expit(population.log_odds)
    information = risk * (1 - risk)
    i00 = population.mean(information)
    i01 = population.mean(information * population.log_odds)
    i11 = population.mean(information * population.log_odds**2)
    return i00 / (i00 * i11 - i01**2)


def net_benefit_variance(
    prevalence: float, sensitivity: float, specificity: float, threshold: float
) -> float:
    """Return n times the variance of the standardised net benefit (section 3.4)."""
    weight = (1 - prevalence) / prevalence * threshold / (1 - threshold)
    return (
        sensitivity * (1 - sensitivity) / prevalence
        + weight**2 * specificity * (1 - specificity) / (1 - prevalence)
        + weight**2 * (1 - specificity) ** 2 / (prevalence * (1 - prevalence))
    )


def oe_patients(prevalence: float, width: float) -> float:
    """Return the patients for an interval of O/E of this width.

    The interval is exp(±1.96 s), of width 2 sinh(1.96 s), with s the standard error of ln(O/E).
    """
    return oe_variance(prevalence) / (math.asinh(width / 2) / Z) ** 2


def oe_width(prevalence: float, patients: int) -> float:
    """Return the width of the 95 % interval of O/E."""
    return 2 * math.sinh(Z * math.sqrt(oe_variance(prevalence) / patients))


def patients_for_width(variance: float, width: float) -> float:
    """Return the patients at which an estimate with variance/n has an interval of this width."""
    return variance * (2 * Z / width) ** 2


def interval_width(variance: float, patients: int) -> float:
    """Return the width of the 95 % interval of an estimate with variance/n."""
    return 2 * Z * math.sqrt(variance / patients)


def c_variance(auroc: float, prevalence: float, patients: float) -> float:
    """Return the variance of the C statistic by Newcombe's formula (section 3.3)."""
    spread = auroc * (1 - auroc)
    return (
        spread
        * (1 + (patients / 2 - 1) * _newcombe(auroc))
        / (patients**2 * prevalence * (1 - prevalence))
    )


def c_patients(auroc: float, prevalence: float, width: float) -> float:
    """Return the patients for an interval of the C statistic of this width.

    `c_variance` = (width / 3.92)² is a quadratic equation in n with one positive root.
    """
    spread, k = auroc * (1 - auroc), _newcombe(auroc)
    a = (width / (2 * Z)) ** 2 * prevalence * (1 - prevalence)
    b, c = -spread * k / 2, -spread * (1 - k)
    return (-b + math.sqrt(b**2 - 4 * a * c)) / (2 * a)


def c_width(auroc: float, prevalence: float, patients: int) -> float:
    """Return the width of the 95 % interval of the C statistic."""
    return 2 * Z * math.sqrt(c_variance(auroc, prevalence, patients))


def _newcombe(auroc: float) -> float:
    """Return (1 − C) / (2 − C) + C / (1 + C)."""
    return (1 - auroc) / (2 - auroc) + auroc / (1 + auroc)
