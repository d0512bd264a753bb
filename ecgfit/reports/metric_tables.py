"""Tables of metrics: all of them by split, fold by fold, and before and after calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ecgfit.metrics.definitions import METRICS
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.wording import between, interval_or_reason, number

NAMES = {
    "auroc": ("AUROC", "1 is best, 0.5 is chance"),
    "auprc": ("AUPRC", "1 is best, the prevalence is chance"),
    "brier": ("Brier score", "0 is best"),
    "calibration_slope": ("Calibration slope", "1 is ideal; below: too extreme"),
    "calibration_intercept": ("Calibration intercept", "0 is ideal; below: too high"),
    "observed_expected": ("Observed / expected", "1 is ideal"),
    "ece": ("Expected calibration error", "0 is best"),
    "sensitivity": ("Sensitivity", "share of positives called positive"),
    "specificity": ("Specificity", "share of negatives called negative"),
    "ppv": ("PPV", "share of positives among those called positive"),
    "npv": ("NPV", "share of negatives among those called negative"),
    "net_benefit": ("Net benefit", "at the threshold as risk"),
    "ruled_out": ("Ruled out", "share called negative"),
    "accuracy": ("Accuracy", "share called correctly"),
    "f1": ("F1", "ignores true negatives"),
}
"""Name and reading of each metric; docs/metrics.md has the formulas."""

_CALIBRATION = ("brier", "calibration_slope", "calibration_intercept", "observed_expected", "ece")
_NO_BASELINE = {"value": None, "ci95": None}


def metric_table(columns: Sequence[EvaluatedSplit]) -> dict[str, Any]:
    """Return every metric of several splits, DeLong's interval, and the baseline of counts."""
    rows = []
    for name in METRICS:
        label, reading = NAMES[name]
        cells = [_cell(column.entry(name)) for column in columns]
        rows.append(_row(label, reading, cells))
        if name == "auroc":
            delong = [_delong_cell(column.metrics["delong"]) for column in columns]
            rows.append(_row("AUROC, DeLong", "without resampling, as a check", delong))
    for name in ("auroc", "auprc"):
        label = f"Number of recordings alone, {NAMES[name][0]}"
        baselines = [column.metrics.get("count_baseline", {}) for column in columns]
        cells = [_cell(baseline.get(name, _NO_BASELINE)) for baseline in baselines]
        rows.append(_row(label, "a known shortcut", cells))
    return {"columns": [column.title for column in columns], "rows": rows}


def _row(label: str, reading: str, cells: Iterable[dict[str, str]]) -> dict[str, Any]:
    return {"label": label, "reading": reading, "cells": list(cells)}


def _cell(entry: Mapping[str, Any]) -> dict[str, str]:
    return {"value": number(entry["value"]), "ci": interval_or_reason(entry)}


def _delong_cell(delong: Mapping[str, Any]) -> dict[str, str]:
    return {"value": number(delong["auroc"]), "ci": between(delong)}


def fold_table(columns: Iterable[EvaluatedSplit]) -> dict[str, Any] | None:
    """Return AUROC and AUPRC of the model of each fold on the patients that it did not see.

    Their means and standard deviations come with them. None where no column is of folds.
    """
    folds = None
    for column in columns:
        folds = folds or column.metrics.get("folds")
    if folds is None:
        return None
    rows = []
    for name, own in folds["each"].items():
        values = {key: number(own[key]) for key in ("auroc", "auprc", "threshold")}
        rows.append({"fold": name} | values)
    return {"rows": rows, "auroc": _mean_sd(folds["auroc"]), "auprc": _mean_sd(folds["auprc"])}


def _mean_sd(metric: Mapping[str, float]) -> str:
    return f"{number(metric['mean'])} (SD {number(metric['sd'])})"


def calibration_table(evaluated: EvaluatedSplit) -> list[dict[str, str]]:
    """Return the measures of calibration before and after; none where nothing was recalibrated."""
    if not evaluated.is_recalibrated:
        return []
    before = evaluated.metrics["before_calibration"]
    return [
        {
            "label": NAMES[name][0],
            "before": number(before.get(name)),
            "after": number(evaluated.value(name)),
        }
        for name in _CALIBRATION
    ]
