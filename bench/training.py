"""How fast is training? Forward, backward and optimizer on the same batches, ratios side by side in one run.

    python bench/training.py                        # the CPU table, a minute; torch_ecg and tsai where they are installed
    python bench/training.py --packages FOLDER      # ... or in another environment's site-packages, for they need an older pandas
    python bench/training.py --compile              # and torch.compile, whose warm-up takes a minute or more, in both tables
    python bench/training.py --device cuda          # the GPU table: streaming and resident, against fixed batch, plain loop and roofline

Floor of the CPU table: the same network of PyTorch's own layers in plain eager PyTorch. The GPU table is printed by default, too, where there
is a GPU; elsewhere it says "not measured". `--device cpu` runs its code on the CPU, to test it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the commands do, before torch is imported

import numpy as np
import torch
from corpus import write_muse_corpus
from numpy.typing import NDArray
from plain_layers import plain
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ecgfit.config import make_config
from ecgfit.data import select_rows
from ecgfit.device import set_up
from ecgfit.loader import Batch
from ecgfit.models import build_model, count_macs
from ecgfit.trainer import Trainer
from ecgfit.transfer import train_mode
from ecgprep.build import build_store
from ecgprep.manifest import read_manifest
from ecgprep.plan import BuildSettings
from ecgprep.store import Store

N_CHANNELS, N_SAMPLES = 8, 5000
WARM_UP = 5
"""Steps before the clock starts."""
Step = Callable[[], object]


def training_step(network: nn.Module, x: Tensor, label: Tensor, *, amp: bool = False, fused: bool = True) -> Step:
    """Return a function that takes one step: forward, backward, AdamW."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=fused)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
            logits = network(x)
        F.cross_entropy(logits.float(), label).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


class AsItComes:
    """A step of the plain network in a process of its own, where nothing of PyTorch or the C library is set but the threads."""

    def __init__(self, batch: int, threads: int) -> None:
        program = f"import sys, torch; sys.path.insert(0, {str(Path(__file__).parent)!r}); import training; training.serve_plain({batch}, {threads})"
        command = [sys.executable, "-c", program]  # torch comes first: it has read the environment when this module sets it
        environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self) -> float:
        """Return the seconds of the better of two steps, by the clock that the table goes by."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate("")


def serve_plain(batch: int, threads: int) -> None:
    """Take two steps of the plain network for each line that is read, and print the seconds of the better."""
    torch.set_num_threads(threads)
    x, label = torch.randn(batch, N_CHANNELS, N_SAMPLES), torch.arange(batch) % 2
    step, clock = training_step(plain(build_model("resnet1d", N_CHANNELS, 0)), x, label, fused=False), clock_for(threads)
    for _ in range(WARM_UP):
        step()
    for _ in sys.stdin:
        print(min(timed(step, clock), timed(step, clock)), flush=True)


def clock_for(threads: int) -> Callable[[], float]:
    """Return the clock: of one thread its own time, which other programs disturb less."""
    return time.thread_time if threads == 1 else time.perf_counter


def timed(step: Step, clock: Callable[[], float]) -> float:
    """Return the seconds of one step on the CPU."""
    start = clock()
    step()
    return clock() - start


# Other packages' networks, sized to about the default network's cost ---------------------------------------------------------------------


def tsai_xresnet() -> nn.Module:
    """tsai's xresnet1d18, narrowed."""
    from tsai.models.XResNet1d import xresnet1d18

    return xresnet1d18(N_CHANNELS, 2, stem_szs=(8, 8, 64), widen=0.125)  # type: ignore[no-any-return]


def torch_ecg_resnet() -> nn.Module:
    """torch_ecg's ResNet-18 with few filters, mean over time and a linear layer."""
    from copy import deepcopy

    from torch_ecg.model_configs import resnet_vanilla_18
    from torch_ecg.models.cnn.resnet import ResNet

    config = deepcopy(resnet_vanilla_18)
    config.stem.num_filters = 4
    body = ResNet(N_CHANNELS, **config)
    width = body.compute_output_shape(N_SAMPLES, 1)[1]
    return nn.Sequential(body, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 2))


OTHERS = {"tsai": tsai_xresnet, "torch_ecg": torch_ecg_resnet}


# The CPU table ---------------------------------------------------------------------------------------------------------------------------


def cpu_steps(batch: int, with_compile: bool) -> dict[str, tuple[nn.Module, Step]]:
    """Return what is compared, the floor first: a name -> the network and its step."""
    x, label = torch.randn(batch, N_CHANNELS, N_SAMPLES), torch.arange(batch) % 2
    default = build_model("resnet1d", N_CHANNELS, 0)
    networks: dict[str, nn.Module] = {"plain layers, eager": plain(default)}
    for package, make in OTHERS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: left out")
        else:
            networks[package] = make()
    steps = {name: (network, training_step(network, x, label, fused=False)) for name, network in networks.items()}
    steps["ecgfit"] = default, training_step(default, x, label)
    coarse = build_model("resnet1d", N_CHANNELS, 0)
    steps["ecgfit --amp on (bfloat16)"] = coarse, training_step(coarse, x, label, amp=True)
    if with_compile:
        network = build_model("resnet1d", N_CHANNELS, 0)
        steps["ecgfit, torch.compile"] = network, training_step(torch.compile(network), x, label)  # type: ignore[arg-type]
    return steps


def cpu_table(batch: int, threads: int, rounds: int, with_compile: bool) -> None:
    """Print recordings a second of each step and the ratio to plain layers."""
    clock = clock_for(threads)
    steps = cpu_steps(batch, with_compile)
    first = {name: timed(step, time.perf_counter) + timed(step, time.perf_counter) for name, (_, step) in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    bare, bare_seconds = AsItComes(batch, threads), []
    for _ in range(rounds):
        for name, (_, step) in steps.items():
            seconds[name].append(min(timed(step, clock), timed(step, clock)))  # the better of two: other programs only ever add
        bare_seconds.append(bare.seconds())
    bare.close()
    floor = next(iter(seconds.values()))
    print(f"CPU, {threads} threads, batch {batch}, {N_CHANNELS} x {N_SAMPLES}: forward, backward, AdamW; {clock.__name__}")
    print(f"{'':28s} {'GMAC':>6s} {'ms':>7s} {'recordings/s':>13s} {'ratio':>6s} {'range':>12s} {'first two, s':>13s}")
    for name, (network, _) in steps.items():
        ratios = sorted(f / s for f, s in zip(floor, seconds[name], strict=True))
        median = statistics.median(seconds[name])
        cells = (
            f"{count_macs(network, N_CHANNELS, N_SAMPLES) / 1e9:6.3f} {median * 1e3:7.1f} {batch / median:13,.0f} {statistics.median(ratios):6.2f}"
        )
        print(f"{name:28s} {cells} {f'[{ratios[0]:.2f}..{ratios[-1]:.2f}]':>12s} {first[name]:13.1f}", flush=True)
    ratios = sorted(b / s for b, s in zip(bare_seconds, seconds["ecgfit"], strict=True))
    print(
        f"plain layers with PyTorch as it comes (no setting of memory, waiting or determinism): {statistics.median(bare_seconds) * 1e3:.1f} ms; "
        f"ecgfit is {statistics.median(ratios):.2f} [{ratios[0]:.2f}..{ratios[-1]:.2f}] times as fast",
        flush=True,
    )


# The GPU table ---------------------------------------------------------------------------------------------------------------------------

PEAKS = {"H100": (67e12, 989e12, 3.35e12), "H200": (67e12, 989e12, 4.8e12), "A100": (19.5e12, 312e12, 2.0e12)}
"""float32 FLOP/s without TF32, bfloat16 FLOP/s and bytes/s of a GPU, as its maker states them, by a word of its name."""


COLUMNS = {
    "batch": 5,
    "fixed/s": 9,
    "streamed": 8,
    "wait": 6,
    "resident": 8,
    "wait ": 6,
    "fast": 6,
    "compiled": 8,
    "/ plain": 8,
    "GFLOP": 6,
    "MB": 6,
    "roofline": 8,
}


def device_table(device: str, store: Store, models: Sequence[str], batches: Sequence[int], steps: int, with_compile: bool) -> None:
    """Print recordings a second of whole training steps, streamed and resident, in faster modes, and the ratios to their floors."""
    print(f"{describe(device)}: whole training steps of {store.n_samples} samples; ratios to the same step on one fixed batch, deterministic")
    print("fast: without deterministic kernels; GFLOP and MB: of a recording, what the roofline takes")
    print(f"{'model':14s} " + " ".join(f"{name:>{width}s}" for name, width in COLUMNS.items()))
    for model in models:
        for batch in batches:
            cells = [str(batch), *device_row(device, store, model, batch, steps, with_compile)]
            print(f"{model:14s} " + " ".join(f"{cell:>{width}s}" for cell, width in zip(cells, COLUMNS.values(), strict=True)), flush=True)


def device_row(device: str, store: Store, model: str, batch: int, steps: int, with_compile: bool) -> list[str]:
    """Measure one model at one batch size and return the cells after it."""
    (fixed, _), (streamed, waits), (resident, no_waits) = (run_trainer(device, store, model, batch, steps, how) for how in ("fixed", "off", "on"))
    fast, _ = run_trainer(device, store, model, batch, steps, "on", deterministic=False)
    compiled = f"{run_trainer(device, store, model, batch, steps, 'on', compiled='on')[0] / fixed:.2f}" if with_compile else "-"
    plain_rate = plain_loop(device, store, model, batch, steps)
    flop, n_bytes = work(model, store.n_samples)
    bound = roofline(device, flop, n_bytes)
    waiting = (f"{streamed / fixed:.2f}", f"{waits:.1%}", f"{resident / fixed:.2f}", f"{no_waits:.1%}")
    share = "unknown" if bound is None else f"{fixed / bound:.2f}"
    return [
        f"{fixed:,.0f}",
        *waiting,
        f"{fast / fixed:.2f}",
        compiled,
        f"{streamed / plain_rate:.1f}",
        f"{flop / 1e9:.2f}",
        f"{n_bytes / 1e6:.1f}",
        share,
    ]


def describe(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def run_trainer(
    device: str, store: Store, model: str, batch: int, steps: int, how: str, *, deterministic: bool = True, compiled: str = "off"
) -> tuple[float, float]:
    """Return recordings a second of the trainer's own steps, and the share of the time that it waited for data; `how`: fixed, or `resident`."""
    resident = "off" if how == "fixed" else how
    config = make_config({"model": model, "batch": batch, "device": device, "resident": resident, "compile": compiled, "epochs": 1000}, "bench")
    trainer = Trainer.prepare(config, store)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    train_mode(trainer.model)
    source = endless(trainer)
    kept = next(source) if how == "fixed" else None
    pending: list[Any] = []
    waited = begun = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            synchronise(device)
            waited, begun = 0.0, time.perf_counter()
        asked = time.perf_counter()
        found = next(source) if kept is None else kept
        waited += time.perf_counter() - asked
        trainer._step(found, pending, (False, False))
        trainer.progress.step += 1
    synchronise(device)
    seconds = time.perf_counter() - begun
    return batch * steps / seconds, waited / seconds


def endless(trainer: Trainer) -> Iterator[Batch]:
    """Yield full batches, epoch after epoch."""
    while True:
        for batch in trainer.loader():
            if len(batch.rows) == trainer.config.batch:
                yield batch
        trainer.progress.history.append({})
        trainer.progress.step = 0


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Items(Dataset[tuple[Tensor, int]]):
    """The usual dataset: one recording at a time, as float32."""

    def __init__(self, store: Store, rows: NDArray[np.int64]) -> None:
        self.store, self.rows = store, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        row = self.rows[i : i + 1]
        x = self.store.gather(row, np.empty((1, N_CHANNELS, self.store.n_samples), np.int16))[0]
        return torch.from_numpy(x.astype(np.float32) / 1000), int(self.store.array("label")[row[0]])


def plain_loop(device: str, store: Store, model: str, batch: int, steps: int) -> float:
    """Return recordings a second of a plain eager float32 loop over a DataLoader of items in this process."""
    network = plain(build_model(model, N_CHANNELS, 0)).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    loader = DataLoader(Items(store, select_rows(store, "train", "drop")), batch, shuffle=True, drop_last=True)
    done, begun = -WARM_UP, 0.0
    while done < steps:
        for x, label in loader:
            if done == 0:
                synchronise(device)
                begun = time.perf_counter()
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x.to(device)), label.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()
            done += 1
            if done == steps:
                break
    return batch * steps / (time.perf_counter() - begun)


def work(model: str, n_samples: int) -> tuple[float, float]:
    """Return the FLOPs (3 x 2 x MAC) and the bytes of a training step for a recording.

    Bytes: in bfloat16 every layer's output is written once and read twice, and its gradient written and read once; weights do not count.
    """
    network, values = build_model(model, N_CHANNELS, 0).eval(), 0

    def add(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal values
        values += output.numel() if not list(module.children()) else 0

    for module in network.modules():
        module.register_forward_hook(add)
    with torch.no_grad():
        network(torch.zeros(1, N_CHANNELS, n_samples))
    return 6 * count_macs(network, N_CHANNELS, n_samples), 5 * 2 * values + 2 * N_CHANNELS * n_samples


def roofline(device: str, flop: float, n_bytes: float) -> float | None:
    """Return the recordings a second that the GPU's peak allows for so many FLOPs and bytes each, None for an unknown device."""
    peak = next((peak for word, peak in PEAKS.items() if word in describe(device)), None)
    return None if peak is None else 1 / max(flop / peak[1], n_bytes / peak[2])


def simulated_store(folder: Path, n_records: int) -> Store:
    """Build a store of simulated recordings."""
    manifest = read_manifest(write_muse_corpus(folder, n_records))
    return build_store(manifest, folder / "s.zarr", BuildSettings(), registry_path=folder / "r.csv")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="of the CPU table  [32]")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the CPU table  [all cores]")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="torch.compile as a row of the CPU table")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu", "none"], default="auto", help="of the GPU table; auto: where there is one")
    parser.add_argument("--models", type=lambda text: text.split(","), default=["resnet1d", "xresnet1d101"], help="of the GPU table")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[64, 256, 1024], help="of the GPU table")
    parser.add_argument("--steps", type=int, default=100, help="of the GPU table, after a warm-up")
    parser.add_argument("--records", type=int, default=2048, help="simulated recordings of the GPU table")
    parser.add_argument("--packages", type=Path, help="site-packages of an environment that holds torch_ecg and tsai")
    a = parser.parse_args()
    if a.packages:
        sys.path.append(str(a.packages))  # last: what both hold is ours
    set_up(a.threads)
    if a.rounds:
        cpu_table(a.batch, a.threads, a.rounds, a.compile)
    if a.device in ("auto", "none") and not (a.device == "auto" and torch.cuda.is_available()):
        print("GPU: not measured")
        return
    with tempfile.TemporaryDirectory() as folder:
        store = simulated_store(Path(folder), a.records)
        device_table("cuda" if a.device == "auto" else a.device, store, a.models, a.batches, a.steps, a.compile)


if __name__ == "__main__":
    main()
