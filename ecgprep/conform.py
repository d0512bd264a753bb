"""Turn a recording of any rate, length and set of leads into one row of a store.

In this order: cut a vendor's calibration tail, pick the eight leads, derive a missing I or II from other limb leads, resample to the
store's rate, centre-crop or zero-pad to L samples, round to int16 µV. A lead that is absent, not finite or flat is zeroed and masked.

The resampler is part of store format 1: a linear-phase FIR applied as a polyphase filter, Kaiser window (Kaiser & Schafer 1980),
transition from 0.4 to 0.6 of the lower rate, where it is at least 80 dB down; the edges are extended by the edge value.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from fractions import Fraction

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import InputError, RecordError
from ecgprep.leads import LEADS, LIMB_LEADS, derive_limb_lead
from ecgprep.recording import Recording
from ecgprep.store.format import MAX_ABS_UV

RESAMPLER = "kaiser-polyphase-1"
"""Name of the filter in a store's settings: another filter would be another name."""
_STOPBAND_DB = 86.0
"""Asked of the Kaiser design; the polyphase branches and rounding of the taps keep it beyond the promised 80 dB."""
_MAX_DENOMINATOR = 1000
PULSED_DIALECT, CALIBRATION_AFTER_S, CALIBRATION_UV = "philips", 10, 1000.0


@dataclass(frozen=True)
class Conformity:
    """What a recording is brought to, and what it must have."""

    rate_hz: int = 500
    n_samples: int = 5000
    min_seconds: float = 5.0
    min_leads: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < math.inf:
            raise InputError(
                f"--min-seconds (={self.min_seconds}) must be a number of seconds from 0 up"
            )


@dataclass(frozen=True, eq=False)
class Row:
    """One conformed recording: `waveform` (8, L) int16 µV, `lead_mask` (8,), `valid_span` first and one-past-last signal
    sample, `moments` (8, 2) int64 sums of x and x squared over the span of each present lead."""

    waveform: NDArray[np.int16]
    lead_mask: NDArray[np.bool_]
    valid_span: tuple[int, int]
    moments: NDArray[np.int64]
    rate_hz: float

    def crc32c(self) -> int:
        """Checksum (CRC-32C, RFC 3720) of the waveform's little-endian bytes."""
        return int(google_crc32c.value(self.waveform.astype("<i2", copy=False).tobytes()))


def conform(recording: Recording, target: Conformity) -> Row:
    """Bring one recording to the target.

    Raises RecordError `too_short`, `leads_missing` (fewer than `min_leads` usable leads), `flat` (every lead there is flat) or
    `out_of_range` (beyond ±32.767 mV, which is a unit error).
    """
    recording = without_calibration_pulse(recording)
    if recording.duration_s < target.min_seconds:
        raise RecordError(
            "too_short",
            f"{recording.duration_s:.3f} s of signal; at least {target.min_seconds:g} s is needed",
        )
    usable = {name: samples for name, samples in recording.leads_uv.items() if _alive(samples)}
    present = [lead for lead in LEADS if lead in usable or _add_derived(lead, recording, usable)]
    _require_leads(recording, present, target)
    uv = resample(np.stack([usable[lead] for lead in present]), recording.rate_hz, target.rate_hz)
    np.rint(
        uv, out=uv
    )  # in place, as below: fresh pages for a temporary of 320 kB cost more than the arithmetic
    if (peak := float(max(uv.max(), -uv.min()))) > MAX_ABS_UV:
        raise RecordError(
            "out_of_range",
            f"amplitude reaches {peak / 1000:.3g} mV; ±{MAX_ABS_UV / 1000} mV is the limit: wrong units or gain?",
        )
    return _to_row(uv, present, recording, target)


def without_calibration_pulse(recording: Recording) -> Recording:
    """Cut a Philips recording at 10 s when a 1 mV calibration pulse follows: most such files are 11 s long, the last one artificial.

    The pulse is looked for, not the length: at least 0.15 s (it lasts 0.2 s) after 10 s in which most leads stand at 1 mV together.
    Files of 10 s without it exist, and longer ones that are ECG to the end stay whole.
    """
    n_signal = round(CALIBRATION_AFTER_S * recording.rate_hz)
    if recording.dialect != PULSED_DIALECT or recording.n_samples <= n_signal:
        return recording
    tails = np.stack([samples[n_signal:] for samples in recording.leads_uv.values()])
    on = np.mean(np.abs(tails - CALIBRATION_UV) < 0.02 * CALIBRATION_UV, axis=0) > 0.5
    edges = np.flatnonzero(np.diff(np.r_[False, on, False]))
    longest = max((edges[1::2] - edges[::2]).tolist(), default=0)
    if longest < 0.15 * recording.rate_hz:
        return recording
    return replace(
        recording,
        leads_uv={name: samples[:n_signal] for name, samples in recording.leads_uv.items()},
    )


def _alive(samples: NDArray[np.float64]) -> bool:
    """Say whether a lead holds a finite signal that is not constant (NaN and infinity make the difference not > 0)."""
    low, high = float(samples.min()), float(samples.max())
    return math.isfinite(low) and math.isfinite(high) and high > low


def _add_derived(lead: str, recording: Recording, usable: dict[str, NDArray[np.float64]]) -> bool:
    """Add lead I or II to `usable` when the file lacks it and two other limb leads determine it; say whether it is there now.

    A lead that is stored but flat is not rebuilt: its electrode is off, and the leads that share the electrode are wrong with it.
    """
    if lead not in LIMB_LEADS or lead in recording.leads_uv:
        return False
    derived = derive_limb_lead(lead, {name: usable[name] for name in LIMB_LEADS if name in usable})
    if derived is None or not _alive(derived):
        return False
    usable[lead] = derived
    return True


def _require_leads(recording: Recording, present: list[str], target: Conformity) -> None:
    stored = [lead for lead in LEADS if lead in recording.leads_uv]
    flat = [
        lead
        for lead in stored
        if lead not in present and np.isfinite(recording.leads_uv[lead]).all()
    ]
    if not present and stored and len(flat) == len(stored):
        raise RecordError("flat", f"every lead is constant: {', '.join(flat)}")
    if len(present) < max(1, target.min_leads):
        found = ", ".join(present) or "none"
        raise RecordError(
            "leads_missing",
            f"usable leads of {', '.join(LEADS)}: {found}; at least {max(1, target.min_leads)} needed",
        )


def _to_row(
    uv: NDArray[np.float64], present: list[str], recording: Recording, target: Conformity
) -> Row:
    """Crop or pad symmetrically (an odd sample goes to the end), mask what rounding or cropping left flat, take the sums."""
    n, n_samples = uv.shape[1], target.n_samples
    crop, pad = max(0, n - n_samples) // 2, max(0, n_samples - n) // 2
    kept = uv[:, crop : crop + n_samples]
    span = (pad, pad + kept.shape[1])
    alive = kept.max(axis=1) > kept.min(axis=1)
    if not alive.any():
        raise RecordError(
            "flat",
            f"every lead is constant over the stored window at a resolution of 1 µV: {', '.join(present)}",
        )
    waveform = np.zeros((len(LEADS), n_samples), np.int16)
    mask = np.zeros(len(LEADS), np.bool_)
    moments = np.zeros((len(LEADS), 2), np.int64)
    rows = [LEADS.index(lead) for lead in present]
    mask[rows] = alive
    for row, samples, usable in zip(rows, kept, alive, strict=True):
        if usable:
            waveform[row, span[0] : span[1]] = samples
    # float64 holds these integers exactly: L x 32767^2 stays below 2^53 for any L up to eight million samples.
    moments[rows, 0] = kept.sum(axis=1) * alive
    moments[rows, 1] = np.einsum("ij,ij->i", kept, kept) * alive
    if int(mask.sum()) < target.min_leads:
        raise RecordError(
            "leads_missing",
            f"{int(mask.sum())} leads are not flat over the stored window; at least {target.min_leads} needed",
        )
    return Row(waveform, mask, span, moments, recording.rate_hz)


def resample(signal: NDArray[np.float64], rate_hz: float, to_hz: float) -> NDArray[np.float64]:
    """Resample (leads, n) along time to `round(n * to_hz / rate_hz)` samples; sample 0 keeps its time.

    The ratio is taken as a fraction with denominator up to 1000, so rates such as 976.5625 Hz are exact enough for a year of ECG.
    """
    ratio = Fraction(to_hz / rate_hz).limit_denominator(_MAX_DENOMINATOR)
    if ratio == 1:
        return signal
    from scipy.signal import upfirdn  # 0.2 s, and only needed for recordings at other rates

    up, down = ratio.numerator, ratio.denominator
    taps, delay = _filter(up, down)
    n_out = round(signal.shape[1] * to_hz / rate_hz)
    # Extend the edges far enough that every output sample sees only signal or repeated edge values, a whole number of output steps.
    before = math.ceil(delay / up / down) * down
    after = math.ceil(len(taps) / up) + down
    extended = np.pad(signal, ((0, 0), (before, after)), mode="edge")
    # Output k of upfirdn is centred on input time (k * down - delay) / up - before; `taps` starts with zeros that make it whole.
    first = (before * up + delay) // down
    return np.asarray(upfirdn(taps, extended, up, down, axis=1)[:, first : first + n_out])


@functools.lru_cache(maxsize=32)
def _filter(up: int, down: int) -> tuple[NDArray[np.float64], int]:
    """Design the low-pass at the upsampled rate and return (taps, delay); leading zeros make the delay a multiple of `down`."""
    from scipy.signal import firwin, kaiser_beta, kaiserord

    lower = 1.0 / max(up, down)  # the lower of the two rates, in units of the upsampled rate
    n_taps, _ = kaiserord(
        _STOPBAND_DB, 2 * 0.2 * lower
    )  # transition 0.4..0.6 of the lower rate; scipy counts in half rates
    half = n_taps // 2
    taps = firwin(2 * half + 1, 0.5 * lower, window=("kaiser", kaiser_beta(_STOPBAND_DB)), fs=1.0)
    shift = -half % down
    taps = np.concatenate([np.zeros(shift), taps])
    for phase in range(
        up
    ):  # each polyphase branch must pass a constant unchanged, or a baseline would ripple at the input rate
        taps[phase::up] /= taps[phase::up].sum()
    return taps, half + shift
