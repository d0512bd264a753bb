"""Find the heartbeats of a recording, to average them and not to measure rhythm.

The scheme of Pan & Tompkins 1985 without its derivative and its adaptive thresholds: band-pass,
energy, moving average, and peaks above a share of the usual peak. The energy is the median over
leads, so a few leads of noise or artefact do not make beats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BAND_HZ = (5.0, 20.0)
"""Holds most of a QRS complex and little of T waves, wander and mains hum."""

REFRACTORY_S = 0.25
"""No heart beats twice within this time."""

AVERAGE_S = 0.08
"""Width of the moving average over the energy."""

WINDOW_S = 2.0
"""Windows whose highest energies tell what a usual peak is."""

PEAK_SHARE = 0.3
"""A beat reaches at least this share of the usual peak."""

NEAR_S = 0.06
"""How far the R peak may lie from the peak of the averaged energy."""

Floats = NDArray[np.float64]


def find_beats(
    waveform_uv: NDArray[Any], lead_mask: NDArray[np.bool_], span: tuple[int, int], rate_hz: float
) -> NDArray[np.int64]:
    """Return the samples of the R peaks (n,) of a recording (leads, L) in µV, ascending.

    An R peak is where the QRS is largest over all leads that `lead_mask` (leads,) says are present.
    Only the samples of `span` count. Nothing is found in less than 1 s of signal, nor without a
    lead.
    """
    first, last = span
    if last - first < rate_hz or not lead_mask.any():
        return np.empty(0, np.int64)
    filtered = _filter(waveform_uv[lead_mask, first:last].astype(np.float64), rate_hz)
    energy = np.median(filtered**2, axis=0)
    peaks = _find_energy_peaks(energy, rate_hz)
    amplitude = np.abs(filtered).sum(axis=0)
    return first + _refine(peaks, amplitude, round(NEAR_S * rate_hz))


def _filter(signal_uv: Floats, rate_hz: float) -> Floats:
    """Return each lead (leads, n) band-passed, with a standard deviation of 1."""
    from scipy.signal import butter, sosfiltfilt  # importing it costs a second

    band_pass = butter(2, BAND_HZ, "bandpass", fs=rate_hz, output="sos")
    centred = signal_uv - np.median(signal_uv, axis=1, keepdims=True)
    filtered = sosfiltfilt(band_pass, centred, axis=1)
    deviation = filtered.std(axis=1, keepdims=True)
    return np.asarray(filtered / np.where(deviation > 0, deviation, 1))


def _find_energy_peaks(energy: Floats, rate_hz: float) -> NDArray[np.int64]:
    """Return where the averaged energy (n,) peaks, a refractory period apart."""
    from scipy.signal import find_peaks

    width = max(1, round(AVERAGE_S * rate_hz))
    smooth = np.convolve(energy, np.full(width, 1 / width), mode="same")
    window = round(WINDOW_S * rate_hz)
    starts = range(0, max(1, len(smooth) - window // 2), window)
    highest = [smooth[start : start + window].max() for start in starts]
    # The median: one window of artefact must not raise the bar for all others.
    height = PEAK_SHARE * float(np.median(highest))
    distance = max(1, round(REFRACTORY_S * rate_hz))
    peaks, _ = find_peaks(smooth, height=height, distance=distance)
    return np.asarray(peaks, np.int64)


def _refine(peaks: NDArray[np.int64], amplitude: Floats, near: int) -> NDArray[np.int64]:
    """Move each peak to the greatest amplitude (n,) at most `near` samples away."""
    refined = []
    for peak in peaks.tolist():
        start = max(0, peak - near)
        refined.append(start + int(amplitude[start : peak + near + 1].argmax()))
    return np.unique(np.array(refined, np.int64))


def cut_beats(
    values: NDArray[np.floating],
    peaks: NDArray[np.int64],
    before: int,
    after: int,
    span: tuple[int, int],
) -> NDArray[np.floating]:
    """Return the beats (beats, 8, before + after) of a recording (8, L).

    A beat holds `before` samples ahead of its peak and `after` samples from it on. Only beats that
    lie wholly within `span` are cut.
    """
    whole = peaks[(peaks - before >= span[0]) & (peaks + after <= span[1])]
    samples = whole[:, None] + np.arange(-before, after)
    return np.asarray(values[:, samples].transpose(1, 0, 2))
