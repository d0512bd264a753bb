"""Fixtures. Real recordings are found through ECG_SAMPLES, a folder with data/ and tools/; without it those tests are skipped."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecgprep.building.plan import BuildSettings, default_registry
from ecgprep.building.run import build_store
from ecgprep.conform import Conformity
from ecgprep.patients.manifest import read_manifest
from ecgprep.simulation.corpus import write_corpus
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.store.reader import Store

# Before torch is imported: several tests run at once, and threads that spin while they wait take each other's cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
DEVICE = os.environ.setdefault("ECG_DEVICE", "cpu")
if (
    DEVICE == "cpu"
):  # what is expected to the bit is a CPU's; tests/test_device.py is for either, on a GPU by `make test-gpu`
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def uv() -> np.ndarray:
    """One simulated 10 s recording at 500 Hz: (12, 5000) whole µV."""
    generator = np.random.default_rng(0)
    return simulate(Heart.draw(generator, 0), 500, generator)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated corpus of 60 patients; read-only for tests."""
    out = tmp_path_factory.mktemp("corpus")
    write_corpus(out, patients=60, seed=5, prevalence=0.35)
    return out


@pytest.fixture(scope="session")
def store(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of `corpus`; read-only for tests."""
    return build(
        corpus / "manifest.csv",
        tmp_path_factory.mktemp("store") / "corpus.zarr",
        covariates=("age", "sex"),
    )


@pytest.fixture(scope="session")
def small_store(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of `corpus` at 100 Hz, on which an epoch takes a tenth of a second; read-only for tests."""
    settings = BuildSettings(Conformity(100, 1000))
    return build(
        corpus / "manifest.csv",
        tmp_path_factory.mktemp("small") / "small.zarr",
        settings,
        covariates=("age", "sex"),
    )


QUICK = {"epochs": 3, "batch": 16, "threads": 1}
DECIDED = ("norm_stats.json", "calibration.json", "threshold.json")
"""What training decides besides weights."""


def quick(**settings: object) -> Any:
    """Return a config of a few short epochs."""
    from ecgfit.config import make_config

    return make_config(QUICK | settings, "test")


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
    """Say whether two runs have the same weights, decisions, metrics and curves, to the byte; of ensembles, all members, too."""
    names, others = (
        sorted(
            str(path.relative_to(run))
            for path in run.rglob("*")
            if path.suffix in (".json", ".csv") and not path.stem.endswith("_test")
        )
        for run in (one, other)
    )
    if names != others:
        return False
    weights = sorted(path.parent.parent.relative_to(one) for path in one.rglob("best.pt"))
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names) and all(
        same_weights(one / name, other / name) for name in weights
    )


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
    **options: object,
) -> Store:
    """Build a store with a registry beside it."""
    settings = settings or BuildSettings()
    rows = read_manifest(
        manifest,
        covariates=covariates,
        unlabelled=settings.unlabelled,
        group_by=settings.plan.by_column,
    )
    options.setdefault("registry_path", default_registry(target.with_suffix(".csv")))
    return build_store(rows, target, settings, **options)  # type: ignore[arg-type]


def write_manifest(path: Path, rows: list[tuple[str, str, object]]) -> Path:
    """Write a manifest of (patient, path, label) rows."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("patient_id", "path_xml", "label"), *rows])
    return path


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real recordings, or a skip that says how to have it."""
    folder = os.environ.get("ECG_SAMPLES")
    if not folder:
        pytest.skip(
            "ECG_SAMPLES is not set: it names a folder with real recordings (data/xml, data/ptbxl, tools/make_corpus.py)"
        )
    return Path(folder)


@pytest.fixture(scope="session")
def make_real_corpus(
    samples: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Write real recordings as vendor XML, with defects: a function of the arguments of make_corpus.py."""

    def make(*arguments: str) -> Path:
        out = tmp_path_factory.mktemp("real")
        subprocess.run(
            [sys.executable, samples / "tools" / "make_corpus.py", out, *arguments],
            check=True,
            capture_output=True,
        )
        return out

    return make
