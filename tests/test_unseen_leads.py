"""A lead that training never saw is masked wherever it occurs, and said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import changed_store, copy_run, trained

import ecgfit
from ecgfit.cli import cli
from ecgfit.config import make_config
from ecgfit.data.statistics import NormStats
from ecgfit.inference.export import export_run, onnx_session
from ecgfit.inference.files import predict_files, predict_store
from ecgfit.inference.lead_shift import lead_shift, shift_in_words, unseen_leads
from ecgfit.inference.training_range import TrainingRange
from ecgfit.run import RunFolder
from ecgfit.training.preflight import preflight
from ecgfit.training.trainer import Trainer
from ecgprep.leads import LEADS
from ecgprep.store.reader import Store

CHEST = list(LEADS[2:])


def without_chest_leads(store: Store, rows: np.ndarray, target: Path) -> Store:
    """Copy a store whose `rows` have only I and II; what is masked is never looked at."""
    mask, moments = np.array(store.array("lead_mask")), np.array(store.array("moments"))
    mask[rows, 2:], moments[rows, 2:] = False, 0
    return changed_store(store, target, lead_mask=mask, moments=moments)


@pytest.fixture(scope="module")
def limb_store(tiny_store, tmp_path_factory) -> Store:
    """Train and val have I and II only; test has what it had."""
    rows = np.flatnonzero(tiny_store.array("split")[:] < 2)
    return without_chest_leads(tiny_store, rows, tmp_path_factory.mktemp("limb") / "limb.zarr")


@pytest.fixture(scope="module")
def limb_run(limb_store, tmp_path_factory) -> RunFolder:
    """A run with `missing=mask` that never saw V1 to V6; evaluated on test."""
    return trained(limb_store, tmp_path_factory.mktemp("runs") / "limb", missing="mask")


def without_columns(table):
    return table[["row", "probability"]].to_numpy()


def test_the_model_does_not_get_what_it_never_saw(limb_run, limb_store, tmp_path):
    """The same recordings with and without the chest leads have the same bits."""
    tested = np.flatnonzero(limb_store.array("split")[:] == 2)
    bare = without_chest_leads(limb_store, tested, tmp_path / "bare.zarr")
    assert limb_store.array("lead_mask")[tested, 2:].any()
    said: list[str] = []
    found = predict_store(limb_run, limb_store, "test", said.append)
    expected = predict_store(limb_run, bare, "test", said.append)
    assert np.array_equal(without_columns(found), without_columns(expected))
    has_some = limb_store.array("lead_mask")[found["row"].to_numpy(), 2:].any(axis=1)
    assert said == [
        f"V1, V2, V3, V4, V5, V6: no train recording has them, so the model does not get them "
        f"({has_some.sum()} of {len(found)} recordings have some)"
    ]
    warned = found["warnings"].str.contains("not used: no train recording has them")
    assert warned.tolist() == has_some.tolist()


def test_evaluation_says_so_and_its_auroc_is_that_of_the_seen_leads(limb_run, limb_store, tmp_path):
    metrics = limb_run.read_json("metrics_test.json")
    assert metrics["lead_shift"]["unseen"] == CHEST
    tested = np.flatnonzero(limb_store.array("split")[:] == 2)
    bare = without_chest_leads(limb_store, tested, tmp_path / "bare.zarr")
    of_bare = ecgfit.evaluate(copy_run(limb_run, tmp_path / "run"), bare, "test")
    assert of_bare["metrics"]["auroc"] == metrics["metrics"]["auroc"]
    assert of_bare["confusion"] == metrics["confusion"]
    assert "lead_shift" not in of_bare
    words = ["eval", "--store", limb_store.path, "--run", tmp_path / "run"]
    done = CliRunner().invoke(cli, list(map(str, words)))
    assert "leads: V1, V2, V3, V4, V5, V6: no train recording has them" in done.stdout


def test_training_says_so(limb_store, tiny_store, limb_run):
    config = make_config({"missing": "mask", "threads": 1}, "test")
    said = preflight(Trainer.prepare(config, limb_store))
    assert said[-1].startswith("leads: no train recording has V1, V2, V3, V4, V5, V6")
    assert not any("leads: no" in line for line in preflight(Trainer.prepare(config, tiny_store)))


def test_a_run_of_before_has_all_that_is_needed(limb_run, limb_store, tmp_path):
    """Statistics without counts of leads are read, and mask the same leads."""
    old = tmp_path / "old"
    copy_run(limb_run, old)
    stats = json.loads((old / "norm_stats.json").read_bytes())
    del stats["seen"]["lead_records"]
    (old / "norm_stats.json").write_text(json.dumps(stats))
    run = RunFolder(old)
    assert unseen_leads(run) == CHEST
    found = predict_store(run, limb_store, "test", say=print)
    assert found.equals(predict_store(limb_run, limb_store, "test", say=print))
    assert lead_shift(run, np.eye(8, dtype=bool)[:1]) is None


def test_an_onnx_file_masks_them_too(limb_run, limb_store, tmp_path):
    export_run(limb_run, tmp_path / "m.onnx")
    session = onnx_session((tmp_path / "m.onnx").read_bytes())
    table = predict_store(limb_run, limb_store, "test", say=print)
    rows = table["row"].to_numpy()
    waveforms = np.empty((len(rows), 8, limb_store.n_samples), np.int16)
    limb_store.gather(rows, waveforms)
    (found,) = session.run(["probability"], {"waveforms": waveforms})
    np.testing.assert_allclose(found, table["probability"], atol=1e-4)
    waveforms[:, 2:] = np.random.default_rng(0).integers(-900, 900, waveforms[:, 2:].shape)
    (noisy,) = session.run(["probability"], {"waveforms": waveforms})
    full = limb_store.array("valid_span")[rows, 1] == limb_store.n_samples
    np.testing.assert_allclose(noisy[full], found[full], atol=1e-6)


def test_a_file_is_treated_like_a_row(limb_run, corpus):
    file = next(path for path in sorted(corpus.rglob("*.xml")))
    said: list[str] = []
    table = predict_files(limb_run, [file], say=said.append)
    assert "V1, V2, V3, V4, V5, V6 not used" in table["warnings"][0]
    assert said[-1].endswith("(1 of 1 recordings have some)")


def test_a_recording_without_any_seen_lead_is_warned_of(limb_run):
    seen = [limb_run.stats.seen]
    mask = np.arange(8) > 1
    found = TrainingRange(seen, (), tuple(CHEST)).warnings(
        100.0, (0, 200), mask, np.full(8, 100.0), np.empty(0)
    )
    assert "no lead that the run uses: the probability says nothing of this ECG" in found


def test_an_ensemble_uses_a_lead_in_the_members_that_saw_it():
    """Bounds of a lead are those of the members that have seen it."""
    from test_predict_files import SEEN, USUAL, deviation_with

    blind = ((50.0, 200.0),) * 7 + ((0.0, 0.0),)
    other = SEEN.__class__(SEEN.rates_hz, blind, 4000, 7, SEEN.covariates)
    range_ = TrainingRange([SEEN, other], ("age",))
    found = range_.warnings(**(USUAL | {"deviation": deviation_with(7, 30.0)}))
    assert found == ["V6 smaller than in any"]


# Shares of leads


def mask_with(share: float, n: int) -> np.ndarray:
    mask = np.ones((n, 8), bool)
    mask[: round(n * (1 - share)), 3] = False
    return mask


@pytest.mark.parametrize(
    ("share", "n", "is_said"),
    [
        (1.0, 200, False),
        (0.92, 200, False),  # less than a tenth
        (0.85, 200, True),
        (0.85, 20, False),  # 3 of 20 may be chance
        (0.5, 20, True),
    ],
)
def test_a_relevant_difference_is_said_and_chance_is_not(mask_run, share, n, is_said, monkeypatch):
    for member in mask_run.members:
        seen = member.stats.seen.__class__(
            **{**vars(member.stats.seen), "lead_records": (100,) * 8}
        )
        stats = NormStats(**{**vars(member.stats), "n_records": 100, "seen": seen})
        monkeypatch.setattr(member, "stats", stats)
    shift = lead_shift(mask_run, mask_with(share, n))
    assert (shift is not None) == is_said
    if shift is not None:
        assert shift["differing"] == {"V2": {"train": 1.0, "here": share}}
        assert shift_in_words(shift) == [
            "other leads than in training: V2 in "
            f"{100 * share:.0f} % (training: 100 %) of the recordings"
        ]


def test_samples_of_one_population_are_rarely_called_different(mask_run, monkeypatch):
    """At most one in a thousand samples, for each lead."""
    (n_train, n), generator = (300, 80), np.random.default_rng(0)
    false_alarms = 0
    for _ in range(300):
        trained_on = int(generator.binomial(n_train, 0.8))
        for member in mask_run.members:
            counts = (trained_on,) + (n_train,) * 7
            seen = member.stats.seen.__class__(
                **{**vars(member.stats.seen), "lead_records": counts}
            )
            monkeypatch.setattr(
                member,
                "stats",
                NormStats(**{**vars(member.stats), "n_records": n_train, "seen": seen}),
            )
        mask = np.ones((n, 8), bool)
        mask[:, 0] = generator.random(n) < 0.8
        false_alarms += lead_shift(mask_run, mask) is not None
    assert false_alarms <= 2


def test_a_dataloader_masks_leads_that_have_no_scale(limb_store):
    batch = next(iter(ecgfit.dataloader(limb_store, "test", missing="mask")))
    assert not batch.lead_mask[:, 2:].any()
    assert not batch.waveforms[:, 2:].any()
    raw = next(iter(ecgfit.dataloader(limb_store, "test", missing="mask", normalise=False)))
    assert raw.lead_mask[:, 2:].any()
    assert torch.equal(raw.lead_mask[:, :2], batch.lead_mask[:, :2])
