"""Splits: by patient, balanced, frozen, and never silently different."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import cohort, sites
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgprep.errors import InputError
from ecgprep.patients.registry import (
    Registry,
    SplitPlan,
)
from ecgprep.patients.splits import assign

RATIOS = (0.7, 0.15, 0.15)


def shares(registry: Registry) -> np.ndarray:
    return np.bincount(list(registry.split.values()), minlength=3) / len(registry.split)


@pytest.mark.parametrize("seed", range(5))
def test_patients_positives_and_records_meet_the_ratios(tmp_path, seed):
    labels = cohort(300, 0.1, seed)
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan(seed=seed)), labels)
    assert np.abs(shares(registry) - RATIOS).max() * 300 < 1
    positives = [registry.split[p] for p, values in labels.items() if 1 in values]
    expected = np.array(RATIOS) * len(positives)
    assert np.abs(np.bincount(positives, minlength=3) - expected).max() < 1
    n_records = [len(labels[patient]) for patient in registry.split]
    records = np.bincount(list(registry.split.values()), n_records, minlength=3)
    assert np.abs(records / records.sum() - RATIOS).max() < 0.08


def test_result_depends_on_the_set_of_patients_not_on_their_order(tmp_path):
    labels = cohort(100, 0.3)
    plan = Registry(tmp_path / "r.csv", SplitPlan())
    one, other = assign(plan, labels), assign(plan, dict(reversed(labels.items())))
    assert (one.split, one.number) == (other.split, other.number)


def test_numbers_are_dense_and_say_nothing_of_the_order(tmp_path):
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan()), cohort(200, 0.3))
    numbers = [registry.number[f"P{i}"] for i in range(200)]
    assert sorted(numbers) == list(range(200))
    assert abs(np.corrcoef(numbers, np.arange(200))[0, 1]) < 0.2


@given(n=st.integers(30, 200), more=st.integers(1, 80), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_old_patients_stay_and_new_ones_go_where_they_are_needed(tmp_path_factory, n, more, seed):
    path = tmp_path_factory.mktemp("r") / "r.csv"
    first, later = cohort(n, 0.3, seed), cohort(more, 0.3, seed + 1, first=n)
    old = assign(Registry(path, SplitPlan(seed=seed, allow_missing_class=True)), first)
    new = assign(old, first | later)
    assert {p: new.split[p] for p in old.split} == old.split
    assert {p: new.number[p] for p in old.number} == old.number
    assert sorted(new.number.values()) == list(range(n + more))
    assert np.abs(shares(new) - RATIOS).max() * (n + more) <= 4


@pytest.mark.parametrize(("positive", "negative"), [(0, 50), (50, 0), (2, 50), (50, 2), (1, 1)])
def test_a_split_without_a_class_is_refused_with_the_counts(tmp_path, positive, negative):
    labels = {f"P{i}": [int(i < positive)] for i in range(positive + negative)}
    with pytest.raises(InputError, match=r"positive, \d+ negative.*--allow-missing-class"):
        assign(Registry(tmp_path / "r.csv", SplitPlan()), labels)
    allowed = assign(Registry(tmp_path / "r.csv", SplitPlan(allow_missing_class=True)), labels)
    assert len(allowed.split) == positive + negative


def test_three_positive_patients_are_enough(tmp_path):
    registry = assign(
        Registry(tmp_path / "r.csv", SplitPlan()), {f"P{i}": [int(i < 3)] for i in range(50)}
    )
    assert sorted(registry.split[f"P{i}"] for i in range(3)) == [0, 1, 2]


def test_mixed_patients_are_a_stratum_of_their_own(tmp_path):
    labels = {f"P{i}": [[0], [1], [0, 1]][i % 3] for i in range(120)}
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan()), labels)
    for pattern in range(3):
        split = [registry.split[f"P{i}"] for i in range(pattern, 120, 3)]
        assert np.bincount(split).tolist() == [28, 6, 6]


def test_everything_can_go_to_test(tmp_path):
    registry = assign(
        Registry(tmp_path / "r.csv", SplitPlan((0, 0, 100))), {"P1": [-1], "P2": [-1]}
    )
    assert set(registry.split.values()) == {2}


@pytest.mark.parametrize(("n", "off"), [(3, 0.4), (5, 0.25), (20, 0.03)])
def test_sites_stay_whole_and_splits_are_as_near_as_sites_allow(tmp_path, n, off):
    labels = cohort(400, 0.3)
    groups = sites(labels, n)
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan(by_column="site")), labels, groups)
    split_of = {}
    for patient, (site,) in groups.items():
        assert split_of.setdefault(site, registry.split[patient]) == registry.split[patient]
    assert set(split_of.values()) == {0, 1, 2}
    assert np.abs(shares(registry) - RATIOS).max() < off


def test_a_patient_of_two_sites_joins_them(tmp_path):
    labels = {f"P{i}": [i % 2] for i in range(40)}
    groups = {patient: {f"site{i // 10}"} for i, patient in enumerate(labels)}
    groups["P5"] = {"site0", "site3"}
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan(by_column="site")), labels, groups)
    assert registry.split["P0"] == registry.split["P5"] == registry.split["P35"]
    assert set(registry.split.values()) == {0, 1, 2}


def test_new_patients_of_a_known_site_go_where_it_is(tmp_path):
    labels = cohort(90, 0.4)
    groups = sites(labels, 6)
    old = assign(Registry(tmp_path / "r.csv", SplitPlan(by_column="site")), labels, groups)
    more = labels | {f"N{i}": [i % 2] for i in range(12)}
    groups |= {f"N{i}": {f"site{i % 7}"} for i in range(12)}  # site6 is new
    new = assign(old, more, groups)
    assert new.split.items() >= old.split.items()
    split_of = {site: old.split[p] for p in labels for site in groups[p]}
    for i in set(range(12)) - {6}:
        assert new.split[f"N{i}"] == split_of[f"site{i % 7}"]


def test_fewer_sites_than_splits_are_refused(tmp_path):
    labels = cohort(40, 0.5)
    groups = {p: {str(i % 2)} for i, p in enumerate(labels)}
    registry = Registry(tmp_path / "r.csv", SplitPlan(by_column="site"))
    with pytest.raises(InputError, match=r"2 groups .* 3 splits need as many"):
        assign(registry, labels, groups)


def test_a_site_that_the_registry_has_cut_is_refused(tmp_path):
    labels = cohort(60, 0.5)
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan()), labels)
    registry.plan = SplitPlan(by_column="site")
    with pytest.raises(InputError, match="has them in different splits"):
        assign(registry, labels | {"NEW": [1]}, {p: {"one", p[-1]} for p in [*labels, "NEW"]})


def patients_in_test(registry: Registry) -> set[str]:
    return {patient for patient, split in registry.split.items() if split == 2}


def with_test_list(path, labels, listed: frozenset[str]) -> Registry:
    return assign(Registry(path, SplitPlan(fixed_test=True)), labels, test_patients=listed)


def test_listed_patients_and_no_others_are_tested(tmp_path):
    labels = cohort(200, 0.3)
    listed = frozenset(list(labels)[:37])
    registry = with_test_list(tmp_path / "r.csv", labels, listed)
    assert patients_in_test(registry) == listed
    rest = [split for patient, split in registry.split.items() if patient not in listed]
    train, val, _ = np.bincount(rest, minlength=3) / len(rest)
    assert (train, val) == pytest.approx((70 / 85, 15 / 85), abs=0.01)
    later = labels | {f"N{i}": [i % 2] for i in range(60)}
    more = assign(registry, later, test_patients=listed | {"N1"})
    assert patients_in_test(more) == listed | {"N1"}


def test_a_listed_patient_who_was_trained_on_is_refused_without_a_name(tmp_path):
    labels = cohort(100, 0.3)
    registry = with_test_list(tmp_path / "r.csv", labels, frozenset(list(labels)[:10]))
    trained = next(patient for patient, split in registry.split.items() if split == 0)
    message = "lists 1 patients whom registry r.csv has in train or val"
    with pytest.raises(InputError, match=message) as caught:
        assign(registry, labels, test_patients=frozenset([trained]))
    assert trained not in str(caught.value)


def test_a_tested_patient_who_is_taken_off_the_list_is_refused(tmp_path):
    labels = cohort(60, 0.4)
    registry = with_test_list(tmp_path / "r.csv", labels, frozenset(list(labels)[:20]))
    message = "has 5 patients of this manifest in test who are not on the list"
    with pytest.raises(InputError, match=message):
        assign(registry, labels, test_patients=frozenset(list(labels)[:15]))
