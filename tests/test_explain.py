"""What a run looks at: beats where they are known to be, attributions that add up, nothing of fewer than ten patients."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from test_ecgfit_cli import ecgfit

import ecgfit.explaining.attributions as explain_module
from ecgfit.config import make_config
from ecgfit.data.loader import make_loader
from ecgfit.data.rows import select_rows
from ecgfit.explaining.attributions import TOLERANCE, attribute, explain_run
from ecgfit.explaining.beats import cut_beats, find_beats
from ecgfit.inference.scorer import load_ensemble, predict_rows
from ecgfit.run import Run
from ecgfit.training.runner import train
from ecgprep.errors import EcgError, InputError
from ecgprep.files.atomic import write_json
from ecgprep.leads import LEADS, TWELVE_LEADS
from ecgprep.simulation.simulator import Heart, draw_beats, simulate

EIGHT = [TWELVE_LEADS.index(lead) for lead in LEADS]
ALL = np.ones(8, np.bool_)


def known_beats(seed: int, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a recording (8, L) and its R peaks in samples, those whose QRS is whole."""
    heart = Heart.draw(np.random.default_rng(seed), seed % 2)
    peaks = rate_hz * np.array(draw_beats(heart, np.random.default_rng(seed + 1000))[0])
    uv = simulate(heart, rate_hz, np.random.default_rng(seed + 1000))[EIGHT].astype(np.int16)
    return uv, peaks[(peaks > 0.1 * rate_hz) & (peaks < 9.9 * rate_hz)]


def matched(found: np.ndarray, known: np.ndarray, within: float) -> tuple[int, int]:
    """Return how many known beats were missed, and how many found are none (none is expected of the 0.1 s at the ends)."""
    apart = np.abs(found[:, None] - known[None, :])
    inner = (found > known.min() - within) & (found < known.max() + within)
    return int((apart.min(axis=0) > within).sum()), int((apart.min(axis=1) > within)[inner].sum())


@pytest.mark.parametrize("rate_hz", [100, 250, 500])
def test_beats_are_found_where_they_are(rate_hz):
    for seed in range(0, 40, 3):
        uv, known = known_beats(seed, rate_hz)
        assert matched(
            find_beats(uv, ALL, (0, uv.shape[1]), rate_hz), known, 0.03 * rate_hz + 1
        ) == (0, 0), seed


def test_beats_are_found_with_noise_on_two_leads_one_missing_and_padding():
    for seed in range(8):
        uv, known = known_beats(seed, 500)
        uv[3:5] = np.random.default_rng(seed).normal(0, 800, (2, 5000))
        mask = ALL.copy()
        uv[0], mask[0] = 0, False
        uv[:, :1000], uv[:, 4000:] = 0, 0
        known = known[(known > 1050) & (known < 3950)]
        found = find_beats(uv, mask, (1000, 4000), 500)
        assert matched(found, known, 20) == (0, 0), seed
        assert ((found >= 1000) & (found < 4000)).all()


def test_an_artefact_hides_no_beats_elsewhere():
    uv, known = known_beats(4, 500)
    uv[:, 2000:2100] += np.random.default_rng(0).normal(0, 3000, (8, 100)).astype(np.int16)
    found = find_beats(uv, ALL, (0, 5000), 500)
    away = known[np.abs(known - 2050) > 150]
    assert np.abs(found[:, None] - away[None, :]).min(axis=0).max() <= 20


def test_beats_are_a_refractory_period_apart_and_absent_where_there_is_no_signal():
    noise = np.random.default_rng(0).normal(0, 100, (8, 5000)).astype(np.int16)
    assert find_beats(noise, ~ALL, (0, 5000), 500).size == 0
    assert find_beats(noise, ALL, (100, 500), 500).size == 0
    assert find_beats(np.zeros((8, 5000), np.int16), ALL, (0, 5000), 500).size == 0


def test_only_whole_beats_within_the_span_are_cut():
    values = np.tile(np.arange(100.0), (8, 1))
    cut = cut_beats(values, np.array([5, 20, 50, 85]), 10, 20, (10, 100))
    assert cut.shape == (2, 8, 30)
    assert cut[:, 0, 10].tolist() == [20, 50]


@pytest.fixture(scope="module")
def run(store, tmp_path_factory) -> Run:
    """Two members with covariates and the mask channel, and a threshold that calls all recordings positive."""
    settings = {
        "epochs": 1,
        "batch": 16,
        "threads": 2,
        "missing": "mask",
        "tabular": ["age", "sex"],
        "seeds": [0, 1],
        "model_args": {"width": 0.25},
    }
    finished = train(
        make_config(settings, "test"),
        store,
        tmp_path_factory.mktemp("runs") / "r",
        say=lambda _: None,
    )
    write_json(
        finished.path / "threshold.json", finished.read_json("threshold.json") | {"value": 0.0}
    )
    return Run(finished.path)


@pytest.fixture(scope="module")
def explained(run, store) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explain_module, "STEPS", 8)
        patch.setattr(explain_module, "MORE_STEPS", 8)
        return explain_run(run, store, "all", n=12)


def test_attributions_add_up_and_stay_within_the_signal(run, store):
    lacking = np.flatnonzero(~store.array("lead_mask").all(axis=1))[:2]
    ensemble = load_ensemble(run.members, "cpu").requires_grad_(False)
    (batch,) = make_loader(
        store,
        np.union1d(lacking, select_rows(store, "test", "drop")[:2]),
        4,
        covariates=("age", "sex"),
    )
    parts, moved = attribute(ensemble, batch)
    assert parts.shape == tuple(batch.waveforms.shape)
    assert np.abs(parts.sum(axis=(1, 2)) - moved).sum() <= TOLERANCE * np.abs(moved).sum()
    assert (parts[~batch.lead_mask.numpy()] == 0).all()
    full = predict_rows(ensemble, store, batch.rows, ("age", "sex"), amp=False).logit_difference()
    with torch.no_grad():
        baseline = 0.0
        for scorer in ensemble.scorers:
            x, tabular = scorer.model_input(
                batch.waveforms, batch.lead_mask, batch.valid_span, batch.covariates
            )
            x[:, :8] = 0
            logits = scorer.model(x, tabular)
            baseline = baseline + (logits[:, 1] - logits[:, 0]).double().numpy() / len(
                ensemble.scorers
            )
    assert np.abs(moved - (full - baseline)).max() < 1e-4


def test_files_are_written_and_agree(explained, run, store):
    out = run.path / "explain"
    assert {path.name for path in out.iterdir()} == {
        *(
            "explain_true_positives.png",
            "explain_false_positives.png",
            "attributions.npz",
            "explain.json",
        ),
    }
    assert json.loads((out / "explain.json").read_text()) == {
        key: value for key, value in explained.items() if key != "folder"
    }
    assert (out / "explain_true_positives.png").read_bytes().startswith(b"\x89PNG")
    with np.load(out / "attributions.npz") as arrays:
        for name in ("true_positives", "false_positives"):
            group = explained["groups"][name]
            assert arrays[f"{name}_n"].tolist() == [
                group["n_recordings"],
                group["n_patients"],
                group["n_beats"],
            ]
            assert group["n_recordings"] <= 12
            assert sum(group["lead_share"].values()) == pytest.approx(1)
            beat, parts = arrays[f"{name}_mean_beat_uv"], arrays[f"{name}_mean_attribution"]
            assert beat.shape == parts.shape == (8, 350)
            assert beat.dtype == parts.dtype == np.float32
            assert (
                np.abs(arrays["time_s"][np.abs(beat[1]).argmax()]) < 0.05
            )  # lead II is greatest at the R peak
            assert 0 <= group["completeness_error"] < 1


def test_same_again_to_the_byte_and_chosen_by_label(explained, run, store, tmp_path):
    ensemble = load_ensemble(run.members, "cpu")
    rows = explain_module.called_positive(run, store, ensemble, "all", False, 12)
    for name, label in explain_module.GROUPS.items():
        assert (store.array("label")[rows[name]] == label).all()
        assert len(rows[name]) == 12 == len(np.unique(store.array("patient")[rows[name]]))
        assert (
            rows[name].tolist()
            == explain_module.called_positive(run, store, ensemble, "all", False, 12)[name].tolist()
        )


def test_nothing_is_written_of_fewer_than_ten_patients_or_of_none(explained, run, store, tmp_path):
    out = tmp_path / "few"
    shutil.copytree(run.path / "explain", out)
    result = explain_run(run, store, "val", out=out)
    assert {group["note"] for group in result["groups"].values()} == {
        "fewer than 10 patients with whole beats: their average is not written"
    }
    assert {path.name for path in out.iterdir()} == {"attributions.npz", "explain.json"}
    with np.load(out / "attributions.npz") as arrays:
        assert arrays.files == ["time_s"]
    high = Run(run.path)
    high.threshold = 1.1
    assert explain_run(high, store, "val", out=out)["groups"]["true_positives"] == {
        "note": "there are none"
    }


def test_what_cannot_be_explained_is_refused(run, store, monkeypatch):
    with pytest.raises(InputError, match="--n"):
        explain_run(run, store, n=5)
    alone = Run(run.path)
    alone.config = alone.config.model_copy(update={"tabular_only": True})
    with pytest.raises(InputError, match="does not use the ECG"):
        explain_run(alone, store)
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(EcgError, match="extras `explain` and `report`"):
        explain_run(run, store)


def test_command(run, store, tmp_path):
    done = ecgfit(
        "explain", run.path, "--store", store.path, "--split", "val", "-o", "out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "true positives: fewer than 10 patients" in done.stdout
    assert done.stdout.endswith("folder: out\n")
    assert ecgfit("explain", run.path, "--store", "absent.zarr", cwd=tmp_path).returncode == 4
