"""Does transfer help a small cohort? Weights trained on one label, used for another of which few patients are labelled.

    python bench/transfer.py OUT --pretrain FOLDER --target FOLDER [--patients 150] [--split-seeds 0,1,2] [--train-args '--amp on']

Both folders hold a manifest.csv of the same recordings with different labels, as bench/ptbxl.py writes them. One registry of patients serves
both: nobody who tests the target was seen in pretraining. Of the target's train patients `--patients` are kept, drawn at random; validation and
test stay whole. Five ways, each with the defaults:

    probe of chance        only the head is trained, on an encoder with random weights: what a transferred encoder has to beat
    probe of transfer      only the head is trained, on the encoder that was trained on the other label
    from scratch           everything is trained, from random weights
    fine-tuned             everything is trained, from the transferred weights
    fine-tuned by layer    the same, each block at 0.7 of the rate of the block after it

Everything is kept in OUT; the same command goes on where it was stopped.
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


def build(manifest: Path, root: Path, out: Path, registry: Path, split_seed: int) -> Store:
    """Build a store on the common registry; one that is up to date is left as it is."""
    command(
        "-m",
        "ecgprep.cli",
        "build",
        manifest,
        out,
        "--root",
        root,
        "--split-seed",
        split_seed,
        "--registry",
        registry,
    )
    return Store(out)


def smaller_manifest(
    manifest: Path, registry: Path, n_patients: int, split_seed: int, out: Path
) -> Path:
    """Write the manifest without all but `n_patients` train patients. Raises ValueError when there are not so many."""
    split = load_registry(registry, SplitPlan(seed=split_seed)).split
    train = sorted(patient for patient, index in split.items() if SPLITS[index] == "train")
    if len(train) < n_patients:
        raise ValueError(f"--patients {n_patients}: there are only {len(train)} train patients.")
    left_out = set(np.random.default_rng(split_seed).permutation(train)[n_patients:])
    with manifest.open(newline="") as file, out.open("w", newline="") as target:
        rows = csv.DictReader(file)
        writer = csv.DictWriter(target, rows.fieldnames or ())
        writer.writeheader()
        writer.writerows(row for row in rows if row["patient_id"] not in left_out)
    return out


def train(store: Store, run: Path, *options: str) -> None:
    """Train unless that was done."""
    facts = {"content_sha256": store.content_sha256, "options": list(options)}
    once(
        stamp_of(run),
        facts,
        "-m",
        "ecgfit.cli",
        "train",
        "--store",
        store.path,
        "--outdir",
        run,
        *options,
        "--resume",
        "--json",
    )


def measure(
    arguments: argparse.Namespace, split_seed: int
) -> dict[str, tuple[float, float, float]]:
    """Return for each way, on one split, the test AUROC and AUPRC, and the AUROC less that of training from scratch."""
    out, extra = arguments.out / str(split_seed), tuple(shlex.split(arguments.train_args))
    out.mkdir(parents=True, exist_ok=True)
    registry = out / "registry.csv"
    target = arguments.target / "manifest.csv"
    build(
        target, arguments.target, out / "whole.zarr", registry, split_seed
    )  # its labels decide the split
    source = build(
        arguments.pretrain / "manifest.csv",
        arguments.pretrain,
        out / "pretrain.zarr",
        registry,
        split_seed,
    )
    few = smaller_manifest(
        target, registry, arguments.patients, split_seed, out / f"few-{arguments.patients}.csv"
    )
    store = build(
        few, arguments.target, out / f"few-{arguments.patients}.zarr", registry, split_seed
    )
    train(source, out / "pretrained", *extra)
    runs = {}
    for name, options in ways(out / "pretrained").items():
        runs[name] = out / f"{name.replace(' ', '-')}-{arguments.patients}"
        train(store, runs[name], *options, *extra)
    figures = {name: metrics_of(run, store, "test") for name, run in runs.items()}
    return {name: (*figures[name], compare(run, runs[SCRATCH])[0]) for name, run in runs.items()}


def summary(found: Sequence[dict[str, tuple[float, float, float]]]) -> str:
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
        help="folder with manifest.csv: the label of which little is known",
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
