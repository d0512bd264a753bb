"""Conform: the resampler against scipy's Fourier method and against its own specification; crop, pad, masks and moments."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import chirp
from scipy.signal import resample as fourier_resample

from ecgprep.conform import Conformity, conform, resample
from ecgprep.errors import RecordError
from ecgprep.leads import LEADS, LIMB_LEADS
from ecgprep.recording import Recording

TARGET = Conformity()
RATES_HZ = (100, 250, 300, 500, 977, 1000, 2000)


def recording(leads: dict[str, np.ndarray], rate_hz: float = 500) -> Recording:
    return Recording(
        {name: np.asarray(samples, float) for name, samples in leads.items()}, rate_hz, "test"
    )


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 300, n)


def eight(n: int) -> dict[str, np.ndarray]:
    return {lead: noise(n, seed) for seed, lead in enumerate(LEADS)}


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_number_of_samples(rate_hz):
    for n in (10 * rate_hz, 10 * rate_hz - 1, 7 * rate_hz + 3):
        assert resample(np.zeros((2, n)), rate_hz, 500).shape == (2, round(n * 500 / rate_hz))


def gain_db(rate_hz: float, frequency_hz: float) -> float:
    """Amplitude of a sine after resampling, in dB, by least squares on the middle of the record."""
    t_in, t_out = np.arange(10 * rate_hz) / rate_hz, np.arange(5000) / 500
    out = resample(np.sin(2 * np.pi * frequency_hz * t_in)[None], rate_hz, 500)[0]
    middle = slice(1000, 4000)
    if frequency_hz < 250:
        basis = np.stack(
            [np.sin(2 * np.pi * frequency_hz * t_out), np.cos(2 * np.pi * frequency_hz * t_out)],
            axis=1,
        )[middle]
        coefficients = np.linalg.lstsq(basis, out[middle], rcond=None)[0]
        assert (
            np.abs(basis @ coefficients - out[middle]).max() < 2e-3
        )  # nothing but the sine: images are down too
        assert abs(np.arctan2(coefficients[1], coefficients[0])) < 1e-3  # linear phase, no delay
        return 20 * np.log10(np.hypot(*coefficients))
    return 20 * np.log10(np.abs(out[middle]).max() + 1e-12)


@pytest.mark.parametrize("rate_hz", [rate for rate in RATES_HZ if rate != 500])
def test_pass_band_is_flat_to_0_4_of_the_lower_rate(rate_hz):
    lower = min(rate_hz, 500)
    for fraction in (0.01, 0.1, 0.2, 0.3, 0.35, 0.4):
        assert abs(gain_db(rate_hz, fraction * lower)) < 0.05


@pytest.mark.parametrize("rate_hz", [977, 1000, 2000])
def test_stop_band_is_80_db_down_from_0_6_of_the_lower_rate(rate_hz):
    for frequency_hz in np.linspace(0.6 * 500, 0.499 * rate_hz, 12):
        assert gain_db(rate_hz, frequency_hz) < -80


@pytest.mark.parametrize("rate_hz", [100, 250, 300])
def test_images_are_80_db_down(rate_hz):
    """A sine at f of a slower recording must not come back at rate - f."""
    f = 0.3 * rate_hz
    out = resample(np.sin(2 * np.pi * f * np.arange(20 * rate_hz) / rate_hz)[None], rate_hz, 500)[0]
    window = np.blackman(len(out))
    spectrum = np.abs(np.fft.rfft(out * window)) / window.sum() * 2
    frequency = np.fft.rfftfreq(len(out), 1 / 500)
    assert 20 * np.log10(spectrum[frequency > 0.6 * rate_hz].max()) < -80


@pytest.mark.parametrize("rate_hz", [100, 250, 300, 1000, 2000])
def test_band_limited_signal_equals_fourier_resampling(rate_hz):
    n, generator = 10 * rate_hz, np.random.default_rng(1)
    spectrum = np.zeros(n // 2 + 1, complex)
    band = slice(1, int(10 * 0.38 * min(rate_hz, 500)))
    spectrum[band] = generator.normal(size=len(spectrum[band])) + 1j * generator.normal(
        size=len(spectrum[band])
    )
    x = np.fft.irfft(spectrum, n)
    x *= 500 / x.std()
    ours, theirs = resample(x[None], rate_hz, 500)[0], fourier_resample(x, 5000)
    assert (
        np.abs(ours - theirs)[500:-500].max() < 0.02 * 500 * 0.1
    )  # 1 µV of 500; the edges differ, Fourier wraps around


def test_chirp_does_not_alias():
    """From 0 to 1000 Hz in 10 s at 2000 Hz: what lies beyond 300 Hz must be gone, not folded back."""
    t = np.arange(20_000) / 2000
    out = resample(1000 * chirp(t, 0, 10, 1000)[None], 2000, 500)[0]
    assert np.abs(out[: int(500 * 1.9)]).max() > 990
    assert (
        np.abs(out[int(500 * 3.1) : -100]).max() < 0.1
    )  # the end itself is a step: signal, then repeated edge


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_constant_stays_and_edges_do_not_ring(rate_hz):
    np.testing.assert_allclose(
        resample(np.full((1, 10 * rate_hz), 1234.0), rate_hz, 500), 1234, rtol=1e-12
    )


def test_resampling_is_deterministic_to_the_bit():
    x = noise(9770).reshape(2, -1)
    assert resample(x, 977, 500).tobytes() == resample(x.copy(), 977, 500).tobytes()


@pytest.mark.parametrize(
    ("n", "span"),
    [
        (5000, (0, 5000)),
        (4998, (1, 4999)),
        (4999, (0, 4999)),
        (2501, (1249, 3750)),
        (5500, (0, 5000)),
        (7500, (0, 5000)),
        (10000, (0, 5000)),
        (12500, (0, 5000)),
    ],
)
def test_crop_and_pad_are_symmetric_and_an_odd_sample_goes_to_the_end(n, span):
    x = eight(n)
    row = conform(recording(x), TARGET)
    start = max(0, (n - 5000) // 2)
    assert row.valid_span == span
    np.testing.assert_array_equal(
        row.waveform[0, slice(*span)], np.rint(x["I"][start : start + 5000])
    )
    assert not row.waveform[:, : span[0]].any()
    assert not row.waveform[:, span[1] :].any()


@pytest.mark.parametrize(
    ("n", "rate_hz"),
    [(1000, 100), (2500, 250), (3000, 300), (9770, 977), (10_000, 1000), (20_000, 2000)],
)
def test_ten_seconds_at_any_rate_fill_the_row(n, rate_hz):
    assert conform(recording({"II": noise(n)}, rate_hz), TARGET).valid_span == (0, 5000)


def test_moments_are_the_sums_over_the_span():
    row = conform(recording({lead: x for lead, x in eight(4998).items() if lead != "V3"}), TARGET)
    x = row.waveform.astype(np.int64)
    np.testing.assert_array_equal(
        row.moments, np.stack([x.sum(axis=1), (x * x).sum(axis=1)], axis=1)
    )
    assert not row.lead_mask[LEADS.index("V3")]
    assert row.lead_mask.sum() == 7


@pytest.mark.parametrize(
    "pair",
    [
        (a, b)
        for i, a in enumerate(LIMB_LEADS)
        for b in list(LIMB_LEADS)[i + 1 :]
        if {a, b} != {"I", "II"}
    ],
)
def test_missing_limb_leads_follow_from_any_two(pair):
    one, two = noise(5000, 1), noise(5000, 2)
    limb = {
        "I": one,
        "II": two,
        "III": two - one,
        "aVR": -(one + two) / 2,
        "aVL": one - two / 2,
        "aVF": two - one / 2,
    }
    row = conform(recording({name: limb[name] for name in pair}), TARGET)
    assert np.abs(row.waveform[0] - one).max() <= 0.5 + 1e-9
    assert np.abs(row.waveform[1] - two).max() <= 0.5 + 1e-9
    assert row.lead_mask[:2].all()


def test_flat_lead_is_masked_and_never_rebuilt_from_others():
    x = {**eight(5000), "II": np.full(5000, 7.0), "III": noise(5000, 9)}
    row = conform(recording(x), TARGET)
    assert not row.lead_mask[1]
    assert not row.waveform[1].any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_lead_that_is_not_finite_is_masked(value):
    x = eight(5000)
    x["V2"][100] = value
    assert conform(recording(x), TARGET).lead_mask.tolist() == [lead != "V2" for lead in LEADS]


@pytest.mark.parametrize(
    ("leads", "rate_hz", "target", "reason"),
    [
        ({"I": noise(2499)}, 500, TARGET, "too_short"),
        ({"V7": noise(5000)}, 500, TARGET, "leads_missing"),
        ({"III": noise(5000)}, 500, TARGET, "leads_missing"),
        ({"I": noise(5000)}, 500, Conformity(min_leads=2), "leads_missing"),
        ({"I": np.zeros(5000), "V1": np.ones(5000)}, 500, TARGET, "flat"),
        ({"I": np.r_[np.zeros(5000), 1.0, np.zeros(99)]}, 500, Conformity(n_samples=1000), "flat"),
        ({"I": noise(5000) * 200}, 500, TARGET, "out_of_range"),
    ],
)
def test_unusable_recording_has_a_named_reason(leads, rate_hz, target, reason):
    with pytest.raises(RecordError) as caught:
        conform(recording(leads, rate_hz), target)
    assert caught.value.reason == reason


def test_largest_amplitude_is_kept_and_one_more_is_refused():
    x = noise(5000)
    x[100] = 32767
    assert conform(recording({"I": x}), TARGET).waveform.max() == 32767
    x[100] = -32768
    with pytest.raises(RecordError, match="wrong units"):
        conform(recording({"I": x}), TARGET)


@pytest.mark.parametrize(
    ("leads", "rate_hz", "reason"),
    [
        ({}, 500, "bad_waveform"),
        ({"I": []}, 500, "bad_waveform"),
        ({"I": [1], "II": [1, 2]}, 500, "bad_waveform"),
        ({"I": [1]}, 5, "bad_rate"),
    ],
)
def test_recording_that_makes_no_sense_is_refused(leads, rate_hz, reason):
    with pytest.raises(RecordError) as caught:
        recording(leads, rate_hz)
    assert caught.value.reason == reason
