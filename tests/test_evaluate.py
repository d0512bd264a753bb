"""Evaluation: another store, patients instead of recordings, leads taken away, groups, runs against each other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import build, changed_store, quick, silent
from sklearn.metrics import roc_auc_score

from ecgfit.checkpoint import load_checkpoint
from ecgfit.evaluation.compare_runs import compare_runs
from ecgfit.evaluation.evaluate import evaluate_run
from ecgfit.evaluation.groups import covariate_groups, patient_groups
from ecgfit.inference.predictions import Predictions
from ecgfit.models.factory import build_model
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.run import Run
from ecgfit.run_files import BEST
from ecgfit.training.runner import train
from ecgprep.building.plan import BuildSettings
from ecgprep.conform import Conformity
from ecgprep.errors import InputError, StoreError
from ecgprep.leads import LEADS
from ecgprep.patients.registry import SplitPlan
from ecgprep.simulation.corpus import write_corpus
from ecgprep.store.reader import Store


@pytest.fixture(scope="module")
def run(small_store, tmp_path_factory) -> Run:
    return train(
        quick(missing="mask", epochs=2),
        small_store,
        tmp_path_factory.mktemp("runs") / "ecg",
        say=silent,
    )


@pytest.fixture(scope="module")
def both(small_store, tmp_path_factory) -> Run:
    return train(
        quick(missing="mask", epochs=2, tabular="age,sex"),
        small_store,
        tmp_path_factory.mktemp("runs") / "both",
        say=silent,
    )


@pytest.fixture(scope="module")
def clinical(small_store, tmp_path_factory) -> Run:
    config = quick(missing="mask", epochs=2, tabular="age,sex", tabular_only=True)
    return train(config, small_store, tmp_path_factory.mktemp("runs") / "clinical", say=silent)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Store:
    """Another hospital's store."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_corpus(folder, patients=30, seed=9, prevalence=0.4)
    return build(
        folder / "manifest.csv",
        folder / "s.zarr",
        BuildSettings(Conformity(100, 1000)),
        covariates=("age", "sex"),
    )


def test_another_store_is_an_external_test_only_when_asked(run, small_store, elsewhere, store):
    with pytest.raises(StoreError, match="--external when no patient"):
        evaluate_run(run, elsewhere, "test")
    with pytest.raises(StoreError, match="so this is not an external test. Leave out --external"):
        evaluate_run(run, small_store, "all", external=True)
    with pytest.raises(
        StoreError,
        match=r"the sampling rate in Hz \(=500.0\) is not that of the run's store \(100.0\)",
    ):
        evaluate_run(run, store, "all", external=True)


def test_store_without_the_covariates_of_the_run_is_refused(both, corpus, tmp_path):
    bare = build(
        corpus / "manifest.csv", tmp_path / "bare.zarr", BuildSettings(Conformity(100, 1000))
    )
    with pytest.raises(InputError, match="has no covariate age, sex"):
        evaluate_run(both, bare, "all", external=True)


def test_external_test_uses_what_the_run_has_decided(run, elsewhere):
    """Everything anew by hand: z-score, network, calibration, mean logit of a patient, threshold."""
    metrics = evaluate_run(run, elsewhere, "all", external=True)
    name = f"external_{elsewhere.content_sha256[:12]}"
    stats, calibration = (
        json.loads((run.path / "norm_stats.json").read_bytes()),
        json.loads((run.path / "calibration.json").read_bytes()),
    )
    model = build_model("resnet1d", 9, 0).eval()
    model.load_state_dict(load_checkpoint(run.path / BEST)["model"])
    table = pd.DataFrame(
        {"patient": elsewhere.array("patient")[:], "label": elsewhere.array("label")[:]}
    )
    logits = []
    for i in range(len(elsewhere)):
        start, end = elsewhere.array("valid_span")[i]
        mask = elsewhere.array("lead_mask")[i].astype(bool)
        x = np.zeros((9, 1000))
        z = (
            elsewhere.array("waveforms")[i].astype(float) - np.array(stats["mean_uv"])[:, None]
        ) / np.array(stats["std_uv"])[:, None]
        x[:8][mask, start:end], x[8, start:end] = z[mask, start:end], mask.mean()
        with torch.no_grad():
            logits.append(
                model(torch.tensor(x[None], dtype=torch.float32), None)[0].double().numpy()
            )
    table["d"] = np.diff(np.array(logits), axis=1)[:, 0]
    saved = pd.read_csv(run.path / f"predictions_{name}.csv")
    np.testing.assert_allclose(saved.logit_1 - saved.logit_0, table.d, rtol=1e-3, atol=1e-4)
    patients = table.groupby("patient").agg(label=("label", "max"), d=("d", "mean"))
    probability = 1 / (1 + np.exp(-(calibration["slope"] * patients.d + calibration["intercept"])))
    called = probability >= run.threshold
    assert metrics["metrics"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(patients.label, probability), abs=0.01
    )
    assert abs(metrics["confusion"]["tp"] - int((called & (patients.label == 1)).sum())) <= 1
    assert metrics["threshold"] == run.threshold
    assert metrics["calibration"]["slope"] == calibration["slope"]
    assert (metrics["split"], metrics["n_records"]) == (name, len(elsewhere))
    assert metrics == json.loads((run.path / f"metrics_{name}.json").read_bytes())


def test_recordings_that_trained_the_run_are_found_in_another_store(
    run, small_store, elsewhere, corpus, tmp_path
):
    """A store of some of the same patients: those of the run's test split do no harm, those that trained it do."""
    name = f"metrics_external_{elsewhere.content_sha256[:12]}.json"
    assert (
        evaluate_run(run, elsewhere, "all", external=True)["external"]["shared_recordings"] is None
    )
    assert (
        evaluate_run(run, elsewhere, "all", external=True, trained_on=small_store)["external"][
            "shared_recordings"
        ]
        == 0
    )
    assert run.read_json(name)["external"]["shared_recordings"] == 0
    with pytest.raises(StoreError, match="was trained on another store"):
        evaluate_run(run, elsewhere, "all", external=True, trained_on=elsewhere)
    lines = (corpus / "manifest.csv").read_text().splitlines()
    tested = small_store.array("split")[:] == 2
    for which, n in ((tested, 0), (np.arange(len(tested)) < 25, int((~tested[:25]).sum()))):
        part = corpus / f"part{n}.csv"
        part.write_text(
            "\n".join(
                [lines[0], *(line for line, keep in zip(lines[1:], which, strict=True) if keep), ""]
            )
        )
        settings = BuildSettings(
            Conformity(100, 1000), SplitPlan((0, 0, 100), allow_missing_class=True)
        )
        shared = build(part, tmp_path / f"{n}.zarr", settings, covariates=("age", "sex"))
        if n:
            with pytest.raises(StoreError, match=f"{n} recordings trained or selected"):
                evaluate_run(run, shared, "all", external=True, trained_on=small_store)
        else:
            assert (
                evaluate_run(run, shared, "all", external=True, trained_on=small_store)["external"][
                    "shared_recordings"
                ]
                == 0
            )


def test_another_aggregate_leaves_the_run_s_own_results_alone(run, small_store, tmp_path):
    copy = Run(Path(shutil.copytree(run.path, tmp_path / "run")))
    evaluate_run(copy, small_store, "test", each_lead=True)
    before = {
        name: (copy.path / name).read_bytes()
        for name in ("metrics_test.json", "predictions_test.csv")
    }
    assert evaluate_run(copy, small_store, "test", aggregate="none")["level"] == "recording"
    assert copy.read_json("metrics_test_none.json")["aggregation"] == "none"
    assert {name: (copy.path / name).read_bytes() for name in before} == before
    assert EvaluatedSplit.load(copy, "test_none").metrics["level"] == "recording"


@pytest.mark.parametrize("how", ["mean", "max", "first", "last", "none"])
def test_aggregation_is_that_of_pandas(run, small_store, how):
    metrics = evaluate_run(run, small_store, "all", aggregate=how)
    table = pd.read_csv(run.path / "predictions_all.csv")
    table["d"] = table.logit_1 - table.logit_0
    grouped = table.sort_values("row").groupby("patient")
    expected = table if how == "none" else grouped.agg(label=("label", "max"), d=("d", how))
    assert len(expected) < len(table) or how == "none"
    assert metrics["metrics"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(expected.label, expected.d), abs=1e-9
    )
    assert (metrics["aggregation"], metrics["level"]) == (
        how,
        "recording" if how == "none" else "patient",
    )
    assert metrics["threshold"] == run.threshold
    if how == "none":
        assert "count_baseline" not in metrics
    else:
        counts = table.groupby("patient").agg(label=("label", "max"), n=("row", "size"))
        assert metrics["count_baseline"]["auroc"]["value"] == pytest.approx(
            roc_auc_score(counts.label, counts.n), abs=1e-9
        )


def test_each_lead_removed_is_a_store_without_that_lead(run, small_store, tmp_path):
    metrics = evaluate_run(run, small_store, "all", each_lead=True)
    assert list(metrics["lead_removal"]) == list(LEADS)
    copy = Path(shutil.copytree(run.path, tmp_path / "run"))
    for lead in ("I", "V3"):
        mask = np.array(small_store.array("lead_mask"))
        mask[:, LEADS.index(lead)] = 0
        without = changed_store(small_store, tmp_path / f"{lead}.zarr", lead_mask=mask)
        value = evaluate_run(Run(copy), without, "all")["metrics"]["auroc"]["value"]
        assert metrics["lead_removal"][lead]["auroc"]["value_b"] == pytest.approx(value, abs=1e-12)
        assert metrics["lead_removal"][lead]["auroc"]["value_a"] == pytest.approx(
            metrics["metrics"]["auroc"]["value"], abs=1e-12
        )
    assert len({entry["brier"]["value_b"] for entry in metrics["lead_removal"].values()}) == 8


def test_what_a_missing_lead_left_out_is_counted(small_store, tmp_path):
    rows = np.flatnonzero(
        (small_store.array("split")[:] == 2) & (small_store.array("status")[:] == 0)
    )
    patient, label, mask = (
        np.array(small_store.array(name)) for name in ("patient", "label", "lead_mask")
    )
    gone = rows[
        np.isin(patient[rows], np.unique(patient[rows])[:2])
    ]  # two patients with all of their recordings
    mask[gone, 3] = False
    several = next(p for p in np.unique(patient[rows])[2:] if (patient[rows] == p).sum() > 1)
    one = rows[patient[rows] == several][0]
    mask[one, 0] = False
    store = changed_store(small_store, tmp_path / "m.zarr", lead_mask=mask)
    run = train(quick(epochs=1), store, tmp_path / "r", say=silent)
    table = pd.DataFrame(
        {
            "row": rows,
            "patient": patient[rows],
            "label": label[rows],
            "whole": mask[rows].all(axis=1),
        }
    )
    left = table[~table.whole]
    expected = {
        "reason": "a lead is missing",
        "n_records": len(left),
        "n_positive_records": int(left.label.sum()),
        "n_patients": int((~table.groupby("patient").whole.any()).sum()),
        "n_positive": int(
            table.groupby("patient")
            .filter(lambda own: not own.whole.any())
            .groupby("patient")
            .label.max()
            .sum()
        ),
    }
    metrics = evaluate_run(run, store, "test")
    assert metrics["excluded"] == expected
    assert expected["n_patients"] >= 2
    assert expected["n_records"] > expected["n_patients"]
    assert metrics["n_records"] + expected["n_records"] == len(rows)
    masked = train(quick(epochs=1, missing="mask"), store, tmp_path / "mask", say=silent)
    assert evaluate_run(masked, store, "test")["excluded"]["n_records"] == 0


def test_results_of_an_earlier_training_are_neither_reported_nor_compared(small_store, tmp_path):
    runs = [
        train(quick(epochs=1, seed=seed), small_store, tmp_path / str(seed), say=silent)
        for seed in (0, 1)
    ]
    for run in runs:
        evaluate_run(run, small_store, "test")
    for name in ("metrics_test.json", "predictions_test.csv"):
        shutil.copy(runs[0].path / name, runs[1].path / name)
    with pytest.raises(InputError, match="of an earlier training"):
        compare_runs(runs, "test")
    with pytest.raises(InputError, match="of an earlier training"):
        EvaluatedSplit.load(runs[1], "test")
    (runs[0].path / "metrics_test.json").write_text("{}")
    with pytest.raises(InputError, match="are not of one evaluation"):
        EvaluatedSplit.load(runs[0], "test")


def test_mixed_patients_and_unlabelled_recordings(run, small_store, tmp_path):
    label = np.array(small_store.array("label"))
    patient = small_store.array("patient")[:]
    several = np.flatnonzero(np.bincount(patient) > 1)
    mixed, unknown = several[:3], several[3:5]
    for p in mixed:
        rows = np.flatnonzero(patient == p)
        label[rows[0]], label[rows[1:]] = 1, 0
    label[np.isin(patient, unknown)] = -1
    changed = changed_store(small_store, tmp_path / "m.zarr", label=label)
    metrics = evaluate_run(Run(Path(shutil.copytree(run.path, tmp_path / "run"))), changed, "all")
    assert metrics["n_records"] == int((label >= 0).sum())
    assert metrics["n_patients"] == len(np.unique(patient)) - 2
    expected = sum(len({0, 1} & set(label[patient == p])) == 2 for p in np.unique(patient))
    assert metrics["n_mixed_patients"] == expected >= 3


def test_split_without_one_class_is_told(run, small_store, tmp_path):
    label = np.array(small_store.array("label"))
    label[small_store.array("split")[:] == 2] = 0
    changed = changed_store(small_store, tmp_path / "o.zarr", label=label)
    metrics = evaluate_run(Run(Path(shutil.copytree(run.path, tmp_path / "run"))), changed, "test")
    assert metrics["metrics"]["auroc"]["value"] is None
    assert metrics["metrics"]["specificity"]["value"] is not None


def test_groups_are_those_of_the_patients(small_store):
    rows = np.arange(len(small_store))[::-1]
    patient = np.array(small_store.array("patient")[:][rows], np.int64)
    predictions = Predictions(
        rows,
        patient,
        np.array(small_store.array("label")[:][rows], np.int64),
        np.zeros((len(rows), 2)),
    )
    patients = predictions.by_patient("mean")
    groups = patient_groups(small_store, predictions, patients)
    lacks = ~small_store.array("lead_mask")[:].astype(bool).all(axis=1)
    assert lacks.any()
    for p, leads in zip(patients.patient, groups["leads"], strict=True):
        assert leads == (
            "some missing" if lacks[small_store.array("patient")[:] == p].any() else "all eight"
        )
    assert set(groups) == {"leads", "source_rate", "age", "sex"}
    assert set(groups["sex"]) <= {"0", "1", "missing"}
    # of one recording a patient, in whatever order
    _, first = np.unique(patient, return_index=True)
    order = first[np.random.default_rng(0).permutation(len(first))]
    one = Predictions(
        rows[order], patient[order], predictions.label[order], np.zeros((len(order), 2))
    )
    by_patient = one.by_patient("mean")
    leads = patient_groups(small_store, one, by_patient)["leads"]
    assert leads.tolist() == [
        "some missing" if lacks[row] else "all eight" for row in by_patient.rows
    ]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        (
            "age",
            [20, 50, 64.9, 65, 74, 75, 90, np.nan],
            [
                "0 to below 50",
                "50 to below 65",
                "50 to below 65",
                "65 to below 75",
                "65 to below 75",
            ],
        ),
        ("sex", [0, 1, np.nan, 1], ["0", "1", "missing", "1"]),
        (
            "dose",
            [1, 2, 3, 4, 5, 6, 7],
            [
                "below 4",
                "below 4",
                "below 4",
                "4 and above",
                "4 and above",
                "4 and above",
                "4 and above",
            ],
        ),
    ],
)
def test_covariates_are_grouped(name, values, expected):
    assert (
        covariate_groups(name, np.array(values, np.float32)).tolist()[: len(expected)] == expected
    )


def test_covariates_alone_ignore_the_waveform(clinical, both, small_store, tmp_path):
    waveforms = np.array(small_store.array("waveforms"))
    poisoned = changed_store(small_store, tmp_path / "p.zarr", waveforms=-waveforms)
    results = []
    for run in (clinical, both):
        copies = [
            Run(Path(shutil.copytree(run.path, tmp_path / f"{run.path.name}{i}"))) for i in (0, 1)
        ]
        for copy, source in zip(copies, (small_store, poisoned), strict=True):
            evaluate_run(copy, source, "test")
        one, other = (copy.path / "predictions_test.csv" for copy in copies)
        results.append(one.read_bytes() == other.read_bytes())
    assert results == [True, False]


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ecgfit.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_compare_ecg_covariates_and_both(run, clinical, both, small_store):
    runs = [run, clinical, both]
    metrics = [evaluate_run(each, small_store, "test") for each in runs]
    done = cli("compare", *(each.path for each in runs), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["runs"] == [str(each.path) for each in runs]
    assert list(result["against_first"]) == [str(clinical.path), str(both.path)]
    for each, own in zip(runs[1:], metrics[1:], strict=True):
        for name in ("auroc", "auprc", "brier", "sensitivity"):
            entry = result["against_first"][str(each.path)]["metrics"][name]
            expected = [of["metrics"][name]["value"] for of in (metrics[0], own)]
            assert [entry["value_a"], entry["value_b"]] == pytest.approx(expected, abs=1e-8)
            assert entry["difference"] == pytest.approx(entry["value_b"] - entry["value_a"])
            assert entry["ci95"][0] <= entry["difference"] <= entry["ci95"][1]
    assert result["n_patients"] == metrics[0]["n_patients"]
    table = cli("compare", run.path, clinical.path)
    assert table.returncode == 0, table.stderr
    assert "DeLong" in table.stdout
    assert cli("compare", run.path).returncode == 2


def test_compare_refuses_what_cannot_be_compared(
    run, clinical, both, small_store, elsewhere, tmp_path
):
    for each in (run, clinical, both):
        evaluate_run(each, small_store, "test")
    with pytest.raises(InputError, match="given twice"):
        compare_runs([run, run], "test")
    with pytest.raises(
        InputError, match=r"has no predictions of train \(it has: .*test.*\)\. `ecgfit eval"
    ):
        compare_runs([run, both], "train")
    other = train(quick(missing="mask", epochs=1), elsewhere, tmp_path / "other", say=silent)
    evaluate_run(other, elsewhere, "test")
    with pytest.raises(
        InputError, match="were trained on different stores, so their test patients may differ"
    ):
        compare_runs([run, other], "test")
    fewer = Path(shutil.copytree(both.path, tmp_path / "fewer"))
    lines = (fewer / "predictions_test.csv").read_text().splitlines(keepends=True)
    (fewer / "predictions_test.csv").write_text("".join(lines[:-3]))
    with pytest.raises(InputError, match="do not predict the same test patients"):
        compare_runs([run, Run(fewer)], "test")
    per_recording = train(
        quick(missing="mask", epochs=1, aggregate="none"),
        small_store,
        tmp_path / "recordings",
        say=silent,
    )
    evaluate_run(per_recording, small_store, "test")
    with pytest.raises(InputError, match="one judges recordings, the other patients"):
        compare_runs([run, per_recording], "test")
    (fewer / "predictions_test.csv").write_text("row\nx")
    with pytest.raises(InputError, match="missing or damaged"):
        compare_runs([run, Run(fewer)], "test")
