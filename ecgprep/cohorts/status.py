"""Who is what: the status of each patient, the event, and the ECGs that become rows.

Everything here is computed from timelines and a task, so another task on the same timelines shows
how much the label depends on it. The numbers in comments are those of the rules in docs/cohort.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgprep.cohorts.expression import Numbers, Truth, round_off
from ecgprep.cohorts.timelines import Days, Timelines, any_within

if TYPE_CHECKING:
    from ecgprep.cohorts.task import CtrcdTask, _Window

STATUSES = (
    "no_index",
    "no_baseline_echo",
    "already_reduced",
    "no_ecg",
    "ecg_unusable",
    "positive",
    "death_first",
    "negative",
    "unknown_followup",
)
"""Every patient has the first of these that applies."""

NO_EVENT, EVENT, DEATH = 0, 1, 2
"""Values of `event`."""

Flags = NDArray[np.bool_]
NONE = -1
"""The row of an echocardiogram that there is not."""


def classify(timelines: Timelines, task: CtrcdTask) -> pd.DataFrame:
    """Decide the status of every patient; row i is patient i of the timelines.

    Columns: status; label (1, 0 or NaN); baseline_lvef, baseline_day; event_day, last_echo_day,
    death_day, last_seen_day; n_ecgs, usable ones in the window; time and event, not cut at the
    horizon (rule 18). Days are counted from the index, NaN where there is none.
    """
    echos, n = timelines.echos, len(timelines)
    baseline = _baseline(timelines, task)
    has_baseline = baseline != NONE
    lvef = _at(echos["lvef"], baseline)
    meets, later = _meets(timelines, task, baseline)
    event_day = _event_days(timelines, task, meets)
    n_ecgs, n_unusable = _count_ecgs(timelines, task)
    is_free = later & ~meets & (echos["day"] >= task.negative.last_echo_from_day).to_numpy()
    death = timelines.death_day
    horizon = task.outcome.horizon_days
    dies = (death >= 1) & (death <= horizon)
    least = task.baseline_echo.lvef_at_least
    applies = {
        "no_index": np.isnan(timelines.index_day),
        "no_baseline_echo": ~has_baseline,
        "already_reduced": lvef < (-np.inf if least is None else least),
        "no_ecg": (n_ecgs == 0) & (n_unusable == 0),
        "ecg_unusable": n_ecgs == 0,
        "positive": (event_day <= horizon) | (dies & (task.deaths == "event")),
        "death_first": dies & (task.deaths == "exclude"),
        "negative": _any(echos, is_free, n) | (dies & (task.deaths == "negative")),
        "unknown_followup": np.ones(n, bool),
    }
    status = np.select([applies[name] for name in STATUSES], STATUSES, "")
    last_echo = _last_day(echos, n)
    time, event = _time_to_event(event_day, death, last_echo)
    return pd.DataFrame(
        {
            "status": pd.Categorical(status, STATUSES),
            "label": np.select([status == "positive", status == "negative"], [1.0, 0.0], np.nan),
            "baseline_lvef": lvef,
            "baseline_day": _at(echos["day"], baseline),
            "event_day": event_day,
            "last_echo_day": last_echo,
            "death_day": death,
            "last_seen_day": timelines.last_seen_day,
            "n_ecgs": n_ecgs,
            "time": time,
            "event": event,
        }
    )


def _inside(day: Days, window: _Window) -> Flags:
    return (day >= window.from_days) & (day <= window.to_days)


def _at(column: pd.Series, rows: NDArray[np.int64]) -> Numbers:
    """Return a column's values at rows, NaN where there is none."""
    padded = np.append(column.to_numpy(float), np.nan)  # NONE is the last
    return padded[rows]


def _any(frame: pd.DataFrame, chosen: Flags, n: int) -> Flags:
    """Say for each patient whether any of their rows is chosen."""
    found = np.zeros(n, bool)
    found[frame["code"].to_numpy()[chosen]] = True
    return found


def _first_rows(
    frame: pd.DataFrame, chosen: Flags, n: int, last: bool = False
) -> NDArray[np.int64]:
    """Return each patient's first (or last) chosen row, NONE without one; frames are sorted."""
    rows = np.flatnonzero(chosen)
    if not last:
        rows = rows[::-1]  # of several assignments to one place, the last one stays
    found = np.full(n, NONE)
    found[frame["code"].to_numpy()[rows]] = rows
    return found


def _baseline(timelines: Timelines, task: CtrcdTask) -> NDArray[np.int64]:
    """Return the row of each patient's baseline echocardiogram (rule 7)."""
    chosen = _inside(timelines.echos["day"].to_numpy(), task.baseline_echo)
    keeps_last = task.baseline_echo.keep == "last"
    return _first_rows(timelines.echos, chosen, len(timelines), last=keeps_last)


def _meets(
    timelines: Timelines, task: CtrcdTask, baseline: NDArray[np.int64]
) -> tuple[Flags, Flags]:
    """Say which echocardiograms meet the definition, and which are later than the baseline."""
    echos = timelines.echos
    own = baseline[echos["code"].to_numpy()]
    later = (own != NONE) & (np.arange(len(echos)) > own)
    values = _inputs(timelines, task, own)
    return task.definition.criterion.met(values, len(echos)) & later, later


def _inputs(
    timelines: Timelines, task: CtrcdTask, baseline: NDArray[np.int64]
) -> Mapping[str, Numbers | Truth]:
    """Return what definitions refer to, for each echocardiogram; `baseline` is its baseline's row.

    Differences are rounded to 1e-6, so that 64.4 - 54.4 is not more than 10.
    """
    echos = timelines.echos
    lvef, gls = echos["lvef"].to_numpy(float), echos["gls"].to_numpy(float)
    baseline_lvef, baseline_gls = _at(echos["lvef"], baseline), _at(echos["gls"], baseline)
    symptoms = echos["symptoms"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        fall = 100 * (baseline_gls - gls) / baseline_gls
    return {
        "lvef": lvef,
        "baseline_lvef": baseline_lvef,
        "drop": round_off(baseline_lvef - lvef),
        "gls": gls,
        "baseline_gls": baseline_gls,
        "gls_fall": round_off(np.where(np.isfinite(fall), fall, np.nan)),
        "lower_limit": np.full(len(echos), task.outcome.lower_limit),
        "biomarker_rise": _biomarker_rise(timelines, task, baseline),
        "symptoms": Truth(symptoms == 1, symptoms == 0),
    }


def _biomarker_rise(timelines: Timelines, task: CtrcdTask, baseline: NDArray[np.int64]) -> Truth:
    """Say where a biomarker is above its limit near the echocardiogram and none was at baseline."""
    echos, labs = timelines.echos, timelines.labs
    within = task.outcome.labs_within_days
    code = echos["code"].to_numpy(np.int64)
    high = labs[labs["above"].to_numpy(bool)]
    was_high = any_within(high, code, _at(echos["day"], baseline), within)
    day = echos["day"].to_numpy(float)
    rises = any_within(high, code, day, within) & ~was_high
    return Truth(rises, any_within(labs, code, day, within) & ~rises)


def _event_days(timelines: Timelines, task: CtrcdTask, meets: Flags) -> Days:
    """Return the day of each patient's first event, NaN without one (rules 12 to 14)."""
    echos = timelines.echos
    day, code = echos["day"].to_numpy(), echos["code"].to_numpy()
    within = task.outcome.confirm_within_days
    counts = meets & (day >= task.outcome.from_day)
    if within is not None:
        rows = np.flatnonzero(meets)
        follows = (code[rows[1:]] == code[rows[:-1]]) & (day[rows[1:]] - day[rows[:-1]] <= within)
        confirmed = np.zeros(len(echos), bool)
        confirmed[rows[:-1][follows]] = True
        counts &= confirmed
    return _at(echos["day"], _first_rows(echos, counts, len(timelines)))


def _last_day(echos: pd.DataFrame, n: int) -> Days:
    return _at(echos["day"], _first_rows(echos, np.ones(len(echos), bool), n, last=True))


def _in_ecg_window(timelines: Timelines, task: CtrcdTask) -> Flags:
    """Say which ECGs lie in the window and on a day before the patient's death (rule 9)."""
    day, code = timelines.ecgs["day"].to_numpy(), timelines.ecgs["code"].to_numpy(np.int64)
    inside: Flags = _inside(day, task.ecg) & ~(day >= timelines.death_day[code])
    return inside


def _count_ecgs(
    timelines: Timelines, task: CtrcdTask
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many ECGs of each patient in the window are usable, and how many are not."""
    inside, n = _in_ecg_window(timelines, task), len(timelines)
    usable = timelines.ecgs["usable"].to_numpy(bool)
    code = timelines.ecgs["code"].to_numpy(np.int64)
    counts = [np.bincount(code[inside & mask], minlength=n) for mask in (usable, ~usable)]
    return counts[0], counts[1]


def choose_ecgs(timelines: Timelines, task: CtrcdTask) -> pd.DataFrame:
    """Return the kept ECGs: the last or first usable one in the window, or all of them."""
    chosen = _in_ecg_window(timelines, task) & timelines.ecgs["usable"].to_numpy(bool)
    if task.ecg.keep == "all":
        return timelines.ecgs[chosen]
    is_last = task.ecg.keep == "last"
    rows = _first_rows(timelines.ecgs, chosen, len(timelines), last=is_last)
    return timelines.ecgs.iloc[rows[rows != NONE]]


def _time_to_event(event: Days, death: Days, last_echo: Days) -> tuple[Days, NDArray[np.int64]]:
    """Return the day of the first event, else of death, else of the last echo, and which it is."""
    has_event, has_died = ~np.isnan(event), ~np.isnan(death)
    time = np.where(has_event, event, np.where(has_died, death, last_echo))
    kind = np.where(has_event, EVENT, np.where(has_died, DEATH, NO_EVENT))
    return time, kind


def cumulative_doses(timelines: Timelines, ecgs: pd.DataFrame) -> Numbers:
    """Return the doxorubicin-equivalent dose up to each ECG's day, NaN where a dose is not known.

    Doses of the ECG's day count.
    """
    doses = timelines.doses
    code, day = doses["code"].to_numpy(np.int64), doses["day"].to_numpy(float)
    known = ~np.isnan(day)
    key = np.where(known, code * 2.0**21 + day, np.inf)
    order = np.argsort(key, kind="stable")
    amount = doses["equivalent"].to_numpy(float)[order]
    totals = np.append(0.0, np.cumsum(np.nan_to_num(amount)))
    gaps = np.append(0, np.cumsum(np.isnan(amount)))
    ecg_code = ecgs["code"].to_numpy(np.int64)
    first = np.searchsorted(key[order], ecg_code * 2.0**21 - 2.0**20, side="left")
    end = np.searchsorted(key[order], ecg_code * 2.0**21 + ecgs["day"].to_numpy(), side="right")
    total = round_off(totals[end] - totals[first])
    return np.where(gaps[end] > gaps[first], np.nan, total)


def total_doses(timelines: Timelines) -> Numbers:
    """Return each patient's whole doxorubicin-equivalent dose, NaN where a dose is not known."""
    ends = pd.DataFrame({"code": np.arange(len(timelines)), "day": np.full(len(timelines), 2**19)})
    return cumulative_doses(timelines, ends)
