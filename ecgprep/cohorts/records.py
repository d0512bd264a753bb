"""What each table of a cohort holds, read and checked: one DataFrame for each.

Every frame has `patient`, a categorical of cleaned ids (never missing), and `line`. A day is a
number (`date.toordinal`), `NO_DAY` where it is missing; a second is that of the day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgprep.cohorts.fields import (
    NO_DAY,
    NO_MOMENT,
    flag,
    is_missing,
    laboratory_reader,
    lvef_reader,
    moment_reader,
    not_negative,
    number_reader,
    strain,
)
from ecgprep.cohorts.tables import Table, Wanted, read_table
from ecgprep.errors import InputError
from ecgprep.header import MEASUREMENTS
from ecgprep.patients.covariates import is_allowed_name
from ecgprep.patients.identifiers import clean_id, holds_invisible
from ecgprep.patients.private_csv import Faults, counted

if TYPE_CHECKING:
    from ecgprep.cohorts.task import Task

COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...] | None]] = {
    "ecg": (
        ("patient_id", "path_xml", "acquired_at"),
        ("status", "age_years", "sex", *MEASUREMENTS),
    ),
    "echo": (("patient_id", "date", "lvef"), ("gls", "symptoms")),
    "therapy": (("patient_id", "date", "drug"), ("dose_mg_m2",)),
    "followup": (("patient_id", "last_seen"), ("died",)),
    "labs": (("patient_id", "date", "name", "value"), ("upper_limit",)),
    "patients": (("patient_id",), None),
}
"""Each table's columns: those that it must have, and those that it may have. None: any other."""

CARRIED = "carried:"
"""Begins the names of columns of the table of patients that go into the manifest."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_NOT_FROM_PATIENTS = frozenset(
    {
        "path_xml",
        "label",
        "age_years",
        "day_of_ecg",
        "baseline_lvef",
        "days_to_event_or_last_echo",
        "event",
        "doxorubicin_equivalent_mg_m2",
        *MEASUREMENTS,
    }
)
"""Columns of the manifest that no table of patients may bring."""

_MONTH = r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[^\W\d_]{0,6}"
_DATE_LIKE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*"  # 2024-03-31, with or without a time
    r"|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}.*|\d{2})"  # 31.03.2024, 03/31/24
    rf"|\d{{1,2}}[-/. ]*{_MONTH}[-/., ]*\d{{2,4}}.*"  # 31 March 2024, 31-MAR-24
    rf"|{_MONTH}\.? \d{{1,2}},? *\d{{4}}.*"  # March 31, 2024
    r"|(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"  # 20240331
    r"|(19|20)\d\d[-/](0[1-9]|1[0-2])",  # 2024-03
    re.IGNORECASE,
)


@dataclass
class Records:
    """All tables of a cohort, as frames, with what a user should know about them."""

    ecg: pd.DataFrame
    echo: pd.DataFrame
    therapy: pd.DataFrame | None = None
    followup: pd.DataFrame | None = None
    labs: pd.DataFrame | None = None
    patients: pd.DataFrame | None = None
    faults: dict[str, Faults] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def frames(self) -> dict[str, pd.DataFrame]:
        """Return the frames that are there, by table."""
        named = {name: getattr(self, name) for name in COLUMNS}
        return {name: frame for name, frame in named.items() if frame is not None}


def read_records(task: Task, sources: Mapping[str, Any]) -> Records:
    """Read the tables of a task; faults are noted in the result, for the caller to raise.

    `sources` maps the tables that are given to a file or a DataFrame. Raises InputError where a
    table cannot be read at all.
    """
    faults = {role: Faults() for role in sources}
    tables, refused = {}, []
    for role, source in sources.items():
        try:
            tables[role] = _read_table(task, role, source, faults[role])
        except InputError as error:
            refused.append(str(error))
    if refused:
        raise InputError("\n".join(refused))
    reader = _Reader(task, tables)
    frames = {role: reader.read(role) for role in tables}
    return Records(**frames, faults=faults, tables=tables, notes=reader.notes)


def _read_table(task: Task, role: str, source: Any, faults: Faults) -> Table:
    required, optional = COLUMNS[role]
    names = task.columns.get(role, {})  # type: ignore[call-overload]
    if role == "echo" and "symptoms" not in names:  # free text, unless the task says it is not
        optional = ("gls",)
    table = read_table(source, Wanted(role, required, optional, names), faults)
    if not len(table) and not faults.found and role in ("ecg", "echo", "therapy"):
        raise InputError(f"Table ({role}) {table.name} has no rows.")
    return table


class _Reader:
    """Reads the columns of each table; `notes` collects what is said about them."""

    def __init__(self, task: Task, tables: Mapping[str, Table]) -> None:
        self._task = task
        self._tables = tables
        self.notes: list[str] = []

    def read(self, role: str) -> pd.DataFrame:
        table = self._tables[role]
        patient, known = _patients(table, may_be_empty=role == "ecg")
        self._note_invisible(table)
        columns: dict[str, Any] = {"patient": patient, "line": table.line}
        columns |= getattr(self, f"_{role}")(table)
        frame = pd.DataFrame(columns)
        if not known.all():
            n = int(np.count_nonzero(~known))
            self.notes.append(f"{table.name}: not used: {counted(n, 'row')} without a patient id")
            frame = frame[known]
        if role == "echo":
            frame = self._with_lvef(frame, table)
        return frame.reset_index(drop=True)

    def _note_invisible(self, table: Table) -> None:
        texts, codes = table.columns["patient_id"]
        odd = np.isin(codes, [code for code, text in enumerate(texts) if holds_invisible(text)])
        if odd.any():
            self.notes.append(
                f"{table.name}: invisible characters were removed from the patient ids of "
                f"{counted(int(np.count_nonzero(odd)), 'row')}"
            )

    def _moments(
        self, table: Table, role: str, column: str, required: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        read = moment_reader(self._task.dates.get(role, "iso"))  # type: ignore[call-overload]
        moments = table.parsed(column, read, NO_MOMENT)
        days = moments[:, 0].astype(np.int64)
        if required:
            empty = table.parsed(column, is_missing, False)
            table.add_fault(column, empty, "must be a date; found nothing")
        return days, moments[:, 1]

    def _numbers(self, table: Table, column: str, check: Any = float) -> NDArray[np.float64]:
        if column not in table.columns:
            return np.full(len(table), np.nan)
        return table.parsed(column, number_reader(table.decimal_comma, check), np.nan)

    def _ecg(self, table: Table) -> dict[str, Any]:
        day, second = self._moments(table, "ecg", "acquired_at", required=False)
        usable = np.ones(len(table), bool)
        if "status" in table.columns:
            usable = table.parsed("status", lambda text: text.strip() == "ok", False)
        table.parsed("path_xml", _not_empty, "")
        carried: dict[str, Any] = {
            name: _as_text(table, name)
            for name in ("path_xml", "acquired_at", "sex")
            if name in table.columns
        }
        carried |= {
            name: self._numbers(table, name)
            for name in ("age_years", *MEASUREMENTS)
            if name in table.columns
        }
        return {"day": day, "second": second, "usable": usable, **carried}

    def _echo(self, table: Table) -> dict[str, Any]:
        day, second = self._moments(table, "echo", "date", required=True)
        lvef = table.parsed("lvef", lvef_reader(table.decimal_comma), np.nan)
        symptoms = np.full(len(table), np.nan)
        if "symptoms" in table.columns:
            symptoms = table.parsed("symptoms", flag, np.nan)
        return {
            "day": day,
            "second": second,
            "lvef": lvef,
            "gls": self._gls(table),
            "symptoms": symptoms,
        }

    def _gls(self, table: Table) -> NDArray[np.float64]:
        """Return the magnitude of GLS; none at all where its sign is not declared."""
        task = self._task
        nothing = np.full(len(table), np.nan)
        if "gls" not in table.columns or task.kind == "echo_pairs":
            return nothing
        given = ~table.parsed("gls", is_missing, True)
        if task.gls_sign is None and given.any():
            if task.definition.criterion.names & {"gls", "baseline_gls", "gls_fall"}:
                table.add_fault(
                    "gls",
                    given,
                    "the task must declare the sign, gls_sign: negative (-20 % is normal) or "
                    "positive; it is never guessed",
                )
            else:
                self.notes.append(
                    f"{table.name}: not used: gls, as the task does not declare gls_sign"
                )
            return nothing
        return self._numbers(table, "gls", strain(task.gls_sign))

    def _with_lvef(self, frame: pd.DataFrame, table: Table) -> pd.DataFrame:
        """Refuse or leave out the echos that have no LVEF, as the task says."""
        empty = table.parsed("lvef", is_missing, False)
        if self._task.missing_lvef == "refuse":
            table.add_fault(
                "lvef",
                empty,
                "an echocardiogram without an LVEF. Delete the rows, or set missing_lvef: skip "
                "in the task",
            )
            return frame
        n = np.count_nonzero(empty)
        if n:
            self.notes.append(f"{table.name}: not used: {counted(int(n), 'echo')} without an LVEF")
        return frame[~empty]

    def _therapy(self, table: Table) -> dict[str, Any]:
        day, _ = self._moments(table, "therapy", "date", required=True)
        table.parsed("drug", _not_empty, "")
        drug = _as_text(table, "drug")
        dose = self._numbers(table, "dose_mg_m2", not_negative)
        return {"day": day, "drug": drug, "dose_mg_m2": dose}

    def _followup(self, table: Table) -> dict[str, Any]:
        last_seen, _ = self._moments(table, "followup", "last_seen", required=False)
        died = np.full(len(table), NO_DAY)
        if "died" in table.columns:
            died, _ = self._moments(table, "followup", "died", required=False)
        return {"last_seen": last_seen, "died": died}

    def _labs(self, table: Table) -> dict[str, Any]:
        day, _ = self._moments(table, "labs", "date", required=True)
        read = laboratory_reader(table.decimal_comma)
        value = table.parsed("value", read, np.nan)
        limit = np.full(len(table), np.nan)
        if "upper_limit" in table.columns:
            limit = table.parsed("upper_limit", read, np.nan)
        return {"day": day, "name": _as_text(table, "name"), "value": value, "limit": limit}

    def _patients(self, table: Table) -> dict[str, Any]:
        """Return the columns to carry into the manifest, and the birth date as `born`."""
        columns: dict[str, Any] = {"born": np.full(len(table), NO_DAY)}
        left_out = []
        for name in table.columns:
            if name == "birth_date":
                columns["born"], _ = self._moments(table, "patients", name, required=False)
            elif name in _NOT_FROM_PATIENTS:
                table.faults.found.append(
                    f"{table.name}, {name}: the manifest has a column of this name. Rename it"
                )
            elif name != "patient_id" and (not is_allowed_name(name) or _holds_dates(table, name)):
                left_out.append(name)
            elif name != "patient_id":
                columns[f"{CARRIED}{name}"] = _as_text(table, name)
        if left_out:
            self.notes.append(
                f"{table.name}: not carried into the manifest: {counted(len(left_out), 'column')} "
                "that may hold a date, a name or an id"
            )
        return columns


def _patients(table: Table, may_be_empty: bool) -> tuple[pd.Categorical, NDArray[np.bool_]]:
    """Return the cleaned ids of a table, and which rows have one."""
    texts, codes = table.columns["patient_id"]
    ids = [clean_id(text) for text in texts]
    empty = np.array([not one for one in ids] or [False])[codes]
    control = np.array([bool(_CONTROL.search(one)) for one in ids] or [False])[codes]
    table.add_fault("patient_id", control, "must be text without control characters")
    if not may_be_empty:
        table.add_fault("patient_id", empty, "must be text; found nothing")
    distinct = {one: code for code, one in enumerate(dict.fromkeys(ids))}
    recoded = np.array([distinct[one] for one in ids] or [0], np.int32)[codes]
    return pd.Categorical.from_codes(recoded, categories=list(distinct)), ~empty


def _as_text(table: Table, column: str) -> pd.Categorical:
    """Return a column of trimmed texts as a categorical."""
    texts, codes = table.columns[column]
    stripped = [text.strip() for text in texts]
    distinct = {text: code for code, text in enumerate(dict.fromkeys(stripped))}
    recoded = np.array([distinct[text] for text in stripped] or [0], np.int32)[codes]
    return pd.Categorical.from_codes(recoded, categories=list(distinct))


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("must be text; found nothing")
    return ""


def _holds_dates(table: Table, column: str) -> bool:
    return any(_DATE_LIKE.fullmatch(text.strip()) for text in table.columns[column].texts)


def check_one_row_each(frame: pd.DataFrame, table: Table) -> None:
    """Note a fault where a patient has several rows in a table of one row for each."""
    table.add_fault(
        "patient_id",
        _on_lines(table, frame.loc[frame["patient"].duplicated(), "line"]),
        "the patient has a row already; this table has one for each",
    )


def _on_lines(table: Table, lines: Sequence[int] | pd.Series) -> NDArray[np.bool_]:
    return np.isin(table.line, np.asarray(lines))
