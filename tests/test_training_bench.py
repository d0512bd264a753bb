"""bench/training.py runs anywhere, says what it leaves out, and counts what its floor needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgfit.config import make_config
from ecgfit.data.resident import DoesNotFit
from ecgprep.errors import InputError

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "bench"))

import training  # noqa: E402 - bench/ is no package


def bench(*arguments: str) -> list[str]:
    command = [sys.executable, str(ROOT / "bench/training.py"), "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_cpu_table_has_the_floor_and_every_form():
    lines = bench("--batch", "2", "--rounds", "1", "--device", "none")
    table = {line[:28].strip(): line.split() for line in lines if "[" in line}
    assert {"plain layers, eager", "ecgfit", "ecgfit --amp on (bfloat16)"} <= table.keys()
    assert "1.00" in table["plain layers, eager"]
    assert lines[-1] == "GPU: not measured"
    for package in training.OTHERS:
        assert (f"{package} is not installed: left out" in lines) != any(
            package in name for name in table
        )


@pytest.mark.full
def test_device_table_runs_on_a_cpu():
    options = "--rounds 0 --device cpu --models resnet1d --batches 4 --steps 2 --records 24"
    lines = bench(*options.split())
    cells = dict(zip(["model", *training.COLUMNS], lines[-1].split(), strict=True))
    fixed = {"model": "resnet1d", "batch": "4", "compiled": "-", "GFLOP": "0.14"}
    assert cells.items() >= {**fixed, "roofline": "unknown"}.items()
    for name in ("fixed/s", "streamed", "resident", "fast", "/ plain"):
        assert float(cells[name]) > 0


def test_lack_of_memory_is_a_cell_of_the_table(monkeypatch, small_store):
    def too_large(*arguments, **settings):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(training, "trainer_rate", too_large)
    monkeypatch.setattr(training, "plain_loop", too_large)
    assert training.device_row("cpu", small_store, "resnet1d", 4, 1, True)[:6] == ["memory"] * 6
    # What is wrong with the command is not lack of memory.
    with pytest.raises(InputError, match="model"):
        training.if_it_fits(lambda: make_config({"model": "resnet2d"}, "bench") and 0.0)


def test_rows_that_do_not_fit_are_a_cell_too():
    def too_many():
        raise DoesNotFit("resident: no room")

    assert training.if_it_fits(too_many) is None


def test_rows_are_repeated_to_full_batches():
    rows = training.repeated_rows(np.arange(7), 4)
    assert len(rows) == 4 * training.BATCHES_AN_EPOCH
    assert set(rows.tolist()) == set(range(7))


def test_roofline_is_that_of_flops_or_bytes_by_hand(monkeypatch):
    assert training.work("xresnet1d101", 5000)[0] == pytest.approx(6 * 0.81e9, rel=0.01)
    # Its layers give about thirty times as many values as it takes.
    assert 20 < training.work("resnet1d", 5000)[1] / (5 * 2 * 8 * 5000) < 40
    monkeypatch.setattr(training, "describe", lambda device: "NVIDIA X1")
    assert training.roofline("cuda", 6e9, 1.0) is None
    monkeypatch.setattr(training, "describe", lambda device: "NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    # A part of the card, whose share is not known.
    assert training.roofline("cuda", 6e9, 1.0) is None
    monkeypatch.setattr(training, "describe", lambda device: "NVIDIA X1")
    monkeypatch.setattr(training, "PEAKS", {"X1": (3e9, 1e6)})
    assert training.roofline("cuda", 6e9, 1.0) == 0.5
    assert training.roofline("cuda", 6e9, 8e6) == 0.125
