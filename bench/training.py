"""How fast is training? Forward, backward and optimizer on the same batches, in one run.

    python bench/training.py                   # the CPU table, a minute; torch_ecg and tsai if
                                               # they are installed
    python bench/training.py --packages FOLDER # ... or in another environment's site-packages:
                                               # they need an older pandas
    python bench/training.py --compile         # and torch.compile, in both tables; its warm-up
                                               # takes a minute or more
    python bench/training.py --device cuda     # the GPU table: streamed and resident, against a
                                               # fixed batch, a plain loop and a roofline

Floor of the CPU table: the same network of PyTorch's own layers in plain eager PyTorch. The GPU
table is also printed by default where there is a GPU; elsewhere it says "not measured".
`--device cpu` runs its code on the CPU, to test it.
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
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the commands do, before torch is imported

import numpy as np
import torch
from corpus import write_muse_corpus
from numpy.typing import NDArray
from plain_layers import plain
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ecgfit.compute.device import set_up
from ecgfit.config import make_config
from ecgfit.data.loader import Batch
from ecgfit.data.resident import DoesNotFit
from ecgfit.data.rows import select_rows
from ecgfit.models.factory import build_model, count_macs
from ecgfit.training.trainer import Trainer
from ecgfit.training.transfer import train_mode
from ecgprep.building.plan import BuildSettings
from ecgprep.building.run import build_store
from ecgprep.patients.manifest import read_manifest
from ecgprep.store.reader import Store

N_CHANNELS, N_SAMPLES = 8, 5000
WARM_UP = 5
"""Steps before the clock starts."""
Step = Callable[[], object]


def training_step(
    network: nn.Module, x: Tensor, label: Tensor, *, amp: bool = False, fused: bool = True
) -> Step:
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
    """A step of the plain network in a separate process, where only the threads are set."""

    def __init__(self, batch: int, threads: int) -> None:
        program = (
            f"import sys, torch; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
            f"import training; training.serve_plain({batch}, {threads})"
        )
        command = [
            sys.executable,
            "-c",
            program,
        ]  # torch comes first: it has read the environment when this module sets it
        environment = {
            name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"
        }
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

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
    """Take two plain steps for each line that is read, and print the seconds of the better one."""
    torch.set_num_threads(threads)
    x, label = torch.randn(batch, N_CHANNELS, N_SAMPLES), torch.arange(batch) % 2
    step, clock = (
        training_step(plain(build_model("resnet1d", N_CHANNELS, 0)), x, label, fused=False),
        clock_for(threads),
    )
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


# Other packages' networks, sized to the default network's MACs within 3 %


def tsai_xresnet() -> nn.Module:
    """tsai's xresnet1d18, an eighth as wide."""
    from tsai.models.XResNet1d import xresnet1d18

    return xresnet1d18(N_CHANNELS, 2, stem_szs=(12, 12, 64), widen=0.125)  # type: ignore[no-any-return]


def torch_ecg_resnet() -> nn.Module:
    """torch_ecg's ResNet-18 with few, longer filters, mean over time and a linear layer."""
    from copy import deepcopy

    from torch_ecg.model_configs import resnet_vanilla_18
    from torch_ecg.models.cnn.resnet import ResNet

    config = deepcopy(resnet_vanilla_18)
    config.stem.num_filters, config.stem.filter_lengths, config.filter_lengths = 4, 41, 19
    body = ResNet(N_CHANNELS, **config)
    width = body.compute_output_shape(N_SAMPLES, 1)[1]
    return nn.Sequential(body, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 2))


OTHERS = {"tsai": tsai_xresnet, "torch_ecg": torch_ecg_resnet}


# The CPU table


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
    steps = {
        name: (network, training_step(network, x, label, fused=False))
        for name, network in networks.items()
    }
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
    first = {
        name: timed(step, time.perf_counter) + timed(step, time.perf_counter)
        for name, (_, step) in steps.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    bare, bare_seconds = AsItComes(batch, threads), []
    for _ in range(rounds):
        for name, (_, step) in steps.items():
            seconds[name].append(
                min(timed(step, clock), timed(step, clock))
            )  # the better of two: other programs only ever add
        bare_seconds.append(bare.seconds())
    bare.close()
    floor = next(iter(seconds.values()))
    print(
        f"CPU, {threads} threads, batch {batch}, {N_CHANNELS} x {N_SAMPLES}: forward, backward, "
        f"AdamW; {clock.__name__}"
    )
    print(
        f"{'':28s} {'GMAC':>6s} {'ms':>7s} {'recordings/s':>13s} {'ratio':>6s} {'range':>12s} "
        f"{'first two, s':>13s}"
    )
    for name, (network, _) in steps.items():
        ratios = sorted(f / s for f, s in zip(floor, seconds[name], strict=True))
        median = statistics.median(seconds[name])
        gmac = count_macs(network, N_CHANNELS, N_SAMPLES) / 1e9
        speed = f"{median * 1e3:7.1f} {batch / median:13,.0f} {statistics.median(ratios):6.2f}"
        spread = f"[{ratios[0]:.2f}..{ratios[-1]:.2f}]"
        print(f"{name:28s} {gmac:6.3f} {speed} {spread:>12s} {first[name]:13.1f}", flush=True)
    ratios = sorted(b / s for b, s in zip(bare_seconds, seconds["ecgfit"], strict=True))
    spread = f"[{ratios[0]:.2f}..{ratios[-1]:.2f}]"
    print(
        "plain layers with PyTorch as it comes (no setting of memory, waiting or determinism): "
        f"{statistics.median(bare_seconds) * 1e3:.1f} ms; "
        f"ecgfit is {statistics.median(ratios):.2f} {spread} times as fast",
        flush=True,
    )


# The GPU table

PEAKS: dict[str, tuple[float, float] | None] = {
    "MIG": None,  # a part of a card
    "H100 PCIe": (756e12, 2.0e12),
    "H100 NVL": (835e12, 3.9e12),
    "H100": (989e12, 3.35e12),
    "H200": (989e12, 4.8e12),
    "A100-SXM4-80GB": (312e12, 2.04e12),
    "A100-PCIE-40GB": (312e12, 1.56e12),
    "A100-SXM4-40GB": (312e12, 1.56e12),
}
"""Name -> bfloat16 FLOP/s and bytes/s of a GPU, as its maker states them; None: not known.

The first name that a GPU's own name holds is the one.
"""
BATCHES_AN_EPOCH = 50
"""Train rows are repeated to as many full batches.

The start of an epoch, which waits for its first batch, then counts without ruling the result.
"""
WORKERS = 8
"""Of the plain loop's DataLoader, at most."""
COLUMNS = {
    "batch": 5,
    "fixed/s": 9,
    "streamed": 8,
    "resident": 8,
    "fast": 6,
    "compiled": 8,
    "/ plain": 7,
    "GFLOP": 6,
    "MB": 6,
    "roofline": 8,
}


def device_table(
    device: str,
    store: Store,
    models: Sequence[str],
    batches: Sequence[int],
    steps: int,
    with_compile: bool,
) -> None:
    """Print recordings a second of whole training steps, and the ratios to their floors.

    Steps are streamed, resident, and in the faster modes.
    """
    print(
        f"{describe(device)}: whole training steps of {store.n_samples} samples, deterministic; "
        "ratios of recordings a second"
    )
    print(
        "streamed, resident: to the same step on one batch that lies on the device; what they "
        "lack to 1 is the wait for data"
    )
    print(
        "fast, compiled: resident with --deterministic off, with --compile on; / plain: streamed, "
        "to a float32 loop over a DataLoader of items"
    )
    print("GFLOP and MB: of a recording, for the roofline; memory: the device has too little of it")
    print(f"{'model':14s} " + " ".join(f"{name:>{width}s}" for name, width in COLUMNS.items()))
    for model in models:
        for batch in batches:
            cells = [str(batch), *device_row(device, store, model, batch, steps, with_compile)]
            print(
                f"{model:14s} "
                + " ".join(
                    f"{cell:>{width}s}" for cell, width in zip(cells, COLUMNS.values(), strict=True)
                ),
                flush=True,
            )


def device_row(
    device: str, store: Store, model: str, batch: int, steps: int, with_compile: bool
) -> list[str]:
    """Measure one model at one batch size and return the cells after it."""

    def rate(**settings: str) -> float | None:
        return if_it_fits(lambda: trainer_rate(device, store, model, batch, steps, settings))

    fixed = if_it_fits(
        lambda: trainer_rate(device, store, model, batch, steps, {"resident": "off"}, fixed=True)
    )
    streamed, resident, fast = (
        rate(resident="off"),
        rate(resident="on"),
        rate(resident="on", deterministic="off"),
    )
    compiled = ratio(rate(resident="on", compile="on"), fixed) if with_compile else "-"
    plain_rate = if_it_fits(lambda: plain_loop(device, store, model, batch, steps))
    flop, n_bytes = work(model, store.n_samples)
    bound = roofline(device, flop, n_bytes)
    return [
        "memory" if fixed is None else f"{fixed:,.0f}",
        *(ratio(found, fixed) for found in (streamed, resident, fast)),
        compiled,
        ratio(streamed, plain_rate),
        f"{flop / 1e9:.2f}",
        f"{n_bytes / 1e6:.1f}",
        "unknown" if bound is None else ratio(fixed, bound),
    ]


def ratio(found: float | None, floor: float | None) -> str:
    return "memory" if found is None or floor is None else f"{found / floor:.2f}"


def if_it_fits(measure: Callable[[], float]) -> float | None:
    """Return what was measured, or None where the device has not enough memory for it."""
    try:
        return measure()
    except (torch.OutOfMemoryError, DoesNotFit):
        return None


def describe(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def repeated_rows(rows: NDArray[np.int64], batch: int) -> NDArray[np.int64]:
    """Return the rows again and again, as many as make BATCHES_AN_EPOCH full batches."""
    return np.resize(rows, batch * BATCHES_AN_EPOCH)


def trainer_rate(
    device: str,
    store: Store,
    model: str,
    batch: int,
    steps: int,
    settings: dict[str, str],
    *,
    fixed: bool = False,
) -> float:
    """Return recordings a second of the trainer's own steps.

    They go over its batches or, with `fixed`, again and again over one that lies on the device.
    """
    config = make_config(
        {"model": model, "batch": batch, "device": device, "epochs": 1000, **settings}, "bench"
    )
    trainer = Trainer.prepare(config, store)
    trainer.rows["train"] = repeated_rows(trainer.rows["train"], batch)
    train_mode(trainer.model)
    source = endless(trainer)
    kept = on_device(next(source), device) if fixed else None
    begun = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            synchronise(device)
            begun = time.perf_counter()
        trainer.take_step(next(source) if kept is None else kept)
        trainer.progress.step += 1
    synchronise(device)
    return batch * steps / (time.perf_counter() - begun)


def on_device(batch: Batch, device: str) -> Batch:
    """Return a copy of the batch on the device."""
    names = ("waveforms", "lead_mask", "valid_span", "covariates", "label")
    return replace(batch, **{name: getattr(batch, name).clone().to(device) for name in names})


def endless(trainer: Trainer) -> Iterator[Batch]:
    """Yield batches, epoch after epoch."""
    while True:
        yield from trainer.loader()
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
    """Return recordings a second of a plain eager float32 loop as it is usually written.

    It has PyTorch's own settings and, beside a GPU, worker processes that load one recording at a
    time into pinned memory.
    """
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = False, True
    network = plain(build_model(model, N_CHANNELS, 0)).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    rows = repeated_rows(select_rows(store, "train", "drop"), batch)
    workers = 0 if device == "cpu" else min(WORKERS, os.cpu_count() or 1)
    loader = DataLoader(
        Items(store, rows),
        batch,
        shuffle=True,
        num_workers=workers,
        pin_memory=device == "cuda",
        persistent_workers=workers > 0,
    )
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

    The bytes are an estimate. The output of every module without submodules is written once and
    read twice in bfloat16, and its gradient is written and read once. Weights, and what lies
    between modules, do not count.
    """
    network, values = build_model(model, N_CHANNELS, 0).eval(), 0

    def add(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal values
        values += output.numel() if not list(module.children()) else 0

    for module in network.modules():
        module.register_forward_hook(add)
    with torch.no_grad():
        network(torch.zeros(1, N_CHANNELS, n_samples))
    return 6 * count_macs(
        network, N_CHANNELS, n_samples
    ), 5 * 2 * values + 2 * N_CHANNELS * n_samples


def roofline(device: str, flop: float, n_bytes: float) -> float | None:
    """Return the recordings a second that the GPU's peak allows, None for an unknown device."""
    peak = next((peak for word, peak in PEAKS.items() if word in describe(device)), None)
    return None if peak is None else 1 / max(flop / peak[0], n_bytes / peak[1])


def simulated_store(folder: Path, n_records: int) -> Store:
    """Build a store of simulated recordings."""
    manifest = read_manifest(write_muse_corpus(folder, n_records))
    return build_store(manifest, folder / "s.zarr", BuildSettings(), registry_path=folder / "r.csv")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32, help="of the CPU table  [32]")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="of the CPU table  [all cores]"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile as a row of the CPU table"
    )
    parser.add_argument(
        "--device",
        choices=["auto", "cuda", "cpu", "none"],
        default="auto",
        help="of the GPU table; auto: where there is one",
    )
    parser.add_argument(
        "--models",
        type=lambda text: text.split(","),
        default=["resnet1d", "xresnet1d101"],
        help="of the GPU table",
    )
    parser.add_argument(
        "--batches",
        type=lambda text: [int(n) for n in text.split(",")],
        default=[64, 256, 1024],
        help="of the GPU table",
    )
    parser.add_argument("--steps", type=int, default=100, help="of the GPU table, after a warm-up")
    parser.add_argument(
        "--records", type=int, default=2048, help="simulated recordings of the GPU table"
    )
    parser.add_argument(
        "--packages",
        type=Path,
        help="site-packages of an environment that holds torch_ecg and tsai",
    )
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
        device_table(
            "cuda" if a.device == "auto" else a.device,
            store,
            a.models,
            a.batches,
            a.steps,
            a.compile,
        )


if __name__ == "__main__":
    main()
