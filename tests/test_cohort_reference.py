"""`ecgprep cohort` against three others: plain Python, SQL, and properties that must hold."""

from __future__ import annotations

import random
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cohort_reference import Row, decide_all
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgprep.cohorts.definitions import DEFINITIONS
from ecgprep.cohorts.run import CohortResult, make_cohort
from ecgprep.cohorts.status import STATUSES
from ecgprep.cohorts.task import make_task
from ecgprep.errors import InputError

START = date(2018, 1, 1)
DRUGS = (
    "Doxorubicin HCl",
    "doxorubicin, liposomal",
    "EPIRUBICIN",
    "Adriamycin",
    "Trastuzumab-xyz",
    "Herceptin",
    "paclitaxel",
    "mitoxantrone",
)


def messy_tables(seed: int, n: int = 60) -> dict[str, list[Row]]:
    """Draw the tables of a hospital whose patients have a bit of everything."""
    draw = random.Random(seed)  # noqa: S311 - no secret

    def day(low: int, high: int) -> str:
        return (START + timedelta(days=400 + draw.randint(low, high))).isoformat()

    def timed(text: str) -> str:
        return f"{text}T{draw.randint(0, 23):02d}:{draw.randint(0, 59):02d}:00"

    tables: dict[str, list[Row]] = {
        name: [] for name in ("therapy", "echo", "ecg", "followup", "labs")
    }
    for k in range(n):
        patient = {"patient_id": f"{k:04d}"}
        for _ in range(draw.randint(1, 5)):
            drug = draw.choice(DRUGS)
            at = day(0, 20) if draw.random() < 0.8 else day(-100, 500)
            tables["therapy"].append(patient | {"date": at, "drug": drug})
        if draw.random() < 0.8:
            lvef, gls = draw.choice(["50", "53", "60", "64.4", "49"]), draw.choice(["", "-20"])
            tables["echo"].append(patient | {"date": day(-60, 5), "lvef": lvef, "gls": gls})
        levels = (38, 39.9, 40, 45, 49.9, 50, 52.9, 53, 54.4, 55, 60, 63, 64.4)
        for _ in range(draw.randint(0, 9)):
            at = day(-400, 1500) if draw.random() < 0.8 else day(0, 3)
            at = timed(at) if draw.random() < 0.3 else at
            gls = draw.choice(["", "-20", "-17", "-16.9", "-14"])
            row = {"date": at, "lvef": str(draw.choice(levels)), "gls": gls}
            tables["echo"].append(patient | row)
        for i in range(draw.randint(0, 6)):
            at = draw.choice(["", day(-90, 10), timed(day(-450, 30)), timed(day(-5, 5))])
            status = draw.choice(["ok", "ok", "ok", "flat"])
            row = {"path_xml": f"{k}/{i}.xml", "acquired_at": at, "status": status}
            tables["ecg"].append(patient | row)
        if draw.random() < 0.7:
            died = day(-10, 900) if draw.random() < 0.4 else ""
            tables["followup"].append(patient | {"last_seen": day(300, 1500), "died": died})
        for _ in range(draw.randint(0, 4)):
            name = draw.choice(["BNP", "NT-proBNP", "troponin T"])
            value = str(draw.choice([10, 35, 36, 125, 126, 400]))
            limit = draw.choice(["", "", "14"])
            row = {"date": day(-60, 1500), "name": name, "value": value, "upper_limit": limit}
            tables["labs"].append(patient | row)
    return tables


def run(tables: dict[str, list[Row]], task: dict[str, Any]) -> CohortResult:
    frames = {name: pd.DataFrame(rows) for name, rows in tables.items() if rows}
    return make_cohort(make_task(task, "Task"), frames)


def found_by_us(result: CohortResult) -> dict[str, dict[str, Any]]:
    def plain(value: Any) -> Any:
        return None if pd.isna(value) else float(value)

    kept = result.manifest.groupby("patient_id")["path_xml"].first()
    return {
        line.patient_id: {
            "status": line.status,
            "b": plain(line.baseline_lvef),
            "event": plain(line.event_day),
            "last": plain(line.last_echo_day),
            "death": plain(line.death_day),
            "n_ecgs": line.n_ecgs,
            "ecg": kept.get(line.patient_id),
        }
        for line in result.status.itertuples()
    }


def drawn_task(draw: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw a task, in our words and in those of the reference."""
    from_day = draw.choice([1, 1, 30])
    words = {
        "first": draw.choice([["anthracycline"], ["anti_her2"], ["anthracycline", "mitoxantrone"]]),
        "washout_days": draw.choice([None, None, 60, 365]),
        "baseline": (-365, draw.choice([0, 14])),
        "baseline_keep": draw.choice(["last", "first"]),
        "lvef_at_least": draw.choice([50, 53]),
        "ecg": (draw.choice([-365, -90]), draw.choice([0, -1])),
        "ecg_keep": draw.choice(["last", "first"]),
        "definition": draw.choice(list(DEFINITIONS)),
        "from_day": from_day,
        "horizon": draw.choice([365, 730]),
        "confirm": draw.choice([None, None, 21, 300]),
        "labs_within_days": draw.choice([14, 60]),
        "lower_limit": draw.choice([50, 53]),
        "negative": draw.choice([365, 180]),
        "same_day": draw.choice(["mean", "lowest", "last"]),
        "deaths": draw.choice(["exclude", "exclude", "negative", "event"]),
    }
    ours = {
        "index": {"first": words["first"], "washout_days": words["washout_days"]},
        "baseline_echo": {
            "from_days": words["baseline"][0],
            "to_days": words["baseline"][1],
            "keep": words["baseline_keep"],
            "lvef_at_least": words["lvef_at_least"],
        },
        "ecg": {
            "from_days": words["ecg"][0],
            "to_days": words["ecg"][1],
            "keep": words["ecg_keep"],
        },
        "outcome": {
            "definition": words["definition"],
            "from_day": from_day,
            "horizon_days": words["horizon"],
            "confirm_within_days": words["confirm"],
            "labs_within_days": words["labs_within_days"],
            "lower_limit": words["lower_limit"],
        },
        "negative": {"last_echo_from_day": words["negative"]},
        "same_day": words["same_day"],
        "deaths": words["deaths"],
        "gls_sign": "negative",
        "rows": "all",
    }
    return ours, words


def compare_with_reference(seed: int) -> Counter[str]:
    """Compare one hospital under one task; return the patients by status."""
    ours, words = drawn_task(random.Random(seed + 1_000_000))  # noqa: S311
    tables = messy_tables(seed)
    expected = decide_all(tables, words)
    if not {"positive", "negative"} & {one["status"] for one in expected.values()}:
        with pytest.raises(InputError, match="No ECG has a label"):
            run(tables, ours)
        return Counter()
    found = found_by_us(run(tables, ours))
    is_row = {"positive", "negative", "unknown_followup", "death_first"}
    for one in expected.values():
        if one["status"] not in is_row:
            one["ecg"] = None
    assert found == expected
    return Counter(one["status"] for one in expected.values())


def test_every_patient_is_as_plain_python_decides():
    counts = sum((compare_with_reference(seed) for seed in range(20)), Counter())
    assert all(counts[status] >= 5 for status in STATUSES)


@pytest.mark.full
def test_every_patient_is_as_plain_python_decides_in_many_hospitals():
    counts = sum((compare_with_reference(seed) for seed in range(100, 500)), Counter())
    assert all(counts[status] >= 100 for status in STATUSES)


ANTHRACYCLINE = "doxorubicin|epirubicin|adriamycin"
QUERIES = {
    "the default task": (
        {"gls_sign": "negative"},
        {
            "drugs": ANTHRACYCLINE,
            "washout": "NULL",
            "same_day": "avg",
            "keep_echo": "arg_max_null",
            "baseline_to": 14,
            "meets": "(f < 40 AND b >= 40) OR (f >= 40 AND f < 50 AND (round(b - f, 6) >= 10 "
            "OR (g0 > 0 AND g IS NOT NULL AND round(100 * (g0 - g) / g0, 6) > 15)))",
            "confirm": "NULL",
            "ecg_from": -365,
            "ecg_to": 0,
            "horizon": 730,
        },
    ),
    "HERA after a washout": (
        {
            "index": {"first": "anti_her2", "washout_days": 60},
            "baseline_echo": {"keep": "first", "to_days": 0},
            "outcome": {"definition": "hera", "horizon_days": 1000},
            "gls_sign": "negative",
        },
        {
            "drugs": "trastuzumab|herceptin",
            "washout": 60,
            "same_day": "avg",
            "keep_echo": "arg_min_null",
            "baseline_to": 0,
            "meets": "round(b - f, 6) >= 10 AND f < 50",
            "confirm": "NULL",
            "ecg_from": -365,
            "ecg_to": 0,
            "horizon": 1000,
        },
    ),
    "a confirmed fall": (
        {
            "ecg": {"from_days": -90, "to_days": -1},
            "outcome": {"definition": "ase2014", "confirm_within_days": 300, "horizon_days": 365},
            "same_day": "lowest",
            "gls_sign": "negative",
        },
        {
            "drugs": ANTHRACYCLINE,
            "washout": "NULL",
            "same_day": "min",
            "keep_echo": "arg_max_null",
            "baseline_to": 14,
            "meets": "round(b - f, 6) > 10 AND f < 53",
            "confirm": 300,
            "ecg_from": -90,
            "ecg_to": -1,
            "horizon": 365,
        },
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_every_patient_is_as_sql_decides(name):
    duckdb = pytest.importorskip("duckdb")
    task, names = QUERIES[name]
    tables = messy_tables(7, n=400)
    del tables["labs"]  # biomarkers are compared with plain Python
    ours = run(tables, task).status[["patient_id", "status", "baseline_lvef", "event_day"]]
    frames = {table: pd.DataFrame(rows) for table, rows in tables.items()}
    with duckdb.connect() as connection:
        for table, frame in frames.items():
            columns = ", ".join(f"{column} VARCHAR" for column in frame)
            connection.execute(f"CREATE TABLE {table} ({columns})")
            marks = ", ".join("?" for _ in frame.columns)
            insert = f"INSERT INTO {table} VALUES ({marks})"  # noqa: S608 - our own names
            connection.executemany(insert, frame.values.tolist())
        query = (Path(__file__).parent / "cohort.sql").read_text().format(**names)
        theirs = connection.execute(query).fetchall()
    as_lists = [[None if pd.isna(x) else x for x in row] for row in ours.values.tolist()]
    assert as_lists == [list(row) for row in theirs]
    assert sum(row[1] == "positive" for row in theirs) > 3


seeds = st.integers(0, 10_000)


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_the_order_of_rows_changes_nothing(seed):
    tables, task = messy_tables(seed, 30), drawn_task(random.Random(seed))[0]  # noqa: S311
    shuffled = {}
    for name, rows in tables.items():
        shuffled[name] = random.Random(seed).sample(rows, len(rows))  # noqa: S311
    assert outcome(tables, task) == outcome(shuffled, task)


@settings(max_examples=8, deadline=None)
@given(seeds, st.integers(-3000, 3000))
def test_shifting_all_dates_of_a_patient_changes_nothing(seed, days):
    tables, task = messy_tables(seed, 30), drawn_task(random.Random(seed))[0]  # noqa: S311
    moved = {name: [shifted(row, "0003", days) for row in rows] for name, rows in tables.items()}
    assert outcome(tables, task) == outcome(moved, task)


@settings(max_examples=8, deadline=None)
@given(seeds, st.integers(1, 2000))
def test_an_ecg_after_the_index_changes_nothing(seed, days):
    tables, task = messy_tables(seed, 30), drawn_task(random.Random(seed))[0]  # noqa: S311
    task["ecg"]["to_days"] = 0
    last_dose = max(row["date"] for row in tables["therapy"])
    at = (date.fromisoformat(last_dose) + timedelta(days=days)).isoformat()
    more = [
        {"patient_id": f"{k:04d}", "path_xml": f"new/{k}.xml", "acquired_at": at, "status": "ok"}
        for k in range(30)
    ]
    added = tables | {"ecg": tables["ecg"] + more}
    assert outcome(tables, task) == outcome(added, task)


@settings(max_examples=8, deadline=None)
@given(seeds, st.integers(1, 1000), st.sampled_from(["35", "45", "70"]))
def test_an_echo_after_the_horizon_makes_and_unmakes_no_positive(seed, days, lvef):
    tables, task = messy_tables(seed, 30), drawn_task(random.Random(seed))[0]  # noqa: S311
    task["outcome"]["confirm_within_days"] = None  # rule 13: a confirming echo may come later
    last_dose = date.fromisoformat(max(row["date"] for row in tables["therapy"]))
    horizon = task["outcome"]["horizon_days"]
    at = (last_dose + timedelta(days=horizon + days)).isoformat()
    more = [{"patient_id": f"{k:04d}", "date": at, "lvef": lvef, "gls": ""} for k in range(30)]
    added = tables | {"echo": tables["echo"] + more}
    before, after = outcome(tables, task), outcome(added, task)
    if before is not None and after is not None:
        was = {patient for patient, one in before.items() if one["status"] == "positive"}
        assert was == {patient for patient, one in after.items() if one["status"] == "positive"}


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_no_row_has_an_ecg_later_than_its_window_or_the_event(seed):
    tables, task = messy_tables(seed, 30), drawn_task(random.Random(seed))[0]  # noqa: S311
    task["ecg"]["keep"] = "all"
    try:
        result = run(tables, task)
    except InputError:
        return
    rows = result.manifest
    assert (rows["day_of_ecg"] <= task["ecg"]["to_days"]).all()
    assert (rows["day_of_ecg"] >= task["ecg"]["from_days"]).all()
    own = rows.merge(result.status, on="patient_id", suffixes=("", "_status"))
    assert not (own["day_of_ecg"] >= own["event_day"]).any()
    assert not (own["day_of_ecg"] >= own["death_day"]).any()
    assert sum(result.counts.values()) == len({row["patient_id"] for row in tables["therapy"]})


def outcome(tables: dict[str, list[Row]], task: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is found of each patient, or None where nobody has a label."""
    try:
        return found_by_us(run(tables, task))
    except InputError:
        return None


def shifted(row: Row, patient: str, days: int) -> Row:
    """Move all dates in the row of one patient."""
    if row["patient_id"] != patient:
        return row

    def move(text: str) -> str:
        if not text:
            return text
        moved = date.fromisoformat(text[:10]) + timedelta(days=days)
        return moved.isoformat() + text[10:]

    names = ("date", "acquired_at", "died", "last_seen")
    return row | {name: move(row[name]) for name in names if name in row}
