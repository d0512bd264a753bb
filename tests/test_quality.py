"""Quality flags: a defect put into a clean recording raises its flag, on its lead, and no other."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import build, write_manifest

from ecgprep.building.parts import read_one
from ecgprep.building.plan import BuildSettings
from ecgprep.conform import Conformity, conform
from ecgprep.errors import STATUSES, InputError
from ecgprep.leads import LEADS, TWELVE_LEADS
from ecgprep.patients.registry import SplitPlan
from ecgprep.quality import BIT, FLAGS, quality_flags, spectrum
from ecgprep.recording import Recording
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import VENDORS, muse
from ecgprep.store.format import QUALITY_FLAGS

TIME = np.arange(5000) / 500


def flags_of(
    leads: dict[str, np.ndarray], rate_hz: float = 500, off: frozenset[str] = frozenset()
) -> dict[str, set[str]]:
    """Return flag -> leads that have it."""
    recording = Recording(leads, rate_hz, "muse", off)
    row = conform(recording, Conformity())
    bins = spectrum(row.waveform, row.valid_span, row.lead_mask, 500)
    flags = quality_flags(recording, row, bins, 500)
    found: dict[str, set[str]] = {}
    for lead, bits in zip(LEADS, flags, strict=True):
        for name in FLAGS:
            if bits & BIT[name]:
                found.setdefault(name, set()).add(lead)
    return found


@pytest.fixture
def clean(uv) -> dict[str, np.ndarray]:
    leads = dict(zip(TWELVE_LEADS, uv.astype(np.float64), strict=True))
    assert flags_of(leads) == {}
    return leads


def test_flags_are_those_of_the_format():
    assert FLAGS == QUALITY_FLAGS
    assert [BIT[name] for name in FLAGS] == [2**k for k in range(len(FLAGS))]


def test_flat(clean):
    clean["V3"][1000:1600] = clean["V3"][1000]
    clean["V5"][:] = 0
    assert flags_of(clean) == {"flat": {"V3", "V5"}}


def test_half_a_second_without_change_is_not_flat(clean):
    clean["V3"][1000:1250] = clean["V3"][1000]
    assert flags_of(clean) == {}


@pytest.mark.parametrize("rate_hz", [500, 250])
def test_clipped(clean, rate_hz):
    step = 500 // rate_hz
    high = np.where(np.abs(TIME % 1 - 0.5) < 0.05, 3000.0, 0) + clean["V2"]
    clean["V2"] = np.minimum(high, 2000)
    assert "V2" in flags_of({name: x[::step] for name, x in clean.items()}, rate_hz)["clipped"]


def test_lead_off_is_the_carts_own_word(clean):
    assert flags_of(clean, off=frozenset({"V4", "aVR"})) == {"lead_off": {"V4"}}


def test_baseline_wander(clean):
    clean["V1"] += 1000 * np.sin(2 * np.pi * 0.3 * TIME)
    assert flags_of(clean) == {"baseline_wander": {"V1"}}


@pytest.mark.parametrize("mains_hz", [50, 60])
def test_mains_hum(clean, mains_hz):
    clean["V6"] += 40 * np.sin(2 * np.pi * mains_hz * TIME)
    assert flags_of(clean)["mains_hum"] == {"V6"}


def test_noise_has_the_size_of_what_was_added(clean):
    generator = np.random.default_rng(0)
    for size, found in ((5, set()), (40, {"V1"})):
        leads = clean | {"V1": clean["V1"] + generator.normal(0, size, 5000)}
        assert flags_of(leads).get("noise", set()) == found


@pytest.mark.parametrize("factor", [0.01, 20])
def test_amplitude(clean, factor):
    clean["V4"] = (clean["V4"] - clean["V4"].mean()) * factor
    assert "V4" in flags_of(clean)["amplitude"]


def test_einthoven(clean):
    clean["III"] = -clean["III"] + 100
    assert flags_of(clean) == {"einthoven": {"I", "II"}}


def test_a_calibration_pulse_raises_no_flag(uv, tmp_path):
    """Its 1 mV in every lead breaks Einthoven's law, and stands still at the highest value."""
    (tmp_path / "a.xml").write_bytes(VENDORS["philips"](np.clip(uv, -900, 900), 500, "X"))
    outcome = read_one(tmp_path, "a.xml", Conformity())
    assert outcome.row is not None
    assert outcome.row.valid_span == (0, 5000)
    assert not (outcome.quality & (BIT["einthoven"] | BIT["clipped"])).any()


def test_exchanged_arms(clean):
    """Exchanged arms invert I and swap II with III (Batchvarov et al., Europace 2007)."""
    swapped = clean | {
        "I": -clean["I"],
        "II": clean["III"],
        "III": clean["II"],
        "aVR": clean["aVL"],
        "aVL": clean["aVR"],
    }
    assert flags_of(swapped) == {"arm_reversal": {"I"}}


def test_a_missing_lead_has_no_flag_of_the_signal(clean):
    del clean["V3"]
    assert flags_of(clean) == {}


def test_lead_off_comes_from_a_muse_file(tmp_path, uv):
    median, rhythm, leads = muse(uv, 500, "X").partition(b"Rhythm")
    leads = leads.replace(b"</LeadID>", b"</LeadID><LeadOff>TRUE</LeadOff>", 1)
    leads = leads.replace(b"</LeadID>\n", b"</LeadID><LeadOff>FALSE</LeadOff>\n")
    (tmp_path / "x.xml").write_bytes(median + rhythm + leads)
    outcome = read_one(tmp_path, "x.xml", Conformity())
    assert [bits & BIT["lead_off"] for bits in outcome.quality] == [BIT["lead_off"], *[0] * 7]


def write_cohort(folder, defect_uv):
    rows = []
    for i in range(6):
        generator = np.random.default_rng(50 + i)
        uv = simulate(Heart.draw(generator, i % 2), 500, generator)
        (folder / f"{i}.xml").write_bytes(muse(defect_uv(uv) if i == 2 else uv, 500, "X"))
        rows.append((f"P{i}", f"{i}.xml", i % 2))
    return write_manifest(folder / "m.csv", rows)


def flatten(uv):
    uv = uv.copy()
    uv[8, 2000:3000] = uv[8, 2000]
    return uv


def test_flags_are_stored_and_exclude_only_when_asked(tmp_path):
    manifest = write_cohort(tmp_path, flatten)
    plan = SplitPlan(allow_missing_class=True)
    store = build(manifest, tmp_path / "s.zarr", BuildSettings(plan=plan))
    assert set(store.array("status")) == {0}
    flat = np.asarray(store.array("quality")) & BIT["flat"] > 0
    assert np.argwhere(flat).tolist() == [[2, LEADS.index("V3")]]
    strict = BuildSettings(plan=plan, exclude_quality=("flat",))
    other = build(manifest, tmp_path / "o.zarr", strict, max_rejected=0.5)
    statuses = [STATUSES[code] for code in other.array("status")]
    assert statuses == ["ok", "ok", "quality", "ok", "ok", "ok"]
    assert (other.array("quality") == store.array("quality")).all()
    rejects = (tmp_path / "o.zarr.rejects.csv").read_text()
    assert "4,quality,flat in V3 (--exclude-quality)" in rejects


def test_unknown_flag_is_refused():
    with pytest.raises(InputError, match=r"unknown flag ugly; there are flat, clipped"):
        BuildSettings(exclude_quality=("ugly",))


def test_ordinary_real_recordings_stay_unflagged(samples):
    uv = np.load(samples / "data" / "ptbxl" / "waveforms_500hz_uv.npz")["uv"].astype(np.float64)
    found = [flags_of(dict(zip(TWELVE_LEADS, x, strict=True))) for x in uv]
    assert sum(bool(flags) for flags in found) < 0.3 * len(found)
    for name in ("flat", "clipped", "lead_off", "einthoven", "arm_reversal", "mains_hum"):
        assert sum(name in flags for flags in found) <= 0.02 * len(found)
