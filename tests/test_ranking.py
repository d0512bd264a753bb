"""Ranks and the AUROC, against scipy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from ecgprep.ranking import auroc, midranks


def test_midranks_are_those_of_scipy():
    scores = np.random.default_rng(0).integers(0, 30, 200)
    np.testing.assert_array_equal(midranks(scores), rankdata(scores))


def test_auroc_with_ties_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    for _ in range(20):
        positive = generator.random(200) < 0.2
        scores = np.round(generator.normal(size=200) + positive, 1)
        expected = roc_auc_score(positive, scores)
        assert auroc(scores, positive) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("positive", [True, False])
def test_auroc_of_a_single_class_is_undefined(positive):
    assert math.isnan(auroc(np.arange(3.0), np.full(3, positive)))
