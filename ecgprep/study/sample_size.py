"""How many patients a study needs to develop and to validate a model: the numbers in one place."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ecgprep.errors import InputError
from ecgprep.options import check_options
from ecgprep.study import development, validation
from ecgprep.study.binormal import Binormal, largest_cox_snell_r2

REGRESSION = (
    "The parameters are those of a regression, without the intercept. A network has no such "
    "number: take the result as the least that a regression on the same question would need."
)
"""What every table of these numbers must say."""


@dataclass(frozen=True)
class Criterion:
    """What one criterion asks for, and what a given number of patients reaches.

    `target` is the value that the criterion demands of the quantity `name`; `reached` is the value
    with the patients that were named, None where none were.
    """

    name: str
    target: float
    patients: int
    events: int
    reached: float | None


@dataclass(frozen=True)
class SampleSize:
    """The least numbers of patients, and the assumptions that they rest on."""

    prevalence: float
    auroc: float
    parameters: int
    patients: int | None
    cox_snell_r2: float
    largest_cox_snell_r2: float
    nagelkerke_r2: float
    development: tuple[Criterion, ...]
    validation: tuple[Criterion, ...]
    most_parameters: int | None
    """Parameters that `patients` allow at a shrinkage of 0.9; None without `patients`."""

    @property
    def development_patients(self) -> int:
        """Patients that meet every criterion of development."""
        return max(criterion.patients for criterion in self.development)

    @property
    def validation_patients(self) -> int:
        """Patients that meet every criterion of external validation."""
        return max(criterion.patients for criterion in self.validation)

    @property
    def events_per_parameter(self) -> float:
        """Events per parameter with `development_patients`."""
        return self.development_patients * self.prevalence / self.parameters

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self) | {
            "development_patients": self.development_patients,
            "validation_patients": self.validation_patients,
            "events_per_parameter": self.events_per_parameter,
            "note": REGRESSION,
        }


def sample_size(
    prevalence: float,
    auroc: float,
    parameters: int,
    patients: int | None = None,
    risk_threshold: float | None = None,
) -> SampleSize:
    """Return the least sample sizes by the criteria of Riley et al.; see `ecgprep.sample_size`.

    Raises InputError for a value that is not allowed.
    """
    _check(prevalence, auroc, parameters, patients, risk_threshold)
    model = Binormal(prevalence, auroc)
    r2, max_r2 = model.cox_snell_r2(), largest_cox_snell_r2(prevalence)
    return SampleSize(
        prevalence=prevalence,
        auroc=auroc,
        parameters=parameters,
        patients=patients,
        cox_snell_r2=r2,
        largest_cox_snell_r2=max_r2,
        nagelkerke_r2=r2 / max_r2,
        development=_development(prevalence, r2, max_r2, parameters, patients),
        validation=_validation(model, patients, risk_threshold),
        most_parameters=None if patients is None else development.most_parameters(r2, patients),
    )


def _check(
    prevalence: float,
    auroc: float,
    parameters: int,
    patients: int | None,
    risk_threshold: float | None,
) -> None:
    """Refuse values outside their limits, and those on a limit where the formulas have none."""
    given = {"patients": patients, "risk_threshold": risk_threshold}
    optional = {name: value for name, value in given.items() if value is not None}
    check_options(prevalence=prevalence, auroc=auroc, parameters=parameters, **optional)
    open_limits = {"prevalence": (prevalence, 0), "auroc": (auroc, 0.5)}
    if risk_threshold is not None:
        open_limits["risk_threshold"] = (risk_threshold, 0)
    for name, (value, low) in open_limits.items():
        if not low < value < 1:
            raise InputError(f"{name} (={value:g}) must be above {low:g} and below 1.")


def _development(
    prevalence: float, r2: float, max_r2: float, parameters: int, patients: int | None
) -> tuple[Criterion, ...]:
    needed = {
        "shrinkage": development.patients_for_shrinkage(parameters, r2),
        "optimism in Nagelkerke R²": development.patients_for_optimism(parameters, r2, max_r2),
        "margin of the overall risk": development.patients_for_risk(prevalence),
    }
    targets = (development.SHRINKAGE, development.OPTIMISM, development.MARGIN)
    reached: tuple[float | None, ...] = (None, None, None)
    if patients is not None:
        reached = (
            development.expected_shrinkage(parameters, r2, patients),
            development.expected_optimism(parameters, r2, max_r2, patients),
            development.expected_margin(prevalence, patients),
        )
    rows = zip(needed.items(), targets, reached, strict=True)
    return tuple(_criterion(name, t, n, prevalence, value) for (name, n), t, value in rows)


def _validation(
    model: Binormal, patients: int | None, risk_threshold: float | None
) -> tuple[Criterion, ...]:
    prevalence, auroc, widths = model.prevalence, model.auroc, validation.WIDTHS
    slope = validation.slope_variance(model.linear_predictor())
    rows = {
        "O/E": (
            validation.oe_patients(prevalence, widths["O/E"]),
            patients and validation.oe_width(prevalence, patients),
        ),
        "calibration slope": _by_variance("calibration slope", slope, patients),
        "C statistic": (
            validation.c_patients(auroc, prevalence, widths["C statistic"]),
            patients and validation.c_width(auroc, prevalence, patients),
        ),
    }
    if risk_threshold is not None:
        accuracy = model.sensitivity_and_specificity(risk_threshold)
        benefit = validation.net_benefit_variance(prevalence, *accuracy, risk_threshold)
        rows["net benefit"] = _by_variance("net benefit", benefit, patients)
    return tuple(
        _criterion(name, widths[name], needed, prevalence, reached)
        for name, (needed, reached) in rows.items()
    )


def _by_variance(name: str, variance: float, patients: int | None) -> tuple[float, float | None]:
    """Return the patients that a measure needs, and the width that `patients` give it."""
    needed = validation.patients_for_width(variance, validation.WIDTHS[name])
    return needed, patients and validation.interval_width(variance, patients)


def _criterion(
    name: str, target: float, needed: float, prevalence: float, reached: float | None
) -> Criterion:
    n_patients = math.ceil(needed)
    return Criterion(name, target, n_patients, math.ceil(n_patients * prevalence), reached)
