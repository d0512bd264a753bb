"""What a report shows of one evaluation: figures, confusion, subgroups, missing leads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecgfit.metrics.curves import pr_curve, probability_histogram, roc_curve
from ecgfit.reports import figures
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.figures import ForestRow
from ecgfit.reports.metric_tables import calibration_table, metric_table
from ecgfit.reports.prose import call
from ecgfit.reports.summary import called_at
from ecgfit.reports.wording import interval_or_reason, number, with_interval
from ecgprep.reports.disclosure import HIDDEN, CountFormatter

_SUBGROUP_COLUMNS = ("auroc", "sensitivity", "specificity", "npv")


@dataclass(frozen=True)
class Figure:
    """A figure with its texts; `svg` is empty where nothing can be drawn."""

    title: str
    caption: str
    svg: str


def evaluation_sections(evaluated: EvaluatedSplit, show: CountFormatter) -> dict[str, Any]:
    """Return the figures and tables of one evaluation."""
    metrics = evaluated.metrics
    return {
        "name": evaluated.title,
        "figures": _figures(evaluated),
        "one_class": not _has_both_classes(evaluated),
        "confusion": confusion_table(metrics["confusion"], show),
        "unit": "recordings" if evaluated.is_by_recording else "patients",
        "before": calibration_table(evaluated),
        "threshold": called_at(metrics),
        "subgroups": _subgroups(evaluated),
        "leads": _leads(metrics.get("lead_removal")),
        "table": metric_table([evaluated]),
    }


def _has_both_classes(evaluated: EvaluatedSplit) -> bool:
    return len(np.unique(evaluated.items.label)) == 2


def _figures(evaluated: EvaluatedSplit) -> list[Figure]:
    """Draw discrimination where there are two classes, then calibration and net benefit."""
    metrics = evaluated.metrics
    histogram = probability_histogram(evaluated.items.label, evaluated.probability)
    shown = _discrimination(evaluated) if _has_both_classes(evaluated) else []
    title = "Calibration"
    if evaluated.is_recalibrated:
        shown.append(_calibration_before(evaluated))
        title = "Calibration after"
    calibration = Figure(
        title,
        _caption("calibration", evaluated.is_recalibrated),
        figures.calibration(metrics["reliability_curve"], histogram),
    )
    decision = Figure(
        "Decision curve",
        _caption("decision"),
        figures.decision(metrics["decision_curve"], metrics["threshold"]),
    )
    histograms = Figure(
        "Probabilities of each class",
        _caption("histograms", not evaluated.is_of_folds),
        figures.histograms(histogram, metrics["threshold"]),
    )
    return [*shown, calibration, decision, histograms]


def _discrimination(evaluated: EvaluatedSplit) -> list[Figure]:
    """Draw the ROC curve, and precision over recall."""
    label, probability = evaluated.items.label, evaluated.probability
    sensitivity = evaluated.value("sensitivity")
    roc = figures.roc(roc_curve(label, probability), sensitivity, evaluated.value("specificity"))
    precision_recall = figures.precision_recall(
        pr_curve(label, probability),
        evaluated.metrics["prevalence"],
        sensitivity,
        evaluated.value("ppv"),
    )
    auroc, auprc = with_interval(evaluated.entry("auroc")), with_interval(evaluated.entry("auprc"))
    return [
        Figure("ROC curve", _caption("roc", auroc, evaluated.is_of_folds), roc),
        Figure("Precision and recall", _caption("precision_recall", auprc), precision_recall),
    ]


def _calibration_before(evaluated: EvaluatedSplit) -> Figure:
    """Draw the calibration of the logits as they were."""
    histogram = probability_histogram(evaluated.items.label, evaluated.probability_before())
    svg = figures.calibration(evaluated.metrics["reliability_curve_before"], histogram)
    return Figure("Calibration before", _caption("calibration_before"), svg)


def _caption(macro: str, *arguments: Any) -> str:
    return call("captions.jinja", macro, *arguments)


def confusion_table(confusion: Mapping[str, int], show: CountFormatter) -> list[dict[str, str]]:
    """Return a line for each class with its calls.

    The reader knows the number of patients and of each class, so the cells of a class hide one
    another, and so do the two classes.
    """
    n_positive = confusion["tp"] + confusion["fn"]
    n_negative = confusion["fp"] + confusion["tn"]
    totals = show.parts({"positive": n_positive, "negative": n_negative})
    rows = []
    for name, called_positive, called_negative, right in (
        ("positive", "tp", "fn", "tp"),
        ("negative", "fp", "tn", "tn"),
    ):
        cells = {key: confusion[key] for key in (called_positive, called_negative)}
        texts = show.parts(cells)
        if totals[name] == HIDDEN:
            texts = dict.fromkeys(cells, HIDDEN)
        rows.append(
            {
                "name": name,
                "called_positive": texts[called_positive],
                "called_negative": texts[called_negative],
                "total": totals[name],
                "right": right,
            }
        )
    return rows


def _subgroups(evaluated: EvaluatedSplit) -> dict[str, Any]:
    """Return a forest plot and a table.

    Groups that the metrics withhold stay withheld, also where exact counts are asked for.
    """
    plot, table = [], []
    for grouping, groups in evaluated.metrics["subgroups"].items():
        title = grouping.replace("_", " ")
        plot.append(ForestRow(title, heading=True))
        for group, entry in groups.items():
            plot.append(_subgroup_in_plot(group, entry))
            table.append(_subgroup_in_table(title, group, entry))
    svg = ""
    if plot:
        label = "AUROC; the dashed line is that of all"
        svg = figures.forest(plot, evaluated.value("auroc"), label, (-0.02, 1.02))
    n_withheld = sum(bool(row["why"]) for row in table)
    return {"svg": svg, "rows": table, "n_withheld": n_withheld}


def _subgroup_in_plot(group: str, entry: Mapping[str, Any]) -> ForestRow:
    counts = f"{_count_text(entry['n'])} ({_count_text(entry['n_positive'])})"
    if entry["metrics"] is None:
        return ForestRow(group, counts, note="not shown: small numbers")
    auroc = entry["metrics"]["auroc"]
    if auroc["value"] is None:
        return ForestRow(group, counts, note="undefined")
    return ForestRow(group, counts, auroc["value"], _ends(auroc["ci95"]))


def _subgroup_in_table(grouping: str, group: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    cells = []
    if entry["metrics"] is not None:
        for name in _SUBGROUP_COLUMNS:
            metric = entry["metrics"][name]
            cells.append({"value": number(metric["value"]), "ci": interval_or_reason(metric)})
    return {
        "grouping": grouping,
        "group": group,
        "n": _count_text(entry["n"]),
        "positive": _count_text(entry["n_positive"]),
        "why": entry["suppressed"] or "",
        "cells": cells,
    }


def _count_text(n: int | str | None) -> str:
    """Return a count of a group; None is one that the metrics withhold, or text in older runs."""
    if n is None:
        return HIDDEN
    return n if isinstance(n, str) else f"{n:,}"


def _ends(interval: list[float] | None) -> tuple[float, float] | None:
    """Return the two ends of an interval, where there is one."""
    if not interval:
        return None
    low, high = interval
    return low, high


def _leads(removal: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Draw what AUROC loses or gains without each lead; None where nobody measured it."""
    if not removal:
        return None
    plot, table = [], []
    for lead, metrics in removal.items():
        auroc = metrics["auroc"]
        plot.append(ForestRow(f"without {lead}", "", auroc["difference"], _ends(auroc["ci95"])))
        table.append(
            {
                "lead": lead,
                "auroc": number(auroc["value_b"]),
                "difference": number(auroc["difference"]),
                "ci": interval_or_reason(auroc),
            }
        )
    label = "difference in AUROC; left of 0: worse without the lead"
    return {"svg": figures.forest(plot, 0.0, label, counts=False), "rows": table}
