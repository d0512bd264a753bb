"""How a recording differs from those that a run was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.data.statistics import SeenRange
from ecgprep.leads import LEADS

DEVIATION_FACTOR = 1.5
"""How far a lead's standard deviation may lie beyond the range seen in training.

A warning is given above the greatest times this factor, and below the least divided by it.
"""


@dataclass(frozen=True)
class TrainingRange:
    """The range of the train recordings of all members of a run."""

    ranges: Sequence[SeenRange]
    """One for each member."""
    covariates: tuple[str, ...]
    """Names of the run's covariates (K,)."""
    unseen: tuple[str, ...] = ()
    """Leads that no train recording has, which the model does not get."""

    def warnings(
        self,
        rate_hz: float,
        span: tuple[int, int],
        mask: NDArray[np.bool_],
        deviation: NDArray[Any],
        values: NDArray[Any],
    ) -> list[str]:
        """Return how one recording differs from the range; empty where it does not.

        `span` is the valid samples, `mask` (8,) says which leads are present, `deviation` (8,) is
        their standard deviation in µV, and `values` (K,) are the covariates, NaN where missing.
        """
        found = []
        is_unseen = np.isin(LEADS, self.unseen)
        masked = [lead for lead in self.unseen if mask[LEADS.index(lead)]]
        mask = mask & ~is_unseen
        if masked:
            found.append(f"{', '.join(masked)} not used: no train recording has them")
        if masked and not mask.any():
            found.append("no lead that the run uses: the probability says nothing of this ECG")
        if not any(np.isclose(rate_hz, seen.rates_hz).any() for seen in self.ranges):
            found.append(f"recorded at {rate_hz:g} Hz")
        if span[1] - span[0] < min(seen.shortest_samples for seen in self.ranges):
            found.append("shorter than any")
        if mask.sum() < min(seen.fewest_leads for seen in self.ranges):
            found.append("more leads missing than in any")
        return found + self._lead_warnings(mask, deviation) + self._covariate_warnings(values)

    def _lead_warnings(self, mask: NDArray[np.bool_], deviation: NDArray[Any]) -> list[str]:
        least, greatest = self._bounds("lead_sd_uv")
        found = []
        for i, lead in enumerate(LEADS):
            if not mask[i]:
                continue
            if deviation[i] > greatest[i] * DEVIATION_FACTOR:
                found.append(f"{lead} larger than in any")
            elif not deviation[i] >= least[i] / DEVIATION_FACTOR:
                found.append(f"{lead} smaller than in any")
        return found

    def _covariate_warnings(self, values: NDArray[Any]) -> list[str]:
        least, greatest = self._bounds("covariates")
        found = []
        for i, name in enumerate(self.covariates):
            if np.isnan(values[i]):
                found.append(f"{name} missing")
            elif not least[i] <= values[i] <= greatest[i]:
                found.append(f"{name} outside the range")
        return found

    def _bounds(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the least and the greatest values (n,) over the members."""
        pairs = [getattr(seen, name) for seen in self.ranges]
        bounds = np.array(pairs, np.float64).reshape(len(self.ranges), -1, 2)
        least, greatest = bounds[:, :, 0], bounds[:, :, 1]
        if name == "lead_sd_uv":  # 0 in a member that has not seen the lead
            least = np.where(greatest > 0, least, np.inf)
        return least.min(axis=0), greatest.max(axis=0)
