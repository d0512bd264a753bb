"""The report of a cohort: one HTML file that opens offline. Needs jinja2 (extra `report`).

It shows what a reviewer asks of a label: who was left out and why, who the patients are, how long
they were followed, and what becomes of the label under other definitions. There are no ids, names,
paths or dates in it; days are counted from the index date. Counts from 1 to 9 are withheld unless
the exact ones are asked for. The days of a few single patients make it health data all the same.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ecgprep.cohorts.sensitivity import label_sensitivity
from ecgprep.cohorts.status import choose_ecgs
from ecgprep.cohorts.task import CtrcdTask
from ecgprep.reports.charts import NEGATIVE, QUIET
from ecgprep.reports.cohort_figures import (
    followed,
    histogram,
    incidence,
    incidence_curve,
    timeline,
    trajectories,
)
from ecgprep.reports.cohort_tables import (
    PARAMETERS,
    flow,
    incidence_rows,
    sample_size_rows,
    sensitivity_rows,
    table_one,
)
from ecgprep.reports.disclosure import CountFormatter
from ecgprep.reports.page import fill_page
from ecgprep.study.sample_size import REGRESSION

if TYPE_CHECKING:
    from ecgprep.cohorts.run import CohortResult
    from ecgprep.cohorts.timelines import Timelines


def cohort_report(result: CohortResult, name: str, exact: bool = False) -> bytes:
    """Return the page; `name` is its title. Raises ImportError without jinja2."""
    template = Path(__file__).with_name("cohort.html.jinja")
    return fill_page(template, report_content(result, name, exact))


def report_content(result: CohortResult, name: str, exact: bool = False) -> dict[str, Any]:
    """Collect everything that the report shows, counts as text."""
    show = CountFormatter(exact)
    manifest = result.manifest
    content: dict[str, Any] = {
        "name": name,
        "hidden": not exact,
        "flow": flow(result.counts, show, getattr(result.task, "deaths", "exclude")),
        "table_one": table_one(manifest, show),
        "notes": [_without_small_counts(note, show) for note in result.notes],
        "task": result.task.to_yaml(),
        "definition": None,
        "ctrcd": None,
        "pairs": None,
        "sample_size": _sample_size(manifest, show),
        "parameters": PARAMETERS,
        "regression": REGRESSION,
    }
    if isinstance(result.task, CtrcdTask) and result.timelines is not None:
        content["definition"] = result.task.definition
        content["ctrcd"] = _ctrcd(result, result.task, result.timelines, show)
    else:
        content["pairs"] = _days_histogram(manifest, "days_to_echo", show)
    return content


def _without_small_counts(note: str, show: CountFormatter) -> str:
    """Withhold the small counts of a sentence, such as "8 patients died" and "5 ECGs"."""
    return re.sub(r"(?<![\w.,-])[1-9](?= [a-zA-Z])", lambda found: show(int(found[0])), note)


def _ctrcd(
    result: CohortResult, task: CtrcdTask, timelines: Timelines, show: CountFormatter
) -> dict[str, Any]:
    """Collect what only a cohort with a clock has."""
    decided, horizon = result.decided, task.outcome.horizon_days
    at_risk = followed(decided)
    last_echo = at_risk["last_echo_day"].to_numpy(float)
    found = incidence(decided)
    n_events = int((at_risk["event"] == 1).sum())
    draws_events = found is not None and not show.hides(n_events)
    return {
        "timeline": timeline(timelines, decided, horizon, choose_ecgs(timelines, task).index),
        "trajectories": trajectories(timelines, decided, horizon, show),
        "ecg_days": _days_histogram(result.manifest, "day_of_ecg", show),
        "followup_days": histogram(
            last_echo,
            "Follow-up",
            "day of the last echocardiogram, from the index date",
            NEGATIVE,
            show,
        ),
        "followup": _followup(at_risk, show),
        "curve": incidence_curve(found, horizon, show) if found and draws_events else None,
        "incidence": incidence_rows(found, horizon, show) if found and draws_events else None,
        "sensitivity": sensitivity_rows(label_sensitivity(task, timelines, decided), show),
    }


def _days_histogram(manifest: pd.DataFrame, column: str, show: CountFormatter) -> str:
    """Draw days of the patients' ECGs; of several ECGs a patient, the first counts."""
    first = manifest.drop_duplicates("patient_id")
    label = {"day_of_ecg": "day of the ECG, from the index date"}
    axis = label.get(column, "days from the ECG to the echocardiogram")
    return histogram(first[column].to_numpy(float), "Days", axis, QUIET, show)


def _followup(at_risk: pd.DataFrame, show: CountFormatter) -> list[tuple[str, str]]:
    """Return medians of follow-up by echocardiogram, and by any contact where a table has it."""
    named = {
        "last_echo_day": "last echocardiogram",
        "last_seen_day": "last contact",
    }
    lines = []
    for column, what in named.items():
        known = at_risk[column].dropna().to_numpy(float)
        if len(known) and not show.hides(len(known)):
            lower, median, upper = np.quantile(known, (0.25, 0.5, 0.75))
            lines.append((what, f"day {median:.0f} [{lower:.0f}, {upper:.0f}]"))
    return lines


def _sample_size(manifest: pd.DataFrame, show: CountFormatter) -> dict[str, Any] | None:
    """Compare the patients with what Riley's criteria ask for; None where counts are withheld."""
    label = manifest[manifest["label"].notna()].drop_duplicates("patient_id")["label"]
    n_positive, n_labelled = int((label == 1).sum()), len(label)
    if show.hides(n_positive) or show.hides(n_labelled - n_positive):
        return None
    if not 0 < n_positive < n_labelled:
        return None
    return {
        "positive": show(n_positive),
        "labelled": show(n_labelled),
        "prevalence": show.share(n_positive, n_labelled),
        "rows": sample_size_rows(n_positive, n_labelled),
    }
