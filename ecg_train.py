#!/usr/bin/env python
r"""From a manifest to a trained and evaluated model in one command.

The store is built beside the manifest (m.csv -> m.zarr) if it is absent or stale, with the
covariates that --tabular names. Then a model is trained, and evaluated on the test split:

    python ecg_train.py --patient data/manifest.csv --split_seed 42 --leads 8 --hz 500 \
        --length 5000 --batch 32 --epochs 60 --loss ce --class-weights 1.0 2.2 \
        --optimizer adamw --lr 1e-3 --weight-decay 1e-4 --aug noise,scale,shift \
        --val-metric auprc --early-stop 12 --outdir runs/ctrcd_baseline
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgfit.cli import let_threads_sleep, settings_from, train_with_progress
from ecgfit.options import TrainingCommand, run_options
from ecgfit.tables import print_metrics
from ecgprep.api import build
from ecgprep.console import api_options, progress_bar, run_command, verbosity_options
from ecgprep.leads import LEADS

if TYPE_CHECKING:
    from ecgprep.building.plan import BuildSettings
    from ecgprep.patients.manifest_columns import ManifestColumns
    from ecgprep.store.reader import Store


@click.command(cls=TrainingCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--patient",
    "manifest",
    required=True,
    type=click.Path(path_type=Path),
    help="Manifest with the columns patient_id, path_xml and label.",
)
@click.option(
    "--split_seed",
    "--split-seed",
    default=42,
    show_default=True,
    type=click.IntRange(0, 2**31 - 1),
    help="Seed of the split by patients.",
)
@click.option(
    "--leads",
    default=str(len(LEADS)),
    show_default=True,
    type=click.Choice([str(len(LEADS))]),
    expose_value=False,
    help=f"The leads {', '.join(LEADS)}.",
)
@api_options(build, "patient_column", "path_column", "label_column")
@api_options(build, "hz", "length", "sex_code", "allow_covariate")
@click.option("--outdir", required=True, type=click.Path(path_type=Path), help="Run folder.")
@run_options
@verbosity_options
def command(
    manifest: Path,
    split_seed: int,
    patient_column: str,
    path_column: str,
    label_column: str,
    hz: int,
    length: int,
    sex_code: str | None,
    allow_covariate: tuple[str, ...],
    outdir: Path,
    resume: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Build the store of a manifest if needed, train a model on it and evaluate it.

    Example: python ecg_train.py --patient data/manifest.csv --outdir runs/a --epochs 60
    """
    from ecgfit import api
    from ecgfit.training.outdir import check_outdir
    from ecgprep.building.plan import BuildSettings
    from ecgprep.conform import Conformity
    from ecgprep.patients.covariates import stated_sex_codes
    from ecgprep.patients.manifest_columns import ManifestColumns
    from ecgprep.patients.registry import SplitPlan

    settings = settings_from(options)
    config = api.settings_of(None, settings, resume_from=outdir if resume else None)
    # A store is not built for a training that would be refused.
    check_outdir(outdir, resume, overwrite, config.init_from)
    columns = ManifestColumns(patient_column, path_column, label_column)
    build_settings = BuildSettings(
        Conformity(hz, length),
        SplitPlan(seed=split_seed),
        allow_covariate=allow_covariate,
        sex_codes=stated_sex_codes(sex_code, config.tabular),
    )
    store = _build_store(manifest, columns, config.tabular, build_settings)
    run = train_with_progress(store.path, outdir, resume=resume, overwrite=overwrite, **settings)
    print_metrics(run, run.evaluate(store))


def _build_store(
    manifest: Path,
    columns: ManifestColumns,
    covariates: tuple[str, ...],
    settings: BuildSettings,
) -> Store:
    """Build the store beside the manifest, unless it is there and current."""
    from ecgprep.building.ensure import ensure_store

    target = manifest.with_suffix(".zarr")
    with progress_bar("Reading") as progress:
        store, note = ensure_store(manifest, target, settings, covariates, progress, columns)
    click.echo(note, err=True)
    return store


if __name__ == "__main__":
    let_threads_sleep()
    run_command(command)
