"""How much the label depends on the task: the same patients under other definitions and windows.

Each variant changes one setting of the task and decides every patient again. Timelines are not
computed anew, so that the index date, and the rule for several echocardiograms on one day, stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from ecgprep.cohorts.definitions import DEFINITIONS
from ecgprep.cohorts.status import classify
from ecgprep.cohorts.task import CtrcdTask
from ecgprep.study.agreement import cohens_kappa

if TYPE_CHECKING:
    from ecgprep.cohorts.timelines import Timelines

CLASSES = ("positive", "negative", "unknown", "excluded")
"""What a patient is under a task. `unknown`: no label, for death or too short a follow-up;
`excluded`: no index date, baseline echocardiogram or usable ECG, or a reduced LVEF at baseline."""

_UNKNOWN = ("unknown_followup", "death_first")

_HORIZONS = (365, 730, 1095, 1825)
_ECG_FROM = (-30, -90, -180, -365, -730)
_FOLLOWED = (90, 180, 365, 730)
_CONFIRMED = (None, 21, 90)
_DEATHS = ("exclude", "negative", "event")


@dataclass(frozen=True)
class Variant:
    """A task that differs from another in one setting; `task` is None if it is not assessable."""

    group: str
    name: str
    task: CtrcdTask | None


@dataclass(frozen=True)
class Sensitivity:
    """What becomes of the patients under a variant, beside what they are under the task.

    `counts` has the patients of each of `CLASSES`, None if the variant is not assessable. `kappa`
    is Cohen's, over the classes, among patients whom at least one of the two does not exclude.
    `relabelled` counts those whose label changes from 0 to 1 or back.
    """

    group: str
    name: str
    counts: Mapping[str, int] | None
    kappa: float | None = None
    relabelled: int | None = None


def classes_of(decided: pd.DataFrame) -> pd.Series:
    """Return each patient's class, from what `classify` found."""
    label = decided["label"]
    is_unknown = decided["status"].isin(_UNKNOWN)
    names = np.select([label == 1, label == 0, is_unknown], CLASSES[:-1], CLASSES[-1])
    return pd.Series(names, index=decided.index)


def label_sensitivity(
    task: CtrcdTask, timelines: Timelines, decided: pd.DataFrame
) -> list[Sensitivity]:
    """Return the task itself, as "this task", and then every variant."""
    own = classes_of(decided)
    rows = [_compared("task", "this task", own, own)]
    for variant in variants(task, timelines.available):
        if variant.task is None:
            rows.append(Sensitivity(variant.group, variant.name, None))
        else:
            other = classes_of(classify(timelines, variant.task))
            rows.append(_compared(variant.group, variant.name, own, other))
    return rows


def _compared(group: str, name: str, own: pd.Series, other: pd.Series) -> Sensitivity:
    counts = {label: int((other == label).sum()) for label in CLASSES}
    compared = (own != "excluded") | (other != "excluded")
    both = own.isin(CLASSES[:2]) & other.isin(CLASSES[:2])
    return Sensitivity(
        group,
        name,
        counts,
        kappa=cohens_kappa(own[compared], other[compared]),
        relabelled=int((both & (own != other)).sum()),
    )


def variants(task: CtrcdTask, available: frozenset[str]) -> Iterator[Variant]:
    """Yield the variants of a task; those whose windows would contradict each other are left out.

    `available` names the inputs of definitions that the tables hold.
    """
    for name, definition in DEFINITIONS.items():
        if name != task.outcome.definition:
            changed = _changed(task, "outcome", definition=name)
            is_assessable = definition.is_assessable(available)
            yield Variant("definition", name, changed if is_assessable else None)
    for group, part, key, values in (
        ("horizon", "outcome", "horizon_days", _HORIZONS),
        ("confirmation", "outcome", "confirm_within_days", _CONFIRMED),
        ("ECG window", "ecg", "from_days", _ECG_FROM),
        ("follow-up", "negative", "last_echo_from_day", _FOLLOWED),
    ):
        for value in values:
            if value != getattr(getattr(task, part), key):
                changed = _changed(task, part, **{key: value})
                if changed is not None:
                    yield Variant(group, _named(key, value), changed)
    for rule in _DEATHS:
        if rule != task.deaths:
            yield Variant("deaths", rule, _made(task.model_dump() | {"deaths": rule}))


def _named(key: str, value: int | None) -> str:
    """Say in words what a variant asks for."""
    return {
        "horizon_days": f"{value} days",
        "confirm_within_days": f"within {value} days" if value else "none",
        "from_days": f"from day {value}",
        "last_echo_from_day": f"echo on day {value} or later",
    }[key]


def _changed(task: CtrcdTask, part: str, **changes: Any) -> CtrcdTask | None:
    """Return the task with a setting changed, or None if the windows then contradict each other."""
    values = task.model_dump()
    values[part] = values[part] | changes
    return _made(values)


def _made(values: dict[str, Any]) -> CtrcdTask | None:
    try:
        return CtrcdTask(**values)
    except ValidationError:
        return None
