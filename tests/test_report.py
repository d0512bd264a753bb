"""The report: its numbers are the store's, small ones are hidden, and a browser shows it without error or request."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import build, write_manifest

from ecgprep.building.plan import BuildSettings
from ecgprep.drawing import draw_svg
from ecgprep.patients.registry import SplitPlan
from ecgprep.reports.disclosure import CountFormatter
from ecgprep.reports.html import report_content, write_report
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import muse

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """A store with a missing file, a conflict, a duplicate, a flat lead and a wandering baseline."""
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
    return build(
        folder / "m.csv",
        folder / "s.zarr",
        BuildSettings(plan=SplitPlan(allow_missing_class=True)),
        max_rejected=0.5,
    )


@pytest.fixture(scope="module")
def page(messy, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page") / "r.html"
    write_report(messy, out, n_ecgs=3)
    return out


def test_flow_adds_up(messy):
    flow = report_content(messy, 0, exact=True)["flow"]
    assert [(step["n"], step["n_out"]) for step in flow] == [("33", "1"), ("32", "3"), ("29", "")]
    assert flow[0]["out"] == ["file_missing 1"]
    assert flow[1]["out"] == ["conflict 2", "duplicate 1"]


def test_splits_and_tables_are_those_of_the_store(messy):
    content = report_content(messy, 0, exact=True)
    split, patient = np.array(messy.array("split")), np.array(messy.array("patient"))
    assert [int(row["patients"]) for row in content["splits"]] == [
        len(set(patient[split == k])) for k in range(3)
    ]
    assert [row["asked"] for row in content["splits"]] == ["70 %", "15 %", "15 %"]
    label = np.array(messy.array("label"))[patient >= 0]
    assert content["tables"][0] == {
        "title": "source rate",
        "rows": [("500 Hz", "29", str(int(label.sum())))],
    }
    flags = {flag["name"]: flag for flag in content["quality"]}
    assert flags["flat"]["records"] == "1"
    assert flags["flat"]["leads"] == ["0", "0", "0", "0", "1", "0", "0", "0"]
    assert content["copies"] == [
        "row 6: ok, row 32: duplicate",
        "row 7: conflict, row 33: conflict",
    ]


def test_small_counts_are_hidden_unless_asked_for(messy):
    assert [CountFormatter(False)(n) for n in (0, 1, 9, 10, 1234)] == ["0", "<10", "<10", "10", "1,234"]
    hidden = json.dumps(
        [report_content(messy, 0)[key] for key in ("flow", "splits", "tables", "quality")]
    )
    assert not re.search(r'"(conflict |duplicate |file_missing )?[1-9]"', hidden)


def test_svg_is_the_waveform_on_ecg_paper(messy):
    """The path, added up, is the lead at 25 mm/s and 10 mm/mV."""
    span = tuple(messy.array("valid_span")[0].tolist())
    svg = draw_svg(messy.waveforms[0], messy.array("lead_mask")[0], span, 500, ["V2"])
    assert 'width="250mm" height="160mm"' in svg
    paths = re.findall(r' d="M(\d+) (-?\d+)((?:l-?\d+ -?\d+)+)"', svg)
    assert len(paths) == 8
    x0, y0, moves = paths[3]
    steps = np.array([[int(n) for n in step.split()] for step in moves.split("l")[1:]])
    points = np.vstack([[int(x0), int(y0)], steps]).cumsum(axis=0) / 100
    waveform = np.array(messy.waveforms[0, 3, ::2], float)
    np.testing.assert_allclose(points[:, 0], np.arange(2500) / 250 * 25, atol=0.006)
    np.testing.assert_allclose(
        points[:, 1], 3.5 * 20 - (waveform - np.median(waveform)) / 1000 * 10, atol=0.006
    )
    assert svg.count('fill="#b00020">V2<') == 1


class Links(HTMLParser):
    """Collects what a page refers to, and whether its tags are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.scripts = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.links += [
            value
            for name, value in attrs
            if name in ("href", "src", "xlink:href", "data", "action")
        ]
        self.scripts += tag == "script"
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_refers_to_nothing(messy, page):
    text = page.read_text()
    parser = Links()
    parser.feed(text)
    assert parser.open == []
    assert parser.links == ["data:,"]
    assert parser.scripts == 0
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("<figure>") == len(report_content(messy, 3)["ecgs"]) >= 5


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.full
def test_chromium_renders_it_without_error_or_request(page, tmp_path):
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    command += [
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        f"--log-net-log={tmp_path / 'net.json'}",
    ]
    shot = tmp_path / "shot.png"
    done = subprocess.run(
        [*command, "--window-size=1120,2400", f"--screenshot={shot}", page.as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    assert shot.stat().st_size > 50_000
    asked = set(re.findall(r'"url":"([^"]+)"', (tmp_path / "net.json").read_text()))
    assert not [
        url
        for url in asked
        if str(page.name) not in url
        and not re.match(r"(data|chrome|about|https?://[\w.-]*(google|gvt1)\b)", url)
    ]
    dom = subprocess.run(
        [*command, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    ).stdout
    assert dom.count("<figure>") == page.read_text().count("<figure>")
    assert "left out" in dom
