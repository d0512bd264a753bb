"""The command `ecgfit`: each command parses, calls one library function and prints. Progress to stderr, results to stdout."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgprep import __version__
from ecgprep.console import json_option, output_option, overwrite_option, run_command, status_lines
from ecgprep.errors import EcgError, InputError
from ecgprep.files.output import STDOUT, check_output

if TYPE_CHECKING:
    from ecgfit.config import TrainConfig
    from ecgfit.metrics.results import Comparison, SplitMetrics
    from ecgfit.run import Run

_NEEDS_EXTRA = (
    "ecgfit needs the extra `fit` (PyTorch, scikit-learn, …): pip install 'ecgprep-ecgfit[fit]'."
)


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
        click.option(
            "--model",
            help="resnet1d, xresnet1d18, -34, -50, -101 or inception1d.  [default: resnet1d]",
        ),
        click.option(
            "--model-args",
            help="Any of width=, depth=, kernel=, dropout=, comma-separated.  [default: the network's own]",
        ),
        click.option(
            "--tabular",
            help="Covariates of the store that join the ECG, such as age,sex.  [default: none]",
        ),
        click.option(
            "--tabular-only",
            is_flag=True,
            default=None,
            help="Leave the ECG out: what the covariates alone can do.",
        ),
        click.option(
            "--init-from",
            help="Run folder or file of weights to start from; what fits is loaded, the rest listed.",
        ),
        click.option(
            "--freeze",
            help="none, or backbone: train the head only (a linear probe).  [default: none]",
        ),
        click.option("--batch", help="Recordings in a batch, over all processes.  [default: 32]"),
        click.option("--epochs", help="Epochs at most.  [default: 40]"),
        click.option("--loss", help="ce or bce.  [default: ce]"),
        click.option(
            "--class-weights",
            help='auto, none, "W0 W1" or W0,W1: weights of label 0 and 1.  [default: auto]',
        ),
        click.option("--label-smoothing", help="[default: 0]"),
        click.option("--optimizer", help="adamw.  [default: adamw]"),
        click.option("--lr", help="Learning rate.  [default: 3e-3]"),
        click.option("--weight-decay", help="[default: 0.05]"),
        click.option(
            "--layer-decay",
            help="Factor on the rate for each block further from the head.  [default: 1]",
        ),
        click.option("--scheduler", help="plateau or cosine.  [default: cosine]"),
        click.option(
            "--ema",
            help="Decay of the average of weights that is kept; 0 = none.  [default: 0.995]",
        ),
        click.option(
            "--aug", help="Any of noise,scale,shift,leadmask, or none.  [default: all four]"
        ),
        click.option(
            "--val-metric",
            help="auprc or auroc, on validation: selects the epoch.  [default: auprc]",
        ),
        click.option(
            "--early-stop",
            help="Epochs without a better metric before training ends.  [default: 12]",
        ),
        click.option(
            "--missing",
            help="drop: leave out records with a missing lead; mask: keep them, add a mask channel.  [default: drop]",
        ),
        click.option(
            "--aggregate",
            help="A patient's recordings: mean, max, first, last, or none.  [default: mean]",
        ),
        click.option(
            "--calibration",
            help="none, temperature or platt, fitted on validation.  [default: platt]",
        ),
        click.option(
            "--threshold",
            help="How validation chooses the operating point: youden, f1, sensitivity=0.90, specificity=0.90, npv=0.99, net-benefit=0.05, "
            "fixed=0.3.  [default: youden]",
        ),
        click.option("--seed", help="[default: 0]"),
        click.option(
            "--seeds", help="Train a member with each, such as 0,1,2; the run is their mean logit."
        ),
        click.option(
            "--folds",
            help="Cross-validation by patient within train and val, such as 5; its models are one run.",
        ),
        click.option("--fold", help="One fold alone, from 0, as on a cluster."),
        click.option("--device", help="auto, cpu or cuda.  [default: auto]"),
        click.option("--amp", help="bfloat16: auto (on a GPU), on or off.  [default: auto]"),
        click.option(
            "--deterministic",
            help="on, or off: a GPU's fastest kernels, and runs that differ when repeated.  [default: on]",
        ),
        click.option(
            "--compile",
            help="torch.compile in training: on or off. Slow first steps; needs a compiler.  [default: off]",
        ),
        click.option(
            "--resident",
            help="Train recordings kept on the device: auto (a GPU with room), on or off.  [default: auto]",
        ),
        click.option("--threads", help="CPU threads.  [default: all cores]"),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Any setting of config.yaml; wins over it, loses to the options.",
        ),
        click.option("--resume", is_flag=True, help="Go on with an interrupted run, to the bit."),
        click.option("--overwrite", is_flag=True, help="Delete the run of this name first."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def main() -> None:
    """Entry point of the console script."""
    let_threads_sleep()
    run_command(cli)


def let_threads_sleep() -> None:
    """Let OpenMP's threads spin for some microseconds only while they wait for each other, then sleep; before torch is imported, which reads this.

    By default they spin for milliseconds on cores that others need: with another busy process on two cores a training step took up to 5 times
    as long. Threads that never spin cost an idle machine 30 %.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ecgfit")
def cli() -> None:
    """Train, evaluate and apply a 1D-CNN on a store that ecgprep built."""


@cli.command(cls=TwoNumbers)
@click.option(
    "--store", required=True, type=click.Path(path_type=Path), help="Store made by `ecgprep build`."
)
@click.option(
    "--outdir",
    type=click.Path(path_type=Path),
    help="Run folder.  [default: the next number under runs/]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="YAML file of settings; options win. A run's own config.yaml repeats it.",
)
@click.option(
    "--check", is_flag=True, help="Only check one batch of each split, and what training relies on."
)
@json_option
@training_options
def train(
    store: Path,
    outdir: Path | None,
    config: Path | None,
    check: bool,
    as_json: bool,
    resume: bool,
    overwrite: bool,
    **overrides: Any,
) -> None:
    """Train a model on the train split, selected by validation; the test split is not looked at.

    Example: ecgfit train --store cohort.zarr --outdir runs/baseline --epochs 60
    """
    if resume and outdir is None:
        raise click.UsageError("--resume needs --outdir: the run to go on with.")
    settings = load_config(config, overrides)
    if check:
        from ecgfit.training.preflight import preflight
        from ecgfit.training.trainer import Trainer
        from ecgprep.store.reader import Store

        for line in preflight(Trainer.prepare(settings, Store(store))):
            click.echo(line)
        return
    run = run_training(settings, store, outdir, resume, overwrite)
    if is_first_process():
        print_metrics(
            run,
            run.read_json("metrics_oof.json" if settings.folds else "metrics_val.json"),
            as_json,
        )


@cli.command("eval")
@click.option(
    "--store",
    required=True,
    type=click.Path(path_type=Path),
    help="The store that the run was trained on.",
)
@click.option(
    "--run",
    "run_dir",
    type=click.Path(path_type=Path),
    help="Run folder.  [default: the newest run under runs/ trained on STORE]",
)
@click.option("--split", help="train, val, test or all.  [default: test; all with --external]")
@click.option(
    "--external",
    is_flag=True,
    help="STORE is another one, no patient of which was in the run's: an external test. Needs --run.",
)
@click.option(
    "--trained-on",
    type=click.Path(path_type=Path),
    help="With --external: the run's own store, whose recordings STORE must not hold.",
)
@click.option(
    "--aggregate",
    type=click.Choice(["mean", "max", "first", "last", "none"]),
    help="A patient's recordings.  [default: the run's]",
)
@click.option("--each-lead", is_flag=True, help="Also evaluate with each lead taken away in turn.")
@json_option
def evaluate(
    store: Path,
    run_dir: Path | None,
    split: str | None,
    external: bool,
    trained_on: Path | None,
    aggregate: str | None,
    each_lead: bool,
    as_json: bool,
) -> None:
    """Evaluate a run, per patient, calibrated and called as validation decided.

    Example: ecgfit eval --store cohort.zarr --run runs/baseline
    """
    if external and run_dir is None:
        raise click.UsageError("--external needs --run: no run was trained on this store.")
    split = split or ("all" if external else "test")
    if trained_on is not None and not external:
        raise click.UsageError("--trained-on goes with --external.")
    run, metrics = run_evaluation(
        store,
        run_dir,
        split,
        external=external,
        trained_on=trained_on,
        aggregate=aggregate,
        each_lead=each_lead,
    )
    print_metrics(run, metrics, as_json)


@cli.command()
@click.argument(
    "files", nargs=-1, type=click.Path(path_type=Path, readable=False)
)  # one that cannot be read has its line in the result
@click.option(
    "--run", "run_dir", required=True, type=click.Path(path_type=Path), help="Run folder."
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="Predict a store's recordings instead of files.",
)
@click.option("--split", help="With --store: train, val, test or all.  [default: all]")
@click.option(
    "--covariates",
    type=click.Path(path_type=Path),
    help="CSV with a column `file` and one for each covariate the run needs.",
)
@output_option("CSV to write (readable by you only).  [default: standard output]")
@overwrite_option
@json_option
def predict(
    files: tuple[Path, ...],
    run_dir: Path,
    store: Path | None,
    split: str | None,
    covariates: Path | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Give the probability of each recording: vendor XML files, or the rows of a store, labelled or not.

    A file that cannot be used has its reason in `status`; the exit code is then 3. The columns are those of docs/predict.md.

    Example: ecgfit predict --run runs/baseline new/*.xml -o predictions.csv
    """
    if bool(files) == (store is not None):
        raise click.UsageError("Give FILES or --store, one of the two.")
    if store is not None and covariates is not None:
        raise click.UsageError(
            "--covariates goes with FILES; a store holds its own (ecgprep build --covariates)."
        )
    if store is None and split is not None:
        raise click.UsageError("--split goes with --store.")
    try:
        from ecgfit.inference.files import count_refused, predict_files, predict_store
        from ecgfit.inference.tables import MARKS, write_predictions
        from ecgfit.run import Run
        from ecgfit.run_files import RESERVED
    except ImportError as error:
        raise EcgError(_NEEDS_EXTRA) from error
    from ecgprep.store.reader import Store

    target = None
    if output not in (None, STDOUT):
        inputs = [*files, covariates] if covariates else files
        target = check_output(output, MARKS, inputs, overwrite, RESERVED)
    run = Run(run_dir)
    if store is None:
        table = predict_files(run, files, covariates, lambda line: click.echo(line, err=True))
    else:
        table = predict_store(run, Store(store), split or "all")
    write_predictions(table, target, as_json)
    refused = count_refused(table)
    if refused:
        click.echo(
            f"{refused:,} of {len(table):,} files could not be used; column status says why.",
            err=True,
        )
        raise SystemExit(InputError.exit_code)


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--split",
    default="test",
    show_default=True,
    help="A split that `ecgfit eval` has evaluated for each run.",
)
@json_option
def compare(runs: tuple[Path, ...], split: str, as_json: bool) -> None:
    """Compare runs on the same patients: differences from the first, by a paired bootstrap over patients.

    Example: ecgfit compare runs/ecg runs/clinical runs/both
    """
    if len(runs) < 2:
        raise click.UsageError("Give two runs or more.")
    try:
        from ecgfit.evaluation.compare_runs import compare_runs
        from ecgfit.run import Run
    except ImportError as error:
        raise EcgError(_NEEDS_EXTRA) from error
    result = compare_runs([Run(path) for path in runs], split)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        print_comparison(result)


@cli.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path, readable=False))
@overwrite_option
@json_option
def export(run_dir: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Write RUN as one file: OUTPUT is *.onnx (recording in, calibrated probability out) or *.safetensors (the weights).

    Example: ecgfit export runs/baseline model.onnx
    """
    try:
        from ecgfit.inference.export import MARKS, TOLERANCE, export_run
        from ecgfit.run import Run
        from ecgfit.run_files import RESERVED
    except ImportError as error:
        raise EcgError(_NEEDS_EXTRA) from error
    target = check_output(output, MARKS, overwrite=overwrite, reserved=RESERVED)
    written = export_run(Run(run_dir), target)
    if as_json:
        click.echo(json.dumps(written, indent=2))
        return
    click.echo(f"{output}: {written['bytes'] / 1e6:.1f} MB")
    if written["format"] == "onnx":
        difference = written["max_difference"]
        if difference is None:
            click.echo("not compared with the run: onnxruntime is not installed")
        else:
            click.echo(
                f"differs from the run in float32 by at most {difference:.0e} in a probability ({TOLERANCE:.0e} allowed), on made-up recordings"
            )
        if (in_bfloat16 := written["max_difference_bfloat16"]) is not None:
            click.echo(
                f"the run itself computes in bfloat16 (amp), and its probabilities differ from the file's by up to {in_bfloat16:.0e} there"
            )


@cli.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--store",
    required=True,
    type=click.Path(path_type=Path),
    help="The store that the run was trained on.",
)
@click.option("--split", default="test", show_default=True, help="train, val, test or all.")
@click.option(
    "--n",
    default=100,
    show_default=True,
    help="Patients of a group at most, with one recording each.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write to.  [default: RUN/explain]",
)
@overwrite_option
@json_option
def explain(
    run_dir: Path,
    store: Path,
    split: str,
    n: int,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Draw what RUN looks at: mean beats of true and of false positives with the part that each lead and time has in the result.

    Example: ecgfit explain runs/baseline --store cohort.zarr
    """
    try:
        from ecgfit.explaining.attributions import explain_run
        from ecgfit.run import Run
    except ImportError as error:
        raise EcgError(_NEEDS_EXTRA) from error
    from ecgprep.store.reader import Store

    with status_lines("explaining") as say:
        result = explain_run(Run(run_dir), Store(store), split, output, n, say, overwrite)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    for name, group in result["groups"].items():
        title = name.replace("_", " ")
        if group["note"]:
            click.echo(f"{title}: {group['note']}")
            continue
        shares = ", ".join(
            f"{lead} {100 * share:.0f} %" for lead, share in group["lead_share"].items()
        )
        click.echo(
            f"{title}: {group['n_recordings']:,} recordings of {group['n_patients']:,} patients; attribution by lead: {shares}"
        )
    click.echo(f"folder: {result['folder']}")


@cli.command()
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="The run's own store: adds Table 1 and the worst mistakes drawn as ECGs.",
)
@click.option(
    "--split", default="test", show_default=True, help="A split that `ecgfit eval` has evaluated."
)
@output_option("HTML file to write (readable by you only).  [default: RUN/report.html]")
@overwrite_option
@click.option(
    "--exact-counts",
    is_flag=True,
    help='Show counts below 10, which are "<10" otherwise; subgroups stay as they are.',
)
def report(
    run_dir: Path,
    store: Path | None,
    split: str,
    output: Path | None,
    overwrite: bool,
    exact_counts: bool,
) -> None:
    """Write the report of RUN: one HTML file that opens offline, with results, figures, TRIPOD+AI checklist and model card.

    Example: ecgfit report runs/baseline --store cohort.zarr
    """
    try:
        from ecgfit.reports.html import MARK, write_run_report
        from ecgfit.run import Run
        from ecgfit.run_files import REPORT, RESERVED
    except ImportError as error:
        raise EcgError(_NEEDS_EXTRA) from error
    from ecgprep.store.reader import Store

    out = output or run_dir / REPORT
    run, opened = Run(run_dir), None if store is None else Store(store)
    target = check_output(out, [MARK], overwrite=overwrite, reserved=RESERVED)
    try:
        write_run_report(run, target, opened, split, exact_counts)
    except ImportError as error:
        raise EcgError(
            "The report needs jinja2 and matplotlib: pip install 'ecgprep-ecgfit[report]'."
        ) from error
    click.echo(
        f"{out}: one file, opens offline."
        + (" It shows ECGs: treat it as health data." if store is not None else "")
    )


def load_config(path: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """Read and check the settings. Raises InputError, or EcgError where the extra is not installed."""
    try:
        from ecgfit.config import parse_settings, read_config
    except ImportError as error:
        raise EcgError(_NEEDS_EXTRA) from error
    given = {
        key: value for key, value in overrides.items() if value is not None and key != "settings"
    }
    return read_config(path, parse_settings(overrides.get("settings", ())) | given)


def run_training(
    config: TrainConfig, store: Path, outdir: Path | None, resume: bool, overwrite: bool
) -> Run:
    """Train with progress on stderr."""
    from ecgfit.compute.distributed import stop_at_end
    from ecgfit.training.runner import train as train_run
    from ecgprep.store.reader import Store

    opened = Store(store)
    with status_lines("training") as say, stop_at_end():
        return train_run(config, opened, outdir, resume=resume, overwrite=overwrite, say=say)


def is_first_process() -> bool:
    """Say whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def run_evaluation(
    store: Path, run_dir: Path | None, split: str, *, trained_on: Path | None = None, **how: Any
) -> tuple[Run, SplitMetrics]:
    """Evaluate a run, or the newest of this store."""
    try:
        from ecgfit.evaluation.evaluate import evaluate_run
        from ecgfit.run import Run, newest_run
        from ecgfit.run_files import RUNS
    except ImportError as error:
        raise EcgError(_NEEDS_EXTRA) from error
    from ecgprep.store.reader import Store

    opened = Store(store)
    run = newest_run(RUNS, opened) if run_dir is None else Run(run_dir)
    return run, evaluate_run(
        run, opened, split, trained_on=None if trained_on is None else Store(trained_on), **how
    )


def print_metrics(run: Run, metrics: Mapping[str, Any], as_json: bool) -> None:
    """Print metrics as a table for people or as JSON for programs."""
    if as_json:
        click.echo(json.dumps({"run": str(run.path), **metrics}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    from ecgfit.metrics.definitions import METRICS

    table = Table(
        title=f"{metrics['split']}: {metrics['n_patients']:,} patients, {metrics['n_positive']:,} positive"
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name in METRICS:
        entry = metrics["metrics"][name]
        if entry["value"] is None:
            table.add_row(name, "undefined", entry["reason"])
        else:
            table.add_row(name, f"{entry['value']:.3f}", _interval(entry))
    console = Console()
    console.print(table)
    if "lead_removal" in metrics:
        console.print(_lead_table(metrics["lead_removal"]))
    cells = ", ".join(f"{name} {metrics['confusion'][name]:,}" for name in ("tp", "fp", "fn", "tn"))
    rule, chosen_on = run.config.threshold, run.read_json("threshold.json")["chosen_on"]
    how = rule if rule.startswith("fixed") else f"{rule} on {chosen_on}"
    chosen = (
        f"{metrics['threshold']:.4f} ({how})"
        if metrics["threshold"] is not None
        else "each fold's own"
    )
    click.echo(f"threshold {chosen}; {cells}")
    for line in _remarks(metrics):
        click.echo(line)
    counts = metrics.get("count_baseline", {}).get("auroc", {}).get("value")
    if counts is not None:
        click.echo(f"the number of a patient's recordings alone has an AUROC of {counts:.3f}")
    click.echo(f"run folder: {run.path}")


def _remarks(metrics: Mapping[str, Any]) -> list[str]:
    """Return what must be known to read the metrics."""
    found = [f"note: {metrics['note']}"] if metrics["note"] else []
    out = metrics["excluded"]
    if out and out["n_records"]:
        of = f"{out['n_patients']:,} patients ({out['n_positive']:,} positive) have no other and are not judged"
        found.append(
            f"left out: {out['n_records']:,} recordings ({out['reason']}); {of}; --missing mask trains a model that takes them"
        )
    if metrics.get("external", {}).get("shared_recordings", 0) is None:
        found.append(
            "not looked at: whether these recordings trained the run; --trained-on STORE looks for them"
        )
    if "folds" in metrics:
        cells = (
            f"{name.upper()} {value['mean']:.3f} (SD {value['sd']:.3f})"
            for name, value in metrics["folds"].items()
            if name != "each"
        )
        found.append("mean over the folds, each judged by its own model: " + ", ".join(cells))
    return found


def _lead_table(removal: Mapping[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title="without one lead")
    for column in ("lead", "AUROC", "difference", "95 % interval"):
        table.add_column(column, justify="left" if column == "lead" else "right")
    for lead, metrics in removal.items():
        entry = metrics["auroc"]
        table.add_row(
            lead,
            _number(entry["value_b"]),
            _number(entry["difference"], "+"),
            _interval(entry, "+"),
        )
    return table


def _interval(entry: Mapping[str, Any], sign: str = "") -> str:
    """Return an interval, or why there is none of any width."""
    low, high = entry["ci95"] or (0, 0)
    return f"{low:{sign}.3f} to {high:{sign}.3f}" if low < high else str(entry.get("reason", ""))


def _number(value: float | None, sign: str = "") -> str:
    return "undefined" if value is None else f"{value:{sign}.3f}"


def print_comparison(result: Comparison) -> None:
    """Print a table for each run but the first, against the first."""
    from rich.console import Console
    from rich.table import Table

    first = result["runs"][0]
    for name, compared in result["against_first"].items():
        table = Table(
            title=f"{result['split']}: {name} against {first}, {result['n_patients']:,} patients"
        )
        for column in ("metric", first, name, "difference", "95 % interval", "p"):
            table.add_column(column, justify="left" if column == "metric" else "right")
        for metric, entry in compared["metrics"].items():
            p = "" if entry["p"] is None else f"{entry['p']:.3f}"
            table.add_row(
                metric,
                _number(entry["value_a"]),
                _number(entry["value_b"]),
                _number(entry["difference"], "+"),
                _interval(entry, "+"),
                p,
            )
        Console().print(table)
        delong = compared["delong"]["p"]
        click.echo(
            f"AUROC by DeLong's test: p = {delong:.3f}"
            if delong is not None
            else "DeLong's test: undefined here"
        )


if __name__ == "__main__":
    main()
