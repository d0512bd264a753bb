"""Fixtures shared by all tests.

Real recordings are found through ECG_SAMPLES, a folder with data/ and tools/. Without it the tests
that need them are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers import DEVICE, build, trained

from ecgprep.building.plan import BuildSettings
from ecgprep.conform import Conformity
from ecgprep.simulation.corpus import write_corpus
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.store.reader import Store

if TYPE_CHECKING:
    from ecgfit.run import RunFolder

# Set before torch is imported: several tests run at once, and threads that spin while they wait
# take cores from each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Results that are expected to the bit are a CPU's. Only tests/test_device.py also runs on a GPU,
# by `make test-gpu`.
if DEVICE == "cpu":
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
    """The store of `corpus` at 100 Hz: an epoch takes a tenth of a second; read-only for tests."""
    settings = BuildSettings(Conformity(100, 1000))
    return build(
        corpus / "manifest.csv",
        tmp_path_factory.mktemp("small") / "small.zarr",
        settings,
        covariates=("age", "sex"),
    )


@pytest.fixture(scope="session")
def tiny_store(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The middle 2 s of the recordings of `corpus`, at 100 Hz; read-only for tests.

    Only identical recordings count as duplicates: after 2 s many different ones look alike.
    """
    return build(
        corpus / "manifest.csv",
        tmp_path_factory.mktemp("tiny") / "tiny.zarr",
        BuildSettings(Conformity(100, 200), duplicates="exact"),
        covariates=("age", "sex"),
    )


@pytest.fixture(scope="session")
def trained_run(tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on the ECG alone, trained on `tiny_store` and evaluated on test.

    Read-only for tests, like the next two: `helpers.copy_run` gives a test its own.
    """
    return trained(tiny_store, tmp_path_factory.mktemp("runs") / "ecg")


@pytest.fixture(scope="session")
def ensemble_run(tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An ensemble of two seeds with age and sex, trained on `tiny_store` and evaluated on test."""
    outdir = tmp_path_factory.mktemp("runs") / "ensemble"
    return trained(tiny_store, outdir, seeds=(0, 1), tabular="age,sex")


@pytest.fixture(scope="session")
def mask_run(tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An ensemble as `ensemble_run`, but with missing leads in a mask channel; one epoch."""
    outdir = tmp_path_factory.mktemp("runs") / "mask"
    settings = {"seeds": (3, 4), "tabular": "age,sex", "missing": "mask", "epochs": 1}
    return trained(tiny_store, outdir, **settings)


@pytest.fixture(scope="session")
def folds_run(tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A cross-validation of three folds, trained on `tiny_store` and evaluated on test."""
    return trained(tiny_store, tmp_path_factory.mktemp("runs") / "folds", folds=3, epochs=1)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real recordings, or a skip that says how to have it."""
    folder = os.environ.get("ECG_SAMPLES")
    if not folder:
        pytest.skip(
            "ECG_SAMPLES is not set: it names a folder with real recordings"
            " (data/xml, data/ptbxl, tools/make_corpus.py)"
        )
    return Path(folder)


@pytest.fixture(scope="session")
def make_real_corpus(
    samples: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Write real recordings, with defects, as vendor XML; takes the arguments of make_corpus.py."""

    def make(*arguments: str) -> Path:
        out = tmp_path_factory.mktemp("real")
        subprocess.run(
            [sys.executable, samples / "tools" / "make_corpus.py", out, *arguments],
            check=True,
            capture_output=True,
        )
        return out

    return make
