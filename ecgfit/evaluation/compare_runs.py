"""Runs against each other on the same patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ecgfit.inference.predictions import Predictions
from ecgfit.metrics.paired import paired_difference
from ecgfit.run import Run
from ecgprep.errors import InputError
from ecgprep.store.format import SPLITS


def compare_runs(runs: Sequence[Run], split: str) -> dict[str, Any]:
    """Compare each run with the first on the patients of `split`, each at its own calibration and threshold.

    Reads what `ecgfit eval` wrote. Returns {runs, split, n_patients, against_first: {run: paired_difference(...)}}. Raises InputError when a
    run has not been evaluated, was trained on another store, gives a patient another label, or judges recordings where another judges patients.
    """
    first, *others = runs
    names = [str(run.path) for run in runs]
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise InputError("The same run is given twice.")
    of_patients = [_of_patients(run, split) for run in runs]
    label = of_patients[0].label
    against = {}
    for run, patients in zip(others, of_patients[1:], strict=True):
        if run.content_sha256 != first.content_sha256 and not split.startswith("external"):
            raise InputError(
                f"{run.path} and {first.path} were trained on different stores: whether their {split} patients are the same is not known."
            )
        if run.config.aggregate != first.config.aggregate and "none" in (
            run.config.aggregate,
            first.config.aggregate,
        ):
            raise InputError(
                f"{run.path} and {first.path}: one judges recordings, the other patients."
            )
        if not np.array_equal(patients.patient, of_patients[0].patient) or not np.array_equal(
            patients.label, label
        ):
            raise InputError(
                f"{run.path} and {first.path} do not predict the same {split} patients "
                f"({len(patients.label):,} and {len(label):,}). Were they trained with the same --missing?"
            )
        (ours, our_threshold), (theirs, their_threshold) = (
            items.judge(judged.calibration, judged.threshold)
            for judged, items in ((first, of_patients[0]), (run, patients))
        )
        cluster = patients.drawn_together(first.config.aggregate)
        against[str(run.path)] = paired_difference(
            label, ours, theirs, our_threshold, their_threshold, first.config.seed, cluster=cluster
        )
    return {
        "runs": names,
        "split": split,
        "n_patients": len(np.unique(of_patients[0].patient)),
        "against_first": against,
    }


def _of_patients(run: Run, split: str) -> Predictions:
    path = run.path / f"predictions_{split}.csv"
    if not path.is_file():
        has = (
            ", ".join(
                sorted(
                    found.stem.removeprefix("predictions_")
                    for found in run.path.glob("predictions_*.csv")
                )
            )
            or "none"
        )
        eval_ = f"`ecgfit eval --run {run.path} --split {split} --store STORE` makes them."
        how = {"oof": "A run of --folds has them."}.get(
            split, eval_ if split in (*SPLITS, "all") else ""
        )
        raise InputError(
            f"{run.path} has no predictions of {split} (it has: {has}). {how}".rstrip()
        )
    return Predictions.load(path, run.calibration).by_patient(run.config.aggregate)
