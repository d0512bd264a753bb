"""Quality flags per lead: what a reader of ECGs would object to.

They are computed while a file is read and stored as bits. Nothing acts on them unless asked.

    flag             a lead is flagged when it
    flat             is stored but constant, or is constant for at least 1 s
    clipped          stays at its highest or lowest value for 20 ms, 1 mV or more from its median
    lead_off         had its electrode off according to the cart (MUSE LeadOff)
    baseline_wander  has more than 0.5 mV rms below 0.7 Hz
    mains_hum        has a line at 50 or 60 Hz of more than 15 µV rms, four times what the
                     frequencies beside it have
    noise            has second differences, in its quiet half, as of more than 15 µV rms of
                     white noise
    amplitude        spans less than 0.1 mV or more than 10 mV from lowest to highest value
    einthoven        is I or II, and a stored III, aVR, aVL or aVF is not what these two make it,
                     by more than 50 µV rms and a tenth of its own size
    arm_reversal     is I, runs against V6 (correlation below -0.6, 1 to 40 Hz), and its main
                     deflection points down
    out_of_range     leaves ±32.767 mV, which is an artefact, and is masked for it

The limits are ours, set on 2,000 public recordings so that ordinary ones stay unflagged. The sign
of arm reversal is the usual one (Batchvarov et al., Europace 2007;9:1081). A bit is a position in
QUALITY_FLAGS of the store's format.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecgprep.conform import Row, without_calibration_pulse
from ecgprep.errors import InputError
from ecgprep.leads import LEADS, LIMB_LEADS
from ecgprep.recording import Recording
from ecgprep.store.format import QUALITY_FLAGS

FLAGS = QUALITY_FLAGS
BIT = {name: 1 << position for position, name in enumerate(FLAGS)}
"""Flag -> its bit in the array `quality` of a store."""

Spectrum = NDArray[np.complex64]
PerLead = NDArray[np.bool_]
"""One answer for each of LEADS."""

_ONE, _TWO, _V6 = LEADS.index("I"), LEADS.index("II"), LEADS.index("V6")


def spectrum(
    waveform: NDArray[np.int16],
    valid_span: Sequence[int],
    lead_mask: PerLead,
    rate_hz: float,
) -> Spectrum:
    """Return the Fourier transform of a row of a store, complex64 (8, bins), in µV.

    The samples are averaged to about 250 Hz; `bins_per_hz` gives the width of the bins. Each lead
    is taken less the line through its ends, so that a drift does not spill over all frequencies.
    The signal comes first and the padding, zeros, after it.
    """
    step = _step(rate_hz)
    n_total = waveform.shape[1] // step
    first, last = int(valid_span[0]) // step, int(valid_span[1]) // step
    if last <= first or not lead_mask.any():
        return np.zeros((len(LEADS), n_total // 2 + 1), np.complex64)
    signal = waveform[:, first * step : last * step]
    x = signal[:, ::step].astype(np.float32)
    for offset in range(1, step):
        x += signal[:, offset::step]
    x *= lead_mask[:, None] / np.float32(step)
    n = x.shape[1]
    n_edge = max(1, min(25, n // 4))
    start = x[:, :n_edge].mean(axis=1, keepdims=True)
    end = x[:, -n_edge:].mean(axis=1, keepdims=True)
    x -= start
    x -= (end - start) * np.linspace(0, 1, n, dtype=np.float32)
    return np.asarray(np.fft.rfft(x, n_total, axis=1), np.complex64)


def _step(rate_hz: float) -> int:
    """Return how many samples are averaged into one: no flag needs frequencies above 100 Hz."""
    return max(1, round(rate_hz / 250))


def bins_per_hz(bins: Spectrum, rate_hz: float) -> float:
    """Return how many bins of a spectrum make 1 Hz, which is the length of the row in seconds."""
    n_total = 2 * (bins.shape[1] - 1)
    return float(n_total * _step(rate_hz) / rate_hz)


def quality_flags(
    recording: Recording, row: Row, bins: Spectrum, rate_hz: float
) -> NDArray[np.uint32]:
    """Return the flags of each of the eight leads, uint32 (8,).

    They describe the recording as the file stores it, without a calibration pulse, and its row at
    `rate_hz`, whose spectrum is `bins`.
    """
    recording = without_calibration_pulse(recording)  # no heart made it
    first, last = row.valid_span
    signal = row.waveform[:, first:last]
    band = _Band(bins, rate_hz, n_signal=last - first)
    span_uv = signal.max(axis=1).astype(np.int32) - signal.min(axis=1)
    of_present_leads = {
        "flat": _stands_still(signal, rate_hz),
        "baseline_wander": band.rms_uv(0.05, 0.7) > 500,
        "mains_hum": _has_mains_hum(band, rate_hz),
        "noise": _quiet_noise_uv(signal, rate_hz) > 15,
        "amplitude": (span_uv < 100) | (span_uv > 10_000),
    }
    of_stored_leads = {
        "flat": _is_stored_flat(recording, row),
        "lead_off": _is_off(recording),
        "clipped": _clipped(recording, signal, rate_hz),
        "out_of_range": np.array([lead in row.out_of_range for lead in LEADS], np.bool_),
    }
    flags = np.zeros(len(LEADS), np.uint32)
    for name, where in of_present_leads.items():
        flags[where & row.lead_mask] |= BIT[name]
    for name, where in of_stored_leads.items():
        flags[where] |= BIT[name]
    if _breaks_einthoven(recording, row.out_of_range):
        flags[[_ONE, _TWO]] |= BIT["einthoven"]
    if _arms_look_swapped(row, bins, rate_hz):
        flags[_ONE] |= BIT["arm_reversal"]
    return flags


def flags_of_row(recording: Recording, row: Row, rate_hz: float) -> NDArray[np.uint32]:
    """Return the flags of each of the eight leads, uint32 (8,), where no spectrum is at hand."""
    bins = spectrum(row.waveform, row.valid_span, row.lead_mask, rate_hz)
    return quality_flags(recording, row, bins, rate_hz)


def flags_in_words(flags: NDArray[np.uint32], chosen: Sequence[str] = FLAGS) -> list[str]:
    """Say which of the `chosen` flags a recording has and where: `noise in all leads`.

    `flags` are those of its eight leads (8,). Flags come in the order of `chosen`.
    """
    found = []
    for name in chosen:
        leads = [lead for lead, bits in zip(LEADS, flags.tolist(), strict=True) if bits & BIT[name]]
        if leads:
            where = "all leads" if len(leads) == len(LEADS) else ", ".join(leads)
            found.append(f"{name} in {where}")
    return found


def checked_flags(names: Sequence[str], option: str) -> tuple[str, ...]:
    """Return names of flags. Raises InputError, naming the option, where one is no flag."""
    unknown = sorted(set(names) - set(FLAGS))
    if unknown:
        raise InputError(
            f"{option}: unknown flag {', '.join(unknown)}; there are {', '.join(FLAGS)}"
        )
    return tuple(names)


class _Band:
    """Return the power in a band of frequencies, per lead (Parseval)."""

    def __init__(self, bins: Spectrum, rate_hz: float, n_signal: int) -> None:
        n_total = 2 * (bins.shape[1] - 1)
        self._power = bins.real**2 + bins.imag**2
        self._per_hz = bins_per_hz(bins, rate_hz)
        self._scale = 2 / n_total / max(1, n_signal // _step(rate_hz))

    def rms_uv(self, low_hz: float, high_hz: float) -> NDArray[np.float32]:
        """Return the rms over the signal's samples from `low_hz` up to, but without, `high_hz`.

        The mean is never part of it.
        """
        low = max(1, round(low_hz * self._per_hz))
        high = round(high_hz * self._per_hz)
        return np.asarray(np.sqrt(self._power[:, low:high].sum(axis=1) * self._scale))


def _has_mains_hum(band: _Band, rate_hz: float) -> PerLead:
    """Look for a narrow line at 50 or 60 Hz that stands out from equally wide bands beside it."""
    found = np.zeros(len(LEADS), np.bool_)
    for mains_hz in (50, 60):
        if rate_hz < 2 * mains_hz + 10:
            continue
        line = band.rms_uv(mains_hz - 0.6, mains_hz + 0.6)
        below = band.rms_uv(mains_hz - 3.6, mains_hz - 2.4)
        above = band.rms_uv(mains_hz + 2.4, mains_hz + 3.6)
        found |= (line > 15) & (line > 4 * np.maximum(below, above))
    return found


def _quiet_noise_uv(signal: NDArray[np.int16], rate_hz: float) -> NDArray[np.float32]:
    """Estimate white noise in µV rms from second differences over steps of 4 ms.

    The median block of 0.1 s counts, since QRS complexes fill only a few blocks.
    """
    step = _step(rate_hz)
    size = max(8, round(rate_hz / 10))
    x = signal.astype(np.float32)
    second = x[:, 2 * step :] + x[:, : -2 * step]
    second -= 2 * x[:, step:-step]
    n_whole = second.shape[1] // size * size
    blocks = second[:, :n_whole].reshape(len(x), -1, size)
    if not blocks.shape[1]:
        return np.zeros(len(x), np.float32)
    # The second difference of white noise has 6 times its variance.
    variance = np.einsum("ijk,ijk->ij", blocks, blocks) / size / 6
    return np.asarray(np.sqrt(np.median(variance, axis=1)))


def _stands_still(signal: NDArray[np.int16], rate_hz: float) -> PerLead:
    """Find leads that are constant for 1 s.

    Any constant second holds nine whole blocks of 0.1 s in which no sample differs from the last.
    """
    size = max(2, round(rate_hz / 10))
    moves = signal[:, 1:] != signal[:, :-1]
    n_whole = moves.shape[1] // size * size
    still = ~moves[:, :n_whole].reshape(len(signal), -1, size).any(axis=2)
    if still.shape[1] < 9 or not still.any():
        return np.zeros(len(signal), np.bool_)
    nine_in_a_row = np.lib.stride_tricks.sliding_window_view(still, 9, axis=1)
    for_one_second = np.logical_and.reduce(nine_in_a_row, axis=2)
    return np.asarray(np.logical_or.reduce(for_one_second, axis=1), np.bool_)


def _is_stored_flat(recording: Recording, row: Row) -> PerLead:
    """Find leads that are masked because the file stores a constant."""
    found = np.zeros(len(LEADS), np.bool_)
    for k, lead in enumerate(LEADS):
        samples = recording.leads_uv.get(lead)
        if samples is not None and not row.lead_mask[k]:
            found[k] = samples.max() == samples.min()
    return found


def _is_off(recording: Recording) -> PerLead:
    """Find stored leads whose electrode was off according to the cart."""
    off = [lead in recording.leads_uv and lead in recording.lead_off for lead in LEADS]
    return np.array(off, np.bool_)


def _clipped(recording: Recording, signal: NDArray[np.int16], rate_hz: float) -> PerLead:
    """Find clipped leads in the file's own samples.

    A lead that stands still in a file of the row's rate does so in the row, where looking is cheap.
    """
    suspect = np.ones(len(LEADS), np.bool_)
    if recording.rate_hz == rate_hz:
        suspect = _is_often_extreme(signal, 0.02 * rate_hz)
    found = np.zeros(len(LEADS), np.bool_)
    for k, lead in enumerate(LEADS):
        samples = recording.leads_uv.get(lead)
        if samples is not None and suspect[k]:
            found[k] = _is_clipped(samples, recording.rate_hz)
    return found


def _is_often_extreme(signal: NDArray[np.int16], n_needed: float) -> PerLead:
    """Find leads with at least `n_needed` samples at their highest or at their lowest value."""
    n_highest = (signal == signal.max(axis=1, keepdims=True)).sum(axis=1)
    n_lowest = (signal == signal.min(axis=1, keepdims=True)).sum(axis=1)
    return np.asarray((n_highest >= n_needed) | (n_lowest >= n_needed), np.bool_)


def _is_clipped(samples: NDArray[np.float64], rate_hz: float) -> bool:
    """Say whether a lead stays at an extreme for 20 ms, a millivolt or more from its median."""
    n = max(4, round(0.02 * rate_hz))
    for extreme in (samples.max(), samples.min()):
        places = np.flatnonzero(samples == extreme)
        if len(places) < n:
            continue
        lengths = places[n - 1 :] - places[: len(places) - n + 1]
        is_run = bool((lengths == n - 1).any())  # n places without a gap
        if is_run and abs(extreme - np.median(samples)) >= 1000:
            return True
    return False


def _breaks_einthoven(recording: Recording, out_of_range: frozenset[str]) -> bool:
    """Compare stored III, aVR, aVL and aVF with what stored I and II make them.

    Every fifth sample is enough. A lead that is out of range says nothing about the others.
    """
    stored = [name for name in LIMB_LEADS if name in recording.leads_uv.keys() - out_of_range]
    if "I" not in stored or "II" not in stored:
        return False
    one, two = recording.leads_uv["I"][::5], recording.leads_uv["II"][::5]
    for name in stored:
        if name in ("I", "II"):
            continue
        lead = recording.leads_uv[name][::5]
        a, b = LIMB_LEADS[name]
        error_uv = float(np.std(lead - a * one - b * two))
        if error_uv > 50 and error_uv > 0.1 * float(np.std(lead)):
            return True
    return False


def _arms_look_swapped(row: Row, bins: Spectrum, rate_hz: float) -> bool:
    """Say whether I runs against V6 and its main deflection points down."""
    if not (row.lead_mask[_ONE] and row.lead_mask[_V6]):
        return False
    per_hz = bins_per_hz(bins, rate_hz)
    one, six = bins[[_ONE, _V6], round(per_hz) : round(40 * per_hz)]
    energy = float(np.vdot(one, one).real) * float(np.vdot(six, six).real)
    product = float(np.vdot(one, six).real)
    if energy <= 0 or product > -0.6 * energy**0.5:
        return False
    lead = row.waveform[_ONE, row.valid_span[0] : row.valid_span[1]].astype(np.float32)
    median = float(np.median(lead))
    upwards, downwards = float(lead.max()) - median, median - float(lead.min())
    return upwards < downwards
