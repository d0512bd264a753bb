"""Counts as reports show them: small ones could point at a person, and are withheld; `parts` withholds what would give them away, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SMALLEST_COUNT = 10
"""Counts below are shown as "<10": a reader who knows one patient must not find the others."""


HIDDEN = "–"


UNSURE = 5
"""A withheld small count must leave at least so many values possible to who subtracts all that is shown from the total."""


Range = tuple[int, int]


def possible(total: int, bounds: Mapping[str, Range]) -> dict[str, Range]:
    """Return the values that each of several withheld counts can have, given their sum and what is known of each: least and greatest."""
    lows, highs = (sum(bound[end] for bound in bounds.values()) for end in (0, 1))
    return {
        name: (max(low, total - (highs - high)), min(high, total - (lows - low)))
        for name, (low, high) in bounds.items()
    }


@dataclass(frozen=True)
class Counts:
    """Formats counts, hiding small ones unless `exact`."""

    exact: bool

    def __call__(self, n: int) -> str:
        return f"<{SMALLEST_COUNT}" if self.hides(n) else f"{n:,}"

    def hides(self, n: int) -> bool:
        """Say whether a count is too small to be shown."""
        return not self.exact and 0 < n < SMALLEST_COUNT

    def parts(self, counts: Mapping[str, int]) -> dict[str, str]:
        """Return counts that add up to a known total; beside small ones the next smallest are withheld, as many as keep the rest from giving
        them away. Where all that there is would not, nothing is said of any."""
        small = [name for name, n in counts.items() if self.hides(n)]
        others = [
            name
            for _, name in sorted(
                (n, name) for name, n in counts.items() if n and name not in small
            )
        ]
        for n_beside in range(len(others) + 1):
            bounds = dict.fromkeys(small, (1, SMALLEST_COUNT - 1)) | dict.fromkeys(
                others[:n_beside], (SMALLEST_COUNT, sum(counts.values()))
            )
            ranges = possible(sum(counts[name] for name in bounds), bounds)
            if all(ranges[name][1] - ranges[name][0] + 1 >= UNSURE for name in small):
                return {
                    name: HIDDEN if name in others[:n_beside] else self(n)
                    for name, n in counts.items()
                }
        return {name: HIDDEN if n else self(n) for name, n in counts.items()}

    def share(self, n: int, total: int) -> str:
        """Return a proportion in percent, unless it would give a small count away."""
        return (
            HIDDEN
            if not total or self.hides(n) or self.hides(total - n)
            else f"{100 * n / total:.1f} %"
        )
