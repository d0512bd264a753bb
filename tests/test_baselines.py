"""The baselines see the test split only to predict it, and what they measure is right; the benchmark compares by patient."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ecgfit.data.rows import select_rows
from ecgfit.inference.predictions import UNCALIBRATED, Predictions
from ecgprep.leads import LEADS
from ecgprep.simulation import simulator
from ecgprep.store.reader import Store

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "bench"))

import baselines  # noqa: E402 - bench/ is no package
import benchmark  # noqa: E402

EIGHT = [simulator.TWELVE_LEADS.index(lead) for lead in LEADS]


def recording(rate_bpm: float, rate_hz: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """A simulated recording (8, n) and the samples of its R peaks: the simulator draws the beats first, so the same seed gives them."""
    heart = simulator.Heart(rate_bpm, 0.41, 1, 1, 1, 0, 0)
    peaks = np.array(simulator._beats(heart, np.random.default_rng(3))[0])
    uv = simulator.simulate(heart, rate_hz, np.random.default_rng(3))[EIGHT].astype(np.float64)
    return uv, np.rint(peaks[(peaks > 0.05) & (peaks < 9.95)] * rate_hz).astype(int)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """So small a network gains nothing from threads, and loses much beside other programs."""
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def poisoned(store, tmp_path_factory) -> Store:
    """The store with other waveforms and turned labels in its test rows."""
    path = tmp_path_factory.mktemp("poisoned") / "s.zarr"
    shutil.copytree(store.path, path)
    test = np.flatnonzero(store.array("split") == 2)
    files = {name: path / store.layout.chunk_files(name)[0] for name in ("waveforms", "label")}
    waveforms = np.memmap(
        files["waveforms"], "<i2", "r+", shape=store.layout.chunk_shape("waveforms")
    )
    waveforms[test] = np.random.default_rng(0).integers(-9000, 9000, waveforms[test].shape)
    label = np.memmap(files["label"], "i1", "r+", shape=(len(store),))
    label[test] = 1 - label[test]
    return Store(path)


# Features


def test_features_are_finite_and_of_one_length(store):
    rows = np.concatenate([select_rows(store, split, "mask") for split in ("train", "val", "test")])
    table = baselines.feature_table(store, rows)
    assert np.isfinite(table).all()
    assert table.std(axis=0).min() > 0
    assert table[:, -2:].tolist() == store.array("covariates")[rows].tolist()


@pytest.mark.parametrize(
    "uv",
    [np.zeros((8, 5000)), np.eye(8, 2500), np.full((8, 5000), 40.0)],
    ids=["zero", "impulses", "constant"],
)
def test_features_of_no_ecg_are_finite_or_missing_without_a_warning(uv):
    assert not np.isinf(baselines.features(uv, 500)).any()


@pytest.mark.parametrize("rate_hz", [250, 500])
@pytest.mark.parametrize("rate_bpm", [45, 70, 100, 130])
def test_r_peaks_are_those_of_the_simulator(rate_bpm, rate_hz):
    uv, truth = recording(rate_bpm, rate_hz)
    found = baselines.find_r_peaks(uv, rate_hz)
    inner = found[(found > 0.1 * rate_hz) & (found < 9.9 * rate_hz)]
    assert all(np.abs(truth - peak).min() < 0.05 * rate_hz for peak in inner)
    assert all(np.abs(found - peak).min() < 0.05 * rate_hz for peak in truth[1:-1])
    rate = baselines.rhythm_features(found, rate_hz)[0]
    assert rate == pytest.approx(60 * rate_hz / np.median(np.diff(truth)), abs=2)


def test_rhythm_of_a_known_train_of_beats():
    rate, variability, difference = baselines.rhythm_features(
        np.array([0, 400, 900, 1300, 1800]), 500
    )
    assert rate == pytest.approx(60 / 0.9)
    assert variability == pytest.approx(0.1 / 0.9)
    assert difference == pytest.approx(0.2 / 0.9)


def test_amplitudes_and_bands_of_a_sine():
    uv = 100 * np.sin(2 * np.pi * 10 * np.arange(5000) / 500)[None]
    deviation, low, high, slope, skewness, kurtosis = baselines.amplitude_features(uv)
    assert (deviation, low, high, skewness) == pytest.approx(
        (100 / np.sqrt(2), -100, 100, 0), abs=0.5
    )
    assert slope == pytest.approx(
        4 * 100 * 10 / 500, rel=0.01
    )  # a cycle goes 4 amplitudes, 10 times a second
    assert np.expm1(kurtosis) == pytest.approx(1.5, rel=0.01)
    assert baselines.band_features(uv, 500) == pytest.approx([0, 1, 0], abs=1e-6)


def test_qrs_area_and_axis_follow_the_leads():
    uv, peaks = recording(70)
    upright, turned = (
        baselines.qrs_features(uv, peaks, 500),
        baselines.qrs_features(-uv, peaks, 500),
    )
    assert upright[:24] == pytest.approx(-turned[:24])
    assert np.hypot(*upright[24:26]) == pytest.approx(1)
    assert upright[26] == turned[26] > 0


# Fitting


def test_logistic_learns_nothing_from_test_rows(store, poisoned):
    clean, other = baselines.fit_logistic(store), baselines.fit_logistic(poisoned)
    for name in ("median", "mean", "scale", "coefficients"):
        assert np.array_equal(getattr(clean, name), getattr(other, name)), name
    assert (clean.intercept, clean.penalty) == (other.intercept, other.penalty)
    test = select_rows(store, "test", "drop")
    assert not np.array_equal(
        clean.predict(store, test).logits, other.predict(poisoned, test).logits
    )


def test_cnn_learns_nothing_from_test_rows(store, poisoned):
    clean, other = (
        baselines.fit_cnn(each, epochs=1).model.state_dict() for each in (store, poisoned)
    )
    assert all(torch.equal(clean[key], other[key]) for key in clean)


def test_missing_features_become_the_train_median():
    model = baselines.Logistic(
        np.array([3.0, 0.0]), np.array([1.0, 0.0]), np.array([2.0, 1.0]), np.ones(2), 0.0, 1.0
    )
    assert model.standardise(np.array([[np.nan, 99.0], [5.0, -1.0]])).tolist() == [
        [1, baselines.OUTLIER],
        [2, -1],
    ]


def test_cnn_has_100k_parameters():
    model = baselines.PlainCnn(8)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(100_000, rel=0.1)
    assert model(torch.zeros(2, 8, 5000)).shape == (2, 2)


def test_both_write_predictions_and_their_metrics_per_patient(store, tmp_path):
    summaries = baselines.run_baselines(store, tmp_path, epochs=1)
    for name, summary in summaries.items():
        assert json.loads((tmp_path / name / "summary.json").read_text()) == summary
        for split in ("val", "test"):
            predictions = Predictions.load(tmp_path / name / f"predictions_{split}.csv")
            assert predictions.rows.tolist() == select_rows(store, split, "drop").tolist()
            patients = predictions.by_patient()
            assert roc_auc_score(patients.label, patients.logit_difference()) == pytest.approx(
                summary[split]["auroc"]
            )
    with (tmp_path / "cnn" / "predictions_test.csv").open() as file:
        assert next(csv.reader(file)) == "row patient label logit_0 logit_1 probability".split()


# Comparison


def save(folder: Path, rows: np.ndarray, label: np.ndarray, score: np.ndarray) -> Path:
    folder.mkdir()
    logits = np.stack([np.zeros(len(rows)), score], axis=1)
    Predictions(rows, rows, label, logits).save(folder / "predictions_test.csv", UNCALIBRATED)
    return folder


def test_runs_are_compared_by_their_patients(tmp_path):
    generator, rows = np.random.default_rng(4), np.arange(60)
    label = generator.integers(0, 2, 60)
    better, worse = (label + generator.normal(0, noise, 60) for noise in (0.8, 1.5))
    run, baseline = (
        save(tmp_path / "a", rows, label, better),
        save(tmp_path / "b", rows, label, worse),
    )
    difference, low, high = benchmark.compare(run, baseline)
    assert difference == pytest.approx(roc_auc_score(label, better) - roc_auc_score(label, worse))
    assert low < difference < high
    assert benchmark.compare(run, run) == (0, 0, 0)


def test_runs_on_other_recordings_are_not_compared(tmp_path):
    one, other = (
        save(tmp_path / name, np.array(rows), np.array([0, 1]), np.zeros(2))
        for name, rows in (("a", [0, 1]), ("b", [0, 2]))
    )
    with pytest.raises(ValueError, match="other recordings"):
        benchmark.compare(one, other)


def test_means_are_over_splits_of_the_mean_member():
    def result(split_seed: int, model: str, auroc: float) -> benchmark.Result:
        return benchmark.Result("CD", split_seed, model, (0.8, 0.7), (auroc, 0.5), 60)

    results = [
        result(s, m, v)
        for s, m, v in (
            (0, "single 0", 0.90),
            (0, "single 1", 0.92),
            (1, "single 0", 0.95),
            (1, "single 1", 0.95),
        )
    ]
    results += [result(0, "cnn", 0.9)]
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in benchmark.means(results).splitlines()
    ]
    assert lines[2] == [
        "CD",
        "single",
        "0.930 (0.028)",
        "0.500 (0.000)",
        "0.800 (0.000)",
        "0.700 (0.000)",
        "60",
    ]
    assert lines[3][1:3] == ["cnn", "0.900"]


def test_step_is_done_once_and_not_with_other_settings(tmp_path):
    stamp, script = tmp_path / "run.done.json", tmp_path / "script.py"
    script.write_text(f"open({str(tmp_path / 'calls')!r}, 'a').write('x')")
    assert benchmark.once(stamp, {"seed": 0}, script) == benchmark.once(stamp, {"seed": 0}, script)
    assert (tmp_path / "calls").read_text() == "x"
    with pytest.raises(ValueError, match="other settings"):
        benchmark.once(stamp, {"seed": 1}, script)


def test_members_are_in_the_order_of_their_seeds(tmp_path):
    assert benchmark.members_of(tmp_path) == [tmp_path]
    for seed in (10, 2, 0):
        (tmp_path / "members" / str(seed)).mkdir(parents=True)
    assert [path.name for path in benchmark.members_of(tmp_path)] == ["0", "2", "10"]


def test_benchmark_says_what_it_needs(capsys):
    with pytest.raises(SystemExit):
        benchmark.read_settings(["out", "--corpus", "CD=x"])
    assert "--corpus TASK=FOLDER for ABNORM" in capsys.readouterr().err
    settings, markdown = benchmark.read_settings(
        [
            *"out --corpus CD=x --tasks CD --split-seeds 0,2 --markdown t.md --train-args".split(),
            "--lr 0.1",
        ]
    )
    assert (settings.tasks, settings.split_seeds, settings.train_args, markdown) == (
        ("CD",),
        (0, 2),
        ("--lr", "0.1"),
        Path("t.md"),
    )


@pytest.mark.full
def test_benchmark_from_corpus_to_table_and_again(corpus, tmp_path):
    words = f"{tmp_path / 'out'} --corpus SIM={corpus} --tasks SIM --split-seeds 0 --seeds 0 --markdown {tmp_path / 'table.md'}"
    arguments = [
        sys.executable,
        ROOT / "bench" / "benchmark.py",
        *words.split(),
        "--train-args",
        "--epochs 1 --threads 1",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first, second = (
        subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert second.stdout == first.stdout == (tmp_path / "table.md").read_text()
    assert " train " not in second.stderr
    assert [line.split("|")[3].strip() for line in first.stdout.splitlines()[2:5]] == [
        "single 0",
        "cnn",
        "logistic",
    ]
