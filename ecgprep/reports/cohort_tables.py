"""The tables of a cohort's report. Counts are text already: a small one cannot be shown by mistake.

What a table holds as text is shown only where at least ten patients share it, as it may name one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ecgprep.reports.disclosure import HIDDEN, SMALLEST_COUNT, CountFormatter
from ecgprep.study.sample_size import sample_size

if TYPE_CHECKING:
    from ecgprep.cohorts.sensitivity import Sensitivity
    from ecgprep.study.incidence import Incidence

WHY_EXCLUDED = {
    "no_index": "no dose of the class that starts the clock",
    "no_baseline_echo": "no echocardiogram in the baseline window",
    "already_reduced": "LVEF reduced at baseline",
    "no_ecg": "no ECG in the window",
    "ecg_unusable": "no usable ECG in the window",
    "no_echo": "no echocardiogram",
    "no_pair": "no echocardiogram near an ECG",
}
"""The reason of each exclusion, in the words of the flow diagram."""

_WHY_NOT_PAIRED = {"no_ecg": "no ECG with a time", "ecg_unusable": "no usable ECG"}
"""The same where there is no window: for pairs of ECG and echocardiogram."""

ENDS = {
    "positive": "event up to the horizon",
    "negative": "no event, followed long enough",
    "death_first": "died without an event before the horizon",
    "unknown_followup": "no event, followed too short",
    "paired": "with an ECG and an echocardiogram near it",
}
"""What becomes of the patients who were not excluded."""

_ENDS_WITH_DEATHS = {
    "exclude": {},
    "event": {"positive": "event or death up to the horizon"},
    "negative": {"negative": "no event, followed long enough or died before the horizon"},
}
"""What differs by the task's rule for deaths."""

AUROCS = (0.70, 0.75, 0.80, 0.85)
"""For which the sample sizes are shown."""

PARAMETERS = 10

_NAMES = {
    "age_years": "Age, years",
    "sex": "Sex",
    "baseline_lvef": "Baseline LVEF, %",
    "day_of_ecg": "Day of the ECG",
    "days_to_event_or_last_echo": "Days to event, death or last echocardiogram",
    "doxorubicin_equivalent_mg_m2": "Doxorubicin equivalent up to the ECG, mg/m²",
    "days_to_echo": "Days from ECG to echocardiogram",
    "lvef": "LVEF, %",
    "heart_rate_bpm": "Heart rate, per minute",
    "pr_ms": "PR interval, ms",
    "qrs_ms": "QRS duration, ms",
    "qt_ms": "QT interval, ms",
    "qtc_ms": "QTc interval, ms",
    "p_axis_deg": "P axis, degrees",
    "qrs_axis_deg": "QRS axis, degrees",
    "t_axis_deg": "T axis, degrees",
}

_NOT_DESCRIBED = ("patient_id", "path_xml", "label", "event", "index_date", "acquired_at")
_MOST_LEVELS = 6
_MISSING = "missing"

Row = dict[str, Any]


def flow(
    counts: Mapping[str, int], show: CountFormatter, deaths: str = "exclude"
) -> dict[str, Any]:
    """Return the flow diagram: everyone, each exclusion with what is left, and how it ends.

    `counts` has the patients by status, in the order of the rules; under `deaths: exclude` alone
    do some have died before an event. What is left after a step is
    shown only where it gives no withheld exclusion away.
    """
    shown = show.parts(counts)
    why = WHY_EXCLUDED | (_WHY_NOT_PAIRED if "no_pair" in counts else {})
    total = sum(counts.values())
    steps, left, is_known = [], total, True
    for name, n in counts.items():
        if name in WHY_EXCLUDED:
            left -= n
            is_known = is_known and shown[name] == f"{n:,}"
            steps.append(
                {
                    "status": name,
                    "why": why[name],
                    "n": shown[name],
                    "left": f"{left:,}" if is_known else HIDDEN,
                }
            )
    what = ENDS | _ENDS_WITH_DEATHS[deaths]
    if deaths != "exclude":
        del what["death_first"]
    ends = [
        {"status": name, "what": what[name], "n": shown[name]} for name in counts if name in what
    ]
    if steps and all(end["n"] == f"{counts[str(end['status'])]:,}" for end in ends):
        steps[-1]["left"] = f"{left:,}"  # the sum of the ends, which everyone can add up
    return {"total": f"{total:,}", "steps": steps, "ends": ends}


def table_one(manifest: pd.DataFrame, show: CountFormatter) -> dict[str, Any]:
    """Describe the patients of a manifest by label; of several ECGs a patient, the first counts."""
    patients = manifest[manifest["label"].notna()].drop_duplicates("patient_id")
    groups = {
        "negative": patients[patients["label"] == 0],
        "positive": patients[patients["label"] == 1],
    }
    sizes = show.parts({name: len(own) for name, own in groups.items()})
    hidden = [sizes[name] != f"{len(own):,}" for name, own in groups.items()]
    rows: list[Row] = [{"name": "Patients", "cells": [sizes[name] for name in groups]}]
    for column in manifest.columns:
        if column not in _NOT_DESCRIBED:
            rows += _described(str(column), patients[column], list(groups.values()), show)
    return {"groups": list(groups), "rows": [_withheld(row, hidden) for row in rows]}


def _withheld(row: Row, hidden: Sequence[bool]) -> Row:
    """Withhold the counts of groups whose size is, as counts of a column add up to it."""
    if not row.get("inner") and not row.get("counts"):
        return row
    cells = [
        HIDDEN if is_hidden else cell for cell, is_hidden in zip(row["cells"], hidden, strict=True)
    ]
    return row | {"cells": cells}


def _described(
    column: str, every: pd.Series, groups: Sequence[pd.DataFrame], show: CountFormatter
) -> list[Row]:
    """Describe a column: 0 and 1 by how many are 1, other numbers by quartiles, texts by level."""
    name = _NAMES.get(column, column)
    numbers = pd.to_numeric(every.replace("", np.nan), errors="coerce")
    n_texts = int((every.notna() & (every.astype(str).str.strip() != "")).sum())
    if not n_texts:
        return []
    if set(numbers.dropna()) == {0, 1} and int(numbers.notna().sum()) == n_texts:
        return _yes_rows(name, [numbers.loc[own.index] for own in groups], show)
    if int(numbers.notna().sum()) == n_texts:
        return _median_rows(name, [numbers.loc[own.index] for own in groups], show)
    return _level_rows(name, every, groups, show)


def _yes_rows(name: str, groups: Sequence[pd.Series], show: CountFormatter) -> list[Row]:
    """Count the patients of whom something is true, in a column of 0, 1 and missing values."""
    counted = []
    for own in groups:
        n = {"yes": int((own == 1).sum()), "no": int((own == 0).sum())}
        counted.append((n | {_MISSING: int(own.isna().sum())}, len(own)))
    shown = [show.parts(n) for n, _ in counted]
    cells = [
        _with_share(parts["yes"], show.share(n["yes"], size))
        for parts, (n, size) in zip(shown, counted, strict=True)
    ]
    rows: list[Row] = [{"name": f"{name}, n (%)", "cells": cells, "counts": True}]
    if any(n[_MISSING] for n, _ in counted):
        cells = [parts[_MISSING] for parts in shown]
        rows.append({"name": _MISSING, "inner": True, "cells": cells})
    return rows


def _with_share(count: str, share: str) -> str:
    """Write `12 (30.0 %)`, without the share where either is withheld."""
    return count if HIDDEN in (count, share) else f"{count} ({share})"


def _median_rows(name: str, groups: Sequence[pd.Series], show: CountFormatter) -> list[Row]:
    cells = [_quartiles(own.dropna(), show) for own in groups]
    rows: list[Row] = [{"name": f"{name}, median [quartiles]", "cells": cells}]
    if any(own.isna().any() for own in groups):
        parts = [
            show.parts({_MISSING: int(own.isna().sum()), "known": int(own.notna().sum())})
            for own in groups
        ]
        rows.append({"name": _MISSING, "inner": True, "cells": [own[_MISSING] for own in parts]})
    return rows


def _quartiles(values: pd.Series, show: CountFormatter) -> str:
    """Return median [lower quartile, upper quartile], hidden where few have a value."""
    if values.empty or show.hides(len(values)):
        return HIDDEN
    lower, median, upper = np.quantile(values.to_numpy(float), (0.25, 0.5, 0.75))
    return f"{median:.4g} [{lower:.4g}, {upper:.4g}]"


def _level_rows(
    name: str, every: pd.Series, groups: Sequence[pd.DataFrame], show: CountFormatter
) -> list[Row]:
    """Count patients by text; what fewer than ten patients have, or none, is not named."""
    texts = every.fillna("").astype(str).str.strip()
    frequent = texts[texts != ""].value_counts()
    named = sorted(frequent[frequent >= SMALLEST_COUNT].index[:_MOST_LEVELS])
    if not named:
        return []
    kinds = texts.where(texts.isin(named), "other").mask(texts == "", _MISSING)
    levels = [*named, *(kind for kind in ("other", _MISSING) if (kinds == kind).any())]
    counted = [
        show.parts({level: int((kinds.loc[own.index] == level).sum()) for level in levels})
        for own in groups
    ]
    heading: Row = {"name": f"{name}, n (%)", "cells": [""] * len(groups)}
    rows = [heading]
    for level in levels:
        cells = []
        for own, shown in zip(groups, counted, strict=True):
            n = int((kinds.loc[own.index] == level).sum())
            share = show.share(n, len(own))
            cells.append(_with_share(shown[level], share))
        rows.append({"name": level, "inner": True, "cells": cells})
    return rows


def sensitivity_rows(found: Iterable[Sensitivity], show: CountFormatter) -> list[Row]:
    """Return a line for each variant; `n` is None where it is not assessable."""
    rows: list[Row] = []
    for row in found:
        counts = None if row.counts is None else show.parts(row.counts)
        rows.append(
            {
                "group": row.group,
                "name": row.name,
                "n": counts,
                "kappa": HIDDEN if row.kappa is None else f"{row.kappa:.2f}",
                "relabelled": HIDDEN if row.relabelled is None else show(row.relabelled),
            }
        )
    return rows


def incidence_rows(found: Incidence, horizon: int, show: CountFormatter) -> list[Row]:
    """Return incidence and numbers at risk at each year up to the horizon, and at the horizon.

    An incidence that rests on 1 to 9 patients is withheld.
    """
    days = sorted({*range(365, horizon + 1, 365), horizon})
    rows: list[Row] = []
    for day in days:
        event, death = found.at(day)
        n_events, n_deaths = found.counts_until(day)
        low, high = found.event_interval(day)
        shown = f"{100 * event:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        rows.append(
            {
                "day": day,
                "event": HIDDEN if show.hides(n_events) else shown,
                "death": HIDDEN if show.hides(n_deaths) else f"{100 * death:.1f} %",
                "at_risk": show(found.at_risk_at(day)),
            }
        )
    return rows


def sample_size_rows(n_positive: int, n_labelled: int) -> list[Row]:
    """Return what a regression of ten parameters on these patients would need, by AUROC."""
    prevalence = n_positive / n_labelled
    rows: list[Row] = []
    for auroc in AUROCS:
        size = sample_size(prevalence, auroc, PARAMETERS, patients=n_labelled)
        rows.append(
            {
                "auroc": f"{auroc:.2f}",
                "development": f"{size.development_patients:,}",
                "events_per_parameter": f"{size.events_per_parameter:.1f}",
                "most_parameters": f"{size.most_parameters:,}",
                "validation": f"{size.validation_patients:,}",
            }
        )
    return rows
