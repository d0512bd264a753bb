"""Predictions per recording and per patient, as arrays and as CSV."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ecgfit.metrics.calibration import Calibration
from ecgfit.run_files import write_table
from ecgprep.errors import InputError

Aggregate = Literal["mean", "max", "first", "last", "none"]


UNCALIBRATED = Calibration("none", 1.0, 0.0)


_HEADER = ["row", "patient", "label", "logit_0", "logit_1", "probability", "threshold"]


@dataclass(frozen=True, eq=False)
class Predictions:
    """One entry per recording: store row, patient number, label (-1 = not known), and logits (n, 2) float64.

    Out of fold each patient is judged by one of several models: their logits are then calibrated already, and `threshold` (n,) is that
    model's own.
    """

    rows: NDArray[np.int64]
    patient: NDArray[np.int64]
    label: NDArray[np.int64]
    logits: NDArray[np.float64]
    threshold: NDArray[np.float64] | None = None

    def by_patient(self, how: Aggregate = "mean") -> Predictions:
        """Return one entry per patient, or all of them with `none`; a patient is positive when any recording is.

        `mean` averages the logits, `max` takes the recording with the greatest difference of logits, `first` and `last` go by the order of
        the store's rows, which is that of the manifest. `rows` are each patient's first.
        """
        if how == "none":
            return self
        patient, first, index, count = np.unique(
            self.patient, return_index=True, return_inverse=True, return_counts=True
        )
        positive = np.bincount(index, self.label == 1) > 0
        label = np.where(positive, 1, np.where(np.bincount(index, self.label == 0) > 0, 0, -1))
        if how == "mean":
            sums = np.stack([np.bincount(index, self.logits[:, k]) for k in (0, 1)], axis=1)
            logits = sums / count[:, None]
        else:
            key = (
                self.logit_difference()
                if how == "max"
                else self.rows
                if how == "last"
                else -self.rows
            )
            order = np.lexsort((key, index))
            logits = self.logits[order[np.cumsum(count) - 1]]
        return Predictions(
            self.rows[first],
            patient,
            label,
            logits,
            None if self.threshold is None else self.threshold[first],
        )

    def probability_and_threshold(
        self, calibration: Calibration, threshold: float
    ) -> tuple[NDArray[np.float64], float | NDArray[np.float64]]:
        """Return the probability of each entry and the threshold that it is called by: the run's, or those that the entries bring along."""
        if self.threshold is None:
            return calibration.apply(self.logit_difference()), threshold
        return UNCALIBRATED.apply(self.logit_difference()), self.threshold

    def with_calibration(self, calibration: Calibration, threshold: float) -> Predictions:
        """Return predictions that bring along their calibration, in the logits, and their threshold."""
        half = (calibration.slope * self.logit_difference() + calibration.intercept) / 2
        return replace(
            self,
            logits=np.stack([-half, half], axis=1),
            threshold=np.full(len(self.rows), threshold),
        )

    def cluster(self, how: Aggregate) -> NDArray[np.int64] | None:
        """Return each entry's patient where entries are recordings, for resampling; None where an entry is a patient."""
        return self.patient if how == "none" else None

    def n_recordings(self) -> NDArray[np.int64]:
        """Return how many recordings each patient has, in the order of `by_patient`."""
        return np.unique(self.patient, return_counts=True)[1].astype(np.int64)

    def logit_difference(self) -> NDArray[np.float64]:
        """Return logit 1 - logit 0: what calibration turns into a probability."""
        return np.asarray(self.logits[:, 1] - self.logits[:, 0])

    def labelled(self) -> Predictions:
        """Return the recordings whose label is known."""
        return self.select(self.label >= 0)

    def select(self, index: Any) -> Predictions:
        """Return some of the entries: `index` (an array) holds positions, or says of each whether it is wanted."""
        threshold = None if self.threshold is None else self.threshold[index]
        return Predictions(
            self.rows[index], self.patient[index], self.label[index], self.logits[index], threshold
        )

    @staticmethod
    def concatenate(parts: Sequence[Predictions]) -> Predictions:
        """Return the recordings of several, in the order of the store's rows."""
        rows, patient, label, logits = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("rows", "patient", "label", "logits")
        )
        thresholds = [part.threshold for part in parts if part.threshold is not None]
        whole = Predictions(
            rows, patient, label, logits, np.concatenate(thresholds) if thresholds else None
        )
        return whole.select(np.argsort(whole.rows))

    def save(self, path: Path, calibration: Calibration) -> None:
        """Write predictions as CSV: numbers only, no identifier. The column `threshold` is there where entries have their own."""
        whole = (self.rows, self.patient, self.label)
        probability, threshold = self.probability_and_threshold(calibration, 0.0)
        real = [
            self.logits[:, 0],
            self.logits[:, 1],
            probability,
            *([threshold] if isinstance(threshold, np.ndarray) else []),
        ]
        table = [
            [*map(int, row[:3]), *(f"{value:.9g}" for value in row[3:])]
            for row in zip(*whole, *real, strict=True)
        ]
        write_table(path, _HEADER[: 3 + len(real)], table)

    @classmethod
    def load(cls, path: Path, calibration: Calibration | None = None) -> Predictions:
        """Read what `save` wrote; with `calibration`, only what was written with that. Raises InputError when it is not that."""
        again = (
            "`ecgfit train` with --resume makes it again."
            if path.stem.endswith(("_val", "_oof"))
            else "Run `ecgfit eval` again."
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "error", UserWarning
                )  # NumPy only warns of a file without lines
                table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2, dtype=np.float64)
            rows, patient, label = table[:, :3].astype(np.int64).T
            found = cls(
                rows,
                patient,
                label,
                table[:, 3:5],
                table[:, 6] if table.shape[1] > len(_HEADER) - 1 else None,
            )
            probability = (
                table[:, 5]
                if calibration is None
                else found.probability_and_threshold(calibration, 0.0)[0]
            )
        except (OSError, ValueError, IndexError, UserWarning):
            raise InputError(f"{path} is missing or damaged. {again}") from None
        if not np.allclose(probability, table[:, 5], rtol=0, atol=1e-6):
            raise InputError(
                f"{path} was not made with the calibration that the run has now: it is of an earlier training. {again}"
            )
        return found
