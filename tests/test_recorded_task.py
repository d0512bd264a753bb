"""A run quotes the task that labelled its store, and says so where there is none."""

from __future__ import annotations

import pytest
import yaml
from helpers import build, copy_run, trained

from ecgfit.reports.checklist import checklist
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.facts import gather_facts
from ecgfit.reports.html import report_content, write_run_report
from ecgfit.reports.model_card import model_card
from ecgfit.run import RunFolder
from ecgprep.building.plan import BuildSettings
from ecgprep.cohorts.task import make_task
from ecgprep.conform import Conformity
from ecgprep.errors import StoreError
from ecgprep.reports.disclosure import CountFormatter

WITHOUT = "The store was built without a task of ecgprep cohort"
TASK = {
    "index": {"first": ["anthracycline", "trastuzumab"], "washout_days": 180},
    "ecg": {"from_days": -90, "to_days": -1, "keep": "first"},
    "outcome": {"definition": "hera", "horizon_days": 1095, "confirm_within_days": 21},
    "negative": {"last_echo_from_day": 500},
}


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> RunFolder:
    """A run on a store whose manifest carried a task."""
    folder = tmp_path_factory.mktemp("task")
    text = make_task(TASK, "Task").canonical_text
    settings = BuildSettings(Conformity(100, 200), duplicates="exact", task=text)
    store = build(corpus / "manifest.csv", folder / "tiny.zarr", settings)
    assert store.task == text
    return trained(store, folder / "run", epochs=1)


def card_and_items(run: RunFolder) -> tuple[dict[str, str], dict[str, str]]:
    main = EvaluatedSplit.load(run, "test")
    facts = gather_facts(run, main, CountFormatter(exact=False), None, [])
    return dict(model_card(facts)), {item.number: item.text for item in checklist(facts)}


def with_task(run: RunFolder, folder, text: object) -> RunFolder:
    """Return a copy of a run that recorded another task."""
    own = copy_run(run, folder)
    path = own.path / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["recorded"]["store"]["task"] = text
    path.write_text(yaml.safe_dump(values))
    return RunFolder(folder)


def test_index_windows_horizon_and_definition_are_quoted(run):
    card, items = card_and_items(run)
    index = (
        "Day 0 is the day of the first dose of anthracycline or trastuzumab, with none in the 180 "
        "days before it and at least 180 days of records before it."
    )
    baseline = (
        "The baseline echocardiogram is the last from day −365 to day 14; its LVEF must be at "
        "least 50 %."
    )
    ecg = "The first usable ECG from day −90 to day −1 is used."
    assert card["Cohort"] == f"{index} {baseline} {ecg}"
    outcome = (
        "Label 1: an echocardiogram from day 1 to day 1,095 (the horizon), later than the baseline "
        "one, that meets the definition hera: drop >= 10 and lvef < 50 (Piccart-Gebhart MJ et al."
    )
    followed = (
        "Label 0: no event up to the horizon, and an echocardiogram on day 500 or later that does "
        "not meet the definition. Patients who died before the horizon without an event are left "
        "out."
    )
    assert card["Label"].startswith(outcome)
    assert f", confirmed by another within 21 days. {followed}" in card["Label"]
    assert index in items["5b"]
    assert index in items["6c"]
    assert card["Cohort"] in items["6b"]
    assert card["Label"] in items["8a–c"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"outcome": {"definition": "lvef<45"}}, "meets the definition lvef < 45."),
        ({"deaths": "event"}, "Death before the horizon without an event counts as label 1."),
        ({"deaths": "negative"}, "Death before the horizon without an event counts as label 0."),
        ({"ecg": {"keep": "all"}}, "All usable ECGs from day −365 to day 0 are used."),
        ({"baseline_echo": {"lvef_at_least": None}}, "is the last from day −365 to day 14. The"),
        ({"kind": "echo_pairs"}, "Label 1: an LVEF below 50 % at that echocardiogram."),
        ({"kind": "echo_pairs"}, "paired with the nearest echocardiogram, at most 14 days away."),
    ],
)
def test_every_setting_of_a_task_has_its_words(run, tmp_path, changes, expected):
    own = with_task(run, tmp_path / "run", make_task(changes, "Task").canonical_text)
    card, items = card_and_items(own)
    assert expected in f"{card['Cohort']} {card['Label']}"
    assert expected in f"{items['6b']} {items['8a–c']}"


def test_a_store_without_a_task_is_said(trained_run):
    card, items = card_and_items(trained_run)
    assert "task" not in trained_run.recorded["store"]
    for text in (card["Cohort"], card["Label"], items["5b"], items["6b"], items["8a–c"]):
        assert text.startswith(WITHOUT) or f" {WITHOUT}" in text
    assert items["6c"] == "To be written by the authors."


def test_the_page_shows_it(run, tmp_path):
    write_run_report(run, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "first dose of anthracycline or trastuzumab" in page
    assert WITHOUT not in page


@pytest.mark.parametrize("text", ["no JSON", '{"a":1}', 5, "[" * 100_000])
def test_a_damaged_record_is_refused(run, tmp_path, text):
    own = with_task(run, tmp_path / "run", text)
    with pytest.raises(StoreError, match="has no readable task"):
        report_content(own)
