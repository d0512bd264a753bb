"""Train the members of an ensemble or of a cross-validation, and judge them together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ecgfit.compute.device import pick_device, set_up, use_amp
from ecgfit.compute.distributed import Ranks
from ecgfit.config import TrainConfig
from ecgfit.data.rows import select_rows
from ecgfit.evaluation.operating_point import choose_operating_point
from ecgfit.evaluation.split_metrics import evaluate_predictions
from ecgfit.inference.predictions import UNCALIBRATED, Predictions
from ecgfit.inference.scorer import load_ensemble, predict_rows
from ecgfit.run import Run
from ecgfit.run_files import (
    CONFIG,
    MEMBERS,
    delete_run,
    save_config,
)
from ecgfit.training.decisions import _finish, _write_decisions, is_whole
from ecgfit.training.outdir import _check_same_config, recorded_facts
from ecgfit.training.single import Say, _train_one
from ecgfit.training.trainer import Trainer, training_rows
from ecgprep.files.atomic import write_json
from ecgprep.store.reader import Store

OF_SINGLE_MODELS = "fitted to the single models' predictions out of fold, used on their mean logit"


CURVE_METRICS = ("auroc", "auprc")


def _train_members(
    config: TrainConfig,
    members: dict[str, TrainConfig],
    store: Store,
    outdir: Path,
    ranks: Ranks,
    resume: bool,
    overwrite: bool,
    say: Say,
    stop: Callable[[], bool],
) -> None:
    """Train each member in its own folder and let the mean logit be judged: on validation, or out of fold."""
    for member in members.values():
        training_rows(
            member, store
        )  # a fold without both classes is told before the first is trained
    if ranks.is_first:
        if (outdir / CONFIG).exists() and not overwrite:
            _check_same_config(outdir, config, store, ranks)
        else:
            first = Trainer.prepare(next(iter(members.values())), store, ranks)
            first.load_weights()  # what is wrong with settings or weights is told before anything is deleted
            if overwrite:
                delete_run(outdir)
            outdir.mkdir(parents=True, exist_ok=True)
            facts = recorded_facts(first, None)
            if config.folds:
                facts["records"] = {"folds": sum(map(len, first.rows.values()))}
            save_config(outdir, config, facts)
    ranks.wait()
    for name, member in members.items():
        folder = outdir / MEMBERS / name
        if is_whole(folder, member, outdir):
            _check_same_config(folder, member, store, ranks)
            continue
        say(f"member {name} of {', '.join(members)}")
        _train_one(member, store, folder, ranks, resume, say, stop)
    if ranks.is_first:
        decide = _decide_out_of_fold if config.folds else _decide_together
        decide(config, [Run(outdir / MEMBERS / name, outdir) for name in members], store, outdir)
    ranks.wait()


def _decide_together(config: TrainConfig, members: list[Run], store: Store, outdir: Path) -> None:
    """Write what validation decides for the members' mean logit, and how they do there."""
    set_up(config.threads)
    device = pick_device(config.device)
    scorer = load_ensemble(members, device)
    rows = training_rows(members[0].config, store)["val"]
    amp = use_amp(config.amp, device, members[0].recorded.get("amp"))
    predictions = predict_rows(scorer, store, rows, config.tabular, amp)
    _write_decisions(outdir, config, store, {"val": predictions})


def _decide_out_of_fold(
    config: TrainConfig, members: list[Run], store: Store, outdir: Path
) -> None:
    """Write how each patient is judged by the model that did not see them, and what that decides for the models' mean logit.

    The results use each model's own calibration and threshold, chosen on another fold than the one it is judged by. The mean logit, which is
    for other patients, gets one calibration and threshold from all predictions out of fold, as scikit-learn's CalibratedClassifierCV
    (ensemble=False) does: no patient is left on which the mean itself could be calibrated.
    """
    parts = [
        Predictions.load(member.path / "predictions_oof.csv", member.calibration)
        for member in members
    ]
    raw = Predictions.concatenate(parts)
    calibration, threshold = choose_operating_point(raw, config, "oof")
    if calibration.method != "none":
        calibration = replace(
            calibration, note="; ".join(filter(None, (calibration.note, OF_SINGLE_MODELS)))
        )
    judged = Predictions.concatenate(
        [
            part.with_calibration(member.calibration, member.threshold)
            for part, member in zip(parts, members, strict=True)
        ]
    )
    judged.save(outdir / "predictions_oof.csv", UNCALIBRATED)
    identity = replace(UNCALIBRATED, note="each fold's own, in the logits")
    eligible = np.concatenate([select_rows(store, split, "mask") for split in ("train", "val")])
    metrics = evaluate_predictions(
        judged,
        "oof",
        store,
        identity,
        threshold["value"],
        config.aggregate,
        config.seed,
        raw,
        eligible,
    )
    write_json(outdir / "metrics_oof.json", metrics | {"folds": fold_results(members)})
    _finish(outdir, calibration, threshold)


def fold_results(members: list[Run]) -> dict[str, Any]:
    """Return each fold's own results, and their mean and standard deviation over the folds: predictions of different models are not pooled."""
    found = {member.path.name: member.read_json("metrics_oof.json") for member in members}
    each = {
        name: {
            **{key: own[key] for key in ("n_patients", "n_positive", "threshold")},
            **{key: own["metrics"][key]["value"] for key in CURVE_METRICS},
        }
        for name, own in found.items()
    }
    values = {key: np.array([own[key] for own in each.values()]) for key in CURVE_METRICS}
    return {
        "each": each,
        **{
            key: {"mean": float(value.mean()), "sd": float(value.std(ddof=1))}
            for key, value in values.items()
        },
    }
