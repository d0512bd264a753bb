"""One evaluation of a run, as the report shows it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ecgfit.evaluation.split_metrics import metrics_match
from ecgfit.inference.predictions import Aggregate, Predictions
from ecgfit.run import Run
from ecgfit.run_files import DECIDED
from ecgprep.errors import InputError
from ecgprep.reports.disclosure import Counts

N_MISTAKES = 3
"""Of each kind, of as many patients."""


FEW = 20
"""With fewer patients of a class than this, intervals are too short and everything is uncertain: the report says so."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `ecgfit eval` left of one split: the metrics, and the predictions they were made of."""

    name: str
    metrics: dict[str, Any]
    records: Predictions

    @classmethod
    def load(cls, run: Run, name: str) -> Evaluation:
        """Read both files. Raises InputError where they are missing, damaged, or not of one evaluation."""
        if not (run.path / f"metrics_{name}.json").is_file():
            has = (
                ", ".join(
                    sorted(
                        path.stem.removeprefix("metrics_")
                        for path in run.path.glob("metrics_*.json")
                    )
                )
                or "none"
            )
            evaluate = f"Run `ecgfit eval --store STORE --run {run.path} --split {name}` first, or name another with --split."
            judged = "Its train and validation patients are judged out of fold: --split oof."  # `eval` would refuse them
            advice = judged if run.config.folds and name in ("train", "val", "all") else evaluate
            raise InputError(
                f"{run.path} has no metrics_{name}.json (evaluated so far: {has}). {advice}"
            )
        metrics = run.read_json(f"metrics_{name}.json")
        again = f"Run `ecgfit eval --store STORE --run {shlex.quote(str(run.path))} --split {name}` again."
        if name in DECIDED:  # of folds `eval` would refuse it
            again = "`ecgfit train` with the run's settings and --resume makes both again."
        records = Predictions.load(
            run.path / f"predictions_{metrics.get('split', name)}.csv", run.calibration
        ).labelled()
        if metrics.get("threshold") not in (None, run.threshold):
            raise InputError(
                f"{run.path}: metrics_{name}.json has another threshold than the run: it is of an earlier training. {again}"
            )
        if not metrics_match(metrics, records, run.calibration, run.threshold):
            raise InputError(
                f"{run.path}: metrics_{name}.json and its predictions are not of one evaluation. {again}"
            )
        return cls(name, metrics, records)

    @property
    def items(self) -> Predictions:
        """Patients, or recordings where these were evaluated one by one."""
        return self.records.by_patient(cast(Aggregate, self.metrics["aggregation"]))

    @property
    def recalibrated(self) -> bool:
        """Whether probabilities are other than the logits'."""
        return bool(self.metrics["calibration"]["method"] != "none")

    def probability(self, run: Run) -> NDArray[np.float64]:
        """Return the items' probabilities."""
        return self.items.probability_and_threshold(run.calibration, run.threshold)[0]

    def uncalibrated(self, run: Run) -> Predictions:
        """Return the items with their logits as they were: out of fold those are in the members' own files."""
        if self.records.threshold is None:
            return self.items
        parts = [
            Predictions.load(member.path / "predictions_oof.csv", member.calibration)
            for member in run.members
        ]
        return (
            Predictions.concatenate(parts)
            .labelled()
            .by_patient(cast(Aggregate, self.metrics["aggregation"]))
        )

    def value(self, metric: str) -> float | None:
        """Return a metric, None where undefined."""
        value = self.metrics["metrics"][metric]["value"]
        return None if value is None else float(value)


def number(value: float | None) -> str:
    """Return a number with three decimals."""
    return "undefined" if value is None else f"{value:.3f}".replace("-", "−")


def between(entry: Mapping[str, Any]) -> str:
    """Return an interval in words, empty where there is none, or one of no width, which resampling gives where all resamples agree."""
    return (
        ""
        if not entry.get("ci95") or entry["ci95"][0] == entry["ci95"][1]
        else "{:.3f} to {:.3f}".format(*entry["ci95"]).replace("-", "−")
    )


def interval_or_reason(entry: Mapping[str, Any]) -> str:
    """Return what stands beside a value in a table: its interval, or why there is none."""
    return between(entry) or str(entry.get("reason", ""))


def _with_interval(entry: Mapping[str, Any]) -> str:
    inside = between(entry)
    return number(entry["value"]) + (f" ({inside})" if inside else "")


def excluded_in_words(excluded: Mapping[str, Any] | None, show: Counts) -> str:
    """Say what was left out of an evaluation, empty where nothing was."""
    if not excluded or not excluded["n_records"]:
        return ""
    gone = (
        f"; {show(excluded['n_patients'])} patients have no other recording and are not in these numbers"
        if excluded["n_patients"]
        else ""
    )
    return f"Left out were {show(excluded['n_records'])} recordings ({excluded['reason']}){gone}."


def called_at(m: Mapping[str, Any]) -> str:
    """Return the threshold that entries were called by."""
    return "of each fold's own model" if m["threshold"] is None else f"{m['threshold']:.4f}"


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.0f} %"
