"""The report of a store: its numbers are the store's, and small ones are hidden."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from helpers import build, write_manifest
from pages import CHROMIUM, assert_chromium_renders, assert_whole_and_refers_to_nothing

from ecgprep.building.plan import BuildSettings
from ecgprep.patients.registry import SplitPlan
from ecgprep.reports.html import report_content, write_report
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import muse
from ecgprep.store.reader import Store

N_ECGS = 3


@pytest.fixture(scope="module")
def messy(tmp_path_factory) -> Store:
    """A store with a missing file, a conflict, a duplicate, a flat lead, a wandering baseline."""
    folder = tmp_path_factory.mktemp("report")
    rows = []
    for i in range(30):
        generator = np.random.default_rng(300 + i)
        uv = simulate(Heart.draw(generator, i % 2), 500, generator)
        if i == 3:
            uv[8, 1000:2000] = 0
        if i == 4:
            uv = uv + 1500 * np.sin(2 * np.pi * 0.3 * np.arange(5000) / 500)
        (folder / f"{i}.xml").write_bytes(muse(uv, 500, "X"))
        rows.append((f"P{i}", f"{i}.xml", i % 2))
    rows += [("P9", "absent.xml", 0), ("P5", "5.xml", 1), ("P99", "6.xml", 0)]
    write_manifest(folder / "m.csv", rows)
    settings = BuildSettings(plan=SplitPlan(allow_missing_class=True))
    return build(folder / "m.csv", folder / "s.zarr", settings, max_rejected=0.5)


@pytest.fixture(scope="module")
def exact(messy) -> dict:
    return report_content(messy, 0, exact=True)


@pytest.fixture(scope="module")
def page(messy, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page") / "r.html"
    write_report(messy, out, N_ECGS)
    return out


def test_flow_adds_up(exact):
    assert exact["flow"] == {
        "rows": "33",
        "failed": {"n": "1", "reasons": ["file_missing 1"]},
        "read": "32",
        "excluded": {"n": "3", "reasons": ["conflict 2", "duplicate 1"]},
        "used": "29",
    }


def test_splits_are_those_of_the_store(messy, exact):
    split, patient = np.array(messy.array("split")), np.array(messy.array("patient"))
    n_patients = [len(set(patient[split == k])) for k in range(3)]
    assert [int(row["patients"]) for row in exact["splits"]] == n_patients
    assert [row["asked"] for row in exact["splits"]] == ["70 %", "15 %", "15 %"]
    achieved = [f"{100 * n / sum(n_patients):.1f} %" for n in n_patients]
    assert [row["achieved"] for row in exact["splits"]] == achieved


def test_tables_count_the_recordings_used_and_the_positive_ones(messy, exact):
    used = np.array(messy.array("patient")) >= 0
    n_positive = str(int((np.array(messy.array("label"))[used] == 1).sum()))
    tables = {table["title"]: table for table in exact["tables"]}
    assert list(tables) == ["source rate", "leads present", "signal", "dialect", "lead present"]
    assert tables["source rate"]["rows"] == [("500 Hz", "29", n_positive)]
    assert tables["dialect"]["rows"] == [("muse", "29", n_positive)]
    assert tables["signal"]["rows"] == [("whole length", "29", n_positive)]
    assert tables["signal"]["note"] == "median 10.0 s, shortest 10.0 s"
    assert [row[0] for row in tables["lead present"]["rows"]] == "I II V1 V2 V3 V4 V5 V6".split()


def test_quality_counts_recordings_and_leads(exact):
    flags = {flag["name"]: flag for flag in exact["quality"]}
    assert flags["flat"]["records"] == "1"
    assert flags["flat"]["leads"] == ["0", "0", "0", "0", "1", "0", "0", "0"]
    assert flags["baseline_wander"]["records"] == "1"


def test_duplicates_are_listed_by_data_row(exact):
    assert exact["duplicates"] == [
        "row 6: ok, row 32: duplicate",
        "row 7: conflict, row 33: conflict",
    ]


def test_small_counts_are_hidden_unless_asked_for(messy):
    content = report_content(messy, 0)
    shown = json.dumps([content[key] for key in ("flow", "splits", "tables", "quality")])
    assert not re.search(r'"(conflict |duplicate |file_missing )?[1-9]"', shown)
    assert '"conflict <10"' in shown


def test_page_is_whole_private_and_refers_to_nothing(page):
    text = page.read_text()
    assert_whole_and_refers_to_nothing(text)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    for section in ("flow", "splits", "probe", "quality", "copies"):
        assert f'id="{section}"' in text


def test_page_draws_a_sample_and_recordings_with_each_flag(page):
    text = page.read_text()
    kinds = re.findall(r"<figcaption>(.*?) <span", text)
    assert kinds.count("random sample") == N_ECGS
    assert {"flat", "baseline_wander"} <= set(kinds)
    assert text.count("<figure>") == len(kinds)
    assert "The ECGs below can identify a patient" in text.replace("\n", " ")


def test_a_page_without_ecgs_does_not_claim_to_show_any(messy, tmp_path):
    write_report(messy, tmp_path / "r.html", n_ecgs=0)
    text = (tmp_path / "r.html").read_text()
    assert "<figure>" not in text
    assert "can identify a patient" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.full
def test_chromium_renders_it_without_error_or_request(page, tmp_path):
    assert "left out" in assert_chromium_renders(page, tmp_path, height=2400)
