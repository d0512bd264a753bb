"""Table 1: the patients of each split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.data.rows import usable_rows
from ecgfit.evaluation.groups import MOST_CATEGORIES
from ecgfit.reports.checklist import (
    split_name,
)
from ecgfit.run import Run
from ecgprep.reports.disclosure import HIDDEN, Counts
from ecgprep.store.format import SPLITS
from ecgprep.store.reader import Store


def table_one(store: Store, run: Run, show: Counts) -> dict[str, Any]:
    """Describe the splits: labelled recordings that the run can use, and of how many patients; covariates are those of a patient's first one.

    Of what the run leaves out there is a line, and no total: how few lack a lead would be the difference to those that trained it.
    """
    usable = {name: usable_rows(store, name, run.config.missing) for name in SPLITS}
    splits, rows = zip(*((name, own) for name, own in usable.items() if len(own)), strict=True)
    first = [own[np.unique(store.array("patient")[own], return_index=True)[1]] for own in rows]
    lines = [_line("Patients", [show(len(own)) for own in first])]
    lines += _classes(store, rows, first, show)
    for column, name in enumerate(store.covariate_names):
        lines += _covariate(name, [store.array("covariates")[own, column] for own in first], show)
    lines += _leads_and_rates(store, rows, show, leads=run.config.missing == "mask")
    if run.config.missing == "drop":
        left_out = [
            len(usable_rows(store, name, "mask")) - len(own)
            for name, own in zip(splits, rows, strict=True)
        ]
        lines.append(_line("Left out: recordings that lack a lead", map(show, left_out)))
    return {"columns": [split_name(name) for name in splits], "rows": lines}


def _line(label: str, cells: Iterable[str], *, inner: bool = False) -> dict[str, Any]:
    return {"label": label, "cells": list(cells), "inner": inner}


def _classes(
    store: Store,
    rows: Sequence[NDArray[np.int64]],
    first: Sequence[NDArray[np.int64]],
    show: Counts,
) -> list[dict[str, Any]]:
    """Return lines of positive patients, recordings and positive recordings."""
    label, patient = store.array("label"), store.array("patient")
    patients = [len(np.unique(patient[own[label[own] == 1]])) for own in rows]
    records = [int((label[own] == 1).sum()) for own in rows]
    return [
        _line(
            "Positive patients, n (%)",
            [_n_percent(show, n, len(own)) for n, own in zip(patients, first, strict=True)],
            inner=True,
        ),
        _line("Recordings", [show(len(own)) for own in rows]),
        _line(
            "Positive recordings, n (%)",
            [_n_percent(show, n, len(own)) for n, own in zip(records, rows, strict=True)],
            inner=True,
        ),
    ]


def _n_percent(show: Counts, n: int, total: int) -> str:
    """Return n (%), hidden where n or the rest is small."""
    text = show.parts({"n": n, "rest": total - n})["n"]
    share = show.share(n, total)
    return text if HIDDEN in (text, share) else f"{text} ({share})"


def _covariate(
    name: str, values: Sequence[NDArray[np.float32]], show: Counts
) -> list[dict[str, Any]]:
    """Return the lines of a covariate: by value where there are few, else median [quartiles]; and how many lack it."""
    known = [own[~np.isnan(own)] for own in values]
    levels = np.unique(np.concatenate(known)) if known else np.array([])
    lacks = any(np.isnan(own).any() for own in values)
    if len(levels) <= MOST_CATEGORIES:
        counts = [
            {f"{level:g}": int((own == level).sum()) for level in levels}
            | {"missing": int(np.isnan(own).sum())}
            for own in values
        ]
        return [
            _line(f"{name}, n (%)", [""] * len(values)),
            *_levels([*counts[0]] if lacks else [*counts[0]][:-1], counts, show),
        ]
    lines = [_line(f"{name}, median [quartiles]", [_quartiles(own, show) for own in known])]
    return lines + (
        _levels(
            ["missing"],
            [
                {"missing": int(np.isnan(own).sum()), "known": int((~np.isnan(own)).sum())}
                for own in values
            ],
            show,
        )
        if lacks
        else []
    )


def _quartiles(values: NDArray[np.float32], show: Counts) -> str:
    if not len(values) or show.hides(len(values)):
        return HIDDEN
    return "{1:g} [{0:g}, {2:g}]".format(
        *np.round(np.quantile(values.astype(np.float64), (0.25, 0.5, 0.75)), 2)
    )


def _levels(
    names: Iterable[str], counts: Sequence[Mapping[str, int]], show: Counts
) -> list[dict[str, Any]]:
    """Return a line for each of several counts that add up to all."""
    shown = [show.parts(own) for own in counts]
    lines = []
    for name in names:
        cells = []
        for own, texts in zip(counts, shown, strict=True):
            share = show.share(own[name], sum(own.values()))
            cells.append(
                texts[name] if HIDDEN in (texts[name], share) else f"{texts[name]} ({share})"
            )
        lines.append(_line(name, cells, inner=True))
    return lines


def _leads_and_rates(
    store: Store, rows: Sequence[NDArray[np.int64]], show: Counts, *, leads: bool
) -> list[dict[str, Any]]:
    """Return lines of the sampling rates, and before them of missing `leads`, which only a run has that keeps such recordings."""
    whole = [store.array("lead_mask")[own].all(axis=1) for own in rows]
    by_leads = [{"some missing": int((~own).sum()), "all eight": int(own.sum())} for own in whole]
    rates = (
        np.unique(np.concatenate([store.array("rate_hz")[own] for own in rows]))
        if rows
        else np.array([])
    )
    by_rate = [
        {f"{rate:g} Hz": int((store.array("rate_hz")[own] == rate).sum()) for rate in rates}
        for own in rows
    ]
    heading = [""] * len(rows)
    return [
        *(
            [
                _line("Leads, recordings (%)", heading),
                *_levels(["some missing", "all eight"], by_leads, show),
            ]
            if leads
            else []
        ),
        _line("Source rate, recordings (%)", heading),
        *_levels([f"{rate:g} Hz" for rate in rates], by_rate, show),
    ]
