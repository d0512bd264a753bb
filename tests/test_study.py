"""Cumulative incidence and agreement, against hand-worked tables and other packages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.duration.survfunc import CumIncidenceRight, SurvfuncRight

from ecgprep.study.agreement import cohens_kappa
from ecgprep.study.incidence import CENSORED, DEATH, EVENT, cumulative_incidence


def test_incidence_by_hand():
    """Five patients: event, death, censored and event on one day, death.

    Day 1: 1/5. Day 2: 4 at risk, survival 4/5, a death. Day 3: 3 at risk, survival 3/5, an event
    before the censoring: 1/5 + 3/5 · 1/3. Day 4: one at risk, survival 2/5, a death.
    """
    found = cumulative_incidence([1, 2, 3, 3, 4], [EVENT, DEATH, CENSORED, EVENT, DEATH])
    assert found.times.tolist() == [1, 2, 3, 4]
    assert found.at_risk.tolist() == [5, 4, 3, 1]
    assert found.event == pytest.approx([1 / 5, 1 / 5, 2 / 5, 2 / 5])
    assert found.death == pytest.approx([0, 1 / 5, 1 / 5, 3 / 5])
    assert found.kaplan_meier == pytest.approx([1 / 5, 1 / 5, 1 - 4 / 5 * 2 / 3, 7 / 15])
    assert found.at(0.5) == (0, 0)
    assert found.at(3.5) == pytest.approx((2 / 5, 1 / 5))
    assert [found.at_risk_at(day) for day in (0, 2, 2.5, 9)] == [5, 4, 3, 0]


ends = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from([CENSORED, EVENT, DEATH])), min_size=1
)


@given(ends)
def test_incidence_without_censoring_is_a_share_of_patients(observed):
    time, outcome = (np.array(column) for column in zip(*observed, strict=True))
    outcome[outcome == CENSORED] = DEATH
    found = cumulative_incidence(time, outcome)
    for day in range(13):
        shares = [np.mean((time <= day) & (outcome == end)) for end in (EVENT, DEATH)]
        assert found.at(day) == pytest.approx(tuple(shares))


@given(ends)
def test_death_makes_kaplan_meier_too_high(observed):
    time, outcome = zip(*observed, strict=True)
    found = cumulative_incidence(time, outcome)
    assert (found.kaplan_meier >= found.event - 1e-12).all()


def test_incidence_is_that_of_statsmodels():
    generator = np.random.default_rng(7)
    time = generator.integers(1, 400, 300)
    outcome = generator.choice([CENSORED, EVENT, DEATH], 300, p=[0.5, 0.3, 0.2])
    found = cumulative_incidence(time, outcome)
    other = CumIncidenceRight(time.astype(float), outcome)
    assert found.at(0.0) == (0, 0)
    for day, event, death in zip(other.times, *other.cinc, strict=True):
        assert found.at(day) == pytest.approx((event, death))
    survival = SurvfuncRight(time.astype(float), outcome == EVENT)
    shown = np.isin(found.times, survival.surv_times)
    assert found.kaplan_meier[shown] == pytest.approx(1 - survival.surv_prob)


def test_variance_without_censoring_is_that_of_a_share():
    """F (1 − F) / n, whatever the deaths: everyone's end is known."""
    generator = np.random.default_rng(3)
    time = generator.permutation(np.arange(1, 201))
    outcome = generator.choice([EVENT, DEATH], 200, p=[0.4, 0.6])
    found = cumulative_incidence(time, outcome)
    share = float(np.mean((time <= 120) & (outcome == EVENT)))
    width = 1.96 * np.sqrt(share * (1 - share) / 200) / (share * np.log(share))
    expected = sorted([share ** np.exp(width), share ** np.exp(-width)])
    assert found.event_interval(120) == pytest.approx(tuple(expected), rel=1e-6)


def test_interval_is_about_that_of_resampled_patients():
    generator = np.random.default_rng(5)
    time = generator.integers(1, 400, 400)
    outcome = generator.choice([CENSORED, EVENT, DEATH], 400, p=[0.5, 0.3, 0.2])
    shares = []
    for _ in range(400):
        drawn = generator.integers(0, 400, 400)
        shares.append(cumulative_incidence(time[drawn], outcome[drawn]).at(200)[0])
    expected = tuple(np.quantile(shares, [0.025, 0.975]))
    found = cumulative_incidence(time, outcome).event_interval(200)
    assert found == pytest.approx(expected, abs=0.01)


def test_interval_before_the_first_event_and_after_the_last_patient():
    found = cumulative_incidence([2, 5], [EVENT, EVENT])
    assert found.event_interval(1) == (0, 0)
    assert found.event_interval(9) == (1, 1)


@pytest.mark.parametrize("time", [0, -3, np.nan])
def test_time_must_be_positive(time):
    with pytest.raises(ValueError, match="time must be positive"):
        cumulative_incidence([5, time], [EVENT, CENSORED])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1))
def test_kappa_is_that_of_scikit_learn(pairs):
    first, second = zip(*pairs, strict=True)
    if len({*first, *second}) == 1:
        assert cohens_kappa(first, second) is None
    else:
        assert cohens_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))


def test_kappa_of_nobody_is_not_defined():
    assert cohens_kappa([], []) is None
