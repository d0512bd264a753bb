"""What holds on a CPU and on a GPU alike: on the CPU in every run of the tests, on a GPU with `make test-gpu` (ECG_DEVICE=cuda)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DEVICE, quick, same_results, silent
from test_distributed import torchrun
from test_resume_training import at_step, die

import ecgfit.training.trainer as trainer_module
from ecgfit.checkpoint import load_checkpoint
from ecgfit.data.rows import select_rows
from ecgfit.inference.predictions import Predictions
from ecgfit.inference.scorer import load_ensemble, predict_rows
from ecgfit.models.factory import MODELS
from ecgfit.run import Run
from ecgfit.run_files import LAST
from ecgfit.training.loss_log import LossLog
from ecgfit.training.runner import train
from ecgfit.training.trainer import Trainer
from ecgprep.store.reader import Store

on_a_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU: make test-gpu")
COVARIATES = ("age", "sex")


def config(**settings: object):
    return quick(**{"device": DEVICE, "epochs": 2, "model_args": "width=0.25"} | settings)


@pytest.mark.parametrize("model", MODELS)
def test_every_network_trains_the_same_twice(small_store, tmp_path, model):
    settings = config(model=model, epochs=1, tabular=",".join(COVARIATES), missing="mask")
    for name in ("one", "other"):
        train(settings, small_store, tmp_path / name, say=silent)
    assert same_results(tmp_path / "one", tmp_path / "other")


def test_resident_rows_make_the_same_run(small_store, tmp_path):
    for name in ("on", "off"):
        train(config(resident=name), small_store, tmp_path / name, say=silent)
    assert same_results(tmp_path / "on", tmp_path / "off")


@pytest.mark.parametrize("compiled", ["off", pytest.param("on", marks=on_a_gpu)])
def test_killed_and_resumed_to_the_bit(small_store, tmp_path, monkeypatch, compiled):
    settings = config(compile=compiled)
    train(settings, small_store, tmp_path / "whole", say=silent)
    at_step(monkeypatch, 1, 2, 0, die)
    monkeypatch.setattr(trainer_module, "SECONDS_BETWEEN_SAVES", -1)
    with pytest.raises(KeyboardInterrupt):
        train(settings, small_store, tmp_path / "killed", say=silent)
    assert (
        len((state := load_checkpoint(tmp_path / "killed" / LAST))["history"]),
        state["step"],
    ) == (1, 2)
    monkeypatch.undo()
    train(settings, small_store, tmp_path / "killed", resume=True, say=silent)
    assert same_results(tmp_path / "whole", tmp_path / "killed")


def test_a_run_of_a_gpu_is_used_where_there_is_none(corpus: Path, small_store: Store, tmp_path):
    run = train(config(seeds=(0, 1), epochs=1), small_store, tmp_path / "r", say=silent)
    for path in (run.path / "config.yaml", *run.path.glob("members/*/config.yaml")):
        path.write_text(path.read_text().replace(f"device: {DEVICE}\n", "device: cuda\n", 1))
        assert "device: cuda\n" in path.read_text()

    def ecgfit(*arguments: object) -> None:
        command = [sys.executable, "-m", "ecgfit.cli", *map(str, arguments)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            check=False,
        )
        assert done.returncode == 0, done.stderr

    here = predict_rows(
        load_ensemble(run.members, DEVICE),
        small_store,
        select_rows(small_store, "test", "drop"),
        (),
        amp=False,
    )
    ecgfit("eval", "--run", run.path, "--store", small_store.path)
    np.testing.assert_allclose(
        Predictions.load(run.path / "predictions_test.csv").logits,
        here.logits,
        rtol=1e-3,
        atol=1e-3,
    )
    ecgfit(
        "predict", "--run", run.path, min((corpus / "xml").rglob("*.xml")), "-o", tmp_path / "p.csv"
    )


def test_a_run_in_bfloat16_predicts_as_in_float32(small_store, tmp_path):
    run = train(config(amp="on"), small_store, tmp_path / "r", say=silent)
    rows = select_rows(small_store, "test", "drop")
    fine, coarse = (
        predict_rows(load_ensemble([run], DEVICE), small_store, rows, (), amp)
        for amp in (False, True)
    )
    assert (
        np.abs(
            run.calibration.apply(fine.logit_difference())
            - run.calibration.apply(coarse.logit_difference())
        ).max()
        < 0.03
    )
    assert not np.array_equal(fine.logits, coarse.logits)


@on_a_gpu
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_nothing_in_a_step_waits_for_the_gpu(small_store, compiled):
    trainer = Trainer.prepare(config(resident="on", compile=compiled), small_store)
    log = LossLog(trainer.ranks, 0, 0)
    for _ in range(2):  # the first epoch allocates and compiles
        for batch in trainer.loader():
            log.append(trainer.take_step(batch))
            trainer.progress.step += 1
        trainer.progress.step = 0
        torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(log.read()).all()


@on_a_gpu
def test_the_fast_modes_train(small_store, tmp_path):
    run = train(
        config(deterministic="off", compile="on", resident="auto"),
        small_store,
        tmp_path / "r",
        say=silent,
    )
    assert 0 <= Run(run.path).read_json("metrics_val.json")["metrics"]["auroc"]["value"] <= 1


@on_a_gpu
def test_two_processes_on_gpus(small_store, tmp_path):
    options = ["--epochs", "2", "--batch", "16", "--threads", "1"]
    done = torchrun(
        "-m",
        "ecgfit.cli",
        "train",
        "--store",
        small_store.path,
        "--outdir",
        "r",
        *options,
        cwd=tmp_path,
    )
    if torch.cuda.device_count() < 2:
        assert done.returncode != 0
        assert "Each process needs a GPU of its own" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "r/threshold.json").exists()
