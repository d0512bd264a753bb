"""Figures are the same bytes again, hold nothing foreign, and say what may not be drawn."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ecgfit.metrics.curves import probability_histogram
from ecgfit.reports.figures import ForestRow, ecg, forest, histograms
from ecgfit.reports.wording import (
    between,
    interval_or_reason,
    number,
    percent,
    rule_in_words,
    split_name,
    with_interval,
)


def test_a_figure_is_the_same_bytes_again():
    label, probability = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.4, 0.6])
    drawn = [histograms(probability_histogram(label, probability), 0.5) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith("<svg viewBox=")
    assert not re.search(r"xmlns|metadata|<!--|<style|xlink", drawn[0])


def test_names_in_figures_are_escaped_and_not_read_as_formulas():
    svg = forest([ForestRow("<b>$_{", "1", 0.5, (0.4, 0.6))], None, "x")
    assert "&lt;b&gt;$_{" in svg


def test_a_forest_says_what_may_not_be_drawn():
    rows = [
        ForestRow("sex", heading=True),
        ForestRow("0", "40 (12)", 0.5, (0.4, 0.6)),
        ForestRow("1", "– (–)", note="not shown: small numbers"),
    ]
    svg = forest(rows, 0.5, "AUROC")
    assert "0.500 (0.400 to 0.600)" in svg
    assert "not shown: small numbers" in svg
    assert "patients (positive)" in svg


def test_an_interval_without_width_is_not_shown_as_one():
    """Recordings judged one by one have no score interval: the reason is said instead."""
    reason = "no true interval: every resample gives the same"
    entry = {"value": 1.0, "ci95": [1.0, 1.0], "reason": reason}
    assert between(entry) == ""
    assert interval_or_reason(entry) == reason
    assert with_interval(entry) == "1.000"
    assert "0.500 (" not in forest([ForestRow("all", "", 0.5, (0.5, 0.5))], 0.5, "AUROC")


@pytest.mark.parametrize(("deepest_uv", "bottom_mv"), [(0, -9.0), (-4000, -11.6), (-30000, -13.0)])
def test_deep_waves_of_the_lowest_line_enlarge_the_paper(deepest_uv, bottom_mv):
    waveform_uv = np.zeros((8, 1000), np.int16)
    waveform_uv[7] = deepest_uv
    figure = ecg.__wrapped__(waveform_uv, np.ones(8, bool), 100.0)
    assert figure.axes[0].get_ylim()[0] == pytest.approx(bottom_mv)


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.123"), (-0.5, "−0.500"), (None, "undefined")]
)
def test_numbers_have_three_decimals_and_a_minus_sign(value, text):
    assert number(value) == text


def test_intervals_and_percentages_in_words():
    assert between({"ci95": [-0.25, 0.5]}) == "−0.250 to 0.500"
    assert between({"ci95": None}) == ""
    assert percent(0.874) == "87 %"
    assert percent(None) == "undefined"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val", "validation"),
        ("oof", "out-of-fold"),
        ("test_none", "test, recordings one by one"),
        ("external_0123456789ab_max", "external 0123456789ab, max of recordings"),
    ],
)
def test_splits_have_readable_names(name, text):
    assert split_name(name) == text


def test_rules_are_said_in_words():
    assert rule_in_words("npv=0.95") == (
        "the highest threshold with a negative predictive value of at least 0.95"
    )
    assert rule_in_words("fixed=0.3") == "the threshold 0.3, fixed in advance"
