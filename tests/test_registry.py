"""The registry: it survives the file, and refuses damage and other plans."""

from __future__ import annotations

import pytest
from helpers import cohort, sites

from ecgprep.errors import InputError
from ecgprep.patients.registry import (
    Registry,
    SplitPlan,
    load_registry,
    parse_ratios,
    save_registry,
)
from ecgprep.patients.splits import assign


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


@pytest.mark.parametrize("text", ["70/30", "70/15/16", "-10/60/50", "a/b/c", "", "nan/50/50"])
def test_ratios_must_add_up(text):
    with pytest.raises(InputError, match="add up to 100"):
        SplitPlan(parse_ratios(text))


def test_both_ways_to_choose_the_tested_are_refused():
    with pytest.raises(InputError, match="Use one of them"):
        SplitPlan(by_column="site", fixed_test=True)


def test_registry_of_another_kind_of_split_is_refused(tmp_path):
    labels = cohort(50, 0.4)
    registry = Registry(tmp_path / "r.csv", SplitPlan(fixed_test=True))
    listed = frozenset(list(labels)[:9])
    save_registry(assign(registry, labels, test_patients=listed))
    with pytest.raises(InputError, match="with a test list"):
        load_registry(tmp_path / "r.csv", SplitPlan())


def test_the_registry_remembers_the_sites_of_earlier_manifests(tmp_path):
    path, plan = tmp_path / "r.csv", SplitPlan(by_column="site")
    labels = cohort(100, 0.4)
    groups = sites(labels, 5)
    save_registry(assign(Registry(path, plan), labels, groups))
    assert path.stat().st_mode & 0o777 == 0o600
    old = load_registry(path, plan)
    others = {f"N{i}": [i % 2] for i in range(50)}
    site_of = {patient: site for patient, (site,) in sites(others, 5, seed=1).items()}
    new = assign(old, others, sites(others, 5, seed=1))
    split_of = {site: old.split[patient] for patient in labels for site in groups[patient]}
    for patient in others:
        assert new.split[patient] == split_of[site_of[patient]]


def test_registry_that_a_spreadsheet_saved_is_read(tmp_path):
    """Excel writes a byte-order mark and CRLF."""
    path, plan = tmp_path / "r.csv", SplitPlan()
    saved = assign(Registry(path, plan), cohort(50, 0.4))
    save_registry(saved)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    loaded = load_registry(path, plan)
    assert (loaded.number, loaded.split) == (saved.number, saved.split)
