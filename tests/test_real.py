"""The whole path on real recordings (PTB-XL as vendor XML), where ECG_SAMPLES names them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import build

from ecgprep.building.plan import BuildSettings
from ecgprep.errors import STATUSES
from ecgprep.leads import LEADS, TWELVE_LEADS
from ecgprep.readers import read_recording

TOLERANCE_UV = {"muse": 2.44 + 1e-9, "aecg": 0.0, "cardiosoft": 2.5}


@pytest.fixture(scope="module")
def real(make_real_corpus):
    return make_real_corpus("--task", "ABNORM", "--limit", "300", "--defects")


@pytest.fixture(scope="module")
def real_store(real, tmp_path_factory):
    return build(
        real / "manifest.csv",
        tmp_path_factory.mktemp("real") / "s.zarr",
        BuildSettings(),
        covariates=("age", "sex"),
        max_rejected=0.1,
    )


def test_every_defect_has_its_expected_status(real, real_store):
    with (real / "manifest.csv").open() as file:
        row_of = {row["path_xml"]: i for i, row in enumerate(csv.DictReader(file))}
    with (real / "defects.csv").open() as file:
        defects = list(csv.DictReader(file))
    status = [STATUSES[code] for code in real_store.array("status")]
    for defect in defects:
        found = status[row_of[defect["path_xml"]]]
        assert found == defect["expected_status"], defect["defect"]
    lead_mask = real_store.array("lead_mask")
    assert lead_mask[row_of["xml/defect_lead_I_missing_III_present.xml"]].all()
    without_v3 = lead_mask[row_of["xml/defect_lead_V3_missing.xml"]]
    assert without_v3.tolist() == [lead != "V3" for lead in LEADS]
    n_defects = sum(defect["expected_status"] != "ok" for defect in defects)
    n_originals = 2  # of the exact copy and of the re-export
    assert sum(name != "ok" for name in status) == n_defects + n_originals


def test_readers_return_the_truth(real):
    with np.load(real / "truth_uv.npz") as truth:
        for name in truth.files:
            recording = read_recording(real / "xml" / f"{name}.xml")
            expected = dict(zip(TWELVE_LEADS, truth[name], strict=True))
            for lead, uv in recording.leads_uv.items():
                error_uv = np.abs(uv - expected[lead]).max()
                assert error_uv <= TOLERANCE_UV[recording.dialect]


def test_recordings_at_500_hz_are_stored_within_half_a_microvolt_of_what_was_read(real, real_store):
    native = np.flatnonzero(real_store.array("rate_hz") == 500)[:40]
    with (real / "manifest.csv").open() as file:
        paths = [row["path_xml"] for row in csv.DictReader(file)]
    stored = real_store.gather(native, np.empty((len(native), 8, 5000), np.int16))
    for waveform, row in zip(stored, native, strict=True):
        leads = read_recording(real / paths[row]).leads_uv
        for k, lead in enumerate(LEADS):
            if lead in leads:
                assert np.abs(waveform[k] - leads[lead]).max() <= 0.5 + 1e-9


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_plain_cnn_passes_0_90(make_real_corpus, tmp_path):
    corpus = make_real_corpus("--task", "ABNORM", "--defects")

    def run(command: str) -> bytes:
        arguments = [sys.executable, "-m", *command.split()]
        return subprocess.run(arguments, cwd=tmp_path, check=True, capture_output=True).stdout

    manifest = corpus / "manifest.csv"
    run(f"ecgprep.cli build {manifest} s.zarr --registry r.csv --jobs 2")
    run("ecgfit.cli train --store s.zarr --outdir r")
    result = json.loads(run("ecgfit.cli eval --store s.zarr --run r --json"))
    assert result["metrics"]["auroc"]["value"] > 0.90
