"""The summary and its warnings: what was found, on whom, and what few patients decided."""

from __future__ import annotations

import json

import pytest
from helpers import copy_run

from ecgfit.evaluation.evaluate import evaluate_run
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.sections import evaluation_sections
from ecgfit.reports.summary import find_warnings, summarise
from ecgfit.reports.wording import number
from ecgfit.run import RunFolder
from ecgprep.reports.disclosure import CountFormatter

HIDING = CountFormatter(exact=False)


def evaluated(run: RunFolder, **changes: object) -> EvaluatedSplit:
    """Return the test split of a run, with changes to its metrics."""
    found = EvaluatedSplit.load(run, "test")
    found.metrics.update(changes)
    return found


@pytest.fixture
def copied(ensemble_run, tmp_path) -> RunFolder:
    return copy_run(ensemble_run, tmp_path / "r")


def test_a_small_class_is_hidden_and_so_is_the_prevalence(ensemble_run):
    text = summarise(evaluated(ensemble_run, n_patients=77, n_positive=7), HIDING)
    assert "(77 patients, <10 of them positive)" in text
    assert "0.5 and the prevalence. At" in text
    text = summarise(evaluated(ensemble_run, n_patients=87, n_positive=80), HIDING)
    assert "(87 patients, – of them positive)" in text
    text = summarise(evaluated(ensemble_run, n_patients=90, n_positive=40), HIDING)
    assert "(90 patients, 40 of them positive)" in text
    prevalence = ensemble_run.read_json("metrics_test.json")["prevalence"]
    assert f"0.5 and the prevalence, {number(prevalence)}. At" in text


def test_what_was_left_out_is_said(ensemble_run):
    nothing = {"reason": "a lead is missing", "n_records": 0, "n_patients": 0}
    assert "leaves out" not in summarise(evaluated(ensemble_run, excluded=nothing), HIDING)
    assert "leaves out" not in summarise(evaluated(ensemble_run, excluded=None), HIDING)
    some = nothing | {"n_records": 34}
    text = summarise(evaluated(ensemble_run, excluded=some), HIDING)
    assert "The evaluation leaves out 34 recordings (a lead is missing). Intervals" in text
    some |= {"n_patients": 3}
    text = summarise(evaluated(ensemble_run, excluded=some), HIDING)
    expected = "34 recordings (a lead is missing); <10 patients have no other recording and are not"
    assert expected in text


def test_recordings_one_by_one_are_counted_with_their_patients(copied, tiny_store):
    evaluate_run(copied, tiny_store, "test", aggregate="none")
    text = summarise(EvaluatedSplit.load(copied, "test_none"), HIDING)
    n = copied.read_json("metrics_test_none.json")["n_items"]
    assert f"({n} recordings of " in text
    assert "of the recordings are called negative" in text


def with_fixed_threshold(run: RunFolder) -> RunFolder:
    """Return the run as if 0.3 had been its threshold from the beginning."""
    decided = run.read_json("threshold.json") | {"rule": "fixed=0.3", "threshold": 0.3}
    (run.path / "threshold.json").write_text(json.dumps(decided))
    return RunFolder(run.path)


def test_a_threshold_that_was_given_is_not_called_chosen(copied):
    text = summarise(evaluated(with_fixed_threshold(copied)), HIDING)
    assert "(the threshold 0.3, fixed in advance), the sensitivity is" in text


@pytest.mark.parametrize(("n_positive", "is_few"), [(19, True), (20, False), (81, True)])
def test_what_few_patients_chose_is_said(copied, n_positive, is_few):
    chosen = copied.read_json("threshold.json")
    assert chosen["n_patients"] == copied.read_json("metrics_val.json")["n_patients"]
    chosen |= {"n_patients": 100, "n_positive": n_positive}
    (copied.path / "threshold.json").write_text(json.dumps(chosen))
    warning = (
        "Fewer than 20 patients of one class in the validation data decided the epoch, calibration "
        "and threshold: another validation set could have led to different choices."
    )
    assert (warning in find_warnings(evaluated(copied))) == is_few


def test_what_was_not_chosen_was_not_decided_by_few(copied):
    run = with_fixed_threshold(copied)
    (decided,) = [line for line in find_warnings(evaluated(run)) if "decided" in line]
    assert "decided the epoch and calibration: another" in decided


def test_few_patients_make_every_number_uncertain(ensemble_run):
    warning = "The test data hold fewer than 20 patients of one class"
    for n_positive, is_few in ((19, True), (20, False)):
        lines = find_warnings(evaluated(ensemble_run, n_patients=200, n_positive=n_positive))
        assert any(line.startswith(warning) for line in lines) == is_few


def test_folds_say_which_folds_decided_what(folds_run):
    on_folds = "At least one of the folds that selected a model holds fewer than 20 patients"
    out_of_fold = find_warnings(EvaluatedSplit.load(folds_run, "oof"))
    (decided,) = [line for line in out_of_fold if "decided" in line]
    assert decided.startswith(on_folds)
    assert "decided the epoch, calibration and threshold: other folds could" in decided
    on_test = [line for line in find_warnings(evaluated(folds_run)) if "decided" in line]
    assert any(line.startswith(on_folds) and "decided the epoch: " in line for line in on_test)


def test_results_of_folds_are_at_each_folds_own_threshold(folds_run):
    out_of_fold = EvaluatedSplit.load(folds_run, "oof")
    assert "At the threshold of each fold's own model" in summarise(out_of_fold, HIDING)
    sections = evaluation_sections(out_of_fold, HIDING)
    assert "each fold's own threshold" in sections["figures"][0].caption
    histograms = sections["figures"][-1]
    assert "dashed line" not in histograms.caption


@pytest.mark.parametrize(("shared", "is_warned"), [(None, True), (0, False)])
def test_an_external_store_that_nobody_searched_is_warned_of(ensemble_run, shared, is_warned):
    found = evaluated(ensemble_run, external={"shared_recordings": shared})
    warning = "nobody checked whether these recordings trained the run"
    assert any(warning in line for line in find_warnings(found)) == is_warned


def test_notes_and_mixed_patients_are_passed_on(copied):
    chosen = copied.read_json("threshold.json") | {"note": "this threshold calls everyone positive"}
    (copied.path / "threshold.json").write_text(json.dumps(chosen))
    lines = find_warnings(evaluated(copied, note="a note", n_mixed_patients=2))
    assert "Test data: a note." in lines
    assert "Threshold: this threshold calls everyone positive" in lines
    assert any(line.startswith("Some patients have recordings of both labels") for line in lines)
    on_validation = find_warnings(EvaluatedSplit.load(copied, "val"))
    assert any("were chosen on these patients" in line for line in on_validation)
