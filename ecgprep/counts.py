"""Counts as reports show them: small ones could point at a person, and are withheld; `parts` withholds what would give them away, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SMALLEST_COUNT = 10
"""Counts below are shown as "<10": a reader who knows one patient must not find the others."""
HIDDEN = "–"


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
        """Return counts that add up to a known total; beside a single small one the next smallest is withheld, too: the rest would give it away."""
        small = [name for name, n in counts.items() if self.hides(n)]
        others = sorted((n, name) for name, n in counts.items() if n and name not in small)
        beside = {others[0][1]} if len(small) == 1 and others else set()
        return {name: HIDDEN if name in beside else self(n) for name, n in counts.items()}

    def share(self, n: int, total: int) -> str:
        """Return a proportion in percent, unless it would give a small count away."""
        return HIDDEN if not total or self.hides(n) or self.hides(total - n) else f"{100 * n / total:.1f} %"
