"""`kept_leads` says what `conform` says, mostly without resampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mutations import FILES, mutated

import ecgprep.conform
from ecgprep.conform import _MAX_OVERSHOOT, Conformity, conform, kept_leads, low_pass
from ecgprep.errors import RecordError
from ecgprep.leads import LEADS
from ecgprep.readers import read_bytes
from ecgprep.recording import Recording
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.store.format import MAX_ABS_UV

RATES = (100, 250, 256, 500, 976.5625, 1000)
TARGETS = (Conformity(), Conformity(100, 200), Conformity(500, 5000, 8.0, 8))


def conformed(recording: Recording, target: Conformity) -> object:
    try:
        with np.errstate(all="ignore"):
            return int(conform(recording, target).lead_mask.sum())
    except RecordError as error:
        return error.reason, error.message


def counted(recording: Recording, target: Conformity) -> object:
    try:
        return kept_leads(recording, target).n
    except RecordError as error:
        return error.reason, error.message


def healthy(rate_hz: float, seconds: float = 10) -> Recording:
    """Return eight leads of slow waves, each with another phase."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    leads = {lead: 800 * np.sin(2 * np.pi * 1.3 * times + i) for i, lead in enumerate(LEADS)}
    return Recording(leads, rate_hz, "muse")


def flat(samples):
    samples[:] = 3.0


def still(samples):
    """Move by less than rounding shows."""
    samples[:] = 7 + 0.3 * np.sin(np.arange(len(samples)))


def still_in_the_middle(samples):
    n = len(samples)
    samples[n // 4 : 3 * n // 4] = 5.0


def moving_only_at_the_ends(samples):
    samples[len(samples) // 50 : -len(samples) // 50] = 5.0


def alternating(samples):
    """Move at half the sampling rate, which the resampler removes."""
    samples[:] = 40.0 * (-1.0) ** np.arange(len(samples))


def not_a_number(samples):
    samples[3] = np.nan


def infinite(samples):
    samples[-3] = -np.inf


def scaled_to(peak_uv):
    def scale(samples):
        samples *= peak_uv / np.abs(samples).max()

    return scale


def spiked(samples):
    """Rise above the limit once: a filter flattens it, or not."""
    samples[len(samples) // 3] = 40_000.0


DEFECTS = {
    "none": lambda samples: None,
    "spiked": spiked,
    **{f"{peak} mV": scaled_to(1000.0 * peak) for peak in (10, 14, 20, 32.7, 32.768, 40, 1e200)},
    **{
        change.__name__: change
        for change in (
            flat,
            still,
            still_in_the_middle,
            moving_only_at_the_ends,
            alternating,
            not_a_number,
            infinite,
        )
    },
}


@pytest.mark.parametrize("target", TARGETS, ids=["default", "2 s at 100 Hz", "strict"])
@pytest.mark.parametrize("rate_hz", RATES)
def test_it_agrees_with_conform_over_all_defects(rate_hz, target):
    for name, change in DEFECTS.items():
        for changed in (["V3"], ["I"], list(LEADS)):
            recording = healthy(rate_hz)
            for lead in changed:
                change(recording.leads_uv[lead])
            assert counted(recording, target) == conformed(recording, target), (name, changed)


@pytest.mark.parametrize("seconds", [0.05, 0.4, 4.9, 5, 11, 30])
@pytest.mark.parametrize("absent", [[], ["I"], ["I", "II"], list(LEADS[1:])], ids=len)
def test_it_agrees_with_conform_over_lengths_and_absent_leads(seconds, absent):
    for rate_hz in RATES:
        recording = healthy(rate_hz, seconds)
        for lead in absent:
            del recording.leads_uv[lead]
        for target in (*TARGETS, Conformity(min_seconds=0)):
            assert counted(recording, target) == conformed(recording, target)


def test_it_looks_at_what_is_left_before_a_calibration_pulse():
    recording = replace(healthy(500, 11), dialect="philips")
    for samples in recording.leads_uv.values():
        samples[:5000] = 4.0
        samples[5000:] = 0.0
        samples[5100:5200] = 1000.0
    assert counted(recording, Conformity()) == conformed(recording, Conformity())
    assert counted(recording, Conformity())[0] == "flat"


@pytest.mark.parametrize("rate_hz", RATES)
def test_a_healthy_recording_is_not_resampled(rate_hz, monkeypatch):
    generator = np.random.default_rng(2)
    uv = simulate(Heart.draw(generator, 0), round(rate_hz), generator)
    names = ("I", "II", "III", "aVR", "aVL", "aVF", *LEADS[2:])
    recording = Recording(dict(zip(names, uv.astype(float), strict=True)), rate_hz, "aecg")
    kept_leads(recording, Conformity())  # the filter and its matrix are made

    def fail(*_):
        raise AssertionError("it was conformed")

    monkeypatch.setattr(ecgprep.conform, "resample", fail)
    assert kept_leads(recording, Conformity()) == (8, ())


@pytest.mark.parametrize("rate_hz", [100, 125, 200, 240, 256, 300, 400, 977, 1000, 1024, 10_000])
def test_the_resampler_multiplies_no_peak_by_more_than_is_assumed(rate_hz):
    """The largest output for an input of at most 1 is the sum of absolute taps of a branch."""
    up, down = ecgprep.conform._up_and_down(rate_hz, 500)
    taps, _ = low_pass(up, down)
    assert max(np.abs(taps[phase::up]).sum() for phase in range(up)) < _MAX_OVERSHOOT
    assert MAX_ABS_UV / _MAX_OVERSHOOT > 10_000, "a healthy peak would be conformed"


def assert_agrees_on(data: bytes) -> None:
    try:
        recording = read_bytes(data)
    except RecordError:
        return
    assert counted(recording, Conformity()) == conformed(recording, Conformity())


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_it_agrees_with_conform_on_changed_files(name, data):
    assert_agrees_on(mutated(FILES[name], data.draw))


@pytest.mark.full
@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=1000, deadline=None)
def test_it_agrees_with_conform_on_files_changed_at_length(name, data):
    assert_agrees_on(mutated(FILES[name], data.draw))
