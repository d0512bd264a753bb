"""The curves of training, with the epoch that was kept."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from ecgfit.reports import figures
from ecgfit.reports.prose import call
from ecgfit.reports.sections import Figure
from ecgfit.run import RunFolder
from ecgfit.run_files import CURVES

_COLUMNS = {"epoch", "train_loss", "val_loss", "val_auroc", "val_auprc"}


def training_figures(run: RunFolder) -> list[Figure]:
    """Draw the curves of each member.

    The first epoch with the best validation metric is marked: it is the one that was kept.
    """
    shown = []
    for member in run.members:
        title = f"Training, member {member.path.name}" if len(run.members) > 1 else "Training"
        rows = _read_curves(member.path / CURVES)
        if rows is None:
            shown.append(Figure(title, call("captions.jinja", "no_curves", CURVES), ""))
            continue
        metric = member.config.val_metric
        values = [row[f"val_{metric}"] for row in rows]
        best = rows[values.index(max(values))]
        epoch = int(best["epoch"])
        facts = (epoch, len(rows), metric.upper(), best["val_auroc"], best["val_auprc"])
        caption = call("captions.jinja", "training", *facts)
        shown.append(Figure(title, caption, figures.training(rows, epoch)))
    return shown


def _read_curves(path: Path) -> list[dict[str, float]] | None:
    """Return the rows of curves.csv; None where it is missing or damaged."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [_numbers(line) for line in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, AttributeError, csv.Error):
        return None
    if not rows or not rows[0].keys() >= _COLUMNS:
        return None
    return rows


def _numbers(line: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in line.items()}
