"""Evaluation: other stores, patients instead of recordings, leads removed, groups, comparisons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from helpers import build, changed_store, copy_run, trained
from sklearn.metrics import roc_auc_score

from ecgfit.checkpoint import load_checkpoint
from ecgfit.cli import cli
from ecgfit.evaluation.compare_runs import compare_runs
from ecgfit.evaluation.evaluate import evaluate_run
from ecgfit.evaluation.groups import covariate_groups, patient_groups
from ecgfit.inference.predictions import Predictions
from ecgfit.models.factory import build_model
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.run import RunFolder
from ecgfit.run_files import BEST
from ecgprep.building.plan import BuildSettings
from ecgprep.conform import Conformity
from ecgprep.errors import InputError, StoreError
from ecgprep.leads import LEADS
from ecgprep.patients.registry import SplitPlan
from ecgprep.simulation.corpus import write_corpus
from ecgprep.store.reader import Store

TINY = Conformity(100, 200)


@pytest.fixture(scope="module")
def run(tiny_store, tmp_path_factory) -> RunFolder:
    """A single run with the mask channel."""
    return trained(tiny_store, tmp_path_factory.mktemp("runs") / "ecg", missing="mask")


@pytest.fixture(scope="module")
def both(tiny_store, tmp_path_factory) -> RunFolder:
    """A run on ECG and covariates."""
    settings = {"missing": "mask", "tabular": "age,sex"}
    return trained(tiny_store, tmp_path_factory.mktemp("runs") / "both", **settings)


@pytest.fixture(scope="module")
def clinical(tiny_store, tmp_path_factory) -> RunFolder:
    """A run on covariates alone."""
    settings = {"missing": "mask", "tabular": "age,sex", "tabular_only": True, "model_args": ""}
    return trained(tiny_store, tmp_path_factory.mktemp("runs") / "clinical", **settings)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Store:
    """Another hospital's store."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_corpus(folder, patients=30, seed=9, prevalence=0.4)
    settings = BuildSettings(TINY, duplicates="exact")
    return build(folder / "manifest.csv", folder / "s.zarr", settings, covariates=("age", "sex"))


# External stores


def test_another_store_is_an_external_test_only_when_asked(run, tiny_store, elsewhere, small_store):
    with pytest.raises(StoreError, match="If no patient of this store .*--external"):
        evaluate_run(run, elsewhere, "test")
    with pytest.raises(StoreError, match="so this is not an external test. Leave out --external"):
        evaluate_run(run, tiny_store, "all", external=True)
    with pytest.raises(StoreError, match=r"number of samples \(=1000\) is not that of the run's"):
        evaluate_run(run, small_store, "all", external=True)


def test_store_without_the_covariates_of_the_run_is_refused(both, elsewhere, tmp_path):
    manifest = elsewhere.path.parent / "manifest.csv"
    bare = build(manifest, tmp_path / "bare.zarr", BuildSettings(TINY, duplicates="exact"))
    with pytest.raises(InputError, match="has no covariate age, sex"):
        evaluate_run(both, bare, "all", external=True)


def logit_differences_by_hand(run: RunFolder, store: Store) -> np.ndarray:
    """Return the difference of logits of every row: z-score, mask channel, network."""
    stats = json.loads((run.path / "norm_stats.json").read_bytes())
    mean, std = np.array(stats["mean_uv"])[:, None], np.array(stats["std_uv"])[:, None]
    model = build_model("resnet1d", 9, 0, model_args=run.config.model_args).eval()
    model.load_state_dict(load_checkpoint(run.path / BEST)["model"])
    inputs = np.zeros((len(store), 9, store.n_samples))
    for i, x in enumerate(inputs):
        start, end = store.array("valid_span")[i]
        mask = store.array("lead_mask")[i].astype(bool)
        z = (store.array("waveforms")[i].astype(float) - mean) / std
        x[:8][mask, start:end] = z[mask, start:end]
        x[8, start:end] = mask.mean()
    with torch.no_grad():
        logits = model(torch.tensor(inputs, dtype=torch.float32), None).double().numpy()
    return logits[:, 1] - logits[:, 0]


def test_external_test_uses_what_the_run_has_decided(run, elsewhere):
    """Everything anew by hand, with calibration, mean logit of a patient and threshold."""
    metrics = evaluate_run(run, elsewhere, "all", external=True)
    name = f"external_{elsewhere.content_sha256[:12]}"
    calibration = json.loads((run.path / "calibration.json").read_bytes())
    d = logit_differences_by_hand(run, elsewhere)
    saved = pd.read_csv(run.path / f"predictions_{name}.csv")
    np.testing.assert_allclose(saved.logit_1 - saved.logit_0, d, rtol=1e-3, atol=1e-4)
    label, patient = elsewhere.array("label")[:], elsewhere.array("patient")[:]
    table = pd.DataFrame({"patient": patient, "label": label, "d": d})
    patients = table.groupby("patient").agg(label=("label", "max"), d=("d", "mean"))
    probability = 1 / (1 + np.exp(-(calibration["slope"] * patients.d + calibration["intercept"])))
    true_positive = (probability >= run.threshold) & (patients.label == 1)
    auroc = roc_auc_score(patients.label, probability)
    assert metrics["metrics"]["auroc"]["value"] == pytest.approx(auroc, abs=0.01)
    assert abs(metrics["confusion"]["tp"] - true_positive.sum()) <= 1
    assert metrics["threshold"] == run.threshold
    assert metrics["calibration"]["slope"] == calibration["slope"]
    assert (metrics["split"], metrics["n_records"]) == (name, len(elsewhere))
    assert metrics == json.loads((run.path / f"metrics_{name}.json").read_bytes())


def count_shared(run: RunFolder, store: Store, trained_on: Store | None) -> int | None:
    metrics = evaluate_run(run, store, "all", external=True, trained_on=trained_on)
    return metrics["external"]["shared_recordings"]


def test_another_store_is_searched_for_recordings_of_the_run(run, tiny_store, elsewhere):
    name = f"metrics_external_{elsewhere.content_sha256[:12]}.json"
    assert count_shared(run, elsewhere, None) is None
    assert count_shared(run, elsewhere, tiny_store) == 0
    assert run.read_json(name)["external"]["shared_recordings"] == 0
    with pytest.raises(StoreError, match="was trained on another store"):
        count_shared(run, elsewhere, elsewhere)


def store_of_rows(corpus: Path, keep: np.ndarray, target: Path) -> Store:
    """Build a store of the corpus' recordings where `keep` is true."""
    header, *lines = (corpus / "manifest.csv").read_text().splitlines()
    manifest = corpus / f"{target.stem}.csv"
    kept = [line for line, wanted in zip(lines, keep, strict=True) if wanted]
    manifest.write_text("\n".join([header, *kept, ""]))
    plan = SplitPlan((0, 0, 100), allow_missing_class=True)
    settings = BuildSettings(TINY, plan, duplicates="exact")
    return build(manifest, target, settings, covariates=("age", "sex"))


def test_recordings_that_trained_the_run_are_found_in_another_store(
    run, tiny_store, corpus, tmp_path
):
    """Patients of the run's test split do no harm; those that trained it do."""
    tested = tiny_store.array("split")[:] == 2
    harmless = store_of_rows(corpus, tested, tmp_path / "harmless.zarr")
    assert count_shared(run, harmless, tiny_store) == 0
    first = np.arange(len(tested)) < 25
    harmful = store_of_rows(corpus, first, tmp_path / "harmful.zarr")
    n = int((first & ~tested).sum())
    with pytest.raises(StoreError, match=f"{n} recordings trained or selected"):
        count_shared(run, harmful, tiny_store)


# Patients and recordings


def test_another_aggregate_leaves_the_run_s_own_results_alone(run, tiny_store, tmp_path):
    copy = copy_run(run, tmp_path / "run")
    evaluate_run(copy, tiny_store, "test", each_lead=True)
    names = ("metrics_test.json", "predictions_test.csv")
    before = {name: (copy.path / name).read_bytes() for name in names}
    metrics = evaluate_run(copy, tiny_store, "test", aggregate="none")
    assert metrics["level"] == "recording"
    assert metrics["note"].endswith(
        "were chosen with aggregate=mean, and are used with none as they are"
    )
    assert copy.read_json("metrics_test_none.json")["aggregation"] == "none"
    assert {name: (copy.path / name).read_bytes() for name in before} == before
    assert EvaluatedSplit.load(copy, "test_none").metrics["level"] == "recording"


@pytest.mark.parametrize("how", ["mean", "max", "first", "last", "none"])
def test_aggregation_is_that_of_pandas(run, tiny_store, how):
    metrics = evaluate_run(run, tiny_store, "all", aggregate=how)
    table = pd.read_csv(run.path / "predictions_all.csv")
    table["d"] = table.logit_1 - table.logit_0
    expected = table
    if how != "none":
        by_patient = table.sort_values("row").groupby("patient")
        expected = by_patient.agg(label=("label", "max"), d=("d", how))
        assert len(expected) < len(table)
    auroc = roc_auc_score(expected.label, expected.d)
    assert metrics["metrics"]["auroc"]["value"] == pytest.approx(auroc, abs=1e-9)
    level = "recording" if how == "none" else "patient"
    assert (metrics["aggregation"], metrics["level"]) == (how, level)
    assert metrics["threshold"] == run.threshold


def test_the_number_of_recordings_is_a_baseline_for_patients_only(run, tiny_store):
    metrics = evaluate_run(run, tiny_store, "all", aggregate="max")
    table = pd.read_csv(run.path / "predictions_all.csv")
    counts = table.groupby("patient").agg(label=("label", "max"), n=("row", "size"))
    auroc = roc_auc_score(counts.label, counts.n)
    assert metrics["count_baseline"]["auroc"]["value"] == pytest.approx(auroc, abs=1e-9)
    assert "count_baseline" not in evaluate_run(run, tiny_store, "all", aggregate="none")


def test_mixed_patients_and_unlabelled_recordings(run, tiny_store, tmp_path):
    label, patient = np.array(tiny_store.array("label")), tiny_store.array("patient")[:]
    several = np.flatnonzero(np.bincount(patient) > 1)
    mixed, unknown = several[:3], several[3:5]
    for p in mixed:
        rows = np.flatnonzero(patient == p)
        label[rows[0]], label[rows[1:]] = 1, 0
    label[np.isin(patient, unknown)] = -1
    changed = changed_store(tiny_store, tmp_path / "m.zarr", label=label)
    metrics = evaluate_run(copy_run(run, tmp_path / "run"), changed, "all")
    assert metrics["n_records"] == int((label >= 0).sum())
    assert metrics["n_patients"] == len(np.unique(patient)) - 2
    expected = sum({0, 1} <= set(label[patient == p]) for p in np.unique(patient))
    assert metrics["n_mixed_patients"] == expected >= 3


def test_a_split_of_one_class_has_undefined_metrics(run, tiny_store, tmp_path):
    label = np.array(tiny_store.array("label"))
    label[tiny_store.array("split")[:] == 2] = 0
    changed = changed_store(tiny_store, tmp_path / "o.zarr", label=label)
    metrics = evaluate_run(copy_run(run, tmp_path / "run"), changed, "test")["metrics"]
    assert metrics["auroc"]["value"] is None
    assert metrics["specificity"]["value"] is not None


# Leads


def test_each_lead_removed_is_a_store_without_that_lead(run, tiny_store, tmp_path):
    metrics = evaluate_run(run, tiny_store, "all", each_lead=True)
    removal = metrics["lead_removal"]
    assert list(removal) == list(LEADS)
    copy = copy_run(run, tmp_path / "run")
    for lead in ("I", "V3"):
        mask = np.array(tiny_store.array("lead_mask"))
        mask[:, LEADS.index(lead)] = 0
        without = changed_store(tiny_store, tmp_path / f"{lead}.zarr", lead_mask=mask)
        expected = evaluate_run(copy, without, "all")["metrics"]["auroc"]["value"]
        entry = removal[lead]["auroc"]
        assert entry["value_b"] == pytest.approx(expected, abs=1e-12)
        assert entry["value_a"] == pytest.approx(metrics["metrics"]["auroc"]["value"], abs=1e-12)
    assert len({entry["brier"]["value_b"] for entry in removal.values()}) == 8


def test_no_lead_is_removed_from_a_run_that_uses_none(clinical, tiny_store):
    with pytest.raises(InputError, match="there is no lead to take away. Leave out --each-lead"):
        evaluate_run(clinical, tiny_store, "test", each_lead=True)


@pytest.fixture(scope="module")
def lacking_store(tiny_store, tmp_path_factory) -> Store:
    """Test recordings lack a lead: all of two patients, and one of a third with several."""
    rows = np.flatnonzero(tiny_store.array("split")[:] == 2)
    patient = tiny_store.array("patient")[:][rows]
    numbers, count = np.unique(patient, return_counts=True)
    third = numbers[2:][count[2:] > 1][0]
    mask = np.array(tiny_store.array("lead_mask"))
    mask[rows[np.isin(patient, numbers[:2])], 3] = False
    mask[rows[patient == third][0], 0] = False
    return changed_store(tiny_store, tmp_path_factory.mktemp("lacking") / "m.zarr", lead_mask=mask)


def test_what_a_missing_lead_left_out_is_counted(lacking_store, tmp_path):
    usable = lacking_store.array("status")[:] == 0
    rows = np.flatnonzero(usable & (lacking_store.array("split")[:] == 2))
    columns = {name: lacking_store.array(name)[:][rows] for name in ("patient", "label")}
    table = pd.DataFrame(columns)
    table["whole"] = lacking_store.array("lead_mask")[:][rows].all(axis=1)
    left_out = table[~table.whole]
    patients = table.groupby("patient").agg(whole=("whole", "any"), label=("label", "max"))
    gone = patients[~patients.whole]
    run = trained(lacking_store, tmp_path / "r", epochs=1)
    metrics = run.read_json("metrics_test.json")
    assert metrics["excluded"] == {
        "reason": "a lead is missing",
        "n_records": len(left_out),
        "n_positive_records": int(left_out.label.sum()),
        "n_patients": len(gone),
        "n_positive": int(gone.label.sum()),
    }
    assert len(left_out) > len(gone) >= 2
    assert metrics["n_records"] + len(left_out) == len(rows)


def test_a_mask_channel_leaves_nothing_out(run, lacking_store, tmp_path):
    copy = copy_run(run, tmp_path / "run")
    metrics = evaluate_run(copy, lacking_store, "test")
    assert metrics["excluded"]["n_records"] == 0


# Groups


def test_groups_are_those_of_the_patients(tiny_store):
    rows = np.arange(len(tiny_store))[::-1]
    predictions = unpredicted(tiny_store, rows)
    patients = predictions.by_patient("mean")
    groups = patient_groups(tiny_store, predictions, patients)
    assert set(groups) == {"leads", "source_rate", "age", "sex"}
    assert set(groups["sex"]) <= {"0", "1", "missing"}
    lacks = ~tiny_store.array("lead_mask")[:].astype(bool).all(axis=1)
    assert lacks.any()
    lacking = set(tiny_store.array("patient")[:][lacks].tolist())
    expected = ["some missing" if p in lacking else "all eight" for p in patients.patient]
    assert groups["leads"].tolist() == expected


def test_groups_do_not_depend_on_the_order_of_recordings(tiny_store):
    patient = tiny_store.array("patient")[:]
    _, first = np.unique(patient, return_index=True)
    shuffled = np.random.default_rng(0).permutation(first)
    predictions = unpredicted(tiny_store, shuffled)  # one recording a patient
    patients = predictions.by_patient("mean")
    lacks = ~tiny_store.array("lead_mask")[:].astype(bool).all(axis=1)
    expected = ["some missing" if lacks[row] else "all eight" for row in patients.rows]
    assert patient_groups(tiny_store, predictions, patients)["leads"].tolist() == expected


def unpredicted(store: Store, rows: np.ndarray) -> Predictions:
    """Return predictions of rows with logits of 0."""
    patient = store.array("patient")[:][rows].astype(np.int64)
    label = store.array("label")[:][rows].astype(np.int64)
    return Predictions(rows, patient, label, np.zeros((len(rows), 2)))


YOUNG, MIDDLE, OLD, OLDEST = "0 to below 50", "50 to below 65", "65 to below 75", "75 and above"


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        (
            "age",
            [20, 50, 64.9, 65, 74, 75, 90, np.nan],
            [YOUNG, MIDDLE, MIDDLE, OLD, OLD, OLDEST, OLDEST, "missing"],
        ),
        ("sex", [0, 1, np.nan, 1], ["0", "1", "missing", "1"]),
        ("dose", [1, 2, 3, 4, 5, 6, 7], ["below 4"] * 3 + ["4 and above"] * 4),
    ],
)
def test_covariates_are_grouped(name, values, expected):
    assert covariate_groups(name, np.array(values, np.float32)).tolist() == expected


def test_covariates_alone_ignore_the_waveform(clinical, both, tiny_store, tmp_path):
    waveforms = -np.array(tiny_store.array("waveforms"))
    inverted = changed_store(tiny_store, tmp_path / "p.zarr", waveforms=waveforms)
    for run, ignores in ((clinical, True), (both, False)):
        copy = copy_run(run, tmp_path / run.path.name)
        before = (copy.path / "predictions_test.csv").read_bytes()
        evaluate_run(copy, inverted, "test")
        assert ((copy.path / "predictions_test.csv").read_bytes() == before) == ignores


# Comparisons


def test_results_of_an_earlier_training_are_neither_reported_nor_compared(
    run, tiny_store, tmp_path
):
    again = trained(tiny_store, tmp_path / "again", missing="mask", seed=1)
    for name in ("metrics_test.json", "predictions_test.csv"):
        shutil.copy(run.path / name, again.path / name)
    with pytest.raises(InputError, match="of an earlier training"):
        compare_runs([run, again], "test")
    with pytest.raises(InputError, match="of an earlier training"):
        EvaluatedSplit.load(again, "test")
    damaged = copy_run(run, tmp_path / "damaged")
    (damaged.path / "metrics_test.json").write_text("{}")
    with pytest.raises(InputError, match="are not of one evaluation"):
        EvaluatedSplit.load(damaged, "test")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, words)))


def test_compare_ecg_covariates_and_both(run, clinical, both, tiny_store):
    runs = [run, clinical, both]
    metrics = [evaluate_run(each, tiny_store, "test") for each in runs]
    done = invoke("compare", *(each.path for each in runs), "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["runs"] == [str(each.path) for each in runs]
    assert list(result["against_first"]) == [str(clinical.path), str(both.path)]
    assert result["n_patients"] == metrics[0]["n_patients"]
    for each, own in zip(runs[1:], metrics[1:], strict=True):
        compared = result["against_first"][str(each.path)]["metrics"]
        for name in ("auroc", "auprc", "brier", "sensitivity"):
            entry = compared[name]
            expected = [of["metrics"][name]["value"] for of in (metrics[0], own)]
            assert [entry["value_a"], entry["value_b"]] == pytest.approx(expected, abs=1e-8)
            assert entry["difference"] == pytest.approx(entry["value_b"] - entry["value_a"])
            assert entry["ci95"][0] <= entry["difference"] <= entry["ci95"][1]


def test_compare_prints_a_table(run, clinical):
    table = invoke("compare", run.path, clinical.path)
    assert table.exit_code == 0, table.output
    assert "DeLong" in table.stdout
    assert invoke("compare", run.path).exit_code == 2


def test_compare_needs_different_runs_and_their_predictions(run, both):
    with pytest.raises(InputError, match="given twice"):
        compare_runs([run, run], "test")
    message = r"has no predictions of train \(it has: .*test.*\)\. `ecgfit eval"
    with pytest.raises(InputError, match=message):
        compare_runs([run, both], "train")
    with pytest.raises(InputError, match=r"has no predictions of oof .* trained with --folds"):
        compare_runs([run, both], "oof")


def test_compare_refuses_runs_of_different_stores(run, elsewhere, tmp_path):
    other = trained(elsewhere, tmp_path / "other", missing="mask", epochs=1)
    message = "were trained on different stores, so their test patients may differ"
    with pytest.raises(InputError, match=message):
        compare_runs([run, other], "test")


def test_compare_refuses_runs_that_judge_recordings_and_patients(run, tiny_store, tmp_path):
    settings = {"missing": "mask", "epochs": 1, "aggregate": "none"}
    per_recording = trained(tiny_store, tmp_path / "recordings", **settings)
    with pytest.raises(InputError, match="one judges recordings, the other patients"):
        compare_runs([run, per_recording], "test")


def test_compare_refuses_predictions_of_fewer_patients(run, both, tmp_path):
    fewer = copy_run(both, tmp_path / "fewer")
    path = fewer.path / "predictions_test.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(InputError, match="do not predict the same test patients"):
        compare_runs([run, fewer], "test")


HEADER = "row,patient,label,logit_0,logit_1,probability\n"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "row\nx",
        HEADER,
        HEADER + "1,2,0,0.5,0.5\n",
        HEADER + "1,2,0,0.5,0.5,0.5,0.5\n",
        HEADER + "1,2,x,0.5,0.5,0.5\n",
        HEADER + "1,2,0,nan,0.5,0.5\n",
        HEADER.replace("patient", "person") + "1,2,0,0.5,0.5,0.5\n",
    ],
)
def test_damaged_predictions_are_refused(run, both, tmp_path, content):
    damaged = copy_run(both, tmp_path / "damaged")
    (damaged.path / "predictions_test.csv").write_text(content)
    with pytest.raises(InputError, match="missing or damaged. Run `ecgfit eval` again"):
        compare_runs([run, damaged], "test")
