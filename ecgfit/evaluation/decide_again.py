"""Choose a run's operating point again, from the predictions that chose it when training ended.

Rows of the test split are never looked at, and nothing is trained. The earlier decisions stay in
threshold.json, and results that were made under one of them are marked until `ecgfit eval` makes
them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecgfit.config import TrainConfig, make_config
from ecgfit.evaluation.operating_point import choose_operating_point
from ecgfit.inference.predictions import Predictions
from ecgfit.metrics.calibration import Calibration
from ecgfit.metrics.results import Decided
from ecgfit.run import RunFolder
from ecgfit.run_files import CALIBRATION, LOCKED, MEMBERS, RESULT, THRESHOLD, looks_like_run
from ecgprep.errors import InputError, StoreError
from ecgprep.files.atomic import write_json
from ecgprep.files.lock import locked
from ecgprep.files.output import check_folder

OUTDATED = "made under an earlier decision than the run has now; `ecgfit eval` makes it again"
OUTDATED_FOLDS = "made with each fold's own decision when training ended, not with the run's"


def decide_again(run: RunFolder, rule: str | None, calibration: str | None) -> Decided:
    """Choose the threshold by another rule, the calibration by another method, or both.

    What is None stays: the calibration to the bit, the threshold's rule. Returns the new content of
    threshold.json. Raises InputError where nothing is asked for, where a value is not allowed or
    the rule has no answer, and for the member of an ensemble; StoreError for a damaged run.
    """
    config = _asked(run, rule, calibration)
    chosen_on = str(run.point.get("chosen_on", "val"))
    check_folder(run.path)
    with locked(run.path / LOCKED, wait=False, busy=f"{run.path} is being trained or decided on"):
        kept = run.calibration if calibration is None else None
        predictions = _predictions(run, chosen_on)
        found, point = choose_operating_point(predictions, config, chosen_on, kept)
        if not _are_the_same_patients(point, run.point):
            raise StoreError(
                f"{run.path}: the {chosen_on} predictions are of other patients than those that "
                "chose the threshold when training ended. Put the run's own back, or train again."
            )
        decided: Decided = {  # type: ignore[typeddict-item]
            **point,
            "calibration": found.to_json(),
            "earlier": [*run.earlier, _as_earlier(run)],
        }
        _write(run, decided, found)
    run.read_decision()
    return decided


def _asked(run: RunFolder, rule: str | None, calibration: str | None) -> TrainConfig:
    """Return the run's settings with what is asked for. Raises InputError."""
    if rule is None and calibration is None:
        raise InputError("Say what to decide: a threshold rule, a calibration, or both.")
    above = run.path.resolve().parent
    if above.name == MEMBERS and looks_like_run(above.parent):
        raise InputError(
            f"{run.path} is a member of an ensemble, whose results count on the member's own "
            "decision. Decide on the ensemble."
        )
    current = {"threshold": run.rule, "calibration": run.calibration.method}
    asked = {"threshold": rule, "calibration": calibration}
    given = {name: value for name, value in asked.items() if value is not None}
    return make_config(run.config.model_dump() | current | given, "decide")


def _predictions(run: RunFolder, chosen_on: str) -> Predictions:
    """Return the predictions with their original logits; out of fold they are in the members."""
    if chosen_on == "val":
        known = [calibration for _, calibration in run.decisions]
        return Predictions.load(run.path / "predictions_val.csv", *known)
    parts = [
        Predictions.load(member.path / f"predictions_{chosen_on}.csv", member.calibration)
        for member in run.members
    ]
    return Predictions.concatenate(parts)


def _are_the_same_patients(point: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Compare the counts of two decisions, as far as they were noted."""
    counts = ("n_patients", "n_positive")
    return all(point[name] == before.get(name, point[name]) for name in counts)


def _as_earlier(run: RunFolder) -> dict[str, Any]:
    """Return the decision in force, as the history keeps it: it holds no date."""
    point = {key: value for key, value in run.point.items() if key != "earlier"}
    return point | {"calibration": run.calibration.to_json()}


def _write(run: RunFolder, decided: Decided, calibration: Calibration) -> None:
    """Mark results first, then decide by one file, which holds the calibration as well.

    A program that is killed in between leaves the earlier decision in force, or the new one.
    calibration.json, written last, is for other readers.
    """
    marked = _marked_results(run, decided["value"], calibration)
    for path, content in marked.items():
        write_json(path, content)
    write_json(run.path / THRESHOLD, decided)
    write_json(run.path / CALIBRATION, calibration.to_json())


def _marked_results(
    run: RunFolder, threshold: float, calibration: Calibration
) -> dict[Path, dict[str, Any]]:
    """Return the new content of those results whose mark changes. Raises StoreError."""
    changed = {}
    for path in sorted(run.path.glob("metrics_*.json")):
        if not RESULT.fullmatch(path.name):
            continue
        content = run.read_json(path.name)
        unmarked = {key: value for key, value in content.items() if key != "outdated"}
        marked = unmarked | _mark(unmarked, threshold, calibration)
        if marked != content:
            changed[path] = marked
    return changed


def _mark(content: dict[str, Any], threshold: float, calibration: Calibration) -> dict[str, str]:
    """Return the entry `outdated` of results; empty where they were made under this decision."""
    if content.get("threshold") is None:
        return {"outdated": OUTDATED_FOLDS}
    same_threshold = content["threshold"] == threshold
    if same_threshold and content.get("calibration") == calibration.to_json():
        return {}
    return {"outdated": OUTDATED}
