"""Thresholds are those of an exhaustive search, also in every bootstrap replicate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ecgfit.metrics.bootstrap import bootstrap_weights
from ecgfit.metrics.thresholds import choose_threshold, parse_rule, threshold_with_interval

RULES = ["youden", "f1", "sensitivity=0.9", "specificity=0.9", "npv=0.85", "net-benefit=0.2"]


def sample(seed, n, ties=False):
    generator = np.random.default_rng(seed)
    label = (generator.random(n) < 0.3).astype(np.int64)
    label[:2] = 0, 1
    score = np.clip(generator.normal(0.4 + 0.2 * label, 0.2), 0.01, 1)
    return label, np.round(score, 1) if ties else score


def candidates(score):
    distinct = np.unique(score)
    nobody = 1.0 if distinct[-1] < 1 else 1 + 1e-15
    return np.r_[(np.r_[0.0, distinct[:-1]] + distinct) / 2, (distinct[-1] + nobody) / 2]


def counts(label, call):
    tp, fp = (call & (label == 1)).sum(), (call & (label == 0)).sum()
    fn, tn = (~call & (label == 1)).sum(), (~call & (label == 0)).sum()
    return tp, fp, fn, tn


def proportion(name, label, call):
    """Return numerator and denominator of what a rule asks for."""
    tp, fp, fn, tn = counts(label, call)
    return {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "npv": (tn, tn + fn),
    }[name]


def merit(name, label, call, value):
    tp, fp, fn, tn = counts(label, call)
    return {
        "youden": tp / (tp + fn) + tn / (tn + fp),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "net-benefit": tp - fp * value / (1 - value),
    }[name]


def brute_force(label, score, rule):
    """Try every candidate with the plain formulas; None where no candidate satisfies the rule."""
    name, _, number = rule.partition("=")
    value = float(number or "nan")
    if name in ("sensitivity", "specificity", "npv"):
        return last_that_satisfies(label, score, name, value)
    best, best_merit = None, -np.inf
    for threshold in candidates(score):  # ascending: of equal ones the highest is taken
        call = score >= threshold
        if name != "net-benefit" and not call.any():
            continue
        of_threshold = merit(name, label, call, value)
        if of_threshold >= best_merit - 1e-9:
            best, best_merit = threshold, of_threshold
    return best


def last_that_satisfies(label, score, name, value):
    """Return the highest threshold with that proportion, and the lowest with that specificity."""
    satisfying = []
    for threshold in candidates(score):
        numerator, denominator = proportion(name, label, score >= threshold)
        if denominator and numerator / denominator >= value:
            satisfying.append(threshold)
    if not satisfying:
        return None
    return satisfying[0] if name == "specificity" else satisfying[-1]


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 10_000), ties=st.booleans(), n=st.integers(2, 60))
@settings(max_examples=40, deadline=None)
def test_threshold_is_that_of_an_exhaustive_search(rule, seed, ties, n):
    label, score = sample(seed, n, ties)
    expected = brute_force(label, score, rule)
    if expected is None:
        with pytest.raises(ValueError, match="best negative predictive value"):
            choose_threshold(label, score, rule)
    else:
        assert choose_threshold(label, score, rule) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("clustered", [False, True])
def test_replicates_apply_the_rule_anew_to_the_drawn_patients(rule, clustered):
    label, score = sample(5, 80, ties=True)
    cluster = np.arange(80) // 2 if clustered else None
    result = threshold_with_interval(label, score, rule, seed=3, n_bootstrap=60, cluster=cluster)
    expected = []
    for w in np.concatenate(list(bootstrap_weights(80, 3, 60, cluster))):
        rows = np.repeat(np.arange(80), w.astype(int))
        expected.append(brute_force(label[rows], score[rows], rule))
    defined = [t for t in expected if t is not None]
    np.testing.assert_allclose(result["ci95"], np.quantile(defined, [0.025, 0.975]))
    assert result["n_undefined_replicates"] == 60 - len(defined)
    assert result["value"] == choose_threshold(label, score, rule)
    assert result["note"] is None


@pytest.mark.parametrize("rule", ["youden", "f1"])
@pytest.mark.parametrize("seed", range(10))
def test_threshold_is_the_best_of_all(rule, seed):
    label, score = sample(seed, 80, ties=seed % 2 == 0)

    def value(threshold):
        call = score >= threshold
        if rule == "f1":
            return sk.f1_score(label, call, zero_division=0)
        return sk.recall_score(label, call) + sk.recall_score(label, call, pos_label=0) - 1

    chosen = choose_threshold(label, score, rule)
    assert value(chosen) == pytest.approx(max(value(t) for t in np.r_[np.unique(score), 1.1]))
    assert chosen not in score  # midway between two scores, so that rounding decides nothing


def test_interval_holds_what_another_validation_set_would_choose():
    label, score = sample(8, 400)
    low, high = threshold_with_interval(label, score, "sensitivity=0.8", 0, n_bootstrap=400)["ci95"]
    others = [choose_threshold(*sample(seed, 400), "sensitivity=0.8") for seed in range(100, 160)]
    assert np.mean([low <= t <= high for t in others]) > 0.6
    assert high - low < 0.2


@pytest.mark.parametrize(
    "text",
    [
        "best",
        "youden=0.5",
        "f1=",
        "sensitivity",
        "sensitivity=",
        "sensitivity=1",
        "npv=0",
        "npv=nan",
        "fixed=two",
        "",
    ],
)
def test_unknown_rules_are_refused_with_what_is_allowed(text):
    allowed = "must be youden, f1, sensitivity=X, specificity=X, npv=X, net-benefit=P or fixed=X"
    with pytest.raises(ValueError, match=allowed):
        parse_rule(text)
    with pytest.raises(ValueError, match=allowed):
        choose_threshold(np.array([0, 1]), np.array([0.1, 0.9]), text)


def test_rules_are_split_into_name_and_value():
    assert parse_rule("youden") == ("youden", None)
    assert parse_rule(" net-benefit=0.05 ") == ("net-benefit", 0.05)


def test_fixed_is_the_value_itself_whatever_the_data():
    result = threshold_with_interval(np.array([0, 1]), np.array([0.1, 0.9]), "fixed=0.3", seed=0)
    assert (result["value"], result["ci95"]) == (0.3, [0.3, 0.3])


def test_npv_out_of_reach_says_what_is_in_reach():
    label, score = np.array([1, 0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    with pytest.raises(ValueError, match=r"is 0\.7500"):
        choose_threshold(label, score, "npv=0.9")
    assert choose_threshold(label, score, "npv=0.75") == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("rule", "label"), [("youden", 1), ("f1", 0), ("sensitivity=0.9", 0), ("specificity=0.9", 1)]
)
def test_a_rule_without_the_patients_it_needs_is_refused(rule, label):
    with pytest.raises(ValueError, match="needs .* in the data"):
        choose_threshold(np.full(5, label), np.linspace(0.1, 0.9, 5), rule)


def test_calling_nobody_positive_is_noted_and_does_so_even_at_probability_1():
    label, score = np.array([0, 1, 0, 0, 0]), np.array([0.2, 0.3, 0.9, 0.95, 1.0])
    result = threshold_with_interval(label, score, "specificity=0.9", seed=0, n_bootstrap=20)
    assert not (score >= result["value"]).any()
    assert result["note"] == "this threshold calls nobody positive"


def test_calling_everyone_positive_is_noted():
    label, score = np.array([1, 0, 1]), np.array([0.2, 0.3, 0.9])
    result = threshold_with_interval(label, score, "sensitivity=0.9", seed=0, n_bootstrap=20)
    assert result["note"] == "this threshold calls everyone positive"


def test_neighbouring_floating_point_numbers_are_still_separated():
    low = 0.5
    high = np.nextafter(low, 1)
    chosen = choose_threshold(np.array([0, 1]), np.array([low, high]), "youden")
    assert low < chosen <= high
