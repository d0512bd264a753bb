"""Does the cost of a row stay the same as the store grows? Building, opening, loading and training at several sizes.

    python bench/growth.py [--rows 2000,20000] [--plot docs/growth.png]

Each measurement runs in a process of its own, which reports its peak of anonymous memory (mapped pages are page cache, which the system takes
back). Building: as many different MUSE files of 10 s at 100 Hz, on two processes, without the search for near copies (bench/duplicates.py). Loading
and training: stores of 8 x 5000 samples that hold zeros and take no room on disk, since only reading counts; the default network on batches of 32.
The projection to 10 million rows goes on with the line through the smallest and the largest size; its arithmetic is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from corpus import anonymous_mb, fill, sparse_store

from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import muse
from ecgprep.store.format import SPLITS
from ecgprep.store.reader import Store

STEPS = 12
"""Training steps that are timed; the first two warm up."""
LOADED = 5_120
"""Rows, drawn at random from all, that are gathered."""
RECORD_BYTES = 80_000
Figures = dict[str, float]


def watched(work: Callable[[], Figures]) -> Figures:
    """Return what `work` measures, and the growth of anonymous memory meanwhile, at its peak."""
    before, over = anonymous_mb(), threading.Event()
    peak = before

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, anonymous_mb())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        return work() | {"memory_mb": peak - before}
    finally:
        over.set()
        thread.join()


# What is measured ------------------------------------------------------------------------------------------------------------------------


def write_files(folder: Path, n: int) -> Path:
    """Write `n` different recordings of as many patients as MUSE files, and return the manifest."""
    generator = np.random.default_rng(0)
    hearts = [simulate(Heart.draw(generator, k % 2), 100, generator) for k in range(16)]
    rows: list[tuple[str, str, str | int]] = [("patient_id", "path_xml", "label")]
    for i in range(n):
        file = Path("xml", f"{i // 1000}", f"{i}.xml")
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(
            muse(hearts[i % 16] + generator.integers(-30, 31, (12, 1000)), 100, f"G{i}")
        )
        rows.append((f"G{i}", str(file), i % 2))
    with (folder / "manifest.csv").open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    return folder / "manifest.csv"


def building(manifest: Path) -> Figures:
    """Build a store from files."""
    from ecgprep.building.plan import BuildSettings
    from ecgprep.building.run import build_store
    from ecgprep.conform import Conformity
    from ecgprep.patients.manifest import read_manifest

    settings = BuildSettings(Conformity(100, 1000), duplicates="exact")
    start = time.perf_counter()
    store = build_store(
        read_manifest(manifest),
        manifest.parent / "s.zarr",
        settings,
        registry_path=manifest.parent / "r.csv",
        jobs=2,
    )
    return {"us_a_row": 1e6 * (time.perf_counter() - start) / len(store)}


def write_store(path: Path, n: int) -> Store:
    """Write a store of `n` rows of zeros: every second positive, 70 % train."""
    store = sparse_store(path, n, 5000)
    generator = np.random.default_rng(0)
    fill(store, "patient", np.arange(n, dtype=np.int32))
    fill(store, "label", (np.arange(n) % 2).astype(np.int8))
    fill(
        store,
        "split",
        np.where(np.arange(n) % 20 < 14, 0, np.where(np.arange(n) % 20 < 17, 1, 2)).astype(np.int8),
    )
    fill(store, "lead_mask", np.ones((n, 8), np.bool_))
    fill(store, "valid_span", np.tile(np.array([0, 5000], np.int32), (n, 1)))
    fill(store, "rate_hz", np.full(n, 500, np.float32))
    fill(
        store,
        "moments",
        np.stack(
            [generator.integers(-(10**5), 10**5, (n, 8)), generator.integers(10**8, 10**9, (n, 8))],
            axis=2,
        ),
    )
    return Store(path)


def loading(path: Path) -> Figures:
    """Open a store, compute the statistics of its train rows, prefetch and gather random rows twice: the second time they lie in memory."""
    start = time.perf_counter()
    store = Store(path)
    store.waveforms  # noqa: B018 - maps the chunk files
    opened = time.perf_counter()
    store.lead_statistics(np.flatnonzero(store.array("split") == SPLITS.index("train")))
    known = time.perf_counter()
    rows = (
        np.random.default_rng(0)
        .choice(len(store), LOADED, replace=len(store) < LOADED)
        .reshape(-1, 256)
    )
    out = np.empty((256, 8, store.n_samples), np.int16)
    for _ in range(2):
        begun = time.perf_counter()
        for part in rows:
            store.prefetch(part)
            store.gather(part, out)
    return {
        "open_ms": 1e3 * (opened - start),
        "statistics_ms": 1e3 * (known - opened),
        "us_a_row": 1e6 * (time.perf_counter() - begun) / LOADED,
    }


def training(path: Path) -> Figures:
    """Prepare a run of the defaults, and take its first steps, as from a disk: a hole is always read at once, so it would pass for memory."""
    from ecgfit.config import make_config
    from ecgfit.training.trainer import Stopped, Trainer

    ticks: list[float] = []

    def stop() -> bool:
        ticks.append(time.perf_counter())
        return len(ticks) > STEPS

    Store.is_resident = lambda *_: False  # type: ignore[method-assign]
    start = time.perf_counter()
    trainer = Trainer.prepare(make_config({}, "growth"), Store(path))
    prepared = time.perf_counter() - start
    with contextlib.suppress(Stopped):
        trainer.train_epoch(lambda: None, stop)
    return {
        "prepare_ms": 1e3 * prepared,
        "first_step_ms": 1e3 * (ticks[1] - start - prepared),
        "step_ms": 1e3 * float(np.median(np.diff(ticks[2:]))),
    }


MEASURED: dict[str, Callable[[Path], Figures]] = {
    "building": building,
    "loading": loading,
    "training": training,
}


def alone(what: str, path: Path) -> Figures:
    """Measure in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", what, str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


# What is shown ---------------------------------------------------------------------------------------------------------------------------


def table(sizes: list[int], found: dict[str, list[Figures]]) -> str:
    """Return a Markdown table: what was measured at each size."""
    lines = [
        "| " + " | ".join(["what", *(f"{n:,} rows" for n in sizes)]) + " |",
        "|---" * (1 + len(sizes)) + "|",
    ]
    for what, figures in found.items():
        for key in figures[0]:
            cells = [
                f"{figure[key]:,.0f}" if figure[key] >= 10 else f"{figure[key]:.2f}"
                for figure in figures
            ]
            lines.append(
                "| "
                + " | ".join([f"{what}: {key.replace('us', 'µs').replace('_', ' ')}", *cells])
                + " |"
            )
    return "\n".join(lines)


def projection(sizes: list[int], found: dict[str, list[Figures]], rows: int = 10_000_000) -> str:
    """Return what `rows` rows would take: what grows, on the line through the smallest and the largest size; what does not, as it is."""
    build, _, train = (figures[-1] for figures in found.values())

    def extended(what: str, key: str) -> float:
        first, last = (found[what][k][key] for k in (0, -1))
        return last + max(0.0, last - first) / max(1, sizes[-1] - sizes[0]) * (rows - sizes[-1])

    step = train["step_ms"] / 32
    hours = {
        "building": (rows * build["us_a_row"] / 3.6e9, f"{rows:,} x {build['us_a_row']:,.0f} µs"),
        "one epoch of 70 % on these cores": (
            rows * 0.7 * step / 3.6e6,
            f"{rows:,} x 0.7 x {step:.2f} ms",
        ),
    }
    seconds = {
        "opening and mapping": extended("loading", "open_ms") / 1e3,
        "statistics of the train rows": extended("loading", "statistics_ms") / 1e3,
        "preparing a run": extended("training", "prepare_ms") / 1e3,
    }
    return "\n".join(
        [
            f"{rows:,} rows of {RECORD_BYTES:,} B: {rows * RECORD_BYTES / 1e12:.2f} TB in {-(-rows // 256):,} chunk files",
            *(f"- {name}: {how} = {value:.1f} h" for name, (value, how) in hours.items()),
            *(f"- {name}: {value:.1f} s" for name, value in seconds.items()),
            *(f"- memory of {what}: {extended(what, 'memory_mb'):,.0f} MB" for what in found),
        ]
    )


def draw(sizes: list[int], found: dict[str, list[Figures]], path: Path) -> None:
    """Draw time and memory over the number of rows: flat is what is wanted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    times, memory = figure.subplots(1, 2)
    for what, key, label, scale in (
        ("building", "us_a_row", "building, µs a row", 1),
        ("loading", "us_a_row", "loading, µs a row", 1),
        ("training", "step_ms", "training, µs a recording", 1e3 / 32),
    ):
        times.plot(sizes, [scale * figures[key] for figures in found[what]], "o-", label=label)
    for what, figures in found.items():
        memory.plot(
            sizes, [entry["memory_mb"] for entry in figures], "o-", label=f"{what}, MB at the peak"
        )
    for axes in (times, memory):
        axes.set(xscale="log", yscale="log", xlabel="rows")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(words: list[str] | None = None) -> None:
    """Print the table and the projection."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=lambda text: [int(part) for part in text.split(",")], default=[2_000, 20_000]
    )
    parser.add_argument("--plot", type=Path, help="a picture to write")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.measure:
        what, path = arguments.measure
        importlib.import_module(
            "ecgprep.building.run" if what == "building" else "ecgfit.training.trainer"
        )  # not what is measured
        print(json.dumps(watched(lambda: MEASURED[what](Path(path)))))
        return
    found: dict[str, list[Figures]] = {what: [] for what in MEASURED}
    for n in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            found["building"].append(alone("building", write_files(Path(folder), n)))
        with tempfile.TemporaryDirectory() as folder:
            write_store(Path(folder, "s.zarr"), n)
            found["loading"].append(alone("loading", Path(folder, "s.zarr")))
            found["training"].append(alone("training", Path(folder, "s.zarr")))
        print(
            f"{n:,} rows: {json.dumps({what: figures[-1] for what, figures in found.items()})}",
            file=sys.stderr,
            flush=True,
        )
    print(table(arguments.rows, found))
    print(projection(arguments.rows, found))
    if arguments.plot:
        draw(arguments.rows, found, arguments.plot)


if __name__ == "__main__":
    main()
