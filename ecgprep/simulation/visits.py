"""What a simulated hospital records of a patient: doses, echocardiograms, labs, ECGs, a death.

Days count from the day of the first anthracycline, or of the first drug where there is none. Much
is as untidy as in a hospital: visits are missed, moved and doubled, drugs have many names, and some
files are of no use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgprep.simulation.trajectories import Course

ANTHRACYCLINES = {
    "Doxorubicin": 60,
    "doxorubicin hydrochloride": 60,
    "DOXORUBICIN LIPOSOMAL": 40,
    "Adriamycin": 60,
    "Caelyx": 40,
    "Epirubicin": 90,
    "epirubicin HCl": 90,
    "Daunorubicin": 45,
    "Idarubicin hydrochloride": 12,
}
"""Name as therapy.csv has it: a usual dose in mg/m²."""

OTHER_DRUGS = (
    "Trastuzumab",
    "trastuzumab-dkst",
    "Herceptin",
    "Pertuzumab",
    "Pembrolizumab",
    "Keytruda",
    "Paclitaxel",
    "Cyclophosphamide",
    "Mitoxantrone",
)
"""Drugs that are no anthracyclines here, mitoxantrone among them."""

ECHO_DAYS = (90, 180, 365, 545, 730, 1095)
"""When an echocardiogram is due."""

ECG_DAYS = (-40, -7, 60, 200, 420, 800)
"""When an ECG is usual."""

ECHO_ERRORS = {"2D": 2.5, "3D": 1.5, "CMR": 1.0}
"""Modality -> standard error of LVEF, in percentage points."""

FLAWS = ("short", "flat", "undated")
"""What may be wrong with an ECG: it lasts three seconds, no electrode is on, it has no date."""


@dataclass(frozen=True)
class Dose:
    """One line of therapy.csv."""

    day: int
    drug: str
    mg_m2: float | None
    is_anthracycline: bool


@dataclass(frozen=True)
class Echo:
    """One line of echo.csv: LVEF in percent, GLS in negative percent."""

    day: int
    lvef: float
    gls: float | None
    modality: str


@dataclass(frozen=True)
class Lab:
    """One line of labs.csv."""

    day: int
    name: str
    value: float
    upper_limit: float | None


@dataclass(frozen=True)
class Ecg:
    """One file; `flaw` is "" or one of FLAWS."""

    day: int
    flaw: str = ""


@dataclass(frozen=True)
class Visits:
    """All that is recorded of a patient, each list in the order of days."""

    doses: list[Dose]
    echos: list[Echo]
    labs: list[Lab]
    ecgs: list[Ecg]
    death_day: int | None


def draw_visits(course: Course, is_harmed: bool, generator: np.random.Generator) -> Visits:
    """Draw what is recorded of a patient. Nothing is recorded from the day of death on."""
    chance = generator.random
    death_day = None
    if chance() < (0.15 if is_harmed else 0.06):
        death_day = 30 + int(generator.exponential(500))
    lost_day = int(generator.integers(20, 900)) if chance() < 0.2 else 2000
    end = lost_day if death_day is None else min(lost_day, death_day)
    echos = _draw_echos(course, end, generator)
    return Visits(
        doses=[dose for dose in _draw_doses(generator) if dose.day < end],
        echos=echos,
        labs=_draw_labs(course, echos, end, generator),
        ecgs=_draw_ecgs(end, generator),
        death_day=death_day,
    )


def _draw_doses(generator: np.random.Generator) -> list[Dose]:
    """Draw four to six cycles, under one name or two; other drugs stand beside them, or alone."""
    other = str(generator.choice(OTHER_DRUGS))
    if generator.random() < 0.08:
        return [Dose(21 * k, other, None, False) for k in range(int(generator.integers(2, 8)))]
    doses = []
    if generator.random() < 0.25:
        first = int(generator.choice([-120, -30, 0, 90]))
        doses = [Dose(first + 21 * k, other, None, False) for k in range(4)]
    names = generator.choice(list(ANTHRACYCLINES), 2).tolist()
    for k in range(int(generator.integers(4, 7))):
        name = names[k // 3]
        is_known = generator.random() < 0.8
        doses.append(Dose(21 * k, name, ANTHRACYCLINES[name] if is_known else None, True))
    return sorted(doses, key=lambda dose: dose.day)


def _draw_echos(course: Course, end: int, generator: np.random.Generator) -> list[Echo]:
    """Draw baseline and follow-up; a few are at the ends of windows, or twice on one day."""
    chance = generator.random
    days = []
    if chance() < 0.94:
        before = -int(generator.integers(0, 90))
        days.append(int(generator.choice([*[before] * 7, -365, 14, 5])))
    if chance() < 0.1:
        days.append(int(generator.choice([-366, -400, 15])))
    days += [due + _delay(generator) for due in ECHO_DAYS if chance() < 0.8]
    return [
        _measure(course, day, generator)
        for day in sorted(set(days))
        for _ in range(2 if chance() < 0.08 else 1)
        if day < end
    ]


def _delay(generator: np.random.Generator) -> int:
    """Draw by how many days a visit is early or late; the very day and the next are common."""
    return int(generator.choice([0, -1, 1, *generator.integers(-30, 31, 4)]))


def _measure(course: Course, day: int, generator: np.random.Generator) -> Echo:
    """Draw one echocardiogram: whole numbers by 2D, decimals by the others."""
    modality = str(generator.choice(list(ECHO_ERRORS), p=[0.8, 0.15, 0.05]))
    lvef = course.measured_lvef(day, ECHO_ERRORS[modality], generator)
    gls = round(course.measured_gls(day, generator), 1) if generator.random() < 0.75 else None
    return Echo(day, round(lvef) if modality == "2D" else round(lvef, 1), gls, modality)


def _draw_labs(
    course: Course, echos: list[Echo], end: int, generator: np.random.Generator
) -> list[Lab]:
    """Draw biomarkers around the echocardiograms, some too far away to count for them.

    A patient has one natriuretic peptide and one troponin. The laboratory states no limit for some
    peptides. Creatinine is there as well, and is no cardiac biomarker.
    """
    if generator.random() < 0.25:
        return []
    peptide = str(generator.choice(["BNP", "NT-proBNP"]))
    states_limit = generator.random() < 0.5
    limits = {"BNP": 35.0, "NT-proBNP": 125.0} if states_limit else {}
    labs = []
    for echo_day in sorted({echo.day for echo in echos}):
        day = echo_day + int(generator.choice([0, 0, -1, 3, 14, -14, 15, -20]))
        if day >= end or generator.random() < 0.2:
            continue
        level = round(course.measured_marker(peptide, day, generator), 1)
        labs.append(Lab(day, peptide, level, limits.get(peptide)))
        if generator.random() < 0.5:
            level = round(course.measured_marker("Troponin T", day, generator), 1)
            labs.append(Lab(day, "Troponin T", level, 14.0))
        if generator.random() < 0.3:
            labs.append(Lab(day, "Creatinine", round(generator.normal(0.9, 0.2), 2), 1.2))
    return sorted(labs, key=lambda lab: lab.day)


def _draw_ecgs(end: int, generator: np.random.Generator) -> list[Ecg]:
    """Draw ECGs before and after the first dose; for some patients all before it are flawed."""
    chance = generator.random
    shares = {-40: 0.4, -7: 0.95, 60: 0.3, 200: 0.35, 420: 0.3, 800: 0.2}
    flawed_before = chance() < 0.03
    ecgs = []
    for usual in ECG_DAYS:
        if chance() >= shares[usual]:
            continue
        day = usual + int(generator.integers(-6, 7))
        if usual == -7:
            day = int(generator.choice([*[day] * 9, 0, 0, 0, 1, -365, -366]))
        flaw = ""
        if chance() < 0.03 or (flawed_before and day <= 0):
            flaw = str(generator.choice(FLAWS, p=[0.45, 0.45, 0.1]))
        ecgs.append(Ecg(day, flaw))
    return sorted((ecg for ecg in ecgs if ecg.day < end), key=lambda ecg: ecg.day)
