"""From the predictions of a split to what is reported: the content of metrics_<split>.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ecgfit.evaluation.groups import patient_groups
from ecgfit.evaluation.operating_point import entry_level
from ecgfit.inference.predictions import UNCALIBRATED, Aggregate, Predictions
from ecgfit.metrics.calibration import Calibration
from ecgfit.metrics.curves import decision_curve, reliability_curve
from ecgfit.metrics.definitions import (
    Floats,
    Ints,
    auroc_auprc,
    calibration_metrics,
    none_if_nan,
)
from ecgfit.metrics.results import Excluded, SplitMetrics
from ecgfit.metrics.subgroups import count_baseline, subgroups
from ecgfit.metrics.summary import compute_metrics
from ecgprep.store.reader import Store

NOTES = {
    "train": "the model was trained on these recordings: expect far worse results elsewhere",
    "val": (
        "epoch, calibration and threshold were chosen on these patients: "
        "expect worse results elsewhere"
    ),
    "all": "the model was trained on most of these recordings: expect far worse results elsewhere",
    "oof": (
        "each patient is judged by the model that neither trained nor was selected on them, "
        "with that model's own calibration and threshold"
    ),
}
"""Caveats for readers of results on these rows. Test rows and other stores need no note."""

_SAME_AUROC = 1e-3
"""Saved logits have nine digits; a saved AUROC differs by far less than this from theirs."""


def evaluate_predictions(
    predictions: Predictions,
    name: str,
    store: Store,
    calibration: Calibration,
    threshold: float,
    how: Aggregate,
    seed: int,
    raw: Predictions | None = None,
    eligible: NDArray[np.int64] | None = None,
) -> SplitMetrics:
    """Return the content of metrics_<name>.json, which docs/metrics.md describes.

    `raw` holds the logits before calibration where `predictions` are calibrated already. `eligible`
    are all rows that should be judged, including those left out because a lead is missing; with
    None nothing is said about these. Raises ValueError where there is nothing to evaluate.
    """
    patients = predictions.by_patient(how)
    label, cluster = patients.label, patients.cluster(how)
    probability, thresholds = patients.probability_and_threshold(calibration, threshold)
    before = raw if raw is not None else predictions
    uncalibrated = UNCALIBRATED.apply(before.by_patient(how).logit_difference())
    left_out = None if eligible is None else excluded(predictions, store, eligible)
    groups = patient_groups(store, predictions, patients)
    result = {
        "split": name,
        "note": NOTES.get(name),
        "level": entry_level(how),
        "aggregation": how,
        "n_records": len(predictions.rows),
        "n_positive_records": int((predictions.label == 1).sum()),
        "n_mixed_patients": _count_mixed_patients(predictions),
        "excluded": left_out,
        **compute_metrics(label, probability, thresholds, seed, cluster=cluster),
        "calibration": calibration.to_json(),
        "before_calibration": _calibration_of(label, uncalibrated),
        "reliability_curve": reliability_curve(label, probability),
        "reliability_curve_before": reliability_curve(label, uncalibrated),
        "decision_curve": decision_curve(label, probability),
        "subgroups": subgroups(label, probability, thresholds, groups, seed, cluster=cluster),
    }
    if how != "none":
        result["count_baseline"] = count_baseline(label, predictions.n_recordings(), seed)
    return cast(SplitMetrics, result)


def _calibration_of(label: Ints, probability: Floats) -> dict[str, float | None]:
    """Return the calibration metrics without intervals, None where undefined."""
    columns = calibration_metrics(label, probability, np.ones((1, len(label))))
    return {name: none_if_nan(float(column[0])) for name, column in columns.items()}


def _count_mixed_patients(predictions: Predictions) -> int:
    """Count patients who have recordings of both labels."""
    positive = predictions.patient[predictions.label == 1]
    negative = predictions.patient[predictions.label == 0]
    return len(np.intersect1d(positive, negative))


def excluded(predictions: Predictions, store: Store, eligible: NDArray[np.int64]) -> Excluded:
    """Count the recordings of `eligible` rows (n,) that `missing=drop` left out.

    Patients are counted where no recording of theirs is left.
    """
    rows = np.setdiff1d(eligible, predictions.rows)
    patient, label = store.array("patient")[rows], store.array("label")[rows]
    without_any = ~np.isin(patient, predictions.patient)
    return {
        "reason": "a lead is missing",
        "n_records": len(rows),
        "n_positive_records": int((label == 1).sum()),
        "n_patients": len(np.unique(patient[without_any])),
        "n_positive": len(np.unique(patient[without_any & (label == 1)])),
    }


def metrics_match(
    metrics: Mapping[str, Any], records: Predictions, calibration: Calibration, threshold: float
) -> bool:
    """Say whether saved metrics belong to labelled predictions: equal counts, and equal AUROC."""
    try:
        entries = records.by_patient(metrics["aggregation"])
        saved_auroc = metrics["metrics"]["auroc"]["value"]
        saved_counts = [metrics[key] for key in ("n_records", "n_items", "n_positive_items")]
        probability, _ = entries.probability_and_threshold(calibration, threshold)
        auroc, _ = auroc_auprc(entries.label, probability)
        if saved_auroc is None or auroc is None:
            same_auroc = saved_auroc is auroc
        else:
            same_auroc = bool(abs(saved_auroc - auroc) < _SAME_AUROC)
    except (KeyError, TypeError):  # a damaged file
        return False
    counts = [len(records.rows), len(entries.label), int(entries.label.sum())]
    return same_auroc and saved_counts == counts
