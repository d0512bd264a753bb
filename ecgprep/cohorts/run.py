"""Carry out a task on a hospital's tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ecgprep.cohorts.carried import rows_sha256
from ecgprep.cohorts.joining import check_tables, join
from ecgprep.cohorts.pairs import pair_with_echos
from ecgprep.cohorts.records import Records, read_records
from ecgprep.cohorts.rows import ctrcd_rows, pair_rows, status_rows
from ecgprep.cohorts.status import classify, total_doses
from ecgprep.cohorts.tables import raise_faults
from ecgprep.cohorts.task import CtrcdTask, EchoPairsTask, Task
from ecgprep.cohorts.timelines import Timelines, make_timelines
from ecgprep.errors import InputError

NEEDED = {"ctrcd": ("ecg", "echo", "therapy"), "echo_pairs": ("ecg", "echo")}
"""Tables that each kind of task needs."""

ALLOWED = {
    "ctrcd": ("ecg", "echo", "therapy", "followup", "labs", "patients"),
    "echo_pairs": ("ecg", "echo", "patients"),
}
"""Tables that each kind of task reads."""


@dataclass(frozen=True, eq=False)
class CohortResult:
    """A cohort: who is what, by which task, from which days.

    `manifest` has one row for each kept ECG, `status` one line for each patient (as
    NAME.status.csv). `decided` has row i for patient i, sorted by id, with all that was found: see
    `status.classify`; `total_dose` is the doxorubicin-equivalent dose in mg/m². `timelines` is
    there for tasks of kind ctrcd: `status.classify(timelines, other_task)` decides again by another
    task with the same index. `notes` are sentences for the user; none holds a value of a patient.
    """

    task: Task
    manifest: pd.DataFrame
    status: pd.DataFrame
    decided: pd.DataFrame
    timelines: Timelines | None
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Patients by status, in the order of the rules; together they are all patients."""
        counts = self.decided["status"].value_counts(sort=False)
        return {str(name): int(n) for name, n in counts.items()}

    @property
    def rows_sha256(self) -> str:
        """The hash by which the manifest and its task are known to belong together."""
        frame = self.manifest
        labels = frame["label"].astype(object).where(frame["label"].notna(), "")
        return rows_sha256(frame["patient_id"], frame["path_xml"], labels)


def make_cohort(task: Task, sources: Mapping[str, Any], keep_dates: bool = False) -> CohortResult:
    """Turn tables into a cohort.

    `sources` maps the names of tables (`ALLOWED`) to CSV or Parquet files or DataFrames. Raises
    InputError with all faults of all tables, for a table that is missing or is not read by this
    kind of task, and where nobody is left.
    """
    given = {name: source for name, source in sources.items() if source is not None}
    _check_sources(task, given)
    records = read_records(task, given)
    if isinstance(task, EchoPairsTask):
        return _pairs(task, records, keep_dates)
    return _ctrcd(task, records, keep_dates)


def _check_sources(task: Task, given: Mapping[str, Any]) -> None:
    missing = [name for name in NEEDED[task.kind] if name not in given]
    if missing:
        options = ", ".join(f"--{name}" for name in missing)
        raise InputError(f"A task of kind {task.kind} needs {options} as well.")
    unread = [name for name in given if name not in ALLOWED[task.kind]]
    if unread:
        options = ", ".join(f"--{name}" for name in unread)
        raise InputError(f"A task of kind {task.kind} does not read {options}. Leave it out.")


def _ctrcd(task: CtrcdTask, records: Records, keep_dates: bool) -> CohortResult:
    patients = join(records, "therapy", ignore_others=task.echo_without_therapy == "ignore")
    check_tables(records)
    raise_faults(records.faults.values())
    timelines = make_timelines(task, records, patients)
    _check_inputs(task, timelines, records)
    decided = classify(timelines, task)
    decided["total_dose"] = total_doses(timelines) if timelines.has_doses else float("nan")
    manifest = ctrcd_rows(task, timelines, decided, records, keep_dates)
    result = CohortResult(
        task, manifest, status_rows(patients, decided), decided, timelines, records.notes
    )
    _check_result(result)
    return result


def _check_inputs(task: CtrcdTask, timelines: Timelines, records: Records) -> None:
    """Say what the definition uses and no table holds; refuse it if that is all it uses."""
    missing = sorted(task.definition.missing(timelines.available))
    if not missing:
        return
    listed = ", ".join(missing)
    if not task.definition.is_assessable(timelines.available):
        raise InputError(
            f"The definition of the task uses {listed} alone, which no table holds, so nobody "
            "could have an event. Give the table that holds it (--labs, or gls in --echo), or "
            "choose another definition."
        )
    records.notes.append(
        f"The definition also uses {listed}, which no table holds: what is missing meets no "
        "criterion"
    )


def _pairs(task: EchoPairsTask, records: Records, keep_dates: bool) -> CohortResult:
    patients = join(records, "ecg")
    check_tables(records)
    raise_faults(records.faults.values())
    pairs, decided = pair_with_echos(task, records, patients)
    manifest = pair_rows(task, pairs, patients, records, keep_dates)
    result = CohortResult(
        task, manifest, status_rows(patients, decided), decided, None, records.notes
    )
    _check_result(result)
    return result


def _check_result(result: CohortResult) -> None:
    """Refuse a cohort of nobody, and say so where all have one label. Raises InputError."""
    assert sum(result.counts.values()) == len(result.decided)
    if result.manifest["label"].notna().sum() == 0:
        counts = ", ".join(f"{name} {n:,}" for name, n in result.counts.items() if n)
        raise InputError(
            f"No ECG has a label, so nothing was written. Patients by status: {counts}. "
            "Compare the task's drugs and windows with the tables."
            + "".join(f"\n  {note}" for note in result.notes)
        )
    if result.manifest["label"].nunique() == 1:
        only = "positive" if result.manifest["label"].dropna().iloc[0] == 1 else "negative"
        result.notes.append(f"All labels are {only}: a model cannot be trained on them")
