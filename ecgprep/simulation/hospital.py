"""A simulated hospital: vendor files, tables of therapy, echo, follow-up and labs, and the truth.

`ecgprep synth --hospital` writes it, and `make demo` goes through it from the exports to a report.
Nothing in it is about a real person, and nothing that is learnt from it is evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from ecgprep.errors import TargetExists
from ecgprep.files.atomic import write_file
from ecgprep.files.output import refuse_inside_store
from ecgprep.simulation.corpus import write_csv
from ecgprep.simulation.exports import Exports, Person, remove_exports
from ecgprep.simulation.trajectories import Course
from ecgprep.simulation.truth import DEFINITIONS, TASK, statuses
from ecgprep.simulation.visits import Ecg, Visits, draw_visits

COLUMNS = {
    "therapy": ("patient_id", "date", "drug", "dose_mg_m2"),
    "echo": ("patient_id", "date", "lvef", "gls", "modality"),
    "labs": ("patient_id", "date", "name", "value", "upper_limit"),
    "followup": ("patient_id", "last_seen", "died"),
    "patients": ("patient_id", "cancer", "hypertension", "diabetes", "left_chest_radiation"),
    "truth": ("patient_id", *DEFINITIONS),
}
"""Table -> its columns; each is a CSV file of that name."""

CANCERS = ("breast", "lymphoma", "sarcoma", "leukaemia")
REDUCED_SHARE = 0.05
"""Share of hearts with a reduced LVEF before the first dose."""
NO_FOLLOWUP_SHARE = 0.1
"""Share of the living without a line in followup.csv."""
PATIENTS_PER_OUTSIDER = 40
"""A person without therapy, who is in the exports alone, comes for so many patients."""
PATIENTS_PER_CUT_OFF = 100
"""A file that was cut off comes for so many patients."""
LAST_ID = 10**7
ID_STEP = 7919
"""A prime that does not divide LAST_ID, so that ids repeat only after LAST_ID of them."""

Row = tuple[object, ...]


@dataclass(frozen=True)
class Patient:
    """A person with a course and what was recorded of it."""

    person: Person
    course: Course
    visits: Visits
    risks: Row
    """The cells of patients.csv behind the id."""


def write_hospital(
    out: Path,
    patients: int,
    seed: int,
    harmed: float,
    replace: bool = False,
    dialects: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Write OUT/exports/DIALECT/*, the tables of COLUMNS as OUT/*.csv, and OUT/task.yaml.

    `harmed` is the share of hearts that the therapy harms. `truth.csv` has the status of every
    patient under every built-in definition, by the task in task.yaml. `progress` is called with the
    numbers of patients written and wanted.

    Returns the numbers of files and of patients who are positive by the task's definition. Raises
    TargetExists, and NoSpace when the disk is full.
    """
    task = out / "task.yaml"
    refuse_inside_store(task)
    if not replace and any((out / name).exists() for name in ("task.yaml", "exports")):
        raise TargetExists(
            f"{out} already holds a hospital. Use --replace to write into it, or another folder."
        )
    remove_exports(out / "exports")
    exports = Exports(out / "exports", dialects)
    tables: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    for number in range(patients):
        generator = np.random.default_rng([seed, number])
        patient = draw_patient(number, seed, harmed, generator)
        for name, rows in table_rows(patient, generator).items():
            tables[name] += rows
        for ecg in patient.visits.ecgs:
            exports.write(ecg, patient.person, patient.course, generator)
        if progress:
            progress(number + 1, patients)
    _write_others(exports, patients, seed)
    for name, rows in tables.items():
        write_csv(out / f"{name}.csv", [COLUMNS[name], *rows])
    write_file(task, TASK.encode())
    is_positive = COLUMNS["truth"].index("esc2022_moderate")
    return exports.n_files, sum(row[is_positive] == "positive" for row in tables["truth"])


def draw_patient(number: int, seed: int, harmed: float, generator: np.random.Generator) -> Patient:
    """Draw who a patient is, how the heart fares, and what is recorded of it."""
    is_harmed = bool(generator.random() < harmed)
    was_reduced = bool(generator.random() < REDUCED_SHARE)
    course = Course.draw(is_harmed, was_reduced, generator)
    day_zero = date(2012, 1, 1) + timedelta(days=int(generator.integers(0, 8 * 365)))
    sex, age = ("F" if generator.random() < 0.6 else "M"), int(generator.integers(30, 80))
    person = Person(
        patient_id=f"{(number + 1) * ID_STEP % LAST_ID:07d}",
        born=day_zero.year - age,
        sex=sex,
        day_zero=day_zero,
        heart_seed=(seed, number, 1),
    )
    cancer = str(generator.choice(CANCERS))
    hypertension = int(generator.random() < (0.45 if is_harmed else 0.3))
    diabetes = int(generator.random() < 0.12)
    radiation = int(cancer == "breast" and generator.random() < 0.3)
    visits = draw_visits(course, is_harmed, generator)
    return Patient(person, course, visits, (cancer, hypertension, diabetes, radiation))


def table_rows(patient: Patient, generator: np.random.Generator) -> dict[str, list[Row]]:
    """Return the lines of one patient in every table."""
    name, visits = patient.person.patient_id, patient.visits

    def on(day: int) -> str:
        return (patient.person.day_zero + timedelta(days=day)).isoformat()

    return {
        "therapy": [(name, on(x.day), x.drug, x.mg_m2) for x in visits.doses],
        "echo": [(name, on(x.day), x.lvef, x.gls, x.modality) for x in visits.echos],
        "labs": [(name, on(x.day), x.name, x.value, x.upper_limit) for x in visits.labs],
        "followup": _followup(patient, on, generator),
        "patients": [(name, *patient.risks)],
        "truth": [(name, *statuses(visits).values())],
    }


def _followup(
    patient: Patient, on: Callable[[int], str], generator: np.random.Generator
) -> list[Row]:
    """Return the line of followup.csv, which some of the living lack."""
    name, visits = patient.person.patient_id, patient.visits
    if visits.death_day is not None:
        return [(name, on(visits.death_day), on(visits.death_day))]
    if generator.random() < NO_FOLLOWUP_SHARE:
        return []
    last_day = max(
        records[-1].day for records in (visits.doses, visits.echos, visits.ecgs) if records
    )
    return [(name, on(last_day + int(generator.integers(0, 200))), None)]


def _write_others(exports: Exports, patients: int, seed: int) -> None:
    """Write ECGs of people who are in no table, and files that were cut off."""
    n_outsiders, n_cut_off = -(-patients // PATIENTS_PER_OUTSIDER), patients // PATIENTS_PER_CUT_OFF
    for k in range(n_outsiders + n_cut_off):
        number = patients + k
        generator = np.random.default_rng([seed, number])
        other = draw_patient(number, seed, 0, generator)
        write = exports.write if k < n_outsiders else exports.write_cut_off
        write(Ecg(0), other.person, other.course, generator)
