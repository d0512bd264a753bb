"""A lead that leaves ±32.767 mV is masked; a recording of which most leads do is refused."""

from __future__ import annotations

import numpy as np
import pytest

from ecgprep.conform import Conformity, conform
from ecgprep.errors import RecordError
from ecgprep.leads import LEADS, LIMB_LEADS
from ecgprep.quality import BIT, quality_flags, spectrum
from ecgprep.recording import Recording

TARGET = Conformity()


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 300, n)


def twelve_leads(seed: int = 0, n: int = 5000) -> dict[str, np.ndarray]:
    """Noise in the eight leads, and the limb leads that I and II make."""
    leads = {lead: noise(n, seed + k) for k, lead in enumerate(LEADS)}
    one, two = leads["I"], leads["II"]
    return leads | {name: a * one + b * two for name, (a, b) in LIMB_LEADS.items()}


def with_spike(samples: np.ndarray, peak_uv: float, width: int = 10) -> np.ndarray:
    spiked = samples.copy()
    spiked[2000 : 2000 + width] = peak_uv
    return spiked


@pytest.mark.parametrize("peak_uv", [32_768, -32_768, 160_000, 1e300])
@pytest.mark.parametrize("rate_hz", [500, 250, 1000])
def test_lead_out_of_range_is_masked_and_the_others_stay(peak_uv, rate_hz):
    leads = twelve_leads()
    leads["V3"] = with_spike(leads["V3"], peak_uv)
    row = conform(Recording(leads, rate_hz, "aecg"), TARGET)
    assert row.out_of_range == {"V3"}
    assert row.lead_mask.tolist() == [lead != "V3" for lead in LEADS]
    assert not row.waveform[LEADS.index("V3")].any()
    assert not row.moments[LEADS.index("V3")].any()
    sane = {name: samples for name, samples in leads.items() if name != "V3"}
    expected = conform(Recording(sane, rate_hz, "aecg"), TARGET)
    np.testing.assert_array_equal(row.waveform, expected.waveform)


@pytest.mark.parametrize("peak_uv", [32_767, 32_767.4, -32_767])
def test_lead_that_just_keeps_the_range_is_stored(peak_uv):
    leads = twelve_leads()
    leads["V3"] = with_spike(leads["V3"], peak_uv)
    row = conform(Recording(leads, 500, "aecg"), TARGET)
    assert row.lead_mask.all()
    assert np.abs(row.waveform).max() == 32_767


def test_lead_that_leaves_the_range_by_resampling_is_masked_never_clipped():
    """The filter overshoots at a step, here by a tenth of it."""
    leads = twelve_leads()
    leads["V3"] = with_spike(leads["V3"], 32_700, width=1000)
    row = conform(Recording(leads, 250, "aecg"), TARGET)
    assert row.out_of_range == {"V3"}
    assert row.lead_mask.sum() == 7


def test_limb_lead_out_of_range_is_no_source_of_another():
    leads = twelve_leads()
    expected = conform(Recording(leads, 500, "aecg"), TARGET).waveform[0]
    del leads["I"]
    leads["III"] = with_spike(leads["III"], 40_000)
    row = conform(Recording(leads, 500, "aecg"), TARGET)
    assert row.lead_mask.all()
    assert np.abs(row.waveform[0].astype(int) - expected).max() <= 1  # from II and aVF
    for name in ("aVR", "aVL", "aVF"):
        del leads[name]
    row = conform(Recording(leads, 500, "aecg"), TARGET)
    assert row.lead_mask.tolist() == [lead != "I" for lead in LEADS]


def test_derived_lead_out_of_range_is_masked():
    leads = twelve_leads()
    del leads["I"]
    leads["II"] = with_spike(leads["II"], 20_000)
    leads["III"] = with_spike(leads["III"], -20_000)
    row = conform(Recording(leads, 500, "aecg"), TARGET)
    assert row.out_of_range == {"I"}


@pytest.mark.parametrize(("n_bad", "is_read"), [(3, True), (4, False), (8, False)])
def test_recording_is_out_of_range_when_half_of_its_leads_are(n_bad, is_read):
    leads = {lead: noise(5000, k) for k, lead in enumerate(LEADS)}
    for lead in LEADS[:n_bad]:
        leads[lead] = with_spike(leads[lead], 40_000, width=50)
    recording = Recording(leads, 500, "muse")
    if is_read:
        assert conform(recording, TARGET).lead_mask.sum() == 8 - n_bad
        return
    named = ", ".join(LEADS[:n_bad])
    with pytest.raises(RecordError, match=rf"^{named}: 1\.0 % of the samples") as caught:
        conform(recording, TARGET)
    assert caught.value.reason == "out_of_range"


def test_lead_out_of_range_that_is_needed_is_named():
    leads = twelve_leads()
    leads["V3"] = with_spike(leads["V3"], 40_000)
    with pytest.raises(RecordError, match=r"beyond ±32\.767 mV: V3") as caught:
        conform(Recording(leads, 500, "aecg"), Conformity(min_leads=8))
    assert caught.value.reason == "leads_missing"


def test_lead_out_of_range_is_flagged_and_says_nothing_about_limb_leads():
    leads = twelve_leads()
    leads["V3"] = with_spike(leads["V3"], 40_000)
    leads["aVF"] = with_spike(leads["aVF"], 40_000, width=1000)
    recording = Recording(leads, 500, "aecg")
    row = conform(recording, TARGET)
    bins = spectrum(row.waveform, row.valid_span, row.lead_mask, 500)
    flags = quality_flags(recording, row, bins, 500)
    assert [bool(bits & BIT["out_of_range"]) for bits in flags] == [lead == "V3" for lead in LEADS]
    assert not (flags & BIT["einthoven"]).any()
