"""Which group of patients each entry belongs to, for metrics by subgroup."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ecgfit.inference.predictions import Predictions
from ecgprep.sex_code import SexCode
from ecgprep.store.reader import Store

AGE_BANDS = (50, 65, 75)
"""Lower bounds of the age groups after the first, in years."""

_AGES = ("age", "age_years")

MOST_CATEGORIES = 5
"""A covariate with at most this many values is grouped by value, any other at its median."""

MISSING = "missing"


def patient_groups(
    store: Store, predictions: Predictions, patients: Predictions
) -> dict[str, NDArray[np.str_]]:
    """Return {grouping: group of each entry of `patients`}.

    The groupings are `leads` (is any lead missing in any recording), `source_rate` and the store's
    covariates. Rate and covariates are those of a patient's first recording.
    """
    first_rows = patients.rows
    groups = {
        "leads": _lead_groups(store, predictions, patients),
        "source_rate": _rate_groups(store.array("rate_hz")[first_rows]),
    }
    for column, name in enumerate(store.covariate_names):
        values = store.array("covariates")[first_rows, column]
        groups[name] = covariate_groups(name, values, store.sex_codes.get(name))
    return groups


def _lead_groups(store: Store, predictions: Predictions, patients: Predictions) -> NDArray[np.str_]:
    incomplete = ~store.array("lead_mask")[predictions.rows].all(axis=1)
    if patients is not predictions:
        incomplete = np.isin(patients.patient, predictions.patient[incomplete])
    return np.where(incomplete, "some missing", "all eight")


def _rate_groups(rates_hz: NDArray[np.float32]) -> NDArray[np.str_]:
    return np.array([f"{rate:g} Hz" for rate in rates_hz])


def covariate_groups(
    name: str, values: NDArray[np.float32], sex_code: SexCode | None = None
) -> NDArray[np.str_]:
    """Return the group of each value (n,); NaN is `missing`.

    A covariate of few values is grouped by value, or by the sex that `sex_code` gives it. Otherwise
    `age` and `age_years` are cut into bands, and any other covariate at its median.
    """
    known = values[~np.isnan(values)]
    if len(np.unique(known)) <= MOST_CATEGORIES:
        return np.array([value_name(value, sex_code) for value in values.tolist()])
    is_age = name.lower() in _AGES
    bounds: Sequence[float] = AGE_BANDS if is_age else (float(np.median(known)),)
    bands = np.array([*_band_names(bounds), MISSING])
    band = np.searchsorted(bounds, values, side="right")
    band[np.isnan(values)] = len(bands) - 1
    return np.asarray(bands[band])


def value_name(value: float, sex_code: SexCode | None = None) -> str:
    """Name a value of a covariate: `missing`, the sex that it stands for, or the number."""
    if np.isnan(value):
        return MISSING
    return (sex_code and sex_code.word(value)) or f"{value:g}"


def _band_names(bounds: Sequence[float]) -> list[str]:
    """Name the bands between bounds; the lowest of several starts at 0, as ages do."""
    edges = [f"{bound:g}" for bound in bounds]
    below = f"below {edges[0]}"
    lowest = below if len(edges) == 1 else f"0 to {below}"
    between = [f"{low} to below {high}" for low, high in pairwise(edges)]
    return [lowest, *between, f"{edges[-1]} and above"]
