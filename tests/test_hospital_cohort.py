"""The cohort's engine finds what the simulated hospital drew: the two share no code."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ecgprep
from ecgprep.simulation.corpus import write_csv
from ecgprep.simulation.hospital import COLUMNS, Patient, draw_patient, table_rows, write_hospital
from ecgprep.simulation.truth import DEFINITIONS, TASK

SEEDS = range(20)
PATIENTS_PER_SEED = 60
STATUS_OF_FLAW = {"": "ok", "undated": "ok", "short": "too_short", "flat": "flat"}
TABLES = ("echo", "therapy", "followup", "labs", "patients")


def ecg_rows(prefix: str, patient: Patient) -> list[tuple[str, ...]]:
    """Return the lines of ecg.csv as an index of the patient's files would have them."""
    rows = []
    for k, ecg in enumerate(patient.visits.ecgs):
        name = prefix + patient.person.patient_id
        on = (patient.person.day_zero + timedelta(days=ecg.day)).isoformat()
        at = "" if ecg.flaw == "undated" else f"{on}T08:{k:02d}:00"
        rows.append((name, f"{name}/{k}.xml", at, STATUS_OF_FLAW[ecg.flaw]))
    return rows


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of twenty hospitals in one folder, without files; ids begin with the seed."""
    tables: dict[str, list[tuple[object, ...]]] = {name: [] for name in (*COLUMNS, "ecg")}
    for seed in SEEDS:
        prefix = f"0{seed:02d}"
        for number in range(PATIENTS_PER_SEED):
            generator = np.random.default_rng([seed, number])
            patient = draw_patient(number, seed, 0.4, generator)
            for name, rows in table_rows(patient, generator).items():
                tables[name] += [(prefix + str(row[0]), *row[1:]) for row in rows]
            tables["ecg"] += ecg_rows(prefix, patient)
    out = tmp_path_factory.mktemp("hospitals")
    columns = {**COLUMNS, "ecg": ("patient_id", "path_xml", "acquired_at", "status")}
    for name, rows in tables.items():
        write_csv(out / f"{name}.csv", [columns[name], *rows])
    return out


def engine_statuses(folder: Path, ecg: Path, definition: str, work: Path) -> pd.Series:
    """Return the status of every patient by the engine."""
    task, out = work / "task.yaml", work / "cohort.csv"
    task.write_text(TASK.replace("esc2022_moderate", definition))
    tables = {name: folder / f"{name}.csv" for name in TABLES}
    ecgprep.cohort(task, ecg=ecg, out=out, **tables)
    statuses = pd.read_csv(work / "cohort.status.csv", dtype={"patient_id": str})
    return statuses.set_index("patient_id")["status"]


def truth(folder: Path, definition: str) -> pd.Series:
    table = pd.read_csv(folder / "truth.csv", dtype={"patient_id": str})
    return table.set_index("patient_id")[definition].sort_index()


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_engine_finds_the_truth_of_twenty_hospitals(hospitals, definition, tmp_path):
    found = engine_statuses(hospitals, hospitals / "ecg.csv", definition, tmp_path)
    expected = truth(hospitals, definition)
    assert len(found) == len(SEEDS) * PATIENTS_PER_SEED
    assert (found.sort_index() == expected).all()


def test_engine_finds_the_truth_from_the_files_themselves(tmp_path):
    write_hospital(tmp_path, patients=25, seed=3, harmed=0.5)
    ecg = tmp_path / "ecg.csv"
    ecgprep.index(tmp_path / "exports", ecg)
    found = engine_statuses(tmp_path, ecg, "esc2022_moderate", tmp_path)
    assert found.sort_index().equals(truth(tmp_path, "esc2022_moderate").rename("status"))
