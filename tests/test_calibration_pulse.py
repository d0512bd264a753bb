"""The 1 mV pulse that Philips carts write after 10 s is cut; nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from ecgprep.conform import without_calibration_pulse
from ecgprep.leads import LEADS, LIMB_LEADS, TWELVE_LEADS
from ecgprep.recording import Recording


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 300, n)


def twelve_leads(seed: int = 0, n: int = 5000) -> dict[str, np.ndarray]:
    """Noise in the eight leads, and the limb leads that I and II make."""
    leads = {lead: noise(n, seed + k) for k, lead in enumerate(LEADS)}
    one, two = leads["I"], leads["II"]
    return leads | {name: a * one + b * two for name, (a, b) in LIMB_LEADS.items()}


def with_tail(leads: dict[str, np.ndarray], rate_hz: int, pulse_uv: float) -> dict[str, np.ndarray]:
    """Append a second as Philips carts write it: 0.7 s of zeros, 0.2 s of pulse, zeros."""
    tail = np.zeros(rate_hz)
    tail[7 * rate_hz // 10 : 9 * rate_hz // 10] = pulse_uv
    return {name: np.append(samples, tail) for name, samples in leads.items()}


@pytest.mark.parametrize("dialect", ["aecg", "muse", "philips"])
@pytest.mark.parametrize("rate_hz", [100, 250, 500, 1000])
def test_calibration_pulse_is_cut_in_any_dialect(dialect, rate_hz):
    leads = with_tail(twelve_leads(n=10 * rate_hz), rate_hz, 1000)
    leads["V1"] = np.zeros(11 * rate_hz)  # an electrode that is off has no pulse, perhaps
    recording = Recording(leads, rate_hz, dialect)
    assert without_calibration_pulse(recording).n_samples == 10 * rate_hz


def square(start: int, stop: int, n: int = 500) -> np.ndarray:
    tail = np.zeros(n)
    tail[start:stop] = 1000
    return tail


NO_PULSE = {
    "other amplitude": square(350, 450) * 0.9,
    "too short": square(350, 400),
    "too long": square(150, 450),
    "never falls": square(350, 500),
    "always there": square(0, 500),
    "no baseline": square(350, 450) + 100 * (np.arange(500) < 350),
    "two seconds": np.append(square(350, 450), np.zeros(500)),
    "zeros": np.zeros(500),
}


@pytest.mark.parametrize("name", NO_PULSE)
def test_what_is_no_calibration_pulse_stays(name):
    leads = {lead: np.append(x, NO_PULSE[name]) for lead, x in twelve_leads().items()}
    recording = Recording(leads, 500, "aecg")
    assert without_calibration_pulse(recording) is recording


def test_pulse_in_half_of_the_leads_or_fewer_stays():
    leads = with_tail(twelve_leads(), 500, 1000)
    for lead in LEADS[:6]:
        leads[lead][5000:] = noise(500)
    recording = Recording(leads, 500, "aecg")
    assert without_calibration_pulse(recording) is recording


@pytest.mark.full
def test_no_real_recording_of_eleven_seconds_has_a_pulse(samples):
    """At any offset of its leads: here each in turn is shifted to stand at 1 mV."""
    with np.load(samples / "data" / "ptbxl" / "waveforms_500hz_uv.npz") as file:
        uv = file["uv"].astype(float)
    for recording_uv in uv:
        long = np.hstack([recording_uv, recording_uv[:, :500]])
        offset = 1000 - np.median(long[:, 5000:], axis=1, keepdims=True)
        for shift in (0, offset):
            recording = Recording(dict(zip(TWELVE_LEADS, long + shift, strict=True)), 500, "aecg")
            assert without_calibration_pulse(recording) is recording
