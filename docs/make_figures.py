"""Draw docs/filter.png: python docs/make_figures.py (needs the extra `report`).

docs/demo.png, docs/report.png and docs/cohort-report.png are screenshots of the reports of `make
demo`, docs/tutorial.png is one of the first tutorial's run, docs/growth.png comes from
`bench/growth.py --plot`.
"""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from ecgprep.conform import resample

STORE_RATE_HZ = 500
SECONDS = 10
EDGE = 1000
"""Samples cut off each end, where the filter sees the extended edge."""


def gains_db(rate_hz: int, fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the resampler's gain at fractions of the lower rate, measured on sine waves."""
    lower_hz = min(rate_hz, STORE_RATE_HZ)
    time = np.arange(SECONDS * rate_hz) / rate_hz
    phase = 2 * np.pi * lower_hz * fractions[:, None] * time
    sine = resample(np.sin(phase), rate_hz, STORE_RATE_HZ)[:, EDGE:-EDGE]
    cosine = resample(np.cos(phase), rate_hz, STORE_RATE_HZ)[:, EDGE:-EDGE]
    power = np.mean(sine**2 + cosine**2, axis=1)
    return np.asarray(10 * np.log10(power + 1e-14))


def draw_filter() -> None:
    """Write docs/filter.png: the resampler's gain against its specification."""
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for rate_hz in (250, 977, 1000, 2000):
        nyquist = rate_hz / 2 / min(rate_hz, STORE_RATE_HZ)
        fractions = np.arange(0.01, min(1.0, nyquist), 0.01)
        axes.plot(fractions, gains_db(rate_hz, fractions), label=f"{rate_hz} Hz", linewidth=1)
    limit = {"color": "black", "linewidth": 0.7, "linestyle": ":"}
    axes.plot([0, 0.4, 0.4], [-0.05, -0.05, -40], **limit)
    axes.plot([0.6, 0.6, 1.0], [-40, -80, -80], label="specification", **limit)
    axes.set(xlabel="frequency / lower rate", ylabel="gain, dB", ylim=(-140, 5), xlim=(0, 1))
    axes.legend(fontsize=8)
    figure.savefig("docs/filter.png", dpi=80)


if __name__ == "__main__":
    draw_filter()
