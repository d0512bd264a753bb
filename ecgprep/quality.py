"""Quality flags per lead: what a reader of ECGs would frown at, computed while a file is read and stored as bits, never acted on unasked.

    flag             meaning                                                                                  set on
    flat             stored but constant, or constant for at least 1 s                                        the lead
    clipped          stands at its highest or lowest value for 20 ms, 1 mV or more from its median            the lead
    lead_off         the cart itself says that the electrode was off (MUSE LeadOff)                           the lead
    baseline_wander  more than 0.5 mV rms below 0.7 Hz                                                        the lead
    mains_hum        a line at 50 or 60 Hz of more than 15 µV rms, four times what its neighbourhood has      the lead
    noise            in the quiet half of the recording, second differences as of 15 µV rms of white noise    the lead
    amplitude        less than 0.1 mV or more than 10 mV from lowest to highest value                         the lead
    einthoven        a stored III, aVR, aVL or aVF is not what I and II make it, by 50 µV rms and a tenth     I and II
    arm_reversal     I runs against V6 (correlation below -0.6, 1 to 40 Hz) and its main deflection is down   I

The limits are ours, set on 2,000 public recordings so that ordinary ones stay unflagged; the sign of arm reversal is the usual one
(Batchvarov et al., Europace 2007;9:1081). Bits are positions in QUALITY_FLAGS (store.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecgprep.conform import Row
from ecgprep.leads import LEADS, LIMB_LEADS
from ecgprep.recording import Recording
from ecgprep.store.format import QUALITY_FLAGS

FLAGS = QUALITY_FLAGS
BIT = {name: 1 << i for i, name in enumerate(FLAGS)}
Spectrum = NDArray[np.complex64]


def spectrum(
    waveform: NDArray[np.int16],
    valid_span: Sequence[int],
    lead_mask: NDArray[np.bool_],
    rate_hz: float,
) -> Spectrum:
    """Return the Fourier transform of a row of a store, complex64 (8, bins), in µV of samples at about 250 Hz; see `bins_per_hz`.

    Each lead is taken less the line through its ends, so that a drift does not spill over all frequencies; the
    signal comes first and the padding, 0, after it.
    """
    step = _step(rate_hz)
    first, last = int(valid_span[0]) // step, int(valid_span[1]) // step
    if last <= first or not lead_mask.any():
        return np.zeros((len(LEADS), waveform.shape[1] // step // 2 + 1), np.complex64)
    signal = waveform[:, first * step : last * step]
    x = signal[:, ::step].astype(np.float32)
    for k in range(1, step):
        x += signal[:, k::step]
    x *= lead_mask[:, None] / np.float32(step)
    edge = max(1, min(25, x.shape[1] // 4))
    start, end = x[:, :edge].mean(axis=1, keepdims=True), x[:, -edge:].mean(axis=1, keepdims=True)
    x -= start
    x -= (end - start) * np.linspace(0, 1, x.shape[1], dtype=np.float32)
    return np.asarray(np.fft.rfft(x, waveform.shape[1] // step, axis=1), np.complex64)


def _step(rate_hz: float) -> int:
    """Samples averaged into one before the transform: frequencies above 100 Hz say nothing that is asked here."""
    return max(1, round(rate_hz / 250))


def bins_per_hz(bins: Spectrum, rate_hz: float) -> float:
    """Width of a spectrum's bins, inverted: the length of the row in seconds."""
    return float(2 * (bins.shape[1] - 1) * _step(rate_hz) / rate_hz)


def quality_flags(
    recording: Recording, row: Row, bins: Spectrum, rate_hz: float
) -> NDArray[np.uint32]:
    """Return the flags of each of the eight leads, uint32 (8,): of the recording as stored in the file and of its row at `rate_hz`."""
    flags = np.zeros(len(LEADS), np.uint32)
    signal = row.waveform[:, row.valid_span[0] : row.valid_span[1]]
    top, bottom = signal.max(axis=1).astype(np.int32), signal.min(axis=1).astype(np.int32)
    rms = _BandRms(bins, rate_hz, signal.shape[1])
    found = {
        "flat": _stands_still(signal, rate_hz),
        "baseline_wander": rms(0.05, 0.7) > 500,
        "mains_hum": _has_mains_hum(rms, rate_hz),
        "noise": _quiet_noise(signal, rate_hz) > 15,
        "amplitude": (top - bottom < 100) | (top - bottom > 10_000),
    }
    for name, where in found.items():
        flags[where & row.lead_mask] |= BIT[name]
    same_rate = (
        recording.rate_hz == rate_hz
    )  # then a lead that stands still in the file does so in the row, where looking is cheap
    may_be_clipped = ((signal == top[:, None]).sum(axis=1) >= 0.02 * rate_hz) | (
        (signal == bottom[:, None]).sum(axis=1) >= 0.02 * rate_hz
    )
    for k, lead in enumerate(LEADS):
        samples = recording.leads_uv.get(lead)
        if samples is None:
            continue
        flags[k] |= BIT["lead_off"] * (lead in recording.lead_off)
        flags[k] |= BIT["flat"] * bool(not row.lead_mask[k] and samples.max() == samples.min())
        flags[k] |= BIT["clipped"] * (
            (may_be_clipped[k] or not same_rate) and _is_clipped(samples, recording.rate_hz)
        )
    flags[:2] |= BIT["einthoven"] * _breaks_einthoven(recording)
    flags[0] |= BIT["arm_reversal"] * _arms_look_swapped(row, bins, rate_hz)
    return flags


class _BandRms:
    """Root mean square over the signal's samples of what lies in a band, per lead, in µV (Parseval)."""

    def __init__(self, bins: Spectrum, rate_hz: float, n_signal: int) -> None:
        self.power = bins.real**2 + bins.imag**2
        self.per_hz = bins_per_hz(bins, rate_hz)
        self.scale = 2 / (2 * (bins.shape[1] - 1)) / max(1, n_signal // _step(rate_hz))

    def __call__(self, low_hz: float, high_hz: float) -> NDArray[np.float32]:
        """From `low_hz` up to but without `high_hz`; never the mean."""
        low, high = max(1, round(low_hz * self.per_hz)), round(high_hz * self.per_hz)
        return np.asarray(np.sqrt(self.power[:, low:high].sum(axis=1) * self.scale))


def _has_mains_hum(rms: _BandRms, rate_hz: float) -> NDArray[np.bool_]:
    """Look for a narrow line at 50 or 60 Hz: its rms against that of equally wide bands on both sides."""
    found = np.zeros(len(LEADS), np.bool_)
    for mains_hz in (50, 60):
        if rate_hz >= 2 * mains_hz + 10:
            line, below, above = (
                rms(f - 0.6, f + 0.6) for f in (mains_hz, mains_hz - 3, mains_hz + 3)
            )
            found |= (line > 15) & (line > 4 * np.maximum(below, above))
    return found


def _quiet_noise(signal: NDArray[np.int16], rate_hz: float) -> NDArray[np.float32]:
    """Estimate white noise in µV rms from second differences over 4 ms steps, in the median 0.1 s block: QRS complexes are few blocks."""
    step, size = _step(rate_hz), max(8, round(rate_hz / 10))
    x = signal.astype(np.float32)
    second = x[:, 2 * step :] + x[:, : -2 * step]
    second -= 2 * x[:, step:-step]
    blocks = second[:, : second.shape[1] // size * size].reshape(len(x), -1, size)
    if not blocks.shape[1]:
        return np.zeros(len(x), np.float32)
    variance = (
        np.einsum("ijk,ijk->ij", blocks, blocks) / size / 6
    )  # the second difference of white noise has 6 times its variance
    return np.asarray(np.sqrt(np.median(variance, axis=1)))


def _stands_still(signal: NDArray[np.int16], rate_hz: float) -> NDArray[np.bool_]:
    """Find leads that are constant for 1 s: nine whole blocks of 0.1 s in a row in which no sample differs from the one before."""
    size = max(2, round(rate_hz / 10))
    moves = signal[:, 1:] != signal[:, :-1]
    still = ~moves[:, : moves.shape[1] // size * size].reshape(len(signal), -1, size).any(axis=2)
    if still.shape[1] < 9 or not still.any():
        return np.zeros(len(signal), np.bool_)
    nine = np.lib.stride_tricks.sliding_window_view(still, 9, axis=1)
    return np.asarray(np.logical_and.reduce(nine, axis=2).max(axis=1), np.bool_)


def _is_clipped(samples: NDArray[np.float64], rate_hz: float) -> bool:
    """Say whether a lead stands at an extreme value for 20 ms on end, a millivolt or more from its median."""
    n = max(4, round(0.02 * rate_hz))
    for extreme in (samples.max(), samples.min()):
        at = np.flatnonzero(samples == extreme)
        if (
            len(at) >= n
            and (at[n - 1 :] - at[: len(at) - n + 1] == n - 1).any()
            and abs(extreme - np.median(samples)) >= 1000
        ):
            return True
    return False


def _breaks_einthoven(recording: Recording) -> bool:
    """Compare every fifth sample of stored III, aVR, aVL and aVF with what stored I and II make them."""
    leads = {
        name: samples[::5] for name, samples in recording.leads_uv.items() if name in LIMB_LEADS
    }
    if "I" not in leads or "II" not in leads:
        return False
    for name in leads.keys() - {"I", "II"}:
        a, b = LIMB_LEADS[name]
        error = float(np.std(leads[name] - a * leads["I"] - b * leads["II"]))
        if error > 50 and error > 0.1 * float(np.std(leads[name])):
            return True
    return False


def _arms_look_swapped(row: Row, bins: Spectrum, rate_hz: float) -> bool:
    if not row.lead_mask[[0, 7]].all():
        return False
    per_hz = bins_per_hz(bins, rate_hz)
    one, six = bins[[0, 7], round(per_hz) : round(40 * per_hz)]
    energy = float(np.vdot(one, one).real) * float(np.vdot(six, six).real)
    if energy <= 0 or float(np.vdot(one, six).real) > -0.6 * energy**0.5:
        return False
    lead = row.waveform[0, row.valid_span[0] : row.valid_span[1]].astype(np.float32)
    middle = float(np.median(lead))
    return float(lead.max()) - middle < middle - float(lead.min())
