"""Training from other weights, of a part of the network, and at rates that depend on depth."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from helpers import changed_store, quick, silent

import ecgfit.training.trainer as trainer_module
from ecgfit.checkpoint import load_checkpoint, weights_of
from ecgfit.evaluation.evaluate import evaluate_run
from ecgfit.inference.export import export_run
from ecgfit.reports.html import write_run_report
from ecgfit.run import RunFolder
from ecgfit.run_files import BEST, LAST
from ecgfit.training.runner import train
from ecgfit.training.trainer import Trainer, cosine_factor
from ecgprep.errors import InputError, StoreError
from ecgprep.store.reader import Store


@pytest.fixture(scope="module")
def source(tiny_store, tmp_path_factory) -> RunFolder:
    return train(
        quick(epochs=2), tiny_store, tmp_path_factory.mktemp("runs") / "source", say=silent
    )


def test_every_weight_of_the_same_network_is_loaded(source, tiny_store):
    trainer = Trainer.prepare(quick(init_from=str(source.path)), tiny_store)
    loaded = trainer.load_weights()
    saved = load_checkpoint(source.path / BEST)["model"]
    assert (sorted(loaded.loaded), loaded.skipped, loaded.untouched) == (sorted(saved), [], [])
    assert all(
        torch.equal(tensor, saved[name]) for name, tensor in trainer.model.state_dict().items()
    )


def test_what_fits_another_lead_count_and_head_is_loaded_and_the_rest_is_listed(
    source, tiny_store, tmp_path
):
    said = []
    config = quick(epochs=1, missing="mask", tabular="age", init_from=str(source.path / BEST))
    run = train(config, tiny_store, tmp_path / "r", say=said.append)
    skipped = {line.split()[3] for line in said if line.startswith("init_from: not loaded")}
    first = next(iter(load_checkpoint(source.path / BEST)["model"]))
    assert first in skipped  # nine channels instead of eight
    assert any(name.startswith("head") for name in skipped)
    not_loaded = [line for line in said if line.startswith("init_from: not loaded")]
    assert any("there," in line and "here)" in line for line in not_loaded)
    # A bare file does not say where it was trained.
    assert any("make sure that no patient" in line for line in said)
    loaded = run.recorded["tensors_loaded"]
    assert loaded
    assert not skipped & {name.removeprefix("ecg.") for name in loaded}


def test_a_frozen_part_that_would_stay_random_is_refused(source, tiny_store, tmp_path):
    # Nine channels instead of eight: the first layer does not fit.
    config = {"missing": "mask", "init_from": str(source.path)}
    message = r"stem\S* .*with freeze=backbone would stay at random values"
    with pytest.raises(StoreError, match=message):
        train(quick(epochs=1, freeze="backbone", **config), tiny_store, tmp_path / "r", say=silent)
    assert not (tmp_path / "r").exists()
    for fits in (config, config | {"freeze": "backbone", "missing": "drop", "tabular": "age"}):
        train(quick(epochs=1, **fits), tiny_store, tmp_path / f"fits-{len(fits)}", say=silent)


def test_weights_of_a_run_of_this_store_need_no_warning(source, tiny_store, tmp_path):
    said = []
    train(quick(epochs=1, init_from=str(source.path)), tiny_store, tmp_path / "r", say=said.append)
    assert not [line for line in said if "make sure" in line]


def test_weights_that_are_none_or_of_another_network_are_refused(source, tiny_store, tmp_path):
    torch.save({"model": {"a": torch.zeros(3)}}, tmp_path / "other.pt")
    torch.save({"model": 3}, tmp_path / "none.pt")
    for path, message in (
        (tmp_path / "other.pt", "None of the 1 tensors fits"),
        (tmp_path / "none.pt", "does not hold the weights"),
        (tmp_path / "absent.pt", "there is no such run folder or file of weights"),
        (tmp_path, "no weights, or damaged ones"),
    ):
        with pytest.raises(StoreError, match=message):
            train(quick(init_from=str(path)), tiny_store, tmp_path / "r", say=silent)
        assert not (tmp_path / "r").exists()


def test_weights_that_began_elsewhere_are_warned_of_at_every_step(source, tiny_store, tmp_path):
    """A run of this store may itself have started from weights that had seen its test patients."""
    other = changed_store(tiny_store, tmp_path / "o.zarr")
    attributes = json.loads((other.path / "zarr.json").read_text())
    attributes["attributes"]["content_sha256"] = "0" * 64
    (other.path / "zarr.json").write_text(json.dumps(attributes))
    train(quick(epochs=1), Store(other.path), tmp_path / "a", say=silent)
    for begun, run in (("a", "b"), ("b", "c")):
        said = []
        train(
            quick(epochs=1, init_from=str(tmp_path / begun)),
            tiny_store,
            tmp_path / run,
            say=said.append,
        )
        assert any("make sure that no patient" in line for line in said)


def test_a_path_to_weights_stays_in_the_run_folder(source, tiny_store, tmp_path):
    folder = tmp_path / "dr_jane_doe"
    shutil.copytree(source.path, folder / "w")
    run = train(
        quick(epochs=1, init_from=str(folder / "w")), tiny_store, tmp_path / "r", say=silent
    )
    assert run.shown_settings()["init_from"] == "w"
    evaluate_run(run, tiny_store, "test")
    write_run_report(run, tmp_path / "r.html")
    export_run(run, tmp_path / "m.safetensors")
    for path in (tmp_path / "r.html", tmp_path / "m.safetensors"):
        assert b"jane_doe" not in path.read_bytes()


def test_average_starts_from_the_loaded_weights(source, tiny_store):
    trainer = Trainer.prepare(quick(init_from=str(source.path), ema=0.9), tiny_store)
    trainer.load_weights()
    saved = load_checkpoint(source.path / BEST)["model"]
    assert all(
        torch.equal(tensor, saved[name])
        for name, tensor in trainer.kept().model.state_dict().items()
    )
    assert trainer.ema.n_updates == 0


@pytest.mark.parametrize("ema", [0, 0.9])
def test_linear_probe_trains_the_head_and_nothing_else(tiny_store, tmp_path, ema):
    config = quick(freeze="backbone", ema=ema, lr=0.01)
    first = {
        name: tensor.clone()
        for name, tensor in Trainer.prepare(config, tiny_store).model.state_dict().items()
    }
    run = train(config, tiny_store, tmp_path / "r", say=silent)
    for state in (
        load_checkpoint(run.path / BEST)["model"],
        load_checkpoint(run.path / LAST)["model"],
    ):
        changed = {name for name in first if not torch.equal(first[name], state[name])}
        assert changed
        assert all(name.startswith("head") for name in changed)
    losses = [row["train_loss"] for row in load_checkpoint(run.path / LAST)["history"]]
    assert losses[-1] < losses[0]


def test_layer_decay_sets_the_rates_by_depth(tiny_store):
    trainer = Trainer.prepare(quick(layer_decay=0.5, lr=0.01, scheduler="cosine"), tiny_store)
    groups = trainer.optimizer.param_groups
    depth = len(trainer.model.depth_groups())
    assert depth > 2
    owner = {id(p): group["lr"] for group in groups for p in group["params"]}
    for distance, modules in enumerate(reversed(trainer.model.depth_groups())):
        rates = {owner[id(p)] for module in modules for p in module.parameters()}
        assert rates == {0.01 * 0.5**distance}
    trainer.train_epoch(lambda: None, lambda: False)
    n_steps = trainer.progress.step
    factor = cosine_factor(n_steps - 1, trainer.config.epochs * n_steps)
    expected = [0.01 * factor * group["lr_factor"] for group in groups]
    assert [group["lr"] for group in groups] == pytest.approx(expected)


def test_initial_weights_of_an_ensemble_are_those_of_the_same_seed_or_the_first(
    tiny_store, tmp_path
):
    train(quick(epochs=1, seeds=(0, 1)), tiny_store, tmp_path / "e", say=silent)
    states = {
        seed: load_checkpoint(tmp_path / f"e/members/{seed}" / BEST)["model"] for seed in "01"
    }
    name = next(iter(states["0"]))
    assert not torch.equal(states["0"][name], states["1"][name])
    for asked, expected in (("1", "1"), ("7", "0")):
        assert torch.equal(weights_of(tmp_path / "e", asked)[name], states[expected][name])


def nan_for(monkeypatch, rows, from_epoch: int) -> None:
    """Make the logits of some store rows NaN in training, as a broken recording would."""
    whole = Trainer.losses_of

    def broken(self, batch, *seeds):
        losses = whole(self, batch, *seeds)
        hit = torch.from_numpy(np.isin(batch.rows, rows)) & (self.progress.epoch >= from_epoch)
        return torch.where(hit, math.nan, losses)

    monkeypatch.setattr(Trainer, "losses_of", broken)


@pytest.mark.parametrize("checks", [1, 32])
def test_loss_that_is_nan_names_the_rows_and_never_becomes_best(
    tiny_store, tmp_path, monkeypatch, checks
):
    rows = Trainer.prepare(quick(), tiny_store).rows["train"][[7]]
    nan_for(monkeypatch, rows, from_epoch=1)
    monkeypatch.setitem(trainer_module.STEPS_BETWEEN_LOOKS, "cpu", checks)
    message = rf"The loss is nan at epoch 2, step \d+ \(store rows {rows[0]}\)\. Lower --lr"
    with pytest.raises(InputError, match=message):
        train(quick(), tiny_store, tmp_path / "r", say=silent)
    assert load_checkpoint(tmp_path / "r" / BEST)["epoch"] == 1
    assert len(load_checkpoint(tmp_path / "r" / LAST)["history"]) == 1
    assert all(
        torch.isfinite(tensor).all()
        for tensor in load_checkpoint(tmp_path / "r" / BEST)["model"].values()
    )
    monkeypatch.undo()
    # The checkpoint is from before.
    train(quick(), tiny_store, tmp_path / "r", resume=True, say=silent)
