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
from click.testing import CliRunner, Result
from helpers import build, copy_run

import ecg_train
from ecgfit.cli import cli, let_threads_sleep
from ecgfit.tables import print_comparison, print_metrics
from ecgprep.building.plan import BuildSettings
from ecgprep.conform import Conformity
from ecgprep.console import run_command
from ecgprep.errors import InputError, StoreError
from ecgprep.store.reader import Store

ROOT = Path(__file__).parent.parent
QUICK = ["--epochs", "2", "--batch", "16", "--threads", "1", "--model-args", "width=0.5"]


def ecgfit(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "ecgfit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def invoke(*words: object, command: click.Command = cli) -> Result:
    """Run a command in this process; a failure is raised."""
    runner = CliRunner()
    return runner.invoke(command, [str(word) for word in words], catch_exceptions=False)


def test_a_process_trains_and_speaks_on_two_channels(tiny_store, tmp_path):
    done = ecgfit("train", "--store", tiny_store.path, *QUICK, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "runs/001"
    assert "checked: statistics come from" in done.stderr
    assert (tmp_path / "runs/001/threshold.json").exists()


def test_train_then_eval_find_each_other(tiny_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = ("--class-weights", "1.0", "2.2")
    trained = invoke("train", "--store", tiny_store.path, *QUICK, *weights, "--json")
    assert json.loads(trained.stdout)["run"] == "runs/001"
    assert "class_weights:\n- 1.0\n- 2.2\n" in Path("runs/001/config.yaml").read_text()

    metrics = json.loads(invoke("eval", "--store", tiny_store.path, "--json").stdout)
    assert (metrics["run"], metrics["split"]) == ("runs/001", "test")
    for name in ("auroc", "auprc", "accuracy", "f1", "sensitivity", "specificity"):
        low, high = metrics["metrics"][name]["ci95"]
        assert 0 <= low <= metrics["metrics"][name]["value"] <= high <= 1
    table = invoke("eval", "--store", tiny_store.path, "--run", "runs/001").stdout
    assert f"{metrics['metrics']['auroc']['value']:.3f}" in table

    config = ("--config", "runs/001/config.yaml", "--outdir", "runs/again")
    invoke("train", "--store", tiny_store.path, *config)
    first, again = (Path(f"runs/{name}/predictions_val.csv") for name in ("001", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_resume_needs_only_the_run(tiny_store, trained_run, tmp_path, monkeypatch):
    shutil.copytree(tiny_store.path, tmp_path / "tiny.zarr")
    copy = copy_run(trained_run, tmp_path / "runs/a")
    (copy.path / "calibration.json").unlink()
    monkeypatch.chdir(tmp_path)
    resumed = invoke("train", "--resume", "--outdir", "runs/a")
    assert "runs/a is trained: making again what validation decides" in resumed.stderr
    assert "run folder: runs/a" in resumed.stdout
    for other in (["--lr", "0.5"], ["--set", "lr=0.5"]):
        with pytest.raises(StoreError, match=r"other settings \(lr: 0\.003, now 0\.5\)"):
            invoke("train", "--resume", "--outdir", "runs/a", *other)


def test_check_trains_nothing(tiny_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("train", "--store", tiny_store.path, "--check")
    assert done.stdout.count("checked: ") == 2
    assert not list(tmp_path.iterdir())


def test_quiet_shows_no_progress_but_the_result(tiny_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("train", "--store", tiny_store.path, *QUICK, "-q")
    assert done.stderr == ""
    assert "run folder: runs/001" in done.stdout


MISTAKES = [
    (["train", "--store", "absent.zarr"], 4, "does not exist"),
    (["train"], 2, "Missing option '--store'"),
    (["train", "--store", "STORE", "--lr", "fast"], 3, "lr: must be a number"),
    (["train", "--store", "STORE", "--lr", "1", "--lr", "2"], 2, "--lr: given more than once"),
    (["train", "--store", "STORE", "--aug", "flip"], 3, "'noise', 'scale', 'shift' or 'leadmask'"),
    (["train", "--store", "STORE", "--val-metric", "f1"], 3, "'auprc' or 'auroc'"),
    (["train", "--store", "STORE", "--class-weights", "1.0"], 3, "class_weights"),
    (["train", "--store", "STORE", "--device", "cuda"], 4, "no GPU"),
    (["train", "--store", "STORE", "--unknown", "1"], 2, "--unknown"),
    (["train", "--store", "STORE", "--outdir", "a_file"], 3, "Not a directory"),
    (["train", "--store", "STORE", "--config", "a_file"], 3, "must be a mapping"),
    (["train", "--store", "STORE", "--config", "absent.yaml"], 3, "cannot be read"),
    (["train", "--store", "STORE", "--set", "lr"], 3, "--set takes key=value"),
    (["train", "--store", "STORE", "--set", "momentum=1"], 3, "momentum: unknown key; allowed are"),
    (
        ["train", "--store", "STORE", "--tabular", "bmi"],
        3,
        "has no covariate bmi (it has: age, sex",
    ),
    (["train", "--store", "STORE", "--threshold", "best"], 3, "threshold: rule (=best) must be"),
    (
        ["train", "--store", "STORE", "--init-from", "absent.pt"],
        4,
        "init_from absent.pt: there is no such run folder",
    ),
    (["train", "--store", "STORE", "--resume"], 2, "--resume needs --outdir"),
    (["train", "--resume", "--outdir", "absent"], 4, "There is no run to resume in absent"),
    (["eval", "--store", "STORE", "--external"], 2, "--external needs --run"),
    (["compare", "absent", "missing"], 4, "absent is not a finished run"),
    (["eval", "--store", "STORE"], 4, "No finished run under runs/"),
    (["eval", "--store", "STORE", "--run", "absent"], 4, "is not a finished run"),
]


@pytest.mark.parametrize(("words", "code", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_of_the_user_end_in_a_message_and_a_code(
    tiny_store, tmp_path, monkeypatch, capsys, words, code, message
):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("a GPU is here, so asking for it is no mistake")
    (tmp_path / "a_file").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        run_command(cli, [str(tiny_store.path) if word == "STORE" else word for word in words])
    error_text = capsys.readouterr().err
    assert ended.value.code == code, error_text
    assert message in error_text


def test_lack_of_a_package_names_the_extra(tiny_store, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("ecgfit.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        run_command(cli, ["train", "--store", str(tiny_store.path), "--check"])
    assert "pip install 'ecgprep-ecgfit[fit]'" in capsys.readouterr().err


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
    error_text = capsys.readouterr().err
    assert error_text.startswith("Error: the GPU ran out of memory. Use a smaller --batch")
    with pytest.raises(RuntimeError, match="ours"):
        run_command(faulty, [])


def test_tables_are_readable_at_80_columns(
    trained_run, ensemble_run, tiny_store, monkeypatch, capsys
):
    """Metric names stay whole, and folders with long paths do not push the numbers out."""
    from ecgfit import api

    monkeypatch.setenv("COLUMNS", "80")
    result = api.compare([trained_run, ensemble_run])
    print_comparison(result)
    comparison = capsys.readouterr().out
    print_metrics(trained_run, trained_run.read_json("metrics_test.json"))
    for text, names in (
        (comparison, result["against_first"][str(ensemble_run.path)]["metrics"]),
        (capsys.readouterr().out, ["auroc", "net_benefit", "calibration_intercept"]),
    ):
        lines = text.splitlines()
        in_table = [line for line in lines if not line.startswith(("A: ", "B: ", "run folder: "))]
        assert max(len(line) for line in in_table) <= 80
        for name in names:
            assert any(line.startswith(f"{name} ") for line in lines), name


def test_compare_prints_every_run_against_the_first(trained_run, ensemble_run):
    printed = invoke("compare", trained_run.path, ensemble_run.path).stdout
    assert f"A: {trained_run.path}\nB: {ensemble_run.path}\n" in printed
    assert "DeLong" in printed


FLAGS = (
    "--split_seed 42 --leads 8 --hz 500 --length 5000 --batch 32 --epochs 2 --loss ce "
    "--class-weights 1.0 2.2 --optimizer adamw --lr 1e-3 --weight-decay 1e-4 "
    "--aug noise,scale,shift --val-metric auprc --early-stop 12 --threads 1 "
    "--outdir runs/ctrcd_baseline"
).split()


@pytest.fixture
def project(corpus, tmp_path) -> Path:
    """A folder with data/manifest.csv, as in the README."""
    shutil.copytree(corpus, tmp_path / "data")
    return tmp_path


def test_ecg_train_builds_trains_and_evaluates(project, monkeypatch):
    script = [sys.executable, str(ROOT / "ecg_train.py"), "--patient", "data/manifest.csv", *FLAGS]
    done = subprocess.run(script, capture_output=True, text=True, cwd=project, check=False)
    assert done.returncode == 0, done.stderr
    assert "was built: it does not exist yet" in done.stderr
    assert "test: " in done.stdout
    assert (project / "data/manifest.zarr/zarr.json").exists()
    assert (project / "runs/ctrcd_baseline/metrics_test.json").exists()

    monkeypatch.chdir(project)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        run_command(ecg_train.command, ["--patient", "data/manifest.csv", *FLAGS])
    assert ended.value.code == 7
    changed = {"5000": "2500", "2": "1"}
    flags = [changed.get(word, word) for word in FLAGS]
    words = ["--patient", "data/manifest.csv", *flags, "--overwrite"]
    stale = invoke(*words, command=ecg_train.command)
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
def test_ecg_train_refuses_what_it_does_not_know_before_it_builds(
    project, monkeypatch, flags, message
):
    monkeypatch.chdir(project)
    words = ["--patient", "data/manifest.csv", "--outdir", "runs/x", *flags]
    runner = CliRunner()
    result = runner.invoke(ecg_train.command, words)
    if isinstance(result.exception, InputError):
        assert message in str(result.exception)
    else:
        assert result.exit_code == 2
        assert message in result.stderr
    assert not (project / "data/manifest.zarr").exists()


def test_permuted_labels_are_not_learnt(corpus, tmp_path):
    """With labels drawn by lot the test AUROC's interval covers one half; a leak would show."""
    import ecgfit as api

    shutil.copytree(corpus, tmp_path / "c")
    manifest = tmp_path / "c/manifest.csv"
    header, *rows = [line.split(",") for line in manifest.read_text().splitlines()]
    patients = sorted({row[0] for row in rows})
    drawn = np.random.default_rng(0).permutation(len(patients)) % 2
    label = dict(zip(patients, drawn.astype(str), strict=True))
    permuted = [[patient, path, label[patient], *rest] for patient, path, _, *rest in rows]
    manifest.write_text("".join(",".join(row) + "\n" for row in [header, *permuted]))
    store = build(manifest, tmp_path / "p.zarr", BuildSettings(Conformity(100, 1000)))
    run = api.train(store, tmp_path / "r", epochs=6, batch=16, threads=1, amp="off")
    low, high = run.evaluate(store)["metrics"]["auroc"]["ci95"]
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
