"""The checklist claims what a run did, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from helpers import copy_run, trained

from ecgfit.reports.checklist import checklist
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.facts import Facts, gather_facts
from ecgfit.run import RunFolder
from ecgprep.reports.disclosure import CountFormatter

HIDING = CountFormatter(exact=False)
TO_DO = "To be written by the authors."


def facts_of(run: RunFolder, split: str = "test") -> Facts:
    return gather_facts(run, EvaluatedSplit.load(run, split), HIDING, None, [])


def changed(facts: Facts, **settings: object) -> Facts:
    """Return the facts of a run with other settings."""
    return replace(facts, config=facts.config.model_copy(update=settings))


def texts(facts: Facts) -> dict[str, str]:
    return {item.number: item.text for item in checklist(facts)}


@pytest.fixture(scope="module")
def facts(ensemble_run) -> Facts:
    return facts_of(ensemble_run)


def test_every_item_of_tripod_ai_is_there_once(facts):
    numbers = [item.number for item in checklist(facts)]
    assert len(numbers) == len(set(numbers))
    parts = "1–4 5a 5b 6a 6b 6c 7 8a–c 9a–c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 16 17 "
    parts += "18a–d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b–c"
    assert numbers == parts.split()


def test_what_a_run_cannot_know_is_left_to_the_authors(facts):
    items = {item.number: item for item in checklist(facts)}
    answered = {number for number, item in items.items() if item.status == "answered"}
    assert answered == {"7", "12b", "12e", "12g", "13", "22", "27a"}  # 23a: groups are too small
    for item in items.values():
        assert item.text
        assert item.status != "authors" or TO_DO in item.text or "authors" in item.text
    assert items["17"].text == TO_DO


def test_what_was_done_is_said(facts):
    items = texts(facts)
    assert "class weights auto: " in items["13"]
    assert "Platt scaling, fitted once on the validation predictions" in items["13"]
    assert "(Youden), chosen once on the validation predictions" in items["15"]
    assert "covariates age, sex" in items["9a–c"]
    assert "parameters" in items["12c"]
    assert "multiply-adds per recording; the mean logit of 2 such models" in items["12c"]
    assert "and score intervals where no resample differs" in items["12e"]
    assert "the frozen split of the store" in items["12a"]


def test_sentences_are_joined_cleanly(facts, folds_run):
    every = [facts, facts_of(folds_run, "oof"), changed(facts, tabular_only=True)]
    for text in [text for one in every for text in texts(one).values()]:
        assert "  " not in text
        assert " ." not in text
        assert " ," not in text
        assert ".." not in text
        assert text == text.strip()


def test_a_run_on_covariates_alone_claims_nothing_of_the_ecg(tiny_store, tmp_path):
    run = trained(
        tiny_store,
        tmp_path / "r",
        epochs=1,
        model_args="none",
        calibration="none",
        threshold="fixed=0.3",
        tabular="age",
        tabular_only=True,
    )
    items = texts(facts_of(run))
    assert items["7"] == "The model sees covariates alone."
    left_out = "The model does not see the ECG. Recordings that lack leads were left out"
    assert items["11"].startswith(left_out)
    assert "lead" not in items["27a"].replace("Recordings that lack leads were left out", "")
    assert items["12b"] == "Covariates were centred and scaled with the train median and scale."
    assert "multilayer perceptron on covariates alone" in items["12c"]
    for claim in ("multiply-adds", "Augmentation", "on the ECG"):
        assert claim not in items["12c"]
    assert "threshold 0.3000: the threshold 0.3, fixed in advance." in items["15"]
    assert "before and after" not in items["24"]
    assert "Probabilities were not recalibrated." in items["12f"]


@pytest.mark.parametrize(
    ("setting", "number", "claim"),
    [
        ({"label_smoothing": 0.1}, "12c", "with label smoothing 0.1"),
        ({"init_from": "weights"}, "12c", "started from other weights (init_from)"),
        ({"freeze": "backbone"}, "12c", "Only the head was trained."),
        ({"class_weights": "none"}, "13", "neither weighted nor resampled"),
        ({"class_weights": (1.0, 2.0)}, "13", "as set."),
        ({"missing": "mask"}, "6b", "marked as missing in a channel"),
    ],
)
def test_each_setting_is_said_where_it_was_used_and_only_there(facts, setting, number, claim):
    assert claim in texts(changed(facts, **setting))[number]
    assert claim not in texts(facts)[number]


def test_averaged_weights_are_said(facts):
    assert ", with weights averaged at a decay of 0.9." in texts(changed(facts, ema=0.9))["12c"]
    assert "averaged" not in texts(changed(facts, ema=0.0))["12c"]


def test_recordings_one_by_one_claim_no_score_intervals(facts):
    text = texts(replace(facts, aggregation="none"))["12e"]
    assert "bootstrap over patients. The unit is the recording" in text
    assert "score intervals" not in text


def test_results_out_of_fold_are_said_to_be_by_the_models_that_did_not_see_the_patients(folds_run):
    items = texts(facts_of(folds_run, "oof"))
    assert "each judged by a model that did not see them" in items["16"]
    assert "labels 0 and 1 of the first fold" in items["13"]
    assert "cross-validation in 3 folds" in items["12a"]
    assert "the model that did not see them" in items["12f"]
    assert "the results out of fold use each model's own" in items["15"]


def test_a_single_fold_says_what_its_recordings_were_for(facts):
    one = replace(facts, records={"train": "10", "scored (not for development)": "10"})
    assert "10 train, 10 scored (not for development)" in texts(one)["10"]
    assert "not recorded" in texts(replace(facts, records={}))["10"]


def test_a_calibration_that_was_fitted_otherwise_is_said(ensemble_run, tmp_path):
    copied = copy_run(ensemble_run, tmp_path / "r")
    note = "slope 1 is kept, only the intercept is fitted"
    calibration = copied.read_json("calibration.json") | {"note": note}
    (copied.path / "calibration.json").write_text(json.dumps(calibration))
    assert f"predictions ({note})." in texts(facts_of(RunFolder(copied.path)))["13"]


def test_groups_that_were_not_compared_are_not_claimed(ensemble_run, tmp_path):
    copied = copy_run(ensemble_run, tmp_path / "r")
    metrics = copied.read_json("metrics_test.json")
    shown = {"metrics": metrics["metrics"]}
    withheld = {"metrics": None}
    for sex, status in (
        ({"0": shown, "1": shown}, "partly"),
        ({"0": withheld, "1": shown}, "authors"),
        ({}, "authors"),
    ):
        metrics["subgroups"] = {"sex": sex, "source_rate": {"500 Hz": shown}}
        (copied.path / "metrics_test.json").write_text(json.dumps(metrics))
        items = {item.number: item for item in checklist(facts_of(copied))}
        assert (items["14"].status, items["12d"].status) == (status, status)
        assert ("sex" in items["14"].text) == (status == "partly")
        assert items["23a"].status == ("answered" if status == "partly" else "partly")


def test_groups_of_recordings_are_no_groups_of_patients(facts):
    by_rate = replace(facts, groupings=["source rate"], covariate_groupings=[])
    items = {item.number: item for item in checklist(by_rate)}
    assert (items["12d"].status, items["14"].status) == ("partly", "authors")


@pytest.mark.parametrize(
    ("other", "is_external", "unsearched", "claim"),
    [
        (0, False, 0, "; no external test."),
        (1, False, 0, "and 1 external store."),
        (1, False, 1, "and 1 external store (not searched for recordings that trained the run)."),
        (3, False, 2, "3 external stores (2 not searched for recordings that trained the run)."),
        (0, True, 1, "the test data. "),
    ],
)
def test_external_stores_are_counted(facts, other, is_external, unsearched, claim):
    given = {"n_other_external": other, "is_external": is_external, "n_unsearched": unsearched}
    items = texts(replace(facts, **given))
    assert claim in items["16"]
    is_tested = other > 0 or is_external
    assert ("show how the model does elsewhere" in items["23b"]) == is_tested


def test_what_a_missing_lead_costs_is_in_a_figure_or_can_be_measured(facts):
    assert "ecgfit eval --each-lead measures" in texts(facts)["27a"]
    assert "The figure on leads shows" in texts(replace(facts, has_lead_removal=True))["27a"]


def test_table_one_is_offered_where_it_is_not_there(facts):
    where = {item.number: item.where for item in checklist(facts)}
    assert (where["20b"], where["11"]) == (
        "Table 1 with --store",
        "Table 1 with --store; ecgprep report",
    )
    where = {item.number: item.where for item in checklist(replace(facts, has_store=True))}
    assert (where["20b"], where["11"]) == ("Table 1", "Table 1")
