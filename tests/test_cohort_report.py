"""The report of a cohort: its numbers are the cohort's, small ones are withheld, nothing leaks."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from pages import CHROMIUM, assert_chromium_renders, assert_whole_and_refers_to_nothing
from sklearn.metrics import cohen_kappa_score

from ecgprep.cli import cli
from ecgprep.cohorts.run import CohortResult, make_cohort
from ecgprep.cohorts.sensitivity import classes_of, label_sensitivity, variants
from ecgprep.cohorts.status import choose_ecgs
from ecgprep.cohorts.task import make_task
from ecgprep.reports.charts import Chart, round_ticks
from ecgprep.reports.cohort import cohort_report, report_content
from ecgprep.reports.cohort_figures import histogram, incidence_curve, timeline, trajectories
from ecgprep.reports.cohort_tables import flow, incidence_rows, table_one
from ecgprep.reports.disclosure import HIDDEN, CountFormatter
from ecgprep.study.incidence import CENSORED, DEATH, EVENT, cumulative_incidence

TOKEN = "ZQ{:05d}QZ"  # noqa: S105 - a mark to search for
EXACT, SAFE = CountFormatter(exact=True), CountFormatter(exact=False)
TASK: dict[str, Any] = {"gls_sign": "negative"}


def hospital(n: int, seed: int = 1) -> dict[str, pd.DataFrame]:
    """Draw the tables of n patients; ids, paths and doctors are tokens."""
    draw = np.random.default_rng(seed)
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("therapy", "echo", "ecg", "followup", "patients")
    }
    for k in range(n):
        own = {"patient_id": TOKEN.format(k)}
        index = date(2019, 1, 1) + timedelta(days=int(draw.integers(0, 400)))

        def day(number: float, index: date = index) -> str:
            return (index + timedelta(days=int(number))).isoformat()

        drug = "doxorubicin" if draw.random() < 0.9 else "paclitaxel"
        tables["therapy"] += [own | {"date": day(21 * i), "drug": drug} for i in range(3)]
        baseline, falls = draw.normal(61, 4), draw.random() < 0.35
        days = [-20, *sorted(draw.integers(30, 1200, draw.integers(1, 6)))]
        for at in days[int(draw.random() < 0.1) :]:
            lvef = baseline + draw.normal(0, 3) - (18 if falls and at > 200 else 0)
            gls = -lvef / 3 + draw.normal(0, 1)
            row = {"date": day(at), "lvef": f"{lvef:.1f}", "gls": f"{gls:.1f}"}
            tables["echo"].append(own | row)
        for i, at in enumerate(draw.integers(-300, 60, draw.integers(0, 4))):
            path = f"{TOKEN.format(10_000 + 10 * k + i)}.xml"
            row = {"path_xml": path, "acquired_at": day(at), "status": "ok", "age_years": "55"}
            tables["ecg"].append(own | row | {"sex": str(draw.choice(["female", "male"]))})
        died = day(draw.integers(20, 900)) if draw.random() < 0.1 else ""
        tables["followup"].append(own | {"last_seen": died or day(1300), "died": died})
        doctor = TOKEN.format(90_000 + k)
        site = str(draw.choice(["<b>north", "south"]))
        tables["patients"].append(own | {"doctor": doctor, "site": site})
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return hospital(400)


@pytest.fixture(scope="module")
def cohort(tables) -> CohortResult:
    return make_cohort(make_task(TASK, "Task"), tables)


@pytest.fixture(scope="module")
def page(cohort) -> str:
    return cohort_report(cohort, "cohort").decode()


def test_flow_adds_up(cohort):
    shown = flow(cohort.counts, EXACT)
    left = 400
    for step in shown["steps"]:
        left -= int(step["n"])
        assert step["left"] == str(left)
    assert sum(int(end["n"]) for end in shown["ends"]) == left
    assert [step["status"] for step in shown["steps"]] == list(cohort.counts)[:5]


@pytest.mark.parametrize(
    ("deaths", "status", "what"),
    [
        ("event", "positive", "event or death up to the horizon"),
        ("negative", "negative", "no event, followed long enough or died before the horizon"),
    ],
)
def test_flow_says_where_the_dead_are_counted(deaths, status, what):
    counts = {"positive": 50, "death_first": 0, "negative": 90, "unknown_followup": 20}
    ends = {end["status"]: end["what"] for end in flow(counts, EXACT, deaths)["ends"]}
    assert ends[status] == what
    assert "death_first" not in ends


def test_flow_shows_nothing_from_which_a_small_exclusion_follows():
    counts = {"no_index": 60, "no_baseline_echo": 4, "no_ecg": 20, "positive": 50, "negative": 90}
    shown = flow(counts, SAFE)
    assert [step["left"] for step in shown["steps"]] == ["164", HIDDEN, "140"]  # the ends' sum
    assert [step["n"] for step in shown["steps"]] == ["60", "<10", HIDDEN]
    shown = flow(counts | {"positive": 5}, SAFE)
    assert [step["left"] for step in shown["steps"]] == ["119", HIDDEN, HIDDEN]


def test_table_one_describes_each_patient_once(cohort):
    shown = table_one(cohort.manifest, EXACT)
    rows = {row["name"]: row["cells"] for row in shown["rows"]}
    first = cohort.manifest.drop_duplicates("patient_id")
    groups = [first[first["label"] == value] for value in (0, 1)]
    assert rows["Patients"] == [f"{len(own):,}" for own in groups]
    expected = []
    for own in groups:
        quartiles = own["baseline_lvef"].astype(float).quantile([0.5, 0.25, 0.75])
        expected.append("{:.4g} [{:.4g}, {:.4g}]".format(*quartiles))
    assert rows["Baseline LVEF, %, median [quartiles]"] == expected
    n_north = [int((own["site"] == "<b>north").sum()) for own in groups]
    shares = [f"{n} ({100 * n / len(own):.1f} %)" for n, own in zip(n_north, groups, strict=True)]
    assert rows["<b>north"] == shares


def test_counts_of_a_column_do_not_give_the_size_of_a_group_away(cohort):
    rows = cohort.manifest.drop_duplicates("patient_id")
    few = pd.concat([rows[rows["label"] == 0], rows[rows["label"] == 1][:3]])
    shown = {row["name"]: row["cells"] for row in table_one(few, SAFE)["rows"]}
    assert shown["Patients"] == [HIDDEN, "<10"]
    assert shown["female"] == shown["south"] == [HIDDEN, HIDDEN]


def test_small_counts_in_notes_are_withheld(cohort):
    note = "therapy.csv: 3 values, 5-fu (12 patients), 14 ECGs, 4 ECGs; 1 more"
    changed = replace(cohort, notes=[note])
    shown = "therapy.csv: <10 values, 5-fu (12 patients), 14 ECGs, <10 ECGs; <10 more"
    assert report_content(changed, "c")["notes"] == [shown]
    assert report_content(changed, "c", exact=True)["notes"] == [note]


def test_a_column_of_0_and_1_is_counted(cohort):
    manifest = cohort.manifest.drop_duplicates("patient_id").reset_index(drop=True)
    flags = pd.Series("0", manifest.index)
    flags[::4] = "1"
    flags[1] = ""
    shown = table_one(manifest.assign(diabetes=flags), EXACT)
    cells = next(row["cells"] for row in shown["rows"] if row["name"] == "diabetes, n (%)")
    for value, cell in enumerate(cells):
        own = flags[manifest["label"] == value]
        assert cell == f"{(own == '1').sum()} ({100 * (own == '1').mean():.1f} %)"
    few = table_one(manifest.assign(diabetes=flags.where(flags.index < 30, "0")), SAFE)
    cells = next(row["cells"] for row in few["rows"] if row["name"] == "diabetes, n (%)")
    assert cells == ["<10", "<10"]


def test_a_column_of_names_is_not_described(cohort):
    assert "doctor" not in str(table_one(cohort.manifest, EXACT))


@pytest.mark.parametrize(
    ("group", "name", "change"),
    [
        ("definition", "hera", {"outcome": {"definition": "hera"}}),
        ("horizon", "365 days", {"outcome": {"horizon_days": 365}}),
        ("confirmation", "within 90 days", {"outcome": {"confirm_within_days": 90}}),
        ("ECG window", "from day -90", {"ecg": {"from_days": -90}}),
        ("follow-up", "echo on day 180 or later", {"negative": {"last_echo_from_day": 180}}),
        ("deaths", "event", {"deaths": "event"}),
    ],
)
def test_a_variant_is_the_cohort_of_the_changed_task(cohort, tables, group, name, change):
    found = label_sensitivity(cohort.task, cohort.timelines, cohort.decided)
    row = next(row for row in found if (row.group, row.name) == (group, name))
    other = make_cohort(make_task(TASK | change, "Task"), tables)
    labels = other.manifest["label"]
    assert row.counts["positive"] == (labels == 1).sum()
    assert row.counts["negative"] == (labels == 0).sum()
    own, changed = classes_of(cohort.decided), classes_of(other.decided)
    in_either = (own != "excluded") | (changed != "excluded")
    kappa = cohen_kappa_score(own[in_either], changed[in_either])
    assert row.kappa == pytest.approx(kappa)


def test_the_task_agrees_with_itself(cohort):
    own = label_sensitivity(cohort.task, cohort.timelines, cohort.decided)[0]
    assert (own.kappa, own.relabelled, sum(own.counts.values())) == (1.0, 0, 400)


def test_variants_differ_from_the_task_and_contradict_nothing(cohort):
    task = make_task({"outcome": {"from_day": 200}, "negative": {"last_echo_from_day": 365}}, "T")
    found = list(variants(task, frozenset()))
    assert {row.group for row in found} == {
        "definition",
        "horizon",
        "confirmation",
        "ECG window",
        "follow-up",
        "deaths",
    }
    assert not [row for row in found if row.task == task]
    followed = [row.name for row in found if row.group == "follow-up"]
    assert followed == ["echo on day 730 or later"]  # one before day 200 would contradict


def test_a_variant_decides_by_its_own_definition(cohort):
    by_name = {row.name: row.task for row in variants(cohort.task, frozenset())}
    assert cohort.task.definition.name == "esc2022_moderate"  # computed, and kept with the task
    assert by_name["hera"].definition.name == "hera"


def test_exact_counts_are_shown_only_when_asked_for(cohort):
    few = make_cohort(make_task(TASK, "Task"), hospital(60, seed=3))
    assert 0 < (few.manifest["label"] == 1).sum() < 10
    safe, exact = (report_content(few, "few", exact) for exact in (False, True))
    cells = [row["n"]["positive"] for row in safe["ctrcd"]["sensitivity"] if row["n"]]
    assert not [cell for cell in cells if cell.isdigit() and 0 < int(cell) < 10]
    assert safe["sample_size"] is None
    assert safe["ctrcd"]["curve"] is None
    assert exact["sample_size"]["positive"] == str((few.manifest["label"] == 1).sum())
    assert exact["ctrcd"]["curve"] is not None


def test_a_period_with_few_patients_is_not_drawn(cohort):
    decided = cohort.decided.assign(label=np.nan)
    some = np.flatnonzero(cohort.decided["label"] == 0)[:9]
    decided.loc[some, "label"] = 0.0
    assert "opacity" not in trajectories(cohort.timelines, decided, 730, SAFE)
    assert "opacity" in trajectories(cohort.timelines, decided, 730, EXACT)


def test_no_line_leads_across_a_period_that_is_left_out(cohort):
    """Echocardiograms of days 0 to 89, 90 to 179 and 270 to 359: a run of two, and a dot alone."""
    echos = pd.DataFrame({"code": range(3), "day": [10.0, 100.0, 300.0], "lvef": [60, 50, 40]})
    timelines = replace(cohort.timelines, echos=echos)
    decided = pd.DataFrame({"label": [0.0, 0.0, 0.0]})
    svg = trajectories(timelines, decided, 730, EXACT)
    chart = Chart("", x=(-360, 810), y=(20, 80))
    dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="3"', svg)
    places = [(45, 60), (135, 50), (315, 40)]
    assert dots == [(str(chart.px(day)), str(chart.py(lvef))) for day, lvef in places]
    lines = re.findall(r'd="M([^"]*)" fill="none"', svg)
    assert [line.count("L") for line in lines] == [1, 0]


def test_an_ecg_on_the_index_date_is_not_drawn_after_it():
    svg = histogram(np.array([-40.0, -29.0, 0.0]), "Days", "day", "red", EXACT)
    ticks = re.findall(r">(-?\d+)</text>", svg)
    assert ticks[:7] == ["-42", "-35", "-28", "-21", "-14", "-7", "0"]
    bars = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="([\d.]+)"', svg)
    assert float(bars[-1][0]) + float(bars[-1][1]) < Chart("", x=(-42, 0), y=(0, 1)).px(0)


def test_the_timeline_shows_which_ecg_is_in_the_manifest(cohort):
    one = int(np.flatnonzero(cohort.decided["status"] == "positive")[0])
    decided = cohort.decided.assign(status=np.where(np.arange(400) == one, "positive", "no_ecg"))
    ecgs = cohort.timelines.ecgs
    kept = choose_ecgs(cohort.timelines, cohort.task)
    svg = timeline(cohort.timelines, decided, 730, kept.index)
    black = re.findall(r'<rect x="([\d.]+)" [^>]*fill="#1d2530"', svg)
    day = float(kept.loc[kept["code"] == one, "day"].iloc[0])
    assert black == [f"{Chart('', x=(-400, 760), y=(0, 1), left=150).px(day) - 3:g}"]
    assert svg.count("<rect") == int((ecgs["code"] == one).sum())


def test_an_incidence_that_rests_on_few_patients_is_withheld():
    time = np.r_[np.full(5, 100), np.full(7, 500), np.full(12, 300), np.full(200, 900)]
    outcome = np.r_[np.full(12, EVENT), np.full(12, DEATH), np.full(200, CENSORED)]
    found = cumulative_incidence(time, outcome)
    first, last = incidence_rows(found, 730, SAFE)
    assert (first["day"], first["event"], first["death"]) == (365, HIDDEN, "5.4 %")
    assert last["event"].startswith("5.4 % (")  # 12 of 224, as nobody is censored before
    shown, exact = (incidence_curve(found, 730, show) for show in (SAFE, EXACT))
    px = Chart("", x=(0, 730), y=(0, 1)).px
    starts = [re.findall(r'd="M([\d.]+) [^"]*" fill="none"', svg) for svg in (shown, exact)]
    assert starts == [[str(px(day)) for day in days] for days in ([0, 510, 510], [0, 0, 0])]


def test_a_small_bar_has_the_height_of_nine():
    days = np.array([3.0] * 4 + [10.0] * 20)
    shown, exact = (histogram(days, "Days", "day", "red", show) for show in (SAFE, EXACT))
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" fill="red"', shown)]
    assert heights[0] / heights[1] == pytest.approx(9 / 20, rel=0.01)
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" fill="red"', exact)]
    assert heights[0] / heights[1] == pytest.approx(4 / 20, rel=0.01)


def test_the_timeline_shows_the_event_where_it_is(cohort):
    one = cohort.decided["status"] == "positive"
    code = int(np.flatnonzero(one)[0])
    decided = cohort.decided.assign(status=np.where(np.arange(400) == code, "positive", "no_ecg"))
    svg = timeline(cohort.timelines, decided, 730)
    chart = Chart("", x=(-400, 760), y=(0, 1), left=150)
    place = chart.px(float(cohort.decided["event_day"].iloc[code]))
    assert f'<circle cx="{place}" cy="34" r="4.5" fill="#c2502e"' in svg
    assert svg.count("positive") == 1


def test_page_is_whole_and_refers_to_nothing(page):
    assert_whole_and_refers_to_nothing(page)
    for name in ("flow", "table-one", "timeline", "trajectories", "incidence", "sensitivity"):
        assert f'id="{name}"' in page


def test_page_holds_no_id_path_name_or_date(page, cohort):
    assert not re.search(r"ZQ\d{5}QZ", page)
    assert not re.search(r"\b(19|20)\d\d-\d\d-\d\d\b", page)
    assert TOKEN.format(0) in cohort.status["patient_id"].to_numpy()  # else the test is empty


def test_report_of_pairs_has_no_clock(tables):
    pairs = make_cohort(
        make_task({"kind": "echo_pairs", "pairs": {"within_days": 60}}, "Task"),
        {name: tables[name] for name in ("ecg", "echo")},
    )
    text = cohort_report(pairs, "pairs").decode()
    assert_whole_and_refers_to_nothing(text)
    assert 'id="pairs"' in text
    assert 'id="incidence"' not in text
    assert "index date" not in text


@dataclass
class Written:
    """What a command left."""

    folder: Path
    output: str


@pytest.fixture
def written(tables, tmp_path) -> Written:
    options = []
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        options += [f"--{name}", str(tmp_path / f"{name}.csv")]
    (tmp_path / "task.yaml").write_text("gls_sign: negative\n")
    command = ["cohort", str(tmp_path / "task.yaml"), *options, "-o", str(tmp_path / "c.csv")]
    for _ in range(2):  # a report of ours is replaced
        done = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
    return Written(tmp_path, done.output)


def test_command_writes_the_report_privately(written):
    report = written.folder / "c.report.html"
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert "<title>c: report of the cohort</title>" in report.read_text()
    assert not re.search(r"ZQ\d{5}QZ", written.output)


@pytest.mark.parametrize(("high", "ticks"), [(1, 6), (7.5, 5), (103, 4), (0.031, 5)])
def test_ticks_reach_the_highest_value(high, ticks):
    found = round_ticks(high)
    assert len(found) == ticks
    assert found[-2] < high <= found[-1]
    assert np.diff(found) == pytest.approx(found[1])


def test_chart_maps_its_ranges_to_its_corners():
    chart = Chart("t", x=(-10, 10), y=(0, 4), width=200, height=100, left=20)
    assert [chart.px(x) for x in (-10, 0, 10, 99)] == [20, 101, 182, 182]
    assert [chart.py(y) for y in (0, 2, 4, -1)] == [56, 35, 14, 56]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.full
def test_chromium_renders_it_without_error_or_request(page, tmp_path):
    path = tmp_path / "cohort.html"
    path.write_text(page)
    assert "Sensitivity of the label" in assert_chromium_renders(path, tmp_path, height=5600)
