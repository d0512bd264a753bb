"""The report of a store: one HTML file that opens offline. Needs jinja2 (extra `report`).

It shows what readers of a paper ask for (TRIPOD+AI item 20a, STARD flow diagram): who was left out
and why, what the splits hold, where recordings come from and whether that alone predicts the
label, what is wrong with them, and what they look like. Counts below 10 are shown as "<10" unless
the exact ones are asked for. The ECGs make the file health data all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.drawing import PAPER_SVG, svg_ecg
from ecgprep.errors import STATUS_CODE, STATUSES
from ecgprep.leads import LEADS
from ecgprep.patients.confounding import WARN_ABOVE, probe_confounding
from ecgprep.reports.disclosure import HIDDEN, CountFormatter
from ecgprep.reports.page import write_page
from ecgprep.store.format import SPLITS
from ecgprep.store.reader import Store
from ecgprep.store.record import read_build_record
from ecgprep.store.row_ids import RowIds, read_row_ids
from ecgprep.store.summary import summarise

MARK = b'<meta name="generator" content="ecgprep report">'
"""Every report of a store holds this, so that a file is recognised as one."""

_EXCLUDED_AFTER_READING = ("duplicate", "conflict", "quality")
"""Statuses of recordings that could be read, but were left out when the store was finished."""

_MOST_DUPLICATES = 50
"""Groups of duplicates that are listed, unless exact counts are asked for."""

_ECGS_PER_FLAG = 2

Counts = dict[str, int]


def write_report(
    store: Store, out: Path, n_ecgs: int = 12, exact: bool = False, ids: bool = False
) -> None:
    """Write the report of a store to `out`, readable by its owner only.

    `n_ecgs` recordings are drawn at random; 0 draws none at all. With `ids`, patient and file stand
    beside each ECG and duplicate. Raises NoSpace, ImportError without jinja2, and InputError where
    nothing says whose the rows are.
    """
    template = Path(__file__).parent / "report.html.jinja"
    write_page(out, template, report_content(store, n_ecgs, exact, ids))


def report_content(
    store: Store, n_ecgs: int = 12, exact: bool = False, ids: bool = False
) -> dict[str, Any]:
    """Collect everything that the report shows.

    Counts are text already, so that the template cannot show a small one by mistake.
    """
    whose = read_row_ids(store) if ids else None
    record = read_build_record(store.path)
    if record is not None and record["content_sha256"] != store.content_sha256:
        record = None
    dialects = None
    duplicates: list[str] = []
    warnings: list[str] = []
    if record is not None:
        dialects = record["dialects"]
        duplicates = _duplicates(store, record["copies"], exact, whose)
        warnings = record.get("warnings", [])
    summary, show = summarise(store), CountFormatter(exact)
    probe = probe_confounding(store, dialects)
    ecgs = list(_ecgs(store, n_ecgs, whose)) if n_ecgs else []
    return {
        "name": store.path.name,
        "hidden": not exact,
        "summary": summary,
        "flow": _flow(summary["status"], show),
        "splits": _splits(summary, show),
        "tables": _tables(store, dialects, show),
        "quality": _quality(store, show),
        "duplicates": duplicates,
        "probe": probe.auroc,
        "probe_warning": probe.warning,
        "probe_limit": WARN_ABOVE,
        "warnings": warnings,
        "ecgs": ecgs,
        "paper": PAPER_SVG,
    }


def _flow(status: Counts, show: CountFormatter) -> dict[str, Any]:
    """Return the numbers of the flow diagram: what is left, and what was taken out beside it."""
    failed, excluded = {}, {}
    for name, n in status.items():
        if name in _EXCLUDED_AFTER_READING:
            excluded[name] = n
        elif name != "ok":
            failed[name] = n
    n_rows, n_failed = sum(status.values()), sum(failed.values())
    return {
        "rows": show(n_rows),
        "failed": _left_out(failed, show),
        "read": show(n_rows - n_failed),
        "excluded": _left_out(excluded, show),
        "used": show(status.get("ok", 0)),
    }


def _left_out(counts: Counts, show: CountFormatter) -> dict[str, Any]:
    """Return the reasons with their counts, the most frequent first, and the sum."""
    largest_first = sorted(counts.items(), key=lambda item: -item[1])
    reasons = [f"{name} {show(n)}" for name, n in largest_first]
    return {"n": show(sum(counts.values())), "reasons": reasons}


def _splits(summary: Mapping[str, Any], show: CountFormatter) -> list[dict[str, str]]:
    """Return a line for each split: the share asked for, the share reached, and counts."""
    total = sum(split["patients"] for split in summary["splits"].values())
    rows = []
    for name, split in summary["splits"].items():
        patients = split["patients"]
        achieved = HIDDEN
        if total and not show.hides(patients):
            achieved = f"{100 * patients / total:.1f} %"
        counts = {key: show(n) for key, n in split.items()}
        rows.append({"name": name, "asked": summary["asked"][name], "achieved": achieved} | counts)
    return rows


def _is_used(store: Store) -> NDArray[np.bool_]:
    """Say of each row whether it is used, (n_rows,)."""
    is_used: NDArray[np.bool_] = np.asarray(store.array("status")) == STATUS_CODE["ok"]
    return is_used


def _tables(store: Store, dialects: list[str] | None, show: CountFormatter) -> list[dict[str, Any]]:
    """Count the recordings used, and the positive ones, by everything that tells their origin."""
    used = _is_used(store)
    positive = np.asarray(store.array("label"))[used] == 1
    mask = np.asarray(store.array("lead_mask"))[used]
    span = np.asarray(store.array("valid_span"))[used]
    rate = np.asarray(store.array("rate_hz"))[used]
    n_valid = span[:, 1] - span[:, 0]
    is_whole = n_valid == store.n_samples

    signal = np.where(is_whole, "whole length", "shorter, padded")
    columns = {
        "source rate": np.array([f"{value:g} Hz" for value in rate.tolist()]),
        "leads present": np.array([f"{n} of 8" for n in mask.sum(axis=1).tolist()]),
        "signal": signal,
    }
    if dialects is not None:
        columns["dialect"] = np.array(dialects)[used]
    tables = [
        {"title": title, "rows": _count_by(values, positive, show)}
        for title, values in columns.items()
    ]
    by_lead = [(lead, *_count(mask[:, k], positive, show)) for k, lead in enumerate(LEADS)]
    tables.append({"title": "lead present", "rows": by_lead})
    if len(n_valid):
        seconds = n_valid / store.sample_rate_hz
        note = f"median {np.median(seconds):.1f} s, shortest {seconds.min():.1f} s"
        tables[list(columns).index("signal")]["note"] = note
    return tables


def _count_by(
    values: NDArray[np.str_], positive: NDArray[np.bool_], show: CountFormatter
) -> list[tuple[str, str, str]]:
    """Count recordings and positive ones by value, the most frequent value first."""
    names, n = np.unique(values, return_counts=True)
    largest_first = names[np.argsort(-n, kind="stable")]
    return [(str(name), *_count(values == name, positive, show)) for name in largest_first]


def _count(
    chosen: NDArray[np.bool_], positive: NDArray[np.bool_], show: CountFormatter
) -> tuple[str, str]:
    """Count the chosen recordings and the positive ones among them."""
    return show(int(chosen.sum())), show(int((chosen & positive).sum()))


def _quality(store: Store, show: CountFormatter) -> list[dict[str, Any]]:
    """Count, for each flag, the recordings used that have it on any lead, and the leads."""
    bits = np.asarray(store.array("quality"))[_is_used(store)]
    rows = []
    for k, name in enumerate(store.quality_flags):
        has_flag = (bits >> k) & 1
        n_records = int(has_flag.any(axis=1).sum())
        by_lead = [show(n) for n in has_flag.sum(axis=0).tolist()]
        rows.append({"name": name, "records": show(n_records), "leads": by_lead})
    return rows


def _duplicates(
    store: Store, groups: list[list[int]], exact: bool, whose: RowIds | None
) -> list[str]:
    """List groups of duplicates by data row of the manifest, counted from 1, with statuses."""
    status = np.asarray(store.array("status"))
    listed = []
    for group in groups:
        rows = [f"{_name(row, whose)}: {STATUSES[status[row]]}" for row in group]
        listed.append(", ".join(rows))
    n_more = len(listed) - _MOST_DUPLICATES
    if exact or n_more <= 0:
        return listed
    return [*listed[:_MOST_DUPLICATES], f"and {n_more:,} more groups"]


def _name(row: int, whose: RowIds | None) -> str:
    """Name a row by its data row of the manifest, counted from 1, and say whose it is if asked."""
    return f"row {row + 1}" if whose is None else f"row {row + 1} ({whose.describe(row)})"


def _ecgs(store: Store, n_random: int, whose: RowIds | None) -> Iterator[dict[str, str]]:
    """Draw recordings used: a random sample, then up to two with each quality flag."""
    used = np.flatnonzero(_is_used(store))
    quality = np.asarray(store.array("quality"))
    split = np.asarray(store.array("split"))
    generator = np.random.Generator(np.random.PCG64(0))
    for row in np.sort(generator.permutation(used)[:n_random]).tolist():
        yield {
            "title": f"{_name(row, whose)}, {SPLITS[split[row]]}",
            "kind": "random sample",
            "svg": _draw(store, row),
        }
    for k, flag in enumerate(store.quality_flags):
        has_flag = (quality >> k) & 1 == 1
        flagged = used[has_flag[used].any(axis=1)]
        for row in np.sort(generator.permutation(flagged)[:_ECGS_PER_FLAG]).tolist():
            leads = [lead for lead, has in zip(LEADS, has_flag[row], strict=True) if has]
            yield {
                "title": f"{_name(row, whose)}: {', '.join(leads)}",
                "kind": flag,
                "svg": _draw(store, row, leads),
            }


def _draw(store: Store, row: int, marked: Collection[str] = ()) -> str:
    """Draw one recording of the store."""
    waveform_uv, mask, span = store.recording(row)
    return svg_ecg(waveform_uv, mask, span, store.sample_rate_hz, marked)
