"""Does transfer help a small cohort? Weights trained on one label are used for another.

    python bench/transfer.py OUT --pretrain FOLDER --target FOLDER
        [--patients 150] [--split-seeds 0,1,2] [--train-args '--amp on']

Both folders hold a manifest.csv of the same recordings with different labels, as bench/ptbxl.py
writes them. One registry of patients serves both, so nobody who tests the target was seen in
pretraining. `--patients` of the target's train patients are kept, drawn at random; validation and
test stay whole. There are five ways, each with the defaults:

    probe of chance        only the head is trained, on an encoder with random weights:
                           what a transferred encoder has to beat
    probe of transfer      only the head is trained, on the encoder trained on the other label
    from scratch           everything is trained, from random weights
    fine-tuned             everything is trained, from the transferred weights
    fine-tuned by layer    the same, each block at 0.7 of the rate of the block after it

Everything is kept in OUT. The same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmark import command, compare, metrics_of, once, stamp_of, table

from ecgprep.patients.registry import SplitPlan, load_registry
from ecgprep.store.format import SPLITS
from ecgprep.store.reader import Store

SCRATCH = "from scratch"


def ways(pretrained: Path) -> dict[str, tuple[str, ...]]:
    """Return what each way adds to the options of `ecgfit train`."""
    transferred, head_only = ("--init-from", str(pretrained)), ("--freeze", "backbone")
    return {
        "probe of chance": head_only,
        "probe of transfer": (*transferred, *head_only),
        SCRATCH: (),
        "fine-tuned": transferred,
        "fine-tuned by layer": (*transferred, "--layer-decay", "0.7"),
    }


def build(manifest: Path, out: Path, registry: Path, split_seed: int, root: Path) -> Store:
    """Build a store on the common registry; one that is up to date stays as it is.

    The manifest's paths are relative to `root`.
    """
    options = ["--root", root, "--split-seed", split_seed, "--registry", registry]
    command("-m", "ecgprep.cli", "build", manifest, out, *options)
    return Store(out)


def smaller_manifest(
    manifest: Path, registry: Path, n_patients: int, split_seed: int, out: Path
) -> Path:
    """Write the manifest with only `n_patients` of its train patients.

    Raises ValueError when there are fewer.
    """
    split = load_registry(registry, SplitPlan(seed=split_seed)).split
    train = sorted(patient for patient, index in split.items() if SPLITS[index] == "train")
    if len(train) < n_patients:
        raise ValueError(f"--patients {n_patients}: there are only {len(train)} train patients.")
    left_out = set(np.random.default_rng(split_seed).permutation(train)[n_patients:])
    with manifest.open(newline="") as file, out.open("w", newline="") as target:
        rows = csv.DictReader(file)
        writer = csv.DictWriter(target, rows.fieldnames or ())
        writer.writeheader()
        for row in rows:
            if row["patient_id"] not in left_out:
                writer.writerow(row)
    return out


def train(store: Store, run: Path, *options: str) -> None:
    """Train unless that was done."""
    facts = {"content_sha256": store.content_sha256, "options": list(options)}
    words = ["train", "--store", store.path, "--outdir", run, *options, "--resume", "--json"]
    once(stamp_of(run), facts, "-m", "ecgfit.cli", *words)


Figures = tuple[float, float, float]
"""Test AUROC, test AUPRC, and the AUROC less that of training from scratch."""


def measure(arguments: argparse.Namespace, split_seed: int) -> dict[str, Figures]:
    """Return the figures of each way on one split."""
    out = arguments.out / str(split_seed)
    out.mkdir(parents=True, exist_ok=True)
    extra = shlex.split(arguments.train_args)
    source, target = build_stores(arguments, out, split_seed)
    train(source, out / "pretrained", *extra)
    runs = {}
    for name, options in ways(out / "pretrained").items():
        runs[name] = out / f"{name.replace(' ', '-')}-{arguments.patients}"
        train(target, runs[name], *options, *extra)
    metrics = {name: metrics_of(run, target, "test") for name, run in runs.items()}
    figures = {}
    for name, run in runs.items():  # all are evaluated now
        difference, _, _ = compare(run, runs[SCRATCH])
        figures[name] = (*metrics[name], difference)
    return figures


def build_stores(arguments: argparse.Namespace, out: Path, split_seed: int) -> tuple[Store, Store]:
    """Build the store to pretrain on, and the target's with few train patients."""
    registry, manifest = out / "registry.csv", arguments.target / "manifest.csv"
    # The whole target comes first: its labels decide the split.
    build(manifest, out / "whole.zarr", registry, split_seed, arguments.target)
    source = build(
        arguments.pretrain / "manifest.csv",
        out / "pretrain.zarr",
        registry,
        split_seed,
        arguments.pretrain,
    )
    few = out / f"few-{arguments.patients}.csv"
    smaller_manifest(manifest, registry, arguments.patients, split_seed, few)
    target = build(few, few.with_suffix(".zarr"), registry, split_seed, arguments.target)
    return source, target


def summary(found: Sequence[dict[str, Figures]]) -> str:
    """Return means over the splits, and each split's difference, as Markdown."""
    rows = []
    for name in found[0]:
        auroc, auprc, differences = zip(*(figures[name] for figures in found), strict=True)
        each = "" if name == SCRATCH else ", ".join(f"{value:+.3f}" for value in differences)
        rows.append((name, f"{statistics.mean(auroc):.3f}", f"{statistics.mean(auprc):.3f}", each))
    return table(("way", "test AUROC", "test AUPRC", "AUROC − from scratch, each split"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every split and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--pretrain",
        type=Path,
        required=True,
        help="folder with manifest.csv: the label that trains the encoder",
    )
    parser.add_argument(
        "--target",
        type=Path,
        required=True,
        help="folder with manifest.csv: the label that few patients have",
    )
    parser.add_argument(
        "--patients", type=int, default=150, help="train patients of the target that are kept"
    )
    parser.add_argument("--split-seeds", default="0,1,2")
    parser.add_argument("--train-args", default="", help="further options of ecgfit train, for all")
    arguments = parser.parse_args(argv)
    print(summary([measure(arguments, int(seed)) for seed in arguments.split_seeds.split(",")]))


if __name__ == "__main__":
    main()
