"""Compare runs with each other on the same patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecgfit.inference.predictions import Predictions
from ecgfit.metrics.paired import paired_difference
from ecgfit.metrics.results import Comparison, PairedDifference
from ecgfit.run import RunFolder
from ecgprep.errors import InputError
from ecgprep.store.format import SPLITS


def compare_runs(runs: Sequence[RunFolder], split: str) -> Comparison:
    """Compare each run with the first, each at its own calibration and threshold.

    Reads the predictions of `split` that `ecgfit eval` wrote. Raises InputError where a run has
    not been evaluated, was trained on another store, labels a patient differently, or judges
    recordings while another run judges patients.
    """
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise InputError("The same run is given twice. Name different runs.")
    first, *others = runs
    patients_of_first, *patients_of_others = [_load_patients(run, split) for run in runs]
    against_first: dict[str, PairedDifference] = {}
    for run, patients in zip(others, patients_of_others, strict=True):
        _check_comparable(first, run, split)
        _check_same_patients(first, patients_of_first, run, patients, split)
        against_first[str(run.path)] = _compare(first, patients_of_first, run, patients)
    return {
        "runs": [str(run.path) for run in runs],
        "split": split,
        "n_patients": len(np.unique(patients_of_first.patient)),
        "against_first": against_first,
    }


def _check_comparable(first: RunFolder, run: RunFolder, split: str) -> None:
    """Refuse runs of different stores, and runs that judge different things."""
    if run.content_sha256 != first.content_sha256 and not split.startswith("external"):
        raise InputError(
            f"{run.path} and {first.path} were trained on different stores, so their {split} "
            "patients may differ. Compare them on an external store."
        )
    levels = {run.config.aggregate, first.config.aggregate}
    if "none" in levels and len(levels) > 1:
        raise InputError(
            f"{run.path} and {first.path}: one judges recordings, the other patients. "
            "Compare runs that judge the same."
        )


def _check_same_patients(
    first: RunFolder,
    patients_of_first: Predictions,
    run: RunFolder,
    patients: Predictions,
    split: str,
) -> None:
    same_patients = np.array_equal(patients.patient, patients_of_first.patient)
    same_labels = np.array_equal(patients.label, patients_of_first.label)
    if not (same_patients and same_labels):
        raise InputError(
            f"{run.path} and {first.path} do not predict the same {split} patients "
            f"({len(patients.label):,} and {len(patients_of_first.label):,}). "
            "Were they trained with the same --missing?"
        )


def _compare(
    first: RunFolder, patients_of_first: Predictions, run: RunFolder, patients: Predictions
) -> PairedDifference:
    """Compare two runs whose patients are known to be the same."""
    probability_a, threshold_a = patients_of_first.probability_and_threshold(
        first.calibration, first.threshold
    )
    probability_b, threshold_b = patients.probability_and_threshold(run.calibration, run.threshold)
    return paired_difference(
        patients.label,
        probability_a,
        probability_b,
        threshold_a,
        threshold_b,
        first.config.seed,
        cluster=patients.cluster(first.config.aggregate),
    )


def _load_patients(run: RunFolder, split: str) -> Predictions:
    path = run.path / f"predictions_{split}.csv"
    if not path.is_file():
        raise InputError(_no_predictions(run, split))
    return Predictions.load(path, run.calibration).by_patient(run.config.aggregate)


def _no_predictions(run: RunFolder, split: str) -> str:
    """Say that a run has no predictions of a split, which ones it has, and how to make them."""
    files = run.path.glob("predictions_*.csv")
    splits = sorted(path.stem.removeprefix("predictions_") for path in files)
    found = ", ".join(splits) or "none"
    advice = ""
    if split == "oof":
        advice = " Only runs trained with --folds have them."
    elif split in (*SPLITS, "all"):
        advice = f" `ecgfit eval --run {run.path} --split {split} --store STORE` makes them."
    return f"{run.path} has no predictions of {split} (it has: {found}).{advice}"
