"""What a run looks at: known beats are found, attributions add up, and small groups stay hidden."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import copy_run

from ecgfit.cli import cli
from ecgfit.data.loader import make_loader
from ecgfit.data.rows import select_rows
from ecgfit.explaining import gradients
from ecgfit.explaining.attributions import (
    GROUPS,
    ExplainedGroup,
    Explanation,
    draw_called_positive,
    explain_run,
)
from ecgfit.explaining.beats import cut_beats, find_beats
from ecgfit.inference.scorer import load_ensemble, predict_rows
from ecgfit.run import RunFolder
from ecgfit.run_files import EXPLANATIONS
from ecgprep.errors import EcgError, InputError, TargetExists
from ecgprep.files.atomic import write_json
from ecgprep.leads import LEADS, TWELVE_LEADS
from ecgprep.simulation.simulator import Heart, draw_beats, simulate

EIGHT = [TWELVE_LEADS.index(lead) for lead in LEADS]
ALL = np.ones(8, np.bool_)
FILES = {Path(name).name for name in EXPLANATIONS}


# Beats


def known_beats(seed: int, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a recording (8, L) and its R peaks in samples, those whose QRS is whole."""
    heart = Heart.draw(np.random.default_rng(seed), seed % 2)
    peaks = rate_hz * np.array(draw_beats(heart, np.random.default_rng(seed + 1000))[0])
    uv = simulate(heart, rate_hz, np.random.default_rng(seed + 1000))[EIGHT].astype(np.int16)
    return uv, peaks[(peaks > 0.1 * rate_hz) & (peaks < 9.9 * rate_hz)]


def count_mismatches(found: np.ndarray, known: np.ndarray, within: float) -> tuple[int, int]:
    """Return how many known beats were missed, and how many found beats are none.

    Found beats outside of the known ones do not count: QRS at the ends may be cut off.
    """
    apart = np.abs(found[:, None] - known[None, :])
    inner = (found > known.min() - within) & (found < known.max() + within)
    missed = apart.min(axis=0) > within
    false = apart.min(axis=1)[inner] > within
    return int(missed.sum()), int(false.sum())


@pytest.mark.parametrize("rate_hz", [100, 250, 500])
def test_beats_are_found_where_they_are(rate_hz):
    for seed in range(0, 40, 3):
        uv, known = known_beats(seed, rate_hz)
        found = find_beats(uv, ALL, (0, uv.shape[1]), rate_hz)
        assert count_mismatches(found, known, 0.03 * rate_hz + 1) == (0, 0), seed


def test_beats_are_found_with_noise_on_two_leads_one_missing_and_padding():
    for seed in range(8):
        uv, known = known_beats(seed, 500)
        uv[3:5] = np.random.default_rng(seed).normal(0, 800, (2, 5000))
        mask = ALL.copy()
        uv[0], mask[0] = 0, False
        uv[:, :1000], uv[:, 4000:] = 0, 0
        known = known[(known > 1050) & (known < 3950)]
        found = find_beats(uv, mask, (1000, 4000), 500)
        assert count_mismatches(found, known, 20) == (0, 0), seed
        assert ((found >= 1000) & (found < 4000)).all()


def test_an_artefact_hides_no_beats_elsewhere():
    uv, known = known_beats(4, 500)
    uv[:, 2000:2100] += np.random.default_rng(0).normal(0, 3000, (8, 100)).astype(np.int16)
    found = find_beats(uv, ALL, (0, 5000), 500)
    away = known[np.abs(known - 2050) > 150]
    assert np.abs(found[:, None] - away[None, :]).min(axis=0).max() <= 20


def test_no_beats_are_found_where_there_is_no_signal():
    noise = np.random.default_rng(0).normal(0, 100, (8, 5000)).astype(np.int16)
    assert find_beats(noise, ~ALL, (0, 5000), 500).size == 0
    assert find_beats(noise, ALL, (100, 500), 500).size == 0
    assert find_beats(np.zeros((8, 5000), np.int16), ALL, (0, 5000), 500).size == 0


def test_beats_in_noise_are_a_refractory_period_apart():
    noise = np.random.default_rng(0).normal(0, 100, (8, 5000)).astype(np.int16)
    found = find_beats(noise, ALL, (0, 5000), 500)
    assert len(found) > 1
    assert np.diff(found).min() >= 500 * (0.25 - 2 * 0.06)  # each is refined by up to 0.06 s


def test_only_whole_beats_within_the_span_are_cut():
    values = np.tile(np.arange(100.0), (8, 1))
    cut = cut_beats(values, np.array([5, 20, 50, 85]), 10, 20, (10, 100))
    assert cut.shape == (2, 8, 30)
    assert cut[:, 0, 10].tolist() == [20, 50]


# Attributions


def test_attributions_add_up_and_stay_within_the_signal(mask_run, tiny_store):
    lacking = np.flatnonzero(~tiny_store.array("lead_mask").all(axis=1))[:2]
    rows = np.union1d(lacking, select_rows(tiny_store, "test", "drop")[:2])
    ensemble = load_ensemble(mask_run.members, "cpu").requires_grad_(False)
    (batch,) = make_loader(tiny_store, rows, 4, covariates=("age", "sex"))
    attribution, difference = gradients.attribute(ensemble, batch)
    assert attribution.shape == tuple(batch.waveforms.shape)
    error = np.abs(attribution.sum(axis=(1, 2)) - difference).sum()
    assert error <= gradients.TOLERANCE * np.abs(difference).sum()
    assert (attribution[~batch.lead_mask.numpy()] == 0).all()
    predictions = predict_rows(ensemble, tiny_store, rows, ("age", "sex"), amp=False)
    expected = predictions.logit_difference() - baseline_difference(ensemble, batch)
    assert np.abs(difference - expected).max() < 1e-4


def baseline_difference(ensemble, batch) -> np.ndarray:
    """Return the ensemble's difference of logits (B,) where all eight leads are 0."""
    differences = []
    with torch.no_grad():
        for scorer in ensemble.scorers:
            x, tabular = scorer.model_input(
                batch.waveforms, batch.lead_mask, batch.valid_span, batch.covariates
            )
            x[:, :8] = 0
            logits = scorer.model(x, tabular).double().numpy()
            differences.append(logits[:, 1] - logits[:, 0])
    return np.mean(differences, axis=0)


# Runs


@pytest.fixture(scope="module")
def run(mask_run, tmp_path_factory) -> RunFolder:
    """A copy of `mask_run` with a threshold that calls all recordings positive."""
    return positive_for_all(mask_run, tmp_path_factory.mktemp("explained") / "r")


def positive_for_all(run: RunFolder, to: Path) -> RunFolder:
    copy = copy_run(run, to)
    threshold = copy.read_json("threshold.json") | {"value": 0.0}
    write_json(copy.path / "threshold.json", threshold)
    return RunFolder(copy.path)


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "STEPS", 8)
        patch.setattr(gradients, "MORE_STEPS", 50)
        yield


@pytest.fixture(scope="module")
def explained(run, tiny_store) -> dict:
    return explain_run(run, tiny_store, "all", n=12)


def test_the_result_is_written_beside_its_pictures(explained, run):
    out = run.path / "explain"
    assert {path.name for path in out.iterdir()} == FILES
    written = json.loads((out / "explain.json").read_text())
    assert written | {"folder": str(out)} == explained
    assert explained.keys() == Explanation.__annotations__.keys()
    for group in written["groups"].values():
        assert group.keys() == ExplainedGroup.__annotations__.keys()
    for name in GROUPS:
        assert (out / f"explain_{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", GROUPS)
def test_arrays_agree_with_the_result(explained, run, name):
    group = explained["groups"][name]
    with np.load(run.path / "explain" / "attributions.npz") as arrays:
        counts = [group[key] for key in ("n_recordings", "n_patients", "n_beats")]
        assert arrays[f"{name}_n"].tolist() == counts
        beat, attribution = arrays[f"{name}_mean_beat_uv"], arrays[f"{name}_mean_attribution"]
        time_s = arrays["time_s"]
    assert group["n_recordings"] <= 12
    assert sum(group["lead_share"].values()) == pytest.approx(1)
    assert beat.shape == attribution.shape == (8, 70)
    assert beat.dtype == attribution.dtype == np.float32
    assert np.abs(time_s[np.abs(beat[1]).argmax()]) < 0.05  # lead II is greatest at the R peak
    assert 0 <= group["completeness_error"] < 1


def test_one_recording_of_each_patient_is_drawn_by_label_and_always_the_same(run, tiny_store):
    ensemble = load_ensemble(run.members, "cpu")
    drawn = draw_called_positive(run, tiny_store, ensemble, "all", False, 12)
    again = draw_called_positive(run, tiny_store, ensemble, "all", False, 12)
    for name, label in GROUPS.items():
        rows = drawn[name]
        assert (tiny_store.array("label")[rows] == label).all()
        assert len(rows) == 12 == len(np.unique(tiny_store.array("patient")[rows]))
        assert rows.tolist() == again[name].tolist()


def test_nothing_is_written_of_fewer_than_ten_patients(explained, run, tiny_store, tmp_path):
    """Pictures of an earlier explanation go, too."""
    out = copy_run(run, tmp_path / "run").path / "explain"
    result = explain_run(RunFolder(out.parent), tiny_store, "val")
    assert {group["note"] for group in result["groups"].values()} == {
        "fewer than 10 patients with whole beats: their average is not written"
    }
    assert {path.name for path in out.iterdir()} == {"attributions.npz", "explain.json"}
    with np.load(out / "attributions.npz") as arrays:
        assert arrays.files == ["time_s"]


def test_a_group_without_recordings_is_reported_as_such(run, tiny_store, tmp_path):
    high = RunFolder(run.path)
    high.threshold = 1.1
    result = explain_run(high, tiny_store, "val", out=tmp_path / "out")
    assert result["groups"]["true_positives"] == {"note": "there are none"}


def test_what_cannot_be_explained_is_refused(run, tiny_store, monkeypatch):
    with pytest.raises(InputError, match=r"--n \(=5\) must be at least 10"):
        explain_run(run, tiny_store, n=5)
    alone = RunFolder(run.path)
    alone.config = alone.config.model_copy(update={"tabular_only": True})
    with pytest.raises(InputError, match="does not use the ECG, so there is nothing to draw"):
        explain_run(alone, tiny_store)
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(EcgError, match=r"^This needs captum\. Run: .*explain,report"):
        explain_run(run, tiny_store)


# Where explanations go


def test_explanations_of_another_run_are_replaced_only_with_overwrite(
    run, trained_run, tiny_store, tmp_path
):
    explain_run(trained_run, tiny_store, "val", out=tmp_path)
    before = (tmp_path / "explain.json").read_bytes()
    with pytest.raises(TargetExists, match="holds explanations of another run.*--overwrite"):
        explain_run(run, tiny_store, "val", out=tmp_path)
    assert (tmp_path / "explain.json").read_bytes() == before
    explain_run(run, tiny_store, "val", out=tmp_path, overwrite=True)
    assert json.loads((tmp_path / "explain.json").read_text())["threshold"] == run.threshold
    explain_run(run, tiny_store, "val", out=tmp_path)  # its own of before


def test_runs_are_told_apart_where_they_share_store_and_threshold(
    run, trained_run, tiny_store, tmp_path
):
    """As runs do whose threshold is a given number."""
    other = positive_for_all(trained_run, tmp_path / "other")
    assert (other.content_sha256, other.threshold) == (run.content_sha256, run.threshold)
    explain_run(other, tiny_store, "val", out=tmp_path / "out")
    with pytest.raises(TargetExists, match="holds explanations of another run"):
        explain_run(run, tiny_store, "val", out=tmp_path / "out")


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_of_the_user_are_not_taken_for_explanations(run, tiny_store, tmp_path, name):
    (tmp_path / name).write_text("mine\n")
    with pytest.raises(TargetExists, match="or files of yours with their names"):
        explain_run(run, tiny_store, "val", out=tmp_path)
    assert (tmp_path / name).read_text() == "mine\n"


@pytest.mark.parametrize("there", [True, False])
def test_the_folder_of_another_run_is_refused_whatever_is_said(
    run, trained_run, tiny_store, tmp_path, there
):
    other = copy_run(trained_run, tmp_path / "other").path / "explain"
    if there:
        other.mkdir()
    with pytest.raises(InputError, match="is another run's own. Name another folder"):
        explain_run(run, tiny_store, "val", out=other, overwrite=True)
    assert not list(other.parent.glob("explain/*"))


def test_folders_of_a_run_s_own_files_are_refused(run, tiny_store, tmp_path):
    copy = copy_run(run, tmp_path / "copy")
    with pytest.raises(InputError, match="reserved for a run's own files"):
        explain_run(copy, tiny_store, "val", out=copy.path / "members", overwrite=True)
    assert not list(copy.path.glob("members/*.json"))


def test_command(run, trained_run, tiny_store, tmp_path):
    out = tmp_path / "out"
    words = ["--store", str(tiny_store.path), "--split", "val", "-o", str(out)]
    done = CliRunner().invoke(cli, ["explain", str(run.path), *words])
    assert done.exit_code == 0, done.output
    assert "true positives: fewer than 10 patients" in done.stdout
    assert done.stdout.endswith(f"folder: {out}\n")
    done = CliRunner().invoke(cli, ["explain", str(trained_run.path), *words])
    assert isinstance(done.exception, TargetExists)
    done = CliRunner().invoke(cli, ["explain", str(trained_run.path), *words, "--overwrite"])
    assert done.exit_code == 0, done.output
