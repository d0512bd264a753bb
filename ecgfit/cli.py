"""The command `ecgfit`: each command parses, calls one function of `ecgfit.api`, and prints.

Progress goes to stderr, results to stdout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgfit import api
from ecgfit.options import FitGroup, TrainingCommand, run_options
from ecgfit.tables import print_comparison, print_decision, print_explanation, print_metrics
from ecgprep import __version__
from ecgprep.console import (
    api_option,
    api_options,
    json_option,
    output_option,
    overwrite_option,
    run_command,
    status_lines,
    verbosity_options,
)
from ecgprep.errors import InputError
from ecgprep.files.output import STDOUT, check_output

if TYPE_CHECKING:
    from ecgfit.api import Run

Folder = click.Path(path_type=Path)
File = click.Path(path_type=Path)
Output = click.Path(path_type=Path, readable=False)

run_argument = click.argument("run_dir", metavar="RUN", type=Folder)


def main() -> None:
    """Run the console script."""
    let_threads_sleep()
    run_command(cli)


def let_threads_sleep() -> None:
    """Let OpenMP's threads spin only briefly while they wait for each other, then sleep.

    By default they spin for milliseconds on cores that others need: beside another busy process on
    two cores a training step took up to 5 times as long. Threads that never spin cost an idle
    machine 30 %. OpenMP reads this when torch is imported, so it is set before.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@click.group(cls=FitGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ecgfit")
def cli() -> None:
    """Train, evaluate and apply a 1D-CNN on a store that ecgprep built."""


@cli.command(cls=TrainingCommand)
@click.option(
    "--store",
    type=Folder,
    help="Store made by `ecgprep build`. With --resume it is searched for if not given.",
)
@click.option("--outdir", type=Folder, help="Run folder.  [default: the next number under runs/]")
@click.option(
    "--config",
    type=File,
    help="YAML file of settings; options win. A run's own config.yaml repeats it.",
)
@click.option(
    "--check",
    "only_check",
    is_flag=True,
    help="Only check one batch of each split, and what training relies on.",
)
@json_option
@run_options
@verbosity_options
def train(
    store: Path | None,
    outdir: Path | None,
    config: Path | None,
    only_check: bool,
    as_json: bool,
    resume: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Train a model on the train split, selected by validation.

    The test split is not looked at. An interrupted run continues with --resume and its --outdir
    alone.

    Example: ecgfit train --store cohort.zarr --outdir runs/baseline --epochs 60
    """
    if resume and outdir is None:
        raise click.UsageError("--resume needs --outdir: the run to continue.")
    if store is None and (not resume or only_check):
        raise click.UsageError("Missing option '--store'.")
    settings = settings_from(options)
    if only_check:
        assert store is not None
        for line in api.check(store, config=config, **settings):
            click.echo(line)
        return
    run = train_with_progress(
        store, outdir, config=config, resume=resume, overwrite=overwrite, **settings
    )
    if not is_first_process():
        return
    metrics = run.metrics("oof" if run.config.folds else "val")
    if as_json:
        _print_json({"run": str(run.path), **metrics})
    else:
        print_metrics(run, metrics)


def settings_from(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings given by `--set` and by options, which win. Raises InputError."""
    from ecgfit.config import parse_settings

    settings = parse_settings(options["items"])
    given = {key: value for key, value in options.items() if value is not None and key != "items"}
    return settings | given


def train_with_progress(store: Path | None, outdir: Path | None, **how: Any) -> Run:
    """Train with progress on stderr."""
    with status_lines("training") as say:
        return api.train(store, outdir, progress=say, **how)


def is_first_process() -> bool:
    """Say whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


@cli.command("eval")
@api_option(api.evaluate, "store")
@click.option(
    "--run",
    "run_dir",
    type=Folder,
    help="Run folder; --external needs it.  [default: the newest run under runs/ trained on STORE]",
)
@api_options(api.evaluate, "split", "external", "trained_on", "aggregate", "each_lead")
@json_option
@verbosity_options
def evaluate(store: Path, run_dir: Path | None, as_json: bool, **options: Any) -> None:
    """Evaluate a run, per patient.

    Probabilities are calibrated, and patients called positive, as validation decided.

    Example: ecgfit eval --store cohort.zarr --run runs/baseline
    """
    if options["external"] and run_dir is None:
        raise click.UsageError("--external needs --run: no run was trained on this store.")
    if options["trained_on"] is not None and not options["external"]:
        raise click.UsageError("--trained-on goes with --external.")
    run = api.newest_run(store) if run_dir is None else api.load_run(run_dir)
    metrics = api.evaluate(run, store, **options)
    if as_json:
        _print_json({"run": str(run.path), **metrics})
    else:
        print_metrics(run, metrics)


@cli.command()
@run_argument
@api_options(api.decide, "threshold", "calibration")
@json_option
@verbosity_options
def decide(run_dir: Path, as_json: bool, **options: Any) -> None:
    """Choose the threshold or the calibration of RUN again.

    They are chosen on validation as when training ended, and never on test rows. Results that were
    made under the earlier decision are marked until `ecgfit eval` makes them again.

    Example: ecgfit decide runs/baseline --threshold sensitivity=0.90
    """
    if not any(options.values()):
        raise click.UsageError("Give --threshold, --calibration or both.")
    decided = api.decide(run_dir, **options)
    if as_json:
        _print_json({"run": str(run_dir), **decided})
        return
    run = api.load_run(run_dir)
    print_decision(run, decided, run.outdated_results())


# A file that cannot be read is not refused here: it has its line in the result.
@cli.command()
@click.argument("files", nargs=-1, type=Output)
@click.option("--run", "run_dir", required=True, type=Folder, help="Run folder.")
@api_options(api.predict, "store", "split", "ids", "covariates", "index", "root", "refuse_quality")
@output_option("CSV to write (readable by you only).  [default: standard output]")
@overwrite_option
@json_option
@verbosity_options
def predict(
    files: tuple[Path, ...],
    run_dir: Path,
    store: Path | None,
    split: str | None,
    ids: bool,
    covariates: Path | None,
    index: Path | None,
    root: Path | None,
    refuse_quality: tuple[str, ...],
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Give the probability of each recording.

    The recordings are vendor XML FILES, or the rows of a store, labelled or not. A file that cannot
    be used has its reason in the column `status`; the exit code is then 3. docs/predict.md explains
    the columns.

    Example: ecgfit predict --run runs/baseline new/*.xml -o predictions.csv
    """
    if bool(files) == (store is not None):
        raise click.UsageError("Give FILES or --store, one of the two.")
    if store is not None and covariates is not None:
        raise click.UsageError(
            "--covariates goes with FILES; a store holds its own (ecgprep build --covariates)."
        )
    if store is not None and index is not None:
        raise click.UsageError("--index goes with FILES; a store knows its patients.")
    if root is not None and index is None:
        raise click.UsageError("--root goes with --index.")
    if store is None and split is not None:
        raise click.UsageError("--split goes with --store.")
    if store is None and ids:
        raise click.UsageError("--ids goes with --store.")
    from ecgfit.inference.files import count_refused
    from ecgfit.inference.tables import MARKS, write_predictions

    target = None
    if output not in (None, STDOUT):
        inputs = [*files, *(path for path in (covariates, index) if path)]
        target = check_output(output, MARKS, inputs, overwrite)
    table = api.predict(
        run_dir,
        files or None,
        store=store,
        split=split,
        ids=ids,
        covariates=covariates,
        index=index,
        root=root,
        refuse_quality=refuse_quality,
    )
    write_predictions(table, target, as_json)
    n_refused = count_refused(table)
    if n_refused:
        click.echo(
            f"{n_refused:,} of {len(table):,} {'rows' if store else 'files'} could not be used; "
            "column status says why.",
            err=True,
        )
        raise SystemExit(InputError.exit_code)


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=Folder)
@api_option(api.compare, "split")
@json_option
def compare(runs: tuple[Path, ...], split: str, as_json: bool) -> None:
    """Compare runs on the same patients, each with the first.

    Differences come with intervals and p values from a paired bootstrap over patients.

    Example: ecgfit compare runs/ecg runs/clinical runs/both
    """
    if len(runs) < 2:
        raise click.UsageError("Give two runs or more.")
    result = api.compare(runs, split)
    if as_json:
        _print_json(result)
    else:
        print_comparison(result)


@cli.command()
@run_argument
@click.argument("output", type=Output)
@api_option(api.export, "overwrite")
@json_option
def export(run_dir: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Write RUN as one file: OUTPUT is *.onnx or *.safetensors.

    An ONNX file takes a recording and gives its calibrated probability; a safetensors file holds
    the weights.

    Example: ecgfit export runs/baseline model.onnx
    """
    written = api.export(run_dir, output, overwrite=overwrite)
    if as_json:
        _print_json(written)
        return
    click.echo(f"{output}: {written['bytes'] / 1e6:.1f} MB")
    if written["format"] == "onnx":
        _print_parity(written["max_difference"], written["max_difference_bfloat16"])


def _print_parity(difference: float | None, difference_bfloat16: float | None) -> None:
    """Print how far the probabilities of an ONNX file are from the run's."""
    from ecgfit.inference.export import TOLERANCE

    if difference is None:
        click.echo("not compared with the run: onnxruntime is not installed")
    else:
        click.echo(
            "checked on made-up recordings: probabilities differ from the run's in float32 by at "
            f"most {difference:.0e} ({TOLERANCE:.0e} is allowed)"
        )
    if difference_bfloat16 is not None:
        click.echo(
            "the run itself computes in bfloat16 (amp), and its probabilities differ from the "
            f"file's by up to {difference_bfloat16:.0e} there"
        )


@cli.command()
@run_argument
@api_options(api.explain, "store", "split", "n")
@api_option(api.explain, "out", "--output", "-o")
@api_option(api.explain, "overwrite")
@json_option
@verbosity_options
def explain(run_dir: Path, store: Path, as_json: bool, **options: Any) -> None:
    """Draw what RUN looks at.

    In the mean beats of true and of false positives, each lead and time is coloured by its part in
    the result.

    Example: ecgfit explain runs/baseline --store cohort.zarr
    """
    with status_lines("explaining") as say:
        result = api.explain(run_dir, store, progress=say, **options)
    if as_json:
        _print_json(result)
    else:
        print_explanation(result)


@cli.command()
@run_argument
@api_options(api.report, "store", "split")
@api_option(api.report, "out", "--output", "--out", "-o")
@api_options(api.report, "overwrite", "exact_counts", "ids")
def report(run_dir: Path, store: Path | None, **options: Any) -> None:
    """Write the report of RUN: one HTML file that opens offline.

    It holds results, figures, the TRIPOD+AI checklist and a model card.

    Example: ecgfit report runs/baseline --store cohort.zarr
    """
    written = api.report(run_dir, store=store, **options)
    note = " It shows ECGs: treat it as health data." if store is not None else ""
    click.echo(f"{written}: one file, opens offline.{note}")


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


if __name__ == "__main__":
    main()
