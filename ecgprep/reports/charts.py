"""Charts as SVG inside a page: axes, lines, bands and bars, without a script or a font.

They need no further package, and the same numbers give the same bytes. Texts are put into the SVG
as they are: they are written in the code, never taken from a table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

POSITIVE, NEGATIVE, QUIET, PALE, INK = "#c2502e", "#3f6c9b", "#8a94a0", "#b9c3cf", "#1d2530"
"""Colours, different in brightness as well, since the page may be printed in grey."""

Point = tuple[float, float]


@dataclass
class Chart:
    """A chart with the ranges of its axes, in data units; parts are drawn in the order added."""

    title: str
    x: Point
    y: Point
    x_label: str = ""
    y_label: str = ""
    width: int = 760
    height: int = 300
    left: int = 62
    parts: list[str] = field(default_factory=list)

    _TOP, _RIGHT, _BOTTOM = 14, 18, 44

    def px(self, x: float) -> float:
        """Return where a value of x lies, in pixels; what is outside stays at the edge."""
        low, high = self.x
        share = min(max((x - low) / (high - low), 0.0), 1.0)
        return round(self.left + share * (self.width - self.left - self._RIGHT), 1)

    def py(self, y: float) -> float:
        """Return where a value of y lies, in pixels."""
        low, high = self.y
        share = min(max((y - low) / (high - low), 0.0), 1.0)
        return round(self.height - self._BOTTOM - share * self._drawn_height, 1)

    @property
    def _drawn_height(self) -> int:
        return self.height - self._TOP - self._BOTTOM

    def axes(
        self, x_ticks: Iterable[float], y_ticks: Iterable[float], percent: bool = False
    ) -> None:
        """Draw grid, ticks and labels; `percent` writes 0.1 as 10 %."""
        bottom, right = self.height - self._BOTTOM, self.width - self._RIGHT
        for x in x_ticks:
            self.parts.append(f'<path d="M{self.px(x)} {self._TOP}V{bottom}" class="grid"/>')
            self.text(self.px(x), bottom + 16, f"{x:g}", "middle")
        for y in y_ticks:
            self.parts.append(f'<path d="M{self.left} {self.py(y)}H{right}" class="grid"/>')
            written = f"{100 * y:g} %" if percent else f"{y:g}"
            self.text(self.left - 6, self.py(y) + 4, written, "end")
        self.text((self.left + right) / 2, self.height - 8, self.x_label, "middle")
        middle = self._TOP + self._drawn_height / 2
        self.parts.append(
            f'<text transform="translate(13 {middle:g}) rotate(-90)" text-anchor="middle">'
            f"{self.y_label}</text>"
        )

    def text(self, px: float, py: float, text: str, anchor: str = "start") -> None:
        """Write a text at pixels."""
        self.parts.append(f'<text x="{px:g}" y="{py:g}" text-anchor="{anchor}">{text}</text>')

    def line(self, points: Sequence[Point], colour: str, dash: str = "") -> None:
        """Draw a line through points."""
        if points:
            path = "L".join(f"{self.px(x)} {self.py(y)}" for x, y in points)
            dashed = f' stroke-dasharray="{dash}"' if dash else ""
            self.parts.append(
                f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>'
            )

    def steps(self, points: Sequence[Point], colour: str, dash: str = "") -> None:
        """Draw a step function that keeps each value until the next point."""
        corners = [
            corner
            for (x, y), (next_x, _) in itertools.pairwise(points)
            for corner in ((x, y), (next_x, y))
        ]
        self.line([*corners, *points[-1:]], colour, dash)

    def band(self, lower: Sequence[Point], upper: Sequence[Point], colour: str) -> None:
        """Fill the area between two lines."""
        points = [*lower, *reversed(upper)]
        path = "L".join(f"{self.px(x)} {self.py(y)}" for x, y in points)
        self.parts.append(f'<path d="M{path}Z" fill="{colour}" opacity="0.18"/>')

    def bar(self, left: float, right: float, y: float, colour: str, opacity: float = 1.0) -> None:
        """Draw a bar from 0 to y."""
        px, py = self.px(left), self.py(y)
        width, height = self.px(right) - px - 1, self.py(0) - py
        self.parts.append(
            f'<rect x="{px:g}" y="{py:g}" width="{width:.1f}" height="{height:.1f}" '
            f'fill="{colour}" opacity="{opacity:g}"/>'
        )

    def dots(self, points: Iterable[Point], colour: str) -> None:
        """Draw a dot on each point."""
        for x, y in points:
            self.parts.append(
                f'<circle cx="{self.px(x)}" cy="{self.py(y)}" r="3" fill="{colour}"/>'
            )

    def legend(self, entries: Iterable[tuple[str, str]], at_left: bool = False) -> None:
        """Name colours at the top right, or left, one below the other."""
        x = self.left + 12 if at_left else self.width - 190
        for row, (name, colour) in enumerate(entries):
            y = self._TOP + 12 + 17 * row
            self.parts.append(f'<rect x="{x}" y="{y - 9}" width="14" height="9" fill="{colour}"/>')
            self.text(x + 20, y, name)

    def svg(self) -> str:
        """Return the chart."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{self.title}" '
            f'class="chart">{"".join(self.parts)}</svg>'
        )


def round_ticks(high: float, n: int = 5) -> list[float]:
    """Return about `n` ticks from 0 to `high` or a little more, at steps of 1, 2 or 5 times 10ᵏ."""
    least = high / n
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999999)
    return [round(i * step, 9) for i in range(math.ceil(high / step - 1e-9) + 1)]
