#!/usr/bin/env python
"""From a manifest to a trained and evaluated model in one command.

Builds the store beside the manifest when it is absent or stale (m.csv -> m.zarr; with the covariates that --tabular names), trains, and
evaluates on the test split:

    python ecg_train.py --patient data/manifest.csv --split_seed 42 --leads 8 --hz 500 --length 5000 --batch 32 --epochs 60 --loss ce \\
        --class-weights 1.0 2.2 --optimizer adamw --lr 1e-3 --weight-decay 1e-4 --aug noise,scale,shift --val-metric auprc \\
        --early-stop 12 --outdir runs/ctrcd_baseline
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ecgfit.cli import (
    TwoNumbers,
    let_threads_sleep,
    load_config,
    print_metrics,
    run_evaluation,
    run_training,
    training_options,
)
from ecgprep.console import progress_bar, run_command
from ecgprep.leads import LEADS


@click.command(cls=TwoNumbers, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--patient",
    "manifest",
    required=True,
    type=click.Path(path_type=Path),
    help="Manifest: patient_id,path_xml,label.",
)
@click.option(
    "--split_seed", "--split-seed", default=42, show_default=True, type=click.IntRange(0, 2**31 - 1)
)
@click.option(
    "--leads",
    default=str(len(LEADS)),
    show_default=True,
    type=click.Choice([str(len(LEADS))]),
    help=f"The leads {', '.join(LEADS)}.",
)
@click.option(
    "--hz",
    default=500,
    show_default=True,
    type=click.IntRange(50, 2000),
    help="Sampling rate of the store.",
)
@click.option(
    "--length",
    default=5000,
    show_default=True,
    type=click.IntRange(100, 1_000_000),
    help="Samples per lead.",
)
@click.option("--outdir", required=True, type=click.Path(path_type=Path), help="Run folder.")
@training_options
def command(
    manifest: Path,
    split_seed: int,
    leads: str,
    hz: int,
    length: int,
    outdir: Path,
    resume: bool,
    overwrite: bool,
    **overrides: Any,
) -> None:
    """Build the store of a manifest if needed, train a model on it and evaluate it on the test split."""
    from ecgfit.training.outdir import check_outdir
    from ecgprep.building.ensure import ensure_store
    from ecgprep.building.plan import BuildSettings
    from ecgprep.conform import Conformity
    from ecgprep.patients.registry import SplitPlan

    assert leads == str(len(LEADS))
    config = load_config(None, overrides)
    check_outdir(outdir, resume, overwrite, config.init_from)  # before a store is built for nothing
    settings = BuildSettings(Conformity(hz, length), SplitPlan(seed=split_seed))
    with progress_bar("Reading") as progress:
        store, note = ensure_store(
            manifest, manifest.with_suffix(".zarr"), settings, config.tabular, progress
        )
    click.echo(note, err=True)
    run = run_training(config, store.path, outdir, resume, overwrite)
    print_metrics(*run_evaluation(store.path, run.path, "test"), as_json=False)


if __name__ == "__main__":
    let_threads_sleep()
    run_command(command)
