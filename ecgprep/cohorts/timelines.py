"""Each patient's days: doses, echocardiograms, ECGs and death, counted from the index date.

Timelines depend on the task's index, its rule for several echocardiograms on one day, and its
biomarkers; not on windows, definition or horizon. So a study of the label's sensitivity computes
them once. Patients are numbered by sorted id, and frames are sorted by patient and day.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgprep.cohorts.drugs import (
    CLASSES,
    agents_of,
    doxorubicin_factor,
    is_known,
    names_any,
)
from ecgprep.cohorts.expression import round_off
from ecgprep.cohorts.fields import NO_DAY
from ecgprep.cohorts.joining import codes_and_rows
from ecgprep.cohorts.records import Records
from ecgprep.patients.private_csv import counted

if TYPE_CHECKING:
    from ecgprep.cohorts.task import CtrcdTask, SameDay

Days = NDArray[np.float64]

_KEY = 2**21
"""More than the days of any two dates lie apart, so that patient * _KEY + day is sorted by both."""

_DEFAULT_LIMITS = {"bnp": 35.0, "ntprobnp": 125.0}
"""Upper limits in pg/mL where a table gives none (Lyon et al. 2022, table 3)."""

_BIOMARKERS = {
    "bnp": re.compile(r"bnp|brainnatriureticpeptide|btypenatriureticpeptide"),
    "ntprobnp": re.compile(r"(nt)?probnp|nterminalprobnp"),
    "troponin": re.compile(r".*troponin.*|(hs)?c?tn[ti]"),
}
"""How laboratories write the biomarkers, once everything but letters and digits is removed."""


@dataclass(frozen=True, eq=False)
class Timelines:
    """The days of N patients.

    `index_day` (N,) is a day number, NaN without an index; every other day is counted from it.
    `echos`: code, day, lvef, gls (magnitude), symptoms (1, 0 or NaN), one row a patient and day.
    `labs`: code, day, above (whether the value is above its limit), of what can be judged.
    `ecgs`: code, day, second, usable, row (in the ECG table), of those with a time.
    `doses`: code, day, drug, in_class, equivalent (doxorubicin mg/m², NaN if not known, 0 for
    drugs that are no anthracycline).
    """

    patients: pd.Index
    index_day: Days
    death_day: Days
    last_seen_day: Days
    echos: pd.DataFrame
    labs: pd.DataFrame
    ecgs: pd.DataFrame
    doses: pd.DataFrame
    has_doses: bool

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def available(self) -> frozenset[str]:
        """Inputs of definitions that the tables hold, besides LVEF."""
        there = {
            "gls": self.echos["gls"].notna().any(),
            "symptoms": self.echos["symptoms"].notna().any(),
            "biomarker_rise": len(self.labs) > 0,
        }
        names = {name for name, is_there in there.items() if is_there}
        return frozenset(names | ({"gls_fall", "baseline_gls"} if "gls" in names else set()))


def make_timelines(task: CtrcdTask, records: Records, patients: pd.Index) -> Timelines:
    """Count every day from the index date; what a user should know goes to `records.notes`."""
    therapy = codes_and_rows(records.therapy, ["day", "drug", "dose_mg_m2"])
    doses = _doses(task, therapy, records)
    echos = codes_and_rows(records.echo, ["day", "second", "lvef", "gls", "symptoms"])
    labs = codes_and_rows(records.labs, ["day", "name", "value", "limit"])
    ecgs = _ecgs(records)
    first = _first_record(len(patients), [therapy, echos, labs, ecgs])
    index_day = _index_days(task, doses, first)
    death, last_seen = _followup(records, len(patients))
    timelines = Timelines(
        patients=patients,
        index_day=index_day,
        death_day=death - index_day,
        last_seen_day=last_seen - index_day,
        echos=_from_index(merge_days(echos, task.same_day), index_day),
        labs=_from_index(_judged(labs, task, records), index_day),
        ecgs=_from_index(ecgs, index_day),
        doses=_from_index(doses, index_day),
        has_doses=bool(therapy["dose_mg_m2"].notna().any()),
    )
    _note_records_after_death(timelines, records)
    return timelines


def _from_index(frame: pd.DataFrame, index_day: Days) -> pd.DataFrame:
    """Count days from the index date, and sort by patient and day."""
    code = frame["code"].to_numpy(np.int64)
    counted = frame.assign(code=code, day=frame["day"].to_numpy(float) - index_day[code])
    order = [name for name in ("code", "day", "second", "path_xml") if name in counted]
    return counted.sort_values(order, kind="stable", ignore_index=True)


def _doses(task: CtrcdTask, therapy: pd.DataFrame, records: Records) -> pd.DataFrame:
    """Say of each dose whether it starts the clock, and what it amounts to in doxorubicin."""
    drug = therapy["drug"].cat
    texts = list(drug.categories)
    in_class = np.array([names_any(text, task.agents) for text in texts])
    factor = np.array([doxorubicin_factor(text) or 0.0 for text in texts])
    known = np.array(
        [is_known(text, task.classes) or names_any(text, task.agents) for text in texts]
    )
    codes = drug.codes.to_numpy()
    _note_unused_entries(task, texts, records)
    _note_unknown_drugs(therapy, known[codes], records)
    factors = factor[codes]
    equivalent = np.where(factors > 0, therapy["dose_mg_m2"] * factors, 0.0)
    return therapy.assign(in_class=in_class[codes], equivalent=equivalent)


def _note_unused_entries(task: CtrcdTask, texts: list[str], records: Records) -> None:
    """Say which drugs or classes of the index nobody had: a misspelt class starts no clock."""
    unused = [
        entry
        for entry in task.index.first
        if not any(names_any(text, agents_of([entry], task.classes)) for text in texts)
    ]
    if unused:
        records.notes.append(
            f"{records.tables['therapy'].name}: no dose of {', '.join(unused)}, which index.first "
            f"names. Classes are {', '.join((*CLASSES, *task.classes))}"
        )


SHOWN_DRUG_FROM = 10
"""A drug in no class is named if at least so many patients had it: a text may name a person."""


def _note_unknown_drugs(therapy: pd.DataFrame, known: NDArray[np.bool_], records: Records) -> None:
    unknown = therapy.loc[~known, ["drug", "code"]].drop_duplicates()
    counts = unknown["drug"].astype(str).value_counts()
    if counts.empty:
        return
    common = counts[counts >= SHOWN_DRUG_FROM]
    parts = [f"{name} ({counted(int(n), 'patient')})" for name, n in common.items()]
    n_rare = len(counts) - len(common)
    if n_rare:
        parts.append(f"{n_rare:,} more that fewer than {SHOWN_DRUG_FROM} patients had")
    records.notes.append(f"{records.tables['therapy'].name}: drugs in no class: {', '.join(parts)}")


def _judged(labs: pd.DataFrame, task: CtrcdTask, records: Records) -> pd.DataFrame:
    """Return the biomarkers that can be compared with a limit, and whether they are above it."""
    if not len(labs):
        return pd.DataFrame({"code": [], "day": [], "above": []})
    names = [biomarker(text) for text in labs["name"].cat.categories]
    wanted = {biomarker(entry) for entry in task.biomarkers}
    codes = labs["name"].cat.codes.to_numpy()
    is_wanted = np.array([name in wanted for name in names])[codes]
    default = np.array([_DEFAULT_LIMITS.get(name, np.nan) for name in names])[codes]
    limit = labs["limit"].fillna(pd.Series(default, labs.index))
    judged = is_wanted & labs["value"].notna() & limit.notna()
    name = records.tables["labs"].name
    n_others, n_unjudged = np.count_nonzero(~is_wanted), np.count_nonzero(is_wanted & ~judged)
    if n_others:
        records.notes.append(
            f"{name}: not used: {counted(int(n_others), 'value')} of no biomarker of the task"
        )
    if n_unjudged:
        records.notes.append(
            f"{name}: not used: {counted(int(n_unjudged), 'value')} without a number or an upper "
            "limit"
        )
    above = labs["value"] > limit
    return labs.assign(above=above).loc[judged, ["code", "day", "above"]]


def biomarker(text: str) -> str:
    """Return `bnp`, `ntprobnp` or `troponin` for the ways laboratories write them."""
    bare = re.sub(r"[\W_]", "", text.casefold())
    return next((name for name, form in _BIOMARKERS.items() if form.fullmatch(bare)), bare)


def _ecgs(records: Records) -> pd.DataFrame:
    """Return the ECGs that have a time; the others are counted."""
    ecgs = codes_and_rows(records.ecg, ["day", "second", "usable", "path_xml"])
    ecgs = ecgs.assign(row=ecgs.index, path_xml=ecgs["path_xml"].astype(str))
    timed = ecgs["day"] != NO_DAY
    if not timed.all():
        records.notes.append(
            f"{records.tables['ecg'].name}: not used: "
            f"{counted(int(np.count_nonzero(~timed)), 'ECG')} without a time of acquisition"
        )
    return ecgs[timed]


def _first_record(n: int, frames: list[pd.DataFrame]) -> Days:
    """Return the first day on which anything is known of a patient."""
    first = np.full(n, np.inf)
    for frame in frames:
        np.minimum.at(first, frame["code"].to_numpy(np.int64), frame["day"].to_numpy(float))
    return first


def _index_days(task: CtrcdTask, doses: pd.DataFrame, first_record: Days) -> Days:
    """Return the day on which the clock of each patient starts, NaN if it never does.

    With a washout of n days: the first dose without another in the n days before, and with at least
    n days of records before it.
    """
    days = doses.loc[doses["in_class"], ["code", "day"]].drop_duplicates()
    days = days.sort_values(["code", "day"])
    code, day = days["code"].to_numpy(np.int64), days["day"].to_numpy(float)
    washout = task.index.washout_days
    starts = np.ones(len(days), bool)
    if washout is not None:
        same = np.r_[False, code[1:] == code[:-1]]
        gap = np.r_[np.inf, np.diff(day)]
        starts = (~same | (gap > washout)) & (first_record[code] <= day - washout)
    index_day = np.full(len(first_record), np.nan)
    index_day[code[starts][::-1]] = day[starts][::-1]  # of several, the first is assigned last
    return index_day


def _followup(records: Records, n: int) -> tuple[Days, Days]:
    """Return the day numbers of death and of the last visit, NaN where there is none."""
    death, last_seen = np.full(n, np.nan), np.full(n, np.nan)
    rows = codes_and_rows(records.followup, ["died", "last_seen"])
    code = rows["code"].to_numpy(np.int64)
    for target, name in ((death, "died"), (last_seen, "last_seen")):
        days = rows[name].to_numpy(float)
        target[code] = np.where(days == NO_DAY, np.nan, days)
    return death, last_seen


def merge_days(echos: pd.DataFrame, same_day: SameDay) -> pd.DataFrame:
    """Make the echocardiograms of one patient on one day into one.

    `mean` and `lowest` (the lowest LVEF, the lowest magnitude of GLS) are of what is known; `last`
    is the latest by time of day, the mean of several at one time. Symptoms at any one count.
    """
    if same_day == "last":
        latest = echos.groupby(["code", "day"])["second"].transform("max")
        echos = echos[echos["second"] == latest]
    how = "min" if same_day == "lowest" else "mean"
    groups = echos.groupby(["code", "day"], as_index=False, sort=True)
    merged = groups.agg({"lvef": how, "gls": how, "symptoms": "max"})
    return merged.assign(lvef=round_off(merged["lvef"]), gls=round_off(merged["gls"]))


def _note_records_after_death(timelines: Timelines, records: Records) -> None:
    late = np.zeros(len(timelines), bool)
    for frame in (timelines.echos, timelines.ecgs, timelines.doses):
        code = frame["code"].to_numpy()
        late[code[frame["day"].to_numpy() > timelines.death_day[code]]] = True
    if late.any():
        n = int(np.count_nonzero(late))
        records.notes.append(
            f"{counted(n, 'patient')} with an echo, an ECG or a dose after death. Check the dates"
        )


def any_within(
    labs: pd.DataFrame, code: NDArray[np.int64], day: Days, within: int
) -> NDArray[np.bool_]:
    """Say for each patient and day whether `labs` has a row within so many days of it."""
    known = ~np.isnan(day)
    keys = np.sort(labs["code"].to_numpy(np.int64) * _KEY + labs["day"].to_numpy(float))
    keys = keys[~np.isnan(keys)]
    middle = code * _KEY + np.where(known, day, 0)
    first = np.searchsorted(keys, middle - within, side="left")
    end = np.searchsorted(keys, middle + within, side="right")
    return known & (end > first)
