"""Conform: the resampler against its specification; crop, pad, masks and moments."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from scipy.signal import chirp, upfirdn
from scipy.signal import resample as fourier_resample

from ecgprep.conform import Conformity, conform, low_pass, resample
from ecgprep.errors import RecordError
from ecgprep.leads import LEADS, LIMB_LEADS
from ecgprep.recording import Recording

TARGET = Conformity()
RATES_HZ = (100, 250, 300, 500, 977, 1000, 2000)


def recording(leads: dict[str, np.ndarray], rate_hz: float = 500) -> Recording:
    leads_uv = {name: np.asarray(samples, float) for name, samples in leads.items()}
    return Recording(leads_uv, rate_hz, "test")


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 300, n)


def eight(n: int) -> dict[str, np.ndarray]:
    return {lead: noise(n, seed) for seed, lead in enumerate(LEADS)}


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_number_of_samples(rate_hz):
    for n in (10 * rate_hz, 10 * rate_hz - 1, 7 * rate_hz + 3):
        assert resample(np.zeros((2, n)), rate_hz, 500).shape == (2, round(n * 500 / rate_hz))


def resampled_sine(rate_hz: float, frequency_hz: float) -> np.ndarray:
    """Resample 10 s of a sine to 500 Hz and return the middle 6 s, away from the edges."""
    t = np.arange(10 * rate_hz) / rate_hz
    return resample(np.sin(2 * np.pi * frequency_hz * t)[None], rate_hz, 500)[0, 1000:4000]


def assert_passes(rate_hz: float, frequency_hz: float) -> None:
    """Fit sine and cosine: the gain is within 0.05 dB of 1, the phase 0, and nothing is left."""
    found = resampled_sine(rate_hz, frequency_hz)
    angle = 2 * np.pi * frequency_hz * np.arange(1000, 4000) / 500
    basis = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    in_phase, quadrature = np.linalg.lstsq(basis, found, rcond=None)[0]
    assert abs(20 * np.log10(np.hypot(in_phase, quadrature))) < 0.05
    assert abs(np.arctan2(quadrature, in_phase)) < 1e-3
    assert np.abs(basis @ [in_phase, quadrature] - found).max() < 2e-3


@pytest.mark.parametrize("rate_hz", [rate for rate in RATES_HZ if rate != 500])
def test_pass_band_is_flat_to_0_4_of_the_lower_rate(rate_hz):
    lower = min(rate_hz, 500)
    for fraction in (0.01, 0.1, 0.2, 0.3, 0.35, 0.4):
        assert_passes(rate_hz, fraction * lower)


@pytest.mark.parametrize("rate_hz", [977, 1000, 2000])
def test_stop_band_is_80_db_down_from_0_6_of_the_lower_rate(rate_hz):
    for frequency_hz in np.linspace(0.6 * 500, 0.499 * rate_hz, 12):
        peak = np.abs(resampled_sine(rate_hz, frequency_hz)).max()
        assert 20 * np.log10(peak + 1e-12) < -80


@pytest.mark.parametrize("rate_hz", [100, 250, 300])
def test_images_are_80_db_down(rate_hz):
    """A sine at f of a slower recording must not come back at rate - f."""
    t = np.arange(20 * rate_hz) / rate_hz
    out = resample(np.sin(2 * np.pi * 0.3 * rate_hz * t)[None], rate_hz, 500)[0]
    window = np.blackman(len(out))
    spectrum = np.abs(np.fft.rfft(out * window)) / window.sum() * 2
    frequency = np.fft.rfftfreq(len(out), 1 / 500)
    assert 20 * np.log10(spectrum[frequency > 0.6 * rate_hz].max()) < -80


@pytest.mark.parametrize("rate_hz", [100, 250, 300, 1000, 2000])
def test_band_limited_signal_equals_fourier_resampling(rate_hz):
    """To 1 µV of 500, but for the edges, where Fourier's method wraps around."""
    n, generator = 10 * rate_hz, np.random.default_rng(1)
    spectrum = np.zeros(n // 2 + 1, complex)
    band = slice(1, int(10 * 0.38 * min(rate_hz, 500)))
    n_band = len(spectrum[band])
    spectrum[band] = generator.normal(size=n_band) + 1j * generator.normal(size=n_band)
    x = np.fft.irfft(spectrum, n)
    x *= 500 / x.std()
    ours, theirs = resample(x[None], rate_hz, 500)[0], fourier_resample(x, 5000)
    assert np.abs(ours - theirs)[500:-500].max() < 1


def test_chirp_does_not_alias():
    """From 0 to 1000 Hz in 10 s at 2000 Hz: beyond 300 Hz it is gone, not folded back."""
    t = np.arange(20_000) / 2000
    out = resample(1000 * chirp(t, 0, 10, 1000)[None], 2000, 500)[0]
    assert np.abs(out[: int(500 * 1.9)]).max() > 990
    at_the_end = 100  # a step: signal, then repeated edge
    assert np.abs(out[int(500 * 3.1) : -at_the_end]).max() < 0.1


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_constant_stays_and_edges_do_not_ring(rate_hz):
    found = resample(np.full((1, 10 * rate_hz), 1234.0), rate_hz, 500)
    np.testing.assert_allclose(found, 1234, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7, 5000])
@pytest.mark.parametrize("to_hz", [100, 250, 500])
@pytest.mark.parametrize("rate_hz", [100, 257, 360, 976.5625, 1000, 2000])
def test_resampling_equals_the_definition_to_the_bit(rate_hz, to_hz, n):
    """Repeat the edges by hand and filter; multiples of 2.5 µV decide the rounding of halves."""
    x = np.rint(noise(2 * n).reshape(2, n) / 2.5) * 2.5
    if rate_hz == to_hz:
        assert resample(x, rate_hz, to_hz) is x
        return
    ratio = Fraction(to_hz / rate_hz).limit_denominator(1000)
    up, down = ratio.numerator, ratio.denominator
    taps, delay = low_pass(up, down)
    n_edge = (len(taps) // up + down) // down * down + down
    extended = np.pad(x, ((0, 0), (n_edge, n_edge)), mode="edge")
    first = (n_edge * up + delay) // down
    expected = upfirdn(taps, extended, up, down, axis=1)[:, first:]
    found = resample(x, rate_hz, to_hz)
    assert found.shape == (2, round(n * to_hz / rate_hz))
    np.testing.assert_array_equal(found, expected[:, : found.shape[1]])


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
    stored = row.waveform[0, slice(*span)]
    np.testing.assert_array_equal(stored, np.rint(x["I"][start : start + 5000]))
    assert not row.waveform[:, : span[0]].any()
    assert not row.waveform[:, span[1] :].any()


@pytest.mark.parametrize(
    ("n", "rate_hz"),
    [(1000, 100), (2500, 250), (3000, 300), (9770, 977), (10_000, 1000), (20_000, 2000)],
)
def test_ten_seconds_at_any_rate_fill_the_row(n, rate_hz):
    assert conform(recording({"II": noise(n)}, rate_hz), TARGET).valid_span == (0, 5000)


def test_moments_are_the_sums_over_the_span():
    leads = eight(4998)
    del leads["V3"]
    row = conform(recording(leads), TARGET)
    x = row.waveform.astype(np.int64)
    expected = np.stack([x.sum(axis=1), (x * x).sum(axis=1)], axis=1)
    np.testing.assert_array_equal(row.moments, expected)
    assert not row.lead_mask[LEADS.index("V3")]
    assert row.lead_mask.sum() == 7


PAIRS = [pair for pair in combinations(LIMB_LEADS, 2) if pair != ("I", "II")]


@pytest.mark.parametrize("pair", PAIRS)
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
