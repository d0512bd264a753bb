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
from ecgprep.errors import InputError
from ecgprep.files.atomic import write_file

Aggregate = Literal["mean", "max", "first", "last", "none"]

UNCALIBRATED = Calibration("none", 1.0, 0.0)

COLUMNS = {
    "row": np.int64,
    "patient": np.int64,
    "label": np.int64,
    "logit_0": np.float64,
    "logit_1": np.float64,
    "probability": np.float64,
}
"""Columns of predictions_<split>.csv; `threshold` follows where entries have their own."""

_SAME_PROBABILITY = 1e-6
"""Numbers are saved with nine digits, so equal ones differ by far less."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """One entry per recording: store row, patient number, label and logits.

    All are (n,), `logits` (n, 2) float64; a label of -1 is unknown. Out of fold each patient is
    judged by one of several models. The logits are then calibrated already, and `threshold` (n,)
    holds that model's own.
    """

    rows: NDArray[np.int64]
    patient: NDArray[np.int64]
    label: NDArray[np.int64]
    logits: NDArray[np.float64]
    threshold: NDArray[np.float64] | None = None

    def by_patient(self, how: Aggregate = "mean") -> Predictions:
        """Return one entry per patient; with `none` the entries as they are.

        A patient is positive when any recording is. `mean` averages the logits; `max` takes the
        recording with the greatest difference of logits; `first` and `last` go by the order of the
        store's rows, which is that of the manifest. `rows` are the first of each patient.
        """
        if how == "none":
            return self
        patient, first, index = np.unique(self.patient, return_index=True, return_inverse=True)
        threshold = None if self.threshold is None else self.threshold[first]
        return Predictions(
            self.rows[first],
            patient,
            self._label_of_patients(index),
            self._logits_of_patients(index, how),
            threshold,
        )

    def _label_of_patients(self, index: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return 1 where any recording is positive, else 0 where any is negative, else -1."""
        has_positive = np.bincount(index, self.label == 1) > 0
        has_negative = np.bincount(index, self.label == 0) > 0
        return np.where(has_positive, 1, np.where(has_negative, 0, -1))

    def _logits_of_patients(self, index: NDArray[np.intp], how: Aggregate) -> NDArray[np.float64]:
        n_recordings = np.bincount(index)
        if how == "mean":
            sums = [np.bincount(index, self.logits[:, k]) for k in (0, 1)]
            return np.asarray(np.stack(sums, axis=1) / n_recordings[:, None])
        key = {"max": self.logit_difference(), "last": self.rows, "first": -self.rows}[how]
        order = np.lexsort((key, index))  # by patient, then by key: the last of each is taken
        last_of_patient = np.cumsum(n_recordings) - 1
        return self.logits[order[last_of_patient]]

    def probability_and_threshold(
        self, calibration: Calibration, threshold: float
    ) -> tuple[NDArray[np.float64], float | NDArray[np.float64]]:
        """Return the probability of each entry (n,) and the threshold that it is called at.

        Both are the run's, `calibration` and `threshold`, unless the entries have their own.
        """
        if self.threshold is None:
            return calibration.apply(self.logit_difference()), threshold
        return UNCALIBRATED.apply(self.logit_difference()), self.threshold

    def with_calibration(self, calibration: Calibration, threshold: float) -> Predictions:
        """Return the same predictions with the calibration in their logits, and their threshold."""
        half = (calibration.slope * self.logit_difference() + calibration.intercept) / 2
        logits = np.stack([-half, half], axis=1)
        return replace(self, logits=logits, threshold=np.full(len(self.rows), threshold))

    def cluster(self, how: Aggregate) -> NDArray[np.int64] | None:
        """Return the patient of each entry (n,) for resampling; None where entries are patients."""
        return self.patient if how == "none" else None

    def n_recordings(self) -> NDArray[np.int64]:
        """Return how many recordings each patient has, in the order of `by_patient`."""
        return np.unique(self.patient, return_counts=True)[1].astype(np.int64)

    def logit_difference(self) -> NDArray[np.float64]:
        """Return logit 1 - logit 0 (n,), which calibration turns into a probability."""
        return np.asarray(self.logits[:, 1] - self.logits[:, 0])

    def labelled(self) -> Predictions:
        """Return the recordings whose label is known."""
        return self.select(self.label >= 0)

    def select(self, index: Any) -> Predictions:
        """Return the entries at positions `index`, or where `index` (n,) is true."""
        threshold = None if self.threshold is None else self.threshold[index]
        return Predictions(
            self.rows[index], self.patient[index], self.label[index], self.logits[index], threshold
        )

    @staticmethod
    def concatenate(parts: Sequence[Predictions]) -> Predictions:
        """Return the recordings of all parts, in the order of the store's rows."""
        thresholds = [part.threshold for part in parts if part.threshold is not None]
        threshold = np.concatenate(thresholds) if thresholds else None
        whole = Predictions(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.patient for part in parts]),
            np.concatenate([part.label for part in parts]),
            np.concatenate([part.logits for part in parts]),
            threshold,
        )
        return whole.select(np.argsort(whole.rows))

    def save(self, path: Path, calibration: Calibration) -> None:
        """Write predictions as CSV, whole or not at all: numbers only, no identifiers."""
        import pandas as pd  # importing it costs half a second

        probability, _ = self.probability_and_threshold(calibration, 0.0)
        columns = [
            self.rows,
            self.patient,
            self.label,
            self.logits[:, 0],
            self.logits[:, 1],
            probability,
        ]
        table = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
        if self.threshold is not None:
            table["threshold"] = self.threshold
        text = table.to_csv(index=False, float_format="%.9g", lineterminator="\n")
        write_file(path, text.encode())

    @classmethod
    def load(cls, path: Path, *calibrations: Calibration) -> Predictions:
        """Read what `save` wrote; with `calibrations`, check that it was written with one of them.

        Raises InputError where the file is missing, damaged or was written with another.
        """
        advice = "Run `ecgfit eval` again."
        if path.stem.endswith(("_val", "_oof")):
            advice = "`ecgfit train` with --resume makes it again."
        try:
            predictions, saved = cls._parse(path)
        except (OSError, ValueError):
            raise InputError(f"{path} is missing or damaged. {advice}") from None
        if calibrations and not any(
            np.allclose(
                predictions.probability_and_threshold(calibration, 0.0)[0],
                saved,
                rtol=0,
                atol=_SAME_PROBABILITY,
            )
            for calibration in calibrations
        ):
            raise InputError(
                f"{path} was made with another calibration than the run has now, so it is "
                f"of an earlier training or decision. {advice}"
            )
        return predictions

    @classmethod
    def _parse(cls, path: Path) -> tuple[Predictions, NDArray[np.float64]]:
        """Return predictions and their saved probabilities.

        Raises OSError, or ValueError for anything that `save` did not write.
        """
        import pandas as pd

        with warnings.catch_warnings(record=True) as caught:  # of lines of another length
            warnings.simplefilter("always", pd.errors.ParserWarning)
            # Cells are read as text: not every pandas parses numbers to the last bit.
            table = pd.read_csv(path, dtype=object, index_col=False, keep_default_na=False)
        has_columns = list(table) in ([*COLUMNS], [*COLUMNS, "threshold"])
        if caught or not has_columns or table.empty:
            raise ValueError(f"{path.name} is not a table of predictions")
        columns = {
            name: table[name].to_numpy().astype(COLUMNS.get(name, np.float64)) for name in table
        }
        if not all(np.isfinite(column).all() for column in columns.values()):
            raise ValueError(f"{path.name} holds numbers that are not finite")
        predictions = cls(
            columns["row"],
            columns["patient"],
            columns["label"],
            np.stack([columns["logit_0"], columns["logit_1"]], axis=1),
            columns.get("threshold"),
        )
        return predictions, columns["probability"]
