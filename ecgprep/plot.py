"""Draw ECGs on ECG paper, 25 mm/s and 10 mm/mV. Needs matplotlib (extra `report`)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.leads import LEADS
from ecgprep.output import write_output

MARK = "ecgprep: one recording"
"""Title inside every picture."""
MM_PER_SECOND, MM_PER_MV = 25, 10
_LINE_MV = 2.5
"""Distance between the lines of leads, in mV."""


def draw_ecg(axes: Any, waveform_uv: NDArray[Any], lead_mask: NDArray[np.bool_], rate_hz: float, title: str, seconds: float = 2.5) -> None:
    """Draw (8, n) µV in two columns of four leads, each `seconds` long; a masked lead is named and left empty."""
    from matplotlib.ticker import MultipleLocator

    n = min(int(seconds * rate_hz), waveform_uv.shape[1] // 2)
    for k, lead in enumerate(LEADS):
        column, line = divmod(k, 4)
        axes.text(column * seconds + 0.05, 1.0 - _LINE_MV * line, lead if lead_mask[k] else f"{lead} (none)", fontsize=8)
        if lead_mask[k]:
            time = np.arange(n) / rate_hz + column * seconds
            axes.plot(time, waveform_uv[k, column * n : (column + 1) * n] / 1000 - _LINE_MV * line, color="black", linewidth=0.7)
    axes.set(xlim=(0, 2 * seconds), ylim=(-3 * _LINE_MV - 1.5, 1.6))
    for axis, minor, major in ((axes.xaxis, 0.04, 0.2), (axes.yaxis, 0.1, 0.5)):
        axis.set_minor_locator(MultipleLocator(minor))
        axis.set_major_locator(MultipleLocator(major))
    axes.grid(which="minor", color="#f6cccc", linewidth=0.3)
    axes.grid(which="major", color="#eb9f9f", linewidth=0.5)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axes.set_aspect(MM_PER_MV / MM_PER_SECOND)
    axes.set_title(title, fontsize=10)


def save_ecg(path: Path, waveform_uv: NDArray[Any], lead_mask: NDArray[np.bool_], rate_hz: float) -> None:
    """Write one recording, 5 s of each column of leads, as a picture whose kind follows from the file's name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    draw_ecg(figure.subplots(), waveform_uv, lead_mask, rate_hz, "25 mm/s, 10 mm/mV", seconds=5.0)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format=path.suffix.removeprefix(".").lower() or "png", metadata={"Title": MARK})
    write_output(path, buffer.getbuffer())
