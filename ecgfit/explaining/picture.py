"""Draw the mean beat of a group with its attributions. Needs the extra `report`."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.explaining.averages import AFTER_S, BEFORE_S, GroupAverage
from ecgprep.leads import LEADS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SMOOTHED_SAMPLES = 5
"""Networks that decimate spread a sample's part unevenly over its neighbours."""

_COLOUR_QUANTILE = 0.995
"""The colour scale ends here, so that single samples do not make the rest pale."""

Floats = NDArray[np.float64]


def draw_average(average: GroupAverage, title: str) -> bytes:
    """Return a PNG: the mean beat of each lead over its mean attribution in colour.

    All leads share one scale of mV and one of colour.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    beat_mv = average.mean_beat_uv / 1000
    attribution = 1000 * _smooth(average.mean_attribution)
    known = np.abs(attribution[np.isfinite(attribution)])
    colour_limit = max(float(np.quantile(known, _COLOUR_QUANTILE)), 1e-9)
    low, high = float(np.nanmin(beat_mv)) - 0.1, float(np.nanmax(beat_mv)) + 0.15
    extent = (-1000 * BEFORE_S, 1000 * AFTER_S, low, high)
    for k, (axes, lead) in enumerate(zip(panels.flat, LEADS, strict=True)):
        image = _draw_lead(axes, beat_mv[k], attribution[k : k + 1], extent, colour_limit)
        axes.set_title(f"{lead}   {100 * average.lead_share[k]:.0f} %", fontsize=11)
    for axes in panels[-1]:
        axes.set_xlabel("ms from the R peak")
    for axes in panels[:, 0]:
        axes.set_ylabel("mV")
    bar = figure.colorbar(image, ax=panels, shrink=0.9, aspect=40)
    bar.set_label("1000 × attribution per sample; red speaks for label 1, blue against")
    figure.suptitle(
        f"{title}\nmean beat, integrated gradients of the difference of logits; "
        "% = share of all absolute attribution",
        fontsize=11,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_lead(
    axes: Axes,
    beat_mv: Floats,
    attribution: Floats,
    extent: tuple[float, float, float, float],
    colour_limit: float,
) -> Any:
    """Draw one lead, beat (T,) over attribution (1, T); return the coloured image."""
    left, right, low, high = extent
    image = axes.imshow(
        attribution,
        aspect="auto",
        extent=extent,
        cmap="RdBu_r",
        vmin=-colour_limit,
        vmax=colour_limit,
        interpolation="nearest",
    )
    time_ms = np.linspace(left, right, len(beat_mv), endpoint=False)
    axes.plot(time_ms, beat_mv, color="black", linewidth=1.3)
    axes.axvline(0, color="0.5", linewidth=0.6, linestyle=":")
    axes.set(xlim=(left, right), ylim=(low, high))
    return image


def _smooth(attribution: Floats) -> Floats:
    """Average each lead (8, T) over a few samples, for the eye."""
    width = _SMOOTHED_SAMPLES
    kernel = np.full(width, 1 / width)
    padded = np.pad(attribution, ((0, 0), (width // 2, width // 2)), mode="edge")
    return np.stack([np.convolve(lead, kernel, mode="valid") for lead in padded])
