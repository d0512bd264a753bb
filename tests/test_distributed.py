"""Two processes train as one: the same weights up to rounding, one set of files, one voice."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import quick, same_results, silent
from torch import nn

import ecgfit.training.trainer as trainer_module
from ecgfit.checkpoint import load_checkpoint
from ecgfit.compute import distributed
from ecgfit.compute.distributed import Ranks, running_statistics, start, stop_at_end
from ecgfit.run_files import LAST
from ecgfit.training.runner import train
from ecgfit.training.trainer import Progress, Trainer
from ecgprep.errors import InputError, StoreError
from ecgprep.store.reader import Store

ONE_OF_TWO = """
import sys, torch
from pathlib import Path
from ecgfit.compute.distributed import start, stop
from test_distributed import steps
ranks = start("cpu")
assert ranks.world == 2
result = steps(Path(sys.argv[1]), ranks)
if ranks.is_first:
    torch.save(result, sys.argv[2])
stop()
"""


def steps(path: Path, ranks: Ranks) -> dict[str, dict[str, torch.Tensor]]:
    """Train two epochs with each loss; return weights, averages, losses and logits.

    Statistics of batches are frozen and nothing is dropped.
    """
    result = {}
    for kind in ("ce", "bce"):
        config = quick(
            batch=14,
            loss=kind,
            class_weights="1,3",
            tabular="age,sex",
            missing="mask",
            lr=1e-4,
            label_smoothing=0.1,
        )
        trainer = Trainer.prepare(config, Store(path), ranks)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer_module, "train_mode", lambda model: model.eval())
            losses = []
            for epoch in range(2):
                trainer.progress = Progress(history=[{}] * epoch)
                losses.append(trainer.train_epoch(lambda: None, lambda: False))
        predictions = trainer.predict(trainer.kept(), "val")
        averages = trainer.kept().model.state_dict()
        result[kind] = {
            **trainer.model.state_dict(),
            **{f"average.{name}": tensor for name, tensor in averages.items()},
            "loss": torch.tensor(losses),
            "logits": torch.from_numpy(predictions.logits),
            "rows": torch.from_numpy(predictions.rows),
        }
    return result


def torchrun(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    launcher = "-m torch.distributed.run --nproc-per-node 2 --master-port".split()
    command = [sys.executable, *launcher, str(port), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )


def test_two_processes_equal_one_to_rounding(tiny_store, tmp_path):
    (tmp_path / "two.py").write_text(ONE_OF_TWO)
    done = torchrun("two.py", tiny_store.path, tmp_path / "two.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone = steps(tiny_store.path, Ranks())
    together = torch.load(tmp_path / "two.pt", weights_only=True)  # noqa: TID251
    n = len(Trainer.prepare(quick(missing="mask"), tiny_store).rows["train"])
    assert n % 14 % 2 == 1, "the last batch must be odd for this test to mean something"
    for kind, state in alone.items():
        assert state.keys() == together[kind].keys()
        for name, tensor in state.items():
            torch.testing.assert_close(
                together[kind][name],
                tensor,
                rtol=1e-5,
                atol=1e-5,
                msg=lambda text, name=name: f"{name}: {text}",
            )
    untrained = Trainer.prepare(quick(tabular="age,sex", missing="mask"), tiny_store).model
    first = dict(untrained.named_parameters())
    moved = [(alone["ce"][name] - first[name]).abs().max() for name in first]
    assert max(moved) > 1e-4


def test_torchrun_makes_one_run_and_speaks_once(tiny_store, tmp_path):
    options = ["--epochs", "2", "--batch", "16", "--threads", "1", "--amp", "off"]
    command = ["-m", "ecgfit.cli", "train", "--store", tiny_store.path, "--outdir", "r"]
    done = torchrun(*command, *options, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert 0 <= metrics["metrics"]["auroc"]["value"] <= 1
    assert done.stderr.count("epoch   1/2") == 1
    assert "in each of 2 processes" in done.stderr
    alone = train(quick(epochs=2), tiny_store, tmp_path / "alone", say=silent)
    names = [
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        for folder in (alone.path, tmp_path / "r")
    ]
    assert names[0] == names[1]
    rows = [
        np.loadtxt(folder / "predictions_val.csv", delimiter=",", skiprows=1)[:, 0].tolist()
        for folder in (alone.path, tmp_path / "r")
    ]
    assert rows[0] == rows[1]
    with pytest.raises(StoreError, match=r"other settings \(processes: 2, now 1\)"):
        train(quick(epochs=2), tiny_store, tmp_path / "r", resume=True, say=silent)


@pytest.mark.full
@pytest.mark.parametrize("end", ["stop", "stop, looking rarely", "die"])
def test_two_processes_resume_to_the_bit(tiny_store, tmp_path, end):
    """Resume after SIGTERM to one of them, and after both died.

    SIGTERM is heard at once or, as on GPUs, at the next look. Before both died, the clock of one
    had asked for saves.
    """
    code = (
        "import os, signal, sys, ecgfit.training.trainer as t\n"
        "seeds = t.torch_seeds\n"
        "def stop(seed, epoch, step):\n"
        "    is_second = os.environ['RANK'] == '1'\n"
        "    if (epoch, step) == (1, 1) and sys.argv[1].startswith('stop') and is_second:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    if (epoch, step) == (1, 2) and sys.argv[1] == 'die':\n"
        "        os._exit(9)\n"
        "    return seeds(seed, epoch, step)\n"
        "t.torch_seeds = stop\n"
        "if sys.argv[1] == 'die' and os.environ['RANK'] == '1':\n"
        "    t.SECONDS_BETWEEN_SAVES = -1\n"
        "if sys.argv[1] == 'stop, looking rarely':\n"
        "    t.STEPS_BETWEEN_LOOKS['cpu'] = 256\n"
        "from pathlib import Path\n"
        "from helpers import quick, silent\n"
        "from ecgfit.training.runner import train\n"
        "from ecgprep.store import Store\n"
        "what, store, outdir = sys.argv[1], Store(Path(sys.argv[2])), Path(sys.argv[3])\n"
        "train(quick(), store, outdir, resume=what == 'resume', say=silent)\n"
    )
    (tmp_path / "run.py").write_text(code)
    assert torchrun("run.py", "whole", tiny_store.path, "whole", cwd=tmp_path).returncode == 0
    assert torchrun("run.py", end, tiny_store.path, "stopped", cwd=tmp_path).returncode != 0
    assert not (tmp_path / "stopped/threshold.json").exists()
    whole, last = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "stopped"))
    n_steps = len(Trainer.prepare(quick(), tiny_store, Ranks(0, 2)).loader())
    assert (len(last["history"]), last["step"]) == (
        1,
        {"stop": 3, "stop, looking rarely": n_steps, "die": 2}[end],
    )
    assert n_steps > 3
    assert whole["settings"]["processes"] == last["settings"]["processes"] == 2
    done = torchrun("run.py", "resume", tiny_store.path, "stopped", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert same_results(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [0, 1, 7, 10, 64])
def test_shares_are_the_whole_once_and_even(n, world):
    shares = [range(n)[Ranks(rank, world).share(n)] for rank in range(world)]
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_processes_than_a_batch_feeds_are_refused(tiny_store):
    with pytest.raises(InputError, match="batch: each of the 9 processes needs two recordings"):
        Trainer.prepare(quick(batch=16), tiny_store, Ranks(0, 9))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "two"}, "not a whole number"),
    ],
)
def test_an_environment_that_is_not_torchruns_is_refused(monkeypatch, environment, message):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        start("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = (
        "Each process needs a GPU of its own, and 1 can be seen here. Use torchrun "
        "--nproc-per-node 1, or --device cpu."
    )
    with pytest.raises(InputError, match=re.escape(message)):
        start("cuda")


@pytest.mark.parametrize(
    ("error", "leaves"), [(None, True), (SystemExit, True), (InputError, False)]
)
def test_a_process_leaves_the_others_only_by_agreement(monkeypatch, error, leaves):
    """One that fails alone would wait for the others, who wait for it."""
    left = []
    monkeypatch.setattr(distributed, "stop", lambda: left.append(True))
    with contextlib.suppress(SystemExit, InputError), stop_at_end():
        if error is not None:
            raise error("one alone")
    assert bool(left) == leaves


@pytest.mark.full
def test_a_process_that_fails_alone_ends_all(tiny_store, tmp_path):
    code = (
        "import os, sys, ecgfit, ecgfit.training.trainer as t\n"
        "def fail(*_): raise ecgfit.InputError('one alone')\n"
        "if os.environ['RANK'] == '1': t.Trainer.take_step = fail\n"
        "ecgfit.train(sys.argv[1], 'r', batch=16, threads=1)\n"
    )
    (tmp_path / "run.py").write_text(code)
    done = torchrun("run.py", tiny_store.path, cwd=tmp_path)
    assert done.returncode != 0
    assert "one alone" in done.stderr
    assert not (tmp_path / "r/threshold.json").exists()


def test_statistics_of_frozen_parts_are_not_averaged():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(4))
    model[0].eval()
    assert [len(buffer) for buffer in running_statistics(model)] == [4, 4]
