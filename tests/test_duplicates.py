"""Copies: what was exported again is found, what is merely alike is not."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import build, write_manifest
from scipy.signal import butter, resample_poly, sosfilt

from ecgprep.building.plan import BuildSettings
from ecgprep.errors import STATUSES
from ecgprep.patients.duplicates import (
    SAME,
    Track,
    correlation,
    join_pairs,
    near_duplicates,
    similar_pairs,
)
from ecgprep.patients.registry import SplitPlan
from ecgprep.quality import bins_per_hz, spectrum
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import aecg, cardiosoft, muse

RATE_HZ = 500


def heart(seed: int, seconds: float = 14) -> np.ndarray:
    """Simulate one heart for longer than a recording, by joining what the simulator gives at a lower rate."""
    generator = np.random.default_rng(seed)
    return simulate(Heart.draw(generator, seed % 2), RATE_HZ, generator)


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


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS.keys())
@pytest.mark.parametrize(("patient", "status"), [("P3", "duplicate"), ("other", "conflict")])
def test_what_was_exported_again_is_found(tmp_path, export, patient, status):
    rows = []
    for i in range(8):
        (tmp_path / f"{i}.xml").write_bytes(muse(heart(i), 500, f"P{i}"))
        rows.append((f"P{i}", f"{i}.xml", i % 2))
    (tmp_path / "again.xml").write_bytes(export(heart(3)))
    write_manifest(tmp_path / "m.csv", [*rows, (patient, "again.xml", 1)])
    settings = BuildSettings(plan=SplitPlan(allow_missing_class=True))
    store = build(tmp_path / "m.csv", tmp_path / "s.zarr", settings, max_rejected=1.0)
    found = [STATUSES[code] for code in store.array("status")]
    assert found == ["ok"] * 3 + ["ok" if status == "duplicate" else "conflict"] + ["ok"] * 4 + [
        status
    ]
    exact = build(
        tmp_path / "m.csv",
        tmp_path / "e.zarr",
        BuildSettings(plan=settings.plan, duplicates="exact"),
    )
    assert "conflict" not in {STATUSES[code] for code in exact.array("status")}


def test_copies_in_the_simulated_corpus_are_none(store):
    assert set(store.array("status")) == {0}


def track(uv: np.ndarray, mask: np.ndarray | None = None) -> Track:
    """Make a track of eight leads as the store would hold them."""
    waveform = np.rint(uv[[0, 1, 6, 7, 8, 9, 10, 11], :5000]).astype(np.int16)
    mask = np.ones(8, bool) if mask is None else mask
    bins = spectrum(waveform * mask[:, None].astype(np.int16), (0, 5000), mask, 500)
    return Track(bins, bins_per_hz(bins, 500), mask, 10.0)


def test_correlation_is_that_of_the_shifted_signals():
    """Against numpy on the band-passed signals themselves, at the lag that was put in."""
    uv = heart(1)
    a, b = track(uv), track(np.roll(uv, -300, axis=1) * 2)
    assert correlation(a, b) > 0.99
    assert correlation(a, b) == pytest.approx(correlation(b, a), abs=1e-6)
    noise = np.random.default_rng(0).normal(0, 100, uv.shape)
    x, y = (
        np.fft.irfft(t.transform, axis=1)[:, a.span[0] : a.span[1]]
        for t in (track(uv), track(uv + noise))
    )
    expected = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    assert correlation(track(uv), track(uv + noise)) == pytest.approx(expected, abs=0.01)


def test_common_leads_alone_are_compared():
    uv, mask = heart(2), np.array([1, 1, 0, 0, 1, 1, 0, 1], bool)
    assert correlation(track(uv), track(uv, mask)) > 0.999
    assert correlation(track(uv, ~mask), track(uv, mask)) == 0


def test_blocks_hide_no_pair(monkeypatch):
    """A small block finds the pairs that one product of everything finds."""
    values = np.random.default_rng(0).integers(-100, 100, (300, 256)).astype(np.int8)
    values[250:] = values[:50] + 1
    rows = np.arange(300)
    whole = set(similar_pairs(values, np.ones((300, 8), bool), rows))
    monkeypatch.setattr("ecgprep.patients.duplicates._BLOCK", 17)
    assert set(similar_pairs(values, np.ones((300, 8), bool), rows)) == whole
    assert whole >= {(i, i + 250) for i in range(50)}


def test_copies_of_copies_are_one_group():
    assert join_pairs([(5, 9), (1, 2), (9, 3), (2, 7)]) == [[1, 2, 7], [3, 5, 9]]


def test_near_duplicates_asks_for_each_recording_few_times():
    uv = {row: heart(row % 20) for row in range(20)} | {20: heart(4) * 1.1}
    loads = []

    def load(row):
        loads.append(row)
        waveform = np.rint(uv[row][[0, 1, 6, 7, 8, 9, 10, 11], :5000]).astype(np.int16)
        bins = spectrum(waveform, (0, 5000), np.ones(8, bool), 500)
        return bins, bins_per_hz(bins, 500), np.ones(8, bool), 10.0

    fingerprints = np.random.default_rng(0).integers(-100, 100, (21, 256)).astype(np.int8)
    assert near_duplicates(fingerprints, np.ones((21, 8), bool), np.arange(21), load) == [[4, 20]]
    assert len(loads) == 21


def test_no_false_alarm_on_real_recordings(samples):
    """No two of 1,987 public recordings are the same, and the most alike stay clear of the limit."""
    from ecgprep.conform import Conformity, conform
    from ecgprep.patients.duplicates import fingerprint
    from ecgprep.recording import Recording

    names = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    tracks, fingerprints = [], []
    for hz in (500, 100):
        for uv in np.load(samples / "data" / "ptbxl" / f"waveforms_{hz}hz_uv.npz")["uv"].astype(
            np.float64
        ):
            row = conform(Recording(dict(zip(names, uv, strict=True)), hz, "muse"), Conformity())
            bins = spectrum(row.waveform, row.valid_span, row.lead_mask, 500)
            fingerprints.append(fingerprint(bins, bins_per_hz(bins, 500)))
            tracks.append(
                (
                    bins,
                    bins_per_hz(bins, 500),
                    row.lead_mask,
                    (row.valid_span[1] - row.valid_span[0]) / 500,
                )
            )
    pairs = list(
        similar_pairs(
            np.stack(fingerprints), np.ones((len(tracks), 8), bool), np.arange(len(tracks))
        )
    )
    assert (
        max((correlation(Track(*tracks[i]), Track(*tracks[j])) for i, j in pairs), default=0)
        < SAME - 0.02
    )


def test_copies_that_lack_leads_are_found_in_a_larger_cohort():
    """Above 100 recordings fingerprints decide what is compared: they are those of the common leads."""
    from ecgprep.patients.duplicates import fingerprint

    full = np.ones(8, bool)
    masks, waveforms = [], []
    for i in range(140):
        waveforms.append(np.rint(heart(i)[[0, 1, 6, 7, 8, 9, 10, 11], :5000]).astype(np.int16))
        masks.append(full)
    for i, lacking in enumerate([[4], [2, 3, 4], [5], [0, 1], [2, 3, 4, 6]]):
        mask = np.isin(np.arange(8), lacking, invert=True)
        waveforms.append(waveforms[10 * i] * mask[:, None].astype(np.int16))
        masks.append(mask)

    def load(row):
        bins = spectrum(waveforms[row], (0, 5000), masks[row], 500)
        return bins, bins_per_hz(bins, 500), masks[row], 10.0

    fingerprints = np.stack([fingerprint(*load(row)[:2]) for row in range(len(masks))])
    assert near_duplicates(fingerprints, np.stack(masks), np.arange(len(masks)), load) == [
        [10 * i, 140 + i] for i in range(5)
    ]


@pytest.mark.parametrize("seconds", [5, 6])
def test_short_recordings_are_compared_over_most_of_their_length(seconds):
    uv = heart(6)
    one, other = (uv[:, first : first + seconds * 500] for first in (0, 200))

    def short(uv):
        waveform = np.rint(uv[[0, 1, 6, 7, 8, 9, 10, 11]]).astype(np.int16)
        padded = np.zeros((8, 5000), np.int16)
        first = (5000 - waveform.shape[1]) // 2
        padded[:, first : first + waveform.shape[1]] = waveform
        bins = spectrum(padded, (first, first + waveform.shape[1]), np.ones(8, bool), 500)
        return Track(bins, bins_per_hz(bins, 500), np.ones(8, bool), seconds)

    assert correlation(short(one), short(other)) > SAME
    assert correlation(short(one), short(heart(7)[:, : seconds * 500])) < SAME
