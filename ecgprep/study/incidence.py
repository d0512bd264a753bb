"""When events happen: cumulative incidence where death competes, and the Kaplan-Meier estimate.

Who died can have no event later. The Aalen-Johansen estimator counts the dead as such; one minus
Kaplan-Meier treats them as if they were still at risk, and so overestimates the incidence.
Sources: Aalen and Johansen, Scand J Stat 1978;5:141; Austin et al., Circulation 2016;133:601.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CENSORED, EVENT, DEATH = 0, 1, 2
"""How the observation of a patient ends."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Incidence:
    """Step functions of time; each array has one value for each distinct time, (n_times,).

    `at_risk` counts those observed until at least that time, `n_events` and `n_deaths` what happens
    then. `event` and `death` are Aalen-Johansen estimates of the share who have had the event, or
    died without it, by then; `kaplan_meier` is one minus the Kaplan-Meier estimate of the event,
    with the dead censored.
    """

    times: Array
    at_risk: NDArray[np.int64]
    n_events: NDArray[np.int64]
    n_deaths: NDArray[np.int64]
    event: Array
    death: Array
    kaplan_meier: Array

    def at(self, time: float) -> tuple[float, float]:
        """Return the incidence of event and death by a time; 0 before the first."""
        before = int(np.searchsorted(self.times, time, side="right"))
        if before == 0:
            return 0.0, 0.0
        return float(self.event[before - 1]), float(self.death[before - 1])

    def counts_until(self, time: float) -> tuple[int, int]:
        """Return how many have had the event, and have died without it, by a time."""
        until = self.times <= time
        return int(self.n_events[until].sum()), int(self.n_deaths[until].sum())

    def event_interval(self, time: float) -> tuple[float, float]:
        """Return the 95 % interval of the incidence of the event by a time.

        The variance is that of Marubini and Valsecchi (Analysing Survival Data, 1995, chapter 10),
        by the delta method; the interval is symmetric on the scale of ln(−ln), so it stays within
        0 and 1. Before the first event it is (0, 0), and it closes where everyone has had it.
        """
        share = self.at(time)[0]
        if not 0 < share < 1:
            return share, share
        width = 1.96 * math.sqrt(self._event_variance(time)) / (share * math.log(share))
        low, high = sorted((share ** math.exp(-width), share ** math.exp(width)))
        return low, high

    def _event_variance(self, time: float) -> float:
        """Return the variance of the incidence of the event by a time."""
        until = self.times <= time
        n = self.at_risk[until].astype(float)
        d, d_all = self.n_events[until], (self.n_events + self.n_deaths)[until]
        survival = np.cumprod(1 - d_all / n)
        before = np.r_[1.0, survival[:-1]]
        to_come = self.event[until][-1] - self.event[until]
        left = n - d_all
        by_all = np.where(left > 0, d_all / (n * np.where(left > 0, left, 1)), 0.0)
        terms = to_come**2 * by_all + before**2 * d * (n - d) / n**3
        return float(np.sum(terms - 2 * to_come * before * d / n**2))

    def at_risk_at(self, time: float) -> int:
        """Return how many are still observed at a time."""
        after = int(np.searchsorted(self.times, time, side="left"))
        return int(self.at_risk[after]) if after < len(self.times) else 0


def cumulative_incidence(time: ArrayLike, outcome: ArrayLike) -> Incidence:
    """Estimate from times (n,), in days, and how each ends (n,): `CENSORED`, `EVENT` or `DEATH`.

    Of what happens at one time, censoring comes last. Raises ValueError for times that are missing
    or not positive.
    """
    times, ends = np.asarray(time, float), np.asarray(outcome, int)
    if not (times > 0).all():
        raise ValueError("time must be positive and known for everyone")
    distinct, place = np.unique(times, return_inverse=True)
    n_by_end = {
        end: np.bincount(place[ends == end], minlength=len(distinct)) for end in (EVENT, DEATH)
    }
    n_leaving = np.bincount(place, minlength=len(distinct))
    at_risk = len(times) - np.r_[0, np.cumsum(n_leaving)[:-1]].astype(int)
    hazard = {end: n / at_risk for end, n in n_by_end.items()}
    survival = np.cumprod(1 - hazard[EVENT] - hazard[DEATH])
    before = np.r_[1.0, survival[:-1]]
    return Incidence(
        times=distinct,
        at_risk=at_risk,
        n_events=n_by_end[EVENT],
        n_deaths=n_by_end[DEATH],
        event=np.cumsum(before * hazard[EVENT]),
        death=np.cumsum(before * hazard[DEATH]),
        kaplan_meier=1 - np.cumprod(1 - hazard[EVENT]),
    )
