"""How good are the defaults? The whole benchmark on real recordings by one command.

    python bench/benchmark.py OUT --ptbxl PTBXL                    # a download of PTB-XL
    python bench/benchmark.py OUT --corpus CD=corpus --tasks CD    # or a folder for each task

PTB-XL is read through bench/ptbxl.py; the folder of a task holds manifest.csv. For every task and
split seed the benchmark builds the store, trains an ensemble with the defaults of `ecgfit train`
(its members are complete runs of their own) and evaluates it and each member on the test split. It
fits the baselines of bench/baselines.py on the same splits and compares with them, paired by
patient. It prints the table, and writes it with --markdown FILE.

Everything is kept in OUT. The same command continues where it was stopped and trains nothing twice.
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
FIGURES = ("test AUROC", "test AUPRC", "val AUROC", "val AUPRC", "training, s")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Difference = tuple[float, float, float]
"""A difference of AUROC with the ends of its 95 % interval."""


@dataclass(frozen=True)
class Settings:
    """What to benchmark."""

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

    @property
    def kind(self) -> str:
        """The model, and `single` for each member of an ensemble."""
        return SINGLE if self.model.startswith(SINGLE) else self.model


def compare(run: Path, baseline: Path) -> Difference:
    """Compare two folders with test predictions, paired by patient.

    Raises ValueError when they do not hold the same recordings.
    """
    ours = Predictions.load(run / "predictions_test.csv")
    theirs = Predictions.load(baseline / "predictions_test.csv")
    if not np.array_equal(np.sort(ours.rows), np.sort(theirs.rows)):
        raise ValueError(
            f"{run} and {baseline} predict other recordings: "
            "were both made on the same store with the same --missing?"
        )
    label, score = patient_scores(ours)
    _, baseline_score = patient_scores(theirs)
    compared = paired_difference(label, expit(baseline_score), expit(score), 0.5, 0.5, seed=0)
    auroc = compared["metrics"]["auroc"]
    if auroc["difference"] is None or auroc["ci95"] is None:
        return math.nan, math.nan, math.nan
    low, high = auroc["ci95"]
    return auroc["difference"], low, high


# Steps, each done once


def command(*arguments: object) -> str:
    """Run one of our programs in a process of its own, as a user does; its progress stays visible.

    Raises CalledProcessError.
    """
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    words = [sys.executable, *map(str, arguments)]
    print("$", shlex.join(["python", *words[1:]]), file=sys.stderr, flush=True)
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return done.stdout


def once(stamp: Path, facts: dict[str, Any], *arguments: object) -> float:
    """Run a command unless `stamp` says that it has run; return its seconds.

    Raises ValueError when it ran on other facts.
    """
    if stamp.exists():
        found = json.loads(stamp.read_bytes())
        if found["facts"] != facts:
            raise ValueError(
                f"{stamp.with_suffix('')} was made with other settings. "
                f"Use another OUT, or delete it and {stamp.name}."
            )
        return float(found["seconds"])
    start = time.perf_counter()
    command(*arguments)
    seconds = time.perf_counter() - start
    write_json(stamp, {"facts": facts, "seconds": seconds})
    return seconds


def corpus_of(settings: Settings, task: str) -> Path:
    """Return the corpus of a task; it is written from the download where none is given.

    Its manifest is written last.
    """
    if task in settings.corpora:
        return settings.corpora[task]
    if settings.ptbxl is None:
        raise ValueError(f"--corpus {task}=FOLDER or --ptbxl FOLDER is needed")
    folder = settings.out / "corpus" / task
    if not (folder / "manifest.csv").exists():
        write_corpus(settings.ptbxl, folder, settings.recordings, task)
    return folder


def build(settings: Settings, task: str, split_seed: int) -> Store:
    """Build the store of a task and a split; one that is up to date stays as it is."""
    path = settings.out / f"{task}-{split_seed}.zarr"
    manifest = corpus_of(settings, task) / "manifest.csv"
    registry = path.with_suffix(".registry.csv")  # its own: there are several splits of a manifest
    options = ["--split-seed", split_seed, "--registry", registry, "--covariates", "age,sex"]
    command("-m", "ecgprep.cli", "build", manifest, path, *options)
    return Store(path)


def train(settings: Settings, store: Store, run: Path) -> float:
    """Train with the defaults: an ensemble, or with one seed a single run. Return the seconds."""
    facts = {
        "content_sha256": store.content_sha256,
        "seeds": list(settings.seeds),
        "train_args": list(settings.train_args),
    }
    seed_option = "--seed" if len(settings.seeds) == 1 else "--seeds"
    seeds = ",".join(map(str, settings.seeds))
    words = ["train", "--store", store.path, "--outdir", run, seed_option, seeds]
    words += [*settings.train_args, "--resume", "--json"]
    return once(stamp_of(run), facts, "-m", "ecgfit.cli", *words)


def stamp_of(folder: Path) -> Path:
    """Return the stamp, which lies beside a run, as the run's folder is another program's."""
    return folder.with_name(f"{folder.name}.done.json")


def metrics_of(run: Path, store: Store, split: str) -> tuple[float, float]:
    """Return AUROC and AUPRC of a run on a split, evaluating it where that has not been done."""
    path = run / f"metrics_{split}.json"
    if not path.exists() or not (run / f"predictions_{split}.csv").exists():
        words = ["eval", "--store", store.path, "--run", run, "--split", split, "--json"]
        command("-m", "ecgfit.cli", *words)
    metrics = json.loads(path.read_bytes())["metrics"]
    return float(metrics["auroc"]["value"]), float(metrics["auprc"]["value"])


def members_of(run: Path) -> list[Path]:
    """Return the members of an ensemble in the order of their seeds, or the run itself."""
    folders = [path for path in (run / "members").glob("*") if path.is_dir()]
    return sorted(folders, key=lambda path: (len(path.name), path.name)) or [run]


def benchmark(settings: Settings, task: str, split_seed: int) -> list[Result]:
    """Do one task on one split."""
    store = build(settings, task, split_seed)
    run = settings.out / "runs" / f"{task}-{split_seed}"
    plain = settings.out / "baselines" / f"{task}-{split_seed}"
    for folder in (run, plain):
        folder.parent.mkdir(parents=True, exist_ok=True)
    facts = {"content_sha256": store.content_sha256}
    once(stamp_of(plain), facts, HERE / "baselines.py", store.path, "--out", plain, "--json")
    baselines = [baseline_result(plain / name, task, split_seed, name) for name in BASELINES]
    seconds = train(settings, store, run)

    def result(folder: Path, model: str, seconds: float, compared: bool) -> Result:
        val, test = metrics_of(folder, store, "val"), metrics_of(folder, store, "test")
        differences = {}
        if compared:
            differences = {name: compare(folder, plain / name) for name in BASELINES}
        return Result(task, split_seed, model, val, test, seconds, differences)

    results, members = [], members_of(run)
    if members != [run]:
        results.append(result(run, ENSEMBLE, seconds, compared=True))
    for i, (member, seed) in enumerate(zip(members, settings.seeds, strict=True)):
        # Members are trained one after the other, each in about the same time.
        of_member = seconds / len(members)
        results.append(result(member, f"{SINGLE} {seed}", of_member, compared=i == 0))
    return results + baselines


def baseline_result(folder: Path, task: str, split_seed: int, name: str) -> Result:
    """Read the summary that bench/baselines.py wrote."""
    summary = json.loads((folder / "summary.json").read_bytes())
    val = float(summary["val"]["auroc"]), float(summary["val"]["auprc"])
    test = float(summary["test"]["auroc"]), float(summary["test"]["auprc"])
    return Result(task, split_seed, name, val, test, float(summary["seconds"]))


# Tables


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns, readable as it is."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    lines = []
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("| " + " | ".join(padded) + " |")
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def every_result(results: Sequence[Result]) -> str:
    """Return a table with one line for each model on each split."""
    header = ["task", "split seed", "model", *FIGURES]
    header += [f"AUROC − {name} (95 % interval)" for name in BASELINES]
    rows = []
    for r in results:
        figures = [f"{value:.3f}" for value in (*r.test, *r.val)]
        seconds = "" if r.seconds is None else f"{r.seconds:.0f}"
        differences = [show_difference(r.differences.get(name)) for name in BASELINES]
        rows.append([r.task, str(r.split_seed), r.model, *figures, seconds, *differences])
    return table(header, rows)


def show_difference(difference: Difference | None) -> str:
    """Return `+0.012 (-0.003 to +0.027)`, or nothing."""
    if difference is None:
        return ""
    value, low, high = difference
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def means(results: Sequence[Result]) -> str:
    """Return a table with the mean (SD over split seeds) of each kind of model.

    `single` is first averaged over the members of a split.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for task in dict.fromkeys(r.task for r in results):
        for kind in dict.fromkeys(r.kind for r in results):
            of_kind = [r for r in results if r.task == task and r.kind == kind]
            if of_kind:
                groups[task, kind] = of_kind
    rows = []
    for (task, kind), of_kind in groups.items():
        seconds = statistics.mean(r.seconds or 0 for r in of_kind)
        rows.append([task, kind, *mean_figures(of_kind), f"{seconds:.0f}"])
    return table(["task", "model", *FIGURES], rows)


def mean_figures(results: Sequence[Result]) -> list[str]:
    """Return test AUROC, test AUPRC, val AUROC and val AUPRC, each averaged over splits."""
    by_split: dict[int, list[tuple[float, ...]]] = {}
    for r in results:
        by_split.setdefault(r.split_seed, []).append((*r.test, *r.val))
    shown = []
    for k in range(4):
        of_splits = [statistics.mean(row[k] for row in rows) for rows in by_split.values()]
        shown.append(show_mean(of_splits))
    return shown


def show_mean(values: Sequence[float]) -> str:
    """Return `0.937 (0.007)`; one value has no deviation."""
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ({statistics.stdev(values):.3f})" if len(values) > 1 else mean


def report(results: Sequence[Result]) -> str:
    """Return both tables, with a line on what the numbers are."""
    return (
        f"{every_result(results)}\n\n"
        f"Mean (SD) over split seeds; `{SINGLE}` is the mean of the members of each split:\n\n"
        f"{means(results)}\n\n"
        "Per patient; intervals: paired bootstrap of the patients of the test split, "
        f"{N_BOOTSTRAP:,} resamples.\n"
    )


# Command


def numbers(text: str) -> tuple[int, ...]:
    """Read `0,1,2`."""
    return tuple(int(part) for part in text.split(","))


def words(text: str) -> tuple[str, ...]:
    """Read `ABNORM,CD`."""
    return tuple(text.split(","))


def corpus_option(text: str) -> tuple[str, Path]:
    """Read `TASK=FOLDER`."""
    task, _, folder = text.partition("=")
    if not folder:
        raise argparse.ArgumentTypeError(f"{text}: must be TASK=FOLDER")
    return task, Path(folder)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for stores, runs and baselines")
    parser.add_argument("--ptbxl", type=Path, help="unpacked download of PTB-XL 1.0.3")
    parser.add_argument(
        "--recordings",
        type=Path,
        default=HERE / "ptbxl_recordings.csv",
        help="which recordings of PTB-XL to use",
    )
    parser.add_argument(
        "--corpus",
        type=corpus_option,
        action="append",
        default=[],
        metavar="TASK=FOLDER",
        help="a corpus that exists already",
    )
    parser.add_argument("--tasks", type=words, default=TASKS, help="[ABNORM,CD]")
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
        help="more options of `ecgfit train`, such as '--epochs 2'; the benchmark has none",
    )
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    return parser


def read_settings(arguments: Sequence[str] | None = None) -> tuple[Settings, Path | None]:
    """Read the command line: the settings, and where the Markdown goes."""
    parser = make_parser()
    a = parser.parse_args(arguments)
    corpora = dict(a.corpus)
    missing = [task for task in a.tasks if task not in corpora]
    if a.ptbxl is None and missing:
        parser.error(f"--ptbxl FOLDER, or --corpus TASK=FOLDER for {', '.join(missing)}, is needed")
    settings = Settings(
        out=a.out,
        tasks=a.tasks,
        split_seeds=a.split_seeds,
        seeds=a.seeds,
        train_args=tuple(shlex.split(a.train_args)),
        corpora=corpora,
        ptbxl=a.ptbxl,
        recordings=a.recordings,
    )
    return settings, a.markdown


def main() -> None:
    """Run all tasks and splits; print and write the tables."""
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
