"""The second kind of task: each ECG with the nearest echocardiogram, labelled by its LVEF."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgprep.cohorts.fields import NO_DAY
from ecgprep.cohorts.joining import codes_and_rows
from ecgprep.cohorts.timelines import merge_days

if TYPE_CHECKING:
    from ecgprep.cohorts.records import Records
    from ecgprep.cohorts.task import EchoPairsTask

PAIR_STATUSES = ("no_ecg", "ecg_unusable", "no_echo", "no_pair", "paired")
"""Every patient of the ECG table has the first of these that applies."""


def pair_with_echos(
    task: EchoPairsTask, records: Records, patients: pd.Index
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pair every usable ECG with the echocardiogram nearest to it, the earlier of two as near.

    Returns the pairs (code, row in the ECG table, lvef, days_to_echo), sorted by patient and time,
    and one row for each patient (status, n_ecgs, n_pairs).
    """
    echos = codes_and_rows(records.echo, ["day", "second", "lvef", "gls", "symptoms"])
    echos = merge_days(echos, task.same_day)
    ecgs = codes_and_rows(records.ecg, ["day", "second", "usable", "path_xml"])
    ecgs = ecgs.assign(row=ecgs.index, path_xml=ecgs["path_xml"].astype(str))
    timed = ecgs[ecgs["day"] != NO_DAY].sort_values(["code", "day", "second", "path_xml"])
    usable = timed[timed["usable"]].reset_index(drop=True)
    pairs = usable.assign(**_nearest(usable, echos))
    pairs = pairs[pairs["days_to_echo"].abs() <= task.pairs.within_days]
    status = _statuses(len(patients), timed, usable, echos, pairs)
    if task.pairs.keep != "all":
        pairs = pairs.drop_duplicates("code", keep=task.pairs.keep)
    return pairs.reset_index(drop=True), status


def _nearest(ecgs: pd.DataFrame, echos: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return LVEF and distance of the nearest echocardiogram of the same patient, NaN if none."""
    names = ["code", "day", "lvef"]
    left = ecgs[["code", "day"]].assign(place=np.arange(len(ecgs))).sort_values("day")
    right = echos[names].assign(echo_day=echos["day"]).sort_values("day")
    left = left.astype({"code": np.int64, "day": np.int64})
    right = right.astype({"code": np.int64, "day": np.int64})
    sides = [
        pd.merge_asof(left, right, on="day", by="code", direction=direction)
        .sort_values("place")
        .reset_index(drop=True)
        for direction in ("backward", "forward")
    ]
    distances = [side["echo_day"].to_numpy(float) - side["day"].to_numpy() for side in sides]
    earlier, later = distances
    is_earlier = ~np.isnan(earlier) & ~(later < -earlier)
    return {
        "lvef": np.where(is_earlier, *(side["lvef"].to_numpy(float) for side in sides)),
        "days_to_echo": np.where(is_earlier, earlier, later),
    }


def _statuses(
    n: int, timed: pd.DataFrame, usable: pd.DataFrame, echos: pd.DataFrame, pairs: pd.DataFrame
) -> pd.DataFrame:
    """Return one row for each patient; the ECGs counted are usable ones with a time."""
    frames = {"timed": timed, "usable": usable, "echos": echos, "pairs": pairs}
    counts = {
        name: np.bincount(frame["code"].to_numpy(np.int64), minlength=n)
        for name, frame in frames.items()
    }
    applies = [counts[name] == 0 for name in frames]
    status = np.select(applies, PAIR_STATUSES[:-1], PAIR_STATUSES[-1])
    return pd.DataFrame(
        {
            "status": pd.Categorical(status, PAIR_STATUSES),
            "n_ecgs": counts["usable"],
            "n_pairs": counts["pairs"],
        }
    )
