"""The main results of an evaluation in a paragraph, and the warnings that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.facts import ThresholdFacts, threshold_facts
from ecgfit.reports.prose import call
from ecgfit.reports.wording import is_fixed, split_name
from ecgfit.run import RunFolder
from ecgfit.run_files import THRESHOLD
from ecgprep.reports.disclosure import CountFormatter

FEW = 20
"""With fewer patients of a class, percentile intervals are too short and every number uncertain."""

_TEMPLATE = "summary.jinja"


def called_at(metrics: Mapping[str, Any]) -> str:
    """Return the threshold that entries were called at."""
    if metrics["threshold"] is None:
        return "of each fold's own model"
    return f"{metrics['threshold']:.4f}"


def summarise(evaluated: EvaluatedSplit, show: CountFormatter) -> str:
    """Say the main results in a paragraph."""
    metrics = evaluated.metrics
    n, positive = metrics["n_patients"], metrics["n_positive"]
    class_is_small = show.hides(positive) or show.hides(n - positive)
    classes = show.parts({"positive": positive, "negative": n - positive})
    threshold = threshold_facts(evaluated.run)
    baseline = metrics.get("count_baseline", {}).get("auroc", {"value": None})
    count_baseline = None if baseline["value"] is None else baseline
    prevalence = None if class_is_small else metrics["prevalence"]
    names = {
        "split": evaluated.title,
        "by_recording": evaluated.is_by_recording,
        "n_recordings": show(metrics["n_items"]),
        "n_patients": show(n),
        "n_positive": classes["positive"],
        "prevalence": prevalence,
        "m": metrics["metrics"],
        "threshold": called_at(metrics),
        "chosen": threshold,
        "chosen_on": _chosen_on(evaluated, threshold),
        "count_baseline": count_baseline,
        "left_out": _left_out(metrics.get("excluded"), show),
    }
    return call(_TEMPLATE, "summary", names=names)


def _chosen_on(evaluated: EvaluatedSplit, threshold: ThresholdFacts) -> str:
    """Name the data that the threshold in use was chosen on."""
    return split_name("val") if evaluated.is_of_folds else threshold.chosen_on


def _left_out(excluded: Mapping[str, Any] | None, show: CountFormatter) -> dict[str, str] | None:
    """Return what was left out of an evaluation as text; None where nothing was."""
    if not excluded or not excluded["n_records"]:
        return None
    n_patients = excluded["n_patients"]
    return {
        "reason": excluded["reason"],
        "n_records": show(excluded["n_records"]),
        "n_patients": show(n_patients) if n_patients else "",
    }


def find_warnings(evaluated: EvaluatedSplit) -> list[str]:
    """Return what a reader of these results must know, a sentence or two each."""
    metrics, split = evaluated.metrics, evaluated.title
    chosen = evaluated.run.read_json(THRESHOLD)
    found = []
    if _has_few(metrics):
        found.append(call(_TEMPLATE, "few_patients", FEW, split))
    external = metrics.get("external")
    if external is not None and external["shared_recordings"] is None:
        found.append(call(_TEMPLATE, "not_searched", split))
    if metrics["note"]:
        found.append(f"{split.capitalize()} data: {metrics['note']}.")
    if chosen.get("note"):
        found.append(f"Threshold: {chosen['note']}")
    found += _decided_by_few(evaluated, chosen)
    if metrics["calibration"].get("note"):
        found.append(f"Calibration: {metrics['calibration']['note']}")
    if metrics.get("n_mixed_patients"):
        found.append(call(_TEMPLATE, "mixed_patients"))
    return found


def _has_few(counts: Mapping[str, Any]) -> bool:
    """Say whether a class has few patients, where both counts are known."""
    if "n_positive" not in counts:
        return False
    n_positive = counts["n_positive"]
    return bool(min(n_positive, counts["n_patients"] - n_positive) < FEW)


def _decided_by_few(evaluated: EvaluatedSplit, chosen: Mapping[str, Any]) -> list[str]:
    """Say what few patients of a class decided.

    In one training validation decides everything. In cross-validation the selecting folds decide
    the epochs; they also decide the operating point of each model, which is what judges patients
    out of fold. The mean model has its operating point from all predictions out of fold.
    """
    run = evaluated.run
    split = split_name(str(chosen.get("chosen_on", "val")))
    operating_point = _operating_point(run)
    if not run.config.folds or run.config.fold >= 0:
        if not _has_few(chosen):
            return []
        return [_decided(["epoch", *operating_point], split)]
    found = []
    if any(_has_few(member.read_json(THRESHOLD)) for member in run.members):
        decided = ["epoch"]
        if evaluated.is_of_folds:
            decided += operating_point
        found.append(call(_TEMPLATE, "folds_decided_by_few", FEW, _and(decided)))
    if operating_point and not evaluated.is_of_folds and _has_few(chosen):
        found.append(_decided(operating_point, split))
    return found


def _operating_point(run: RunFolder) -> list[str]:
    """Name what was chosen on data besides the epoch."""
    names = []
    if run.calibration.method != "none":
        names.append("calibration")
    if not is_fixed(run.rule):
        names.append("threshold")
    return names


def _decided(decided: list[str], split: str) -> str:
    return call(_TEMPLATE, "decided_by_few", FEW, _and(decided), split)


def _and(names: list[str]) -> str:
    """Join names as in a sentence."""
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"
