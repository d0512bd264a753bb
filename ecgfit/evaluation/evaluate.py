"""From predictions to the metrics that are reported: per patient, calibrated and called as validation decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ecgfit.config import TrainConfig
from ecgfit.data.rows import select_rows
from ecgfit.inference.predictions import UNCALIBRATED, Aggregate, Predictions
from ecgfit.inference.scorer import Ensemble, load_run, predict_rows, without_lead
from ecgfit.metrics.bootstrap import count_patients
from ecgfit.metrics.calibration import Calibration, fit_calibration
from ecgfit.metrics.curves import decision_curve, reliability_curve
from ecgfit.metrics.definitions import auroc_auprc, calibration_metrics
from ecgfit.metrics.paired import paired_difference
from ecgfit.metrics.subgroups import count_baseline, subgroups
from ecgfit.metrics.summary import evaluate
from ecgfit.metrics.thresholds import threshold_with_interval
from ecgfit.run import Run
from ecgprep.errors import InputError, StoreError
from ecgprep.files.atomic import write_json
from ecgprep.files.output import check_folder
from ecgprep.leads import LEADS
from ecgprep.store.reader import Store

AGE_BANDS = (50, 65, 75)
"""Lower bounds of the age groups after the first, in years."""


MOST_CATEGORIES = 5
"""A covariate with at most so many values is shown by value, any other cut at its median."""


NOTES = {
    "train": "the model was trained on these recordings: the numbers are far better than elsewhere",
    "val": "epoch, calibration and threshold were chosen on these patients: the numbers are better than elsewhere",
    "all": "most of these recordings trained the model: the numbers are far better than elsewhere",
    "oof": "each patient is judged by the model that neither trained nor was selected on them, at that model's own calibration and threshold",
}
"""What a reader must know of results on these rows; none is needed for test rows, nor for another store."""


def operating_point(
    predictions: Predictions, config: TrainConfig, chosen_on: str
) -> tuple[Calibration, dict[str, Any]]:
    """Return the calibration and the content of threshold.json, fitted to predictions that are not test. Raises InputError."""
    patients = predictions.by_patient(config.aggregate)
    try:
        calibration = fit_calibration(config.calibration, patients.difference(), patients.label)
        cluster = patients.drawn_together(config.aggregate)
        chosen = threshold_with_interval(
            patients.label,
            calibration.apply(patients.difference()),
            config.threshold,
            config.seed,
            cluster=cluster,
        )
    except ValueError as error:
        raise InputError(
            f"The threshold cannot be chosen on {chosen_on}: {error} Use another --threshold."
        ) from None
    n_patients, n_positive = count_patients(patients.label, cluster)
    return calibration, {
        **chosen,
        "chosen_on": chosen_on,
        "n_patients": n_patients,
        "n_positive": n_positive,
        "level": level(config.aggregate),
        "aggregation": config.aggregate,
    }


def level(how: Aggregate) -> str:
    """Return what one entry of the metrics is."""
    return "recording" if how == "none" else "patient"


def report(
    predictions: Predictions,
    name: str,
    store: Store,
    calibration: Calibration,
    threshold: float,
    how: Aggregate,
    seed: int,
    raw: Predictions | None = None,
    eligible: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Return the content of metrics_<name>.json: see docs/metrics.md. `raw` are the logits before calibration, where `predictions` are not;
    `eligible` the rows that were to be judged, among them those left out for a missing lead."""
    patients = predictions.by_patient(how)
    probability, called_at = patients.judge(calibration, threshold)
    cluster = patients.drawn_together(how)
    uncalibrated = UNCALIBRATED.apply((raw or predictions).by_patient(how).difference())
    one = np.ones((1, len(patients.label)))
    before = {
        key: _or_none(float(value[0]))
        for key, value in calibration_metrics(patients.label, uncalibrated, one).items()
    }
    result = {
        "split": name,
        "note": NOTES.get(name),
        "level": level(how),
        "aggregation": how,
        "n_records": len(predictions.rows),
        "n_positive_records": int((predictions.label == 1).sum()),
        "n_mixed_patients": _n_mixed(predictions),
        "excluded": None if eligible is None else excluded(predictions, store, eligible),
        **evaluate(patients.label, probability, called_at, seed, cluster=cluster),
        "calibration": calibration.to_json(),
        "before_calibration": before,
        "reliability_curve": reliability_curve(patients.label, probability),
        "reliability_curve_before": reliability_curve(patients.label, uncalibrated),
        "decision_curve": decision_curve(patients.label, probability),
        "subgroups": subgroups(
            patients.label,
            probability,
            called_at,
            groups_of(store, predictions, patients),
            seed,
            cluster=cluster,
        ),
    }
    if how != "none":
        result["count_baseline"] = count_baseline(patients.label, predictions.n_recordings(), seed)
    return result


def is_of(
    metrics: Mapping[str, Any], records: Predictions, calibration: Calibration, threshold: float
) -> bool:
    """Say whether metrics are those of labelled predictions: the same counts, and the same AUROC."""
    try:
        items = records.by_patient(metrics["aggregation"])
        value, counts = (
            metrics["metrics"]["auroc"]["value"],
            (metrics["n_records"], metrics["n_items"], metrics["n_positive_items"]),
        )
        found = auroc_auprc(items.label, items.judge(calibration, threshold)[0])[0]
        agree = bool(value == found if None in (value, found) else abs(value - found) < 1e-3)
    except (KeyError, TypeError):
        return False
    return agree and counts == (len(records.rows), len(items.label), int(items.label.sum()))


def excluded(predictions: Predictions, store: Store, eligible: NDArray[np.int64]) -> dict[str, Any]:
    """Count what `missing=drop` left out of the rows (n,) that were to be judged: recordings, and patients who have none left."""
    rows = np.setdiff1d(eligible, predictions.rows)
    patient, label = store.array("patient")[rows], store.array("label")[rows]
    gone = ~np.isin(patient, predictions.patient)
    return {
        "reason": "a lead is missing",
        "n_records": len(rows),
        "n_positive_records": int((label == 1).sum()),
        "n_patients": len(np.unique(patient[gone])),
        "n_positive": len(np.unique(patient[gone & (label == 1)])),
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def _n_mixed(predictions: Predictions) -> int:
    """Number of patients with recordings of both labels."""
    both = [set(predictions.patient[predictions.label == label].tolist()) for label in (0, 1)]
    return len(both[0] & both[1])


def groups_of(
    store: Store, predictions: Predictions, patients: Predictions
) -> dict[str, NDArray[np.str_]]:
    """Return the groupings of the entries of `patients`: each covariate, whether leads were missing, and the recordings' own rate.

    Covariates and rate are those of a patient's first recording; leads are missing where any recording lacks one.
    """
    lacks = ~store.array("lead_mask")[predictions.rows].all(axis=1)
    lacking = (
        lacks if patients is predictions else np.isin(patients.patient, predictions.patient[lacks])
    )
    groups = {
        "leads": np.where(lacking, "some missing", "all eight"),
        "source_rate": np.array([f"{rate:g} Hz" for rate in store.array("rate_hz")[patients.rows]]),
    }
    for column, name in enumerate(store.covariate_names):
        groups[name] = covariate_groups(name, store.array("covariates")[patients.rows, column])
    return groups


def covariate_groups(name: str, values: NDArray[np.float32]) -> NDArray[np.str_]:
    """Return the group of each value: by value where there are few, `age` in bands, any other below or from the median; or `missing`."""
    known = values[~np.isnan(values)]
    if len(np.unique(known)) <= MOST_CATEGORIES:
        return np.array(["missing" if np.isnan(value) else f"{value:g}" for value in values])
    bounds: Sequence[float] = AGE_BANDS if name.lower() == "age" else (float(np.median(known)),)
    edges = [f"{bound:g}" for bound in bounds]
    first = f"0 to below {edges[0]}" if len(edges) > 1 else f"below {edges[0]}"
    names = [
        first,
        *(f"{low} to below {high}" for low, high in pairwise(edges)),
        f"{edges[-1]} and above",
    ]
    return np.array(
        [
            "missing"
            if np.isnan(value)
            else names[int(np.searchsorted(bounds, value, side="right"))]
            for value in values
        ]
    )


def evaluate_run(
    run: Run,
    store: Store,
    split: str,
    *,
    external: bool = False,
    trained_on: Store | None = None,
    aggregate: str | None = None,
    each_lead: bool = False,
) -> dict[str, Any]:
    """Evaluate a finished run on a split of the store it was trained on, or with `external` on another store.

    Writes metrics_<name>.json and predictions_<name>.csv into the run, where name is the split, or external_<start of content_sha256>; with
    another `aggregate` than the run's the metrics are metrics_<name>_<aggregate>.json, beside its own. Statistics, calibration and threshold
    are the run's. `trained_on`, the run's own store, lets an external store be searched for its recordings. Raises InputError, StoreError.
    """
    _check_judge(run, store, split, external)
    if each_lead and run.config.tabular_only:
        raise InputError(
            f"{run.path} does not use the ECG: there is no lead to take away. Leave --each-lead out."
        )
    check_folder(run.path)
    how = cast(Aggregate, aggregate or run.config.aggregate)
    name = f"external_{store.content_sha256[:12]}" if external else split
    ensemble, amp = load_run(run)
    rows = select_rows(store, split, run.config.missing)
    shared = check_apart(run, trained_on, store, rows) if external else None
    predictions = predict_rows(ensemble, store, rows, run.config.tabular, amp)
    try:
        eligible = select_rows(store, split, "mask")
        metrics = report(
            predictions,
            name,
            store,
            run.calibration,
            run.threshold,
            how,
            run.config.seed,
            eligible=eligible,
        )
    except ValueError as error:
        raise InputError(f"{store.path}: the {split} rows cannot be evaluated: {error}") from None
    if external:
        metrics["external"] = {
            "store": store.path.name,
            "content_sha256": store.content_sha256,
            "rows": split,
            "shared_recordings": shared,
        }
    if how != run.config.aggregate:
        judged = f"epoch, calibration and threshold were chosen with aggregate={run.config.aggregate}, and are used with {how} as they are"
        metrics["note"] = "; ".join(filter(None, (metrics["note"], judged)))
    if each_lead:
        metrics["lead_removal"] = lead_removal(ensemble, run, store, predictions, how, amp)
    predictions.save(run.path / f"predictions_{name}.csv", run.calibration)
    write_json(
        run.path / f"metrics_{name}{'' if how == run.config.aggregate else f'_{how}'}.json", metrics
    )
    return metrics


def _check_judge(run: Run, store: Store, split: str, external: bool) -> None:
    """Refuse rows that cannot judge the run: another store that is not said to be one, or rows that its folds trained on."""
    if external and run.content_sha256 == store.content_sha256:
        raise StoreError(
            f"{store.path} is the store that {run.path} was trained on: it is no external test. Leave --external out."
        )
    if external:
        run.check_layout(store)
        return
    run.check_store(store)
    if run.config.folds and split in ("train", "val", "all"):
        raise InputError(
            f"{run.path} was cross-validated within train and val, whose rows trained it: {split} rows cannot judge it. Its metrics_oof.json "
            "judges each patient by a model that did not see them; evaluate the test split, or another store."
        )


def check_apart(
    run: Run, trained_on: Store | None, store: Store, rows: NDArray[np.int64]
) -> int | None:
    """Return 0 when no recording at `rows` of an external store trained or selected the run; None where that was not looked at.

    Equal waveforms are found by their checksums: the same recording exported again in other bits is not. Raises StoreError.
    """
    if trained_on is None:
        return None
    run.check_store(trained_on)
    known = [
        trained_on.array("crc32c")[select_rows(trained_on, split, "mask")]
        for split in ("train", "val")
    ]
    shared = rows[np.isin(store.array("crc32c")[rows], np.concatenate(known))]
    if len(shared):
        raise StoreError(
            f"{store.path}: {len(shared):,} recordings trained or selected {run.path} (store rows {', '.join(map(str, shared[:8]))}): this is no "
            "external test. Build the store without these patients."
        )
    return 0


def lead_removal(
    ensemble: Ensemble, run: Run, store: Store, whole: Predictions, how: Aggregate, amp: bool
) -> dict[str, Any]:
    """Return, for each lead, what its absence in all recordings does to the metrics: paired by patient, with intervals."""
    result = {}
    patients = whole.by_patient(how)
    cluster = patients.drawn_together(how)
    probability = run.calibration.apply(patients.difference())
    for lead in LEADS:
        lacking = predict_rows(
            ensemble, store, whole.rows, run.config.tabular, amp, without_lead(lead)
        ).by_patient(how)
        changed = run.calibration.apply(lacking.difference())
        result[lead] = paired_difference(
            patients.label,
            probability,
            changed,
            run.threshold,
            run.threshold,
            run.config.seed,
            500,
            cluster,
        )["metrics"]
    return result
