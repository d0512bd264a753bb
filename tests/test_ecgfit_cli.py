"""ecgfit and ecg_train.py as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from conftest import build

from ecgfit.cli import cli, let_threads_sleep
from ecgprep.building.plan import BuildSettings
from ecgprep.conform import Conformity
from ecgprep.console import run_command
from ecgprep.store.reader import Store

ROOT = Path(__file__).parent.parent
QUICK = ["--epochs", "2", "--batch", "16", "--threads", "1"]


@pytest.fixture(scope="module")
def store(small_store) -> Store:
    return small_store


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False
    )


def ecgfit(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run("-m", "ecgfit.cli", *arguments, cwd=cwd)


def test_train_then_eval_find_each_other(store, tmp_path):
    trained = ecgfit(
        "train",
        "--store",
        store.path,
        *QUICK,
        "--class-weights",
        "1.0",
        "2.2",
        "--json",
        cwd=tmp_path,
    )
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["run"] == "runs/001"
    assert "checked: statistics come from" in trained.stderr
    assert "class_weights:\n- 1.0\n- 2.2\n" in (tmp_path / "runs/001/config.yaml").read_text()
    evaluated = ecgfit("eval", "--store", store.path, "--json", cwd=tmp_path)
    metrics = json.loads(evaluated.stdout)
    assert (metrics["run"], metrics["split"]) == ("runs/001", "test")
    for name in ("auroc", "auprc", "accuracy", "f1", "sensitivity", "specificity"):
        low, high = metrics["metrics"][name]["ci95"]
        assert 0 <= low <= metrics["metrics"][name]["value"] <= high <= 1
    table = ecgfit("eval", "--store", store.path, "--run", "runs/001", cwd=tmp_path).stdout
    assert f"{metrics['metrics']['auroc']['value']:.3f}" in table
    again = ecgfit(
        "train",
        "--store",
        store.path,
        "--config",
        "runs/001/config.yaml",
        "--outdir",
        "runs/again",
        cwd=tmp_path,
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "runs/001/predictions_val.csv").read_bytes() == (
        tmp_path / "runs/again/predictions_val.csv"
    ).read_bytes()


def test_check_trains_nothing(store, tmp_path):
    done = ecgfit("train", "--store", store.path, "--check", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.count("checked: ") == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "--store", "absent.zarr"], 4, "does not exist"),
        (["train", "--store", "STORE", "--lr", "fast"], 3, "lr: must be a number"),
        (
            ["train", "--store", "STORE", "--aug", "flip"],
            3,
            "'noise', 'scale', 'shift' or 'leadmask'",
        ),
        (["train", "--store", "STORE", "--val-metric", "f1"], 3, "'auprc' or 'auroc'"),
        (["train", "--store", "STORE", "--class-weights", "1.0"], 3, "class_weights"),
        (["train", "--store", "STORE", "--device", "cuda"], 4, "no GPU"),
        (["train", "--store", "STORE", "--unknown", "1"], 2, "--unknown"),
        (["train", "--store", "STORE", "--outdir", "a_file"], 3, "Not a directory"),
        (["train", "--store", "STORE", "--config", "a_file"], 3, "must be a mapping"),
        (["train", "--store", "STORE", "--config", "absent.yaml"], 3, "cannot be read"),
        (["train", "--store", "STORE", "--set", "lr"], 3, "--set takes key=value"),
        (
            ["train", "--store", "STORE", "--set", "momentum=1"],
            3,
            "momentum: unknown key; allowed are model",
        ),
        (
            ["train", "--store", "STORE", "--tabular", "bmi"],
            3,
            "has no covariate bmi (it has: age, sex)",
        ),
        (
            ["train", "--store", "STORE", "--threshold", "best"],
            3,
            "threshold: rule (=best) must be youden",
        ),
        (
            ["train", "--store", "STORE", "--init-from", "absent.pt"],
            4,
            "init_from absent.pt: there is no such run folder",
        ),
        (["train", "--store", "STORE", "--resume"], 2, "--resume needs --outdir"),
        (["eval", "--store", "STORE", "--external"], 2, "--external needs --run"),
        (["compare", "absent", "missing"], 4, "absent is not a finished run"),
        (["eval", "--store", "STORE"], 4, "No finished run under runs/"),
        (["eval", "--store", "STORE", "--run", "absent"], 4, "is not a finished run"),
    ],
)
def test_mistakes_of_the_user_end_in_a_message_and_a_code(
    store, tmp_path, monkeypatch, capsys, arguments, code, message
):
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("a GPU is here, so asking for it is no mistake")
    (tmp_path / "a_file").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(
        SystemExit
    ) as ended:  # in this process: another would take seconds to import PyTorch
        run_command(cli, [str(store.path) if word == "STORE" else word for word in arguments])
    said = capsys.readouterr().err
    assert ended.value.code == code, said
    assert message in said


def test_lack_of_gpu_memory_is_one_line_with_a_way_out(capsys):
    @click.command()
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    @click.command()
    def faulty():
        raise RuntimeError("ours")

    with pytest.raises(SystemExit) as ended:
        run_command(full, [])
    assert ended.value.code == 3
    assert capsys.readouterr().err.startswith(
        "Error: the GPU ran out of memory. Use a smaller --batch"
    )
    with pytest.raises(RuntimeError, match="ours"):
        run_command(faulty, [])


FLAGS = (
    "--split_seed 42 --leads 8 --hz 500 --length 5000 --batch 32 --epochs 2 --loss ce --class-weights 1.0 2.2 --optimizer adamw --lr 1e-3 "
    "--weight-decay 1e-4 --aug noise,scale,shift --val-metric auprc --early-stop 12 --threads 1 --outdir runs/ctrcd_baseline"
).split()


@pytest.fixture
def project(corpus, tmp_path) -> Path:
    """A folder with data/manifest.csv, as in the README."""
    shutil.copytree(corpus, tmp_path / "data")
    return tmp_path


def test_ecg_train_builds_trains_and_evaluates(project):
    done = run(ROOT / "ecg_train.py", "--patient", "data/manifest.csv", *FLAGS, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "was built: it does not exist yet" in done.stderr
    assert "test: " in done.stdout
    assert (project / "data/manifest.zarr/zarr.json").exists()
    assert (project / "runs/ctrcd_baseline/metrics_test.json").exists()
    again = run(ROOT / "ecg_train.py", "--patient", "data/manifest.csv", *FLAGS, cwd=project)
    assert again.returncode == 7
    assert "--overwrite" in again.stderr
    stale = run(
        ROOT / "ecg_train.py",
        "--patient",
        "data/manifest.csv",
        *FLAGS,
        "--length",
        "2500",
        "--overwrite",
        cwd=project,
    )
    assert stale.returncode == 0, stale.stderr
    assert "was built: the settings differ" in stale.stderr
    assert Store(project / "data/manifest.zarr").n_samples == 2500


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--leads", "12"], "'12' is not '8'"),
        (["--loss", "focal"], "'ce' or 'bce'"),
        (["--optimizer", "sgd"], "'adamw'"),
        (["--hz", "fast"], "--hz"),
        (["--val-metric", "f1"], "'auprc' or 'auroc'"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_ecg_train_refuses_what_it_does_not_know_before_it_builds(project, flags, message):
    done = run(
        ROOT / "ecg_train.py",
        "--patient",
        "data/manifest.csv",
        "--outdir",
        "runs/x",
        *flags,
        cwd=project,
    )
    assert done.returncode in (2, 3)
    assert message in done.stderr
    assert not (project / "data/manifest.zarr").exists()


def test_permuted_labels_are_not_learnt(corpus, tmp_path):
    """With labels drawn by lot the test AUROC's interval covers one half; a leak would show here."""
    shutil.copytree(corpus, tmp_path / "c")
    lines = (tmp_path / "c/manifest.csv").read_text().splitlines()
    patients = sorted({line.split(",")[0] for line in lines[1:]})
    label = dict(
        zip(patients, np.random.default_rng(0).permutation(len(patients)) % 2, strict=True)
    )
    rows = [line.split(",") for line in lines[1:]]
    (tmp_path / "c/manifest.csv").write_text(
        "\n".join([lines[0], *(",".join([r[0], r[1], str(label[r[0]]), *r[3:]]) for r in rows)])
        + "\n"
    )
    store = build(
        tmp_path / "c/manifest.csv", tmp_path / "p.zarr", BuildSettings(Conformity(100, 1000))
    )
    assert (
        ecgfit(
            "train", "--store", store.path, "--outdir", "r", *QUICK, "--epochs", "6", cwd=tmp_path
        ).returncode
        == 0
    )
    metrics = json.loads(
        ecgfit("eval", "--store", store.path, "--run", "r", "--json", cwd=tmp_path).stdout
    )["metrics"]
    low, high = metrics["auroc"]["ci95"]
    assert low < 0.5 < high


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "10000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "9"}, {"GOMP_SPINCOUNT": "9"}),
    ],
    ids=["default", "user's", "user's count"],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(monkeypatch, given, expected):
    monkeypatch.setattr(os, "environ", given)
    let_threads_sleep()
    assert given == expected
