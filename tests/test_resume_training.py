"""A run that is killed or asked to stop at any moment, and resumed, ends as one that was not.

To the bit: its weights, decisions, metrics and curves are compared.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import at_step, copy_run, die, quick, same_results, silent

import ecgfit.training.decisions as decisions_module
import ecgfit.training.outdir as outdir_module
import ecgfit.training.single as single_module
import ecgfit.training.trainer as trainer_module
from ecgfit.checkpoint import load_checkpoint
from ecgfit.evaluation.evaluate import evaluate_run
from ecgfit.models import resnet1d
from ecgfit.run import RunFolder
from ecgfit.run_files import LAST
from ecgfit.training.runner import train
from ecgfit.training.state import RunState, run_state
from ecgprep.errors import EXIT_TERMINATED, InputError, StoreError, TargetExists

VARIANTS = {
    "cosine": {"scheduler": "cosine"},
    "no average": {"ema": 0},
    "xresnet with covariates": {
        "model": "xresnet1d18",
        "model_args": {"width": 0.25},
        "tabular": "age,sex",
        "missing": "mask",
        "epochs": 2,
    },
    "covariates alone": {"tabular": "age,sex", "tabular_only": True},
    "dropout": {
        "model_args": {"dropout": 0.3},
        "loss": "bce",
        "label_smoothing": 0.1,
        "layer_decay": 0.7,
    },
    "ensemble": {"seeds": (0, 1), "epochs": 2},
}


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the bytes of every file in a folder and those inside it."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", VARIANTS)
def test_dead_in_the_middle_of_an_epoch(tiny_store, tmp_path, monkeypatch, name):
    config = quick(**VARIANTS[name])
    train(config, tiny_store, tmp_path / "whole", say=silent)
    monkeypatch.setattr(trainer_module, "SECONDS_BETWEEN_SAVES", -1)
    at_step(monkeypatch, 1, 2, 1 if config.seeds else 0, die)
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_store, tmp_path / "killed", say=silent)
    monkeypatch.undo()
    last = tmp_path / "killed" / ("members/1" if config.seeds else "") / LAST
    assert load_checkpoint(last)["step"] == 2
    lines = []
    train(config, tiny_store, tmp_path / "killed", resume=True, say=lines.append)
    assert "resuming after epoch 1 and 2 steps" in lines
    assert same_results(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(
    "settings",
    [{"scheduler": "plateau"}, {"scheduler": "cosine"}, {"seeds": (0, 1), "epochs": 2}],
    ids=str,
)
def test_sigterm_in_the_middle_of_an_epoch(tiny_store, tmp_path, monkeypatch, settings):
    config = quick(**settings)
    train(config, tiny_store, tmp_path / "whole", say=silent)
    member_seed = 1 if config.seeds else 0
    at_step(monkeypatch, 1, 1, member_seed, lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train(config, tiny_store, tmp_path / "stopped", say=silent)
    assert ended.value.code == EXIT_TERMINATED == 143
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    member = tmp_path / "stopped" / ("members/1" if config.seeds else "")
    # The step in which the signal came, and the one that heard of it.
    assert load_checkpoint(member / LAST)["step"] == 3
    assert not (tmp_path / "stopped" / "threshold.json").exists()
    train(config, tiny_store, tmp_path / "stopped", resume=True, say=silent)
    assert same_results(tmp_path / "whole", tmp_path / "stopped")


def test_sigterm_during_the_last_step_of_an_epoch(tiny_store, tmp_path, monkeypatch):
    train(quick(), tiny_store, tmp_path / "whole", say=silent)
    last_step = len(trainer_module.Trainer.prepare(quick(), tiny_store).loader()) - 1
    at_step(monkeypatch, 0, last_step, 0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        train(quick(), tiny_store, tmp_path / "stopped", say=silent)
    monkeypatch.undo()
    train(quick(), tiny_store, tmp_path / "stopped", resume=True, say=silent)
    assert same_results(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("settings", [{}, {"seeds": (0, 1)}], ids=["one", "ensemble"])
def test_resuming_on_another_device_is_refused(tiny_store, tmp_path, monkeypatch, settings):
    """`auto` may mean bfloat16 on one machine only: half a run of each would be neither."""
    train(quick(epochs=1, **settings), tiny_store, tmp_path / "r", say=silent)
    for module in (outdir_module, trainer_module):
        monkeypatch.setattr(module, "use_amp", lambda *arguments: True)
    with pytest.raises(StoreError, match=r"other settings \(amp: off, now on\)"):
        train(quick(epochs=1, **settings), tiny_store, tmp_path / "r", resume=True, say=silent)


@pytest.mark.parametrize(
    ("module", "dies_in"),
    [
        (single_module, "write_curves"),
        (single_module, "save_checkpoint"),
        (single_module, "decide"),
        (decisions_module, "finish"),
        (single_module, "save_config"),
    ],
)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_dead_between_two_files_of_the_last_epoch(
    tiny_store, tmp_path, monkeypatch, module, dies_in, before
):
    """Whichever file was the last that was written, the others are made."""
    config = quick(epochs=1)
    train(config, tiny_store, tmp_path / "whole", say=silent)
    function = getattr(module, dies_in)

    def killed(*args, **kwargs):
        if not before:
            function(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, dies_in, killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_store, tmp_path / "killed", say=silent)
    monkeypatch.undo()
    train(config, tiny_store, tmp_path / "killed", resume=True, say=silent)
    assert same_results(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(
    ("deleted", "expected"),
    [
        ([], RunState.FINISHED),
        (["checkpoints/last.pt"], RunState.FINISHED),
        (["calibration.json"], RunState.TRAINED),
        (["threshold.json"], RunState.TRAINED),
        (["predictions_val.csv"], RunState.TRAINED),
        (["metrics_*.json", "threshold.json", "calibration.json"], RunState.RESUMABLE),
        (["checkpoints/*.pt"], RunState.WEIGHTS_LOST),
        (["checkpoints/*.pt", "threshold.json"], RunState.STARTED),
        (["config.yaml"], RunState.EMPTY),
    ],
    ids=str,
)
def test_state_of_a_run_is_read_from_its_files(trained_run, tmp_path, deleted, expected):
    run = copy_run(trained_run, tmp_path / "r")
    for pattern in deleted:
        for path in list(run.path.glob(pattern)):
            path.unlink()
    assert run_state(run.path, run.config) is expected


def test_what_a_killed_write_leaves_is_no_obstacle_and_goes(tiny_store, tmp_path):
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / ".config.yaml.12.0a1b2c3d.partial").write_bytes(b"x")
    train(quick(epochs=1), tiny_store, folder, resume=True, say=silent)
    (folder / "checkpoints" / ".last.pt.12.0a1b2c3d.partial").write_bytes(b"x")
    (folder / ".mine.partial").write_bytes(b"x")
    train(quick(epochs=1), tiny_store, folder, resume=True, say=silent)
    assert [path.name for path in folder.rglob("*.partial")] == [".mine.partial"]


def test_member_of_other_settings_or_damaged_is_not_taken_over(ensemble_run, tiny_store, tmp_path):
    run = copy_run(ensemble_run, tmp_path / "e")
    other = run.config.model_copy(update={"seeds": (0, 2)})
    with pytest.raises(StoreError, match=r"other settings \(seeds: \["):
        train(other, tiny_store, run.path, resume=True, say=silent)
    (run.path / "members/1/config.yaml").write_bytes(b"x: [")
    with pytest.raises(StoreError, match="damaged"):
        train(run.config, tiny_store, run.path, resume=True, say=silent)


@pytest.mark.parametrize("fixture", ["trained_run", "ensemble_run"])
@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_resuming_with_other_settings_leaves_a_finished_run_as_it_is(
    request, tiny_store, tmp_path, fixture, has_checkpoint
):
    run = copy_run(request.getfixturevalue(fixture), tmp_path / "r")
    if not has_checkpoint:
        for last in run.path.rglob("last.pt"):
            last.unlink()
    before = contents(run.path)
    for other in (
        {"epochs": 3},
        {"seeds": () if run.config.seeds else (0, 1)},
        {"threshold": "f1"},
    ):
        changed = run.config.model_copy(update=other)
        with pytest.raises(StoreError, match="was started with other settings"):
            train(changed, tiny_store, run.path, resume=True, say=silent)
    train(run.config, tiny_store, run.path, resume=True, say=silent)
    assert contents(run.path) == before


@pytest.mark.parametrize("damage", [b"{}", None], ids=["damaged", "missing"])
@pytest.mark.parametrize("last", ["whole", pytest.param("damaged", marks=pytest.mark.full), "gone"])
@pytest.mark.parametrize(
    "name",
    [
        "calibration.json",
        "threshold.json",
        "metrics_val.json",
        "predictions_val.csv",
        "norm_stats.json",
    ],
)
def test_what_the_end_of_training_writes_is_made_again(
    trained_run, tiny_store, tmp_path, name, last, damage
):
    """By --resume, as the message says. Results on test stay, since the weights are the same."""
    run = copy_run(trained_run, tmp_path / "r")
    if last == "damaged":
        (run.path / LAST).write_bytes(b"")
    elif last == "gone":
        (run.path / LAST).unlink()
    before = contents(run.path)
    if damage is None:
        (run.path / name).unlink()
    else:
        (run.path / name).write_bytes(damage)
    if name in ("calibration.json", "threshold.json", "norm_stats.json"):
        with pytest.raises(StoreError, match=r"`ecgfit train.* --resume"):
            RunFolder(run.path)
    train(run.config, tiny_store, run.path, resume=True, say=silent)
    assert contents(run.path) == before


@pytest.mark.parametrize(
    ("fixture", "name"),
    [
        ("ensemble_run", "calibration.json"),
        ("ensemble_run", "threshold.json"),
        ("ensemble_run", "metrics_val.json"),
        ("folds_run", "calibration.json"),
        ("folds_run", "threshold.json"),
        ("folds_run", "metrics_val.json"),
        ("folds_run", "metrics_oof.json"),
        ("folds_run", "predictions_oof.csv"),
    ],
)
def test_what_validation_decided_for_a_member_is_made_again(
    request, tiny_store, tmp_path, fixture, name
):
    run = copy_run(request.getfixturevalue(fixture), tmp_path / "r")
    before = contents(run.path)
    damaged = b'{"metrics": {}}'
    if name.endswith(".csv"):  # only a line shorter
        lines = (run.path / "members/1" / name).read_bytes().splitlines(keepends=True)
        damaged = b"".join(lines[:-1])
    (run.path / "members/1" / name).write_bytes(damaged)
    train(run.config, tiny_store, run.path, resume=True, say=silent)
    assert contents(run.path) == before


def test_a_run_that_began_in_float32_ends_in_float32(
    trained_run, tiny_store, tmp_path, monkeypatch
):
    """`amp: auto` may mean bfloat16 on the machine that resumes it, or by then."""
    run = copy_run(trained_run, tmp_path / "r")
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("amp: 'off'", "amp: auto"))
    before = contents(run.path)
    monkeypatch.setattr("ecgfit.compute.device.has_bfloat16", lambda device: True)
    (run.path / "calibration.json").unlink()
    config = run.config.model_copy(update={"amp": "auto"})
    train(config, tiny_store, run.path, resume=True, say=silent)
    assert contents(run.path) == before


def test_results_of_a_run_that_begins_anew_are_gone(trained_run, tiny_store, tmp_path):
    """Without weights training starts anew when asked to, and earlier results are not its own."""
    run = copy_run(trained_run, tmp_path / "r")
    for name in ("last.pt", "best.pt"):
        (run.path / "checkpoints" / name).unlink()
    with pytest.raises(StoreError, match="weights are lost"):
        train(run.config, tiny_store, run.path, resume=True, say=silent)
    assert (run.path / "metrics_test.json").exists()
    train(run.config, tiny_store, run.path, overwrite=True, say=silent)
    assert not (run.path / "metrics_test.json").exists()
    assert not (run.path / "predictions_test.csv").exists()


def test_a_folder_that_is_being_trained_into_is_refused_to_others(
    tiny_store, tmp_path, monkeypatch
):
    config, refused = quick(epochs=1, seeds=(0, 1)), []

    def another() -> None:
        for how in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(TargetExists, match="is being trained by another process"):
                train(config, tiny_store, tmp_path / "r", say=silent, **how)
            refused.append(how)
        for member in (0, 1):  # one that is trained, and one whose turn comes later
            folder = tmp_path / f"r/members/{member}"
            with pytest.raises(TargetExists, match="is being trained by another process"):
                train(quick(epochs=1, seed=member), tiny_store, folder, say=silent, resume=True)

    at_step(monkeypatch, 0, 1, 1, another)
    train(config, tiny_store, tmp_path / "r", say=silent)
    assert len(refused) == 3
    monkeypatch.undo()
    assert not list((tmp_path / "r").glob(".*"))
    train(config, tiny_store, tmp_path / "whole", say=silent)
    assert same_results(tmp_path / "whole", tmp_path / "r")


def test_two_programs_get_two_numbers(tiny_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun, trained = [], []

    def train_another_once() -> None:
        if not begun:
            begun.append(True)
            trained.append(train(quick(epochs=1), tiny_store, None, say=silent))

    at_step(monkeypatch, 0, 1, 0, train_another_once)
    first = train(quick(epochs=1), tiny_store, None, say=silent)
    [second] = trained
    assert (str(first.path), str(second.path)) == ("runs/001", "runs/002")
    assert same_results(first.path, second.path)
    with pytest.raises(InputError):
        train(quick(folds=100), tiny_store, None, say=silent)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["001", "002"]


KILLED_AT_A_WRITE = """
import os, signal, sys
import ecgfit.training.trainer as trainer
from ecgfit.cli import main

trainer.SECONDS_BETWEEN_SAVES = 0.0  # a checkpoint after every step
left = int(sys.argv.pop(1))
replace = os.replace

def replace_or_die(*paths):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)

os.replace = replace_or_die
main()
"""
"""The command, killed instead of putting its n-th finished file in place."""


def kill_at_writes(
    writes: list[int], store, tmp_path: Path, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Train in processes that are killed at their n-th write, and resume each time."""
    config = quick(**settings)
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    target = ["--store", store.path, "--outdir", tmp_path / "killed", "--resume"]
    options = ["--batch", "16", "--threads", "1", "--amp", "off"]
    for n in writes:
        command = [sys.executable, "-c", KILLED_AT_A_WRITE, str(n), "train"]
        done = subprocess.run(
            [*command, *map(str, target), *options, *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
    train(config, store, tmp_path / "killed", resume=True, say=silent)
    train(config, store, tmp_path / "whole", say=silent)
    assert same_results(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").rglob("*.partial"))
    return done


def test_sigkill_twice(tiny_store, tmp_path):
    """Once before the first checkpoint of an epoch is in place, once between two steps."""
    kill_at_writes([3, 6], tiny_store, tmp_path, epochs=4)


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "settings", [{"epochs": 20}, {"epochs": 8, "seeds": "0,1"}], ids=["single", "ensemble"]
)
def test_sigkill_fourteen_times(tiny_store, tmp_path, settings):
    writes = np.random.default_rng(0).integers(0, 8, 14).tolist()
    kill_at_writes(writes, tiny_store, tmp_path, **settings)


def test_cli_ends_with_143_on_sigterm(tiny_store, tmp_path):
    command = [sys.executable, "-m", "ecgfit", "train", "--store", str(tiny_store.path)]
    options = ["--outdir", str(tmp_path / "r"), "--batch", "16", "--threads", "1"]
    endless = ["--epochs", "5000", "--early-stop", "5000"]
    process = subprocess.Popen([*command, *options, *endless], stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and not (tmp_path / "r/curves.csv").exists():
            time.sleep(0.02)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    state = load_checkpoint(tmp_path / "r" / LAST)
    assert state["step"] > 0 or state["history"]


@pytest.mark.full
# Both warnings come from inside torch.compile.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_resume_to_the_bit(small_store, tmp_path, monkeypatch):
    config = quick(compile="on")
    whole = train(config, small_store, tmp_path / "whole", say=silent)
    monkeypatch.setattr(trainer_module, "SECONDS_BETWEEN_SAVES", -1)
    at_step(monkeypatch, 1, 2, 0, die)
    with pytest.raises(KeyboardInterrupt):
        train(config, small_store, tmp_path / "killed", say=silent)
    monkeypatch.undo()
    train(config, small_store, tmp_path / "killed", resume=True, say=silent)
    assert same_results(whole.path, tmp_path / "killed")
    # Compiled dropout has other random numbers. Without any dropout the losses are the same.
    monkeypatch.setattr(resnet1d, "HEAD_DROPOUT", 0)
    losses = []
    for compiled in ("on", "off"):
        settings = quick(compile=compiled, model_args="dropout=0", epochs=2)
        run = train(settings, small_store, tmp_path / compiled, say=silent)
        lines = (run.path / "curves.csv").read_text().splitlines()[1:]
        losses.append([float(line.split(",")[2]) for line in lines])
    np.testing.assert_allclose(*losses, rtol=0.01)


def test_an_empty_folder_of_the_user_stays_where_training_is_refused_and_what_was_made_goes(
    tiny_store, tmp_path, monkeypatch
):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for outdir in (tmp_path / "mine", tmp_path / "new/and/deeper", None):
        with pytest.raises(InputError):
            train(quick(folds=100), tiny_store, outdir, say=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert not list((tmp_path / "mine").iterdir())


def test_an_ensemble_that_was_killed_before_it_began_can_begin(tiny_store, tmp_path):
    for folder in (tmp_path / "r", tmp_path / "r/members/0", tmp_path / "r/members/1"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".training.lock").touch()
    train(quick(epochs=1, seeds=(0, 1)), tiny_store, tmp_path / "r", say=silent)
    assert not list((tmp_path / "r").rglob(".*"))
    (tmp_path / "s/members/mine").mkdir(parents=True)
    (tmp_path / "s/members/mine/notes.txt").touch()
    with pytest.raises(TargetExists, match="not a run folder"):
        train(quick(epochs=1, seeds=(0, 1)), tiny_store, tmp_path / "s", say=silent)


def test_lost_weights_are_not_said_to_come_back_by_resuming(trained_run, tmp_path):
    run = copy_run(trained_run, tmp_path / "r")
    (run.path / "checkpoints/best.pt").unlink()
    with pytest.raises(StoreError, match="--overwrite"):
        RunFolder(run.path)


def test_results_on_test_survive_a_resume(trained_run, tiny_store, tmp_path):
    run = copy_run(trained_run, tmp_path / "r")
    train(run.config, tiny_store, run.path, resume=True, say=silent)
    again = evaluate_run(RunFolder(run.path), tiny_store, "test")
    assert again == trained_run.read_json("metrics_test.json")
