"""The facts that a report puts into sentences; the sentences are in `templates/`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ecgfit.config import TrainConfig
from ecgfit.inference.lead_shift import unseen_leads
from ecgfit.metrics.results import LeadShift
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.task import recorded_task
from ecgfit.reports.wording import is_fixed, rule_in_words, split_name
from ecgfit.run import RunFolder
from ecgprep.cohorts.task import Task
from ecgprep.reports.disclosure import CountFormatter
from ecgprep.store.reader import Store

_NOT_COVARIATES = ("leads", "source_rate")
"""Groupings that describe recordings; all others are covariates of patients."""

_CALIBRATIONS = {"platt": "Platt scaling", "temperature": "temperature scaling"}


@dataclass(frozen=True)
class ThresholdFacts:
    """The threshold in use: its value, where it comes from, and how certain the choice is."""

    value: float
    rule: str
    is_fixed: bool
    chosen_on: str
    low: float
    high: float
    """Ends of the interval of the choice; equal where it has no width."""
    n_earlier: int
    """Decisions since training that this one replaces, the first one included."""
    calibration_is_first: bool
    """Whether the calibration is still that of training."""


@dataclass(frozen=True)
class TrainingInput:
    """The range of the train recordings of all members."""

    rates_hz: list[float]
    fewest_leads: int
    shortest_s: float
    unseen_leads: list[str]


@dataclass(frozen=True)
class Facts:
    """Everything the sentences say. Counts are text, so that small ones stay hidden."""

    config: TrainConfig
    recorded: dict[str, Any]
    run_name: str
    n_members: int
    threshold: ThresholdFacts
    calibration: str | None
    """The method in words; None where probabilities were left as they are."""
    calibration_note: str
    class_weights: list[float] | None
    seen: TrainingInput
    records: dict[str, str]
    """How many recordings trained and selected the model, by split."""
    split: str
    is_external: bool
    is_of_folds: bool
    """Each patient has the calibration and threshold of the model that did not see them."""
    aggregation: str
    n_patients: str
    n_positive: str
    groupings: list[str]
    """Groupings in which at least two groups have metrics."""
    covariate_groupings: list[str]
    n_other_external: int
    """External stores shown beside the split that is reported."""
    n_unsearched: int
    """External stores that nobody searched for recordings that trained the run."""
    has_store: bool
    has_lead_removal: bool
    task: Task | None
    """What labelled the recordings; None where the store does not say."""
    lead_shift: LeadShift | None
    """How the leads of the evaluated recordings differ from those of training, if they do."""

    @property
    def n_external(self) -> int:
        """How many external stores are shown, the reported one included."""
        return self.n_other_external + self.is_external


def gather_facts(
    run: RunFolder,
    main: EvaluatedSplit,
    show: CountFormatter,
    store: Store | None,
    externals: Sequence[EvaluatedSplit],
) -> Facts:
    """Gather what the sentences on a run and its evaluation need. Raises StoreError."""
    n, positive = main.metrics["n_patients"], main.metrics["n_positive"]
    classes = show.parts({"positive": positive, "negative": n - positive})
    records = run.recorded.get("records") or {}
    groupings = _compared_groupings(main)
    weights = run.recorded.get("class_weights")
    return Facts(
        config=run.config,
        recorded=run.recorded,
        run_name=run.path.resolve().name,
        n_members=len(run.members),
        threshold=threshold_facts(run),
        calibration=_calibration_in_words(run.calibration.method),
        calibration_note=run.calibration.to_json().get("note") or "",
        class_weights=weights if isinstance(weights, list) else None,
        seen=_training_input(run),
        records={split_name(name): show(count) for name, count in records.items()},
        split=main.title,
        is_external=main.name.startswith("external"),
        is_of_folds=main.is_of_folds,
        aggregation=main.metrics["aggregation"],
        n_patients=show(n),
        n_positive=classes["positive"],
        groupings=_readable(groupings),
        covariate_groupings=_readable(name for name in groupings if name not in _NOT_COVARIATES),
        n_other_external=len(externals),
        n_unsearched=sum(_is_unsearched(evaluated) for evaluated in [*externals, main]),
        has_store=store is not None,
        has_lead_removal="lead_removal" in main.metrics,
        task=recorded_task(run),
        lead_shift=main.metrics.get("lead_shift"),
    )


def threshold_facts(run: RunFolder) -> ThresholdFacts:
    """Read where the threshold of a run comes from. Raises StoreError."""
    recorded = run.point
    low, high = recorded.get("ci95") or (0.0, 0.0)
    return ThresholdFacts(
        value=recorded["value"],
        rule=rule_in_words(run.rule),
        is_fixed=is_fixed(run.rule),
        chosen_on=split_name(str(recorded.get("chosen_on", "val"))),
        low=low,
        high=high,
        n_earlier=len(run.earlier),
        calibration_is_first=all(
            entry.get("calibration") == run.calibration.to_json() for entry in run.earlier
        ),
    )


def _calibration_in_words(method: str) -> str | None:
    return None if method == "none" else _CALIBRATIONS.get(method, method)


def _readable(names: Iterable[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]


def _compared_groupings(main: EvaluatedSplit) -> list[str]:
    """Return the groupings in which at least two groups have metrics."""
    compared = []
    for name, groups in main.metrics["subgroups"].items():
        shown = [group for group in groups.values() if group["metrics"] is not None]
        if len(shown) > 1:
            compared.append(name)
    return compared


def _is_unsearched(evaluated: EvaluatedSplit) -> bool:
    """Say whether this is an external store that nobody searched for recordings of the run."""
    external = evaluated.metrics.get("external")
    return external is not None and external["shared_recordings"] is None


def _training_input(run: RunFolder) -> TrainingInput:
    """Describe the train recordings without values of a patient: rates, leads, length."""
    seen = [member.stats.seen for member in run.members]
    rates = set().union(*(own.rates_hz for own in seen))
    shortest = min(own.shortest_samples for own in seen)
    return TrainingInput(
        rates_hz=sorted(rates),
        fewest_leads=min(own.fewest_leads for own in seen),
        shortest_s=shortest / run.recorded["store"]["sample_rate_hz"],
        unseen_leads=unseen_leads(run),
    )
