"""Metrics of subgroups are those of the group alone, and small groups have none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from ecgfit.metrics.subgroups import count_baseline, subgroups
from ecgfit.metrics.summary import compute_metrics


def simulated(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels and probabilities that agree: perfectly calibrated predictions."""
    generator = np.random.default_rng(7)
    p = 1 / (1 + np.exp(-generator.normal(-1, 1.2, n)))
    return (generator.random(n) < p).astype(np.int64), p


def test_metrics_of_a_group_are_those_of_its_patients_alone():
    label, p = simulated()
    sex = np.array(["F", "M"])[np.random.default_rng(0).integers(0, 2, 400)]
    result = subgroups(label, p, 0.3, {"sex": sex}, seed=2, n_bootstrap=100)["sex"]
    here = sex == "F"
    auroc = result["F"]["metrics"]["auroc"]
    assert auroc["value"] == pytest.approx(sk.roc_auc_score(label[here], p[here]))
    alone = compute_metrics(label[here], p[here], 0.3, 2, n_bootstrap=100)["metrics"]["auroc"]
    assert auroc == alone
    assert result["M"]["n"] == (sex == "M").sum()


def test_a_small_group_has_no_metrics_and_neither_has_the_group_that_protects_it():
    label, p = simulated()
    position = np.arange(400)
    age = np.where(position < 6, "90+", np.where(position < 150, "60-89", "under 60"))
    result = subgroups(label, p, 0.3, {"age": age}, seed=2, n_bootstrap=100)["age"]
    withheld = {name: group["metrics"] is None for name, group in result.items()}
    assert withheld == {"60-89": True, "90+": True, "under 60": False}
    assert result["60-89"]["n"] is None
    assert "6" not in str(result["90+"])


def test_each_entry_can_have_its_own_threshold():
    label, p = simulated()
    group = np.repeat(["a", "b"], 200)
    own = np.where(group == "a", 0.2, 0.6)
    result = subgroups(label, p, own, {"g": group}, seed=2, n_bootstrap=20)["g"]
    for name, threshold in (("a", 0.2), ("b", 0.6)):
        here = group == name
        called = p[here] >= threshold
        expected = sk.recall_score(label[here], called)
        assert result[name]["metrics"]["sensitivity"]["value"] == pytest.approx(expected)


def test_subgroups_count_patients_and_refuse_another_length():
    label, p = simulated()
    cluster = np.arange(400) // 20
    groups = {"all": np.full(400, "x")}
    assert subgroups(label, p, 0.3, groups, 0, 20, cluster)["all"]["x"]["n"] == 20
    with pytest.raises(ValueError, match=r"grouping all has shape \(400,\); there are 399 labels"):
        subgroups(label[1:], p[1:], 0.3, groups, 0)


def test_the_number_of_recordings_as_the_only_predictor():
    generator = np.random.default_rng(3)
    label = (generator.random(300) < 0.3).astype(np.int64)
    count = 1 + generator.poisson(1 + 2 * label)
    result = count_baseline(label, count, n_bootstrap=200)
    assert result["auroc"]["value"] == pytest.approx(sk.roc_auc_score(label, count))
    assert result["auroc"]["ci95"][0] > 0.5
    same = count_baseline(label, np.ones(300, int), n_bootstrap=20)["auroc"]
    assert (same["value"], same["ci95"]) == (0.5, [0.5, 0.5])
    assert "every resample gives the same" in same["reason"]
