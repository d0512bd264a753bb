"""Splits: by patient, balanced, frozen by the registry, and never silently different."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgprep.errors import InputError
from ecgprep.splits import Registry, SplitPlan, assign, load_registry, parse_ratios, save_registry


def cohort(n: int, prevalence: float, seed: int = 0, first: int = 0) -> dict[str, list[int]]:
    generator = np.random.default_rng(seed)
    return {f"P{first + i}": [int(generator.random() < prevalence)] * int(generator.integers(1, 6)) for i in range(n)}


def shares(registry: Registry) -> np.ndarray:
    return np.bincount(list(registry.split.values()), minlength=3) / len(registry.split)


@pytest.mark.parametrize("seed", range(5))
def test_patients_positives_and_records_meet_the_ratios(tmp_path, seed):
    labels = cohort(300, 0.1, seed)
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan(seed=seed)), labels)
    assert np.abs(shares(registry) - [0.7, 0.15, 0.15]).max() * 300 < 1
    positives = [registry.split[p] for p, values in labels.items() if 1 in values]
    assert np.abs(np.bincount(positives, minlength=3) - np.array([0.7, 0.15, 0.15]) * len(positives)).max() < 1
    records = np.bincount(list(registry.split.values()), [len(labels[p]) for p in registry.split], minlength=3)
    assert np.abs(records / records.sum() - [0.7, 0.15, 0.15]).max() < 0.08


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
def test_old_patients_stand_and_new_ones_go_where_they_are_needed(tmp_path_factory, n, more, seed):
    old = assign(Registry(tmp_path_factory.mktemp("r") / "r.csv", SplitPlan(seed=seed, allow_missing_class=True)), cohort(n, 0.3, seed))
    new = assign(old, {**cohort(n, 0.3, seed), **cohort(more, 0.3, seed + 1, first=n)})
    assert {p: new.split[p] for p in old.split} == old.split
    assert {p: new.number[p] for p in old.number} == old.number
    assert sorted(new.number.values()) == list(range(n + more))
    assert np.abs(shares(new) - [0.7, 0.15, 0.15]).max() * (n + more) <= 4


def test_registry_survives_the_file_and_is_private(tmp_path):
    labels = {'P"1,\n': [1], "Ümit": [0], "00123": [1], "123": [0], "-1": [1], "x": [0]}
    registry = assign(Registry(tmp_path / "m.registry.csv", SplitPlan((40, 30, 30), 7)), labels)
    save_registry(registry)
    assert (tmp_path / "m.registry.csv").stat().st_mode & 0o777 == 0o600
    loaded = load_registry(registry.path, registry.plan)
    assert (loaded.number, loaded.split) == (registry.number, registry.split)


@pytest.mark.parametrize("plan", [SplitPlan(seed=43), SplitPlan((80, 10, 10))])
def test_another_plan_than_the_registry_records_is_refused(tmp_path, plan):
    save_registry(assign(Registry(tmp_path / "r.csv", SplitPlan()), cohort(50, 0.4)))
    with pytest.raises(InputError, match=r"--registry NEW\.csv"):
        load_registry(tmp_path / "r.csv", plan)


@pytest.mark.parametrize("damage", ["", "nonsense\n", "cut", "twice", "split"])
def test_damaged_registry_is_refused(tmp_path, damage):
    path = tmp_path / "r.csv"
    save_registry(assign(Registry(path, SplitPlan()), cohort(50, 0.4)))
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    number = lines[3].split(",")[1]
    broken = {
        "cut": text[:-4],
        "twice": text + f"Q,{number},test\n",
        "split": text.replace("train", "trial", 1),
    }
    path.write_text(broken.get(damage, damage))
    with pytest.raises(InputError, match="damaged"):
        load_registry(path, SplitPlan())


@pytest.mark.parametrize(("positive", "negative"), [(0, 50), (50, 0), (2, 50), (50, 2), (1, 1)])
def test_a_split_without_a_class_is_refused_with_the_counts(tmp_path, positive, negative):
    labels = {f"P{i}": [int(i < positive)] for i in range(positive + negative)}
    with pytest.raises(InputError, match=r"positive, \d+ negative.*--allow-missing-class"):
        assign(Registry(tmp_path / "r.csv", SplitPlan()), labels)
    allowed = assign(Registry(tmp_path / "r.csv", SplitPlan(allow_missing_class=True)), labels)
    assert len(allowed.split) == positive + negative


def test_three_positive_patients_are_enough(tmp_path):
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan()), {f"P{i}": [int(i < 3)] for i in range(50)})
    assert sorted(registry.split[f"P{i}"] for i in range(3)) == [0, 1, 2]


def test_mixed_patients_are_a_stratum_of_their_own(tmp_path):
    labels = {f"P{i}": [[0], [1], [0, 1]][i % 3] for i in range(120)}
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan()), labels)
    for pattern in range(3):
        assert np.bincount([registry.split[f"P{i}"] for i in range(pattern, 120, 3)]).tolist() == [28, 6, 6]


def test_everything_can_go_to_test(tmp_path):
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan((0, 0, 100))), {"P1": [-1], "P2": [-1]})
    assert set(registry.split.values()) == {2}


@pytest.mark.parametrize("text", ["70/30", "70/15/16", "-10/60/50", "a/b/c", "", "nan/50/50"])
def test_ratios_must_add_up(text):
    with pytest.raises(InputError, match="add up to 100"):
        SplitPlan(parse_ratios(text))
