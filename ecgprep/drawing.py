"""Draw ECGs on ECG paper, 25 mm/s and 10 mm/mV: as SVG for a page, or with matplotlib.

`svg_ecg` needs nothing but NumPy and writes small files; `draw_ecg` and `save_ecg` need matplotlib
(extra `report`). All take arrays, so that they serve stores, recordings and runs alike.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.files.output import write_output
from ecgprep.leads import LEADS

MM_PER_SECOND = 25.0
MM_PER_MV = 10.0
FINE_MM = 1.0
"""Distance of the fine lines of the paper: 0.04 s and 0.1 mV."""
COARSE_MM = 5.0
"""Distance of the coarse lines of the paper: 0.2 s and 0.5 mV."""
FINE_COLOUR = "#f6cccc"
COARSE_COLOUR = "#eb9f9f"

MARK = "ecgprep: one recording"
"""The title inside every picture, by which a file is known to be one."""

PAPER_SVG = (
    f'<pattern id="fine" width="{FINE_MM:g}" height="{FINE_MM:g}" patternUnits="userSpaceOnUse">'
    f'<path d="M{FINE_MM:g} 0H0V{FINE_MM:g}" fill="none" stroke="{FINE_COLOUR}" '
    'stroke-width=".12"/></pattern>\n'
    f'<pattern id="paper" width="{COARSE_MM:g}" height="{COARSE_MM:g}" '
    'patternUnits="userSpaceOnUse">'
    f'<rect width="{COARSE_MM:g}" height="{COARSE_MM:g}" fill="#fffafa"/>'
    f'<rect width="{COARSE_MM:g}" height="{COARSE_MM:g}" fill="url(#fine)"/>'
    f'<path d="M{COARSE_MM:g} 0H0V{COARSE_MM:g}" fill="none" stroke="{COARSE_COLOUR}" '
    'stroke-width=".2"/></pattern>'
)
"""The patterns that `svg_ecg` refers to. A page holds them once, within <defs>."""

_SVG_LINE_MV = 2.0
"""Distance between the lines of leads in SVG: eight lines make 160 mm."""
_AXES_LINE_MV = 2.5
"""Distance between the lines of leads in matplotlib, where there are four."""
_SVG_HZ = 250
"""SVG draws every second sample of 500 Hz: at 25 mm/s these are 0.1 mm apart."""
_SVG_UNITS_PER_MM = 100
"""Coordinates in SVG are whole hundredths of a millimetre, each relative to the one before.
The file is a fifth of the size that plain coordinates make."""


@dataclass(frozen=True)
class _Place:
    """Position of a lead: its baseline in mV above that of the first line, its start in s."""

    lead: int
    name: str
    is_present: bool
    start_s: float
    baseline_mv: float


def _places(
    lead_mask: NDArray[np.bool_], *, n_columns: int, column_s: float, line_mv: float
) -> list[_Place]:
    """Lay out the eight leads, column by column; a lead that was not recorded says so."""
    lines = len(LEADS) // n_columns
    places = []
    for k, lead in enumerate(LEADS):
        column, line = divmod(k, lines)
        is_present = bool(lead_mask[k])
        name = lead if is_present else f"{lead} (none)"
        places.append(_Place(k, name, is_present, column * column_s, -line_mv * line))
    return places


def svg_ecg(
    waveform_uv: NDArray[Any],
    lead_mask: NDArray[np.bool_],
    valid_span: tuple[int, int],
    rate_hz: float,
    marked: Collection[str] = (),
) -> str:
    """Draw (8, n) µV as SVG whose unit is the millimetre, one line per lead over the whole length.

    Only the samples within `valid_span` are drawn. The names of `marked` leads are red. The page
    that shows it must hold `PAPER_SVG`.
    """
    width = waveform_uv.shape[1] / rate_hz * MM_PER_SECOND
    line_mm = _SVG_LINE_MV * MM_PER_MV
    height = line_mm * len(LEADS)
    parts = []
    for place in _places(lead_mask, n_columns=1, column_s=0.0, line_mv=_SVG_LINE_MV):
        baseline_mm = line_mm / 2 - place.baseline_mv * MM_PER_MV
        colour = "#b00020" if LEADS[place.lead] in marked else "#222"
        parts.append(
            f'<text x="1" y="{baseline_mm - 6:g}" font-size="4" fill="{colour}">{place.name}</text>'
        )
        if place.is_present:
            parts.append(_svg_path(waveform_uv[place.lead], valid_span, rate_hz, baseline_mm))
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}mm" height="{height:g}mm" '
        'role="img"><rect width="100%" height="100%" fill="url(#paper)"/>'
        f"{''.join(parts)}</svg>"
    )


def _svg_path(
    lead_uv: NDArray[Any], valid_span: tuple[int, int], rate_hz: float, baseline_mm: float
) -> str:
    """Draw one lead with its median on the baseline."""
    first, last = valid_span
    step = max(1, round(rate_hz / _SVG_HZ))
    samples_uv = lead_uv[first:last:step].astype(np.int64)
    samples_mm = (samples_uv - np.median(samples_uv)) / 1000 * MM_PER_MV
    time_s = (first + step * np.arange(len(samples_uv))) / rate_hz
    x = np.round(_SVG_UNITS_PER_MM * time_s * MM_PER_SECOND).astype(np.int64)
    y = np.round(_SVG_UNITS_PER_MM * (baseline_mm - samples_mm)).astype(np.int64)
    steps = zip(np.diff(x).tolist(), np.diff(y).tolist(), strict=True)
    moves = "".join(f"l{dx} {dy}" for dx, dy in steps)
    return (
        f'<path transform="scale(.01)" d="M{x[0]} {y[0]}{moves}" '
        'fill="none" stroke="#111" stroke-width="22"/>'
    )


def draw_ecg(
    axes: Any,
    waveform_uv: NDArray[Any],
    lead_mask: NDArray[np.bool_],
    rate_hz: float,
    title: str,
    seconds: float = 2.5,
) -> None:
    """Draw (8, n) µV into matplotlib axes, in two columns of four leads, each `seconds` long.

    The second column shows the time after the first, as a printed ECG does. `axes` then measure
    seconds and millivolts. A masked lead is named and left empty.
    """
    n = min(int(seconds * rate_hz), waveform_uv.shape[1] // 2)
    for place in _places(lead_mask, n_columns=2, column_s=seconds, line_mv=_AXES_LINE_MV):
        axes.text(place.start_s + 0.05, 1.0 + place.baseline_mv, place.name, fontsize=8)
        if place.is_present:
            first = n if place.start_s else 0
            time_s = np.arange(n) / rate_hz + place.start_s
            samples_mv = waveform_uv[place.lead, first : first + n] / 1000
            axes.plot(time_s, samples_mv + place.baseline_mv, color="black", linewidth=0.7)
    axes.set(xlim=(0, 2 * seconds), ylim=(-3 * _AXES_LINE_MV - 1.5, 1.6))
    axes.set_title(title, fontsize=10)
    _rule_paper(axes)


def _rule_paper(axes: Any) -> None:
    """Give axes in seconds and millivolts the lines and the proportions of ECG paper."""
    from matplotlib.ticker import MultipleLocator

    for axis, mm_per_unit in ((axes.xaxis, MM_PER_SECOND), (axes.yaxis, MM_PER_MV)):
        axis.set_minor_locator(MultipleLocator(FINE_MM / mm_per_unit))
        axis.set_major_locator(MultipleLocator(COARSE_MM / mm_per_unit))
    axes.grid(which="minor", color=FINE_COLOUR, linewidth=0.3)
    axes.grid(which="major", color=COARSE_COLOUR, linewidth=0.5)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axes.set_aspect(MM_PER_MV / MM_PER_SECOND)


def save_ecg(
    path: Path,
    waveform_uv: NDArray[Any],
    lead_mask: NDArray[np.bool_],
    rate_hz: float,
    title: str = "25 mm/s, 10 mm/mV",
) -> None:
    """Write a picture of one recording, 5 s of each column of leads.

    The suffix of the file chooses the kind of picture: .png, .pdf or .svg. Raises ImportError
    without matplotlib, and NoSpace.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    draw_ecg(figure.subplots(), waveform_uv, lead_mask, rate_hz, title, seconds=5.0)
    kind = path.suffix.removeprefix(".").lower() or "png"
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format=kind, metadata={"Title": MARK})
    write_output(path, buffer.getbuffer())
