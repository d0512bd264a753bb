"""The figures of a run's report, as SVG inside a page. Needs matplotlib (extra `report`).

The SVG holds no script, font, link or date, and the same data give the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec

import numpy as np
from numpy.typing import NDArray

from ecgfit.reports.wording import with_interval
from ecgprep.drawing import draw_ecg

P = ParamSpec("P")

# These differ in brightness as well, since the page may be printed in grey.
POSITIVE, NEGATIVE, MODEL = "#c2502e", "#7a94ad", "#1f4e79"
QUIET, THRESHOLD = "#8a94a0", "#111111"
_INK, _FAINT_INK = "#1d2530", "#5a6675"

_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _FAINT_INK,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.labelsize": 9.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.color": "#e6eaef",
    "grid.linewidth": 0.8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "ecgfit",
    "text.color": _INK,
    "text.parse_math": False,  # a covariate may be named $x$
    "xtick.color": _FAINT_INK,
    "xtick.labelcolor": _INK,
    "ytick.color": _FAINT_INK,
    "ytick.labelcolor": _INK,
}


_ROW_INCH = 0.27
"""Height of a line of a forest plot."""

_MOST_CHARACTERS = 34
"""Longer names of groups are cut off, so that they do not run into the plot."""

_LOWEST_MV = -13.0
"""Deep S waves may enlarge the paper of an ECG down to this."""


@dataclass(frozen=True)
class ForestRow:
    """One line of a forest plot: a heading, a value with its interval, or a note in its place."""

    label: str
    counts: str = ""
    value: float | None = None
    ci95: tuple[float, float] | None = None
    note: str = ""
    heading: bool = False


def drawn(draw: Callable[P, Any]) -> Callable[P, str]:
    """Turn a function that returns a matplotlib figure into one that returns SVG for a page."""

    @functools.wraps(draw)
    def svg(*args: P.args, **kwargs: P.kwargs) -> str:
        import matplotlib

        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            # The browser has the font; matplotlib only measures with its own.
            warnings.filterwarnings("ignore", message=".*Glyph.*missing")
            buffer = io.StringIO()
            draw(*args, **kwargs).savefig(buffer, format="svg")
        return inline(buffer.getvalue())

    return svg


def inline(svg: str) -> str:
    """Remove from matplotlib's SVG what a page does not need, and make its ids its own.

    Prolog, metadata, size, names of groups and further digits go: a page holds many figures.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<style .*?</style>", "", svg, flags=re.DOTALL
    )
    svg = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", svg)
    svg = _without_size(svg)
    svg = re.sub(r'<g id="[^"]*_[^"]*"', "<g", svg).replace("xlink:href", "href")
    svg = re.sub(r' d="[^"]*"', _with_two_decimals, svg)
    key = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r"\n\s*", "\n", svg)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1f{key}", svg).strip()


def _without_size(svg: str) -> str:
    """Remove width and height from the opening tag: the page gives the size."""
    head, rest = svg.split(">", 1)
    return re.sub(r' (?:width|height)="[^"]*"', "", head) + ">" + rest


def _with_two_decimals(path: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0])


def _figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Any:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasSVG(figure)
    return figure


def _unit_square(axes: Any, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)


def _point(axes: Any, x: float | None, y: float | None) -> None:
    if x is not None and y is not None:
        axes.plot(
            x,
            y,
            "o",
            color=THRESHOLD,
            markersize=6,
            label="at the threshold",
            clip_on=False,
            zorder=5,
        )


def _in_use(axes: Any, threshold: float | None) -> None:
    if threshold is not None:
        axes.axvline(
            threshold, color=THRESHOLD, linewidth=1, linestyle="--", label="threshold in use"
        )


@drawn
def roc(curve: dict[str, list[Any]], sensitivity: float | None, specificity: float | None) -> Any:
    """Sensitivity over the false positive rate."""
    figure = _figure(4.4, 4.2)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color=QUIET, linewidth=1, label="chance")
    axes.plot(curve["false_positive_rate"], curve["sensitivity"], color=MODEL, label="model")
    false_positive_rate = None if specificity is None else 1 - specificity
    _point(axes, false_positive_rate, sensitivity)
    _unit_square(axes, "1 − specificity", "sensitivity")
    axes.legend(loc="lower right")
    return figure


@drawn
def precision_recall(
    curve: dict[str, list[Any]], prevalence: float, sensitivity: float | None, ppv: float | None
) -> Any:
    """Precision over recall as steps, since AUPRC does not interpolate."""
    figure = _figure(4.4, 4.2)
    axes = figure.subplots()
    axes.axhline(prevalence, linestyle="--", color=QUIET, linewidth=1, label="prevalence (chance)")
    if curve["recall"]:  # there is none without positives
        axes.step(
            [0, *curve["recall"]],
            [*curve["precision"][:1], *curve["precision"]],
            where="pre",
            color=MODEL,
            label="model",
        )
    _point(axes, sensitivity, ppv)
    _unit_square(axes, "sensitivity (recall)", "precision (PPV)")
    axes.legend(loc="lower left")
    return figure


@drawn
def calibration(curve: dict[str, Any], histogram: dict[str, list[Any]]) -> Any:
    """Observed share over predicted probability: smooth curve, bins with intervals, histogram."""
    figure = _figure(4.4, 5.1)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], "--", color=QUIET, linewidth=1, label="ideal")
    axes.plot(
        curve["smooth"]["predicted"], curve["smooth"]["observed"], color=MODEL, label="smooth curve"
    )
    for entry in curve["bins"]:
        at, (low, high) = entry["mean_predicted"], entry["ci95"]
        axes.plot([at, at], [low, high], color=POSITIVE, linewidth=1, clip_on=False)
        axes.plot(at, entry["observed"], "o", color=POSITIVE, markersize=4, clip_on=False)
    if curve["bins"]:
        axes.lines[-1].set_label("tenths, 95 % interval")
    _unit_square(axes, "", "observed share of positives")
    axes.legend(loc="upper left")
    _bars(below, histogram)
    below.set(xlabel="predicted probability", ylabel="share")
    below.yaxis.set_label_position("left")
    return figure


def _bars(axes: Any, histogram: dict[str, list[Any]]) -> None:
    """Draw both classes as shares of themselves: beside counts the rarer one would vanish."""
    edges = np.array(histogram["edges"])
    for name, colour, sign in (("positive", POSITIVE, 1), ("negative", NEGATIVE, -1)):
        counts = np.array(histogram[name], float)
        axes.bar(
            edges[:-1],
            sign * counts / max(counts.sum(), 1),
            np.diff(edges),
            align="edge",
            color=colour,
            label=name,
            edgecolor="white",
            linewidth=0.4,
        )
    axes.axhline(0, color=_FAINT_INK, linewidth=0.8)
    axes.set(xlim=(-0.01, 1.01))
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")


@drawn
def decision(curve: dict[str, list[float]], threshold: float | None) -> Any:
    """Net benefit over risk thresholds, against treating all and none (Vickers & Elkin 2006)."""
    figure = _figure(4.4, 4.2)
    axes = figure.subplots()
    axes.plot(
        curve["threshold"],
        curve["treat_all"],
        color=QUIET,
        linewidth=1.2,
        linestyle="-.",
        label="treat all",
    )
    axes.axhline(0, color=_FAINT_INK, linewidth=1.2, linestyle=":", label="treat none")
    axes.plot(curve["threshold"], curve["model"], color=MODEL, label="model")
    _in_use(axes, threshold)
    top = max(*curve["model"], *curve["treat_all"], 0.01)
    axes.set(
        xlim=(0, 1),
        ylim=(-0.15 * top, 1.1 * top),
        xlabel="risk at which one would act",
        ylabel="net benefit per patient",
    )
    axes.legend(loc="upper right")
    return figure


@drawn
def histograms(histogram: dict[str, list[Any]], threshold: float | None) -> Any:
    """Probabilities of positives (above the line) and negatives (below), and the threshold."""
    figure = _figure(4.4, 4.2)
    axes = figure.subplots()
    _bars(axes, histogram)
    _in_use(axes, threshold)
    axes.set(xlabel="predicted probability", ylabel="share of each class")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1.2)
    return figure


@drawn
def training(rows: Sequence[dict[str, float]], chosen: int) -> Any:
    """Losses, and AUROC and AUPRC on validation, by epoch; the epoch that was kept is marked."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9.2, 2.9)
    epoch = [row["epoch"] for row in rows]
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(rows) < 30 else {}
    panels = (
        (("train_loss", "train", NEGATIVE), ("val_loss", "validation", MODEL)),
        (("val_auroc", "AUROC", MODEL), ("val_auprc", "AUPRC", POSITIVE)),
    )
    for axes, lines, name in zip(
        figure.subplots(1, 2), panels, ("loss", "on validation"), strict=True
    ):
        for key, label, colour in lines:
            axes.plot(epoch, [row[key] for row in rows], color=colour, label=label, **marker)
        axes.axvline(
            chosen, color=THRESHOLD, linewidth=1, linestyle="--", label=f"kept: epoch {chosen}"
        )
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="best")
    return figure


@drawn
def forest(
    rows: Sequence[ForestRow],
    reference: float | None,
    label: str,
    limits: tuple[float, float] | None = None,
    *,
    counts: bool = True,
) -> Any:
    """Values with intervals, one a line, beside names and counts; notes are in grey."""
    height = 0.75 + _ROW_INCH * (len(rows) + 1)
    left, width = (0.37, 0.38) if counts else (0.14, 0.6)
    figure = _figure(9.2, height, None)
    axes = figure.add_axes((left, 0.6 / height, width, 1 - 0.65 / height))
    axes.set(xlabel=label, ylim=(len(rows) - 0.4, -1.2), yticks=[])
    if limits is not None:
        axes.set_xlim(limits)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    if reference is not None:
        axes.axvline(reference, color=QUIET, linewidth=1, linestyle="--")
    for y, row in enumerate(rows):
        _forest_row(axes, y, row, -left / width)
    heading = {"transform": axes.get_yaxis_transform(), "va": "center", "color": _FAINT_INK}
    axes.text(1.03, -0.85, "value (95 % interval)", ha="left", **heading)
    if counts:
        axes.text(-0.03, -0.85, "patients (positive)", ha="right", **heading)
    return figure


def _forest_row(axes: Any, y: int, row: ForestRow, x: float) -> None:
    """Draw one line; its name begins at `x`, in widths of the axes."""
    beside = {"transform": axes.get_yaxis_transform(), "va": "center"}
    indent = 0.0 if row.heading else 0.03
    weight = "bold" if row.heading else "normal"
    axes.text(x + indent, y, _short(row.label), fontweight=weight, ha="left", **beside)
    if row.counts:
        axes.text(-0.03, y, row.counts, ha="right", **beside)
    if row.value is None:
        if row.note:
            axes.text(1.03, y, row.note, color=_FAINT_INK, style="italic", ha="left", **beside)
        return
    entry = {"value": row.value, "ci95": row.ci95}
    axes.text(1.03, y, with_interval(entry), ha="left", **beside)
    if row.ci95 is not None:
        axes.plot(row.ci95, [y, y], color=MODEL, linewidth=1.4, solid_capstyle="butt")
    axes.plot(row.value, y, "s", color=MODEL, markersize=5)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


@drawn
def ecg(waveform_uv: NDArray[Any], lead_mask: NDArray[np.bool_], rate_hz: float) -> Any:
    """One recording on ECG paper: leads I to V2 show its first half, V3 to V6 its second."""
    figure = _figure(9.84, 4.3)  # 250 mm wide where printed without scaling: 10 s
    axes = figure.subplots()
    for spine in axes.spines.values():
        spine.set_visible(False)
    seconds = min(5.0, waveform_uv.shape[1] / rate_hz / 2)
    draw_ecg(axes, waveform_uv, lead_mask, rate_hz, "", seconds)
    bottom = axes.get_ylim()[0]
    for line in axes.lines:
        bottom = min(bottom, float(np.min(line.get_ydata())) - 0.1)
    axes.set_ylim(bottom=max(bottom, _LOWEST_MV))
    return figure
