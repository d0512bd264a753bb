"""Join tables by patient, and find what contradicts or gets lost between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgprep.cohorts.fields import NO_DAY
from ecgprep.cohorts.records import Records, check_one_row_each
from ecgprep.patients.identifiers import lookalike_key
from ecgprep.patients.private_csv import counted, listed_lines

_DAYS_A_YEAR = 365.25

_CAPPED_AGE = 89
"""From this age on an age may have been capped, and says nothing about the year of birth."""


def join(records: Records, role: str, ignore_others: bool = True) -> pd.Index:
    """Return the sorted patients of one table, and give every frame their numbers as `code`.

    `role` is the table that says who the patients are. A patient of another table who is not among
    them has the code -1 and is counted; with `ignore_others` off, one in `echo` is a fault.
    """
    who = getattr(records, role)["patient"]
    patients = pd.Index(sorted(who.cat.categories[np.unique(who.cat.codes)]))
    for name, frame in records.frames().items():
        column = frame["patient"]
        codes = patients.get_indexer(column.cat.categories)[column.cat.codes]
        frame["code"] = codes
        strangers = codes < 0
        if not strangers.any():
            continue
        n = column[strangers].nunique()
        if name == "echo" and not ignore_others:
            table = records.tables["echo"]
            table.add_fault(
                "patient_id",
                np.isin(table.line, frame.loc[strangers, "line"]),
                f"{counted(n, 'patient')} not in the {role} table. Correct the ids, or set "
                "echo_without_therapy: ignore in the task",
            )
        else:
            records.notes.append(
                f"{records.tables[name].name}: not used: {counted(n, 'patient')} not in the "
                f"{role} table"
            )
    records.notes += _lookalikes(records, role, patients)
    return patients


def _lookalikes(records: Records, role: str, patients: pd.Index) -> Iterator[str]:
    """Say which ids look like a patient's of the table `role` without being the same, by line."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for patient in patients:
        by_key[lookalike_key(patient)].append(patient)
    for name, frame in records.frames().items():
        wanted = _alike(frame["patient"], by_key, patients, among=name == role)
        if not wanted.any():
            continue
        lines = _first_lines(frame, wanted)
        yield (
            f"{records.tables[name].name}, {listed_lines(lines)}: "
            f"{counted(len(lines), 'patient id')} that may be another spelling of one in the "
            f"{role} table (case, blanks, leading zeros and the like). They are different patients "
            "here: correct them if they are not"
        )


def _alike(
    column: pd.Series, by_key: dict[str, list[str]], patients: pd.Index, among: bool
) -> NDArray[np.bool_]:
    """Say which ids that occur look like another patient's: of those `among` them, or of others."""
    ids = column.cat.categories
    wanted = np.zeros(len(ids), bool)
    wanted[column.cat.codes] = True
    wanted &= (patients.get_indexer(ids) >= 0) == among
    for place in np.flatnonzero(wanted):
        alike = by_key.get(lookalike_key(ids[place]), ())
        wanted[place] = any(other != ids[place] for other in alike)
    return wanted


def _first_lines(frame: pd.DataFrame, wanted: NDArray[np.bool_]) -> list[int]:
    rows = wanted[frame["patient"].cat.codes]
    first = frame[rows].drop_duplicates("patient")
    lines: list[int] = sorted(first["line"].tolist())
    return lines


def check_tables(records: Records) -> None:
    """Note as faults what contradicts itself: a patient twice, a therapy before birth."""
    for name in ("followup", "patients"):
        frame = getattr(records, name)
        if frame is not None:
            check_one_row_each(frame, records.tables[name])
    if records.therapy is not None and len(records.therapy):
        _check_births(records, records.therapy)


def _check_births(records: Records, therapy: pd.DataFrame) -> None:
    """Refuse a dose before birth: a stated birth date, or the earliest that ages leave possible."""
    known = therapy["code"] >= 0
    born = np.full(int(therapy["code"].max()) + 1, NO_DAY, float)
    ecg = records.ecg
    if "age_years" in ecg:
        told = ecg[(ecg["code"] >= 0) & (ecg["day"] != NO_DAY) & (ecg["age_years"] < _CAPPED_AGE)]
        # A stated age of 40 is less than 41 years; the most lenient of all ECGs counts.
        earliest = told["day"] - (told["age_years"] + 1) * _DAYS_A_YEAR - 1
        possible = earliest.groupby(told["code"]).min()
        born[possible.index] = possible
    if records.patients is not None:
        stated = records.patients[(records.patients["code"] >= 0)]
        stated = stated[stated["born"] != NO_DAY]
        born[stated["code"]] = stated["born"]
    too_early = known & (therapy["day"] != NO_DAY) & (therapy["day"] < born[therapy["code"]])
    table = records.tables["therapy"]
    table.add_fault(
        "date",
        np.isin(table.line, therapy.loc[too_early, "line"]),
        "a therapy before the patient's birth, by the age or birth date that the other tables give",
    )


def codes_and_rows(frame: pd.DataFrame | None, columns: Iterable[str]) -> pd.DataFrame:
    """Return the rows of known patients, with `code` and `columns`; no row without a frame."""
    names = ["code", *columns]
    if frame is None:
        return pd.DataFrame({name: [] for name in names})
    return frame.loc[frame["code"] >= 0, names]
