"""Duplicates: what was exported again is found, what is merely alike is not."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import build, write_manifest
from scipy.signal import butter, resample_poly, sosfilt

from ecgprep.building.plan import BuildSettings
from ecgprep.conform import Conformity, conform
from ecgprep.errors import STATUSES
from ecgprep.patients.duplicates import (
    SAME,
    Track,
    correlation,
    fingerprint,
    join_pairs,
    near_duplicates,
    similar_pairs,
)
from ecgprep.patients.registry import SplitPlan
from ecgprep.quality import bins_per_hz, spectrum
from ecgprep.recording import Recording
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import aecg, cardiosoft, muse

RATE_HZ = 500
ALL_LEADS = np.ones(8, bool)


def heart(seed: int) -> np.ndarray:
    """Simulate 10 s of one heart: (12, 5000) µV."""
    generator = np.random.default_rng(seed)
    return simulate(Heart.draw(generator, seed % 2), RATE_HZ, generator)


def stored(uv: np.ndarray) -> np.ndarray:
    """Return the eight leads as a store holds them: int16 µV."""
    return np.rint(uv[[0, 1, 6, 7, 8, 9, 10, 11]]).astype(np.int16)


def loaded(
    waveform: np.ndarray, mask: np.ndarray = ALL_LEADS, span: tuple[int, int] = (0, 5000)
) -> tuple[np.ndarray, float, np.ndarray, float]:
    """Return what a Track is made of, from a waveform of the store."""
    bins = spectrum(waveform, span, mask, RATE_HZ)
    return bins, bins_per_hz(bins, RATE_HZ), mask, (span[1] - span[0]) / RATE_HZ


def track(uv: np.ndarray, mask: np.ndarray = ALL_LEADS) -> Track:
    return Track(*loaded(stored(uv) * mask[:, None], mask))


def bandpass(uv: np.ndarray) -> np.ndarray:
    return sosfilt(butter(2, [0.5, 40], "band", fs=RATE_HZ, output="sos"), uv, axis=1)


def cut(uv: np.ndarray, seconds: float) -> np.ndarray:
    n = round(abs(seconds) * RATE_HZ)
    return uv[:, n:] if seconds > 0 else uv[:, : uv.shape[1] - n]


EXPORTS = {
    "other dialect": lambda uv: aecg(uv, 500, "X"),
    "half the rate": lambda uv: muse(np.rint(resample_poly(uv, 1, 2, axis=1)), 250, "X"),
    "gain": lambda uv: muse(np.rint(uv * 1.03), 500, "X"),
    "coarse steps": lambda uv: cardiosoft(np.rint(uv / 15) * 15, 500, "X"),
    "filtered": lambda uv: aecg(np.rint(bandpass(uv)), 500, "X"),
    "2 s later": lambda uv: muse(cut(uv, 2.0), 500, "X"),
    "2 s earlier": lambda uv: muse(cut(uv, -2.0), 500, "X"),
    "all at once": lambda uv: aecg(
        np.rint(resample_poly(cut(bandpass(uv), 1.3), 1, 2, axis=1) / 5) * 5, 250, "X"
    ),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder with the recordings of eight patients, and their rows of a manifest."""
    folder = tmp_path_factory.mktemp("originals")
    rows = []
    for i in range(8):
        (folder / f"{i}.xml").write_bytes(muse(heart(i), RATE_HZ, f"P{i}"))
        rows.append((f"P{i}", f"{i}.xml", i % 2))
    return folder, rows


def statuses_with(originals, tmp_path, patient: str, export, duplicates: str) -> list[str]:
    """Build the originals and P3's recording, exported again, and return the statuses."""
    folder, rows = originals
    (folder / "again.xml").write_bytes(export(heart(3)))
    manifest = write_manifest(folder / "m.csv", [*rows, (patient, "again.xml", 1)])
    settings = BuildSettings(plan=SplitPlan(allow_missing_class=True), duplicates=duplicates)
    store = build(manifest, tmp_path / f"{duplicates}.zarr", settings, max_rejected=1.0)
    return [STATUSES[code] for code in store.array("status")]


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS.keys())
def test_what_was_exported_again_for_the_same_patient_is_a_duplicate(originals, tmp_path, export):
    found = statuses_with(originals, tmp_path, "P3", export, "near")
    assert found == ["ok"] * 8 + ["duplicate"]


def test_what_was_exported_again_for_another_patient_is_a_conflict(originals, tmp_path):
    found = statuses_with(originals, tmp_path, "other", EXPORTS["all at once"], "near")
    assert found == ["ok"] * 3 + ["conflict"] + ["ok"] * 4 + ["conflict"]


def test_exact_duplicates_are_byte_identical_only(originals, tmp_path):
    found = statuses_with(originals, tmp_path, "other", EXPORTS["gain"], "exact")
    assert found == ["ok"] * 9


def test_the_simulated_corpus_has_no_duplicates(store):
    assert set(store.array("status")) == {0}


def test_correlation_is_that_of_the_shifted_signals():
    """Against numpy on the band-passed signals themselves, at the lag that was put in."""
    uv = heart(1)
    a, b = track(uv), track(np.roll(uv, -300, axis=1) * 2)
    assert correlation(a, b) > 0.99
    assert correlation(a, b) == pytest.approx(correlation(b, a), abs=1e-6)
    noisy = track(uv + np.random.default_rng(0).normal(0, 100, uv.shape))
    x, y = (np.fft.irfft(t.transform, axis=1)[:, slice(*a.span)] for t in (a, noisy))
    expected = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    assert correlation(a, noisy) == pytest.approx(expected, abs=0.01)


def test_only_common_leads_are_compared():
    uv, mask = heart(2), np.array([1, 1, 0, 0, 1, 1, 0, 1], bool)
    assert correlation(track(uv), track(uv, mask)) > 0.999
    assert correlation(track(uv, ~mask), track(uv, mask)) == 0


def test_blocks_hide_no_pair(monkeypatch):
    """A small block finds the pairs that one product of everything finds."""
    values = np.random.default_rng(0).integers(-100, 100, (300, 256)).astype(np.int8)
    values[250:] = values[:50] + 1
    masks, rows = np.ones((300, 8), bool), np.arange(300)
    at_once = set(similar_pairs(values, masks, rows))
    monkeypatch.setattr("ecgprep.patients.duplicates._BLOCK", 17)
    assert set(similar_pairs(values, masks, rows)) == at_once
    assert at_once >= {(i, i + 250) for i in range(50)}


def test_duplicates_of_duplicates_are_one_group():
    assert join_pairs([(5, 9), (1, 2), (9, 3), (2, 7)]) == [[1, 2, 7], [3, 5, 9]]


def test_each_recording_is_loaded_once():
    waveforms = [stored(heart(row)) for row in range(20)] + [stored(heart(4) * 1.1)]
    loads = []

    def load(row):
        loads.append(row)
        return loaded(waveforms[row])

    fingerprints = np.random.default_rng(0).integers(-100, 100, (21, 256)).astype(np.int8)
    groups = near_duplicates(fingerprints, np.ones((21, 8), bool), np.arange(21), load)
    assert groups == [[4, 20]]
    assert len(loads) == 21


def test_no_false_alarm_on_real_recordings(samples):
    """No two of 1,987 public recordings are the same; the most alike stay clear of the limit."""
    names = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    recordings, fingerprints = [], []
    for hz in (500, 100):
        file = samples / "data" / "ptbxl" / f"waveforms_{hz}hz_uv.npz"
        for uv in np.load(file)["uv"].astype(np.float64):
            leads = dict(zip(names, uv, strict=True))
            row = conform(Recording(leads, hz, "muse"), Conformity())
            recordings.append(loaded(row.waveform, row.lead_mask, row.valid_span))
            fingerprints.append(fingerprint(*recordings[-1][:2]))
    n = len(recordings)
    pairs = list(similar_pairs(np.stack(fingerprints), np.ones((n, 8), bool), np.arange(n)))
    found = [correlation(Track(*recordings[i]), Track(*recordings[j])) for i, j in pairs]
    assert max(found, default=0) < SAME - 0.02


def test_duplicates_that_lack_leads_are_found_in_a_larger_cohort():
    """Above 100 recordings fingerprints decide what is compared: those of the common leads."""
    masks = [ALL_LEADS] * 110
    waveforms = [stored(heart(i)) for i in range(110)]
    for i, lacking in enumerate([[4], [2, 3, 4], [5], [0, 1], [2, 3, 4, 6]]):
        masks.append(np.isin(np.arange(8), lacking, invert=True))
        waveforms.append(waveforms[10 * i] * masks[-1][:, None])

    def load(row):
        return loaded(waveforms[row], masks[row])

    rows = np.arange(len(masks))
    fingerprints = np.stack([fingerprint(*load(row)[:2]) for row in rows])
    groups = near_duplicates(fingerprints, np.stack(masks), rows, load)
    assert groups == [[10 * i, 110 + i] for i in range(5)]


@pytest.mark.parametrize("seconds", [5, 6])
def test_short_recordings_are_compared_over_most_of_their_length(seconds):
    n = seconds * RATE_HZ

    def short(uv):
        first = (5000 - n) // 2
        padded = np.zeros((8, 5000), np.int16)
        padded[:, first : first + n] = stored(uv)
        return Track(*loaded(padded, ALL_LEADS, (first, first + n)))

    uv, other = heart(6), heart(7)
    assert correlation(short(uv[:, :n]), short(uv[:, 200 : 200 + n])) > SAME
    assert correlation(short(uv[:, :n]), short(other[:, :n])) < SAME
