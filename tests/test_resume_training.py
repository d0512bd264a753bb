"""A run that is killed or asked to stop at any moment, and resumed, ends as one that was not: to the bit."""

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
from conftest import quick, same_results, silent

import ecgfit.training.decisions as decisions_module
import ecgfit.training.outdir as outdir_module
import ecgfit.training.single as single_module
import ecgfit.training.trainer as trainer_module
from ecgfit.checkpoint import load_checkpoint
from ecgfit.evaluation.evaluate import evaluate_run
from ecgfit.models import resnet1d
from ecgfit.run import Run
from ecgfit.run_files import LAST
from ecgfit.training.runner import train
from ecgprep.errors import EXIT_TERMINATED, InputError, StoreError, TargetExists

SAVING_EVERY_STEP = "import ecgfit.training.trainer as t; t.SECONDS_BETWEEN_SAVES = 0.0; from ecgfit.cli import main; main()"
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


def at_step(monkeypatch, epoch: int, step: int, member_seed: int, action) -> None:
    """Do something in the middle of one step."""
    seeds = trainer_module.torch_seeds

    def interrupted(seed, at_epoch, at_step):
        if (seed, at_epoch, at_step) == (member_seed, epoch, step):
            action()
        return seeds(seed, at_epoch, at_step)

    monkeypatch.setattr(trainer_module, "torch_seeds", interrupted)


def die() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", VARIANTS)
def test_dead_in_the_middle_of_an_epoch(small_store, tmp_path, monkeypatch, name):
    config = quick(**VARIANTS[name])
    train(config, small_store, tmp_path / "whole", say=silent)
    monkeypatch.setattr(trainer_module, "SECONDS_BETWEEN_SAVES", -1)
    at_step(monkeypatch, 1, 2, 1 if config.seeds else 0, die)
    with pytest.raises(KeyboardInterrupt):
        train(config, small_store, tmp_path / "killed", say=silent)
    monkeypatch.undo()
    last = tmp_path / "killed" / ("members/1" if config.seeds else "") / LAST
    assert load_checkpoint(last)["step"] == 2
    said = []
    train(config, small_store, tmp_path / "killed", resume=True, say=said.append)
    assert "resuming after epoch 1 and 2 steps" in said
    assert same_results(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(
    "settings",
    [{"scheduler": "plateau"}, {"scheduler": "cosine"}, {"seeds": (0, 1), "epochs": 2}],
    ids=str,
)
def test_sigterm_in_the_middle_of_an_epoch(small_store, tmp_path, monkeypatch, settings):
    config = quick(**settings)
    train(config, small_store, tmp_path / "whole", say=silent)
    at_step(
        monkeypatch, 1, 1, 1 if config.seeds else 0, lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train(config, small_store, tmp_path / "stopped", say=silent)
    assert ended.value.code == EXIT_TERMINATED == 143
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    member = tmp_path / "stopped" / ("members/1" if config.seeds else "")
    assert (
        load_checkpoint(member / LAST)["step"] == 3
    )  # the step in which it came, and the one that heard of it
    assert not (tmp_path / "stopped" / "threshold.json").exists()
    train(config, small_store, tmp_path / "stopped", resume=True, say=silent)
    assert same_results(tmp_path / "whole", tmp_path / "stopped")


def test_sigterm_during_the_last_step_of_an_epoch(small_store, tmp_path, monkeypatch):
    train(quick(), small_store, tmp_path / "whole", say=silent)
    last_step = len(trainer_module.Trainer.prepare(quick(), small_store).loader()) - 1
    at_step(monkeypatch, 0, last_step, 0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        train(quick(), small_store, tmp_path / "stopped", say=silent)
    monkeypatch.undo()
    train(quick(), small_store, tmp_path / "stopped", resume=True, say=silent)
    assert same_results(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("settings", [{}, {"seeds": (0, 1)}], ids=["one", "ensemble"])
def test_resuming_on_another_device_is_refused(small_store, tmp_path, monkeypatch, settings):
    """`auto` is what the machine has, and in bfloat16 on a GPU: half a run of each would be neither."""
    train(quick(epochs=1, **settings), small_store, tmp_path / "r", say=silent)
    for module in (outdir_module, trainer_module):
        monkeypatch.setattr(module, "use_amp", lambda asked, device: True)
    with pytest.raises(StoreError, match=r"other settings \(amp: off, now on\)"):
        train(quick(epochs=1, **settings), small_store, tmp_path / "r", resume=True, say=silent)


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
    small_store, tmp_path, monkeypatch, module, dies_in, before
):
    """Whichever file was the last that was written, the others are made."""
    config = quick(epochs=1)
    train(config, small_store, tmp_path / "whole", say=silent)
    function = getattr(module, dies_in)

    def killed(*args, **kwargs):
        if not before:
            function(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, dies_in, killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, small_store, tmp_path / "killed", say=silent)
    monkeypatch.undo()
    train(config, small_store, tmp_path / "killed", resume=True, say=silent)
    assert same_results(tmp_path / "whole", tmp_path / "killed")


def test_what_a_killed_write_leaves_is_no_obstacle_and_goes(small_store, tmp_path):
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / ".config.yaml.12.0a1b2c3d.partial").write_bytes(b"x")
    train(quick(epochs=1), small_store, folder, resume=True, say=silent)
    (folder / "checkpoints" / ".last.pt.12.0a1b2c3d.partial").write_bytes(b"x")
    (folder / ".mine.partial").write_bytes(b"x")
    train(quick(epochs=1), small_store, folder, resume=True, say=silent)
    assert [path.name for path in folder.rglob("*.partial")] == [".mine.partial"]


def test_member_of_other_settings_or_damaged_is_not_taken_over(small_store, tmp_path):
    config = quick(epochs=1, seeds=(0, 1))
    folder = tmp_path / "e"
    train(config, small_store, folder, say=silent)
    with pytest.raises(StoreError, match=r"other settings \(seeds: \["):
        train(quick(epochs=1, seeds=(0, 2)), small_store, folder, resume=True, say=silent)
    (folder / "members/1/config.yaml").write_bytes(b"x: [")
    with pytest.raises(StoreError, match="damaged"):
        train(config, small_store, folder, resume=True, say=silent)


@pytest.mark.parametrize("settings", [{}, {"seeds": (0, 1)}], ids=["one", "ensemble"])
def test_resuming_with_other_settings_leaves_a_finished_run_as_it_is(
    small_store, tmp_path, settings
):
    run = train(quick(epochs=1, **settings), small_store, tmp_path / "r", say=silent)
    evaluate_run(run, small_store, "test")
    for without_checkpoint in (False, True):
        for last in (tmp_path / "r").rglob("last.pt") if without_checkpoint else ():
            last.unlink()
        before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
        for other in ({"epochs": 2}, {"seeds": () if settings else (0, 1)}, {"threshold": "f1"}):
            with pytest.raises(StoreError, match="was started with other settings"):
                train(
                    quick(**{"epochs": 1, **settings, **other}),
                    small_store,
                    tmp_path / "r",
                    resume=True,
                    say=silent,
                )
        train(quick(epochs=1, **settings), small_store, tmp_path / "r", resume=True, say=silent)
        assert {
            path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()
        } == before


@pytest.mark.parametrize("damage", [b"{}", None], ids=["damaged", "missing"])
@pytest.mark.parametrize("last", ["whole", "damaged", "gone"])
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
def test_what_the_end_of_training_writes_is_made_again(small_store, tmp_path, name, last, damage):
    """As the message says, by --resume; and results on test stay, since the weights are the same."""
    run = train(quick(epochs=1), small_store, tmp_path / "r", say=silent)
    evaluate_run(run, small_store, "test")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    if last != "whole":
        (run.path / LAST).write_bytes(b"") if last == "damaged" else (run.path / LAST).unlink()
        before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    (run.path / name).unlink() if damage is None else (run.path / name).write_bytes(damage)
    if name in ("calibration.json", "threshold.json", "norm_stats.json"):
        with pytest.raises(StoreError, match=r"`ecgfit train.* --resume"):
            Run(run.path)
    train(quick(epochs=1), small_store, tmp_path / "r", resume=True, say=silent)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("settings", [{"seeds": (0, 1)}, {"folds": 3}], ids=["seeds", "folds"])
def test_what_validation_decided_for_a_member_is_made_again(small_store, tmp_path, settings):
    run = train(quick(epochs=1, **settings), small_store, tmp_path / "r", say=silent)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    names = [
        "calibration.json",
        "threshold.json",
        "metrics_val.json",
        *(["metrics_oof.json", "predictions_oof.csv"] if "folds" in settings else []),
    ]
    for name in names:
        whole = (run.path / "members/1" / name).read_bytes()
        damaged = (
            whole[: whole[:-1].rindex(b"\n") + 1] if name.endswith(".csv") else b'{"metrics": {}}'
        )  # a CSV that is only a line shorter
        (run.path / "members/1" / name).write_bytes(damaged)
        train(quick(epochs=1, **settings), small_store, tmp_path / "r", resume=True, say=silent)
        assert {
            path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()
        } == before, name


def test_results_of_a_run_that_begins_anew_are_gone(small_store, tmp_path):
    """Without weights training starts from the first epoch, when asked to: what an earlier one has left is not its result."""
    evaluate_run(
        train(quick(epochs=1), small_store, tmp_path / "r", say=silent), small_store, "test"
    )
    (tmp_path / "r" / LAST).unlink()
    (tmp_path / "r/checkpoints/best.pt").unlink()
    with pytest.raises(StoreError, match="weights are lost"):
        train(quick(epochs=1), small_store, tmp_path / "r", resume=True, say=silent)
    assert (tmp_path / "r/metrics_test.json").exists()
    train(quick(epochs=1), small_store, tmp_path / "r", overwrite=True, say=silent)
    assert not (tmp_path / "r/metrics_test.json").exists()
    assert not (tmp_path / "r/predictions_test.csv").exists()


def test_a_folder_that_is_being_trained_into_is_refused_to_others(
    small_store, tmp_path, monkeypatch
):
    config, refused = quick(epochs=1, seeds=(0, 1)), []

    def another() -> None:
        for how in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(TargetExists, match="is being trained by another process"):
                train(config, small_store, tmp_path / "r", say=silent, **how)
            refused.append(how)
        for member in (0, 1):  # one that is trained, and one whose turn comes later
            with pytest.raises(TargetExists, match="is being trained by another process"):
                train(
                    quick(epochs=1, seed=member),
                    small_store,
                    tmp_path / f"r/members/{member}",
                    say=silent,
                    resume=True,
                )

    at_step(monkeypatch, 0, 1, 1, another)
    train(config, small_store, tmp_path / "r", say=silent)
    assert len(refused) == 3
    monkeypatch.undo()
    assert not list((tmp_path / "r").glob(".*"))
    train(config, small_store, tmp_path / "whole", say=silent)
    assert same_results(tmp_path / "whole", tmp_path / "r")


def test_two_programs_get_two_numbers(small_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    second = []
    at_step(
        monkeypatch,
        0,
        1,
        0,
        lambda: (
            second
            or second.append(True)
            or second.append(train(quick(epochs=1), small_store, None, say=silent))
        ),
    )
    first = train(quick(epochs=1), small_store, None, say=silent)
    assert (str(first.path), str(second[1].path)) == ("runs/001", "runs/002")
    assert same_results(first.path, second[1].path)
    with pytest.raises(InputError):
        train(quick(folds=100), small_store, None, say=silent)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["001", "002"]


def command(store: Path, outdir: Path, *more: str) -> list[str]:
    options = ["--batch", "16", "--threads", "1", "--scheduler", "cosine"]
    return [
        sys.executable,
        "-c",
        SAVING_EVERY_STEP,
        "train",
        "--store",
        str(store),
        "--outdir",
        str(outdir),
        *options,
        *more,
    ]


def kill_at_random(kills: int, store, tmp_path: Path, longest_s: float, **settings: str) -> None:
    more = [word for key, value in settings.items() for word in (f"--{key}", value)]
    generator, landed = np.random.default_rng(0), 0
    for _ in range(kills):
        process = subprocess.Popen(
            [*command(store.path, tmp_path / "killed", *more), "--resume"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 60
            begun = (
                (tmp_path / "killed").stat().st_mtime_ns if (tmp_path / "killed").exists() else 0
            )
            while process.poll() is None and time.monotonic() < deadline:
                if (tmp_path / "killed").exists() and max(
                    p.stat().st_mtime_ns for p in written(tmp_path / "killed")
                ) > begun:
                    break
                time.sleep(0.01)
            time.sleep(generator.uniform(0, longest_s))
        finally:
            process.kill()
        landed += process.wait() == -signal.SIGKILL
    assert landed >= max(1, kills // 3)  # else nothing was tested
    last = subprocess.run(
        [*command(store.path, tmp_path / "killed", *more), "--resume"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert last.returncode == 0, last.stderr
    whole = subprocess.run(
        command(store.path, tmp_path / "whole", *more), capture_output=True, text=True, check=False
    )
    assert whole.returncode == 0, whole.stderr
    assert same_results(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").rglob("*.partial"))


def written(folder: Path) -> list[Path]:
    return [
        folder,
        *(path for path in (folder / "checkpoints", folder / "members") if path.exists()),
    ]


def test_sigkill_twice(small_store, tmp_path):
    kill_at_random(2, small_store, tmp_path, 0.7, epochs="4")


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "settings", [{"epochs": "20"}, {"epochs": "8", "seeds": "0,1"}], ids=["single", "ensemble"]
)
def test_sigkill_fourteen_times(small_store, tmp_path, settings):
    kill_at_random(14, small_store, tmp_path, 1.5, **settings)


def test_cli_ends_with_143_on_sigterm(small_store, tmp_path):
    process = subprocess.Popen(
        command(small_store.path, tmp_path / "r", "--epochs", "5000", "--early-stop", "5000"),
        stderr=subprocess.PIPE,
        text=True,
    )
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
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning"
)  # from inside torch.compile
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"
)
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
    monkeypatch.setattr(
        resnet1d, "HEAD_DROPOUT", 0
    )  # dropout has other random numbers; without any, the losses are the same
    losses = []
    for compiled in ("on", "off"):
        run = train(
            quick(compile=compiled, model_args="dropout=0", epochs=2),
            small_store,
            tmp_path / compiled,
            say=silent,
        )
        losses.append(
            [
                float(line.split(",")[2])
                for line in (run.path / "curves.csv").read_text().splitlines()[1:]
            ]
        )
    np.testing.assert_allclose(*losses, rtol=0.01)


def test_an_empty_folder_of_the_user_stays_where_training_is_refused_and_what_was_made_goes(
    small_store, tmp_path, monkeypatch
):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for outdir in (tmp_path / "mine", tmp_path / "new/and/deeper", None):
        with pytest.raises(InputError):
            train(quick(folds=100), small_store, outdir, say=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert not list((tmp_path / "mine").iterdir())


def test_an_ensemble_that_was_killed_before_it_began_can_begin(small_store, tmp_path):
    for folder in (tmp_path / "r", tmp_path / "r/members/0", tmp_path / "r/members/1"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".training.lock").touch()
    train(quick(epochs=1, seeds=(0, 1)), small_store, tmp_path / "r", say=silent)
    assert not list((tmp_path / "r").rglob(".*"))
    (tmp_path / "s/members/mine").mkdir(parents=True)
    (tmp_path / "s/members/mine/notes.txt").touch()
    with pytest.raises(TargetExists, match="not a run folder"):
        train(quick(epochs=1, seeds=(0, 1)), small_store, tmp_path / "s", say=silent)


def test_lost_weights_are_not_said_to_come_back_by_resuming(small_store, tmp_path):
    run = train(quick(epochs=1), small_store, tmp_path / "r", say=silent)
    (run.path / "checkpoints/best.pt").unlink()
    with pytest.raises(StoreError, match="--overwrite"):
        Run(run.path)
