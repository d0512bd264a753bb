"""Withhold small counts, and the counts beside them that would give them away.

A reader who knows one patient must not find the others, so counts from 1 to 9 are not shown. That
alone is not enough: whoever knows a total subtracts what is shown from it and has the rest. One
rule serves every table whose totals are known (`groups_to_withhold`):

1. A group with a small count is withheld.
2. Other groups are withheld beside it, the smallest first, until each small count could still
   have at least `FEWEST_VALUES` values for a reader who knows the totals, the groups that are
   shown, that groups are withheld by size, and even which of the withheld counts are small.
3. If nothing less is enough, all groups are withheld.

What the reader can work out is computed by narrowing the range of each withheld count, from the
sums over groups and from the sums within each group, until nothing changes. The tests try every
table of two and three groups. Totals that are small themselves cannot be protected, and neither
can counts that appear in several overlapping tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

SMALLEST_COUNT = 10
"""Counts from 1 to below this are shown as "<10"."""

FEWEST_VALUES = 5
"""A withheld small count must leave its reader with at least this many possible values."""

HIDDEN = "–"
"""Stands for a count that is withheld without saying whether it is small."""

Table = Mapping[str, Mapping[str, int]]
"""Counts by group, then by column. The first column is the size of the group; further columns,
where there are any, add up to it."""

Range = tuple[int, int]
"""The least and the greatest value that a count can have."""

Ranges = dict[str, dict[str, Range]]
"""The range that a reader can give for each withheld count, by group, then by column."""


def groups_to_withhold(
    table: Table,
    *,
    sizes_known: bool = False,
    smallest: int = SMALLEST_COUNT,
    fewest_values: int = FEWEST_VALUES,
) -> set[str]:
    """Return the groups whose counts must not be shown; all of them if nothing less is enough.

    Any count below `smallest` is small, also 0: leave out of the table what may be shown as 0.
    Set `sizes_known` if the sizes of withheld groups are shown all the same.
    """
    withheld = {group for group, row in table.items() if min(row.values()) < smallest}
    others = sorted(set(table) - withheld, key=lambda group: (_size(table[group]), group))
    for group in others:
        if secret_is_kept(
            table,
            withheld,
            sizes_known=sizes_known,
            smallest=smallest,
            fewest_values=fewest_values,
        ):
            return withheld
        withheld.add(group)
    return withheld


def secret_is_kept(
    table: Table,
    withheld: Collection[str],
    *,
    sizes_known: bool = False,
    smallest: int = SMALLEST_COUNT,
    fewest_values: int = FEWEST_VALUES,
) -> bool:
    """Say whether each small count still has `fewest_values` for a reader of all other groups."""
    if not withheld:
        return True
    ranges = _first_ranges(table, withheld, sizes_known, smallest)
    _narrow_until_stable(table, ranges)
    for group, column, n in _counts(table, withheld):
        low, high = ranges[group][column]
        if n < smallest and high - low + 1 < fewest_values:
            return False
    return True


def _size(row: Mapping[str, int]) -> int:
    """Return the size of a group, its first column."""
    return next(iter(row.values()))


def _counts(table: Table, groups: Collection[str]) -> Iterator[tuple[str, str, int]]:
    """Yield group, column and count."""
    for group in groups:
        for column, n in table[group].items():
            yield group, column, n


def _first_ranges(
    table: Table, withheld: Collection[str], sizes_known: bool, smallest: int
) -> Ranges:
    """Return what the reader knows of the withheld counts before any subtraction.

    Groups are withheld by size, so none beside a small one is larger than a group that is shown.
    The bound is applied to every withheld group, also to those withheld for a small class of their
    own, which may be larger: the ranges are then too narrow, and more is withheld than need be.
    """
    sizes_shown = [_size(row) for group, row in table.items() if group not in withheld]
    ranges: Ranges = {group: {} for group in withheld}
    for group, column, n in _counts(table, withheld):
        is_size = column == next(iter(table[group]))
        if is_size and sizes_known:
            ranges[group][column] = (n, n)
        elif n < smallest:
            ranges[group][column] = (int(is_size), smallest - 1)
        else:
            total = sum(table[other][column] for other in withheld)
            most = min([total, *sizes_shown]) if is_size else total
            ranges[group][column] = (smallest, most)
    return ranges


def _narrow_until_stable(table: Table, ranges: Ranges) -> None:
    """Narrow the ranges by the sums over groups and within groups until nothing changes.

    Every pass narrows a range by at least one or is the last. Tables of ten groups take three.
    """
    changed = True
    while changed and not _contradict(ranges):
        before = {group: dict(row) for group, row in ranges.items()}
        _narrow_by_totals(table, ranges)
        for row in ranges.values():
            _narrow_within_group(row)
        changed = ranges != before


def _contradict(ranges: Ranges) -> bool:
    """Say whether a range is empty, which happens where the bound on sizes is too strict."""
    return any(low > high for row in ranges.values() for low, high in row.values())


def _narrow_by_totals(table: Table, ranges: Ranges) -> None:
    """Use that each column's total over the withheld groups is known."""
    columns = next(iter(ranges.values())).keys()
    for column in tuple(columns):
        total = sum(table[group][column] for group in ranges)
        known = {group: row[column] for group, row in ranges.items()}
        for group, narrowed in parts_of((total, total), known).items():
            ranges[group][column] = narrowed


def _narrow_within_group(row: dict[str, Range]) -> None:
    """Use that the columns after the first add up to it."""
    size, *classes = row
    if not classes:
        return
    parts = {name: row[name] for name in classes}
    least = sum(low for low, _ in parts.values())
    most = sum(high for _, high in parts.values())
    low, high = row[size]
    row[size] = max(low, least), min(high, most)
    row.update(parts_of(row[size], parts))


def parts_of(total: Range, parts: Mapping[str, Range]) -> dict[str, Range]:
    """Narrow the ranges of several counts, given the range of their sum."""
    least = sum(low for low, _ in parts.values())
    most = sum(high for _, high in parts.values())
    narrowed = {}
    for name, (low, high) in parts.items():
        others_least, others_most = least - low, most - high
        narrowed[name] = max(low, total[0] - others_most), min(high, total[1] - others_least)
    return narrowed


@dataclass(frozen=True)
class CountFormatter:
    """Turn counts into text, hiding small ones unless `exact`."""

    exact: bool

    def __call__(self, n: int) -> str:
        """Return one count whose total is not shown: itself, or "<10"."""
        return f"<{SMALLEST_COUNT}" if self.hides(n) else f"{n:,}"

    def hides(self, n: int) -> bool:
        """Say whether a count is too small to be shown. Zero is shown."""
        return not self.exact and 0 < n < SMALLEST_COUNT

    def parts(self, counts: Mapping[str, int]) -> dict[str, str]:
        """Return counts that add up to a total which the reader knows.

        Small counts become "<10", and what would give them away becomes "–". If even that would
        narrow a small count down too far, every count but zero becomes "–".
        """
        if self.exact:
            return {name: f"{n:,}" for name, n in counts.items()}
        table = {name: {"n": n} for name, n in counts.items() if n}
        withheld = groups_to_withhold(table)
        may_tell_small = secret_is_kept(table, withheld)
        texts = {}
        for name, n in counts.items():
            says_small = self.hides(n) and may_tell_small
            is_hidden = name in withheld and not says_small
            texts[name] = HIDDEN if is_hidden else self(n)
        return texts

    def share(self, n: int, total: int) -> str:
        """Return a proportion in percent, or "–" where it would give a small count away."""
        if not total or self.hides(n) or self.hides(total - n):
            return HIDDEN
        return f"{100 * n / total:.1f} %"
