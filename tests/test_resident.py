"""Recordings kept on the device: the same batches, the same run, and only where there is room."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import quick, same_results, silent

import ecgfit.training.trainer as trainer_module
from ecgfit.compute.distributed import Ranks
from ecgfit.data.loader import make_loader
from ecgfit.data.resident import DoesNotFit, ResidentBatches, fits, resident_loader
from ecgfit.data.rows import select_rows
from ecgfit.training.runner import train
from ecgfit.training.trainer import Trainer
from ecgprep.errors import InputError

TENSORS = ("waveforms", "lead_mask", "valid_span", "covariates", "label")


@pytest.mark.parametrize("ranks", [Ranks(), Ranks(1, 2)], ids=["alone", "second of two"])
@pytest.mark.parametrize("seed", [3, None], ids=["shuffled", "in order"])
def test_batches_are_those_of_the_store_to_the_bit(store, seed, ranks):
    rows = select_rows(store, "train", "mask")[::-1].copy()  # no order is taken for granted
    streamed = make_loader(store, rows, 8, seed, covariates=("sex", "age"), ranks=ranks)
    resident = resident_loader(streamed, "cpu")
    assert isinstance(resident.dataset, ResidentBatches)
    for epoch, first_step in ((0, 0), (1, 2)):
        for loader in (streamed, resident):
            loader.dataset.epoch, loader.dataset.first_step = epoch, first_step
        assert len(streamed) == len(resident)
        for one, other in zip(streamed, resident, strict=True):
            for name in TENSORS:
                here, there = getattr(one, name), getattr(other, name)
                assert here.dtype == there.dtype
                assert here.numpy().tobytes() == there.numpy().tobytes()
            np.testing.assert_array_equal(one.rows, other.rows)
            np.testing.assert_array_equal(one.all_rows, other.all_rows)
            assert one.first == other.first


def test_a_run_is_the_same_with_and_without(small_store, tmp_path):
    settings = {"tabular": "age,sex", "missing": "mask", "epochs": 2}
    train(quick(**settings, resident="off"), small_store, tmp_path / "streamed", say=silent)
    train(quick(**settings, resident="on"), small_store, tmp_path / "resident", say=silent)
    assert same_results(tmp_path / "streamed", tmp_path / "resident")


def test_auto_means_a_gpu_with_room(small_store, monkeypatch):
    cached = [30_000]  # of an ensemble's member before
    monkeypatch.setattr(torch.cuda, "empty_cache", cached.clear)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (80_000 - sum(cached), 100_000))
    assert fits("auto", 40_000, "cuda")
    assert not fits("auto", 40_001, "cuda")
    assert not fits("auto", 1, "cpu")
    assert fits("on", 10**15, "cpu")
    assert not fits("off", 1, "cuda")
    for asked, kept in (("auto", False), ("on", True)):
        trainer = Trainer.prepare(quick(resident=asked, device="cpu"), small_store)
        assert isinstance(trainer.loader().dataset, ResidentBatches) == kept


def test_rows_that_do_not_fit_are_refused_with_a_way_out(small_store, monkeypatch):
    def full(*shape, **settings):
        raise torch.OutOfMemoryError

    streamed = make_loader(small_store, select_rows(small_store, "train", "drop"), 8, 0)
    monkeypatch.setattr(torch, "empty", full)
    message = (
        r"^resident: \d+ train recordings take 0\.0 GiB, more than the device has free\. "
        r"Use auto or off\.$"
    )
    with pytest.raises(InputError, match=message):
        resident_loader(streamed, "cpu")


def test_auto_streams_where_another_process_took_the_room(small_store, monkeypatch):
    def full(*arguments):
        raise DoesNotFit("resident: no room")

    monkeypatch.setattr(trainer_module, "fits", lambda *arguments: True)
    monkeypatch.setattr(trainer_module, "resident_loader", full)
    assert not isinstance(Trainer.prepare(quick(), small_store).loader().dataset, ResidentBatches)
    with pytest.raises(DoesNotFit, match="no room"):
        Trainer.prepare(quick(resident="on"), small_store).loader()
