"""Where the heartbeats of a recording are: for averaging beats, not for measuring rhythm.

The scheme of Pan & Tompkins 1985 without its derivative: band-pass, energy, moving average, peaks above a share of the usual peak. The
energy is the median over leads, so a few leads of noise or artefact do not make beats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BAND_HZ = (5.0, 20.0)
"""Most of a QRS complex, little of T waves, wander and mains hum."""


REFRACTORY_S = 0.25
"""No heart beats twice within."""


_AVERAGE_S, _WINDOW_S, _SHARE, _NEAR_S = 0.08, 2.0, 0.3, 0.06


def find_beats(
    waveform_uv: NDArray[np.int16],
    lead_mask: NDArray[np.bool_],
    span: tuple[int, int],
    rate_hz: float,
) -> NDArray[np.int64]:
    """Return the samples of the R peaks (n,) of a recording (8, L) in µV, ascending: where the QRS is largest over all present leads.

    Nothing is found in less than 1 s of signal, or without a lead.
    """
    from scipy.signal import butter, find_peaks, sosfiltfilt

    first, last = span
    if last - first < rate_hz or not lead_mask.any():
        return np.empty(0, np.int64)
    x = waveform_uv[lead_mask, first:last].astype(np.float64)
    filtered = sosfiltfilt(
        butter(2, BAND_HZ, "bandpass", fs=rate_hz, output="sos"),
        x - np.median(x, axis=1, keepdims=True),
        axis=1,
    )
    deviation = filtered.std(axis=1, keepdims=True)
    filtered /= np.where(deviation > 0, deviation, 1)
    energy = np.median(filtered**2, axis=0)
    smooth = np.convolve(
        energy, np.full(width := max(1, round(_AVERAGE_S * rate_hz)), 1 / width), mode="same"
    )
    window = round(_WINDOW_S * rate_hz)
    peaks_of_windows = [
        smooth[i : i + window].max() for i in range(0, max(1, len(smooth) - window // 2), window)
    ]
    # The median: one window of artefact must not raise the bar for all others.
    found, _ = find_peaks(
        smooth,
        height=_SHARE * float(np.median(peaks_of_windows)),
        distance=max(1, round(REFRACTORY_S * rate_hz)),
    )
    near, size = round(_NEAR_S * rate_hz), np.abs(filtered).sum(axis=0)
    refined = [
        max(0, at - near) + int(size[max(0, at - near) : at + near + 1].argmax())
        for at in found.tolist()
    ]
    return first + np.unique(np.array(refined, np.int64))


def cut_beats(
    values: NDArray[np.floating],
    at: NDArray[np.int64],
    before: int,
    after: int,
    span: tuple[int, int],
) -> NDArray[np.floating]:
    """Return (beats, 8, before + after) of (8, L): `before` samples ahead of each peak and `after` from it on; whole beats within the span only."""
    whole = at[(at - before >= span[0]) & (at + after <= span[1])]
    return np.asarray(values[:, whole[:, None] + np.arange(-before, after)].transpose(1, 0, 2))
