"""The layout of CardioSoft's full disclosure is found, or the file is refused."""

from __future__ import annotations

import numpy as np
import pytest
from vendor_files import reason_of

from ecgprep.errors import RecordError
from ecgprep.leads import TWELVE_LEADS
from ecgprep.readers import read_bytes
from ecgprep.readers.disclosure import separate_leads
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import full_disclosure

ALL = list(TWELVE_LEADS)
CHEST = ALL[6:]
TWO = ["I", "II"]


def in_blocks(counts: np.ndarray, rate_hz: int) -> np.ndarray:
    n = counts.shape[1]
    return np.concatenate([counts[:, i : i + rate_hz].ravel() for i in range(0, n, rate_hz)])


def interleaved(counts: np.ndarray, _rate_hz: int) -> np.ndarray:
    return counts.T.ravel()


LAYOUTS = (in_blocks, interleaved)


def counts_of(uv: np.ndarray, labels: list[str]) -> np.ndarray:
    """Return the counts of 5 µV of some leads, (labels, samples)."""
    return np.rint(uv[[TWELVE_LEADS.index(label) for label in labels]] / 5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rate_hz", [100, 250, 500])
@pytest.mark.parametrize("labels", [ALL, CHEST, ALL[:3]])
@pytest.mark.parametrize("seconds", [10, 9.4])
def test_both_layouts_are_told_apart(layout, rate_hz, labels, seconds):
    generator = np.random.default_rng(1)
    uv = simulate(Heart.draw(generator, 0), rate_hz, generator)
    counts = counts_of(uv[:, : int(seconds * rate_hz)], labels)
    found = separate_leads(layout(counts, rate_hz), labels, rate_hz)
    np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_offsets_of_the_leads_do_not_matter(uv, layout):
    counts = counts_of(uv, ALL) + np.arange(12)[:, None] * 40
    np.testing.assert_array_equal(separate_leads(layout(counts, 500), ALL, 500), counts)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_constant_leads_among_others_do_not_matter(uv, layout):
    counts = counts_of(uv, ALL)
    counts[:6] = 0
    np.testing.assert_array_equal(separate_leads(layout(counts, 500), ALL, 500), counts)


def test_values_in_another_order_are_refused(uv):
    counts = counts_of(uv, ALL)
    for odd in (
        np.random.default_rng(0).permutation(counts.ravel()),
        counts.ravel(),  # the whole of one lead after the other
        in_blocks(counts, 125),
    ):
        with pytest.raises(RecordError, match="layout of FullDisclosureData is unclear") as caught:
            separate_leads(odd, ALL, 500)
        assert caught.value.reason == "bad_waveform"


def test_limb_leads_that_contradict_each_other_in_both_layouts_are_refused(uv):
    counts = counts_of(uv, ALL)
    counts[2] = counts[9]
    counts[3:6] = counts[6:9]
    with pytest.raises(RecordError, match="unclear"):
        separate_leads(in_blocks(counts, 500), ALL, 500)


def test_leads_that_are_all_constant_need_no_layout():
    counts = np.zeros(60_000)
    assert separate_leads(counts, ALL, 500).shape == (12, 5000)


def test_last_second_that_is_not_whole_is_read(uv):
    data = full_disclosure(uv, 500, "X")
    start = data.index(b"<FullDisclosureData>") + len(b"<FullDisclosureData>")
    end = data.index(b"</FullDisclosureData>")
    counts = counts_of(uv[:, :4700], ALL).astype(int)
    text = ",".join(map(str, in_blocks(counts, 500))).encode()
    recording = read_bytes(data[:start] + text + data[end:])
    assert recording.n_samples == 4700
    np.testing.assert_array_equal(recording.leads_uv["V6"], counts[11] * 5.0)
    assert reason_of(data[:start] + text + b",1" + data[end:]) == "bad_waveform"


def test_more_than_an_hour_is_named_as_a_limit(uv):
    data = full_disclosure(uv, 50, "X")
    start = data.index(b"<FullDisclosureData>") + len(b"<FullDisclosureData>")
    end = data.index(b"</FullDisclosureData>")
    text = b"0," * (12 * 50 * 3601 - 1) + b"0"
    with pytest.raises(RecordError, match="at most an hour") as caught:
        read_bytes(data[:start] + text + data[end:])
    assert caught.value.reason == "file_too_large"


@pytest.mark.full
@pytest.mark.parametrize("rate_hz", [100, 250, 500])
@pytest.mark.parametrize("labels", [ALL, CHEST, TWO, TWO + CHEST, ALL[:3]])
def test_real_recordings_are_told_apart_or_refused(samples, rate_hz, labels):
    """Never wrong; with all limb leads, never refused."""
    name = "waveforms_100hz_uv.npz" if rate_hz == 100 else "waveforms_500hz_uv.npz"
    with np.load(samples / "data" / "ptbxl" / name) as file:
        recordings = file["uv"][:488, :, :: 2 if rate_hz == 250 else 1]
    n_refused = 0
    for uv in recordings:
        counts = counts_of(uv, labels)
        for layout in LAYOUTS:
            try:
                found = separate_leads(layout(counts, rate_hz), labels, rate_hz)
            except RecordError:
                n_refused += 1
                continue
            np.testing.assert_array_equal(found, counts)
    assert n_refused == 0 if labels == ALL else n_refused <= 0.03 * 2 * len(recordings)
