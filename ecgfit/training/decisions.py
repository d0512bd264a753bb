"""What validation decides when training ends: calibration, threshold, results."""

from __future__ import annotations

from pathlib import Path

from ecgfit.checkpoint import load_checkpoint
from ecgfit.config import TrainConfig
from ecgfit.data.rows import select_rows
from ecgfit.evaluation.operating_point import choose_operating_point
from ecgfit.evaluation.split_metrics import evaluate_predictions, metrics_match
from ecgfit.inference.predictions import Predictions
from ecgfit.metrics.calibration import Calibration
from ecgfit.metrics.results import OperatingPoint
from ecgfit.run import Run
from ecgfit.run_files import (
    BEST,
    CALIBRATION,
    DECIDED,
    NORM_STATS,
    THRESHOLD,
)
from ecgfit.training.trainer import Trainer
from ecgprep.errors import InputError, StoreError
from ecgprep.files.atomic import write_json
from ecgprep.store.reader import Store


def _has_ended(outdir: Path) -> bool:
    """Say whether training has come to its end in a folder, whatever is left of its last checkpoint: validation has begun to decide."""
    return (outdir / BEST).exists() and any(
        (outdir / name).exists()
        for name in (
            THRESHOLD,
            CALIBRATION,
            *(f"metrics_{rows}.json" for rows in (*DECIDED, "test")),
        )
    )


def is_whole(outdir: Path, config: TrainConfig, ensemble: Path | None = None) -> bool:
    """Say whether a run, trained with `config`, is finished and all that its end has written is there and can be read."""
    if not (outdir / THRESHOLD).exists():
        return False
    try:
        run = Run(outdir, ensemble)
        for name in DECIDED[: 1 + (config.fold >= 0)]:
            metrics = run.read_json(f"metrics_{name}.json")
            found = Predictions.load(outdir / f"predictions_{name}.csv", run.calibration)
            if metrics.get("threshold") != run.threshold or not metrics_match(
                metrics, found, run.calibration, run.threshold
            ):
                return False
    except (StoreError, InputError):
        return False
    return True


def _decide(trainer: Trainer, outdir: Path) -> None:
    """Go back to the best epoch and write what validation decides; in cross-validation also how the scored fold was predicted."""
    best = trainer.kept()
    best.model.load_state_dict(load_checkpoint(outdir / BEST)["model"])
    predictions = {
        name: trainer.predict(best, name) for name in ("val", "scored") if name in trainer.rows
    }
    if not trainer.ranks.is_first:
        return
    trainer.stats.save(outdir / NORM_STATS)  # the same again, where it is there
    _write_decisions(
        outdir,
        trainer.config,
        trainer.store,
        {"oof" if name == "scored" else name: found for name, found in predictions.items()},
    )


def _write_decisions(
    outdir: Path, config: TrainConfig, store: Store, predictions: dict[str, Predictions]
) -> None:
    """Let the predictions of `val` choose calibration and threshold, and write how all are judged by them."""
    calibration, threshold = choose_operating_point(predictions["val"], config, "val")
    for name, found in predictions.items():
        found.save(outdir / f"predictions_{name}.csv", calibration)
        eligible = (
            select_rows(store, name, "mask") if config.fold < 0 else None
        )  # of a fold there is no telling: it is made of usable rows
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
    _finish(outdir, calibration, threshold)


def _finish(outdir: Path, calibration: Calibration, threshold: OperatingPoint) -> None:
    """Write how the run is to be used; the threshold, which marks a run as finished, last."""
    write_json(outdir / CALIBRATION, calibration.to_json())
    write_json(outdir / THRESHOLD, threshold)
