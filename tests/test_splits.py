"""Splits: by patient, balanced, frozen by the registry, and never silently different."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgprep.errors import InputError
from ecgprep.patients.registry import (
    Registry,
    SplitPlan,
    load_registry,
    parse_ratios,
    save_registry,
)
from ecgprep.patients.splits import assign


def cohort(n: int, prevalence: float, seed: int = 0, first: int = 0) -> dict[str, list[int]]:
    generator = np.random.default_rng(seed)
    return {
        f"P{first + i}": [int(generator.random() < prevalence)] * int(generator.integers(1, 6))
        for i in range(n)
    }


def shares(registry: Registry) -> np.ndarray:
    return np.bincount(list(registry.split.values()), minlength=3) / len(registry.split)


@pytest.mark.parametrize("seed", range(5))
def test_patients_positives_and_records_meet_the_ratios(tmp_path, seed):
    labels = cohort(300, 0.1, seed)
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan(seed=seed)), labels)
    assert np.abs(shares(registry) - [0.7, 0.15, 0.15]).max() * 300 < 1
    positives = [registry.split[p] for p, values in labels.items() if 1 in values]
    assert (
        np.abs(
            np.bincount(positives, minlength=3) - np.array([0.7, 0.15, 0.15]) * len(positives)
        ).max()
        < 1
    )
    records = np.bincount(
        list(registry.split.values()), [len(labels[p]) for p in registry.split], minlength=3
    )
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
    old = assign(
        Registry(
            tmp_path_factory.mktemp("r") / "r.csv", SplitPlan(seed=seed, allow_missing_class=True)
        ),
        cohort(n, 0.3, seed),
    )
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
    registry = assign(
        Registry(tmp_path / "r.csv", SplitPlan()), {f"P{i}": [int(i < 3)] for i in range(50)}
    )
    assert sorted(registry.split[f"P{i}"] for i in range(3)) == [0, 1, 2]


def test_mixed_patients_are_a_stratum_of_their_own(tmp_path):
    labels = {f"P{i}": [[0], [1], [0, 1]][i % 3] for i in range(120)}
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan()), labels)
    for pattern in range(3):
        assert np.bincount([registry.split[f"P{i}"] for i in range(pattern, 120, 3)]).tolist() == [
            28,
            6,
            6,
        ]


def test_everything_can_go_to_test(tmp_path):
    registry = assign(
        Registry(tmp_path / "r.csv", SplitPlan((0, 0, 100))), {"P1": [-1], "P2": [-1]}
    )
    assert set(registry.split.values()) == {2}


@pytest.mark.parametrize("text", ["70/30", "70/15/16", "-10/60/50", "a/b/c", "", "nan/50/50"])
def test_ratios_must_add_up(text):
    with pytest.raises(InputError, match="add up to 100"):
        SplitPlan(parse_ratios(text))


def sites(labels: dict[str, list[int]], n: int, seed: int = 0) -> dict[str, set[str]]:
    generator = np.random.default_rng(seed)
    return {patient: {f"site{generator.integers(n)}"} for patient in labels}


@pytest.mark.parametrize("n", [3, 5, 20])
def test_sites_stay_whole_and_splits_are_as_near_as_sites_allow(tmp_path, n):
    labels = cohort(400, 0.3)
    groups = sites(labels, n)
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan(by_column="site")), labels, groups)
    split_of = {}
    for patient, (site,) in groups.items():
        assert split_of.setdefault(site, registry.split[patient]) == registry.split[patient]
    assert set(split_of.values()) == {0, 1, 2}
    assert np.abs(shares(registry) - [0.7, 0.15, 0.15]).max() < (
        0.4 if n == 3 else 0.25 if n == 5 else 0.03
    )


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
    for i in range(12):
        if i % 7 < 6:
            assert new.split[f"N{i}"] == next(
                old.split[p] for p in labels if groups[p] == {f"site{i % 7}"}
            )


def test_fewer_sites_than_splits_are_refused(tmp_path):
    labels = cohort(40, 0.5)
    with pytest.raises(InputError, match=r"2 groups .* 3 splits need as many"):
        assign(
            Registry(tmp_path / "r.csv", SplitPlan(by_column="site")),
            labels,
            {p: {str(i % 2)} for i, p in enumerate(labels)},
        )


def test_a_site_that_the_registry_has_cut_is_refused(tmp_path):
    labels = cohort(60, 0.5)
    registry = assign(Registry(tmp_path / "r.csv", SplitPlan()), labels)
    registry.plan = SplitPlan(by_column="site")
    with pytest.raises(InputError, match="has them in different splits"):
        assign(registry, labels | {"NEW": [1]}, {p: {"one", p[-1]} for p in [*labels, "NEW"]})


def test_listed_patients_and_no_others_are_tested(tmp_path):
    labels = cohort(200, 0.3)
    listed = frozenset(list(labels)[:37])
    registry = assign(
        Registry(tmp_path / "r.csv", SplitPlan(fixed_test=True)), labels, test_patients=listed
    )
    assert {patient for patient, split in registry.split.items() if split == 2} == listed
    rest = np.bincount(
        [split for patient, split in registry.split.items() if patient not in listed], minlength=3
    )
    assert np.abs(rest[:2] / rest.sum() - [70 / 85, 15 / 85]).max() < 0.01
    more = assign(
        registry, labels | {f"N{i}": [i % 2] for i in range(60)}, test_patients=listed | {"N1"}
    )
    assert {patient for patient, split in more.split.items() if split == 2} == listed | {"N1"}


def test_a_listed_patient_who_was_trained_on_is_refused_without_a_name(tmp_path):
    labels = cohort(100, 0.3)
    registry = assign(
        Registry(tmp_path / "r.csv", SplitPlan(fixed_test=True)),
        labels,
        test_patients=frozenset(list(labels)[:10]),
    )
    trained = next(patient for patient, split in registry.split.items() if split == 0)
    with pytest.raises(
        InputError, match="lists 1 patients whom registry r.csv has in train or val"
    ) as caught:
        assign(registry, labels, test_patients=frozenset([trained]))
    assert trained not in str(caught.value)


def test_both_ways_to_choose_the_tested_are_refused():
    with pytest.raises(InputError, match="Use one of them"):
        SplitPlan(by_column="site", fixed_test=True)


def test_registry_of_another_kind_of_split_is_refused(tmp_path):
    labels = cohort(50, 0.4)
    save_registry(
        assign(
            Registry(tmp_path / "r.csv", SplitPlan(fixed_test=True)),
            labels,
            test_patients=frozenset(list(labels)[:9]),
        )
    )
    with pytest.raises(InputError, match="with a test list"):
        load_registry(tmp_path / "r.csv", SplitPlan())


def test_the_registry_remembers_the_sites_of_patients_who_are_not_in_the_next_manifest(tmp_path):
    labels = cohort(100, 0.4)
    groups = sites(labels, 5)
    save_registry(assign(Registry(tmp_path / "r.csv", SplitPlan(by_column="site")), labels, groups))
    assert (tmp_path / "r.csv").stat().st_mode & 0o777 == 0o600
    old = load_registry(tmp_path / "r.csv", SplitPlan(by_column="site"))
    others = {f"N{i}": [i % 2] for i in range(50)}
    new = assign(old, others, sites(others, 5, seed=1))
    where = {next(iter(groups[patient])): old.split[patient] for patient in labels}
    assert {patient: new.split[patient] for patient in others} == {
        patient: where[site] for patient, (site,) in sites(others, 5, seed=1).items()
    }


def test_a_patient_who_is_taken_off_the_list_is_not_tested_silently(tmp_path):
    labels = cohort(60, 0.4)
    listed = frozenset(list(labels)[:20])
    registry = assign(
        Registry(tmp_path / "r.csv", SplitPlan(fixed_test=True)), labels, test_patients=listed
    )
    with pytest.raises(
        InputError, match="has 5 patients of this manifest in test who are not on the list"
    ):
        assign(registry, labels, test_patients=frozenset(list(labels)[:15]))


def test_registry_that_a_spreadsheet_saved_is_read(tmp_path):
    """Excel writes a byte-order mark and CRLF."""
    path, plan = tmp_path / "r.csv", SplitPlan()
    saved = assign(Registry(path, plan), cohort(50, 0.4))
    save_registry(saved)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    loaded = load_registry(path, plan)
    assert (loaded.number, loaded.split) == (saved.number, saved.split)
