"""How long does it take from XML files to a test AUROC, and where does the time go?

It builds, trains and evaluates as a user does.

    python bench/time_to_auroc.py --corpus FOLDER [--goal 0.937] [--train-args '--amp on']

FOLDER holds manifest.csv and the files that it names, as bench/ptbxl.py writes them; the goal is
one for its task ABNORM. The epoch in which validation met the goal, by the run's own curves.csv, says
how much of the training a reader in a hurry needs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark import command

from ecgprep.store.reader import Store


def measure(
    corpus: Path, out: Path, split_seed: int, train_args: tuple[str, ...]
) -> dict[str, Any]:
    """Return the seconds of each command, started as a process, and its results.

    Raises CalledProcessError.
    """
    store, run = out / "store.zarr", out / "run"
    build = ("ecgprep.cli", "build", corpus / "manifest.csv", store, "--split-seed", split_seed)
    options = ("--registry", out / "registry.csv", "--jobs", os.cpu_count() or 1)
    seconds = {
        "build": timed("-m", *build, *options),
        "train": timed("-m", "ecgfit.cli", "train", "--store", store, "--outdir", run, *train_args),
        "eval": timed("-m", "ecgfit.cli", "eval", "--store", store, "--run", run),
    }
    with (run / "curves.csv").open() as file:
        curves = list(csv.DictReader(file))
    test = json.loads((run / "metrics_test.json").read_bytes())["metrics"]["auroc"]
    return {
        "seconds": seconds,
        "recordings": len(Store(store)),
        "test": test,
        "val": [float(row["val_auroc"]) for row in curves],
    }


def timed(*arguments: object) -> float:
    """Run one of our programs and return its seconds, start of Python and imports included."""
    start = time.perf_counter()
    command(*arguments)
    return time.perf_counter() - start


def show(result: dict[str, Any], goal: float) -> str:
    """Return the breakdown and whether the goal was met."""
    seconds, total = result["seconds"], sum(result["seconds"].values())
    epochs = len(result["val"])
    lines = [
        f"{result['recordings']:,} recordings, {os.cpu_count()} cores",
        f"{'step':8s} {'seconds':>8s} {'share':>6s}",
    ]
    lines += [f"{name:8s} {value:8.1f} {value / total:6.1%}" for name, value in seconds.items()]
    lines += [f"{'in all':8s} {total:8.1f} {'':6s} ({total / 60:.1f} minutes)"]
    auroc = result["test"]["value"]
    low, high = result["test"]["ci95"]
    verdict = "reached" if auroc >= goal else "not reached"
    lines.append(
        f"test AUROC {auroc:.3f} (95 % interval {low:.3f} to {high:.3f}): {goal:.3f} {verdict}"
    )
    met = [epoch for epoch, value in enumerate(result["val"], start=1) if value >= goal]
    at = f"in epoch {met[0]}" if met else "in no epoch"
    lines.append(
        f"{epochs} epochs of {seconds['train'] / epochs:.1f} s, start and end included; "
        f"validation met the goal {at}"
    )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--goal", type=float, default=0.937, help="test AUROC per patient  [0.937]")
    parser.add_argument("--split-seed", type=int, default=1, help="[1]")
    parser.add_argument("--train-args", default="", help="more options of `ecgfit train`")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        train_args = tuple(shlex.split(a.train_args))
        result = measure(a.corpus, Path(folder), a.split_seed, train_args)
        print(show(result, a.goal))


if __name__ == "__main__":
    main()
