"""How good are the defaults? The whole benchmark on real recordings by one command.

    python bench/benchmark.py OUT --ptbxl PTBXL                        # a download of PTB-XL, through bench/ptbxl.py
    python bench/benchmark.py OUT --corpus CD=corpus --tasks CD        # or a folder with manifest.csv for each task

For every task and split seed: builds the store, trains an ensemble with the defaults of `ecgfit train` (its members are complete runs of
their own), evaluates it and each member on the test split, fits the baselines of bench/baselines.py on the same splits, and compares with
them paired by patient. Prints the table, and writes it with --markdown FILE.

Everything is kept in OUT; the same command goes on where it was stopped and trains nothing twice.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from baselines import MODELS as BASELINES
from baselines import patient_scores
from numpy.typing import NDArray
from ptbxl import write_corpus
from scipy.special import expit

from ecgfit.inference.predictions import Predictions
from ecgfit.metrics.bootstrap import N_BOOTSTRAP
from ecgfit.metrics.paired import paired_difference
from ecgprep.files.atomic import write_file, write_json
from ecgprep.store.reader import Store

HERE = Path(__file__).parent
TASKS = ("ABNORM", "CD")
ENSEMBLE, SINGLE = "ensemble", "single"

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Difference = tuple[float, float, float]
"""A difference of AUROC with the ends of its 95 % interval."""


@dataclass(frozen=True)
class Settings:
    """What is asked for."""

    out: Path
    tasks: tuple[str, ...]
    split_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    train_args: tuple[str, ...]
    corpora: dict[str, Path]
    ptbxl: Path | None
    recordings: Path


@dataclass(frozen=True)
class Result:
    """One model on one split: AUROC and AUPRC per patient, and how long it took to train."""

    task: str
    split_seed: int
    model: str
    val: tuple[float, float]
    test: tuple[float, float]
    seconds: float | None
    differences: dict[str, Difference] = field(default_factory=dict)
    """Difference of test AUROC to each baseline."""


def compare(run: Path, baseline: Path) -> Difference:
    """Compare two folders with test predictions, paired by patient. Raises ValueError when they do not hold the same recordings."""
    ours, theirs = (Predictions.load(folder / "predictions_test.csv") for folder in (run, baseline))
    if not np.array_equal(np.sort(ours.rows), np.sort(theirs.rows)):
        raise ValueError(
            f"{run} and {baseline} predict other recordings: were both made on the same store with the same --missing?"
        )
    (label, score), (_, other) = patient_scores(ours), patient_scores(theirs)
    entry = paired_difference(label, expit(other), expit(score), 0.5, 0.5, seed=0)["metrics"][
        "auroc"
    ]
    if entry["difference"] is None or entry["ci95"] is None:
        return math.nan, math.nan, math.nan
    low, high = entry["ci95"]
    return entry["difference"], low, high


# Steps, each done once ------------------------------------------------------------------------------------------------------------------


def command(*arguments: object) -> str:
    """Run one of our programs in a process of its own, as a user does; its progress stays visible. Raises CalledProcessError."""
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    words = [sys.executable, *map(str, arguments)]
    print("$", shlex.join(["python", *words[1:]]), file=sys.stderr, flush=True)
    return subprocess.run(
        words, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ).stdout


def once(stamp: Path, facts: dict[str, Any], *arguments: object) -> float:
    """Run a command unless `stamp` says that it has run; return its seconds. Raises ValueError when it ran on other facts."""
    if stamp.exists():
        found = json.loads(stamp.read_bytes())
        if found["facts"] != facts:
            raise ValueError(
                f"{stamp.with_suffix('')} was made with other settings. Use another OUT, or delete it and {stamp.name}."
            )
        return float(found["seconds"])
    start = time.perf_counter()
    command(*arguments)
    seconds = time.perf_counter() - start
    write_json(stamp, {"facts": facts, "seconds": seconds})
    return seconds


def corpus_of(settings: Settings, task: str) -> Path:
    """Return the corpus of a task, written from the download where none is given; its manifest is written last."""
    if task in settings.corpora:
        return settings.corpora[task]
    if settings.ptbxl is None:
        raise ValueError(f"--corpus {task}=FOLDER or --ptbxl FOLDER is needed")
    folder = settings.out / "corpus" / task
    if not (folder / "manifest.csv").exists():
        write_corpus(settings.ptbxl, folder, settings.recordings, task)
    return folder


def build(settings: Settings, task: str, split_seed: int) -> Store:
    """Build the store of a task and a split; one that is up to date is left as it is."""
    path = settings.out / f"{task}-{split_seed}.zarr"
    registry = path.with_suffix(
        ".registry.csv"
    )  # not the manifest's: there are several splits of one manifest
    options = ("--split-seed", split_seed, "--registry", registry, "--covariates", "age,sex")
    command(
        "-m", "ecgprep.cli", "build", corpus_of(settings, task) / "manifest.csv", path, *options
    )
    return Store(path)


def train(settings: Settings, store: Store, run: Path) -> float:
    """Train with the defaults: an ensemble, or with one seed a single run. Return the seconds."""
    seeds = (
        "--seed" if len(settings.seeds) == 1 else "--seeds",
        ",".join(map(str, settings.seeds)),
    )
    facts = {
        "content_sha256": store.content_sha256,
        "seeds": list(settings.seeds),
        "train_args": list(settings.train_args),
    }
    arguments = (
        "train",
        "--store",
        store.path,
        "--outdir",
        run,
        *seeds,
        *settings.train_args,
        "--resume",
        "--json",
    )
    return once(stamp_of(run), facts, "-m", "ecgfit.cli", *arguments)


def stamp_of(folder: Path) -> Path:
    """The stamp lies beside a run, which is another program's folder."""
    return folder.with_name(f"{folder.name}.done.json")


def metrics_of(run: Path, store: Store, split: str) -> tuple[float, float]:
    """Return AUROC and AUPRC of a run on a split, evaluating it where that has not been done."""
    path = run / f"metrics_{split}.json"
    if not path.exists() or not (run / f"predictions_{split}.csv").exists():
        command(
            "-m",
            "ecgfit.cli",
            "eval",
            "--store",
            store.path,
            "--run",
            run,
            "--split",
            split,
            "--json",
        )
    metrics = json.loads(path.read_bytes())["metrics"]
    return float(metrics["auroc"]["value"]), float(metrics["auprc"]["value"])


def members_of(run: Path) -> list[Path]:
    """The members of an ensemble in the order of their seeds, or the run itself."""
    folders = sorted((run / "members").glob("*"), key=lambda path: (len(path.name), path.name))
    return [path for path in folders if path.is_dir()] or [run]


def benchmark(settings: Settings, task: str, split_seed: int) -> list[Result]:
    """Do one task on one split."""
    store = build(settings, task, split_seed)
    run, plain = (settings.out / kind / f"{task}-{split_seed}" for kind in ("runs", "baselines"))
    for folder in (run, plain):
        folder.parent.mkdir(parents=True, exist_ok=True)
    once(
        stamp_of(plain),
        {"content_sha256": store.content_sha256},
        HERE / "baselines.py",
        store.path,
        "--out",
        plain,
        "--json",
    )
    baselines = [baseline_result(plain / name, task, split_seed, name) for name in BASELINES]
    seconds = train(settings, store, run)
    members = members_of(run)

    def result(folder: Path, model: str, seconds: float, compared: bool) -> Result:
        differences = (
            {name: compare(folder, plain / name) for name in BASELINES} if compared else {}
        )
        return Result(task, split_seed, model, val, test, seconds, differences)

    results = []
    for folder in [run, *members] if members != [run] else [run]:
        val, test = (metrics_of(folder, store, split) for split in ("val", "test"))
        if (
            folder in members
        ):  # members are trained one after the other, each in about the same time
            results.append(
                result(
                    folder,
                    f"{SINGLE} {settings.seeds[members.index(folder)]}",
                    seconds / len(members),
                    folder == members[0],
                )
            )
        else:
            results.append(result(folder, ENSEMBLE, seconds, True))
    return results + baselines


def baseline_result(folder: Path, task: str, split_seed: int, name: str) -> Result:
    """Read the summary that bench/baselines.py wrote."""
    summary = json.loads((folder / "summary.json").read_bytes())
    val, test = (
        (float(summary[split]["auroc"]), float(summary[split]["auprc"]))
        for split in ("val", "test")
    )
    return Result(task, split_seed, name, val, test, float(summary["seconds"]))


# Tables ----------------------------------------------------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns, readable as it is."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    return "\n".join(
        [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
    )


def every_result(results: Sequence[Result]) -> str:
    """One line for each model on each split."""
    header = [
        "task",
        "split seed",
        "model",
        "test AUROC",
        "test AUPRC",
        "val AUROC",
        "val AUPRC",
        "training, s",
    ]
    header += [f"AUROC − {name} (95 % interval)" for name in BASELINES]
    rows = []
    for r in results:
        numbers = [f"{value:.3f}" for value in (*r.test, *r.val)]
        differences = [show_difference(r.differences.get(name)) for name in BASELINES]
        rows.append(
            [
                r.task,
                str(r.split_seed),
                r.model,
                *numbers,
                "" if r.seconds is None else f"{r.seconds:.0f}",
                *differences,
            ]
        )
    return table(header, rows)


def show_difference(difference: Difference | None) -> str:
    """`+0.012 (-0.003 to +0.027)`, or nothing."""
    return "" if difference is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(*difference)


def means(results: Sequence[Result]) -> str:
    """Mean (SD over split seeds) of each kind of model; `single` is first averaged over the members of a split."""
    rows = []
    for task in dict.fromkeys(r.task for r in results):
        for kind in dict.fromkeys(kind_of(r) for r in results):
            mine = [r for r in results if r.task == task and kind_of(r) == kind]
            splits = [
                [r for r in mine if r.split_seed == seed]
                for seed in dict.fromkeys(r.split_seed for r in mine)
            ]
            if splits:
                columns = [
                    [statistics.mean(pick(r)[k] for r in split) for split in splits]
                    for pick in (_test, _val)
                    for k in (0, 1)
                ]
                rows.append(
                    [
                        task,
                        kind,
                        *map(show_mean, columns),
                        f"{statistics.mean(r.seconds or 0 for r in mine):.0f}",
                    ]
                )
    return table(
        ["task", "model", "test AUROC", "test AUPRC", "val AUROC", "val AUPRC", "training, s"], rows
    )


def _test(result: Result) -> tuple[float, float]:
    return result.test


def _val(result: Result) -> tuple[float, float]:
    return result.val


def kind_of(result: Result) -> str:
    """`single` for each member."""
    return SINGLE if result.model.startswith(SINGLE) else result.model


def show_mean(values: Sequence[float]) -> str:
    """`0.937 (0.007)`; no deviation of one value."""
    return f"{statistics.mean(values):.3f}" + (
        f" ({statistics.stdev(values):.3f})" if len(values) > 1 else ""
    )


def report(results: Sequence[Result]) -> str:
    """Both tables, with a line on what the numbers are."""
    return (
        f"{every_result(results)}\n\nMean (SD) over split seeds; `{SINGLE}` is the mean of the members of each split:\n\n{means(results)}\n\n"
        f"Per patient; intervals: paired bootstrap of the patients of the test split, {N_BOOTSTRAP:,} resamples.\n"
    )


# Command ---------------------------------------------------------------------------------------------------------------------------------


def numbers(text: str) -> tuple[int, ...]:
    """Read `0,1,2`."""
    return tuple(int(part) for part in text.split(","))


def corpus_option(text: str) -> tuple[str, Path]:
    """Read `TASK=FOLDER`."""
    task, _, folder = text.partition("=")
    if not folder:
        raise argparse.ArgumentTypeError(f"{text}: must be TASK=FOLDER")
    return task, Path(folder)


def read_settings(words: Sequence[str] | None = None) -> tuple[Settings, Path | None]:
    """Read the command line: the settings, and where the Markdown goes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for stores, runs and baselines")
    parser.add_argument("--ptbxl", type=Path, help="unpacked download of PTB-XL 1.0.3")
    parser.add_argument(
        "--recordings",
        type=Path,
        default=HERE / "ptbxl_recordings.csv",
        help="which recordings of it",
    )
    parser.add_argument(
        "--corpus",
        type=corpus_option,
        action="append",
        default=[],
        metavar="TASK=FOLDER",
        help="a corpus that is there already",
    )
    parser.add_argument(
        "--tasks", type=lambda text: tuple(text.split(",")), default=TASKS, help="[ABNORM,CD]"
    )
    parser.add_argument("--split-seeds", type=numbers, default=(0, 1, 2), help="[0,1,2]")
    parser.add_argument(
        "--seeds",
        type=numbers,
        default=(0, 1, 2),
        help="members of the ensemble; one seed is a single model  [0,1,2]",
    )
    parser.add_argument(
        "--train-args",
        default="",
        help="more options of `ecgfit train`, such as '--epochs 2'; none is the benchmark",
    )
    parser.add_argument("--markdown", type=Path, help="write the tables here, too")
    a = parser.parse_args(words)
    corpora = dict(a.corpus)
    if a.ptbxl is None and (missing := [task for task in a.tasks if task not in corpora]):
        parser.error(f"--ptbxl FOLDER, or --corpus TASK=FOLDER for {', '.join(missing)}, is needed")
    settings = Settings(
        a.out,
        a.tasks,
        a.split_seeds,
        a.seeds,
        tuple(shlex.split(a.train_args)),
        corpora,
        a.ptbxl,
        a.recordings,
    )
    return settings, a.markdown


def main() -> None:
    """Run it all, print and write the tables."""
    settings, markdown = read_settings()
    settings.out.mkdir(parents=True, exist_ok=True)
    results = []
    try:
        for task in settings.tasks:
            for split_seed in settings.split_seeds:
                results += benchmark(settings, task, split_seed)
    except subprocess.CalledProcessError as error:
        sys.exit(f"Error: {shlex.join(map(str, error.cmd[1:]))} ended with {error.returncode}")
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"Error: {error}")
    text = report(results)
    print(text, end="")
    if markdown:
        write_file(markdown, text.encode())


if __name__ == "__main__":
    main()
