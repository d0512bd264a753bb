"""What is shown of a table never narrows a small count to fewer than five values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pytest

from ecgfit.metrics.subgroups import withhold_small_groups
from ecgprep.reports.disclosure import HIDDEN, CountFormatter, parts_of

Classes = dict[str, tuple[int, int]]
"""Group -> patients, positive patients."""

hiding = CountFormatter(exact=False)


def with_classes(table: Classes) -> dict[str, dict[str, int]]:
    return {name: {"n": n, "n_positive": k, "n_negative": n - k} for name, (n, k) in table.items()}


def compositions(total: int, n_parts: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to write a total as a sum of so many counts."""
    if n_parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in compositions(total - first, n_parts - 1):
            yield (first, *rest)


def test_counts_from_1_to_9_are_small():
    assert [hiding(n) for n in (0, 1, 9, 10, 1234)] == ["0", "<10", "<10", "10", "1,234"]
    assert [CountFormatter(exact=True)(n) for n in (0, 1, 1234)] == ["0", "1", "1,234"]


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ({"a": 3, "b": 97}, ["<10", "–"]),
        ({"a": 3, "b": 40, "c": 57}, ["<10", "–", "57"]),
        ({"a": 3, "b": 4, "c": 57}, ["<10", "<10", "57"]),
        ({"a": 0, "b": 1234}, ["0", "1,234"]),
        ({"a": 9, "b": 9, "c": 57}, ["<10", "<10", "–"]),
        ({"a": 3, "b": 10}, ["–", "–"]),
        # Were "c" shown, "b" could be at most 12 (the smallest is hidden first): "a" is 8 or 9.
        ({"a": 8, "b": 12, "c": 12}, ["<10", "–", "–"]),
    ],
)
def test_what_would_give_a_small_count_away_is_withheld(counts, shown):
    assert list(hiding.parts(counts).values()) == shown
    exact = CountFormatter(exact=True).parts(counts)
    assert list(exact.values()) == [f"{n:,}" for n in counts.values()]


def agrees(shown: tuple[str, ...], counts: tuple[int, ...]) -> bool:
    """Say whether a reader takes these counts for possible: "–" is 10 or more beside a "<10"."""
    least_hidden = 10 if "<10" in shown else 1
    for text, n in zip(shown, counts, strict=True):
        if text == "<10":
            possible = 1 <= n < 10
        elif text == HIDDEN:
            possible = n >= least_hidden
        else:
            possible = text == f"{n:,}"
        if not possible:
            return False
    return True


@pytest.mark.parametrize(
    ("n_parts", "total"),
    [(2, 10), (2, 19), (2, 47), (3, 13), (3, 28), (3, 39), (4, 19), (4, 23)],
)
def test_subtracting_what_is_shown_from_the_total_leaves_five_values(n_parts, total):
    """A reader who tries every table that agrees with what is shown."""
    tables = list(compositions(total, n_parts))
    looks = defaultdict(list)
    for counts in tables:
        named = dict(zip("abcd", counts, strict=False))
        looks[tuple(hiding.parts(named).values())].append(counts)
    n_protected = 0
    for shown, truths in looks.items():
        possible = [counts for counts in tables if agrees(shown, counts)]
        for k in range(n_parts):
            if any(0 < counts[k] < 10 for counts in truths):
                n_protected += 1
                assert len({counts[k] for counts in possible}) >= 5
    assert n_protected


def test_a_proportion_does_not_give_a_small_count_away():
    assert [hiding.share(n, 100) for n in (3, 50, 97, 100)] == ["–", "50.0 %", "–", "100.0 %"]
    assert hiding.share(0, 0) == "–"
    assert CountFormatter(exact=True).share(3, 100) == "3.0 %"


def test_parts_of_a_known_sum_bound_each_other():
    assert parts_of((100, 100), {"a": (1, 9), "b": (10, 95)}) == {"a": (5, 9), "b": (91, 95)}


def test_groups_with_a_small_count_are_withheld_and_so_is_what_would_give_them_away():
    table = {"a": (50, 20), "b": (30, 9), "c": (40, 25), "d": (60, 30)}
    shown = withhold_small_groups(with_classes(table))
    for name, n in (("b", 30), ("c", 40)):
        assert shown[name] == {
            "n": n,
            "n_positive": None,
            "n_negative": None,
            "suppressed": "fewer than 10 patients, positive or negative ones, here or in a group "
            "beside it",
            "metrics": None,
        }
    assert {name: shown[name]["n_positive"] for name in "ad"} == {"a": 20, "d": 30}


def test_two_withheld_groups_protect_each_other():
    shown = withhold_small_groups(with_classes({"a": (4, 2), "b": (5, 2), "c": (40, 20)}))
    assert shown["a"] == shown["b"]
    assert (shown["a"]["n"], shown["a"]["n_positive"]) == (None, None)
    shown = withhold_small_groups(with_classes({"a": (29, 5), "b": (35, 8), "c": (40, 20)}))
    assert [own["n"] for own in shown.values()] == [29, 35, 40]
    assert [own["n_positive"] for own in shown.values()] == [None, None, 20]


def test_nothing_is_hidden_without_need():
    truth = {"a": (50, 20), "b": (30, 10), "c": (40, 25)}
    shown = withhold_small_groups(with_classes(truth))
    assert {name: (own["n"], own["n_positive"]) for name, own in shown.items()} == truth
    assert withhold_small_groups({}) == {}


def two_groups(n: int, positive: int) -> Iterator[Classes]:
    for a in range(1, n):
        for k in range(max(0, positive - (n - a)), min(a, positive) + 1):
            yield {"a": (a, k), "b": (n - a, positive - k)}


def three_groups(n: int, positive: int) -> Iterator[Classes]:
    for a in range(1, n - 1):
        for k in range(min(a, positive) + 1):
            for rest in two_groups(n - a, positive - k):
                yield {"a": (a, k), "b": rest["a"], "c": rest["b"]}


def assert_small_counts_stay_open(tables: Iterator[Classes], smallest: int, values: int) -> None:
    """Let a reader who knows the totals and the rule try every table that would look the same."""
    alike: dict[str, list[Classes]] = defaultdict(list)
    for table in tables:
        shown = withhold_small_groups(with_classes(table), smallest, values)
        alike[str(shown)].append(table)
    counts = [lambda n, k: n, lambda n, k: k, lambda n, k: n - k]
    n_small = 0
    for found in alike.values():
        for name in found[0]:
            for count in counts:
                possible = {count(*table[name]) for table in found}
                if min(possible) < smallest:
                    n_small += 1
                    assert len(possible) >= values
    assert n_small


@pytest.mark.parametrize(("n", "positive"), [(30, 15), (42, 33), (58, 10), (67, 38), (80, 6)])
def test_no_small_count_of_two_groups_follows_from_what_is_shown(n, positive):
    assert_small_counts_stay_open(two_groups(n, positive), smallest=10, values=5)


@pytest.mark.parametrize(("n", "positive"), [(18, 9), (20, 6), (24, 12), (26, 4), (30, 22)])
def test_no_small_count_of_three_groups_follows_from_what_is_shown(n, positive):
    assert_small_counts_stay_open(three_groups(n, positive), smallest=4, values=3)
