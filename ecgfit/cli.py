"""The command `ecgfit`: each command parses, calls one library function and prints. Progress to stderr, results to stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgprep import __version__
from ecgprep.console import json_option, run_command, status_lines
from ecgprep.errors import EcgError

if TYPE_CHECKING:
    from ecgfit.config import TrainConfig
    from ecgfit.run import Run

RUNS = Path("runs")
"""Where numbered runs go, and where `ecgfit eval` looks for one."""

_NEEDS_EXTRA = "ecgfit needs the extra `fit` (PyTorch, scikit-learn, …): pip install 'ecgprep-ecgfit[fit]'."


class TwoNumbers(click.Command):
    """A command whose --class-weights takes `1.0 2.2` as well as `1.0,2.2`, `auto` and `none`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--class-weights" in args:
            at = args.index("--class-weights") + 1
            if len(args) > at + 1 and _is_number(args[at]) and _is_number(args[at + 1]):
                args = [*args[:at], f"{args[at]},{args[at + 1]}", *args[at + 2 :]]
        return super().parse_args(ctx, args)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def training_options(command: Any) -> Any:
    """Add the options that both `ecgfit train` and ecg_train.py take; an option not given leaves the config's value."""
    options = [
        click.option("--batch", help="Recordings in a batch.  [default: 32]"),
        click.option("--epochs", help="Epochs at most.  [default: 60]"),
        click.option("--loss", help="ce or bce.  [default: ce]"),
        click.option("--class-weights", help='auto, none, "W0 W1" or W0,W1: weights of label 0 and 1.  [default: auto]'),
        click.option("--optimizer", help="adamw.  [default: adamw]"),
        click.option("--lr", help="Learning rate.  [default: 1e-3]"),
        click.option("--weight-decay", help="[default: 1e-4]"),
        click.option("--scheduler", help="plateau or cosine.  [default: plateau]"),
        click.option("--aug", help="Any of noise,scale,shift, or none.  [default: noise,scale,shift]"),
        click.option("--val-metric", help="auprc or auroc, on validation: selects the epoch.  [default: auprc]"),
        click.option("--early-stop", help="Epochs without a better metric before training ends.  [default: 12]"),
        click.option("--missing", help="drop: leave out records with a missing lead; mask: keep them, add a mask channel.  [default: drop]"),
        click.option("--threshold", help="youden or f1: how validation chooses the operating point.  [default: youden]"),
        click.option("--seed", help="[default: 0]"),
        click.option("--device", help="auto, cpu or cuda.  [default: auto]"),
        click.option("--amp", help="bfloat16: auto (on a GPU), on or off.  [default: auto]"),
        click.option("--threads", help="CPU threads.  [default: all cores]"),
        click.option("--resume", is_flag=True, help="Go on with an interrupted run, to the bit."),
        click.option("--overwrite", is_flag=True, help="Delete the run of this name first."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def main() -> None:
    """Entry point of the console script."""
    run_command(cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ecgfit")
def cli() -> None:
    """Train, evaluate and apply a 1D-CNN on a store that ecgprep built."""


@cli.command(cls=TwoNumbers)
@click.option("--store", required=True, type=click.Path(path_type=Path), help="Store made by `ecgprep build`.")
@click.option("--outdir", type=click.Path(path_type=Path), help="Run folder.  [default: the next number under runs/]")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file of settings; options win. A run's own config.yaml repeats it.")
@click.option("--check", is_flag=True, help="Only check one batch of each split, and what training relies on.")
@json_option
@training_options
def train(store: Path, outdir: Path | None, config: Path | None, check: bool, as_json: bool, resume: bool, overwrite: bool, **overrides: Any) -> None:
    """Train a model on the train split, selected by validation; the test split is not looked at.

    Example: ecgfit train --store cohort.zarr --outdir runs/baseline --epochs 60
    """
    settings = load_config(config, overrides)
    if check:
        from ecgfit.train import Trainer, preflight
        from ecgprep.store import Store

        for line in preflight(Trainer.prepare(settings, Store(store))):
            click.echo(line)
        return
    run = run_training(settings, store, outdir, resume, overwrite)
    print_metrics(run, run.read_json("metrics_val.json"), as_json)


@cli.command("eval")
@click.option("--store", required=True, type=click.Path(path_type=Path), help="The store that the run was trained on.")
@click.option("--run", "run_dir", type=click.Path(path_type=Path), help="Run folder.  [default: the newest run under runs/ trained on STORE]")
@click.option("--split", default="test", show_default=True, help="train, val or test.")
@json_option
def evaluate(store: Path, run_dir: Path | None, split: str, as_json: bool) -> None:
    """Evaluate a run, per patient, at the threshold that validation chose.

    Example: ecgfit eval --store cohort.zarr --run runs/baseline
    """
    run, metrics = run_evaluation(store, run_dir, split)
    print_metrics(run, metrics, as_json)


def load_config(path: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """Read and check the settings. Raises InputError, or EcgError where the extra is not installed."""
    try:
        from ecgfit.config import read_config
    except ImportError as error:
        raise EcgError(_NEEDS_EXTRA) from error
    return read_config(path, overrides)


def run_training(config: TrainConfig, store: Path, outdir: Path | None, resume: bool, overwrite: bool) -> Run:
    """Train with progress on stderr."""
    from ecgfit.run import next_run_dir
    from ecgfit.train import train as train_run
    from ecgprep.store import Store

    opened = Store(store)
    target = outdir or next_run_dir(RUNS)
    with status_lines("training") as say:
        return train_run(config, opened, target, resume=resume, overwrite=overwrite, say=say)


def run_evaluation(store: Path, run_dir: Path | None, split: str) -> tuple[Run, dict[str, Any]]:
    """Evaluate a run, or the newest of this store."""
    try:
        from ecgfit.evaluate import evaluate_run
        from ecgfit.run import Run, newest_run
    except ImportError as error:
        raise EcgError(_NEEDS_EXTRA) from error
    from ecgprep.store import Store

    opened = Store(store)
    run = newest_run(RUNS, opened) if run_dir is None else Run(run_dir)
    return run, evaluate_run(run, opened, split)


def print_metrics(run: Run, metrics: dict[str, Any], as_json: bool) -> None:
    """Print metrics as a table for people or as JSON for programs."""
    if as_json:
        click.echo(json.dumps({"run": str(run.path), **metrics}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    from ecgfit.metrics import METRICS

    table = Table(title=f"{metrics['split']}: {metrics['n_patients']:,} patients, {metrics['n_positive']:,} positive")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name in METRICS:
        entry = metrics["metrics"][name]
        if entry["value"] is None:
            table.add_row(name, "undefined", entry["reason"])
        else:
            table.add_row(name, f"{entry['value']:.3f}", "{:.3f} to {:.3f}".format(*entry["ci95"]))
    Console().print(table)
    cells = ", ".join(f"{name} {metrics['confusion'][name]:,}" for name in ("tp", "fp", "fn", "tn"))
    click.echo(f"threshold {metrics['threshold']:.4f} ({run.config.threshold} on validation); {cells}")
    click.echo(f"run folder: {run.path}")


if __name__ == "__main__":
    main()
