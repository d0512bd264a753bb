"""The windows of a cohort against ACES (es-aces), which knows windows in general and no LVEF.

ACES lives in an environment of its own: `python -m venv aces && aces/bin/pip install es-aces`, then
`ECG_ACES=aces/bin/python make test-full`. Without ECG_ACES the test is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess

import pandas as pd
import pytest
from test_cohort_reference import messy_tables, run

from ecgprep.cohorts.run import CohortResult

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif("ECG_ACES" not in os.environ, reason="ECG_ACES names no Python with ACES"),
]

WINDOWS = """\
predicates: {index: {code: I}, echo: {code: E}, ecg: {code: G}, event: {code: X}}
trigger: index
windows:
  baseline:
    {start: trigger - 365d, end: start + 379d, start_inclusive: True, end_inclusive: True,
     has: {echo: "(1, None)"}}
  trace:
    {start: end - 365d, end: trigger, start_inclusive: True, end_inclusive: True,
     has: {ecg: "(1, None)"}}
  outcome:
    {start: trigger + 1d, end: start + 729d, start_inclusive: True, end_inclusive: True,
     label: event}
"""

ASK_ACES = """
import json, sys
from aces import config, predicates, query
from omegaconf import DictConfig
task = config.TaskExtractorConfig.load(sys.argv[1])
source = {"path": sys.argv[2], "standard": "direct", "ts_format": "%m/%d/%Y %H:%M"}
found = query.query(task, predicates.get_predicates_df(task, DictConfig(source)))
labels = zip(found["subject_id"].to_list(), found["label"].to_list())
print(json.dumps({str(subject): label > 0 for subject, label in labels}))
"""


def events_of(result: CohortResult) -> pd.DataFrame:
    """Return one row for each patient and day, with what happened on it."""
    timelines, decided = result.timelines, result.decided
    usable = timelines.ecgs[timelines.ecgs["usable"]]
    patients = pd.Series(range(len(decided)))
    days = {
        "index": pd.DataFrame({"code": patients, "day": timelines.index_day * 0}),
        "echo": timelines.echos,
        "ecg": usable,
        "event": pd.DataFrame({"code": patients, "day": decided["event_day"]}),
    }
    rows = pd.concat(frame[["code", "day"]].assign(what=name) for name, frame in days.items())
    table = pd.crosstab([rows["code"], rows["day"]], rows["what"]).clip(upper=1).reset_index()
    at = pd.Timestamp("2000-01-01") + pd.to_timedelta(table["day"], unit="D")
    return table.assign(subject_id=table["code"], timestamp=at.dt.strftime("%m/%d/%Y %H:%M"))


def test_who_has_what_in_which_window_is_as_aces_finds(tmp_path):
    tables = messy_tables(7, n=400)
    for row in tables["followup"]:
        row["died"] = ""  # ACES knows no rule for deaths
    result = run(tables, {"gls_sign": "negative", "rows": "all"})
    names = ["subject_id", "timestamp", "index", "echo", "ecg", "event"]
    events_of(result)[names].to_csv(tmp_path / "events.csv", index=False)
    (tmp_path / "task.yaml").write_text(WINDOWS)
    command = [os.environ["ECG_ACES"], "-c", ASK_ACES, tmp_path / "task.yaml"]
    done = subprocess.run(
        [*command, tmp_path / "events.csv"], capture_output=True, text=True, check=True
    )
    decided = result.decided
    included = decided["baseline_lvef"].notna() & (decided["n_ecgs"] > 0)
    ours = (decided.loc[included, "event_day"] <= 730).rename(str).to_dict()
    assert json.loads(done.stdout) == ours
    assert sum(ours.values()) > 20
