"""The calibration and the threshold that a run is used with, both chosen on validation."""

from __future__ import annotations

from dataclasses import replace

from ecgfit.config import TrainConfig
from ecgfit.inference.predictions import Aggregate, Predictions
from ecgfit.metrics.bootstrap import count_patients
from ecgfit.metrics.calibration import Calibration, fit_calibration
from ecgfit.metrics.definitions import Floats, Ints
from ecgfit.metrics.results import OperatingPoint
from ecgfit.metrics.thresholds import threshold_with_interval
from ecgprep.errors import InputError

OF_SINGLE_MODELS = "fitted to the single models' predictions out of fold, used on their mean logit"


def choose_operating_point(
    predictions: Predictions,
    config: TrainConfig,
    chosen_on: str,
    calibration: Calibration | None = None,
) -> tuple[Calibration, OperatingPoint]:
    """Fit the calibration and choose the threshold; return both, as the run folder keeps them.

    `predictions` must not be of the test split. `chosen_on` names their rows. A `calibration` that
    is given is kept instead of fitted. Raises InputError where the rule of the threshold has no
    answer.
    """
    patients = predictions.by_patient(config.aggregate)
    d, label = patients.logit_difference(), patients.label
    cluster = patients.cluster(config.aggregate)
    try:
        if calibration is None:
            calibration = _fitted(config, d, label, chosen_on)
        probability = calibration.apply(d)
        choice = threshold_with_interval(
            label, probability, config.threshold, config.seed, cluster=cluster
        )
    except ValueError as error:
        raise InputError(
            f"The threshold cannot be chosen on {chosen_on}: {error} Use another --threshold."
        ) from None
    n_patients, n_positive = count_patients(label, cluster)
    point: OperatingPoint = {
        **choice,
        "chosen_on": chosen_on,
        "n_patients": n_patients,
        "n_positive": n_positive,
        "level": entry_level(config.aggregate),
        "aggregation": config.aggregate,
    }
    return calibration, point


def _fitted(config: TrainConfig, d: Floats, label: Ints, chosen_on: str) -> Calibration:
    """Fit the calibration; out of fold, note that it was not fitted to the mean logit."""
    calibration = fit_calibration(config.calibration, d, label)
    if chosen_on != "oof" or config.fold >= 0 or calibration.method == "none":
        return calibration
    notes = [calibration.note, OF_SINGLE_MODELS]
    return replace(calibration, note="; ".join(note for note in notes if note))


def entry_level(how: Aggregate) -> str:
    """Return what one entry of the metrics is: `recording` or `patient`."""
    return "recording" if how == "none" else "patient"
