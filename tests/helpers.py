"""Plain functions that tests share: `from helpers import ...`."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from ecgprep.building.plan import BuildSettings, Plan, default_registry
from ecgprep.building.run import build_store
from ecgprep.cli import cli
from ecgprep.console import run_command
from ecgprep.errors import STATUSES
from ecgprep.patients.manifest import read_manifest
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import muse
from ecgprep.store.reader import Store

if TYPE_CHECKING:
    from ecgfit.config import TrainConfig
    from ecgfit.run import RunFolder

DEVICE = os.environ.setdefault("ECG_DEVICE", "cpu")
QUICK = {"epochs": 3, "batch": 16, "threads": 1, "amp": "off"}
DECIDED = ("norm_stats.json", "calibration.json", "threshold.json")
"""What training decides besides weights."""


def quick(**settings: object) -> TrainConfig:
    """Return a config of a few short epochs."""
    from ecgfit.config import make_config

    return make_config(QUICK | settings, "test")


def trained(store: Store, outdir: Path, **settings: object) -> RunFolder:
    """Train a small network for two epochs, unless told otherwise, and evaluate it on test."""
    from ecgfit.evaluation.evaluate import evaluate_run
    from ecgfit.run import RunFolder
    from ecgfit.training.runner import train

    config = quick(**({"epochs": 2, "model_args": "width=0.5"} | settings))
    train(config, store, outdir, say=silent)
    run = RunFolder(outdir)
    evaluate_run(run, store, "test")
    return run


def copy_run(run: RunFolder, target: Path) -> RunFolder:
    """Copy a run to a folder that is not there yet, for a test to write into."""
    from ecgfit.run import RunFolder

    shutil.copytree(run.path, target)
    return RunFolder(target)


def at_step(
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
    step: int,
    member_seed: int,
    action: Callable[[], object],
) -> None:
    """Do something in the middle of one training step."""
    import ecgfit.training.trainer as trainer_module

    seeds = trainer_module.torch_seeds

    def interrupted(seed: int, at_epoch: int, at_step: int) -> tuple[int, int]:
        if (seed, at_epoch, at_step) == (member_seed, epoch, step):
            action()
        return seeds(seed, at_epoch, at_step)

    monkeypatch.setattr(trainer_module, "torch_seeds", interrupted)


def die() -> None:
    """End as by Ctrl-C."""
    raise KeyboardInterrupt


def silent(line: str) -> None:
    """Take a line of progress and show nothing."""


def same_weights(one: Path, other: Path) -> bool:
    """Say whether two runs have the same best weights, to the bit."""
    from ecgfit.checkpoint import load_checkpoint

    a, b = (load_checkpoint(path / "checkpoints/best.pt")["model"] for path in (one, other))
    return a.keys() == b.keys() and all(
        a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in a
    )


def same_results(one: Path, other: Path) -> bool:
    """Say whether two runs have the same weights, decisions, metrics and curves, to the byte.

    The members of an ensemble are compared as well. Results on test are not: training makes none.
    """
    names = _result_files(one)
    if names != _result_files(other):
        return False
    weights = sorted(path.parent.parent.relative_to(one) for path in one.rglob("best.pt"))
    same_files = all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
    return same_files and all(same_weights(one / name, other / name) for name in weights)


def _result_files(run: Path) -> list[str]:
    files = [path for path in run.rglob("*") if path.suffix in (".json", ".csv")]
    return sorted(str(path.relative_to(run)) for path in files if not path.stem.endswith("_test"))


def changed_store(store: Store, target: Path, **arrays: np.ndarray) -> Store:
    """Copy a store that has one chunk, with other values in some of its arrays."""
    shutil.copytree(store.path, target)
    for name, values in arrays.items():
        assert values.dtype == store.array(name).dtype
        axes = "/".join(["0"] * values.ndim)
        stored = np.fromfile(target / name / "c" / axes, values.dtype)
        assert np.array_equal(
            stored[: values.size], store.array(name)[:].ravel(), equal_nan=values.dtype.kind == "f"
        )
        stored[: values.size] = values.ravel()
        stored.tofile(target / name / "c" / axes)
    return Store(target)


def build(
    manifest: Path,
    target: Path,
    settings: BuildSettings | None = None,
    covariates: tuple[str, ...] = (),
    *,
    registry_path: Path | None = None,
    jobs: int = 1,
    **options: Any,
) -> Store:
    """Build a store with a registry beside it; `options` are those of a plan."""
    settings = settings or BuildSettings()
    rows = read_manifest(
        manifest,
        covariates=covariates,
        unlabelled=settings.unlabelled,
        group_by=settings.plan.by_column,
    )
    registry_path = registry_path or default_registry(target.with_suffix(".csv"))
    return build_store(Plan(rows, target, settings, registry_path, **options), jobs=jobs)


def command(*arguments: object) -> Finished:
    """Run the command `ecgprep` in this process, in the current folder."""
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_command(cli, [str(argument) for argument in arguments], prog_name="ecgprep")
    except SystemExit as ended:
        return Finished(int(ended.code or 0), out.getvalue(), err.getvalue())
    finally:
        signal.signal(signal.SIGTERM, handler)
    raise AssertionError("run_command ends the process")


class Finished(NamedTuple):
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def statuses(store: Store) -> list[str]:
    """Return the status of each row, by name."""
    return [STATUSES[code] for code in store.array("status")]


def write_recordings(folder: Path, n: int) -> Path:
    """Write a recording for each of `n` patients, 10 s at 100 Hz, and return their manifest."""
    (folder / "xml").mkdir(parents=True)
    lines = ["patient_id,path_xml,label,age,sex"]
    for i in range(n):
        generator = np.random.default_rng(i)
        uv = simulate(Heart.draw(generator, i % 2), 100, generator)
        (folder / "xml" / f"{i}.xml").write_bytes(muse(uv, 100, f"P{i}"))
        lines.append(f"P{i},xml/{i}.xml,{i % 2},{40 + i % 10},{i // 2 % 2}")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def write_manifest(path: Path, rows: list[tuple[str, str, object]]) -> Path:
    """Write a manifest of (patient, path, label) rows."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("patient_id", "path_xml", "label"), *rows])
    return path


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def cohort(n: int, prevalence: float, seed: int = 0, first: int = 0) -> dict[str, list[int]]:
    """Draw the labels of n patients with one to five recordings each: patient id -> labels."""
    generator = np.random.default_rng(seed)
    return {
        f"P{first + i}": [int(generator.random() < prevalence)] * int(generator.integers(1, 6))
        for i in range(n)
    }


def sites(labels: dict[str, list[int]], n: int, seed: int = 0) -> dict[str, set[str]]:
    """Draw one of n sites for each patient: patient id -> values of the column."""
    generator = np.random.default_rng(seed)
    return {patient: {f"site{generator.integers(n)}"} for patient in labels}


DYING = """
import os, signal, sys
from pathlib import Path
import ecgprep

count, at = 0, int(sys.argv[2])
def counted(call):
    def wrapped(*arguments, **options):
        global count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return wrapped
"""
"""The head of a script that kills itself at the n-th of the calls it counts; n is `sys.argv[2]`."""
