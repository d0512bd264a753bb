"""Table 1: the patients and recordings of each split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ecgfit.data.rows import usable_rows
from ecgfit.evaluation.groups import MOST_CATEGORIES, value_name
from ecgfit.reports.wording import split_name
from ecgfit.run import RunFolder
from ecgprep.reports.disclosure import HIDDEN, CountFormatter
from ecgprep.sex_code import SexCode
from ecgprep.store.format import SPLITS
from ecgprep.store.reader import Store

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Line = dict[str, Any]
"""A line of the table: `label`, `cells` (one for each split), and whether it is `inner`."""

_MISSING = "missing"
_SOME_LEADS, _ALL_LEADS = "some missing", "all eight"


def table_one(store: Store, run: RunFolder, show: CountFormatter) -> dict[str, Any]:
    """Describe the labelled recordings that the run can use, and their patients, by split.

    Covariates are those of the first recording of a patient. Recordings that the run leaves out
    have one line and no total: if few recordings lack a lead, their number must not follow from a
    difference.
    """
    used = _used_recordings(store, run)
    names = used["split"].unique().tolist()
    recordings = [used[used["split"] == name] for name in names]
    patients = [part.drop_duplicates("patient") for part in recordings]

    lines = [_line("Patients", [show(len(part)) for part in patients])]
    lines += _classes(recordings, patients, show)
    for name in store.covariate_names:
        columns = [part[f"covariate {name}"] for part in patients]
        lines += _covariate(name, columns, show, store.sex_codes.get(name))
    if run.config.missing == "mask":
        lines += _leads(recordings, show)
    lines += _rates(recordings, show)
    if run.config.missing == "drop":
        left_out = [_n_left_out(store, name) for name in names]
        lines.append(_line("Left out: recordings that lack a lead", [show(n) for n in left_out]))
    return {"columns": [split_name(name) for name in names], "rows": lines}


def _used_recordings(store: Store, run: RunFolder) -> DataFrame:
    """Return a line for each labelled recording that the run can use, by split and row."""
    import pandas as pd

    parts = []
    for split in SPLITS:
        rows = usable_rows(store, split, run.config.missing)
        columns = {
            "split": split,
            "patient": store.array("patient")[rows],
            "is_positive": store.array("label")[rows] == 1,
            "rate_hz": store.array("rate_hz")[rows],
            "has_all_leads": store.array("lead_mask")[rows].all(axis=1),
        }
        for k, name in enumerate(store.covariate_names):
            columns[f"covariate {name}"] = store.array("covariates")[rows, k]
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _n_left_out(store: Store, split: str) -> int:
    """Count the labelled recordings of a split that lack a lead."""
    with_all_leads = usable_rows(store, split, "drop")
    return len(usable_rows(store, split, "mask")) - len(with_all_leads)


def _line(label: str, cells: Iterable[str], *, inner: bool = False) -> Line:
    return {"label": label, "cells": list(cells), "inner": inner}


def _classes(
    recordings: Sequence[DataFrame], patients: Sequence[DataFrame], show: CountFormatter
) -> list[Line]:
    """Count positive patients, recordings and positive recordings.

    A patient is positive when any of their recordings is.
    """
    positive_patients, positive_recordings = [], []
    for part, own in zip(recordings, patients, strict=True):
        positive = part[part["is_positive"]]
        positive_patients.append(_n_percent(show, positive["patient"].nunique(), len(own)))
        positive_recordings.append(_n_percent(show, len(positive), len(part)))
    return [
        _line("Positive patients, n (%)", positive_patients, inner=True),
        _line("Recordings", [show(len(part)) for part in recordings]),
        _line("Positive recordings, n (%)", positive_recordings, inner=True),
    ]


def _n_percent(show: CountFormatter, n: int, total: int) -> str:
    """Return n (%), without the percentage or hidden where n or the rest is small."""
    text = show.parts({"n": n, "rest": total - n})["n"]
    return _with_share(text, show.share(n, total))


def _with_share(text: str, share: str) -> str:
    """Put a percentage behind a count, unless one of them is hidden."""
    return text if HIDDEN in (text, share) else f"{text} ({share})"


def _covariate(
    name: str,
    values: Sequence[Series[float]],
    show: CountFormatter,
    sex_code: SexCode | None = None,
) -> list[Line]:
    """Describe a covariate by value where it has few, else by its median and quartiles.

    Values of a sex code are named. A line says how many patients lack the covariate, where any do.
    """
    import pandas as pd

    every = pd.concat(values)
    levels = sorted(every.dropna().unique().tolist())
    missing_line = [_MISSING] if every.isna().any() else []
    if len(levels) <= MOST_CATEGORIES:
        names = [value_name(level, sex_code) for level in levels]
        counts = [_by_level(own, dict(zip(names, levels, strict=True))) for own in values]
        heading = _line(f"{name}, n (%)", [""] * len(values))
        return [heading, *_count_lines([*names, *missing_line], counts, show)]
    quartiles = [_quartiles(own.dropna(), show) for own in values]
    known_or_not = [
        {_MISSING: int(own.isna().sum()), "known": int(own.notna().sum())} for own in values
    ]
    return [
        _line(f"{name}, median [quartiles]", quartiles),
        *_count_lines(missing_line, known_or_not, show),
    ]


def _by_level(values: Series[float], levels: Mapping[str, float]) -> dict[str, int]:
    """Count patients by value, under its name, and those who lack it."""
    counts = {name: int((values == level).sum()) for name, level in levels.items()}
    return counts | {_MISSING: int(values.isna().sum())}


def _quartiles(values: Series[float], show: CountFormatter) -> str:
    """Return median [lower quartile, upper quartile], hidden where few have a value."""
    if values.empty or show.hides(len(values)):
        return HIDDEN
    found = np.quantile(values.to_numpy(np.float64), (0.25, 0.5, 0.75))
    lower, median, upper = np.round(found, 2)
    return f"{median:g} [{lower:g}, {upper:g}]"


def _leads(recordings: Sequence[DataFrame], show: CountFormatter) -> list[Line]:
    """Count recordings that lack leads; only for runs that keep such recordings."""
    counts = []
    for part in recordings:
        n_whole = int(part["has_all_leads"].sum())
        counts.append({_SOME_LEADS: len(part) - n_whole, _ALL_LEADS: n_whole})
    heading = _line("Leads, recordings (%)", [""] * len(recordings))
    return [heading, *_count_lines([_SOME_LEADS, _ALL_LEADS], counts, show)]


def _rates(recordings: Sequence[DataFrame], show: CountFormatter) -> list[Line]:
    """Count recordings by the sampling rate of their source."""
    import pandas as pd

    rates = sorted(pd.concat([part["rate_hz"] for part in recordings]).unique().tolist())
    names = [f"{rate:g} Hz" for rate in rates]
    counts = []
    for part in recordings:
        n_by_rate = [int((part["rate_hz"] == rate).sum()) for rate in rates]
        counts.append(dict(zip(names, n_by_rate, strict=True)))
    heading = _line("Source rate, recordings (%)", [""] * len(recordings))
    return [heading, *_count_lines(names, counts, show)]


def _count_lines(
    names: Iterable[str], counts: Sequence[Mapping[str, int]], show: CountFormatter
) -> list[Line]:
    """Return a line for each of several counts; those of a split add up to all of it."""
    shown = [show.parts(own) for own in counts]
    lines = []
    for name in names:
        cells = []
        for own, texts in zip(counts, shown, strict=True):
            share = show.share(own[name], sum(own.values()))
            cells.append(_with_share(texts[name], share))
        lines.append(_line(name, cells, inner=True))
    return lines
