"""The results of one split: read together, refused where they do not belong together."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import copy_run

from ecgfit.inference.predictions import Predictions
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgprep.errors import InputError


@pytest.fixture
def copied(trained_run, tmp_path):
    return copy_run(trained_run, tmp_path / "r")


def test_items_are_patients_with_the_calibrated_probabilities(trained_run):
    evaluated = EvaluatedSplit.load(trained_run, "test")
    patients = Predictions.load(trained_run.path / "predictions_test.csv").by_patient()
    assert evaluated.items.patient.tolist() == patients.patient.tolist()
    before = 1 / (1 + np.exp(-(patients.logits[:, 1] - patients.logits[:, 0])))
    np.testing.assert_allclose(evaluated.probability_before(), before)
    slope, intercept = trained_run.calibration.slope, trained_run.calibration.intercept
    logit = slope * np.log(before / (1 - before)) + intercept
    np.testing.assert_allclose(evaluated.probability, 1 / (1 + np.exp(-logit)))


def test_a_split_without_an_evaluation_says_what_to_do(copied):
    (copied.path / "metrics_test.json").unlink()
    message = (
        r"no metrics_test\.json \(evaluated so far: val\)\. "
        r"Run `ecgfit eval --store STORE --run \S+ --split test` first, or name another split"
    )
    with pytest.raises(InputError, match=message):
        EvaluatedSplit.load(copied, "test")


def test_metrics_and_predictions_of_different_evaluations_are_refused(copied):
    lines = (copied.path / "predictions_test.csv").read_text().splitlines()
    (copied.path / "predictions_test.csv").write_text("\n".join(lines[:-1]) + "\n")
    again = "Run `ecgfit eval --store STORE --run .* --split test` again"
    with pytest.raises(InputError, match=f"are not of one evaluation. {again}"):
        EvaluatedSplit.load(copied, "test")


def test_metrics_at_another_threshold_are_refused(copied):
    metrics = copied.read_json("metrics_test.json") | {"threshold": 0.123}
    (copied.path / "metrics_test.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match="another threshold than the run: it is of an earlier"):
        EvaluatedSplit.load(copied, "test")


def test_damaged_results_of_training_are_made_again_by_training(copied):
    metrics = copied.read_json("metrics_val.json") | {"n_records": 1}
    (copied.path / "metrics_val.json").write_text(json.dumps(metrics))
    again = "`ecgfit train` with the run's settings and --resume makes both again"
    with pytest.raises(InputError, match=f"are not of one evaluation. {again}"):
        EvaluatedSplit.load(copied, "val")


def test_folds_are_judged_out_of_fold(folds_run):
    with pytest.raises(InputError, match=r"metrics_train\.json .*judged out of fold: --split oof"):
        EvaluatedSplit.load(folds_run, "train")
    evaluated = EvaluatedSplit.load(folds_run, "oof")
    assert evaluated.is_of_folds
    thresholds = {member.threshold for member in folds_run.members}
    assert {round(float(t), 6) for t in evaluated.items.threshold} == {
        round(t, 6) for t in thresholds
    }
