"""The figures of a run's report, as SVG to stand inside a page: no script, font, link or date in them. Needs matplotlib (extra `report`)."""

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

P = ParamSpec("P")


POSITIVE, NEGATIVE, MODEL, QUIET, THRESHOLD = "#c2502e", "#7a94ad", "#1f4e79", "#8a94a0", "#111111"
"""Colours that also differ in brightness: the page may be printed in grey."""


_STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#5a6675",
    "axes.grid": True,
    "axes.labelcolor": "#1d2530",
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
    "text.color": "#1d2530",
    "text.parse_math": False,  # a covariate may be named $x$
    "xtick.color": "#5a6675",
    "xtick.labelcolor": "#1d2530",
    "ytick.color": "#5a6675",
    "ytick.labelcolor": "#1d2530",
}


_ROW_INCH = 0.27


@dataclass(frozen=True)
class ForestRow:
    """One line of a forest plot: a heading where `value` and `note` are empty, a note where nothing may be drawn."""

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
            warnings.filterwarnings(
                "ignore", message=".*Glyph.*missing"
            )  # the browser has the font, matplotlib only measures with its own
            buffer = io.StringIO()
            draw(*args, **kwargs).savefig(buffer, format="svg")
        return inline(buffer.getvalue())

    return svg


def inline(svg: str) -> str:
    """Take from matplotlib's SVG what a page does not need: prolog, metadata, names of groups, digits; make its ids its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<style .*?</style>", "", svg, flags=re.DOTALL
    )
    svg = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", svg)
    svg = (
        re.sub(r'^<svg width="[^"]*" height="[^"]*"', "<svg", svg)
        if svg.startswith("<svg width")
        else _without_size(svg)
    )
    svg = re.sub(r'<g id="[^"]*_[^"]*"', "<g", svg).replace("xlink:href", "href")
    svg = re.sub(r' d="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)
    key = hashlib.sha256(svg.encode()).hexdigest()[:8]
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1f{key}", re.sub(r"\n\s*", "\n", svg)).strip()


def _without_size(svg: str) -> str:
    head, rest = svg.split(">", 1)
    return re.sub(r' (?:width|height)="[^"]*"', "", head) + ">" + rest


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
    _point(axes, None if specificity is None else 1 - specificity, sensitivity)
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
    """Observed share over predicted probability: smooth curve, bins with intervals, and how the predictions lie."""
    figure = _figure(4.4, 5.1)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], "--", color=QUIET, linewidth=1, label="ideal")
    axes.plot(
        curve["smooth"]["predicted"], curve["smooth"]["observed"], color=MODEL, label="smooth curve"
    )
    for k, found in enumerate(curve["bins"]):
        low, high = found["ci95"]
        at = found["mean_predicted"]
        axes.plot([at, at], [low, high], color=POSITIVE, linewidth=1, clip_on=False)
        axes.plot(
            at,
            found["observed"],
            "o",
            color=POSITIVE,
            markersize=4,
            clip_on=False,
            label="tenths, 95 % interval" if k == 0 else None,
        )
    _unit_square(axes, "", "observed share of positives")
    axes.legend(loc="upper left")
    _bars(below, histogram)
    below.set(xlabel="predicted probability", ylabel="share")
    below.yaxis.set_label_position("left")
    return figure


def _bars(axes: Any, histogram: dict[str, list[Any]]) -> None:
    """Draw both classes, each as shares of itself: the rarer one would vanish beside the other's counts."""
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
    axes.axhline(0, color="#5a6675", linewidth=0.8)
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
    axes.axhline(0, color="#5a6675", linewidth=1.2, linestyle=":", label="treat none")
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
    """Probabilities of each class, positives above and negatives below the line, and the threshold."""
    figure = _figure(4.4, 4.2)
    axes = figure.subplots()
    _bars(axes, histogram)
    _in_use(axes, threshold)
    axes.set(xlabel="predicted probability", ylabel="share of each class")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1.2)
    return figure


@drawn
def training(rows: Sequence[dict[str, float]], chosen: int) -> Any:
    """Losses, and AUROC and AUPRC on validation, over epochs; the epoch that was kept is marked."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9.2, 2.9)
    epoch = [row["epoch"] for row in rows]
    marker = {"marker": "o", "markersize": 3} if len(rows) < 30 else {}
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
    """Values with intervals, a line each, beside their names and numbers; what may not be shown is said in grey."""
    height = 0.75 + _ROW_INCH * (len(rows) + 1)
    left, width = (0.37, 0.38) if counts else (0.14, 0.6)
    figure = _figure(9.2, height, None)
    axes = figure.add_axes((left, 0.6 / height, width, 1 - 0.65 / height))
    axes.set(
        xlabel=label,
        ylim=(len(rows) - 0.4, -1.2),
        yticks=[],
        **({} if limits is None else {"xlim": limits}),
    )
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    if reference is not None:
        axes.axvline(reference, color=QUIET, linewidth=1, linestyle="--")
    for y, row in enumerate(rows):
        _forest_row(axes, y, row, -left / width)
    heading = {"transform": axes.get_yaxis_transform(), "va": "center", "color": "#5a6675"}
    axes.text(1.03, -0.85, "value (95 % interval)", ha="left", **heading)
    if counts:
        axes.text(-0.03, -0.85, "patients (positive)", ha="right", **heading)
    return figure


def _forest_row(axes: Any, y: int, row: ForestRow, x: float) -> None:
    """Draw one line; its name begins at `x`, in widths of the axes."""
    beside = {"transform": axes.get_yaxis_transform(), "va": "center"}
    axes.text(
        x + (0 if row.heading else 0.03),
        y,
        _short(row.label),
        fontweight="bold" if row.heading else "normal",
        ha="left",
        **beside,
    )
    if row.counts:
        axes.text(-0.03, y, row.counts, ha="right", **beside)
    if row.value is None:
        if row.note:
            axes.text(1.03, y, row.note, color="#5a6675", style="italic", ha="left", **beside)
        return
    low, high = row.ci95 or (0, 0)
    interval = f" ({low:.3f} to {high:.3f})".replace("-", "−") if low < high else ""
    axes.text(1.03, y, f"{row.value:.3f}".replace("-", "−") + interval, ha="left", **beside)
    if row.ci95 is not None:
        axes.plot(row.ci95, [y, y], color=MODEL, linewidth=1.4, solid_capstyle="butt")
    axes.plot(row.value, y, "s", color=MODEL, markersize=5)


def _short(text: str, most: int = 34) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


@drawn
def ecg(waveform_uv: NDArray[Any], lead_mask: NDArray[np.bool_], rate_hz: float) -> Any:
    """One recording on ECG paper, the first half beside leads I to V2 and the second beside V3 to V6."""
    from ecgprep.drawing import draw_ecg

    figure = _figure(9.84, 4.3)  # 250 mm wide where printed without scaling: 10 s
    axes = figure.subplots()
    for spine in axes.spines.values():
        spine.set_visible(False)
    draw_ecg(
        axes,
        waveform_uv,
        lead_mask,
        rate_hz,
        "",
        seconds=min(5.0, waveform_uv.shape[1] / rate_hz / 2),
    )
    lowest = min((float(np.min(line.get_ydata())) for line in axes.lines), default=0.0)
    axes.set_ylim(
        bottom=max(min(axes.get_ylim()[0], lowest - 0.1), -13.0)
    )  # deep S waves of the lowest line stay on the paper
    return figure
