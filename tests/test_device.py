"""What holds on a CPU and on a GPU alike; on a GPU with `make test-gpu` (ECG_DEVICE=cuda)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import DEVICE, quick, same_results, silent
from test_distributed import torchrun
from test_resume_training import at_step, die

import ecgfit.training.trainer as trainer_module
from ecgfit.checkpoint import load_checkpoint
from ecgfit.cli import cli
from ecgfit.compute.device import use_amp, warn_of_emulation
from ecgfit.data.rows import select_rows
from ecgfit.inference.predictions import Predictions
from ecgfit.inference.scorer import load_ensemble, load_run, predict_rows
from ecgfit.models.factory import MODELS
from ecgfit.run import RunFolder
from ecgfit.run_files import LAST
from ecgfit.training.loss_log import LossLog
from ecgfit.training.runner import train
from ecgfit.training.trainer import Trainer

on_a_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU: make test-gpu")
COVARIATES = ("age", "sex")


def config(**settings: object):
    return quick(**{"device": DEVICE, "epochs": 2, "model_args": "width=0.25"} | settings)


@pytest.mark.parametrize("model", MODELS)
def test_every_network_trains_the_same_twice(tiny_store, tmp_path, model):
    model_args = "width=0.25,depth=3" if model == "inception1d" else "width=0.25"
    settings = config(
        model=model, model_args=model_args, epochs=1, tabular=",".join(COVARIATES), missing="mask"
    )
    for name in ("one", "other"):
        train(settings, tiny_store, tmp_path / name, say=silent)
    assert same_results(tmp_path / "one", tmp_path / "other")


def test_resident_rows_make_the_same_run(tiny_store, tmp_path):
    for name in ("on", "off"):
        train(config(resident=name), tiny_store, tmp_path / name, say=silent)
    assert same_results(tmp_path / "on", tmp_path / "off")


@pytest.mark.parametrize("compiled", ["off", pytest.param("on", marks=on_a_gpu)])
def test_killed_and_resumed_to_the_bit(tiny_store, tmp_path, monkeypatch, compiled):
    settings = config(compile=compiled)
    train(settings, tiny_store, tmp_path / "whole", say=silent)
    at_step(monkeypatch, 1, 2, 0, die)
    monkeypatch.setattr(trainer_module, "SECONDS_BETWEEN_SAVES", -1)
    with pytest.raises(KeyboardInterrupt):
        train(settings, tiny_store, tmp_path / "killed", say=silent)
    state = load_checkpoint(tmp_path / "killed" / LAST)
    assert (len(state["history"]), state["step"]) == (1, 2)
    monkeypatch.undo()
    train(settings, tiny_store, tmp_path / "killed", resume=True, say=silent)
    assert same_results(tmp_path / "whole", tmp_path / "killed")


def test_a_run_of_a_gpu_is_used_where_there_is_none(corpus, tiny_store, tmp_path, monkeypatch):
    run = train(config(seeds=(0, 1), epochs=1), tiny_store, tmp_path / "r", say=silent)
    for path in (run.path / "config.yaml", *run.path.glob("members/*/config.yaml")):
        text = path.read_text().replace(f"device: {DEVICE}\n", "device: cuda\n", 1)
        assert "device: cuda\n" in text
        path.write_text(text)
    rows = select_rows(tiny_store, "test", "drop")
    trained = load_ensemble(run.members, DEVICE)
    here = predict_rows(trained, tiny_store, rows, (), amp=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def ecgfit(*arguments: object) -> None:
        done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output

    ecgfit("eval", "--run", run.path, "--store", tiny_store.path)
    there = Predictions.load(run.path / "predictions_test.csv")
    np.testing.assert_allclose(there.logits, here.logits, rtol=1e-3, atol=1e-3)
    recording = min((corpus / "xml").rglob("*.xml"))
    ecgfit("predict", "--run", run.path, recording, "-o", tmp_path / "p.csv")


def test_a_run_in_bfloat16_predicts_as_in_float32(tiny_store, tmp_path):
    run = train(config(amp="on"), tiny_store, tmp_path / "r", say=silent)
    rows = select_rows(tiny_store, "test", "drop")
    fine, coarse = (
        predict_rows(load_ensemble([run], DEVICE), tiny_store, rows, (), amp)
        for amp in (False, True)
    )
    probabilities = [run.calibration.apply(found.logit_difference()) for found in (fine, coarse)]
    assert np.abs(probabilities[0] - probabilities[1]).max() < 0.03
    assert not np.array_equal(fine.logits, coarse.logits)


CAPABILITIES = {
    "avx512_bf16": {"avx2": True, "avx512_f": True, "avx512_bf16": True},
    "amx": {"avx512_f": True, "amx_bf16": True},
    "arm": {"neon": True, "bf16": True},
    "avx512 alone": {"avx512_f": True, "avx512_bf16": False},
    "avx2": {"avx2": True},
}


@pytest.fixture
def cpu_with(monkeypatch):
    """Return a function that pretends to be on a CPU of these capabilities."""

    def pretend(name: str, *, kernels: bool = True) -> None:
        capabilities = CAPABILITIES[name]
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
        monkeypatch.setattr(
            torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: kernels, raising=False
        )

    yield pretend
    warn_of_emulation.cache_clear()


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("avx512_bf16", True),
        ("amx", True),
        ("arm", True),
        ("avx512 alone", False),
        ("avx2", False),
    ],
)
def test_auto_takes_bfloat16_where_the_cpu_multiplies_in_it(cpu_with, name, has):
    cpu_with(name)
    assert use_amp("auto", "cpu") is has
    assert use_amp("on", "cpu") is True
    assert use_amp("off", "cpu") is False


def test_auto_is_float32_where_pytorch_has_no_kernels_or_does_not_tell(cpu_with, monkeypatch):
    cpu_with("arm", kernels=False)
    assert not use_amp("auto", "cpu")
    cpu_with("avx512_bf16")
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not use_amp("auto", "cpu")


def test_auto_follows_how_a_run_was_trained(cpu_with):
    cpu_with("avx512_bf16")
    assert use_amp("auto", "cpu", trained=True)
    assert not use_amp("auto", "cpu", trained=False)
    assert use_amp("on", "cpu", trained=False)


def test_emulation_is_warned_of_once(cpu_with, caplog):
    cpu_with("avx2")
    for _ in range(2):
        warn_of_emulation("cpu")
    message = (
        "--amp on: this CPU has no bfloat16 and emulates it, so training can take ten times as "
        "long. Use --amp auto or off."
    )
    assert [record.getMessage() for record in caplog.records] == [message]
    warn_of_emulation.cache_clear()
    cpu_with("amx")
    warn_of_emulation("cpu")
    assert len(caplog.records) == 1


def test_a_run_of_float32_is_resumed_and_used_in_float32(cpu_with, tiny_store, tmp_path):
    """The run was trained with `auto` on a machine without bfloat16; now the machine has it."""
    cpu_with("avx2")
    settings = config(amp="auto", device="cpu", epochs=1)
    run = train(settings, tiny_store, tmp_path / "r", say=silent)
    cpu_with("avx512_bf16")
    _, amp = load_run(RunFolder(run.path))
    assert not amp
    trainer = Trainer.prepare(settings, tiny_store)
    assert trainer.amp
    trainer.load_state(run.path / LAST)
    assert not trainer.amp
    (run.path / "threshold.json").unlink()
    train(settings, tiny_store, run.path, resume=True, say=silent)
    assert RunFolder(run.path).recorded["amp"] is False


@on_a_gpu
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_nothing_in_a_step_waits_for_the_gpu(tiny_store, compiled):
    trainer = Trainer.prepare(config(resident="on", compile=compiled), tiny_store)
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
def test_the_fast_modes_train(tiny_store, tmp_path):
    run = train(
        config(deterministic="off", compile="on", resident="auto"),
        tiny_store,
        tmp_path / "r",
        say=silent,
    )
    assert 0 <= RunFolder(run.path).read_json("metrics_val.json")["metrics"]["auroc"]["value"] <= 1


@on_a_gpu
def test_two_processes_on_gpus(tiny_store, tmp_path):
    options = ["--epochs", "2", "--batch", "16", "--threads", "1"]
    done = torchrun(
        "-m",
        "ecgfit.cli",
        "train",
        "--store",
        tiny_store.path,
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
