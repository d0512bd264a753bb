"""Training is repeatable to the bit, selected on validation only, and able to learn."""

from __future__ import annotations

import csv
import json
import math
import re

import numpy as np
import pytest
import torch
from helpers import (
    build,
    changed_store,
    copy_run,
    quick,
    same_results,
    silent,
    write_manifest,
)

import ecgfit.training.trainer as trainer_module
from ecgfit.checkpoint import load_checkpoint
from ecgfit.config import TrainConfig, make_config
from ecgfit.data.model_input import ModelInput
from ecgfit.data.rows import select_rows
from ecgfit.data.statistics import NormStats
from ecgfit.evaluation.evaluate import evaluate_run
from ecgfit.inference.scorer import BATCH, load_ensemble, predict_rows
from ecgfit.models.factory import build_model
from ecgfit.run import RunFolder, newest_run
from ecgfit.run_files import LAST, new_run_dir
from ecgfit.training.losses import batch_weight, class_weights, row_losses
from ecgfit.training.preflight import preflight
from ecgfit.training.runner import train
from ecgfit.training.trainer import Progress, Trainer, cosine_factor
from ecgprep.errors import InputError, StoreError, TargetExists
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import aecg
from ecgprep.store.reader import Store


@pytest.fixture(scope="module")
def store(tiny_store) -> Store:
    return tiny_store


@pytest.fixture(scope="module")
def run(trained_run) -> RunFolder:
    return trained_run


def changed(run: RunFolder, **settings: object) -> TrainConfig:
    """Return a run's settings with some of them changed."""
    return run.config.model_copy(update=settings)


def test_run_folder_holds_what_it_promises(run, store):
    files = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    assert files == {
        *(
            "config.yaml",
            "norm_stats.json",
            "calibration.json",
            "threshold.json",
            "curves.csv",
            "events.out.tfevents.ecgfit",
        ),
        *("checkpoints/best.pt", "checkpoints/last.pt"),
        *("metrics_val.json", "metrics_test.json", "predictions_val.csv", "predictions_test.csv"),
    }
    assert run.content_sha256 == store.content_sha256
    assert run.recorded["records"] == {
        split: len(select_rows(store, split, "drop")) for split in ("train", "val")
    }


def test_same_config_gives_the_same_weights_to_the_bit(run, store, tmp_path):
    again = train(
        make_config(run.config.model_dump(), "again"), store, tmp_path / "again", say=silent
    )
    assert same_results(run.path, again.path)
    other = train(changed(run, seed=1), store, tmp_path / "other", say=silent)
    assert not same_results(run.path, other.path)


@pytest.mark.parametrize("scheduler", ["plateau", "cosine"])
@pytest.mark.parametrize("killed_at", [(0, 2), (1, 0), (2, 1)])
def test_killed_and_resumed_run_equals_an_uninterrupted_one(
    store, tmp_path, monkeypatch, scheduler, killed_at
):
    config = quick(scheduler=scheduler)
    whole = train(config, store, tmp_path / "whole", say=silent)
    seeds = trainer_module.torch_seeds

    def die(seed, epoch, step):
        if (epoch, step) == killed_at:
            raise KeyboardInterrupt
        return seeds(seed, epoch, step)

    monkeypatch.setattr(trainer_module, "torch_seeds", die)
    with pytest.raises(KeyboardInterrupt):
        train(config, store, tmp_path / "killed", say=silent)
    monkeypatch.undo()
    train(config, store, tmp_path / "killed", resume=True, say=silent)
    assert same_results(whole.path, tmp_path / "killed")


def test_resume_refuses_other_settings_and_other_stores(run, store, tmp_path):
    copy = copy_run(run, tmp_path / "run").path
    with pytest.raises(StoreError, match=r"other settings \(lr: 0\.003, now 0\.1\)"):
        train(changed(run, lr=0.1), store, copy, resume=True, say=silent)
    # What is left is a run that is to be resumed from its checkpoint.
    for path in (copy / "threshold.json", copy / "calibration.json", *copy.glob("metrics_*")):
        path.unlink()
    state = load_checkpoint(copy / LAST)
    torch.save(state | {"content_sha256": "x"}, copy / LAST)
    with pytest.raises(StoreError, match="another store"):
        train(run.config, store, copy, resume=True, say=silent)
    (copy / LAST).write_bytes(b"PK")
    with pytest.raises(StoreError, match="damaged"):
        train(run.config, store, copy, resume=True, say=silent)


def test_existing_run_is_kept_without_overwrite(run, store, tmp_path):
    with pytest.raises(TargetExists, match="--overwrite"):
        train(quick(), store, run.path, say=silent)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.docx").write_text("x")
    (tmp_path / "mine" / "config.yaml").write_text("name: x")
    for option in ("overwrite", "resume"):
        with pytest.raises(TargetExists, match="not a run folder"):
            train(quick(), store, tmp_path / "mine", **{option: True}, say=silent)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "config.yaml",
        "thesis.docx",
    ]


def test_overwrite_deletes_the_run_and_nothing_else_and_only_once_training_can_start(
    run, store, tmp_path
):
    copy = copy_run(run, tmp_path / "run").path
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exclude each other"):
        train(quick(), store, copy, overwrite=True, resume=True, say=silent)
    if not torch.cuda.is_available():
        with pytest.raises(StoreError, match="no GPU"):
            train(quick(device="cuda"), store, copy, overwrite=True, say=silent)
        assert (copy / "threshold.json").exists()
    train(quick(epochs=1), store, copy, overwrite=True, say=silent)
    assert (copy / "notes.txt").read_text() == "mine"
    assert not (copy / "metrics_test.json").exists()


def test_model_that_gives_nan_is_refused_at_evaluation(run, store, tmp_path):
    copy = copy_run(run, tmp_path / "run").path
    weights = load_checkpoint(copy / "checkpoints/best.pt")
    weights["model"]["head.1.bias"][:] = math.nan
    torch.save(weights, copy / "checkpoints/best.pt")
    with pytest.raises(InputError, match="logits that are not finite"):
        evaluate_run(RunFolder(copy), store, "test")


def test_metrics_follow_from_the_predictions(run):
    import pandas as pd
    from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

    table = pd.read_csv(run.path / "predictions_test.csv")
    patients = table.groupby("patient").agg(
        label=("label", "max"), a=("logit_0", "mean"), b=("logit_1", "mean")
    )
    probability = run.calibration.apply((patients.b - patients.a).to_numpy())
    metrics = run.read_json("metrics_test.json")
    assert metrics["metrics"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(patients.label, probability), abs=1e-9
    )
    assert metrics["metrics"]["auprc"]["value"] == pytest.approx(
        average_precision_score(patients.label, probability), abs=1e-9
    )
    tn, fp, fn, tp = confusion_matrix(patients.label, probability >= run.threshold).ravel()
    assert metrics["confusion"] == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    assert (metrics["n_patients"], metrics["n_records"]) == (len(patients), len(table))


def test_best_epoch_is_the_one_with_the_highest_validation_auprc(run):
    with (run.path / "curves.csv").open() as file:
        curves = list(csv.DictReader(file))
    best = max(curves, key=lambda row: float(row["val_auprc"]))
    assert load_checkpoint(run.path / "checkpoints/best.pt")["epoch"] == int(best["epoch"])
    assert run.read_json("metrics_val.json")["metrics"]["auprc"]["value"] == pytest.approx(
        float(best["val_auprc"]), abs=1e-6
    )


def test_tensorboard_reads_the_curves(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path)).Reload()
    with (run.path / "curves.csv").open() as file:
        expected = [float(row["val_auprc"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(
        [event.value for event in events.Scalars("val_auprc")], expected, rtol=1e-6
    )


def test_time_of_an_event_is_its_epoch(run):
    """TensorBoard's axis of relative time then counts epochs, and a resumed run has equal bytes."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path)).Reload().Scalars("val_auprc")
    assert [(event.step, event.wall_time) for event in events] == [(1, 1.0), (2, 2.0)]


def test_early_stop_ends_training(store, tmp_path, monkeypatch):
    scores = iter([0.5, 0.6, 0.4, 0.6, 0.1, 0.9])
    monkeypatch.setattr(
        Trainer,
        "validate",
        lambda self, scorer: {"val_loss": 1.0, "val_auroc": 0.5, "val_auprc": next(scores)},
    )
    monkeypatch.setattr(Trainer, "train_epoch", lambda self, save, stop: 1.0)
    train(quick(epochs=50, early_stop=3), store, tmp_path / "r", say=silent)
    state = load_checkpoint(tmp_path / "r" / LAST)
    assert (len(state["history"]), state["best"]) == (5, {"epoch": 2, "score": 0.6})


def test_test_labels_decide_nothing(run, corpus, store, tmp_path):
    """The same store with the labels of the test patients reversed trains to the same bits."""
    label, split = np.array(store.array("label")), store.array("split")
    label[split == 2] = 1 - label[split == 2]
    reversed_labels = changed_store(store, tmp_path / "reversed.zarr", label=label)
    again = train(run.config, reversed_labels, tmp_path / "again", say=silent)
    assert same_results(run.path, again.path)


def test_values_of_val_and_test_files_do_not_reach_the_statistics(tmp_path):
    """Cohorts whose val and test values differ fivefold have the same norm_stats.json."""
    generator = np.random.default_rng(0)
    signals = [simulate(Heart.draw(generator, i % 2), 500, generator) for i in range(40)]
    written = []
    for factor in (1, 5):
        folder = tmp_path / str(factor)
        folder.mkdir()
        held_out = set()
        if factor != 1:
            split = np.array(Store(tmp_path / "1" / "s.zarr").array("split"))
            held_out = set(np.flatnonzero(split > 0).tolist())
        for i, signal in enumerate(signals):
            values = signal * factor if i in held_out else signal
            (folder / f"{i}.xml").write_bytes(aecg(values, 500, "X"))
        manifest = write_manifest(
            folder / "m.csv", [(f"P{i}", f"{i}.xml", i % 2) for i in range(40)]
        )
        store = build(manifest, folder / "s.zarr")
        NormStats.of(store, select_rows(store, "train", "drop")).save(folder / "norm_stats.json")
        written.append((folder / "norm_stats.json").read_bytes())
        assert len(held_out) in (0, 12)
    assert written[0] == written[1]


def test_model_overfits_sixteen_recordings(store, tmp_path):
    """A pipeline that cannot learn 16 recordings by heart is broken somewhere."""
    config = quick(aug="none", epochs=1, batch=16, ema=0)
    trainer = Trainer.prepare(config, store)
    label = store.array("label")[trainer.rows["train"]]
    chosen = np.concatenate([trainer.rows["train"][label == k][:8] for k in (0, 1)])
    trainer.rows = {"train": np.sort(chosen), "val": np.sort(chosen)}
    losses = []
    for epoch in range(60):
        trainer.progress = Progress(history=[{}] * epoch)
        losses.append(trainer.train_epoch(lambda: None, lambda: False))
    assert losses[-1] < 0.05 < losses[0]
    predictions = trainer.predict(trainer.kept(), "val")
    assert ((predictions.logit_difference() > 0) == predictions.label).all()


def test_one_class_in_validation_is_told_before_training(store, tmp_path):
    label = np.array(store.array("label"))
    label[store.array("split") == 1] = 0
    one_class = changed_store(store, tmp_path / "s.zarr", label=label)
    message = (
        r"validation rows hold 0 positive and \d+ negative patients; auprc and the loss need both"
    )
    with pytest.raises(InputError, match=message) as failed:
        train(quick(), one_class, tmp_path / "r", say=silent)
    assert failed.value.exit_code == 3
    assert not (tmp_path / "r").exists()


def test_loss_that_is_not_finite_stops_with_the_rows(store, tmp_path):
    message = (
        r"The loss is (nan|inf) at epoch 1, step \d+ \(store rows \d+.*Lower --lr"
        "|logits that are not finite"
    )
    with pytest.raises(InputError, match=message):
        train(quick(lr=1e30), store, tmp_path / "r", say=silent)


def test_preflight_checks_every_split(store):
    lines = preflight(Trainer.prepare(quick(missing="mask"), store))
    assert "tensors of train, val, test are finite and (B, 9, 200)" in lines[0]
    assert (
        "tensors of train, val are finite"
        in preflight(Trainer.prepare(quick(), store), test=False)[0]
    )


def test_a_store_without_usable_test_rows_trains(store, tmp_path):
    status = np.array(store.array("status"))
    status[store.array("split")[:] == 2] = 1
    said = []
    train(
        quick(epochs=1),
        changed_store(store, tmp_path / "s.zarr", status=status),
        tmp_path / "r",
        say=said.append,
    )
    assert "tensors of train, val are finite" in said[0]


def test_preflight_finds_statistics_of_other_rows(store):
    trainer = Trainer.prepare(quick(), store)
    trainer.stats = NormStats.of(store, select_rows(store, "test", "drop"))
    with pytest.raises(StoreError, match="do not come from train rows"):
        preflight(trainer)


def test_class_weights_balance_the_classes():
    label = np.array([0] * 30 + [1] * 10, np.int8)
    assert class_weights(quick().class_weights, label).tolist() == pytest.approx([40 / 60, 2.0])
    assert class_weights(quick(class_weights="none").class_weights, label) is None
    assert class_weights(
        quick(class_weights="1 2.2").class_weights, label
    ).tolist() == pytest.approx([1, 2.2])


def test_losses_follow_their_formulas():
    logits, label, weights = (
        torch.tensor([[0.3, -0.2], [1.0, 2.0]]),
        torch.tensor([0, 1]),
        torch.tensor([1.0, 3.0]),
    )
    p = torch.softmax(logits, dim=1)
    ce = -(1 * math.log(p[0, 0]) + 3 * math.log(p[1, 1])) / 4
    bce = -(math.log(p[0, 0]) + 3 * math.log(p[1, 1])) / 2
    for kind, expected in (("ce", ce), ("bce", bce)):
        loss = row_losses(logits, label, kind, weights).sum() / batch_weight(label, kind, weights)
        assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.7, 2.5])])
def test_losses_are_the_weighted_means_of_pytorch(weights, smoothing):
    generator = torch.Generator().manual_seed(0)
    logits, label = (
        torch.randn(23, 2, generator=generator),
        torch.randint(0, 2, (23,), generator=generator),
    )
    ce = torch.nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)(logits, label)
    positive = None if weights is None else weights[1] / weights[0]
    target = label * (1 - smoothing) + smoothing / 2
    bce = torch.nn.BCEWithLogitsLoss(pos_weight=positive)(logits[:, 1] - logits[:, 0], target)
    for kind, expected in (("ce", ce), ("bce", bce)):
        rows = row_losses(logits, label, kind, weights, smoothing)
        assert rows.shape == (23,)
        assert (rows.sum() / batch_weight(label, kind, weights)).item() == pytest.approx(
            expected.item(), rel=1e-5
        )
        # the shares of two processes add up to the whole
        parts = [
            row_losses(logits[part], label[part], kind, weights, smoothing).sum()
            for part in (slice(0, 9), slice(9, 23))
        ]
        assert (sum(parts) / batch_weight(label, kind, weights)).item() == pytest.approx(
            expected.item(), rel=1e-5
        )


def test_cosine_rises_and_falls_to_zero():
    factors = [cosine_factor(step, 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(0.02)
    assert max(factors) == factors[50] == pytest.approx(1)
    assert factors[-1] < 1e-5
    assert factors[50:] == sorted(factors[50:], reverse=True)


def test_run_is_refused_on_another_store(run, corpus, tmp_path):
    other = build(
        corpus / "manifest.csv", tmp_path / "other.zarr"
    )  # without covariates: another identity
    with pytest.raises(StoreError, match="was trained on another store"):
        evaluate_run(run, other, "test")
    with pytest.raises(StoreError, match="No finished run"):
        newest_run(run.path.parent, other)


def test_newest_run_of_the_store_is_found(run, store, tmp_path):
    copy = copy_run(run, tmp_path / "runs/001")
    assert newest_run(tmp_path / "runs", store).path == copy.path
    assert new_run_dir(tmp_path / "runs").name == "002"
    assert new_run_dir(tmp_path / "runs").name == "003"


@pytest.mark.parametrize(
    "name", ["config.yaml", "norm_stats.json", "threshold.json", "checkpoints/best.pt"]
)
@pytest.mark.parametrize("content", [None, b"", b"{}", b"x: 1"])
def test_damaged_run_is_refused(run, store, tmp_path, name, content):
    copy = copy_run(run, tmp_path / "run").path
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    with pytest.raises(StoreError):
        evaluate_run(RunFolder(copy), store, "test")


def test_weights_of_another_shape_are_refused(run, store, tmp_path):
    copy = copy_run(run, tmp_path / "run").path
    torch.save({"model": build_model("resnet1d", 9, 0).state_dict()}, copy / "checkpoints/best.pt")
    with pytest.raises(StoreError, match="does not hold the weights"):
        evaluate_run(RunFolder(copy), store, "test")


def test_checkpoint_that_would_run_code_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"model": Evil()}, tmp_path / "x.pt", pickle_module=pickle)
    with pytest.raises(StoreError):
        load_checkpoint(tmp_path / "x.pt")


def test_evaluation_does_not_depend_on_the_batch(run, store):
    ensemble = load_ensemble(run.members, "cpu")
    rows = select_rows(store, "all", "drop")
    assert len(rows) > BATCH
    together = predict_rows(ensemble, store, rows, (), amp=False).logits
    backwards = predict_rows(ensemble, store, rows[::-1].copy(), (), amp=False).logits[::-1]
    np.testing.assert_array_equal(together, backwards)
    for i in (0, 17, len(rows) // 2, len(rows) - 1):
        np.testing.assert_array_equal(
            predict_rows(ensemble, store, rows[i : i + 1], (), amp=False).logits[0], together[i]
        )


def test_run_holds_no_path_and_no_host(run):
    import os

    host = re.compile(rf"\b{re.escape(os.uname().nodename)}\b".encode())
    for path in run.path.rglob("*"):
        assert not host.search(path.name.encode())
        if path.is_file():
            assert str(run.path.parent).encode() not in path.read_bytes()
            assert path.suffix == ".pt" or not host.search(path.read_bytes())
    assert json.loads((run.path / "metrics_test.json").read_bytes())["level"] == "patient"


def test_mask_training_sees_nine_channels(store, tmp_path):
    finished = train(
        quick(missing="mask", epochs=1, loss="bce", val_metric="auroc", threshold="f1"),
        store,
        tmp_path / "r",
        say=silent,
    )
    assert ModelInput(finished.stats, "mask").n_channels == 9
    assert evaluate_run(finished, store, "test")["n_records"] == len(
        select_rows(store, "test", "mask")
    )
