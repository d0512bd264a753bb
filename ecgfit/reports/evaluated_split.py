"""The results of one split: its metrics, and the predictions that they come from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ecgfit.evaluation.split_metrics import metrics_match
from ecgfit.inference.predictions import UNCALIBRATED, Aggregate, Predictions
from ecgfit.reports.wording import split_name
from ecgfit.run import RunFolder
from ecgfit.run_files import DECIDED
from ecgprep.errors import InputError

_NOT_FOR_FOLDS = ("train", "val", "all")
"""Splits that `ecgfit eval` refuses in a run of folds."""


@dataclass(frozen=True, eq=False)
class EvaluatedSplit:
    """The metrics of one split of a run, and the labelled predictions that they come from."""

    run: RunFolder
    name: str
    metrics: dict[str, Any]
    records: Predictions
    """One entry for each recording."""

    @classmethod
    def load(cls, run: RunFolder, name: str) -> EvaluatedSplit:
        """Read metrics_<name>.json and its predictions.

        Raises InputError where they are missing or damaged, or do not belong together.
        """
        file_name = f"metrics_{name}.json"
        if not (run.path / file_name).is_file():
            raise InputError(_not_evaluated(run, name))
        metrics = run.read_json(file_name)
        if is_outdated(metrics):
            raise InputError(
                f"{run.path}: {file_name} was made under an earlier decision than the run has now "
                f"(`ecgfit decide`). {_evaluate_again(run, name)}"
            )
        predictions = run.path / f"predictions_{metrics.get('split', name)}.csv"
        records = Predictions.load(predictions, run.calibration).labelled()
        if metrics.get("threshold") not in (None, run.threshold):
            raise InputError(
                f"{run.path}: {file_name} has another threshold than the run: it is of an earlier "
                f"training or decision. {_evaluate_again(run, name)}"
            )
        if not metrics_match(metrics, records, run.calibration, run.threshold):
            raise InputError(
                f"{run.path}: {file_name} and its predictions are not of one evaluation. "
                f"{_evaluate_again(run, name)}"
            )
        return cls(run, name, metrics, records)

    @property
    def title(self) -> str:
        """The readers' name of the split."""
        return split_name(self.name)

    @cached_property
    def items(self) -> Predictions:
        """One entry per patient, or per recording where these were evaluated one by one."""
        return self.records.by_patient(self._aggregation)

    @cached_property
    def probability(self) -> NDArray[np.float64]:
        """The probability of each item, (n_items,)."""
        return self.items.probability_and_threshold(self.run.calibration, self.run.threshold)[0]

    @property
    def is_by_recording(self) -> bool:
        """Whether recordings were evaluated one by one."""
        return bool(self.metrics["level"] == "recording")

    @property
    def is_recalibrated(self) -> bool:
        """Whether the probabilities differ from those of the logits themselves."""
        return bool(self.metrics["calibration"]["method"] != "none")

    @property
    def is_of_folds(self) -> bool:
        """Whether each patient was called at the threshold of their own fold's model."""
        return self.metrics["threshold"] is None

    def uncalibrated(self) -> Predictions:
        """Return the items with their original logits.

        Out-of-fold predictions hold calibrated logits: the original ones are in the files of the
        members.
        """
        if self.records.threshold is None:
            return self.items
        parts = [
            Predictions.load(member.path / "predictions_oof.csv", member.calibration)
            for member in self.run.members
        ]
        return Predictions.concatenate(parts).labelled().by_patient(self._aggregation)

    def probability_before(self) -> NDArray[np.float64]:
        """Return the probability of each item before calibration, (n_items,)."""
        return UNCALIBRATED.apply(self.uncalibrated().logit_difference())

    def entry(self, metric: str) -> dict[str, Any]:
        """Return a metric with its interval."""
        return cast(dict[str, Any], self.metrics["metrics"][metric])

    def value(self, metric: str) -> float | None:
        """Return a metric; None where it is undefined."""
        value = self.entry(metric)["value"]
        return None if value is None else float(value)

    @property
    def _aggregation(self) -> Aggregate:
        return cast(Aggregate, self.metrics["aggregation"])


def is_outdated(metrics: Mapping[str, Any]) -> bool:
    """Say whether results are of an earlier decision than the run's.

    Those out of fold are of the folds' own decisions, and always may be shown.
    """
    return "outdated" in metrics and metrics.get("threshold") is not None


def _not_evaluated(run: RunFolder, name: str) -> str:
    """Say that a split has no metrics, which have, and what to do."""
    found = sorted(path.stem.removeprefix("metrics_") for path in run.path.glob("metrics_*.json"))
    evaluated = ", ".join(found) or "none"
    if run.config.folds and name in _NOT_FOR_FOLDS:
        advice = "Its train and validation patients are judged out of fold: --split oof."
    else:
        advice = (
            f"Run `ecgfit eval --store STORE --run {run.path} --split {name}` first, "
            "or name another split with --split."
        )
    return f"{run.path} has no metrics_{name}.json (evaluated so far: {evaluated}). {advice}"


def _evaluate_again(run: RunFolder, name: str) -> str:
    """Say what makes the results of a split again."""
    # Training makes them, and `ecgfit eval` refuses them in a run of folds.
    if name in DECIDED and not run.earlier:
        return "`ecgfit train` with the run's settings and --resume makes both again."
    run_path = shlex.quote(str(run.path))
    return f"Run `ecgfit eval --store STORE --run {run_path} --split {name}` again."
