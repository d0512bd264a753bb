"""The simulator keeps the physics of leads, and the corpus is a function of its arguments."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from ecgprep.errors import TargetExists
from ecgprep.leads import TWELVE_LEADS
from ecgprep.simulation.corpus import write_corpus
from ecgprep.simulation.simulator import Heart, simulate


def corpus_bytes(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_leads_obey_einthoven_and_goldberger(uv):
    lead = dict(zip(TWELVE_LEADS, uv.astype(float), strict=True))
    assert np.abs(lead["I"] + lead["III"] - lead["II"]).max() <= 1.5  # whole µV
    assert np.abs(lead["aVR"] + lead["aVL"] + lead["aVF"]).max() <= 1.5


def test_waves_look_like_an_ecg(uv):
    lead = dict(zip(TWELVE_LEADS, uv, strict=True))
    assert 500 < lead["V5"].max() < 3000  # R wave in µV
    assert lead["V1"].min() < -300  # rS in V1, R in V5: normal R progression
    assert lead["aVR"].min() < -400


def test_rate_is_that_of_the_heart():
    generator = np.random.default_rng(1)
    heart = Heart(
        rate_bpm=90, qtc_s=0.41, qrs_width=1, r_scale=1.2, t_scale=0.6, t_turn=0, axis_turn=0
    )
    counts = []
    for _ in range(10):
        x = simulate(heart, 500, generator)[TWELVE_LEADS.index("V5")].astype(float)
        x -= np.median(x)
        counts.append(np.count_nonzero((x[1:] > 0.5 * x.max()) & (x[:-1] <= 0.5 * x.max())))
    assert 80 < 6 * np.mean(counts) < 100


def test_same_arguments_give_the_same_bytes_and_more_patients_start_the_same(tmp_path):
    for name, patients in (("a", 8), ("b", 8), ("c", 12)):
        write_corpus(tmp_path / name, patients=patients, seed=3, prevalence=0.5)
    a, b, c = (corpus_bytes(tmp_path / name) for name in "abc")
    assert a == b
    assert {name: c[name] for name in a if name.name != "manifest.csv"} == {
        name: data for name, data in a.items() if name.name != "manifest.csv"
    }


def test_existing_corpus_is_kept(tmp_path):
    write_corpus(tmp_path, patients=1, seed=3, prevalence=0.5)
    with pytest.raises(TargetExists):
        write_corpus(tmp_path, patients=1, seed=4, prevalence=0.5)


def test_label_cannot_be_told_from_dialect_rate_or_number(tmp_path):
    write_corpus(tmp_path, patients=400, seed=4, prevalence=0.5)
    rows = list(csv.DictReader((tmp_path / "manifest.csv").read_text().splitlines()))
    muse = {"1": [], "0": []}
    for row in rows:
        muse[row["label"]].append(
            b"<RestingECG>" in (tmp_path / row["path_xml"]).read_bytes()[:200]
        )
    assert abs(np.mean(muse["1"]) - np.mean(muse["0"])) < 0.1
    assert abs(len(muse["1"]) - len(muse["0"])) < 0.15 * len(rows)
