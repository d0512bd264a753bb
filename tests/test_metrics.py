"""Metrics equal scikit-learn's and statsmodels', also under resampling weights; intervals are those of a plain bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

from ecgfit.metrics.bootstrap import bootstrap_weights
from ecgfit.metrics.curves import (
    decision_curve,
    lowess,
    pr_curve,
    probability_histogram,
    reliability_curve,
    roc_curve,
    wilson_interval,
)
from ecgfit.metrics.definitions import (
    METRICS,
    all_metrics,
    auroc_auprc,
    calibration_metrics,
    curve_metrics,
    equal_mass_bins,
    threshold_metrics,
)
from ecgfit.metrics.delong import delong, delong_interval, delong_test
from ecgfit.metrics.paired import paired_difference
from ecgfit.metrics.summary import compute_metrics


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
    np.testing.assert_allclose(
        [auroc, auprc],
        [sk.roc_auc_score(label, score), sk.average_precision_score(label, score)],
        rtol=1e-12,
    )


@given(seed=st.integers(0, 10_000), ties=st.booleans())
@settings(max_examples=30, deadline=None)
def test_weighted_metrics_equal_scikit_learn_with_sample_weight(seed, ties):
    label, score = sample(seed, 100, ties)
    weight = (
        np.random.default_rng([seed, 1]).multinomial(100, np.full(100, 0.01), size=3).astype(float)
    )
    call = score >= 0.5
    ours = (
        curve_metrics(label, score, weight)
        | threshold_metrics(label, score, 0.5, weight)
        | calibration_metrics(label, score, weight)
    )
    for i, w in enumerate(weight):
        theirs = {
            "auroc": sk.roc_auc_score(label, score, sample_weight=w),
            "auprc": sk.average_precision_score(label, score, sample_weight=w),
            "accuracy": sk.accuracy_score(label, call, sample_weight=w),
            "f1": sk.f1_score(label, call, sample_weight=w),
            "sensitivity": sk.recall_score(label, call, sample_weight=w),
            "specificity": sk.recall_score(label, call, sample_weight=w, pos_label=0),
            "ppv": sk.precision_score(label, call, sample_weight=w, zero_division=np.nan),
            "npv": sk.precision_score(
                label, call, sample_weight=w, pos_label=0, zero_division=np.nan
            ),
            "ruled_out": np.average(~call, weights=w),
            "brier": sk.brier_score_loss(label, score, sample_weight=w),
        }
        np.testing.assert_allclose(
            [ours[name][i] for name in theirs], list(theirs.values()), rtol=1e-10
        )


def test_one_class_is_undefined_and_never_a_number():
    result = compute_metrics(
        np.ones(10, np.int64), np.linspace(0.1, 0.9, 10), 0.5, seed=0, n_bootstrap=50
    )
    assert result["metrics"]["auroc"]["value"] is None
    assert result["metrics"]["specificity"]["value"] is None
    assert result["metrics"]["sensitivity"]["value"] == 0.5


def test_interval_is_that_of_a_plain_bootstrap():
    label, score = sample(3, 150)
    result = compute_metrics(label, score, 0.5, seed=1)["metrics"]
    generator = np.random.default_rng(7)
    replicates = []
    while len(replicates) < 2000:
        rows = generator.integers(0, 150, 150)
        if 0 < label[rows].sum() < 150:
            replicates.append(sk.roc_auc_score(label[rows], score[rows]))
    np.testing.assert_allclose(
        result["auroc"]["ci95"], np.quantile(replicates, [0.025, 0.975]), atol=0.012
    )


def test_interval_does_not_depend_on_how_much_is_computed_at_once(monkeypatch):
    label, score = sample(3, 150)
    whole = compute_metrics(label, score, 0.5, seed=1, n_bootstrap=300)
    monkeypatch.setattr("ecgfit.metrics.bootstrap.CELLS_AT_ONCE", 150 * 7)
    assert compute_metrics(label, score, 0.5, seed=1, n_bootstrap=300) == whole


def simulated(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that are too extreme by a factor of two and too low."""
    generator = np.random.default_rng([seed, 77])
    truth = generator.normal(-1, 1, n)
    label = (generator.random(n) < 1 / (1 + np.exp(-truth))).astype(np.int64)
    return label, 1 / (1 + np.exp(-(2 * truth - 0.5)))


@pytest.mark.parametrize("seed", range(4))
def test_calibration_slope_and_intercept_equal_statsmodels_under_weights(seed):
    label, p = simulated(seed, 150)
    weight = (
        np.random.default_rng(seed).multinomial(150, np.full(150, 1 / 150), size=3).astype(float)
    )
    ours = calibration_metrics(label, p, weight)
    x = np.log(p / (1 - p))
    for i, w in enumerate(weight):
        slope = (
            sm.GLM(label, sm.add_constant(x), sm.families.Binomial(), freq_weights=w)
            .fit(tol=1e-12)
            .params[1]
        )
        intercept = (
            sm.GLM(label, np.ones(150), sm.families.Binomial(), freq_weights=w, offset=x)
            .fit(tol=1e-12)
            .params[0]
        )
        np.testing.assert_allclose(
            [ours["calibration_slope"][i], ours["calibration_intercept"][i]],
            [slope, intercept],
            rtol=1e-7,
        )
        assert ours["observed_expected"][i] == pytest.approx((w @ label) / (w @ p))


def test_calibration_of_true_probabilities_is_slope_1_and_intercept_0():
    generator = np.random.default_rng(5)
    p = generator.beta(1, 3, 20_000)
    result = all_metrics(
        (generator.random(20_000) < p).astype(np.int64), p, 0.5, np.ones((1, 20_000))
    )
    assert result["calibration_slope"][0] == pytest.approx(1, abs=0.06)
    assert result["calibration_intercept"][0] == pytest.approx(0, abs=0.06)
    assert result["ece"][0] < 0.02


@pytest.mark.parametrize(
    "p",
    [[0.1, 0.2, 0.3, 0.8, 0.9], [0.9, 0.8, 0.7, 0.1, 0.2], [0.1, 0.3, 0.3, 0.3, 0.9], [0.4] * 5],
)
def test_a_slope_without_a_finite_answer_is_none_and_the_intercept_is_not(p):
    label = np.array([0, 0, 0, 1, 1])
    result = compute_metrics(label, np.array(p), 0.5, seed=0, n_bootstrap=20)["metrics"]
    assert result["calibration_slope"] == {
        "value": None,
        "ci95": None,
        "reason": result["calibration_slope"]["reason"],
    }
    assert "separates the classes" in result["calibration_slope"]["reason"]
    assert np.isfinite(result["calibration_intercept"]["value"])


def test_calibration_copes_with_probabilities_of_exactly_0_and_1():
    label = np.array([0, 1, 0, 1, 1, 0, 1, 0])
    p = np.array([0, 0, 0, 1, 1, 1, 1, 0.5])
    values = calibration_metrics(label, p, np.ones((1, 8)))
    x = np.log(np.clip(p, 1e-7, 1 - 1e-7) / (1 - np.clip(p, 1e-7, 1 - 1e-7)))
    by_statsmodels = (
        sm.GLM(label, sm.add_constant(x), sm.families.Binomial()).fit(tol=1e-12).params[1]
    )
    assert values["calibration_slope"][0] == pytest.approx(by_statsmodels, rel=1e-6)


def test_ece_is_that_of_a_loop_over_bins_fixed_from_the_whole_sample():
    label, p = simulated(1, 203)
    p = np.round(p, 2)
    weight = np.random.default_rng(1).multinomial(203, np.full(203, 1 / 203), size=5).astype(float)
    index = equal_mass_bins(p)
    assert all(len(set(index[p == value])) == 1 for value in p)
    assert np.bincount(index).max() <= 30
    for w, ours in zip(weight, calibration_metrics(label, p, weight)["ece"], strict=True):
        bins = [(index == b) & (w > 0) for b in range(10) if w[index == b].sum()]
        gaps = [
            w[b].sum()
            / w.sum()
            * abs(np.average(label[b], weights=w[b]) - np.average(p[b], weights=w[b]))
            for b in bins
        ]
        assert ours == pytest.approx(sum(gaps))


def test_net_benefit_is_that_of_the_formula_and_undefined_beyond_1():
    label, p = simulated(2)
    tp, fp = ((p >= 0.2) & (label == 1)).sum(), ((p >= 0.2) & (label == 0)).sum()
    assert threshold_metrics(label, p, 0.2, np.ones((1, 300)))["net_benefit"][0] == pytest.approx(
        tp / 300 - fp / 300 * 0.25
    )
    assert np.isnan(
        threshold_metrics(label, p, np.nextafter(1, 2), np.ones((1, 300)))["net_benefit"][0]
    )


def test_evaluate_names_every_metric_in_order_and_why_some_are_undefined():
    label, p = simulated(3)
    assert tuple(compute_metrics(label, p, 0.3, 0, n_bootstrap=20)["metrics"]) == METRICS
    nobody = compute_metrics(label, p, 0.9999, 0, n_bootstrap=20)["metrics"]
    assert nobody["ppv"] == {
        "value": None,
        "ci95": None,
        "reason": "undefined: nobody is called positive",
    }
    assert nobody["sensitivity"]["value"] == 0


@pytest.mark.parametrize(
    ("label", "p", "message"),
    [
        ([], [], "both must have the same length and at least one entry"),
        ([0, 1], [0.1], "both must have the same length and at least one entry"),
        ([0, 2], [0.1, 0.2], r"label holds \[2\]; only 0 and 1 are allowed"),
        ([0, 1], [0.1, 1.2], r"values that are not numbers within \[0, 1\]"),
        ([0, 1], [0.1, np.nan], r"values that are not numbers within \[0, 1\]"),
    ],
)
def test_labels_and_probabilities_out_of_range_are_refused(label, p, message):
    with pytest.raises(ValueError, match=message):
        compute_metrics(np.array(label, np.int64), np.array(p, float), 0.5, 0)


def test_cluster_bootstrap_is_that_of_a_naive_loop_over_the_same_draws():
    label, p = simulated(4, 120)
    cluster = np.random.default_rng(1).integers(100, 140, 120)
    patients = np.unique(cluster)
    ours = compute_metrics(label, p, 0.3, seed=9, n_bootstrap=200, cluster=cluster)
    weights = np.concatenate(list(bootstrap_weights(120, 9, 200, cluster)))
    expected = []
    for w in weights:
        times = [set(w[cluster == c]) for c in patients]
        assert all(
            len(t) == 1 for t in times
        )  # all of a patient's recordings, or none, equally often
        assert sum(t.pop() for t in times) == len(patients)
        rows = np.concatenate(
            [np.repeat(np.flatnonzero(cluster == c), int(w[cluster == c][0])) for c in patients]
        )
        expected.append(sk.roc_auc_score(label[rows], p[rows]))
    np.testing.assert_allclose(
        ours["metrics"]["auroc"]["ci95"], np.quantile(expected, [0.025, 0.975])
    )
    assert (ours["n_patients"], ours["n_items"]) == (len(patients), 120)
    assert (
        ours["n_positive"]
        == len(set(cluster[label == 1]))
        < ours["n_positive_items"]
        == label.sum()
    )
    assert ours["delong"]["auroc"] is None


def test_cluster_intervals_are_wider_when_recordings_repeat_each_other():
    label, p = simulated(5, 100)
    five = np.repeat(np.arange(100), 5)
    repeated = compute_metrics(label[five], p[five], 0.3, 0, n_bootstrap=500, cluster=five)[
        "metrics"
    ]["auroc"]["ci95"]
    blind = compute_metrics(label[five], p[five], 0.3, 0, n_bootstrap=500)["metrics"]["auroc"][
        "ci95"
    ]
    assert repeated[1] - repeated[0] > 1.8 * (blind[1] - blind[0])  # sqrt(5) = 2.2
    assert repeated == pytest.approx(
        compute_metrics(label, p, 0.3, 0, n_bootstrap=500)["metrics"]["auroc"]["ci95"]
    )


def test_labels_simulated_with_the_same_seed_do_not_share_the_draws():
    label = (np.random.default_rng(0).random(10_000) < 0.2).astype(np.int64)
    weight = next(bootstrap_weights(10_000, 0, 1))
    assert (weight * label).sum() == pytest.approx(label.sum(), rel=0.1)


def test_coverage_of_bootstrap_and_delong_intervals():
    true, hits = 0.76024994, np.zeros(2)  # AUROC of two unit normals one apart: Phi(1 / sqrt 2)
    for seed in range(120):
        generator = np.random.default_rng([seed, 3])
        label = np.repeat([0, 1], [80, 40])
        score = generator.normal(label, 1)
        weights = np.concatenate(list(bootstrap_weights(120, seed, 300)))
        low, high = np.nanquantile(curve_metrics(label, score, weights)["auroc"], [0.025, 0.975])
        delong_low, delong_high = delong_interval(*delong(label, score))
        hits += low <= true <= high, delong_low <= true <= delong_high
    assert (hits / 120 > 0.88).all()
    assert (hits / 120 < 1).all()


def brute_components(label, score):
    pairs = [
        [1.0 if a > b else 0.5 if a == b else 0.0 for b in score[label == 0]]
        for a in score[label == 1]
    ]
    return np.mean(pairs, axis=1), np.mean(pairs, axis=0)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_delong_equals_the_double_loop_over_pairs(seed, ties):
    label, a = sample(seed, 60, ties)
    b = np.round(
        np.clip(a + np.random.default_rng(seed).normal(0, 0.1, 60), 0, 1), 1 if ties else 9
    )
    (above_a, below_a), (above_b, below_b) = brute_components(label, a), brute_components(label, b)
    variance = np.cov(above_a, above_b) / len(above_a) + np.cov(below_a, below_b) / len(below_a)
    np.testing.assert_allclose(
        delong(label, a), [sk.roc_auc_score(label, a), np.sqrt(variance[0, 0])]
    )
    difference, error, p = delong_test(label, a, b)
    assert difference == pytest.approx(sk.roc_auc_score(label, b) - sk.roc_auc_score(label, a))
    assert error == pytest.approx(np.sqrt(variance[0, 0] + variance[1, 1] - 2 * variance[0, 1]))
    assert p == pytest.approx(2 * norm.sf(abs(difference) / error))


def test_delong_is_undefined_with_one_class_and_its_interval_at_1():
    assert delong(np.ones(5, np.int64), np.arange(5.0)) == (None, None)
    assert delong(np.array([0, 0, 1]), np.arange(3.0)) == (1.0, None)
    auroc, error = delong(np.array([0, 0, 1, 1]), np.arange(4.0))
    assert (auroc, delong_interval(auroc, error)) == (1.0, None)
    label, score = sample(1)
    assert delong_test(label, score, score) == (0.0, 0.0, None)
    assert delong_test(np.ones(5, np.int64), np.arange(5.0), np.arange(5.0)) == (None, None, None)


def test_paired_difference_uses_the_same_resamples_for_both():
    label, a = simulated(6)
    b = np.clip(a + 0.15 * (label - 0.4), 0, 1)
    result = paired_difference(label, a, b, 0.3, 0.25, seed=4, n_bootstrap=300)
    weights = np.concatenate(list(bootstrap_weights(300, 4, 300)))
    differences = [
        sk.roc_auc_score(label, b, sample_weight=w) - sk.roc_auc_score(label, a, sample_weight=w)
        for w in weights
    ]
    auroc = result["metrics"]["auroc"]
    np.testing.assert_allclose(auroc["ci95"], np.quantile(differences, [0.025, 0.975]))
    assert auroc["difference"] == pytest.approx(
        sk.roc_auc_score(label, b) - sk.roc_auc_score(label, a)
    )
    assert auroc["difference"] == auroc["value_b"] - auroc["value_a"] > 0
    assert auroc["p"] == 2 / 301  # no replicate at or below 0: the smallest p that 300 can show
    assert result["delong"]["p"] < 0.01
    assert result["metrics"]["sensitivity"]["value_b"] == sk.recall_score(label, b >= 0.25)


def test_a_model_does_not_differ_from_itself():
    label, a = simulated(6)
    result = paired_difference(label, a, a, 0.3, 0.3, seed=4, n_bootstrap=50)["metrics"]
    assert {(m["difference"], *m["ci95"], m["p"]) for m in result.values()} == {
        (0.0, 0.0, 0.0, 1.0)
    }


def test_paired_difference_of_what_one_model_leaves_undefined_is_none():
    label, a = simulated(6)
    ppv = paired_difference(label, a, a, 0.3, 0.9999, seed=4, n_bootstrap=50)["metrics"]["ppv"]
    assert ppv["value_b"] is None
    assert (ppv["difference"], ppv["ci95"], ppv["p"]) == (None, None, None)
    assert ppv["value_a"] > 0
    cluster = np.arange(300) // 2
    assert paired_difference(label, a, a**2, 0.3, 0.3, 4, 20, cluster)["delong"]["p"] is None


def test_false_alarms_of_the_paired_test_are_rare():
    alarms = 0
    for seed in range(60):
        generator = np.random.default_rng([seed, 8])
        label = np.repeat([0, 1], [60, 40])
        a, b = (1 / (1 + np.exp(-generator.normal(label, 1, 100))) for _ in range(2))
        alarms += (
            paired_difference(label, a, b, 0.5, 0.5, seed, n_bootstrap=199)["metrics"]["auroc"]["p"]
            < 0.05
        )
    assert alarms <= 8


def test_an_interval_is_wilsons_where_no_resample_differs():
    label, p = np.repeat([0, 1], [40, 5]), np.r_[np.linspace(0.1, 0.6, 40), np.full(5, 0.9)]
    found = compute_metrics(label, p, 0.5, 0, 200)["metrics"]
    low, high = proportion_confint(5, 5, method="wilson")
    assert found["sensitivity"]["value"] == 1
    assert found["sensitivity"]["ci95"] == pytest.approx([low, high], abs=1e-9)
    assert "Wilson" in found["sensitivity"]["reason"]
    assert found["auroc"]["value"] == found["auroc"]["ci95"][1] == 1
    assert "Newcombe" in found["auroc"]["reason"]
    low = found[
        "auroc"
    ][
        "ci95"
    ][
        0
    ]  # there the distance to 1 is 1.96 standard errors, after Hanley and McNeil with equal class sizes
    q1, q2, size = low / (2 - low), 2 * low**2 / (1 + low), 22.5
    error = np.sqrt((low * (1 - low) + (size - 1) * (q1 - low**2 + q2 - low**2)) / (40 * 5))
    assert (1 - low) / error == pytest.approx(1.96, abs=0.01)
    assert "reason" not in found["specificity"]
    recordings = compute_metrics(
        label, p, 0.5, 0, 200, cluster=np.r_[np.arange(40), 40, 40, 41, 41, 42]
    )["metrics"]["sensitivity"]
    assert (recordings["value"], recordings["ci95"]) == (
        1,
        [1, 1],
    )  # five recordings of three patients are not independent


def test_net_benefits_at_two_thresholds_are_not_compared():
    label, p = simulated(7, 300)
    found = paired_difference(label, p, p, 0.3, 0.1, 0, 50)["metrics"]["net_benefit"]
    assert found["value_a"] != found["value_b"]
    assert (found["difference"], found["ci95"], found["p"], found["reason"]) == (
        None,
        None,
        None,
        "undefined: the thresholds differ",
    )
    assert (
        paired_difference(label, p, p, 0.3, 0.3, 0, 50)["metrics"]["net_benefit"]["difference"] == 0
    )


def test_decision_curve_against_the_net_benefit_at_each_threshold():
    label, p = simulated(8)
    curve = decision_curve(label, p)
    assert len(curve["threshold"]) == 99
    for i in (0, 19, 49, 98):
        t = curve["threshold"][i]
        assert curve["model"][i] == pytest.approx(
            threshold_metrics(label, p, t, np.ones((1, 300)))["net_benefit"][0]
        )
        assert curve["treat_all"][i] == pytest.approx(
            threshold_metrics(label, np.ones(300), t, np.ones((1, 300)))["net_benefit"][0]
        )
    assert set(curve["treat_none"]) == {0.0}
    with pytest.raises(ValueError, match="between 0 and 1"):
        decision_curve(label, p, [0.5, 1.0])


@pytest.mark.parametrize(
    ("n", "frac", "digits"), [(150, 2 / 3, 12), (60, 0.3, 12), (200, 2 / 3, 2)]
)
def test_lowess_equals_statsmodels(n, frac, digits):
    label, p = simulated(9, n)
    p = np.round(p, digits)
    at = np.unique(np.quantile(p, np.linspace(0, 1, 40)))
    theirs = sm.nonparametric.lowess(label.astype(float), p, frac=frac, it=0, delta=0.0, xvals=at)
    np.testing.assert_allclose(lowess(p, label.astype(float), at, frac), theirs, atol=1e-9)


def test_lowess_where_all_neighbours_are_equal_is_their_mean():
    x, y = np.array([0.2] * 8 + [0.9]), np.array([0, 1, 0, 1, 0, 1, 1, 1, 1.0])
    assert lowess(x, y, np.array([0.2]))[0] == pytest.approx(5 / 8)


def test_reliability_curve_is_bounded_and_its_bins_hold_everyone():
    label, p = simulated(10)
    curve = reliability_curve(label, p)
    assert len(curve["smooth"]["predicted"]) == 100
    assert 0 <= min(curve["smooth"]["observed"]) <= max(curve["smooth"]["observed"]) <= 1
    assert [b["n"] for b in curve["bins"]] == [30] * 10
    assert sum(b["n_positive"] for b in curve["bins"]) == label.sum()
    assert all(b["ci95"][0] <= b["observed"] <= b["ci95"][1] for b in curve["bins"])


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (50, 400)])
def test_wilson_interval_equals_statsmodels(k, n):
    np.testing.assert_allclose(
        wilson_interval(k, n), proportion_confint(k, n, method="wilson"), atol=1e-12
    )


@pytest.mark.parametrize("ties", [False, True])
def test_roc_and_pr_points_equal_scikit_learn(ties):
    label, score = sample(11, 120, ties)
    ours = roc_curve(label, score)
    false, true, threshold = sk.roc_curve(label, score, drop_intermediate=False)
    theirs = {(round(x, 9), round(y, 9)): t for x, y, t in zip(false, true, threshold, strict=True)}
    for x, y, t in list(zip(*ours.values(), strict=True))[1:]:
        assert theirs[round(x, 9), round(y, 9)] == t
    assert (ours["false_positive_rate"][0], ours["sensitivity"][0], ours["threshold"][0]) == (
        0,
        0,
        None,
    )
    assert len(ours["threshold"]) < len(threshold)  # only bends are kept, so the area is the same
    assert np.trapezoid(ours["sensitivity"], ours["false_positive_rate"]) == pytest.approx(
        sk.roc_auc_score(label, score)
    )
    precision, recall, _ = sk.precision_recall_curve(label, score)
    ours = pr_curve(label, score)
    np.testing.assert_allclose(ours["precision"], precision[:-1][::-1])
    np.testing.assert_allclose(ours["recall"], recall[:-1][::-1])


def test_curves_are_thinned_to_200_points_and_keep_their_ends():
    label, score = sample(12, 5000)
    roc, pr = roc_curve(label, score), pr_curve(label, score)
    assert len(roc["sensitivity"]) == len(pr["recall"]) == 200
    assert (roc["sensitivity"][0], roc["sensitivity"][-1], pr["recall"][-1]) == (0, 1, 1)
    area = np.trapezoid(roc["sensitivity"], roc["false_positive_rate"])
    assert area == pytest.approx(sk.roc_auc_score(label, score), abs=0.002)
    assert (
        roc_curve(np.ones(3, np.int64), np.arange(3.0))["sensitivity"]
        == pr_curve(np.ones(3, np.int64), np.arange(3.0))["recall"]
        == []
    )


def test_histogram_counts_each_class_with_its_ends():
    label, p = np.array([0, 0, 1, 1]), np.array([0.0, 0.5, 0.99, 1.0])
    histogram = probability_histogram(label, p)
    assert (
        len(histogram["edges"]),
        histogram["negative"][0],
        histogram["negative"][10],
        histogram["positive"][19],
    ) == (21, 1, 1, 2)
    assert sum(histogram["negative"]) == sum(histogram["positive"]) == 2
