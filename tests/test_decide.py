"""Deciding again: on validation alone, with a history, and with results marked until made again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from helpers import QUICK, copy_run, files_of, same_weights
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

import ecgfit
from ecgfit.cli import cli
from ecgfit.evaluation import decide_again as module
from ecgfit.evaluation.decide_again import OUTDATED, OUTDATED_FOLDS
from ecgfit.inference.export import describe
from ecgfit.run import RunFolder
from ecgprep.errors import InputError, StoreError, TargetExists
from ecgprep.files.lock import locked

DATES = ("time", "date", "when", "created")


@pytest.fixture
def run(trained_run, tmp_path) -> RunFolder:
    return copy_run(trained_run, tmp_path / "run")


def validation_patients(run: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities of the validation patients, by pandas."""
    table = pd.read_csv(run.path / "predictions_val.csv")
    table["d"] = table["logit_1"] - table["logit_0"]
    patients = table.groupby("patient").agg(label=("label", "max"), d=("d", "mean"))
    return patients["label"].to_numpy(), patients["d"].to_numpy()


def content(run: RunFolder, name: str) -> dict:
    return json.loads((run.path / name).read_bytes())


def test_a_sensitivity_is_reached_on_validation_and_no_higher_threshold_reaches_it(run):
    """Against scikit-learn's ROC curve."""
    ecgfit.decide(run.path, threshold="sensitivity=0.90")
    decided = RunFolder(run.path)
    label, d = validation_patients(run)
    probability = run.calibration.apply(d)
    _, sensitivity, thresholds = roc_curve(label, probability, drop_intermediate=False)
    highest = thresholds[sensitivity >= 0.9].max()
    called = probability >= decided.threshold
    assert np.array_equal(called, probability >= highest)
    assert called[label == 1].mean() >= 0.9
    assert decided.calibration == run.calibration
    assert decided.rule == "sensitivity=0.90"


def test_the_rule_of_training_gives_the_threshold_of_training(run):
    decided = ecgfit.decide(run.path, threshold=run.config.threshold)
    assert decided["value"] == pytest.approx(run.threshold, abs=1e-7)
    before = content(run, "threshold.json")["earlier"][0]
    assert {key: decided[key] for key in ("n_patients", "n_positive", "level", "chosen_on")} == {
        key: before[key] for key in ("n_patients", "n_positive", "level", "chosen_on")
    }


def test_a_calibration_is_fitted_anew_on_validation(run):
    """Platt's against scikit-learn on his smoothed targets; the network itself is not touched."""
    ecgfit.decide(run.path, calibration="none")
    decided = ecgfit.decide(run.path, calibration="platt")
    label, d = validation_patients(run)
    n1, n0 = label.sum(), (label == 0).sum()
    target = np.where(label == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10000).fit(
        np.r_[d, d][:, None],
        np.repeat([1, 0], len(d)),
        sample_weight=np.r_[target, 1 - target],
    )
    if not decided["calibration"]["note"]:
        assert decided["calibration"]["slope"] == pytest.approx(model.coef_[0, 0], rel=1e-3)
        assert decided["calibration"]["intercept"] == pytest.approx(model.intercept_[0], abs=1e-3)
    assert content(run, "calibration.json") == decided["calibration"]
    assert [entry["calibration"]["method"] for entry in decided["earlier"]] == ["platt", "none"]
    assert same_weights(run.path, run.path)


def test_test_rows_are_never_looked_at(run):
    """Without the test results, and with other ones, the decision is the same."""
    expected = ecgfit.decide(run.path, threshold="specificity=0.8")["value"]
    for name in ("predictions_test.csv", "metrics_test.json"):
        (run.path / name).unlink()
    again = ecgfit.decide(run.path, threshold="specificity=0.8")
    assert again["value"] == expected


def test_the_history_keeps_every_decision_and_no_date(run):
    first = content(run, "threshold.json") | {"calibration": content(run, "calibration.json")}
    second = ecgfit.decide(run.path, threshold="sensitivity=0.9")
    third = ecgfit.decide(run.path, threshold="fixed=0.3")
    assert third["value"] == 0.3
    assert third["earlier"] == [first, {k: v for k, v in second.items() if k != "earlier"}]
    assert not any(word in json.dumps(third).lower() for word in DATES)
    opened = RunFolder(run.path)
    assert [threshold for threshold, _ in opened.decisions] == [
        0.3,
        first["value"],
        second["value"],
    ]


def test_results_are_marked_until_they_are_made_again(run, tiny_store):
    folder = run.path
    ecgfit.decide(folder, threshold="fixed=0.3")
    opened = ecgfit.load_run(folder)
    assert opened.metrics("test")["outdated"] == opened.metrics("val")["outdated"] == OUTDATED
    assert opened.outdated_results() == ["metrics_test.json", "metrics_val.json"]
    with pytest.raises(InputError, match="made under an earlier decision .* --split test` again"):
        ecgfit.report(folder)
    metrics = ecgfit.evaluate(folder, tiny_store)
    assert "outdated" not in metrics
    assert metrics["threshold"] == 0.3
    assert "decided again after training" in metrics["note"]
    table = ecgfit.load_run(folder).predictions("test")
    patients = table.groupby("patient").agg(label=("label", "max"))
    d = table.assign(d=table["logit_1"] - table["logit_0"]).groupby("patient")["d"].mean()
    called = opened.calibration.apply(d.to_numpy()) >= 0.3
    truth = patients["label"].to_numpy() == 1
    assert metrics["confusion"]["tp"] == (called & truth).sum()
    assert metrics["confusion"]["fp"] == (called & ~truth).sum()
    assert ecgfit.load_run(folder).outdated_results() == ["metrics_val.json"]
    page = ecgfit.report(folder).read_text()
    assert "it replaces 1 earlier decision" in " ".join(page.split())


def test_going_back_to_the_first_decision_makes_its_results_valid_again(run):
    first = content(run, "metrics_test.json")
    ecgfit.decide(run.path, threshold="fixed=0.3")
    ecgfit.decide(run.path, threshold=f"fixed={run.threshold!r}")
    assert content(run, "metrics_test.json") == first


def test_a_finished_run_stays_finished_and_keeps_its_decision(run, tiny_store):
    ecgfit.decide(run.path, threshold="sensitivity=0.95", calibration="temperature")
    before, said = files_of(run.path), []
    ecgfit.train(
        tiny_store,
        run.path,
        resume=True,
        progress=said.append,
        **(QUICK | {"epochs": 2, "model_args": "width=0.5"}),
    )
    assert any("finished already" in line for line in said)
    assert files_of(run.path) == before


def test_an_ensemble_decides_and_keeps_it(ensemble_run, tiny_store, tmp_path):
    run = copy_run(ensemble_run, tmp_path / "run")
    ecgfit.decide(run.path, threshold="npv=0.5")
    before = files_of(run.path)
    ecgfit.train(resume=True, outdir=run.path, store=tiny_store)
    assert files_of(run.path) == before
    with pytest.raises(InputError, match="is a member of an ensemble"):
        ecgfit.decide(run.members[0].path, threshold="youden")


def test_folds_decide_out_of_fold(folds_run, tmp_path):
    """From the members' original logits, as training did; each fold's own decision stays."""
    run = copy_run(folds_run, tmp_path / "run")
    again = ecgfit.decide(run.path, threshold=run.config.threshold, calibration="platt")
    first = again["earlier"][0]
    assert again["chosen_on"] == first["chosen_on"] == "oof"
    assert again["value"] == pytest.approx(first["value"], abs=1e-6)
    assert again["calibration"]["note"] == first["calibration"]["note"]
    assert again["calibration"]["slope"] == pytest.approx(first["calibration"]["slope"], rel=1e-6)
    assert content(run, "metrics_oof.json")["outdated"] == OUTDATED_FOLDS
    page = ecgfit.report(run.path, split="oof")
    assert page.is_file()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "Say what to decide"),
        ({"threshold": "sensitivity"}, "threshold"),
        ({"threshold": "sensitivity=1.5"}, "threshold"),
        ({"calibration": "isotonic"}, "calibration"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_changed(trained_run, asked, message):
    before = files_of(trained_run.path)
    with pytest.raises(InputError, match=message):
        ecgfit.decide(trained_run.path, **asked)
    assert files_of(trained_run.path) == before


def test_predictions_of_other_patients_decide_nothing(run):
    path = run.path / "predictions_val.csv"
    lines = path.read_text().splitlines(keepends=True)
    last = lines[-1].split(",")[1]
    path.write_text("".join(line for line in lines if line.split(",")[1] != last))
    before = files_of(run.path)
    with pytest.raises(StoreError, match="are of other patients"):
        ecgfit.decide(run.path, threshold="fixed=0.3")
    assert files_of(run.path) == before


def test_a_run_in_use_is_left_alone(run):
    with locked(run.path / "training"), pytest.raises(TargetExists, match="decided on by another"):
        ecgfit.decide(run.path, threshold="fixed=0.3")


@pytest.mark.parametrize("n_written", range(5))
def test_a_killed_decision_leaves_one_of_the_two_in_force(run, monkeypatch, n_written):
    """Killed after each write: the run is never used with halves of both, and can decide again."""
    write, written = module.write_json, []

    def write_until_killed(path: Path, value: object) -> None:
        if len(written) == n_written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, value)

    monkeypatch.setattr(module, "write_json", write_until_killed)
    before = (run.threshold, run.calibration)
    try:
        ecgfit.decide(run.path, threshold="fixed=0.3", calibration="none")
    except KeyboardInterrupt:
        assert n_written < 4
    opened = RunFolder(run.path)
    is_new = n_written >= 3  # two results, then the decision
    if is_new:
        assert (opened.threshold, opened.calibration.method) == (0.3, "none")
    else:
        assert (opened.threshold, opened.calibration) == before
    if n_written >= 2:
        assert len(opened.outdated_results()) == 2
    monkeypatch.undo()
    assert ecgfit.decide(run.path, threshold="fixed=0.4")["value"] == 0.4
    assert json.loads((run.path / "calibration.json").read_bytes()) == (
        RunFolder(run.path).calibration.to_json()
    )


def test_what_was_opened_before_uses_the_new_decision(run, tiny_store):
    opened = ecgfit.load_run(run.path)
    opened.decide(threshold="fixed=0.25")
    assert opened.threshold == 0.25
    assert describe(opened)["threshold_rule"] == "fixed=0.25"
    table = opened.predict(store=tiny_store, split="val")
    assert table["positive"].tolist() == (table["probability"] >= 0.25).astype(int).tolist()


def test_a_damaged_history_is_reported(run):
    value = content(run, "threshold.json") | {"earlier": ["x"]}
    (run.path / "threshold.json").write_text(json.dumps(value))
    with pytest.raises(StoreError, match=r"threshold.json is damaged"):
        RunFolder(run.path)


def test_the_command_prints_both_decisions(run):
    words = ["decide", str(run.path), "--threshold", "sensitivity=0.90"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "now:    threshold" in done.stdout
    assert "before: threshold" in done.stdout
    assert "no test row was looked at" in done.stdout
    assert "earlier decision: metrics_test.json, metrics_val.json" in done.stdout
    as_json = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert len(as_json["earlier"]) == 2
    assert CliRunner().invoke(cli, words[:2]).exit_code == 2
