"""The simulator keeps the physics of leads, and the corpus is a function of its arguments."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ecgprep.errors import TargetExists
from ecgprep.leads import TWELVE_LEADS
from ecgprep.simulation import corpus as corpus_module
from ecgprep.simulation.corpus import write_corpus
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import VENDORS


def corpus_bytes(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def name_and_rate(dialect: str, _uv: np.ndarray, rate_hz: int, _code: str, **_) -> bytes:
    return f"{dialect} {rate_hz}".encode()


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
    n_beats = []
    for _ in range(10):
        x = simulate(heart, 500, generator)[TWELVE_LEADS.index("V5")].astype(float)
        x -= np.median(x)
        is_r_wave = x > 0.5 * x.max()
        n_beats.append(np.count_nonzero(is_r_wave[1:] & ~is_r_wave[:-1]))
    beats_per_minute = 6 * np.mean(n_beats)
    assert 80 < beats_per_minute < 100


def test_same_arguments_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_corpus(tmp_path / name, patients=8, seed=3, prevalence=0.5)
    assert corpus_bytes(tmp_path / "a") == corpus_bytes(tmp_path / "b")


def test_larger_corpus_starts_with_the_smaller_one(tmp_path):
    for name, patients in (("small", 3), ("large", 5)):
        write_corpus(tmp_path / name, patients=patients, seed=3, prevalence=0.5)
    small, large = corpus_bytes(tmp_path / "small"), corpus_bytes(tmp_path / "large")
    for table in (Path("manifest.csv"), Path("headers.csv")):
        assert large.pop(table).startswith(small.pop(table))
    assert small.items() <= large.items()


def test_existing_corpus_is_kept(tmp_path):
    write_corpus(tmp_path, patients=1, seed=3, prevalence=0.5)
    with pytest.raises(TargetExists):
        write_corpus(tmp_path, patients=1, seed=4, prevalence=0.5)


def test_label_cannot_be_told_from_dialect_rate_or_number(tmp_path, monkeypatch):
    """Files hold the sampling rate instead of samples: only what is drawn matters here."""
    for dialect in VENDORS:
        monkeypatch.setitem(VENDORS, dialect, partial(name_and_rate, dialect))
    monkeypatch.setattr(corpus_module, "simulate", lambda *_: np.zeros((12, 1), int))
    write_corpus(tmp_path, patients=2000, seed=4, prevalence=0.5)
    rows = list(csv.DictReader((tmp_path / "manifest.csv").read_text().splitlines()))
    by_label: dict[str, list[str]] = {"0": [], "1": []}
    for row in rows:
        by_label[row["label"]].append((tmp_path / row["path_xml"]).read_text())
    assert abs(len(by_label["1"]) - len(by_label["0"])) < 0.07 * len(rows)
    for text in ("muse 500", "muse 250", "aecg 500", "aecg 250", "cardiosoft 500"):
        shares = [files.count(text) / len(files) for files in by_label.values()]
        assert min(shares) > 0.05
        assert abs(shares[0] - shares[1]) < 0.05
