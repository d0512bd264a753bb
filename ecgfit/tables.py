"""Results as the command line prints them, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from ecgfit.run import RunFolder


def print_metrics(run: RunFolder, metrics: Mapping[str, Any]) -> None:
    """Print the metrics of a split: a table, the threshold, and what is needed to read them."""
    title = (
        f"{metrics['split']}: {metrics['n_patients']:,} patients, "
        f"{metrics['n_positive']:,} positive"
    )
    _print_table(_metrics_table(title, metrics["metrics"]))
    if "lead_removal" in metrics:
        _print_table(_lead_table(metrics["lead_removal"]))
    click.echo(_threshold_line(run, metrics))
    for line in _remarks(metrics):
        click.echo(line)
    counts = metrics.get("count_baseline", {}).get("auroc", {}).get("value")
    if counts is not None:
        click.echo(f"the number of a patient's recordings alone has an AUROC of {counts:.3f}")
    click.echo(f"run folder: {run.path}")


def print_comparison(result: Mapping[str, Any]) -> None:
    """Print a table for each run but the first, against the first."""
    first = result["runs"][0]
    for name, compared in result["against_first"].items():
        click.echo(f"{result['split']}: {result['n_patients']:,} patients")
        click.echo(f"A: {first}\nB: {name}")
        _print_table(_comparison_table(compared["metrics"]))
        p = compared["delong"]["p"]
        if p is None:
            click.echo("DeLong's test of the AUROC: undefined here")
        else:
            click.echo(f"AUROC by DeLong's test: p = {p:.3f}")


def print_explanation(result: Mapping[str, Any]) -> None:
    """Print each group's size and the share of every lead in the attribution."""
    for name, group in result["groups"].items():
        title = name.replace("_", " ")
        if group["note"]:
            click.echo(f"{title}: {group['note']}")
            continue
        click.echo(
            f"{title}: {group['n_recordings']:,} recordings of {group['n_patients']:,} patients"
        )
        shares = [f"{lead} {100 * share:.0f} %" for lead, share in group["lead_share"].items()]
        click.echo(f"  attribution by lead: {', '.join(shares)}")
    click.echo(f"folder: {result['folder']}")


def _new_table(title: str | None, columns: Sequence[str]) -> Table:
    """Return a table without a frame, whose first column is text and never wrapped.

    The widest, that of `compare` where values are undefined, fits into 80 columns.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    first, *numbers = columns
    table.add_column(first, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def _print_table(table: Table) -> None:
    from rich.console import Console

    Console().print(table)


def _metrics_table(title: str, values: Mapping[str, Any]) -> Table:
    from ecgfit.metrics.definitions import METRICS

    table = _new_table(title, ["metric", "value", "95 % interval"])
    for name in METRICS:
        entry = values[name]
        if entry["value"] is None:
            table.add_row(name, "undefined", entry["reason"])
        else:
            table.add_row(name, _number(entry["value"]), interval_text(entry))
    return table


def _lead_table(removal: Mapping[str, Any]) -> Table:
    table = _new_table("without one lead", ["lead", "AUROC", "difference", "95 % interval"])
    for lead, metrics in removal.items():
        entry = metrics["auroc"]
        table.add_row(
            lead,
            _number(entry["value_b"]),
            _number(entry["difference"], sign="+"),
            interval_text(entry, sign="+"),
        )
    return table


def _comparison_table(metrics: Mapping[str, Any]) -> Table:
    table = _new_table(None, ["metric", "A", "B", "B - A", "95 % interval", "p"])
    for name, entry in metrics.items():
        p = "" if entry["p"] is None else f"{entry['p']:.3f}"
        table.add_row(
            name,
            _number(entry["value_a"]),
            _number(entry["value_b"]),
            _number(entry["difference"], sign="+"),
            interval_text(entry, sign="+"),
            p,
        )
    return table


def _threshold_line(run: RunFolder, metrics: Mapping[str, Any]) -> str:
    """Return the operating point, how it was chosen, and the calls it leads to."""
    confusion = metrics["confusion"]
    cells = ", ".join(f"{name} {confusion[name]:,}" for name in ("tp", "fp", "fn", "tn"))
    if metrics["threshold"] is None:
        return f"threshold each fold's own; {cells}"
    how = run.rule
    if not how.startswith("fixed"):
        how = f"{how} on {run.point['chosen_on']}"
    return f"threshold {metrics['threshold']:.4f} ({how}); {cells}"


def print_decision(run: RunFolder, decided: Mapping[str, Any], outdated: Sequence[str]) -> None:
    """Print a decision, the one before, and which results were made under an earlier one."""
    for when, point in (("now", decided), ("before", decided["earlier"][-1])):
        fitted = point["calibration"]
        click.echo(
            f"{when + ':':7} threshold {point['value']:.4f} "
            f"({point.get('rule', run.config.threshold)}{_interval_of(point)}), calibration "
            f"{fitted['method']} (slope {fitted['slope']:.3f}, intercept "
            f"{fitted['intercept']:.3f})"
        )
    click.echo(
        f"chosen on {decided['chosen_on']}: {decided['n_patients']:,} patients, "
        f"{decided['n_positive']:,} positive; no test row was looked at"
    )
    if decided["note"]:
        click.echo(f"note: {decided['note']}")
    if outdated:
        click.echo(
            f"made under an earlier decision: {', '.join(outdated)}; `ecgfit eval` makes them again"
        )
    click.echo(f"run folder: {run.path}")


def _interval_of(point: Mapping[str, Any]) -> str:
    low, high = point.get("ci95") or (0, 0)
    return f", 95 % {low:.4f} to {high:.4f}" if low < high else ""


def _remarks(metrics: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know of the metrics."""
    remarks = []
    if metrics["note"]:
        remarks.append(f"note: {metrics['note']}")
    excluded = metrics["excluded"]
    if excluded and excluded["n_records"]:
        remarks.append(_left_out(excluded))
    remarks += _lead_remarks(metrics)
    external = metrics.get("external")
    if external and external["shared_recordings"] is None:
        remarks.append(
            "not checked: whether these recordings trained the run; --trained-on STORE looks for "
            "them"
        )
    if "folds" in metrics:
        over_folds = [
            f"{name.upper()} {value['mean']:.3f} (SD {value['sd']:.3f})"
            for name, value in metrics["folds"].items()
            if name != "each"
        ]
        remarks.append(
            f"mean over the folds, each judged by its own model: {', '.join(over_folds)}"
        )
    return remarks


def _lead_remarks(metrics: Mapping[str, Any]) -> list[str]:
    """Say how the leads differ from those of the train recordings, where they do."""
    from ecgfit.inference.lead_shift import shift_in_words

    return [f"leads: {line}" for line in shift_in_words(metrics.get("lead_shift"))]


def _left_out(excluded: Mapping[str, Any]) -> str:
    """Say how many recordings a model without --missing mask leaves out, and whom that costs."""
    n_records, n_patients = excluded["n_records"], excluded["n_patients"]
    recordings = "1 recording" if n_records == 1 else f"{n_records:,} recordings"
    if n_patients == 0:
        cost = "every patient has another one"
    elif n_patients == 1:
        cost = f"1 patient ({excluded['n_positive']} positive) has no other and is not judged"
    else:
        cost = (
            f"{n_patients:,} patients ({excluded['n_positive']:,} positive) have no other and are "
            "not judged"
        )
    return (
        f"left out: {recordings} ({excluded['reason']}); {cost}; "
        "a model trained with --missing mask uses them"
    )


def interval_text(entry: Mapping[str, Any], sign: str = "") -> str:
    """Return an interval; where it has no width, the reason."""
    low, high = entry["ci95"] or (0, 0)
    if low < high:
        return f"{low:{sign}.3f} to {high:{sign}.3f}"
    return str(entry.get("reason", ""))


def _number(value: float | None, sign: str = "") -> str:
    return "undefined" if value is None else f"{value:{sign}.3f}"
