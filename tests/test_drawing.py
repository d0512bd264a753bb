"""ECGs are drawn to scale, and leads that were not recorded stay empty."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from ecgprep.drawing import MARK, PAPER_SVG, draw_ecg, save_ecg, svg_ecg
from ecgprep.leads import LEADS

RATE_HZ = 500


@pytest.fixture(scope="module")
def waveform_uv(uv) -> np.ndarray:
    """The eight leads of a store, (8, 5000)."""
    return np.vstack([uv[:2], uv[6:]]).astype(np.int16)


ALL = np.ones(8, bool)
WITHOUT_V1 = np.arange(8) != LEADS.index("V1")


def points_mm(path: tuple[str, str, str]) -> np.ndarray:
    """Add up the steps of a path, in hundredths of a millimetre: (n, 2) mm."""
    x, y, moves = path
    steps = [[int(n) for n in step.split()] for step in moves.split("l")[1:]]
    return np.vstack([[int(x), int(y)], steps]).cumsum(axis=0) / 100


def paths(svg: str) -> list[tuple[str, str, str]]:
    return re.findall(r' d="M(\d+) (-?\d+)((?:l-?\d+ -?\d+)+)"', svg)


def test_svg_is_the_waveform_at_25_mm_a_second_and_10_mm_a_millivolt(waveform_uv):
    svg = svg_ecg(waveform_uv, ALL, (0, 5000), RATE_HZ)
    assert 'width="250mm" height="160mm"' in svg
    assert len(paths(svg)) == 8
    found = points_mm(paths(svg)[3])
    v2_mv = waveform_uv[3, ::2] / 1000
    np.testing.assert_allclose(found[:, 0], np.arange(2500) / 250 * 25, atol=0.006)
    expected = 3.5 * 20 - (v2_mv - np.median(v2_mv)) * 10
    np.testing.assert_allclose(found[:, 1], expected, atol=0.006)


def test_svg_draws_only_the_samples_that_are_signal(waveform_uv):
    svg = svg_ecg(waveform_uv, ALL, (1000, 4000), RATE_HZ)
    time_mm = points_mm(paths(svg)[0])[:, 0]
    assert (time_mm[0], time_mm[-1]) == (50.0, pytest.approx(200.0, abs=0.2))


def test_svg_names_marked_leads_in_red_and_missing_ones_as_such(waveform_uv):
    svg = svg_ecg(waveform_uv, WITHOUT_V1, (0, 5000), RATE_HZ, ["V2"])
    assert re.findall(r'fill="#b00020">([^<]+)<', svg) == ["V2"]
    assert ">V1 (none)<" in svg
    assert len(paths(svg)) == 7


def test_svg_refers_to_the_paper_that_the_page_holds(waveform_uv):
    svg = svg_ecg(waveform_uv, ALL, (0, 5000), RATE_HZ)
    references = re.findall(r"url\(#(\w+)\)", svg + PAPER_SVG)
    assert set(references) <= set(re.findall(r'id="(\w+)"', PAPER_SVG))


def test_axes_hold_the_first_seconds_of_four_leads_and_the_next_of_the_others(waveform_uv):
    axes = Figure().subplots()
    draw_ecg(axes, waveform_uv, ALL, RATE_HZ, "a title", seconds=2.0)
    assert axes.get_title() == "a title"
    lines = axes.get_lines()
    assert len(lines) == 8
    for k, first, start_s, baseline_mv in ((1, 0, 0.0, -2.5), (6, 1000, 2.0, -5.0)):
        time_s, value_mv = lines[k].get_data()
        np.testing.assert_allclose(time_s, start_s + np.arange(1000) / RATE_HZ)
        expected_mv = waveform_uv[k, first : first + 1000] / 1000 + baseline_mv
        np.testing.assert_allclose(value_mv, expected_mv)


def test_axes_have_the_proportions_of_ecg_paper_and_name_missing_leads(waveform_uv):
    axes = Figure().subplots()
    draw_ecg(axes, waveform_uv, WITHOUT_V1, RATE_HZ, "")
    assert axes.get_aspect() == pytest.approx(10 / 25)
    assert "V1 (none)" in {text.get_text() for text in axes.texts}
    assert len(axes.get_lines()) == 7


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")]
)
def test_the_suffix_chooses_the_kind_of_picture(waveform_uv, tmp_path, suffix, start):
    path = tmp_path / f"ecg{suffix}"
    save_ecg(path, waveform_uv, ALL, RATE_HZ)
    content = path.read_bytes()
    assert content.startswith(start)
    assert MARK.encode() in content
