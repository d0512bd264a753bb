"""Calibration is that of statsmodels, never reverses a ranking, and survives separated classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from ecgfit.metrics.calibration import Calibration, fit_calibration
from ecgfit.metrics.definitions import calibration_metrics


def distorted(
    seed: int, n: int = 300, slope: float = 3.0, shift: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logit differences that are `slope` times too large and shifted, and labels."""
    generator = np.random.default_rng([seed, 5])
    truth = generator.normal(-1, 1.5, n)
    return slope * truth + shift, (generator.random(n) < 1 / (1 + np.exp(-truth))).astype(np.int64)


@pytest.mark.parametrize("seed", range(5))
def test_platt_equals_statsmodels_with_fractional_targets(seed):
    d, label = distorted(seed)
    n1, n0 = label.sum(), (1 - label).sum()
    target = np.where(label == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    fitted = fit_calibration("platt", d, label)
    model = sm.GLM(target, sm.add_constant(d), sm.families.Binomial())
    by_statsmodels = model.fit(tol=1e-13).params
    np.testing.assert_allclose([fitted.intercept, fitted.slope], by_statsmodels, rtol=1e-9)
    assert fitted.note == ""


@pytest.mark.parametrize("seed", range(5))
def test_temperature_maximises_the_likelihood(seed):
    d, label = distorted(seed, shift=0.0)
    fitted = fit_calibration("temperature", d, label)
    margin = np.where(label == 1, d, -d)
    best = minimize_scalar(
        lambda t: np.logaddexp(0, -margin / t).sum(),
        bounds=(0.1, 20),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert 1 / fitted.slope == pytest.approx(best.x, rel=1e-5)
    no_constant = sm.GLM(label, d, sm.families.Binomial()).fit(tol=1e-13).params[0]
    assert fitted.slope == pytest.approx(no_constant, rel=1e-7)
    assert (fitted.intercept, fitted.note) == (0.0, "")


def test_platt_brings_slope_and_intercept_of_validation_near_1_and_0():
    d, label = distorted(1, 2000)
    once = np.ones((1, 2000))
    before = calibration_metrics(label, Calibration("none", 1.0, 0.0).apply(d), once)
    after = calibration_metrics(label, fit_calibration("platt", d, label).apply(d), once)
    assert before["calibration_slope"][0] < 0.5
    assert after["calibration_slope"][0] == pytest.approx(1, abs=0.02)
    assert after["calibration_intercept"][0] == pytest.approx(0, abs=0.01)
    assert after["brier"][0] < before["brier"][0]


def test_none_leaves_the_logits_as_they_are():
    d, label = distorted(0)
    fitted = fit_calibration("none", d, label)
    assert fitted == Calibration("none", 1.0, 0.0)
    np.testing.assert_allclose(fitted.apply(d), 1 / (1 + np.exp(-d)))


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_separated_classes_stay_finite_and_keep_their_order(method):
    d, label = np.array([-3.0, -2.0, 2.0, 5.0]), np.array([0, 0, 1, 1])
    fitted = fit_calibration(method, d, label)
    assert 0 < fitted.slope < 10
    assert (np.diff(fitted.apply(d)) > 0).all()
    assert ("without error" in fitted.note) == (method == "temperature")


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_a_validation_that_ranks_backwards_does_not_reverse_the_ranking(method):
    d, label = distorted(2, shift=0.0)
    fitted = fit_calibration(method, -d, label)
    assert fitted.slope == 1.0
    assert "slope is not positive" in fitted.note
    n1, n0 = label.sum(), (1 - label).sum()
    smoothed = label.mean() * (n1 + 1) / (n1 + 2) + (1 - label.mean()) / (n0 + 2)
    assert fitted.apply(-d).mean() == pytest.approx(smoothed)


@pytest.mark.parametrize("method", ["temperature", "platt"])
@pytest.mark.parametrize(
    ("d", "label"),
    [([1.0, 2.0, 3.0], [1, 1, 1]), ([1.0, 2.0, 3.0], [0, 0, 0]), ([0.0, 0.0, 0.0], [0, 1, 1])],
)
def test_one_class_or_equal_logits_fit_the_intercept_only(method, d, label):
    fitted = fit_calibration(method, np.array(d), np.array(label))
    assert fitted.slope == 1.0
    assert np.isfinite(fitted.intercept)
    assert "only the intercept is fitted" in fitted.note


@pytest.mark.parametrize("least", [2.4e-265, 5e-324, 1e-13])
def test_logits_that_differ_by_next_to_nothing_are_equal(least):
    fitted = fit_calibration("platt", np.array([0.0, least]), np.array([0, 1]))
    assert fitted.slope == 1.0
    assert "all logits are equal" in fitted.note


@given(
    d=st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=2, max_size=40),
    seed=st.integers(0, 1000),
    method=st.sampled_from(["none", "temperature", "platt"]),
)
@settings(max_examples=80, deadline=None)
def test_any_fit_is_positive_monotone_and_within_0_and_1(d, seed, method):
    d = np.sort(np.array(d))
    label = np.random.default_rng(seed).integers(0, 2, len(d))
    fitted = fit_calibration(method, d, label)
    p = fitted.apply(d)
    assert fitted.slope > 0
    assert np.isfinite(fitted.intercept)
    assert (np.diff(p) >= 0).all()
    assert ((p >= 0) & (p <= 1)).all()
    assert Calibration.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


def test_the_sigmoid_does_not_overflow():
    sigmoid = Calibration("none", 1.0, 0.0).apply
    assert sigmoid(np.array([-1e5, 0.0, 1e5])).tolist() == [0.0, 0.5, 1.0]
    assert sigmoid(np.array([-700.0]))[0] == pytest.approx(np.exp(-700), rel=1e-12)


GOOD = {"method": "platt", "slope": 0.5, "intercept": -1.0, "note": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must hold"),
        ({"method": "platt"}, "must hold"),
        (GOOD | {"method": "isotonic"}, "isotonic"),
        (GOOD | {"slope": "1"}, r"slope \(=1\) must be a finite number"),
        (GOOD | {"slope": float("nan")}, "finite"),
        (GOOD | {"intercept": True}, r"intercept \(=True\) must be a finite number"),
        (GOOD | {"slope": -1.0}, "must be positive, as any other would reverse the ranking"),
        (GOOD | {"note": None}, "note must be text"),
        (GOOD | {"more": 1}, "nothing else"),
    ],
)
def test_a_damaged_file_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        Calibration.from_json(content)


@pytest.mark.parametrize(
    ("method", "d", "label", "message"),
    [
        ("isotonic", [1.0], [1], r"method \(=isotonic\) must be one of none, temperature, platt"),
        ("platt", [], [], "at least one entry"),
        ("platt", [np.inf], [1], "d must be finite"),
        ("platt", [1.0], [2], "labels must be 0 or 1"),
    ],
)
def test_input_that_cannot_be_fitted_is_refused(method, d, label, message):
    with pytest.raises(ValueError, match=message):
        fit_calibration(method, np.array(d, float), np.array(label, np.int64))
