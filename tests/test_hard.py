"""Files that a strict reader loses although a user would expect them to be read.

`make_hard.py` writes them from real recordings, with what is right in expected.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ecgprep.conform import Conformity, conform
from ecgprep.errors import RecordError
from ecgprep.leads import LEADS, TWELVE_LEADS
from ecgprep.readers import read_recording

ENCODINGS = (
    "muse_utf8_with_latin1_byte.xml",
    "muse_declared_euc_kr.xml",
    "muse_declared_windows_1250.xml",
    "muse_trailing_nul.xml",
    "muse_control_character_in_name.xml",
    "muse_bare_ampersand.xml",
)
"""Files whose text is not what they declare."""
WAVEFORMS = (
    "muse_artefact_in_V3.xml",
    "muse_C1_to_C6.xml",
    "muse_empty_V3R.xml",
    "aecg_elec_potl_codes.xml",
    "aecg_empty_aVF.xml",
    "aecg_with_calibration_pulse.xml",
    "cardiosoft_disclosure_blocks.xml",
    "cardiosoft_disclosure_last_block_short.xml",
    "cardiosoft_disclosure_interleaved.xml",
    "muse_all_leads_at_the_rail.xml",
)
"""Files with an odd waveform, lead or layout."""


@pytest.fixture(scope="session")
def hard(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that make_hard.py wrote."""
    out = tmp_path_factory.mktemp("hard")
    tool = samples / "tools" / "make_hard.py"
    subprocess.run([sys.executable, tool, out], check=True, capture_output=True)
    return out


def test_every_file_has_a_test(hard):
    assert set(json.loads((hard / "expected.json").read_text())) == {*ENCODINGS, *WAVEFORMS}


def assert_as_expected(hard: Path, name: str) -> None:
    """Compare with what the script wrote into the file, or expect a refusal."""
    expected = json.loads((hard / "expected.json").read_text())[name]
    if expected["expect"] == "refuse":
        with pytest.raises(RecordError):
            conform(read_recording(hard / name), Conformity())
        return
    row = conform(read_recording(hard / name), Conformity())
    with np.load(hard / "truth_uv.npz") as truth:
        true_uv = truth[name][[TWELVE_LEADS.index(lead) for lead in LEADS]].astype(float)
    assert row.lead_mask.tolist() == [lead not in expected["masked"] for lead in LEADS]
    found = row.waveform[:, slice(*row.valid_span)]
    assert found.shape == true_uv.shape
    assert np.abs(found - true_uv)[row.lead_mask].max() <= expected["tolerance_uv"]
    assert not row.waveform[~row.lead_mask].any()


@pytest.mark.parametrize("name", WAVEFORMS)
def test_odd_waveform_is_read_right_or_refused(hard, name):
    assert_as_expected(hard, name)


@pytest.mark.parametrize("name", ENCODINGS)
def test_odd_text_does_not_touch_the_waveform(hard, name):
    assert_as_expected(hard, name)
