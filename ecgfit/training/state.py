"""How far the run in a folder has come, read from its files."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from ecgfit.config import TrainConfig
from ecgfit.evaluation.split_metrics import metrics_match
from ecgfit.inference.predictions import Predictions
from ecgfit.run import RunFolder
from ecgfit.run_files import BEST, CALIBRATION, CONFIG, DECIDED, LAST, THRESHOLD
from ecgprep.errors import InputError, StoreError


class RunState(Enum):
    """What `ecgfit train --resume` finds in a run folder, and so what it has to do."""

    EMPTY = "no run has begun here"
    STARTED = "settings are recorded, but there is no checkpoint: training begins anew"
    RESUMABLE = "training continues from the last checkpoint"
    TRAINED = "the weights are final; what validation decides is missing or damaged"
    FINISHED = "all that training writes is there and can be read"
    WEIGHTS_LOST = "there are results, but the weights they belong to are gone"


def run_state(outdir: Path, config: TrainConfig, ensemble: Path | None = None) -> RunState:
    """Return the state of a single model's run that was trained with `config`.

    `ensemble` is the folder of the run that it is a member of. The checkpoint to resume from may
    be missing or damaged once the weights are final: nothing needs it any more.
    """
    if not (outdir / CONFIG).exists():
        return RunState.EMPTY
    if (outdir / BEST).exists() and _validation_has_decided(outdir):
        is_finished = _is_whole(outdir, config, ensemble)
        return RunState.FINISHED if is_finished else RunState.TRAINED
    if (outdir / LAST).exists():
        return RunState.RESUMABLE
    if (outdir / THRESHOLD).exists():
        return RunState.WEIGHTS_LOST
    return RunState.STARTED


def _validation_has_decided(outdir: Path) -> bool:
    """Say whether the end of training has begun to write its results."""
    metrics = [f"metrics_{rows}.json" for rows in (*DECIDED, "test")]
    return any((outdir / name).exists() for name in (THRESHOLD, CALIBRATION, *metrics))


def _is_whole(outdir: Path, config: TrainConfig, ensemble: Path | None) -> bool:
    """Say whether all that the end of training writes is there, readable and consistent."""
    if not (outdir / THRESHOLD).exists():
        return False
    try:
        run = RunFolder(outdir, ensemble)
        judged = DECIDED if config.fold >= 0 else DECIDED[:1]
        return all(_results_agree(run, rows) for rows in judged)
    except (StoreError, InputError):
        return False


def _results_agree(run: RunFolder, rows: str) -> bool:
    """Say whether metrics and predictions on some rows belong together and to a decision.

    Those of validation are of the first decision, unless they were made again after a later one.
    """
    metrics = run.read_json(f"metrics_{rows}.json")
    calibrations = [calibration for _, calibration in run.decisions]
    predictions = Predictions.load(run.path / f"predictions_{rows}.csv", *calibrations)
    return any(
        metrics.get("threshold") == threshold
        and metrics_match(metrics, predictions, calibration, threshold)
        for threshold, calibration in run.decisions
    )


def decided_again(outdir: Path) -> bool:
    """Say whether a finished run has been given another operating point since training."""
    if not (outdir / THRESHOLD).exists():
        return False
    try:
        return bool(RunFolder(outdir).earlier)
    except StoreError:
        return False
