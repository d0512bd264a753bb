"""Turn a recording of any rate, length and set of leads into one row of a store.

In this order: cut a vendor's calibration tail, pick the eight leads, derive a missing I or II from
other limb leads, resample to the store's rate, centre-crop or zero-pad to L samples, round to int16
µV. A lead that is absent, not finite, flat or out of range is zeroed and masked.

The resampler is part of store format 1: a linear-phase FIR applied as a polyphase filter, with a
Kaiser window (Kaiser & Schafer 1980) and a transition from 0.4 to 0.6 of the lower rate, where it
is at least 80 dB down. The edges are extended by the edge value.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import InputError, RecordError
from ecgprep.leads import LEADS, derive_limb_lead, unknown_leads_note
from ecgprep.recording import Recording
from ecgprep.store.format import MAX_ABS_UV

RESAMPLER = "kaiser-polyphase-1"
"""Name of the filter in a store's settings. Another filter needs another name."""

PULSED_DIALECT = "philips"
"""The vendor whose files carry a calibration pulse after the ECG."""
CALIBRATION_AFTER_S = 10
CALIBRATION_UV = 1000.0
_PULSE_S = (0.15, 0.25)
"""The pulse lasts 0.2 s."""
_PULSE_TOLERANCE_UV = 20.0
_MAX_TAIL_S = 1.5
"""Files of 11 s carry the pulse. In another dialect, longer ones are not looked at."""
_QUIET_S = 0.05
"""The least time at 0 µV that is asked for on each side of the pulse; carts leave 0.1 s."""

_MAX_OVERSHOOT = 2.5
"""The resampler multiplies a peak by less: the taps of one branch add up to 2.3 at most."""
_MIDDLE_S = 0.2
"""Length of the middle piece in which a lead that is not flat is seen to change."""

_EVERY = 5
"""Every so many samples of that piece are looked at."""

_STOPBAND_DB = 86.0
"""Attenuation of the Kaiser design; at least 80 dB remain after rounding, in every branch."""
_MAX_DENOMINATOR = 1000


@dataclass(frozen=True)
class Conformity:
    """The rate and length to bring recordings to, and what they must have. Raises InputError."""

    rate_hz: int = 500
    n_samples: int = 5000
    min_seconds: float = 5.0
    min_leads: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < math.inf:
            raise InputError(
                f"--min-seconds (={self.min_seconds}) must be a finite number of at least 0"
            )


@dataclass(frozen=True, eq=False)
class Row:
    """One conformed recording.

    `waveform` is (8, L) int16 µV and `lead_mask` (8,) bool. `valid_span` holds the first and the
    one-past-last sample that is signal. `moments`, (8, 2) int64, holds the sums of x and of x
    squared over that span, 0 for masked leads. `rate_hz` is the recording's own rate.
    `out_of_range` names the leads, also such as are not stored, that leave ±32.767 mV.
    """

    waveform: NDArray[np.int16]
    lead_mask: NDArray[np.bool_]
    valid_span: tuple[int, int]
    moments: NDArray[np.int64]
    rate_hz: float
    out_of_range: frozenset[str] = frozenset()

    def crc32c(self) -> int:
        """Compute the checksum (CRC-32C, RFC 3720) of the waveform's little-endian bytes."""
        return int(google_crc32c.value(self.waveform.astype("<i2", copy=False).tobytes()))


def conform(recording: Recording, target: Conformity) -> Row:
    """Bring one recording to the target.

    Raises RecordError: `too_short`; `leads_missing` for fewer than `min_leads` usable leads; `flat`
    when every lead is flat; `out_of_range` when half of the leads or more leave ±32.767 mV, which
    is a unit error. Fewer are an artefact, and masked.
    """
    recording = without_calibration_pulse(recording)
    if recording.duration_s < target.min_seconds:
        raise RecordError(
            "too_short",
            f"{recording.duration_s:.3f} s of signal; at least {target.min_seconds:g} s is needed",
        )
    usable, beyond = _usable_leads(recording)
    _require_leads(recording, usable, beyond, target)
    stacked = np.stack(list(usable.values()))
    uv = resample(stacked, recording.rate_hz, target.rate_hz)
    # In place: fresh pages for a temporary of 320 kB cost more than the arithmetic.
    np.rint(uv, out=uv)
    if max(uv.max(), -uv.min()) > MAX_ABS_UV:  # the filter overshoots at a step
        in_range = np.abs(uv).max(axis=1) <= MAX_ABS_UV
        uv = uv[in_range]
        for lead, is_in in zip(list(usable), in_range.tolist(), strict=True):
            if not is_in:
                beyond[lead] = usable.pop(lead)
        _require_leads(recording, usable, beyond, target)
    return _to_row(uv, list(usable), frozenset(beyond), recording, target)


class KeptLeads(NamedTuple):
    """How many leads a row keeps, and which of the eight are masked as they leave ±32.767 mV."""

    n: int
    out_of_range: tuple[str, ...] = ()


def kept_leads(recording: Recording, target: Conformity) -> KeptLeads:
    """Return which leads `conform` would keep; raise RecordError where it would.

    A recording that plainly loses nothing, as most do, need not be resampled for that. Whatever is
    less clear is conformed.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # an absurd gain is found, not computed with
        if _is_plainly_whole(without_calibration_pulse(recording), target):
            return KeptLeads(len(LEADS))
        row = conform(recording, target)
    out_of_range = tuple(lead for lead in LEADS if lead in row.out_of_range)
    return KeptLeads(int(row.lead_mask.sum()), out_of_range)


def _is_plainly_whole(recording: Recording, target: Conformity) -> bool:
    """Say whether all eight leads are stored, far inside the limit and not flat."""
    if recording.duration_s < target.min_seconds or not recording.leads_uv.keys() >= set(LEADS):
        return False
    leads = [recording.leads_uv[lead] for lead in LEADS]
    is_resampled = recording.rate_hz != target.rate_hz
    limit_uv = MAX_ABS_UV / _MAX_OVERSHOOT if is_resampled else MAX_ABS_UV
    if not all(_stays_below(limit_uv, samples) for samples in leads):
        return False
    return _all_move_in_the_middle(leads, recording, target)


def _stays_below(limit_uv: float, samples: NDArray[np.float64]) -> bool:
    """Say whether a lead is finite and its peak is below a limit.

    No sample is larger than the root of the sum of squares, which is found in a third of the time.
    """
    if samples @ samples < limit_uv**2:
        return True
    low, high = float(samples.min()), float(samples.max())
    return -limit_uv < low and high < limit_uv  # never true of NaN


def _all_move_in_the_middle(
    leads: list[NDArray[np.float64]], recording: Recording, target: Conformity
) -> bool:
    """Say whether every lead changes by 1 µV in the middle of what a row keeps."""
    middle = _middle_sampler(recording.rate_hz, target.rate_hz)
    n_needed, n_seen = middle.shape
    first = (recording.n_samples - n_needed) // 2
    first -= first % _up_and_down(recording.rate_hz, target.rate_hz)[1]  # a sample of both rates
    if first < 0 or n_seen * _EVERY > target.n_samples:
        return False
    pieces = np.array([samples[first : first + n_needed] for samples in leads])
    whole_uv = np.rint(pieces @ middle)
    return bool((np.maximum.reduce(whole_uv, 1) > np.minimum.reduce(whole_uv, 1)).all())


@functools.lru_cache(maxsize=32)
def _middle_sampler(rate_hz: float, to_hz: float) -> NDArray[np.float64]:
    """Return the matrix that turns samples of the middle into samples at another rate.

    Resampling is linear, so that of unit pulses says all. The outer columns, where the filter would
    reach beyond the piece, are left out, and of the rest most are: a few show a change.
    """
    up, down = _up_and_down(rate_hz, to_hz)
    margin_s = 0.0 if up == down else low_pass(up, down)[1] / (up * rate_hz)
    pulses = np.eye(math.ceil((_MIDDLE_S + 2 * margin_s) * rate_hz))
    margin = math.ceil(margin_s * to_hz)
    sampler = resample(pulses, rate_hz, to_hz)
    return np.ascontiguousarray(sampler[:, margin : sampler.shape[1] - margin : _EVERY])


def without_calibration_pulse(recording: Recording) -> Recording:
    """Cut a recording at 10 s when a 1 mV calibration pulse follows.

    Philips carts write 11 s of which the last is artificial, and export it to other formats, too.
    The pulse decides, not the length: for 0.2 s after 10 s, most leads stand at 1 mV together,
    which no heart does. There are files of 10 s without a pulse, and longer ones that are ECG to
    the end; they stay whole. In another dialect than Philips' own, the recording must be of about
    11 s, and the leads must rise from 0 µV and fall back to it.
    """
    n_signal = round(CALIBRATION_AFTER_S * recording.rate_hz)
    n_tail = recording.n_samples - n_signal
    is_vendors_own = recording.dialect == PULSED_DIALECT
    if n_tail <= 0 or (not is_vendors_own and n_tail > _MAX_TAIL_S * recording.rate_hz):
        return recording
    tails = np.stack([samples[n_signal:] for samples in recording.leads_uv.values()])
    if not _has_pulse(tails, recording.rate_hz, from_zero=not is_vendors_own):
        return recording
    kept = {name: samples[:n_signal] for name, samples in recording.leads_uv.items()}
    return replace(recording, leads_uv=kept)


def _has_pulse(tails: NDArray[np.float64], rate_hz: float, from_zero: bool) -> bool:
    """Look for the pulse in the leads after 10 s, (leads, samples) in µV.

    With `from_zero`, it must have its length, and stand between stretches at 0 µV.
    """
    at_pulse = np.abs(tails - CALIBRATION_UV) < _PULSE_TOLERANCE_UV
    most_at_pulse = np.mean(at_pulse, axis=0) > 0.5
    edges = np.flatnonzero(np.diff(np.r_[False, most_at_pulse, False]))
    if not len(edges):
        return False
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    start, end = int(starts[longest]), int(ends[longest])
    shortest_s, longest_s = _PULSE_S
    if end - start < shortest_s * rate_hz:
        return False
    if not from_zero:
        return True
    n_quiet = math.ceil(_QUIET_S * rate_hz)
    before, after = start - 1 - n_quiet, end + 1  # a sample on each side is for the edge
    if before < 0 or after + n_quiet > tails.shape[1] or end - start > longest_s * rate_hz:
        return False
    around = np.r_[before : before + n_quiet, after : after + n_quiet]
    is_square = at_pulse[:, start:end].all(axis=1)
    is_square &= (np.abs(tails[:, around]) < _PULSE_TOLERANCE_UV).all(axis=1)
    return bool(np.mean(is_square) > 0.5)


_Signals = dict[str, NDArray[np.float64]]
"""Lead -> samples in µV."""


def _usable_leads(recording: Recording) -> tuple[_Signals, _Signals]:
    """Return the usable leads of LEADS, in their order, and all leads that leave the range.

    Lead I or II is derived when the file lacks it and two other limb leads determine it. A lead
    that is stored but flat or out of range is not rebuilt: its electrode is off, and the leads that
    share the electrode are wrong with it.
    """
    alive: _Signals = {}
    beyond: _Signals = {}
    for name, samples in recording.leads_uv.items():
        _sort_lead(name, samples, alive, beyond)
    for lead in ("I", "II"):  # a derived I is the first choice as a source of II
        if lead not in recording.leads_uv:
            derived = derive_limb_lead(lead, alive)
            if derived is not None:
                _sort_lead(lead, derived, alive, beyond)
    return {lead: alive[lead] for lead in LEADS if lead in alive}, beyond


def _sort_lead(name: str, samples: NDArray[np.float64], alive: _Signals, beyond: _Signals) -> None:
    """Put a lead that is finite and not constant where it belongs."""
    low, high = float(samples.min()), float(samples.max())  # NaN and infinity show up in these
    if math.isfinite(low) and math.isfinite(high) and high > low:
        peak_uv = max(high, -low)
        (alive if peak_uv < MAX_ABS_UV + 0.5 else beyond)[name] = samples


def _require_leads(
    recording: Recording, usable: _Signals, beyond: _Signals, target: Conformity
) -> None:
    """Raise RecordError `out_of_range`, `flat` or `leads_missing` when too few leads are usable."""
    stored_beyond = [lead for lead in LEADS if lead in beyond]
    if stored_beyond and len(stored_beyond) >= len(usable):
        values = np.stack([beyond[lead] for lead in stored_beyond])
        percent = 100 * float(np.mean(np.abs(values) > MAX_ABS_UV))
        share = f"{percent:.1f} %" if percent >= 0.1 else "less than 0.1 %"
        raise RecordError(
            "out_of_range",
            f"{', '.join(stored_beyond)}: {share} of the samples are beyond "
            f"±{MAX_ABS_UV / 1000} mV: wrong units or gain?",
        )
    if not usable:
        _refuse_if_flat(recording)
    n_needed = max(1, target.min_leads)
    if len(usable) < n_needed:
        found = ", ".join(usable) or "none"
        parts = [f"usable leads of {', '.join(LEADS)}: {found}; at least {n_needed} needed"]
        if stored_beyond:
            parts.append(f"beyond ±{MAX_ABS_UV / 1000} mV: {', '.join(stored_beyond)}")
        if recording.unknown_leads:
            parts.append(unknown_leads_note(recording.unknown_leads))
        raise RecordError("leads_missing", "; ".join(parts))


def _refuse_if_flat(recording: Recording) -> None:
    """Raise RecordError `flat` when all stored leads are finite: then they are all constant."""
    stored = [lead for lead in LEADS if lead in recording.leads_uv]
    if stored and all(np.isfinite(recording.leads_uv[lead]).all() for lead in stored):
        raise RecordError("flat", f"every lead is constant: {', '.join(stored)}")


def _to_row(
    uv: NDArray[np.float64],
    present: list[str],
    beyond: frozenset[str],
    recording: Recording,
    target: Conformity,
) -> Row:
    """Crop or pad, mask the leads that rounding or cropping left flat, and take the sums.

    `uv` holds the leads `present`, in whole µV. Cropping and padding are symmetric; an odd sample
    goes to the end.
    """
    kept, span = _centred(uv, target.n_samples)
    alive = kept.max(axis=1) > kept.min(axis=1)
    n_alive = int(alive.sum())
    if not n_alive:
        raise RecordError(
            "flat",
            "every lead is constant over the stored window at a resolution of 1 µV: "
            f"{', '.join(present)}",
        )
    if n_alive < target.min_leads:
        raise RecordError(
            "leads_missing",
            f"{n_alive} leads are not flat over the stored window; "
            f"at least {target.min_leads} needed",
        )
    waveform = np.zeros((len(LEADS), target.n_samples), np.int16)
    mask = np.zeros(len(LEADS), np.bool_)
    moments = np.zeros((len(LEADS), 2), np.int64)
    rows = [LEADS.index(lead) for lead in present]
    for row, samples, is_alive in zip(rows, kept, alive, strict=True):
        if is_alive:
            waveform[row, span[0] : span[1]] = samples
    mask[rows] = alive
    # float64 holds the sums exactly: L x 32767^2 stays below 2^53 up to eight million samples.
    moments[rows, 0] = kept.sum(axis=1) * alive
    moments[rows, 1] = np.einsum("ij,ij->i", kept, kept) * alive
    return Row(waveform, mask, span, moments, recording.rate_hz, beyond)


def _centred(
    uv: NDArray[np.float64], n_samples: int
) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Return the samples that are stored, and the span of a row that they fill."""
    n = uv.shape[1]
    crop = max(0, n - n_samples) // 2
    pad = max(0, n_samples - n) // 2
    kept = uv[:, crop : crop + n_samples]
    return kept, (pad, pad + kept.shape[1])


def resample(signal: NDArray[np.float64], rate_hz: float, to_hz: float) -> NDArray[np.float64]:
    """Resample (leads, n) along time to `round(n * to_hz / rate_hz)` samples.

    Sample 0 keeps its time. The ratio is taken as a fraction with a denominator of up to 1000,
    which is exact enough for rates such as 976.5625 Hz.

    `upfirdn` takes the taps as they are. `resample_poly(window=taps, padtype="edge")` rests on it
    but scales them, so its last bits differ, by up to 1e-12 µV. A resolution of 2.5 µV puts
    samples exactly between two whole µV, where those bits decide the rounding: 81 of 1,800,000
    samples at 100 -> 500 Hz.
    """
    up, down = _up_and_down(rate_hz, to_hz)
    if up == down:
        return signal
    from scipy.signal import upfirdn  # 0.2 s, and only needed for recordings at other rates

    taps, delay = low_pass(up, down)
    filtered = upfirdn(taps, signal, up, down, axis=1, mode="edge")
    first = delay // down
    n_out = round(signal.shape[1] * to_hz / rate_hz)
    return np.asarray(filtered[:, first : first + n_out])


@functools.lru_cache(maxsize=256)
def _up_and_down(rate_hz: float, to_hz: float) -> tuple[int, int]:
    ratio = Fraction(to_hz / rate_hz).limit_denominator(_MAX_DENOMINATOR)
    return ratio.numerator, ratio.denominator


@functools.lru_cache(maxsize=32)
def low_pass(up: int, down: int) -> tuple[NDArray[np.float64], int]:
    """Design the filter at the upsampled rate and return (taps, delay in its samples).

    Leading zeros make the delay a multiple of `down`, so the output starts at sample 0.
    """
    from scipy.signal import firwin, kaiser_beta, kaiserord

    lower_rate = 1.0 / max(up, down)  # in units of the upsampled rate
    transition = 0.2 * lower_rate  # from 0.4 to 0.6 of it
    n_taps, _ = kaiserord(_STOPBAND_DB, 2 * transition)  # scipy counts in half rates
    half = n_taps // 2
    window = ("kaiser", kaiser_beta(_STOPBAND_DB))
    symmetric = firwin(2 * half + 1, 0.5 * lower_rate, window=window, fs=1.0)
    n_zeros = -half % down
    taps = np.concatenate([np.zeros(n_zeros), symmetric])
    # Each polyphase branch must pass a constant unchanged, or a baseline would ripple at the
    # input's rate.
    for phase in range(up):
        taps[phase::up] /= taps[phase::up].sum()
    return taps, half + n_zeros
