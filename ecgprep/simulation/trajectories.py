"""How the heart of a simulated patient fares under therapy: LVEF, GLS, biomarkers and the ECG.

Days count from the first dose. Some hearts are harmed: their LVEF falls along a logistic curve,
mostly within a year (Cardinale et al., Circulation 2015;131:1981), and some recover under
treatment. GLS falls weeks before LVEF, biomarkers rise with it, and the ECG has shown a little of
the disposition before the first dose. The numbers are invented and are no evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

GLS_LEAD_DAYS = 60
"""GLS is as far on its way as LVEF will be after so many days."""

NORMAL_LVEF = 55
"""From here on down, the ECG shows what is missing."""

MARKERS = {"BNP": (14, 0.35), "NT-proBNP": (55, 0.35), "Troponin T": (5, 0.3)}
"""Biomarker: median of a healthy heart, in pg/mL or ng/L, and the spread of its logarithm."""


@dataclass(frozen=True)
class Course:
    """The true state of a heart over time, which no measurement shows without error."""

    lvef: float
    """Before the first dose, in percent."""
    gls: float
    """Before the first dose, as a magnitude in percent."""
    fall: float
    """What the therapy would take of LVEF for good, in percentage points."""
    midpoint_day: float
    """When half of the fall is done."""
    pace_days: float
    recovers: float
    """Share of the fall that treatment gives back within a year."""
    disposition: float
    """How much the ECG shows before the first dose: 0 healthy, 1 a typical dysfunction."""

    @classmethod
    def draw(cls, is_harmed: bool, was_reduced: bool, generator: np.random.Generator) -> Course:
        """Draw a course; the two groups overlap in all that can be measured."""
        normal = generator.normal
        lvef = normal(44, 3) if was_reduced else np.clip(normal(58.5, 4.5), 51, 74)
        fall = np.clip(normal(17, 8), 4, 38) if is_harmed else np.clip(normal(0, 1.5), 0, 5)
        disposition = normal(1.3, 0.6) if is_harmed else normal(0, 0.5)
        return cls(
            lvef=float(lvef),
            gls=float(0.32 * lvef + normal(0, 0.8)),
            fall=float(fall),
            midpoint_day=float(60 + generator.gamma(2, 70)),
            pace_days=float(generator.uniform(10, 40)),
            recovers=float(generator.choice([0, 0.5, 0.9])),
            disposition=float(np.clip(disposition, 0, 3)),
        )

    def lost(self, day: float) -> float:
        """Return the points of LVEF that are lost on a day."""
        harm = 1 / (1 + math.exp(min(700, (self.midpoint_day - day) / self.pace_days)))
        healing = min(1, max(0, (day - self.midpoint_day - 120) / 365))
        return self.fall * harm * (1 - self.recovers * healing)

    def measured_lvef(self, day: float, error: float, generator: np.random.Generator) -> float:
        """Return an LVEF as an echocardiogram would find it, with a standard error in points."""
        return float(np.clip(self.lvef - self.lost(day) + generator.normal(0, error), 12, 80))

    def measured_gls(self, day: float, generator: np.random.Generator) -> float:
        """Return a GLS in percent; it is negative, as shortening is."""
        relative_fall = 0.024 * self.lost(day + GLS_LEAD_DAYS)
        return -float(np.clip(self.gls * (1 - relative_fall) + generator.normal(0, 0.7), 4, 30))

    def measured_marker(self, name: str, day: float, generator: np.random.Generator) -> float:
        """Return the level of one of MARKERS."""
        median, spread = MARKERS[name]
        return float(median * math.exp(0.1 * self.lost(day) + generator.normal(0, spread)))

    def severity(self, day: float) -> float:
        """Return how much the ECG shows on a day: the disposition, and how far LVEF is down."""
        missing = max(0, NORMAL_LVEF - self.lvef) + self.lost(day)
        return min(3, self.disposition + 0.08 * missing)
