"""Evaluate a finished run on rows of a store, its own or another one."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from ecgfit.data.rows import select_rows
from ecgfit.evaluation.split_metrics import evaluate_predictions
from ecgfit.inference.lead_shift import lead_shift
from ecgfit.inference.predictions import Aggregate, Predictions
from ecgfit.inference.scorer import Ensemble, load_run, predict_rows, without_lead
from ecgfit.metrics.paired import paired_difference
from ecgfit.metrics.results import MetricDifference, SplitMetrics
from ecgfit.run import RunFolder
from ecgprep.errors import InputError, StoreError
from ecgprep.files.atomic import write_json
from ecgprep.files.output import check_folder
from ecgprep.leads import LEADS
from ecgprep.store.reader import Store

N_BOOTSTRAP_LEADS = 500
"""Resamples for each lead: there are eight comparisons of all metrics."""

_SHOWN_ROWS = 8


def evaluate_run(
    run: RunFolder,
    store: Store,
    split: str,
    *,
    external: bool = False,
    trained_on: Store | None = None,
    aggregate: str | None = None,
    each_lead: bool = False,
) -> SplitMetrics:
    """Evaluate a finished run on a split of its own store or, with `external`, of another one.

    Writes metrics_<name>.json and predictions_<name>.csv into the run and returns the metrics.
    The name is the split, or external_<start of content_sha256>. With an `aggregate` other than
    the run's the metrics go to metrics_<name>_<aggregate>.json beside the run's own.

    Statistics, calibration and threshold are always the run's. With `trained_on`, the run's own
    store, an external store is searched for recordings that the run has seen. Raises InputError
    and StoreError.
    """
    _check_rows_may_judge(run, store, split, external)
    if each_lead and run.config.tabular_only:
        raise InputError(
            f"{run.path} does not use the ECG, so there is no lead to take away. "
            "Leave out --each-lead."
        )
    check_folder(run.path)
    how = cast(Aggregate, aggregate or run.config.aggregate)
    name = f"external_{store.content_sha256[:12]}" if external else split
    ensemble, amp = load_run(run)
    rows = select_rows(store, split, run.config.missing)
    shared = count_shared_recordings(run, trained_on, store, rows) if external else None
    predictions = predict_rows(ensemble, store, rows, run.config.tabular, amp)
    metrics = _metrics_of_run(run, store, split, name, how, predictions)
    shift = lead_shift(run, store.array("lead_mask")[rows])
    if shift is not None:
        metrics["lead_shift"] = shift
    if external:
        metrics["external"] = {
            "store": store.path.name,
            "content_sha256": store.content_sha256,
            "rows": split,
            "shared_recordings": shared,
        }
    if each_lead:
        metrics["lead_removal"] = lead_removal(ensemble, run, store, predictions, how, amp)
    suffix = "" if how == run.config.aggregate else f"_{how}"
    predictions.save(run.path / f"predictions_{name}.csv", run.calibration)
    write_json(run.path / f"metrics_{name}{suffix}.json", metrics)
    return metrics


def _check_rows_may_judge(run: RunFolder, store: Store, split: str, external: bool) -> None:
    """Refuse another store unless `external`, and rows that the folds of the run trained on."""
    if external:
        if run.is_of(store):
            raise StoreError(
                f"{run.path} was trained on {store.path}, so this is not an external test. "
                "Leave out --external."
            )
        run.check_layout(store)
        return
    run.check_store(store)
    if run.config.folds and split in ("train", "val", "all"):
        raise InputError(
            f"{run.path} was cross-validated on train and val, whose rows trained it, so {split} "
            "rows cannot judge it. Its metrics_oof.json judges each patient by a model that did "
            "not see them. Evaluate the test split or another store."
        )


def _metrics_of_run(
    run: RunFolder, store: Store, split: str, name: str, how: Aggregate, predictions: Predictions
) -> SplitMetrics:
    """Evaluate predictions at the run's operating point. Raises InputError."""
    try:
        metrics = evaluate_predictions(
            predictions,
            name,
            store,
            run.calibration,
            run.threshold,
            how,
            run.config.seed,
            eligible=select_rows(store, split, "mask"),
        )
    except ValueError as error:
        raise InputError(f"{store.path}: the {split} rows cannot be evaluated: {error}") from None
    notes = [metrics["note"]]
    if how != run.config.aggregate:
        notes.append(
            f"epoch, calibration and threshold were chosen with aggregate={run.config.aggregate}, "
            f"and are used with {how} as they are"
        )
    if run.earlier and split != "val":
        notes.append(
            "the operating point was decided again after training: if these results were known by "
            "then, expect worse results elsewhere"
        )
    metrics["note"] = "; ".join(note for note in notes if note) or None
    return metrics


def count_shared_recordings(
    run: RunFolder, trained_on: Store | None, store: Store, rows: NDArray[np.int64]
) -> int | None:
    """Return 0 where no recording at `rows` of an external store trained or selected the run.

    Returns None without `trained_on`, as nothing can then be compared. Equal waveforms are found
    by their checksums; a recording that was exported again with other samples is not found.
    Raises StoreError where any recording is shared.
    """
    if trained_on is None:
        return None
    run.check_store(trained_on)
    seen_rows = [select_rows(trained_on, split, "mask") for split in ("train", "val")]
    seen = trained_on.array("crc32c")[np.concatenate(seen_rows)]
    shared = rows[np.isin(store.array("crc32c")[rows], seen)]
    if len(shared):
        shown = ", ".join(map(str, shared[:_SHOWN_ROWS]))
        raise StoreError(
            f"{store.path}: {len(shared):,} recordings trained or selected {run.path} "
            f"(store rows {shown}), so this is not an external test. "
            "Build the store without these patients."
        )
    return 0


def lead_removal(
    ensemble: Ensemble, run: RunFolder, store: Store, whole: Predictions, how: Aggregate, amp: bool
) -> dict[str, dict[str, MetricDifference]]:
    """Return {lead: what the metrics lose when it is missing}, paired by patient, with intervals.

    `whole` are the predictions from all leads. Value a is with the lead, value b without it.
    """
    patients = whole.by_patient(how)
    probability = run.calibration.apply(patients.logit_difference())
    result = {}
    for lead in LEADS:
        predictions = predict_rows(
            ensemble, store, whole.rows, run.config.tabular, amp, without_lead(lead)
        )
        difference = predictions.by_patient(how).logit_difference()
        comparison = paired_difference(
            patients.label,
            probability,
            run.calibration.apply(difference),
            run.threshold,
            run.threshold,
            run.config.seed,
            N_BOOTSTRAP_LEADS,
            patients.cluster(how),
        )
        result[lead] = comparison["metrics"]
    return result
