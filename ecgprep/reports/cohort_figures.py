"""The figures of a cohort's report: patients' days, LVEF over time, follow-up and incidence.

Days are counted from the index date. Groups of 1 to 9 patients are drawn as such, not by number,
unless exact counts are asked for; the few patients of the timeline are shown one by one, under
letters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgprep.reports.charts import INK, NEGATIVE, PALE, POSITIVE, QUIET, Chart, round_ticks
from ecgprep.reports.disclosure import SMALLEST_COUNT, CountFormatter
from ecgprep.study.incidence import Incidence, cumulative_incidence

if TYPE_CHECKING:
    from ecgprep.cohorts.timelines import Timelines

FOLLOWED = ("positive", "negative", "death_first", "unknown_followup")
"""Statuses of patients who were at risk of an event: all others were excluded before."""

_LETTERS = "ABCDEFGH"
_PER_STATUS = {"positive": 3, "negative": 2, "death_first": 1, "unknown_followup": 2}
"""How many patients of each status the timeline shows."""

_BIN_DAYS = 90
_STEP_DAYS = 30
"""Incidence is drawn at these steps, so that a step tells no single patient's day."""

_ROW = 46
_TEXT_PX = 18

Days = NDArray[np.float64]


def timeline(
    timelines: Timelines, decided: pd.DataFrame, horizon: int, kept: Collection[int] = ()
) -> str:
    """Draw the days of a few patients, chosen at random: doses, echocardiograms, ECGs, event.

    `kept` has the labels of the rows of `timelines.ecgs` that are in the manifest.
    """
    shown = _patients_shown(decided)
    chart = Chart(
        "Days of a few patients",
        x=(-400, max(horizon, 400) + 30),
        y=(0, 1),
        x_label="days from the index date",
        height=70 + _ROW * len(shown),
        left=150,
    )
    chart.axes(_year_ticks(*chart.x), [])
    for row, (code, letter) in enumerate(zip(shown, _LETTERS, strict=False)):
        status = str(decided["status"].iloc[code])
        y = 34 + _ROW * row
        chart.text(8, y + 4, f"{letter}: {status}")
        _draw_patient(chart, timelines, code, y)
        _draw_ecgs(chart, timelines.ecgs[timelines.ecgs["code"] == code], y, kept)
        _draw_echos(chart, timelines.echos[timelines.echos["code"] == code], y)
        _draw_outcome(chart, decided.iloc[code], y)
    return chart.svg()


def _patients_shown(decided: pd.DataFrame) -> list[int]:
    """Choose patients of each status at random, always the same ones for the same cohort."""
    generator = np.random.Generator(np.random.PCG64(0))
    status = decided["status"].astype(str).to_numpy()
    shown: list[int] = []
    for name, n in _PER_STATUS.items():
        shown += generator.permutation(np.flatnonzero(status == name))[:n].tolist()
    return shown


def _draw_patient(chart: Chart, timelines: Timelines, code: int, y: int) -> None:
    """Draw a patient's line, and below it a tick for each dose of the class."""
    low, high = chart.px(chart.x[0]), chart.px(chart.x[1])
    chart.parts.append(f'<path d="M{low} {y}H{high}" stroke="{QUIET}" stroke-width="0.7"/>')
    doses = timelines.doses
    own = doses[(doses["code"] == code) & doses["in_class"]]
    for day in _visible(own["day"], chart):
        chart.parts.append(f'<path d="M{chart.px(day)} {y + 4}v10" stroke="{INK}"/>')


def _draw_ecgs(chart: Chart, ecgs: pd.DataFrame, y: int, kept: Collection[int]) -> None:
    """Draw ECGs as squares, those of the manifest black."""
    for row, day in ecgs["day"].items():
        if _visible([day], chart):
            x, colour = chart.px(day) - 3, INK if row in kept else PALE
            chart.parts.append(
                f'<rect x="{x:g}" y="{y - 3}" width="6" height="6" fill="{colour}"/>'
            )


def _draw_echos(chart: Chart, echos: pd.DataFrame, y: int) -> None:
    """Draw echocardiograms with their LVEF, unless two numbers would lie on each other."""
    taken = -np.inf
    for day, lvef in zip(echos["day"], echos["lvef"], strict=True):
        if not _visible([day], chart):
            continue
        _circle(chart, day, y, "white")
        px = chart.px(day)
        if px - taken >= _TEXT_PX:
            chart.text(px, y - 9, f"{lvef:.0f}", "middle")
            taken = px


def _draw_outcome(chart: Chart, found: pd.Series, y: int) -> None:
    """Fill the circle of the event, and mark a death."""
    for day in _visible([found["event_day"]], chart):
        _circle(chart, day, y, POSITIVE)
    for day in _visible([found["death_day"]], chart):
        chart.text(chart.px(day), y + 5, "†", "middle")


def _visible(days: Iterable[float], chart: Chart) -> list[float]:
    return [day for day in days if chart.x[0] <= day <= chart.x[1]]


def _circle(chart: Chart, day: float, y: int, colour: str) -> None:
    chart.parts.append(
        f'<circle cx="{chart.px(day)}" cy="{y}" r="4.5" fill="{colour}" stroke="{INK}"/>'
    )


def _year_ticks(low: float, high: float) -> list[float]:
    """Return ticks at half years."""
    first, last = int(np.ceil(low / 182.5)), int(np.floor(high / 182.5))
    return [float(int(182.5 * i)) for i in range(first, last + 1)]


def trajectories(
    timelines: Timelines, decided: pd.DataFrame, horizon: int, show: CountFormatter
) -> str:
    """Draw median and quartiles of LVEF in periods of 90 days, by label.

    A dot stands in the middle of its period. A period with 1 to 9 patients of a label is left out,
    and no line leads across it; "" if every period is.
    """
    end = -(-max(horizon, 365) // _BIN_DAYS) * _BIN_DAYS  # whole periods only
    chart = Chart(
        "LVEF over time",
        x=(-4 * _BIN_DAYS, end),
        y=(20, 80),
        x_label="days from the index date",
        y_label="LVEF, %",
    )
    chart.axes(_year_ticks(*chart.x), range(20, 81, 10))
    echos = timelines.echos
    label = decided["label"].to_numpy(float)[echos["code"].to_numpy(np.int64)]
    n_axes = len(chart.parts)
    for value, colour in ((0.0, NEGATIVE), (1.0, POSITIVE)):
        periods = _quartiles(echos[label == value], chart, show)
        for run in _unbroken(periods):
            days = [(number + 0.5) * _BIN_DAYS for number in run]
            lower, median, upper = (
                [(day, periods[number][k]) for day, number in zip(days, run, strict=True)]
                for k in range(3)
            )
            chart.band(lower, upper, colour)
            chart.line(median, colour)
            chart.dots(median, colour)
    if len(chart.parts) == n_axes:
        return ""
    chart.legend([("positive", POSITIVE), ("negative", NEGATIVE)])
    return chart.svg()


def _quartiles(
    echos: pd.DataFrame, chart: Chart, show: CountFormatter
) -> dict[int, tuple[float, float, float]]:
    """Return lower quartile, median and upper quartile by the number of the period."""
    inside = echos[(echos["day"] >= chart.x[0]) & (echos["day"] < chart.x[1])]
    period = np.floor(inside["day"].to_numpy(float) / _BIN_DAYS).astype(int)
    found = {}
    for number, own in inside.groupby(period):
        if not show.hides(own["code"].nunique()):
            lower, median, upper = np.quantile(own["lvef"].to_numpy(float), (0.25, 0.5, 0.75))
            found[int(number)] = (float(lower), float(median), float(upper))
    return found


def _unbroken(numbers: Iterable[int]) -> list[list[int]]:
    """Cut rising numbers into runs without a gap."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def histogram(days: Days, title: str, x_label: str, colour: str, show: CountFormatter) -> str:
    """Draw how many patients lie in each period of equal length; small counts are drawn pale.

    A period includes its last day, not its first: day 0 lies before the axis' 0, where an ECG of a
    window that ends on the index date belongs.
    """
    known = days[~np.isnan(days)]
    if not len(known):
        return ""
    width = _bin_width(known)
    period = np.ceil(known / width).astype(int) - 1
    counts = np.bincount(period - period.min())
    edges = width * np.arange(period.min(), period.max() + 2)
    ticks = round_ticks(float(max(counts.max(), SMALLEST_COUNT)))
    chart = Chart(
        title, (float(edges[0]), float(edges[-1])), (0, ticks[-1]), x_label, "patients", height=240
    )
    chart.axes(edges[:: max(1, len(edges) // 8)].tolist(), ticks)
    for left, right, n in zip(edges, edges[1:], counts.tolist(), strict=False):
        if show.hides(n):
            chart.bar(left, right, SMALLEST_COUNT - 1, colour, 0.35)
        elif n:
            chart.bar(left, right, n, colour)
    return chart.svg()


def _bin_width(days: Days) -> float:
    """Return a width in days that gives at most 16 periods."""
    widths = (7.0, 14.0, 30.0, 90.0, 180.0, 365.0)
    span = float(days.max() - days.min())
    return next((width for width in widths if span / width <= 16), span / 16)


def followed(decided: pd.DataFrame) -> pd.DataFrame:
    """Return the patients who were at risk, and observed after the index date."""
    at_risk = decided["status"].isin(FOLLOWED) & (decided["time"] > 0)
    return decided[at_risk]


def incidence(decided: pd.DataFrame) -> Incidence | None:
    """Estimate the incidence among patients at risk; None where there are none."""
    own = followed(decided)
    return cumulative_incidence(own["time"], own["event"]) if len(own) else None


def incidence_curve(found: Incidence, horizon: int, show: CountFormatter) -> str:
    """Draw the cumulative incidence of the event, its Kaplan-Meier estimate, and death.

    A curve begins once it rests on ten patients.
    """
    end = max(horizon, 365)
    days = [*range(0, end, _STEP_DAYS), end]
    before = np.searchsorted(found.times, days, side="right")
    kaplan_meier = np.r_[0.0, found.kaplan_meier][before].tolist()
    curves: dict[str, list[tuple[float, float]]] = {"event": [], "km": [], "death": []}
    for day, naive in zip(days, kaplan_meier, strict=True):
        (event, death), (n_events, n_deaths) = found.at(day), found.counts_until(day)
        for name, share, n in (
            ("event", event, n_events),
            ("km", naive, n_events),
            ("death", death, n_deaths),
        ):
            if show.hides(n):
                curves[name].clear()  # the zeros before: a line at 0 would pass for a result
            else:
                curves[name].append((day, share))
    highest = max((share for points in curves.values() for _, share in points), default=0.0)
    ticks = round_ticks(max(highest * 1.15, 0.01))
    chart = Chart(
        "Cumulative incidence",
        x=(0, end),
        y=(0, ticks[-1]),
        x_label="days from the index date",
        y_label="share of patients",
    )
    chart.axes(_year_ticks(0, end), ticks, percent=True)
    chart.steps(curves["death"], QUIET)
    chart.steps(curves["km"], POSITIVE, "3 4")
    chart.steps(curves["event"], POSITIVE)
    entries = [("event (dotted: 1 − KM)", POSITIVE), ("death without event", QUIET)]
    chart.legend(entries, at_left=True)  # curves rise to the right
    return chart.svg()
