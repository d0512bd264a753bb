"""Table 1 counts what the run uses, and nothing in it gives a small count away."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import changed_store, copy_run

from ecgfit.reports.checklist import checklist
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.facts import gather_facts
from ecgfit.reports.model_card import model_card
from ecgfit.reports.table_one import table_one
from ecgfit.run import RunFolder
from ecgprep.reports.disclosure import CountFormatter

EXACT, HIDING = CountFormatter(exact=True), CountFormatter(exact=False)


def cells(store, run, show=EXACT) -> dict[str, list[str]]:
    return {row["label"]: row["cells"] for row in table_one(store, run, show)["rows"]}


def first_numbers(texts: list[str]) -> list[str]:
    return [text.split(" ")[0] for text in texts]


@pytest.fixture
def used(tiny_store) -> list[np.ndarray]:
    """For each split, which recordings a run uses that leaves out those that lack a lead."""
    split, patient, label = (
        np.array(tiny_store.array(name)) for name in ("split", "patient", "label")
    )
    has_all_leads = np.array(tiny_store.array("lead_mask")).all(axis=1)
    usable = (patient >= 0) & (label >= 0) & has_all_leads
    return [usable & (split == k) for k in range(3)]


def test_patients_and_recordings_are_those_of_the_store(ensemble_run, tiny_store, used):
    rows = cells(tiny_store, ensemble_run)
    patient, label = np.array(tiny_store.array("patient")), np.array(tiny_store.array("label"))
    assert rows["Patients"] == [str(len(set(patient[own]))) for own in used]
    assert rows["Recordings"] == [str(own.sum()) for own in used]
    positive = [own & (label == 1) for own in used]
    n_recordings = [str(own.sum()) for own in positive]
    assert first_numbers(rows["Positive recordings, n (%)"]) == n_recordings
    n_patients = [str(len(set(patient[own]))) for own in positive]
    assert first_numbers(rows["Positive patients, n (%)"]) == n_patients


def test_covariates_are_those_of_the_first_recording_of_a_patient(ensemble_run, tiny_store, used):
    rows = cells(tiny_store, ensemble_run)
    patient = np.array(tiny_store.array("patient"))
    first = [np.unique(np.where(own, patient, -1), return_index=True)[1][1:] for own in used]
    values = [np.array(tiny_store.array("covariates"))[own] for own in first]
    medians = [f"{np.nanmedian(own[:, 0]):g}" for own in values]
    assert first_numbers(rows["age, median [quartiles]"]) == medians
    n_female = [str((own[:, 1] == 1).sum()) for own in values]
    assert first_numbers(rows["1"]) == n_female


def test_patients_without_a_value_are_counted(ensemble_run, tiny_store, tmp_path, used):
    covariates = np.array(tiny_store.array("covariates"))
    patient = np.array(tiny_store.array("patient"))
    unknown = np.unique(patient[used[0]])[:2]
    covariates[np.isin(patient, unknown)] = np.nan
    lacking = changed_store(tiny_store, tmp_path / "s.zarr", covariates=covariates)
    table = table_one(lacking, ensemble_run, EXACT)["rows"]
    missing = [row["cells"] for row in table if row["label"] == "missing"]
    assert [first_numbers(row) for row in missing] == [["2", "0", "0"]] * 2


def test_rates_add_up_to_the_recordings(ensemble_run, tiny_store):
    rows = cells(tiny_store, ensemble_run)
    by_rate = [first_numbers(texts) for label, texts in rows.items() if label.endswith(" Hz")]
    assert len(by_rate) == 2
    sums = np.array(by_rate, int).sum(axis=0)
    assert [str(n) for n in sums] == rows["Recordings"]


def test_a_run_that_keeps_recordings_without_a_lead_counts_them(ensemble_run, tiny_store, tmp_path):
    kept = copy_run(ensemble_run, tmp_path / "r")
    kept.config = kept.config.model_copy(update={"missing": "mask"})
    rows = cells(tiny_store, kept)
    lacking = first_numbers(rows["some missing"])
    whole = first_numbers(rows["all eight"])
    sums = np.array([lacking, whole], int).sum(axis=0)
    assert [str(n) for n in sums] == rows["Recordings"]
    assert not [label for label in rows if label.startswith("Left out")]


def test_recordings_left_out_do_not_follow_from_the_recordings_used(
    ensemble_run, tiny_store, tmp_path, used
):
    """How few lack a lead must not be the difference of two numbers of the report."""
    mask = np.array(tiny_store.array("lead_mask"))
    mask[np.flatnonzero(used[0])[:3], 0] = False
    lacking = changed_store(tiny_store, tmp_path / "s.zarr", lead_mask=mask)
    n_all = int(((tiny_store.array("split") == 0) & (tiny_store.array("patient") >= 0)).sum())
    n_used = int(used[0].sum()) - 3
    copied = copy_run(ensemble_run, tmp_path / "r")
    config = (copied.path / "config.yaml").read_text()
    trained_on = f"train: {used[0].sum()}\n"
    assert trained_on in config
    (copied.path / "config.yaml").write_text(config.replace(trained_on, f"train: {n_used}\n"))
    run = RunFolder(copied.path)

    rows = cells(lacking, run, HIDING)
    assert rows["Recordings"][0] == str(n_used)
    assert rows["Left out: recordings that lack a lead"][0] == "<10"
    assert "all eight" not in rows
    exact = cells(lacking, run)["Left out: recordings that lack a lead"]
    assert exact[0] == str(n_all - n_used)

    facts = gather_facts(run, EvaluatedSplit.load(run, "test"), HIDING, lacking, [])
    items = {item.number: item.text for item in checklist(facts)}
    assert f"Recordings used: {n_used} train" in items["10"]
    texts = [text for row in rows.values() for text in row]
    texts += list(items.values()) + [text for _, text in model_card(facts)]
    assert not [text for text in texts if re.search(rf"\b{n_all}\b", text)]
