"""Simulated 12-lead ECGs from a moving cardiac dipole.

They serve demonstrations and tests and are never evidence about patients.

Each wave (P, septal, R, S, T) is a Gaussian in time with a direction in space, as in Sameni et al.
2007 ("Multichannel ECG and noise modeling", EURASIP J. Adv. Signal Process. 43407). The body
surface leads follow from Dower's matrix (Dower et al. 1980), so Einthoven's and Goldberger's
relations hold by construction. The heart rate varies with breathing and with a slower wave.
Baseline wander, mains hum and muscle noise are added per electrode.

Dysfunction (`severity` above 0) shows as a cardiologist would expect of CTRCD: a faster rate, lower
R waves and slower R progression, a wider QRS, a longer QTc and flatter, later lateral T waves.
Healthy people vary in all of these, so the groups overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DURATION_S = 10

_DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
"""Dower et al. 1980: rows I, II, V1..V6; columns X (left), Y (foot), Z (back) of Frank's system."""

_WAVES = {
    "P": (-0.160, 0.020, (0.05, 0.10, -0.01)),
    "Q": (-0.024, 0.008, (-0.12, -0.06, -0.22)),
    "R": (0.000, 0.011, (0.95, 0.75, 0.35)),
    "S": (0.027, 0.010, (-0.15, -0.15, 0.42)),
    "T": (0.260, 0.042, (0.24, 0.17, -0.17)),
}
"""Wave: seconds from the R peak, width (standard deviation, s), dipole in mV (X, Y, Z)."""

Signal = NDArray[np.float64]


@dataclass(frozen=True)
class Heart:
    """The traits that all recordings of one patient share."""

    rate_bpm: float
    qtc_s: float
    qrs_width: float
    r_scale: float
    t_scale: float
    t_turn: float
    axis_turn: float

    @classmethod
    def draw(cls, generator: np.random.Generator, severity: float) -> Heart:
        """Draw a heart. A severity of 0 is healthy, 1 a typical dysfunction."""
        normal = generator.normal
        return cls(
            rate_bpm=float(np.clip(normal(70, 10) + 6 * severity, 42, 135)),
            qtc_s=float(np.clip(normal(0.412, 0.018) + 0.012 * severity, 0.34, 0.56)),
            qrs_width=float(np.exp(normal(0, 0.08) + 0.07 * severity)),
            r_scale=float(np.exp(normal(0, 0.22) - 0.12 * severity)),
            t_scale=float(np.exp(normal(0, 0.28) - 0.26 * severity)),
            t_turn=float(normal(0, 0.25) + 0.22 * severity),
            axis_turn=float(normal(0, 0.28)),
        )


def simulate(heart: Heart, rate_hz: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return one 10 s recording of a heart: (12, n) in whole µV, in the order of TWELVE_LEADS."""
    n = DURATION_S * rate_hz
    time = np.arange(n) / rate_hz
    peaks, intervals = draw_beats(heart, generator)
    dipole = np.zeros((3, n))
    for peak, interval in zip(peaks, intervals, strict=True):
        _add_beat(dipole, time, peak, interval, heart)
    eight = 1000 * _DOWER @ (_turn(heart.axis_turn) @ dipole) + _noise(time, generator)
    return np.rint(_twelve(eight)).astype(np.int64)


def draw_beats(heart: Heart, generator: np.random.Generator) -> tuple[list[float], list[float]]:
    """Draw R peak times and RR intervals in s, from before the recording to after its end.

    Breathing at 0.25 Hz and a slow wave at 0.1 Hz modulate the rate; the rest is chance.
    """
    mean = 60 / (heart.rate_bpm * np.exp(generator.normal(0, 0.06)))
    breath, slow = generator.uniform(0.01, 0.04), generator.uniform(0.005, 0.02)
    phase = generator.uniform(0, 2 * np.pi, 2)
    peaks, intervals = [], []
    at = -generator.uniform(0, mean)
    while at < DURATION_S + 1:
        breathing = breath * np.sin(2 * np.pi * 0.25 * at + phase[0])
        slow_wave = slow * np.sin(2 * np.pi * 0.1 * at + phase[1])
        chance = generator.normal(0, 0.008)
        interval = float(mean * (1 + (breathing + slow_wave) + chance))
        peaks.append(at)
        intervals.append(interval)
        at += interval
    return peaks, intervals


def _add_beat(dipole: Signal, time: Signal, peak: float, interval: float, heart: Heart) -> None:
    """Add the waves of one beat to the dipole, (3, n) in mV."""
    for name, (offset, width, direction) in _WAVES.items():
        vector = np.array(direction)
        if name == "T":
            # Bazett: QT = QTc x sqrt(RR). The T wave ends about two widths after its peak.
            width *= np.sqrt(interval) * heart.qtc_s / 0.41
            offset = heart.qtc_s * np.sqrt(interval) - 0.045 - 2 * width
            vector = heart.t_scale * _turn(heart.t_turn) @ vector
        elif name in "QRS":
            offset, width = offset * heart.qrs_width, width * heart.qrs_width
        if name == "R":
            vector = vector * heart.r_scale
        centre = peak + offset
        first, last = np.searchsorted(time, [centre - 5 * width, centre + 5 * width])
        z = (time[first:last] - peak - offset) / width
        dipole[:, first:last] += vector[:, None] * np.exp(-0.5 * z**2)


def _turn(angle: float) -> Signal:
    """Rotate in the frontal plane (X, Y); positive is towards the foot."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _noise(time: Signal, generator: np.random.Generator) -> Signal:
    """Return (8, n) µV of baseline wander, 50 Hz hum and muscle noise.

    Their strengths differ between recordings.
    """

    def wave(amplitude_uv: float, frequency_hz: float, phase: Signal) -> Signal:
        return np.asarray(amplitude_uv * np.sin(2 * np.pi * frequency_hz * time + phase))

    phases = generator.uniform(0, 2 * np.pi, (3, 8, 1))
    wander = wave(generator.uniform(10, 60), generator.uniform(0.15, 0.35), phases[0])
    drift = wave(generator.uniform(5, 30), 0.07, phases[1])
    hum = wave(generator.uniform(0, 6), 50, phases[2])
    muscle_uv = generator.uniform(4, 18)
    muscle = muscle_uv * generator.standard_normal((8, len(time)))
    return np.asarray(wander + drift + hum + muscle)


def _twelve(eight: Signal) -> Signal:
    """Add III, aVR, aVL and aVF to the eight independent leads."""
    one, two = eight[0], eight[1]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.vstack([*limb, eight[2:]])
