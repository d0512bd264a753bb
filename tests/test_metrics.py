"""Metrics equal scikit-learn's, also under resampling weights; thresholds are those of an exhaustive search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ecgfit.metrics import auroc_auprc, choose_threshold, curve_metrics, evaluate, threshold_metrics


def sample(seed: int, n: int = 200, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label = (generator.random(n) < 0.3).astype(np.int64)
    label[:2] = 0, 1
    score = np.clip(generator.normal(0.4 + 0.2 * label, 0.2), 0.01, 0.99)
    return label, np.round(score, 1) if ties else score


@given(seed=st.integers(0, 10_000), ties=st.booleans(), n=st.integers(2, 300))
@settings(max_examples=60, deadline=None)
def test_curves_equal_scikit_learn(seed, ties, n):
    label, score = sample(seed, n, ties)
    auroc, auprc = auroc_auprc(label, score)
    np.testing.assert_allclose([auroc, auprc], [sk.roc_auc_score(label, score), sk.average_precision_score(label, score)], rtol=1e-12)


@given(seed=st.integers(0, 10_000), ties=st.booleans())
@settings(max_examples=30, deadline=None)
def test_weighted_metrics_equal_scikit_learn_with_sample_weight(seed, ties):
    label, score = sample(seed, 100, ties)
    weight = np.random.default_rng([seed, 1]).multinomial(100, np.full(100, 0.01), size=3).astype(float)
    call = score >= 0.5
    ours = curve_metrics(label, score, weight) | threshold_metrics(label, call, weight)
    for i, w in enumerate(weight):
        theirs = {
            "auroc": sk.roc_auc_score(label, score, sample_weight=w),
            "auprc": sk.average_precision_score(label, score, sample_weight=w),
            "accuracy": sk.accuracy_score(label, call, sample_weight=w),
            "f1": sk.f1_score(label, call, sample_weight=w),
            "sensitivity": sk.recall_score(label, call, sample_weight=w),
            "specificity": sk.recall_score(label, call, sample_weight=w, pos_label=0),
        }
        np.testing.assert_allclose([ours[name][i] for name in theirs], list(theirs.values()), rtol=1e-10)


def test_one_class_is_undefined_and_never_a_number():
    result = evaluate(np.ones(10, np.int64), np.linspace(0.1, 0.9, 10), 0.5, seed=0, n_bootstrap=50)
    assert result["metrics"]["auroc"]["value"] is None
    assert result["metrics"]["specificity"]["value"] is None
    assert result["metrics"]["sensitivity"]["value"] == 0.5


def test_interval_is_that_of_a_plain_bootstrap():
    label, score = sample(3, 150)
    result = evaluate(label, score, 0.5, seed=1)["metrics"]
    generator = np.random.default_rng(7)
    replicates = []
    while len(replicates) < 2000:
        rows = generator.integers(0, 150, 150)
        if 0 < label[rows].sum() < 150:
            replicates.append(sk.roc_auc_score(label[rows], score[rows]))
    np.testing.assert_allclose(result["auroc"]["ci95"], np.quantile(replicates, [0.025, 0.975]), atol=0.012)


def test_interval_does_not_depend_on_how_much_is_computed_at_once(monkeypatch):
    label, score = sample(3, 150)
    whole = evaluate(label, score, 0.5, seed=1, n_bootstrap=300)
    monkeypatch.setattr("ecgfit.metrics._CELLS_AT_ONCE", 150 * 7)
    assert evaluate(label, score, 0.5, seed=1, n_bootstrap=300) == whole


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


def test_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="must be youden or f1"):
        choose_threshold(np.array([0, 1]), np.array([0.1, 0.9]), "best")
