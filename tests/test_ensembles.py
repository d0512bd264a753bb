"""Runs of several members, by seeds or folds: one model to the outside, and a fair judgement."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import DECIDED, changed_store, quick, same_results, same_weights, silent
from scipy.special import expit

import ecgfit.training.trainer as trainer_module
from ecgfit.api import settings_of
from ecgfit.data.rows import fold_rows, select_rows
from ecgfit.evaluation.compare_runs import compare_runs
from ecgfit.evaluation.evaluate import evaluate_run
from ecgfit.inference.predictions import Predictions
from ecgfit.inference.scorer import load_ensemble, predict_rows
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.html import report_content
from ecgfit.run import RunFolder
from ecgfit.run_files import delete_run
from ecgfit.training.runner import train
from ecgprep.errors import InputError, StoreError
from ecgprep.store.reader import Store

FOLDS = 4
RESULTS = {"metrics_val.json", "predictions_val.csv"}
MEMBER = {
    "config.yaml",
    *DECIDED,
    *RESULTS,
    "curves.csv",
    "events.out.tfevents.ecgfit",
    "checkpoints/best.pt",
    "checkpoints/last.pt",
}


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def ensemble(tiny_store, tmp_path_factory) -> RunFolder:
    config = quick(seeds=(0, 1), epochs=2, tabular="age,sex", model_args="dropout=0.1,width=0.5")
    return train(config, tiny_store, tmp_path_factory.mktemp("ensembles") / "e", say=silent)


@pytest.fixture(scope="module")
def folds(tiny_store, tmp_path_factory) -> RunFolder:
    return train(
        quick(folds=FOLDS, epochs=1),
        tiny_store,
        tmp_path_factory.mktemp("folds") / "f",
        say=silent,
    )


def test_layout_of_an_ensemble(ensemble):
    members = {f"members/{seed}/{name}" for seed in (0, 1) for name in MEMBER}
    assert (
        files_of(ensemble.path)
        == members | {"config.yaml", "calibration.json", "threshold.json"} | RESULTS
    )
    assert [member.config.seed for member in ensemble.members] == [0, 1]
    assert not same_weights(*(member.path for member in ensemble.members))
    assert ensemble.read_json("threshold.json")["chosen_on"] == "val"


def test_prediction_is_the_mean_logit_of_the_members(ensemble, tiny_store):
    evaluate_run(ensemble, tiny_store, "test")
    together = Predictions.load(ensemble.path / "predictions_test.csv")
    rows = select_rows(tiny_store, "test", "drop")
    alone = []
    for member in ensemble.members:
        scorer = load_ensemble([member], "cpu")
        alone.append(predict_rows(scorer, tiny_store, rows, ("age", "sex"), amp=False).logits)
    np.testing.assert_array_equal(together.rows, rows)
    np.testing.assert_allclose(together.logits, np.mean(alone, axis=0), rtol=1e-6, atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


def test_member_is_the_single_run_of_its_seed(ensemble, tiny_store, tmp_path):
    alone = train(ensemble.members[1].config, tiny_store, tmp_path / "1", say=silent)
    assert same_results(alone.path, ensemble.path / "members/1")


def test_ensemble_repeats_from_its_own_config(ensemble, tiny_store, tmp_path):
    config = settings_of(ensemble.path / "config.yaml", {})
    assert config == ensemble.config
    again = train(config, tiny_store, tmp_path / "again", say=silent)
    for name in ("config.yaml", "threshold.json", "calibration.json", *RESULTS):
        assert (again.path / name).read_bytes() == (ensemble.path / name).read_bytes()
    for one, other in zip(again.members, ensemble.members, strict=True):
        assert same_weights(one.path, other.path)


def test_resume_leaves_finished_members_alone(tiny_store, tmp_path):
    config = quick(seeds=(0, 1), epochs=1)
    train(config, tiny_store, tmp_path / "e", say=silent)
    expected = {
        name: (tmp_path / "e" / name).read_bytes()
        for name in ("threshold.json", "metrics_val.json", "members/1/threshold.json")
    }
    for name in expected:
        (tmp_path / "e" / name).unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "e/members/0").rglob("*")}
    said = []
    train(config, tiny_store, tmp_path / "e", resume=True, say=said.append)
    assert "member 1 of 0, 1" in said
    assert "member 0 of 0, 1" not in said
    assert {
        path: path.stat().st_mtime_ns for path in (tmp_path / "e/members/0").rglob("*")
    } == before
    assert {name: (tmp_path / "e" / name).read_bytes() for name in expected} == expected


@pytest.mark.parametrize("other", [{"seed": 7}, {"lr": 1e-4, "seed": 1}, "store"], ids=str)
def test_another_run_in_a_member_s_place_is_refused(tiny_store, tmp_path, other):
    run = train(quick(seeds=(0, 1), epochs=1), tiny_store, tmp_path / "e", say=silent)
    member = tmp_path / "e/members/1"
    shutil.rmtree(member)
    with pytest.raises(StoreError, match=r"--outdir '?\S*/e'? --resume"):
        RunFolder(run.path)
    store, settings = tiny_store, other
    if other == "store":
        settings = {"seed": 1}
        label = 1 - np.array(tiny_store.array("label"))
        store = changed_store(tiny_store, tmp_path / "o.zarr", label=label)
        facts = store.path / "zarr.json"
        facts.write_text(facts.read_text().replace(tiny_store.content_sha256, "0" * 64))
        store = Store(store.path)
    train(quick(epochs=1, **settings), store, member, say=silent)
    with pytest.raises(StoreError, match="is not the member that this ensemble was made of"):
        RunFolder(run.path)


def test_overwrite_deletes_all_members_and_nothing_else(tiny_store, tmp_path):
    folder = tmp_path / "e"
    run = train(quick(seeds=(0, 1), epochs=1), tiny_store, folder, say=silent)
    evaluate_run(run, tiny_store, "test")
    for mine in ("notes.txt", "members/0/notes.txt", "metrics_of_mine.json"):
        (folder / mine).write_text("mine")
    train(quick(epochs=1), tiny_store, folder, overwrite=True, say=silent)
    assert files_of(folder) == MEMBER | {"notes.txt", "members/0/notes.txt", "metrics_of_mine.json"}
    assert not (folder / "members/1").exists()
    delete_run(folder)
    assert files_of(folder) == {"notes.txt", "members/0/notes.txt", "metrics_of_mine.json"}


def test_what_eval_refuses_of_folds_is_not_recommended(folds, tiny_store, tmp_path):
    """`eval --split val` refuses a run of folds: a report says where to look instead."""
    with pytest.raises(InputError, match=r"no metrics_val\.json .*judged out of fold: --split oof"):
        report_content(folds, split="val")
    member = shutil.copytree(folds.path / "members/1", tmp_path / "r")
    value = json.loads((member / "metrics_val.json").read_bytes())
    (member / "metrics_val.json").write_text(json.dumps(value | {"n_records": 1}))
    with pytest.raises(
        InputError,
        match=r"not of one evaluation\. `ecgfit train` with the run's settings and --resume",
    ):
        report_content(RunFolder(member), split="val")
    (member / "metrics_val.json").write_text(
        json.dumps(value | {"metrics": {"auroc": {"value": "0.5"}}})
    )
    train(RunFolder(member).config, tiny_store, member, resume=True, say=silent)
    assert json.loads((member / "metrics_val.json").read_bytes()) == value


def test_overwriting_with_settings_that_are_refused_deletes_nothing(tiny_store, tmp_path):
    train(quick(seeds=(0, 1), epochs=1), tiny_store, tmp_path / "e", say=silent)
    before = files_of(tmp_path / "e")
    (tmp_path / "no.pt").write_text("no weights")
    for wrong in ({"tabular": "weight"}, {"init_from": str(tmp_path / "no.pt")}):
        with pytest.raises((InputError, StoreError)):
            train(
                quick(seeds=(0, 1), epochs=1, **wrong),
                tiny_store,
                tmp_path / "e",
                overwrite=True,
                say=silent,
            )
        assert files_of(tmp_path / "e") == before


def test_poisoned_test_rows_change_nothing_of_an_ensemble_with_covariates(
    ensemble, tiny_store, tmp_path
):
    test = np.flatnonzero(tiny_store.array("split")[:] == 2)
    label, waveforms, moments, covariates = (
        np.array(tiny_store.array(name)) for name in ("label", "waveforms", "moments", "covariates")
    )
    label[test], covariates[test], moments[test] = 1 - label[test], 1e6, 10**12
    waveforms[test] = np.random.default_rng(0).integers(-32000, 32000, waveforms[test].shape)
    poisoned = changed_store(
        tiny_store,
        tmp_path / "p.zarr",
        label=label,
        waveforms=waveforms,
        moments=moments,
        covariates=covariates,
    )
    again = train(ensemble.config, poisoned, tmp_path / "e", say=silent)
    for one, other in zip((ensemble, *ensemble.members), (again, *again.members), strict=True):
        for name in (*DECIDED, *RESULTS):
            assert (one.path / name).exists() == (other.path / name).exists()
            if (one.path / name).exists():
                assert (one.path / name).read_bytes() == (other.path / name).read_bytes()
    for one, other in zip(ensemble.members, again.members, strict=True):
        assert same_weights(one.path, other.path)


@pytest.mark.parametrize("missing", ["drop", "mask"])
def test_folds_score_every_patient_of_train_and_val_once_and_never_train_on_them(
    tiny_store, missing
):
    patient, split = tiny_store.array("patient")[:], tiny_store.array("split")[:]
    label = tiny_store.array("label")[:]
    usable = np.sort(
        np.concatenate([select_rows(tiny_store, name, missing) for name in ("train", "val")])
    )
    scored = []
    for fold in reversed(range(5)):
        rows = fold_rows(tiny_store, missing, 5, fold, 0)
        sets = {name: set(patient[found]) for name, found in rows.items()}
        assert not sets["scored"] & (sets["val"] | sets["train"])
        assert not sets["val"] & sets["train"]
        assert np.array_equal(np.sort(np.concatenate(list(rows.values()))), usable)
        assert not (split[np.concatenate(list(rows.values()))] == 2).any()
        is_positive = label[rows["scored"]] == 1
        positives = set(patient[rows["scored"]][is_positive])
        assert 2 <= len(positives) <= 6  # dealt evenly within each class
        scored.append(rows["scored"])
    assert np.array_equal(np.sort(np.concatenate(scored)), usable)


def test_run_of_folds(folds, tiny_store):
    rows = np.sort(
        np.concatenate([select_rows(tiny_store, name, "drop") for name in ("train", "val")])
    )
    table = pd.read_csv(folds.path / "predictions_oof.csv")
    assert table.row.tolist() == rows.tolist()
    parts = [
        pd.read_csv(member.path / "predictions_oof.csv").assign(threshold=member.threshold)
        for member in folds.members
    ]
    joined = pd.concat(parts).sort_values("row").reset_index(drop=True)
    # Each model's own calibration and threshold count, whatever the run's are.
    columns = ["row", "patient", "label", "probability", "threshold"]
    np.testing.assert_allclose(table[columns], joined[columns], rtol=1e-7)
    np.testing.assert_allclose(expit(table.logit_1 - table.logit_0), table.probability, rtol=1e-6)
    metrics = json.loads((folds.path / "metrics_oof.json").read_bytes())
    assert metrics["split"] == "oof"
    assert metrics["n_records"] == len(rows)
    assert metrics["n_patients"] == table.patient.nunique()
    assert folds.read_json("threshold.json")["chosen_on"] == "oof"
    assert [member.config.fold for member in folds.members] == list(range(FOLDS))
    for member in folds.members:
        assert member.read_json("threshold.json")["chosen_on"] == "val"
        assert member.read_json("metrics_oof.json")["threshold"] == member.threshold
    assert not (folds.path / "metrics_val.json").exists()
    assert "mean logit" in folds.calibration.note
    n_test = len(select_rows(tiny_store, "test", "drop"))
    assert evaluate_run(folds, tiny_store, "test")["n_records"] == n_test


def test_results_out_of_fold_are_those_of_each_fold_s_own_model(folds):
    metrics = folds.read_json("metrics_oof.json")
    each = [member.read_json("metrics_oof.json") for member in folds.members]
    assert metrics["threshold"] is None
    assert metrics["confusion"] == {
        cell: sum(own["confusion"][cell] for own in each) for cell in ("tp", "fp", "fn", "tn")
    }
    n = sum(own["n_patients"] for own in each)
    for name in ("accuracy", "brier", "net_benefit"):  # means over patients: those of folds add up
        parts = [own["metrics"][name]["value"] * own["n_patients"] / n for own in each]
        assert metrics["metrics"][name]["value"] == pytest.approx(sum(parts), abs=1e-6)
    aurocs = [own["metrics"]["auroc"]["value"] for own in each]
    assert metrics["folds"]["auroc"] == pytest.approx(
        {"mean": np.mean(aurocs), "sd": np.std(aurocs, ddof=1)}
    )
    assert metrics["folds"]["each"]["1"]["threshold"] == folds.members[1].threshold
    assert "that model's own calibration" in metrics["note"]


def test_report_of_folds_shows_each_and_judges_by_their_own_thresholds(folds):
    content = report_content(folds, split="oof")
    assert [row["fold"] for row in content["folds"]["rows"]] == list("0123")
    assert content["folds"]["auroc"].startswith(
        f"{folds.read_json('metrics_oof.json')['folds']['auroc']['mean']:.3f} (SD "
    )
    assert "At the threshold of each fold's own model" in content["summary"]
    assert content["main"]["threshold"] == "of each fold's own model"
    assert any(
        "the model that neither trained nor was selected on them" in line
        for line in content["warnings"]
    )
    n = folds.read_json("metrics_oof.json")["n_records"]
    texts = {item.number: item.text for item in content["checklist"]}
    assert f"{n} cross-validated" in texts["10"]
    assert all("the model that did not see them" in texts[number] for number in ("12f", "13"))
    assert "the results out of fold use each model's own" in texts["15"]
    raw = EvaluatedSplit.load(folds, "oof").uncalibrated()
    members = np.concatenate(
        [
            Predictions.load(member.path / "predictions_oof.csv").by_patient().logit_difference()
            for member in folds.members
        ]
    )
    np.testing.assert_allclose(np.sort(raw.logit_difference()), np.sort(members))


def test_runs_of_folds_are_compared_as_they_were_judged(folds, tiny_store, tmp_path):
    other = train(quick(folds=FOLDS, epochs=1, seed=1), tiny_store, tmp_path / "f", say=silent)
    compared = compare_runs([folds, other], "oof")["against_first"][str(other.path)]["metrics"]
    for key, run in (("value_a", folds), ("value_b", other)):
        expected = run.read_json("metrics_oof.json")["metrics"]
        for name in ("auroc", "brier", "sensitivity", "accuracy", "net_benefit"):
            assert compared[name][key] == pytest.approx(expected[name]["value"], abs=1e-6)


def keys_of(value: object, named_by_data: int = 0) -> set[str]:
    """Return every key of nested JSON, but not the names of groups, leads and folds."""
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    if not isinstance(value, dict):
        return set()
    inner = {"subgroups": 2, "lead_removal": 1, "each": 1}
    below = (
        keys_of(item, named_by_data - 1 if named_by_data else inner.get(key, 0))
        for key, item in value.items()
    )
    return (set() if named_by_data else set(value)).union(*below)


def test_every_number_is_documented(folds, ensemble, tiny_store):
    names = re.findall(
        r"`([a-z0-9_.]+)`", (Path(__file__).parent.parent / "docs/metrics.md").read_text()
    )
    documented = {part for name in names for part in name.split(".")}
    values = [
        evaluate_run(ensemble, tiny_store, "test", each_lead=True),
        folds.read_json("metrics_oof.json"),
    ]
    values += [ensemble.read_json(name) for name in ("threshold.json", "calibration.json")]
    found = keys_of(values)
    assert {"frac", "treat_all", "sd", "value_b", "suppressed"} <= found
    assert found <= documented


@pytest.mark.parametrize("split", ["train", "val", "all"])
def test_rows_that_trained_folds_cannot_judge_them_nor_one_of_them(folds, tiny_store, split):
    before = (folds.members[0].path / "metrics_val.json").read_bytes()
    for run in (folds, folds.members[0]):
        with pytest.raises(InputError, match="whose rows trained it"):
            evaluate_run(run, tiny_store, split)
    assert (folds.members[0].path / "metrics_val.json").read_bytes() == before


def test_fold_alone_is_the_member(folds, tiny_store, tmp_path):
    alone = train(quick(folds=FOLDS, epochs=1, fold=2), tiny_store, tmp_path / "2", say=silent)
    assert same_results(alone.path, folds.path / "members/2")


def test_labels_and_waveforms_of_the_scored_fold_decide_nothing(
    folds, tiny_store, tmp_path, monkeypatch
):
    dealt = fold_rows(tiny_store, "drop", FOLDS, 0, 0)
    label, waveforms = (np.array(tiny_store.array(name)) for name in ("label", "waveforms"))
    label[dealt["scored"]] = 1 - label[dealt["scored"]]
    waveforms[dealt["scored"]] = -waveforms[dealt["scored"]]
    poisoned = changed_store(tiny_store, tmp_path / "p.zarr", label=label, waveforms=waveforms)
    # Patients are dealt to folds by the labels of all, so the poisoned ones would be dealt anew.
    monkeypatch.setattr(trainer_module, "fold_rows", lambda *_: dealt)
    again = train(quick(folds=FOLDS, epochs=1, fold=0), poisoned, tmp_path / "0", say=silent)
    member = folds.path / "members/0"
    assert same_weights(again.path, member)
    for name in (*DECIDED, *RESULTS, "curves.csv"):
        assert (again.path / name).read_bytes() == (member / name).read_bytes()
    out_of_fold = [folder / "metrics_oof.json" for folder in (again.path, member)]
    assert out_of_fold[0].read_bytes() != out_of_fold[1].read_bytes()


def test_more_folds_than_the_patients_allow_are_refused_before_training(tiny_store, tmp_path):
    with pytest.raises(InputError, match=r"too few for 100 folds|rows hold \d+ positive"):
        train(quick(folds=100), tiny_store, tmp_path / "f", say=silent)
    assert not (tmp_path / "f").exists()


def test_weights_of_folds_go_to_the_same_fold(folds, tiny_store, tmp_path):
    """Those of another fold have seen the patients that this one scores."""
    said = []
    config = quick(
        folds=FOLDS,
        fold=3,
        epochs=1,
        lr=1e-30,
        weight_decay=0,
        ema=0,
        aug="none",
        freeze="backbone",
        init_from=str(folds.path),
    )
    run = train(config, tiny_store, tmp_path / "3", say=said.append)
    assert not [line for line in said if "make sure" in line]
    weights = [
        load_ensemble([member], "cpu").state_dict()
        for member in (run, folds.members[3], folds.members[0])
    ]
    name = next(key for key in weights[0] if key.endswith("weight"))
    assert np.array_equal(weights[0][name], weights[1][name])
    assert not np.array_equal(weights[0][name], weights[2][name])
    said.clear()
    without_folds = quick(epochs=1, init_from=str(folds.path))
    train(without_folds, tiny_store, tmp_path / "other", say=said.append)
    warning = "make sure that no patient of this store's val and test splits"
    assert any(warning in line for line in said)
