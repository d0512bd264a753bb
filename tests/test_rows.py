"""Rows of splits and folds: usable, labelled, apart by patient, refused where there are none."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from helpers import changed_store, quick, silent

from ecgfit.data.rows import FOLDS_DEALT_BY, covariate_columns, fold_rows, select_rows
from ecgfit.run import RunFolder
from ecgfit.training.runner import train
from ecgprep.errors import InputError, StoreError


def test_rows_of_the_splits_are_disjoint_usable_and_labelled(store):
    rows = {split: select_rows(store, split, "mask") for split in ("train", "val", "test")}
    assert sum(map(len, rows.values())) == len(store)
    patients = {split: set(store.array("patient")[rows[split]]) for split in rows}
    assert not patients["train"] & patients["val"]
    assert not (patients["train"] | patients["val"]) & patients["test"]


def test_drop_leaves_out_records_with_a_missing_lead(store):
    kept = np.concatenate([select_rows(store, split, "drop") for split in ("train", "val", "test")])
    assert set(kept) == set(np.flatnonzero(store.array("lead_mask").all(axis=1)))
    assert len(kept) < len(store)


def test_unknown_split_is_refused(store):
    with pytest.raises(InputError, match="must be one of train, val, test"):
        select_rows(store, "dev", "drop")


def test_split_without_rows_is_refused(store, monkeypatch):
    def no_lead(self, name):
        return np.zeros((3, 8) if name == "lead_mask" else 3, np.int8)

    monkeypatch.setattr(type(store), "array", no_lead)
    message = "has no usable labelled recording with all eight leads; --missing mask keeps the oth"
    with pytest.raises(StoreError, match=message):
        select_rows(store, "train", "drop")


def test_rows_without_a_label_are_there_only_when_asked_for(store, tmp_path):
    label = np.array(store.array("label"))
    label[:7] = -1
    some = changed_store(store, tmp_path / "u.zarr", label=label)
    assert set(range(len(store))) - set(select_rows(some, "all", "mask")) == set(range(7))
    assert len(select_rows(some, "all", "mask", labelled=False)) == len(store)


def test_unknown_covariate_is_refused_with_those_there_are(store):
    assert covariate_columns(store, ("sex",)).tolist() == [store.covariate_names.index("sex")]
    with pytest.raises(InputError, match=r"has no covariate bmi, lvef \(it has: age, sex\)"):
        covariate_columns(store, ("bmi", "age", "lvef"))


def test_folds_hold_each_patient_once_and_their_share_of_positives(store):
    patient, label = store.array("patient")[:], store.array("label")[:]
    scored = [fold_rows(store, "mask", 5, fold, 0)["scored"] for fold in range(5)]
    patients = [set(patient[rows]) for rows in scored]
    everyone = set(patient[np.concatenate(scored)])
    assert sum(map(len, patients)) == len(everyone)
    n_patients = [len(found) for found in patients]
    n_positive = [len(set(patient[rows[label[rows] == 1]])) for rows in scored]
    assert max(n_patients) - min(n_patients) <= 1
    assert max(n_positive) - min(n_positive) <= 1


def test_another_seed_deals_other_folds(store):
    same, again, other = (fold_rows(store, "mask", 5, 0, seed)["scored"] for seed in (0, 0, 1))
    assert np.array_equal(same, again)
    assert not np.array_equal(same, other)


def test_too_many_folds_are_refused(store):
    message = r"\d+ patients, \d+ of them positive, are too few for 200 folds\. Use fewer --folds"
    with pytest.raises(InputError, match=message):
        fold_rows(store, "mask", 200, 0, 0)


def test_a_class_smaller_than_the_folds_is_dealt_without_a_warning(store, tmp_path):
    label = np.zeros_like(store.array("label")[:])
    label[store.array("patient")[:] == store.array("patient")[0]] = 1
    one_positive = changed_store(store, tmp_path / "s.zarr", label=label)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored = [fold_rows(one_positive, "mask", 3, fold, 0)["scored"] for fold in range(3)]
    assert sorted(bool(label[rows].any()) for rows in scored) == [False, False, True]


def test_a_run_whose_folds_an_earlier_version_dealt_is_not_trained_on(small_store, tmp_path):
    """Its other members would be scored on patients that have been scored, or trained on."""
    config = quick(folds=3, fold=0, epochs=1, model_args="width=0.25")
    run = train(config, small_store, tmp_path / "r", say=silent)
    assert RunFolder(run.path).recorded["folds_dealt_by"] == FOLDS_DEALT_BY
    text = (run.path / "config.yaml").read_text()
    earlier = text.replace(f"folds_dealt_by: {FOLDS_DEALT_BY}\n", "other: 1\n")
    assert earlier != text
    (run.path / "config.yaml").write_text(earlier)

    lines = []
    train(config, small_store, run.path, resume=True, say=lines.append)
    assert lines[-1] == f"{run.path} is finished already"
    (run.path / "threshold.json").unlink()
    with pytest.raises(StoreError, match="an earlier version dealt the patients.*--overwrite"):
        train(config, small_store, run.path, resume=True, say=silent)
