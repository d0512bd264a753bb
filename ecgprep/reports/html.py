"""The report of a store: one HTML file that opens offline. Needs jinja2 (extra `report`); the ECGs are drawn as SVG.

What a reader of the paper asks for (TRIPOD+AI item 20a, STARD flow diagram): who was left out and why, what the splits hold, where
recordings come from and whether that alone predicts the label, what is wrong with them, and what they look like. Counts below 10 are shown
as "<10" unless asked for exactly; the ECGs make the file health data all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.drawing import draw_svg
from ecgprep.errors import STATUS_CODE, STATUSES
from ecgprep.files.atomic import PRIVATE
from ecgprep.files.output import write_output
from ecgprep.leads import LEADS
from ecgprep.patients.confounding import WARN_ABOVE, probe_confounding
from ecgprep.reports.disclosure import Counts
from ecgprep.store.format import SPLITS
from ecgprep.store.reader import Store
from ecgprep.store.record import read_build_record
from ecgprep.store.summary import summarise

MARK = b'<meta name="generator" content="ecgprep report">'
"""What every report holds."""


_EXCLUDED_LATER = ("duplicate", "conflict", "quality")


def write_report(store: Store, out: Path, n_ecgs: int = 12, exact: bool = False) -> None:
    """Write the report of a store to `out`, readable by its owner only. Raises NoSpace, and ImportError without jinja2."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        (Path(__file__).parent / "report.html.jinja").read_text("utf-8")
    )
    write_output(out, template.render(report_content(store, n_ecgs, exact)).encode(), PRIVATE)


def report_content(store: Store, n_ecgs: int = 12, exact: bool = False) -> dict[str, Any]:
    """Collect everything the report shows; counts are text, so that the template cannot show a small one by mistake."""
    record = read_build_record(store.path)
    if record is not None and record["content_sha256"] != store.content_sha256:
        record = None
    summary, count = summarise(store), Counts(exact)
    probe = probe_confounding(store, None if record is None else record["dialects"])
    return {
        "name": store.path.name,
        "hidden": not exact,
        "summary": summary,
        "flow": _flow(summary, count),
        "splits": _splits(summary, count),
        "tables": _tables(store, record, count),
        "quality": _quality(store, count),
        "copies": _copies(store, record, exact),
        "probe": {
            name: "not known: too few patients of a class" if value is None else f"{value:.2f}"
            for name, value in probe.auroc.items()
        },
        "probe_warning": probe.warning,
        "probe_limit": WARN_ABOVE,
        "warnings": (record or {}).get("warnings", []),
        "ecgs": list(_ecgs(store, n_ecgs)),
    }


def _flow(summary: dict[str, Any], count: Counts) -> list[dict[str, Any]]:
    """Return the boxes of the flow diagram: what is left, and what was taken out beside it."""
    status = summary["status"]
    failed = {name: n for name, n in status.items() if name != "ok" and name not in _EXCLUDED_LATER}
    later = {name: n for name, n in status.items() if name in _EXCLUDED_LATER}
    n_read = summary["rows"] - sum(failed.values())

    def taken(part: dict[str, int]) -> list[str]:
        return [f"{name} {count(n)}" for name, n in sorted(part.items(), key=lambda item: -item[1])]

    return [
        {
            "text": "rows of the manifest",
            "n": count(summary["rows"]),
            "out": taken(failed),
            "why": "not readable or not usable",
            "n_out": count(sum(failed.values())),
        },
        {
            "text": "recordings read",
            "n": count(n_read),
            "out": taken(later),
            "why": "copies, conflicts, chosen quality flags",
            "n_out": count(sum(later.values())),
        },
        {
            "text": "recordings used",
            "n": count(status.get("ok", 0)),
            "out": [],
            "why": "",
            "n_out": "",
        },
    ]


def _splits(summary: dict[str, Any], count: Counts) -> list[dict[str, str]]:
    total = sum(split["patients"] for split in summary["splits"].values())
    return [
        {
            "name": name,
            "asked": summary["asked"][name],
            "achieved": f"{100 * split['patients'] / total:.1f} %"
            if total and not count.hides(split["patients"])
            else "–",
            **{key: count(n) for key, n in split.items()},
        }
        for name, split in summary["splits"].items()
    ]


def _tables(store: Store, record: dict[str, Any] | None, count: Counts) -> list[dict[str, Any]]:
    """Tables of counts over the recordings used: label, source rate, dialect, leads, padding; each by label."""
    ok = np.asarray(store.array("status")) == STATUS_CODE["ok"]
    label = np.asarray(store.array("label"))[ok]
    n_leads = np.asarray(store.array("lead_mask"))[ok].sum(axis=1)
    span = np.asarray(store.array("valid_span"))[ok]
    seconds = (span[:, 1] - span[:, 0]) / store.sample_rate_hz
    columns: dict[str, list[str]] = {
        "source rate": [f"{rate:g} Hz" for rate in store.array("rate_hz")[ok]],
        "leads present": [f"{n} of 8" for n in n_leads],
        "signal": [
            "whole length" if whole else "shorter, padded"
            for whole in span[:, 1] - span[:, 0] == store.n_samples
        ],
    }
    if record is not None:
        columns["dialect"] = [record["dialects"][row] for row in np.flatnonzero(ok)]
    tables = [
        {"title": title, "rows": _by_label(values, label, count)}
        for title, values in columns.items()
    ]
    rows = [
        (lead, *_pair(np.asarray(store.array("lead_mask"))[ok][:, k], label, count))
        for k, lead in enumerate(LEADS)
    ]
    tables.append({"title": "lead present", "rows": rows})
    if len(seconds):
        tables[2]["note"] = f"median {np.median(seconds):.1f} s, shortest {seconds.min():.1f} s"
    return tables


def _by_label(
    values: list[str], label: NDArray[np.int8], count: Counts
) -> list[tuple[str, str, str]]:
    array = np.array(values)
    names, n = np.unique(array, return_counts=True)
    return [
        (str(name), *_pair(array == name, label, count))
        for name in names[np.argsort(-n, kind="stable")]
    ]


def _pair(which: NDArray[np.bool_], label: NDArray[np.int8], count: Counts) -> tuple[str, str]:
    return count(int(which.sum())), count(int((which & (label == 1)).sum()))


def _quality(store: Store, count: Counts) -> list[dict[str, Any]]:
    """Count usable recordings and leads by flag."""
    ok = np.asarray(store.array("status")) == STATUS_CODE["ok"]
    bits = np.asarray(store.array("quality"))[ok]
    found = []
    for k, name in enumerate(store.quality_flags):
        has = (bits >> k) & 1
        found.append(
            {
                "name": name,
                "records": count(int(has.any(axis=1).sum())),
                "leads": [count(int(n)) for n in has.sum(axis=0)],
            }
        )
    return found


def _copies(store: Store, record: dict[str, Any] | None, exact: bool) -> list[str]:
    """List groups of copies by data row of the manifest (from 1) with their statuses; at most 50."""
    if record is None:
        return []
    status = np.asarray(store.array("status"))
    listed = [
        ", ".join(f"row {row + 1}: {STATUSES[status[row]]}" for row in group)
        for group in record["copies"]
    ]
    return (
        listed
        if exact or len(listed) <= 50
        else [*listed[:50], f"and {len(listed) - 50:,} more groups"]
    )


def _ecgs(store: Store, n_random: int) -> Iterable[dict[str, Any]]:
    """Draw a random sample of the usable recordings, and up to two recordings of every kind of quality flag."""
    ok = np.flatnonzero(np.asarray(store.array("status")) == STATUS_CODE["ok"])
    generator = np.random.Generator(np.random.PCG64(0))
    quality = np.asarray(store.array("quality"))
    split = np.asarray(store.array("split"))
    for row in np.sort(generator.permutation(ok)[:n_random]).tolist():
        yield {
            "title": f"row {row + 1}, {SPLITS[split[row]]}",
            "kind": "random sample",
            "svg": _draw(store, row),
        }
    for k, name in enumerate(store.quality_flags):
        having = ok[((quality[ok] >> k) & 1).any(axis=1)]
        for row in np.sort(generator.permutation(having)[:2] if n_random else having[:0]).tolist():
            leads = [lead for lead, bit in zip(LEADS, (quality[row] >> k) & 1, strict=True) if bit]
            yield {
                "title": f"row {row + 1}: {', '.join(leads)}",
                "kind": name,
                "svg": _draw(store, row, leads),
            }


def _draw(store: Store, row: int, marked: Iterable[str] = ()) -> str:
    waveform = store.gather(np.array([row]), np.empty((1, len(LEADS), store.n_samples), "<i2"))[0]
    first, last = store.array("valid_span")[row].tolist()
    mask = np.asarray(store.array("lead_mask")[row])
    return draw_svg(waveform, mask, (first, last), store.sample_rate_hz, marked)
