"""A simulated hospital is a function of its seed, and its truth holds by hand and in the engine."""

from __future__ import annotations

import csv
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import command, files_of

import ecgprep
from ecgprep.errors import TargetExists
from ecgprep.ranking import auroc
from ecgprep.readers import open_file
from ecgprep.simulation.hospital import COLUMNS, draw_patient, write_hospital
from ecgprep.simulation.simulator import Heart
from ecgprep.simulation.truth import DEFINITIONS, statuses
from ecgprep.simulation.visits import Dose, Ecg, Echo, Lab, Visits

N_PATIENTS = 30
STATUSES = {
    "no_index",
    "no_baseline_echo",
    "already_reduced",
    "no_ecg",
    "ecg_unusable",
    "positive",
    "death_first",
    "negative",
    "unknown_followup",
}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small hospital; read-only for tests."""
    out = tmp_path_factory.mktemp("hospital")
    write_hospital(out, patients=N_PATIENTS, seed=7, harmed=0.4)
    return out


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def export_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "exports").rglob("*") if path.is_file())


def patients(seed: int, n: int) -> list:
    return [draw_patient(k, seed, 0.4, np.random.default_rng([seed, k])) for k in range(n)]


def test_same_arguments_give_the_same_bytes(hospital, tmp_path):
    write_hospital(tmp_path, patients=N_PATIENTS, seed=7, harmed=0.4)
    assert files_of(tmp_path) == files_of(hospital)


def test_tables_have_their_columns_and_the_patients_of_the_therapy_table(hospital):
    treated = {row["patient_id"] for row in table(hospital, "therapy")}
    assert len(treated) == N_PATIENTS
    assert any(name.startswith("00") for name in treated)
    for name, columns in COLUMNS.items():
        rows = table(hospital, name)
        assert tuple(rows[0]) == columns
        assert {row["patient_id"] for row in rows} <= treated
    for name in ("truth", "patients"):
        assert [row["patient_id"] for row in table(hospital, name)] == sorted(treated)


def test_files_say_who_they_are_of_but_their_names_do_not(hospital):
    treated = {row["patient_id"] for row in table(hospital, "truth")}
    paths = export_files(hospital)
    owners = [open_file(path, hospital).header() for path in paths]
    strangers = {header.patient_id for header in owners} - treated
    assert len(strangers) == 1
    assert len({header.patient_id for header in owners} & treated) > 0.9 * N_PATIENTS
    assert not any(name in str(path.relative_to(hospital)) for path in paths for name in treated)
    assert {path.parent.name for path in paths} == {"muse", "aecg", "cardiosoft", "philips"}


def test_ages_of_a_patient_agree_with_the_years(hospital):
    born: dict[str, set[float]] = {}
    for path in export_files(hospital):
        header = open_file(path, hospital).header()
        if header.acquired_at and header.age_years is not None:
            year = int(header.acquired_at[:4])
            born.setdefault(header.patient_id, set()).add(year - header.age_years)
    assert all(len(years) == 1 for years in born.values())


def test_another_hospital_leaves_no_file_of_the_one_before(hospital, tmp_path):
    write_hospital(tmp_path, patients=3, seed=1, harmed=0.4)
    with pytest.raises(TargetExists, match="already holds a hospital"):
        write_hospital(tmp_path, patients=N_PATIENTS, seed=7, harmed=0.4)
    write_hospital(tmp_path, patients=1, seed=2, harmed=0.4, replace=True)
    write_hospital(tmp_path, patients=N_PATIENTS, seed=7, harmed=0.4, replace=True)
    assert files_of(tmp_path) == files_of(hospital)


def test_command_names_the_task(tmp_path):
    done = command("synth", tmp_path / "h", "--hospital", "--patients", 2, "--dialects", "schiller")
    assert done.returncode == 0
    made, following = done.stdout.splitlines()
    assert made.endswith(f"task: {tmp_path / 'h' / 'task.yaml'}")
    assert command(*shlex.split(following.removeprefix("next: ecgprep "))).returncode == 0
    assert (tmp_path / "h" / "ecg.csv").is_file()
    assert {path.name for path in (tmp_path / "h" / "exports").iterdir()} == {"schiller"}
    simulated = ecgprep.simulate(tmp_path / "i", patients=2, hospital=True)
    assert simulated.manifest is None
    assert simulated.n_files > 0


def test_every_status_occurs_and_definitions_differ():
    found = [statuses(patient.visits) for patient in patients(1, 400)]
    assert {status for each in found for status in each.values()} == STATUSES
    columns = {name: tuple(each[name] for each in found) for name in DEFINITIONS}
    assert len(set(columns.values())) == len(DEFINITIONS)


def test_a_hospital_has_its_mess():
    visits = [patient.visits for patient in patients(1, 400)]
    echo_days = [[echo.day for echo in each.echos] for each in visits]
    assert any(a == b for days in echo_days for a, b in pairwise(days))
    assert any(each.death_day for each in visits)
    assert any(ecg.day > 365 for each in visits for ecg in each.ecgs)
    assert {ecg.flaw for each in visits for ecg in each.ecgs} == {"", "short", "flat", "undated"}
    for each in (each for each in visits if each.death_day):
        records = (*each.doses, *each.echos, *each.labs, *each.ecgs)
        assert all(record.day < each.death_day for record in records)


def test_ecgs_before_the_event_differ_as_expected_and_overlap():
    """QTc longer, rate higher, QRS wider and T lower, as in cardiac dysfunction; not by much."""
    hearts: dict[str, list[Heart]] = {"positive": [], "negative": []}
    for patient in patients(5, 1500):
        status = statuses(patient.visits)["esc2022_moderate"]
        if status in hearts:
            generator = np.random.default_rng(patient.person.heart_seed)
            hearts[status].append(Heart.draw(generator, patient.course.severity(0)))
    label = np.repeat([True, False], [len(hearts["positive"]), len(hearts["negative"])])
    both = [*hearts["positive"], *hearts["negative"]]
    for trait, sign in (("rate_bpm", 1), ("qtc_s", 1), ("qrs_width", 1), ("t_scale", -1)):
        value = np.array([sign * getattr(heart, trait) for heart in both])
        assert 0.6 < auroc(value, label) < 0.9, trait


def visits(echos: list[Echo], labs: tuple[Lab, ...] = (), death_day: int | None = None) -> Visits:
    """Return a patient with a first anthracycline on day 0 and an ECG the day before."""
    dose, ecg = Dose(0, "Doxorubicin", 60, is_anthracycline=True), Ecg(-1)
    return Visits([dose], echos, list(labs), [ecg], death_day)


BORDERS = (
    (60, 50, "crec"),  # b - f = 10, and f is not below 50
    (59.9, 49.9, "esc2022_moderate esc2022_mild hera crec fda_doxorubicin"),  # b - f = 10
    (60.1, 50, "ase2014 crec"),
    (64, 53, "crec"),  # ase2014: f < 53
    (64.4, 54.4, "crec"),  # 64.4 - 54.4 is not more than 10
    (65, 55, ""),
    (50, 40, "esc2022_moderate esc2022_mild hera crec fda_doxorubicin"),  # 40 is not below 40
    (50, 45, "fda_doxorubicin"),
    (54, 46, ""),
    (70, 50, "ase2014 crec fda_doxorubicin"),  # b - f = 20
    (75, 55, "fda_doxorubicin"),
    (60, 39.9, " ".join(DEFINITIONS)),
)


@pytest.mark.parametrize(("b", "f", "expected"), BORDERS)
def test_truth_at_the_borders_of_lvef_by_hand(b, f, expected):
    found = statuses(visits([Echo(-3, b, None, "2D"), Echo(400, f, None, "2D")]))
    assert {name for name, status in found.items() if status == "positive"} == set(expected.split())
    assert set(found.values()) <= {"positive", "negative"}


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [(-20.0, -17.0, ""), (-20.0, -16.9, "esc2022_mild"), (20.0, 16.9, "esc2022_mild")],
)
def test_truth_of_a_relative_fall_of_gls_above_15_percent(before, after, names):
    found = statuses(visits([Echo(-3, 60, before, "2D"), Echo(400, 58, after, "2D")]))
    assert {name for name, status in found.items() if status == "positive"} == set(names.split())


@pytest.mark.parametrize(
    ("labs", "is_positive"),
    [
        ([Lab(386, "BNP", 35.1, None)], True),
        ([Lab(386, "BNP", 35.0, None)], False),  # the limit itself
        ([Lab(385, "BNP", 90.0, None)], False),  # fifteen days before the echo
        ([Lab(414, "NT-proBNP", 130.0, 150.0)], False),  # the laboratory's limit
        ([Lab(400, "Creatinine", 9.0, 1.2)], False),
        ([Lab(-17, "BNP", 40.0, None), Lab(400, "BNP", 90.0, None)], False),  # high before, too
    ],
)
def test_truth_of_a_rise_of_biomarkers(labs, is_positive):
    found = statuses(visits([Echo(-3, 55, None, "2D"), Echo(400, 48, None, "2D")], tuple(labs)))
    expected = {"esc2022_moderate", "esc2022_mild"} if is_positive else set()
    assert {name for name, status in found.items() if status == "positive"} == expected


@pytest.mark.parametrize(
    ("echos", "death_day", "expected"),
    [
        ([(-366, 60), (400, 45)], None, "no_baseline_echo"),
        ([(-365, 60), (14, 49.9)], None, "already_reduced"),
        ([(-365, 60), (1, 48)], None, "already_reduced"),  # day 1 is in the baseline window
        ([(-1, 60), (730, 45)], None, "positive"),
        ([(-1, 60), (731, 45)], None, "unknown_followup"),
        ([(-1, 60), (500, 60), (731, 45)], None, "negative"),
        ([(-1, 60), (364, 60)], None, "unknown_followup"),
        ([(-1, 60), (365, 60)], None, "negative"),
        ([(-1, 60), (200, 60)], 730, "death_first"),
        ([(-1, 60), (400, 60)], 731, "negative"),
        ([(-1, 60), (200, 45)], 300, "positive"),
        ([(-1, 60), (400, 46), (400, 56)], None, "negative"),  # 51 on that day
    ],
)
def test_truth_of_the_windows(echos, death_day, expected):
    found = statuses(visits([Echo(day, f, None, "3D") for day, f in echos], death_day=death_day))
    assert found["hera"] == expected


@pytest.mark.parametrize(
    ("ecgs", "expected"),
    [
        ([Ecg(-366), Ecg(1)], "no_ecg"),
        ([Ecg(-5, "undated")], "no_ecg"),
        ([Ecg(-5, "flat"), Ecg(0, "short")], "ecg_unusable"),
        ([Ecg(-365), Ecg(0, "short")], "negative"),
    ],
)
def test_truth_of_the_ecgs(ecgs, expected):
    whole = visits([Echo(-1, 60, None, "2D"), Echo(400, 60, None, "2D")])
    found = statuses(Visits(whole.doses, whole.echos, whole.labs, ecgs, None))
    assert set(found.values()) == {expected}
