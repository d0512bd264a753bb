"""The model card describes the model, all of its members, and what it is not for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.facts import Facts, gather_facts
from ecgfit.reports.model_card import model_card
from ecgfit.run import RunFolder
from ecgprep.reports.disclosure import CountFormatter


def facts_of(run: RunFolder, split: str = "test") -> Facts:
    show = CountFormatter(exact=False)
    return gather_facts(run, EvaluatedSplit.load(run, split), show, None, [])


@pytest.fixture(scope="module")
def facts(ensemble_run) -> Facts:
    return facts_of(ensemble_run)


def test_terms_are_those_of_a_model_card(facts):
    terms = [term for term, _ in model_card(facts)]
    assert terms == [
        "Intended use",
        "Inputs",
        "Output",
        "Training data",
        "Cohort",
        "Label",
        "Architecture",
        "Training",
        "Threshold",
        "Evaluation",
        "Limitations",
        "Versions",
        "How to apply",
    ]


def test_it_names_inputs_store_and_seeds(facts, tiny_store):
    card = dict(model_card(facts))
    inputs = "eight leads (I, II, V1 to V6) of 2 s at 100 Hz, in µV; covariates age, sex."
    assert card["Inputs"] == inputs
    assert tiny_store.content_sha256 in card["Training data"]
    assert card["Training"].endswith("Seeds 0, 1.")
    assert "torch " in card["Versions"]
    assert card["How to apply"] == "ecgfit predict --run ensemble FILES -o predictions.csv"
    assert card["Evaluation"].endswith("No external test: how the model does elsewhere is unknown.")


def test_the_threshold_comes_with_the_interval_of_its_choice(facts, ensemble_run):
    chosen = ensemble_run.read_json("threshold.json")
    low, high = chosen["ci95"]
    text = dict(model_card(facts))["Threshold"]
    assert text.startswith(f"{chosen['value']:.4f}")
    wide = replace(facts.threshold, low=0.2, high=0.4)
    assert (
        "(95 % interval of the choice 0.2000 to 0.4000): the threshold"
        in (dict(model_card(replace(facts, threshold=wide)))["Threshold"])
    )
    assert (facts.threshold.low, facts.threshold.high) == (low, high)
    narrow = replace(facts.threshold, low=0.3, high=0.3)
    assert "interval" not in dict(model_card(replace(facts, threshold=narrow)))["Threshold"]


def test_only_calibrated_probabilities_are_called_so(facts):
    assert dict(model_card(facts))["Output"].startswith("A calibrated probability of label 1")
    output = dict(model_card(replace(facts, calibration=None)))["Output"]
    assert output.startswith("A probability of label 1")
    assert output.endswith("Probabilities were not recalibrated.")


def test_the_card_of_folds_describes_all_of_them(folds_run):
    run = RunFolder(folds_run.path)
    for member, rate, leads, samples in zip(
        run.members, (250.0, 500.0, 1000.0), (8, 6, 8), (170, 200, 150), strict=True
    ):
        seen = replace(
            member.stats.seen, rates_hz=(rate,), fewest_leads=leads, shortest_samples=samples
        )
        member.stats = replace(member.stats, seen=seen)
    described = "source rates 250, 500, 1000 Hz; at least 6 leads; at least 1.5 s of signal"
    card = dict(model_card(facts_of(run, "oof")))
    assert described in card["Training data"]
    assert described in card["Limitations"]


def test_a_folder_with_a_blank_is_quoted(facts):
    card = dict(model_card(replace(facts, run_name="my run")))
    assert card["How to apply"] == "ecgfit predict --run 'my run' FILES -o predictions.csv"
