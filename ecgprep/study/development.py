"""How many patients the development of a prediction model needs: binary outcome, regression.

Source: Riley et al., "Calculating the sample size required for developing a clinical prediction
model", BMJ 2020;368:m441, steps 1, 3 and 4 of figure 1; derived in Riley et al., Stat Med
2019;38:1276, as criteria (iii), (i) and (ii).
Here R² is that of Cox and Snell, expected in new patients, P the number of parameters without the
intercept, φ the prevalence.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq

SHRINKAGE = 0.9
"""The expected shrinkage of the coefficients must be at least this."""

OPTIMISM = 0.05
"""The apparent Nagelkerke R² may exceed that in new patients by this."""

MARGIN = 0.05
"""The overall risk must be known to within this, with a confidence of 95 %."""

Z = 1.96
"""The quantile of the normal distribution for 95 %, as the papers round it."""


def patients_for_shrinkage(parameters: int, r2: float, shrinkage: float = SHRINKAGE) -> float:
    """Return n = P / ((S − 1) ln(1 − R²/S)), for an expected shrinkage S above R²."""
    return parameters / ((shrinkage - 1) * math.log1p(-r2 / shrinkage))


def patients_for_optimism(
    parameters: int, r2: float, max_r2: float, optimism: float = OPTIMISM
) -> float:
    """Return the patients for S = R² / (R² + δ max R²), with δ the optimism that is allowed."""
    return patients_for_shrinkage(parameters, r2, r2 / (r2 + optimism * max_r2))


def patients_for_risk(prevalence: float, margin: float = MARGIN) -> float:
    """Return n = (1.96 / margin)² φ (1 − φ)."""
    return (Z / margin) ** 2 * prevalence * (1 - prevalence)


def expected_shrinkage(parameters: int, r2: float, patients: int) -> float:
    """Return the S that `patients_for_shrinkage` gives this number of patients for.

    (S − 1) ln(1 − R²/S) falls from infinity at S = R² to 0 at S = 1, so there is one.
    """

    def excess(shrinkage: float) -> float:
        return (shrinkage - 1) * math.log1p(-r2 / shrinkage) - parameters / patients

    return float(brentq(excess, r2 * (1 + 1e-12) + 1e-15, 1.0, xtol=1e-12))


def expected_optimism(parameters: int, r2: float, max_r2: float, patients: int) -> float:
    """Return by how much the apparent Nagelkerke R² exceeds that in new patients."""
    return (r2 / expected_shrinkage(parameters, r2, patients) - r2) / max_r2


def expected_margin(prevalence: float, patients: int) -> float:
    """Return half the width of the 95 % interval of the overall risk."""
    return Z * math.sqrt(prevalence * (1 - prevalence) / patients)


def most_parameters(r2: float, patients: int, shrinkage: float = SHRINKAGE) -> int:
    """Return how many parameters this many patients allow at that shrinkage."""
    return math.floor(patients * (shrinkage - 1) * math.log1p(-r2 / shrinkage))
