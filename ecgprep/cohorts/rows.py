"""The rows of the manifest, and the lines of the status file: what a cohort is written as."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgprep.cohorts.records import CARRIED
from ecgprep.cohorts.status import choose_ecgs, cumulative_doses
from ecgprep.header import MEASUREMENTS

if TYPE_CHECKING:
    from ecgprep.cohorts.records import Records
    from ecgprep.cohorts.task import CtrcdTask, EchoPairsTask
    from ecgprep.cohorts.timelines import Timelines

DOSE = "doxorubicin_equivalent_mg_m2"
"""The cumulative dose up to the ECG's day; there where the therapy table has doses."""

STATUS_COLUMNS = (
    "patient_id",
    "status",
    "baseline_lvef",
    "event_day",
    "last_echo_day",
    "death_day",
    "n_ecgs",
)
"""The columns of NAME.status.csv."""

_UNLABELLED = ("unknown_followup", "death_first")
"""Statuses that become rows without a label, where the task asks for all rows."""


def ctrcd_rows(
    task: CtrcdTask,
    timelines: Timelines,
    decided: pd.DataFrame,
    records: Records,
    keep_dates: bool,
) -> pd.DataFrame:
    """Return the manifest of a cohort, sorted by patient and time of the ECG."""
    included = decided["label"].notna()
    if task.rows == "all":
        included |= decided["status"].isin(_UNLABELLED)
    ecgs = choose_ecgs(timelines, task)
    ecgs = ecgs[included.to_numpy()[ecgs["code"].to_numpy(np.int64)]]
    own = decided.iloc[ecgs["code"].to_numpy(np.int64)]
    rows = _begin(timelines.patients, ecgs, own["label"], records)
    rows |= {
        "day_of_ecg": whole(ecgs["day"]),
        "baseline_lvef": own["baseline_lvef"],
        "days_to_event_or_last_echo": whole(own["time"]),
        "event": whole(own["event"]),
    }
    if timelines.has_doses:
        rows[DOSE] = cumulative_doses(timelines, ecgs)
    rows |= _measurements(ecgs, records) | _carried(ecgs, records)
    if keep_dates:
        index_day = timelines.index_day[ecgs["code"].to_numpy(np.int64)]
        rows["index_date"] = _dates(index_day)
        rows |= _from_ecg_table(ecgs, records, ["acquired_at"])
    return _as_frame(rows)


def pair_rows(
    task: EchoPairsTask,
    pairs: pd.DataFrame,
    patients: pd.Index,
    records: Records,
    keep_dates: bool,
) -> pd.DataFrame:
    """Return the manifest of pairs, sorted by patient and time of the ECG."""
    label = (pairs["lvef"] < task.pairs.lvef_below).astype(float)
    rows = _begin(patients, pairs, label, records)
    rows |= {"lvef": pairs["lvef"], "days_to_echo": whole(pairs["days_to_echo"])}
    rows |= _measurements(pairs, records) | _carried(pairs, records)
    if keep_dates:
        rows |= _from_ecg_table(pairs, records, ["acquired_at"])
    return _as_frame(rows)


def status_rows(patients: pd.Index, decided: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of NAME.status.csv, one for each patient, sorted by id."""
    lines = decided.assign(patient_id=patients, status=decided["status"].astype(str))
    for name in ("event_day", "last_echo_day", "death_day", "n_ecgs"):
        if name in lines:
            lines[name] = whole(lines[name])
    wanted = [name for name in (*STATUS_COLUMNS, "n_pairs") if name in lines]
    return lines[wanted]


def whole(values: Any) -> pd.Series:
    """Return whole numbers as pandas' Int64, missing where they are NaN."""
    return pd.Series(np.asarray(values, float)).round().astype("Int64")


def _as_frame(rows: dict[str, Any]) -> pd.DataFrame:
    columns = {name: pd.Series(np.asarray(column, object)) for name, column in rows.items()}
    return pd.DataFrame(columns).infer_objects()


def _begin(
    patients: pd.Index, ecgs: pd.DataFrame, label: pd.Series, records: Records
) -> dict[str, Any]:
    """Return the first columns of any manifest."""
    columns = _from_ecg_table(ecgs, records, ["path_xml", "age_years", "sex"])
    return {
        "patient_id": patients[ecgs["code"].to_numpy(np.int64)],
        "path_xml": columns["path_xml"],
        "label": whole(label),
        "age_years": columns["age_years"],
        "sex": _filled_sex(columns["sex"], ecgs, records),
    }


def _from_ecg_table(
    ecgs: pd.DataFrame, records: Records, names: Iterable[str]
) -> dict[str, NDArray[Any]]:
    """Return columns of the ECG table, empty where it lacks one."""
    table, rows = records.ecg, ecgs["row"].to_numpy(np.int64)
    empty = np.full(len(rows), "", object)
    return {name: table[name].to_numpy()[rows] if name in table else empty for name in names}


def _measurements(ecgs: pd.DataFrame, records: Records) -> dict[str, NDArray[Any]]:
    """Return the cart's measurements that the ECG table has."""
    return _from_ecg_table(ecgs, records, [name for name in MEASUREMENTS if name in records.ecg])


def _carried(ecgs: pd.DataFrame, records: Records) -> dict[str, NDArray[Any]]:
    """Return the further columns of the table of patients, empty for those it does not list."""
    if records.patients is None:
        return {}
    names = [name for name in records.patients if str(name).startswith(CARRIED)]
    known = records.patients[records.patients["code"] >= 0].set_index("code")[names]
    found = known.astype(object).reindex(ecgs["code"].to_numpy(np.int64)).fillna("")
    columns = {str(name).removeprefix(CARRIED): found[name].to_numpy() for name in names}
    columns.pop("sex", None)
    return columns


def _filled_sex(sex: NDArray[Any], ecgs: pd.DataFrame, records: Records) -> NDArray[Any]:
    """Return the sex that the ECG says, and that of the table of patients where it says none."""
    column = f"{CARRIED}sex"
    if records.patients is None or column not in records.patients:
        return sex
    known = records.patients[records.patients["code"] >= 0].set_index("code")[column]
    stated = known.astype(object).reindex(ecgs["code"].to_numpy(np.int64)).fillna("").to_numpy()
    return np.where(sex.astype(object) == "", stated, sex)


def _dates(days: NDArray[np.float64]) -> NDArray[Any]:
    """Write day numbers as dates."""
    return np.array([date.fromordinal(int(day)).isoformat() for day in days], object)
