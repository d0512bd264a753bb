"""The baselines see the test split only to predict it; the benchmark compares by patient."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import changed_store
from sklearn.metrics import roc_auc_score

from ecgfit.data.rows import select_rows
from ecgfit.inference.predictions import UNCALIBRATED, Predictions
from ecgprep.leads import LEADS, TWELVE_LEADS
from ecgprep.simulation import simulator
from ecgprep.store.reader import Store

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "bench"))

import baselines  # noqa: E402 - bench/ is no package
import benchmark  # noqa: E402

EIGHT = [TWELVE_LEADS.index(lead) for lead in LEADS]


def recording(rate_bpm: float, rate_hz: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Return a simulated recording (8, n) and the samples of its R peaks.

    The simulator draws the beats first, so the same seed gives them.
    """
    heart = simulator.Heart(rate_bpm, 0.41, 1, 1, 1, 0, 0)
    peaks = np.array(simulator.draw_beats(heart, np.random.default_rng(3))[0])
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
def poisoned(small_store, tmp_path_factory) -> Store:
    """The store with other waveforms and swapped labels in its test rows."""
    test = np.flatnonzero(small_store.array("split") == 2)
    waveforms = np.array(small_store.array("waveforms"))
    noise = np.random.default_rng(0).integers(-9000, 9000, waveforms[test].shape)
    waveforms[test] = noise
    label = np.array(small_store.array("label"))
    label[test] = 1 - label[test]
    path = tmp_path_factory.mktemp("poisoned") / "s.zarr"
    return changed_store(small_store, path, waveforms=waveforms, label=label)


# Features


def test_features_are_finite_and_vary(small_store):
    splits = [select_rows(small_store, split, "mask") for split in ("train", "val", "test")]
    rows = np.concatenate(splits)
    table = baselines.feature_table(small_store, rows)
    assert np.isfinite(table).all()
    assert table.std(axis=0).min() > 0
    assert table[:, -2:].tolist() == small_store.array("covariates")[rows].tolist()


@pytest.mark.parametrize(
    "uv",
    [np.zeros((8, 5000)), np.eye(8, 2500), np.full((8, 5000), 40.0)],
    ids=["zero", "impulses", "constant"],
)
def test_features_of_no_ecg_are_finite_or_missing_without_a_warning(uv):
    assert not np.isinf(baselines.features(uv, 500)).any()


@pytest.mark.parametrize("rate_hz", [250, 500])
@pytest.mark.parametrize("rate_bpm", [45, 70, 100, 130])
def test_heart_rate_is_that_of_the_simulator(rate_bpm, rate_hz):
    uv, truth = recording(rate_bpm, rate_hz)
    first_of_rhythm = 8 * 6 + 8 * 3  # behind the amplitudes and the bands
    rate = baselines.features(uv, rate_hz)[first_of_rhythm]
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
    # A cycle goes 4 amplitudes, 10 times a second.
    assert slope == pytest.approx(4 * 100 * 10 / 500, rel=0.01)
    assert np.expm1(kurtosis) == pytest.approx(1.5, rel=0.01)
    assert baselines.band_features(uv, 500) == pytest.approx([0, 1, 0], abs=1e-6)


def test_qrs_area_and_axis_follow_the_leads():
    uv, peaks = recording(70)
    upright = baselines.qrs_features(uv, peaks, 500)
    inverted = baselines.qrs_features(-uv, peaks, 500)
    assert upright[:24] == pytest.approx(-inverted[:24])
    assert np.hypot(*upright[24:26]) == pytest.approx(1)
    assert upright[26] == inverted[26] > 0


# Fitting


def test_logistic_learns_nothing_from_test_rows(small_store, poisoned):
    clean, other = baselines.fit_logistic(small_store), baselines.fit_logistic(poisoned)
    for name in ("median", "mean", "scale", "coefficients"):
        assert np.array_equal(getattr(clean, name), getattr(other, name)), name
    assert (clean.intercept, clean.penalty) == (other.intercept, other.penalty)
    test = select_rows(small_store, "test", "drop")
    predictions = clean.predict(small_store, test), other.predict(poisoned, test)
    assert not np.array_equal(predictions[0].logits, predictions[1].logits)


def test_cnn_learns_nothing_from_test_rows(small_store, poisoned):
    clean = baselines.fit_cnn(small_store, epochs=1).model.state_dict()
    other = baselines.fit_cnn(poisoned, epochs=1).model.state_dict()
    assert all(torch.equal(clean[key], other[key]) for key in clean)


def test_missing_features_become_the_train_median():
    model = baselines.Logistic(
        median=np.array([3.0, 0.0]),
        mean=np.array([1.0, 0.0]),
        scale=np.array([2.0, 1.0]),
        coefficients=np.ones(2),
        intercept=0.0,
        penalty=1.0,
    )
    standardised = model.standardise(np.array([[np.nan, 99.0], [5.0, -1.0]]))
    assert standardised.tolist() == [[1, baselines.OUTLIER], [2, -1]]


def test_cnn_has_100k_parameters():
    model = baselines.PlainCnn(8)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(100_000, rel=0.1)
    assert model(torch.zeros(2, 8, 5000)).shape == (2, 2)


def test_both_write_predictions_and_their_metrics_per_patient(small_store, tmp_path):
    summaries = baselines.run_baselines(small_store, tmp_path, epochs=1)
    assert list(summaries) == ["cnn", "logistic"]
    for name, summary in summaries.items():
        assert json.loads((tmp_path / name / "summary.json").read_text()) == summary
        for split in ("val", "test"):
            predictions = Predictions.load(tmp_path / name / f"predictions_{split}.csv")
            rows = select_rows(small_store, split, "drop")
            assert predictions.rows.tolist() == rows.tolist()
            patients = predictions.by_patient()
            auroc = roc_auc_score(patients.label, patients.logit_difference())
            assert auroc == pytest.approx(summary[split]["auroc"])


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
    run, baseline = tmp_path / "run", tmp_path / "baseline"
    save(run, rows, label, better)
    save(baseline, rows, label, worse)
    difference, low, high = benchmark.compare(run, baseline)
    assert difference == pytest.approx(roc_auc_score(label, better) - roc_auc_score(label, worse))
    assert low < difference < high
    assert benchmark.compare(run, run) == (0, 0, 0)


def test_runs_on_other_recordings_are_not_compared(tmp_path):
    label, score = np.array([0, 1]), np.zeros(2)
    one = save(tmp_path / "a", np.array([0, 1]), label, score)
    other = save(tmp_path / "b", np.array([0, 2]), label, score)
    with pytest.raises(ValueError, match="other recordings"):
        benchmark.compare(one, other)


def result(split_seed: int, model: str, auroc: float) -> benchmark.Result:
    return benchmark.Result("CD", split_seed, model, (0.8, 0.7), (auroc, 0.5), 60)


def test_means_are_over_splits_of_the_mean_member():
    results = [
        result(0, "single 0", 0.90),
        result(0, "single 1", 0.92),
        result(1, "single 0", 0.95),
        result(1, "single 1", 0.95),
        result(0, "cnn", 0.9),
    ]
    lines = benchmark.means(results).splitlines()[2:]
    single, cnn = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    means = ["0.930 (0.028)", "0.500 (0.000)", "0.800 (0.000)", "0.700 (0.000)"]
    assert single == ["CD", "single", *means, "60"]
    assert cnn[1:3] == ["cnn", "0.900"]


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


def test_settings_are_read_from_the_command_line():
    words = "out --corpus CD=x --tasks CD --split-seeds 0,2 --markdown t.md --train-args".split()
    settings, markdown = benchmark.read_settings([*words, "--lr 0.1"])
    assert (settings.tasks, settings.split_seeds) == (("CD",), (0, 2))
    assert settings.train_args == ("--lr", "0.1")
    assert settings.corpora == {"CD": Path("x")}
    assert markdown == Path("t.md")


@pytest.mark.full
def test_benchmark_from_corpus_to_table_and_again(corpus, tmp_path):
    out, markdown = tmp_path / "out", tmp_path / "table.md"
    words = [sys.executable, ROOT / "bench" / "benchmark.py", out, "--corpus", f"SIM={corpus}"]
    words += ["--tasks", "SIM", "--split-seeds", "0", "--seeds", "0", "--markdown", markdown]
    words += ["--train-args", "--epochs 1 --threads 1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)

    first, second = run(), run()
    assert first.returncode == 0, first.stderr
    assert second.stdout == first.stdout == markdown.read_text()
    assert " train " not in second.stderr
    models = [line.split("|")[3].strip() for line in first.stdout.splitlines()[2:5]]
    assert models == ["single 0", "cnn", "logistic"]
