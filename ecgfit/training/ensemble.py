"""Train the members of an ensemble or of a cross-validation, and judge them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ecgfit.compute.device import pick_device, set_up, use_amp
from ecgfit.data.rows import select_rows
from ecgfit.evaluation.operating_point import choose_operating_point
from ecgfit.evaluation.split_metrics import evaluate_predictions
from ecgfit.inference.predictions import UNCALIBRATED, Predictions
from ecgfit.inference.scorer import load_ensemble, predict_rows
from ecgfit.run import RunFolder
from ecgfit.run_files import CONFIG, delete_run, save_config
from ecgfit.training.decisions import finish, write_decisions
from ecgfit.training.job import Job
from ecgfit.training.outdir import check_same_settings, recorded_facts
from ecgfit.training.single import train_one
from ecgfit.training.state import RunState, decided_again, run_state
from ecgfit.training.trainer import Trainer, training_rows
from ecgprep.files.atomic import write_json

CURVE_METRICS = ("auroc", "auprc")


def train_ensemble(job: Job) -> None:
    """Train each member in its own folder, and let their mean logit be judged.

    It is judged on validation, or in cross-validation out of fold.
    """
    members = job.members()
    for member in members.values():  # a fold without both classes is refused before any training
        training_rows(member.config, job.store)
    if job.ranks.is_first:
        _begin_or_check(job, members)
    job.ranks.wait()

    for name, member in members.items():
        if run_state(member.outdir, member.config, job.outdir) is RunState.FINISHED:
            check_same_settings(member)
            continue
        job.say(f"member {name} of {', '.join(members)}")
        train_one(member)

    if job.resume and decided_again(job.outdir):
        job.say(f"{job.outdir} is finished already, and was decided again since")
    elif job.ranks.is_first:
        trained = [RunFolder(member.outdir, job.outdir) for member in members.values()]
        if job.config.folds:
            _decide_out_of_fold(job, trained)
        else:
            _decide_on_validation(job, trained)
    job.ranks.wait()


def _begin_or_check(job: Job, members: dict[str, Job]) -> None:
    """Write the settings of a new ensemble, or check that they are those of the one being resumed.

    Faulty settings and weights are refused before anything is deleted.
    """
    if (job.outdir / CONFIG).exists() and not job.overwrite:
        check_same_settings(job)
        return
    first_member = next(iter(members.values()))
    first = Trainer.prepare(first_member.config, job.store, job.ranks)
    first.load_weights()
    if job.overwrite:
        delete_run(job.outdir)
    job.outdir.mkdir(parents=True, exist_ok=True)
    facts = recorded_facts(first, None)
    if job.config.folds:
        n_records = sum(len(rows) for rows in first.rows.values())
        facts["records"] = {"folds": n_records}
    save_config(job.outdir, job.config, facts)


def _decide_on_validation(job: Job, members: Sequence[RunFolder]) -> None:
    """Write what validation decides for the members' mean logit, and its results there."""
    config = job.config
    set_up(config.threads)
    device = pick_device(config.device)
    amp = use_amp(config.amp, device, members[0].recorded.get("amp"))
    ensemble = load_ensemble(list(members), device)
    rows = training_rows(members[0].config, job.store)["val"]
    predictions = predict_rows(ensemble, job.store, rows, config.tabular, amp)
    write_decisions(job.outdir, config, job.store, {"val": predictions})


def _decide_out_of_fold(job: Job, members: Sequence[RunFolder]) -> None:
    """Write the results out of fold, and what they decide for the models' mean logit.

    Each patient is judged by the model that did not see them. The results use each model's own
    calibration and threshold, chosen on another fold than the one it is judged by. The mean logit,
    which is for other patients, gets one calibration and threshold from all predictions out of
    fold, as scikit-learn's CalibratedClassifierCV (ensemble=False) does: no patient is left on whom
    the mean itself could be calibrated.
    """
    config, store, outdir = job.config, job.store, job.outdir
    parts = [
        Predictions.load(member.path / "predictions_oof.csv", member.calibration)
        for member in members
    ]
    raw = Predictions.concatenate(parts)
    calibration, threshold = choose_operating_point(raw, config, "oof")

    judged = Predictions.concatenate(
        [
            part.with_calibration(member.calibration, member.threshold)
            for part, member in zip(parts, members, strict=True)
        ]
    )
    judged.save(outdir / "predictions_oof.csv", UNCALIBRATED)
    metrics = evaluate_predictions(
        judged,
        "oof",
        store,
        replace(UNCALIBRATED, note="each fold's own, in the logits"),
        threshold["value"],
        config.aggregate,
        config.seed,
        raw,
        np.concatenate([select_rows(store, split, "mask") for split in ("train", "val")]),
    )
    write_json(outdir / "metrics_oof.json", metrics | {"folds": fold_results(members)})
    finish(outdir, calibration, threshold)


def fold_results(members: Sequence[RunFolder]) -> dict[str, Any]:
    """Return each fold's own results, and their mean and standard deviation over the folds.

    Predictions of different models are not pooled.
    """
    each = {}
    for member in members:
        found = member.read_json("metrics_oof.json")
        counts = {key: found[key] for key in ("n_patients", "n_positive", "threshold")}
        values = {key: found["metrics"][key]["value"] for key in CURVE_METRICS}
        each[member.path.name] = counts | values
    summary = {}
    for key in CURVE_METRICS:
        over_folds = np.array([result[key] for result in each.values()])
        summary[key] = {"mean": float(over_folds.mean()), "sd": float(over_folds.std(ddof=1))}
    return {"each": each, **summary}
