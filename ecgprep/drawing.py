"""Draw ECGs on ECG paper, 25 mm/s and 10 mm/mV. Needs matplotlib (extra `report`)."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.files.output import write_output
from ecgprep.leads import LEADS

_MM_PER_SECOND, _MM_PER_MV, _ROW_MM = 25.0, 10.0, 20.0


_DRAWN_HZ = 250


def draw_svg(
    waveform_uv: NDArray[Any],
    lead_mask: NDArray[np.bool_],
    valid_span: tuple[int, int],
    rate_hz: float,
    marked: Iterable[str] = (),
) -> str:
    """Draw (8, n) µV on ECG paper as SVG in millimetres: 25 mm/s, 10 mm/mV, one line per lead.

    Only the samples within `valid_span` are drawn; `marked` leads are named in red.
    """
    first, last = valid_span
    step = max(1, round(rate_hz / _DRAWN_HZ))
    width, height = waveform_uv.shape[1] / rate_hz * _MM_PER_SECOND, _ROW_MM * len(LEADS)
    parts = []
    for k, lead in enumerate(LEADS):
        middle = (k + 0.5) * _ROW_MM
        colour = "#b00020" if lead in set(marked) else "#222"
        name = lead if lead_mask[k] else f"{lead} (none)"
        parts.append(f'<text x="1" y="{middle - 6:g}" font-size="4" fill="{colour}">{name}</text>')
        if lead_mask[k]:
            x = waveform_uv[k, first:last:step].astype(np.int64)
            # Hundredths of a millimetre as whole numbers, each relative to the one before: a fifth of the size of plain coordinates.
            y = np.round(100 * (middle - (x - np.median(x)) / 1000 * _MM_PER_MV)).astype(np.int64)
            across = np.round(
                100 * (first + step * np.arange(len(x))) / rate_hz * _MM_PER_SECOND
            ).astype(np.int64)
            moves = "".join(
                f"l{dx} {dy}"
                for dx, dy in zip(np.diff(across).tolist(), np.diff(y).tolist(), strict=True)
            )
            parts.append(
                f'<path transform="scale(.01)" d="M{across[0]} {y[0]}{moves}" fill="none" stroke="#111" stroke-width="22"/>'
            )
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}mm" height="{height:g}mm" role="img">'
        f'<rect width="100%" height="100%" fill="url(#paper)"/>{"".join(parts)}</svg>'
    )


MARK = "ecgprep: one recording"
"""Title inside every picture."""


MM_PER_SECOND, MM_PER_MV = 25, 10


_LINE_MV = 2.5
"""Distance between the lines of leads, in mV."""


def draw_ecg(
    axes: Any,
    waveform_uv: NDArray[Any],
    lead_mask: NDArray[np.bool_],
    rate_hz: float,
    title: str,
    seconds: float = 2.5,
) -> None:
    """Draw (8, n) µV in two columns of four leads, each `seconds` long; a masked lead is named and left empty."""
    from matplotlib.ticker import MultipleLocator

    n = min(int(seconds * rate_hz), waveform_uv.shape[1] // 2)
    for k, lead in enumerate(LEADS):
        column, line = divmod(k, 4)
        axes.text(
            column * seconds + 0.05,
            1.0 - _LINE_MV * line,
            lead if lead_mask[k] else f"{lead} (none)",
            fontsize=8,
        )
        if lead_mask[k]:
            time = np.arange(n) / rate_hz + column * seconds
            axes.plot(
                time,
                waveform_uv[k, column * n : (column + 1) * n] / 1000 - _LINE_MV * line,
                color="black",
                linewidth=0.7,
            )
    axes.set(xlim=(0, 2 * seconds), ylim=(-3 * _LINE_MV - 1.5, 1.6))
    for axis, minor, major in ((axes.xaxis, 0.04, 0.2), (axes.yaxis, 0.1, 0.5)):
        axis.set_minor_locator(MultipleLocator(minor))
        axis.set_major_locator(MultipleLocator(major))
    axes.grid(which="minor", color="#f6cccc", linewidth=0.3)
    axes.grid(which="major", color="#eb9f9f", linewidth=0.5)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axes.set_aspect(MM_PER_MV / MM_PER_SECOND)
    axes.set_title(title, fontsize=10)


def save_ecg(
    path: Path, waveform_uv: NDArray[Any], lead_mask: NDArray[np.bool_], rate_hz: float
) -> None:
    """Write one recording, 5 s of each column of leads, as a picture whose kind follows from the file's name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    draw_ecg(figure.subplots(), waveform_uv, lead_mask, rate_hz, "25 mm/s, 10 mm/mV", seconds=5.0)
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        dpi=110,
        format=path.suffix.removeprefix(".").lower() or "png",
        metadata={"Title": MARK},
    )
    write_output(path, buffer.getbuffer())
