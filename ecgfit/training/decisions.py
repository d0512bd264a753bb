"""What validation decides when training ends: calibration, threshold, results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ecgfit.checkpoint import load_checkpoint
from ecgfit.config import TrainConfig
from ecgfit.data.rows import select_rows
from ecgfit.evaluation.operating_point import choose_operating_point
from ecgfit.evaluation.split_metrics import evaluate_predictions
from ecgfit.inference.predictions import Predictions
from ecgfit.metrics.calibration import Calibration
from ecgfit.metrics.results import OperatingPoint
from ecgfit.run_files import BEST, CALIBRATION, NORM_STATS, THRESHOLD
from ecgfit.training.trainer import Trainer
from ecgprep.files.atomic import write_json
from ecgprep.store.reader import Store

NAME_OF_RESULTS = {"val": "val", "scored": "oof"}
"""The trainer's rows that are judged at the end, and the name of their results."""


def decide(trainer: Trainer, outdir: Path) -> None:
    """Go back to the best epoch and write what validation decides.

    In cross-validation this includes the results on the scored fold. All processes predict
    together, the first one writes.
    """
    best = trainer.kept()
    best.model.load_state_dict(load_checkpoint(outdir / BEST)["model"])
    predictions = {
        name: trainer.predict(best, rows)
        for rows, name in NAME_OF_RESULTS.items()
        if rows in trainer.rows
    }
    if not trainer.ranks.is_first:
        return
    # Written when training began; a resumed run may find it missing or damaged.
    trainer.stats.save(outdir / NORM_STATS)
    write_decisions(outdir, trainer.config, trainer.store, predictions)


def write_decisions(
    outdir: Path, config: TrainConfig, store: Store, predictions: Mapping[str, Predictions]
) -> None:
    """Choose calibration and threshold on `val`, and evaluate all predictions with them.

    `predictions` are named as their results are: val, and in cross-validation oof.
    """
    calibration, threshold = choose_operating_point(predictions["val"], config, "val")
    for name, found in predictions.items():
        found.save(outdir / f"predictions_{name}.csv", calibration)
        # A fold is made of usable rows, so nothing is known of those that were left out.
        eligible = select_rows(store, name, "mask") if config.fold < 0 else None
        metrics = evaluate_predictions(
            found,
            name,
            store,
            calibration,
            threshold["value"],
            config.aggregate,
            config.seed,
            eligible=eligible,
        )
        write_json(outdir / f"metrics_{name}.json", metrics)
    finish(outdir, calibration, threshold)


def finish(outdir: Path, calibration: Calibration, threshold: OperatingPoint) -> None:
    """Write how the run is to be used. The threshold marks a run as finished, so it comes last."""
    write_json(outdir / CALIBRATION, calibration.to_json())
    write_json(outdir / THRESHOLD, threshold)
