"""The origin probe: how well does where a recording comes from predict its label, without looking at the ECG?

If the positives were recorded at one site and the negatives at another, a network learns the sites (DeGrave et al., Nat Mach Intell
2021;3:610 for chest radiographs). What a store keeps of the origin, the source rate, which leads are there and how much is padding, and
what its build record says, the dialect, should predict nothing: an area under the ROC curve of 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgprep.ranking import auroc
from ecgprep.store.format import LABEL_UNKNOWN, PATIENT_NONE
from ecgprep.store.reader import Store

WARN_ABOVE = 0.6


_FOLDS = 5


_PRIOR = 5.0
"""Imagined recordings of average risk added to every origin, so that small ones say little."""


@dataclass(frozen=True)
class Probe:
    """`auroc` of each clue alone and of `all` together, over `n` recordings; None where a class has too few patients."""

    auroc: dict[str, float | None]
    n: int

    @property
    def warning(self) -> str | None:
        """Say in words what a high figure means, or None."""
        top = self.auroc.get("all")
        if top is None or top <= WARN_ABOVE:
            return None
        alone = ", ".join(
            f"{name} {value:.2f}"
            for name, value in self.auroc.items()
            if name != "all" and value is not None
        )
        return (
            f"the origin of a recording alone predicts its label with an AUROC of {top:.2f} ({alone}): a model can score by telling sites or "
            "devices apart. Balance the sources, or keep them apart with --split-by-column, and report results within each."
        )


def probe_origin(store: Store, dialects: Sequence[str] | None = None) -> Probe:
    """Predict labels from the origin by patient-wise cross-validation: the smoothed rate of positives of the same origin in other folds."""
    patient, label = np.asarray(store.array("patient")), np.asarray(store.array("label"))
    rows = np.flatnonzero((patient != PATIENT_NONE) & (label != LABEL_UNKNOWN))
    span = np.asarray(store.array("valid_span"))[rows].astype(np.int64)
    signal = np.round(10 * (span[:, 1] - span[:, 0]) / store.n_samples)
    clues = {
        "rate": np.asarray(store.array("rate_hz"))[rows].astype(np.float64),
        "leads": np.packbits(np.asarray(store.array("lead_mask"))[rows], axis=1)[:, 0].astype(
            np.float64
        ),
        "padding": signal,
    }
    if dialects is not None and len(dialects) == len(store):
        names = sorted(set(dialects))
        clues["dialect"] = np.array(
            [names.index(dialects[row]) for row in rows.tolist()], np.float64
        )
    cells = {name: np.unique(values, return_inverse=True)[1] for name, values in clues.items()}
    cells["all"] = np.unique(np.stack(list(clues.values())), axis=1, return_inverse=True)[1].ravel()
    return Probe(
        {
            name: _cross_validated_auroc(cell, label[rows] == 1, patient[rows])
            for name, cell in cells.items()
        },
        len(rows),
    )


def _cross_validated_auroc(
    cell: NDArray[np.int64], positive: NDArray[np.bool_], patient: NDArray[np.int32]
) -> float | None:
    """Average the AUROC over folds: pooled scores of different folds are not comparable."""
    if len(np.unique(patient[positive])) < _FOLDS or len(np.unique(patient[~positive])) < _FOLDS:
        return None
    order = np.random.Generator(np.random.PCG64(0)).permutation(patient.max() + 1)
    # Folds are cut within positive and negative patients, so that each has both.
    is_positive = np.zeros(len(order), np.bool_)
    is_positive[patient[positive]] = True
    fold_of = np.zeros(len(order), np.int64)
    for group in (order[is_positive[order]], order[~is_positive[order]]):
        fold_of[group] = np.arange(len(group)) % _FOLDS
    fold = fold_of[patient]
    found = []
    for k in range(_FOLDS):
        train, test = fold != k, fold == k
        if positive[test].all() or not positive[test].any():
            continue
        n = np.bincount(cell[train], minlength=cell.max() + 1)
        hits = np.bincount(cell[train], positive[train], minlength=cell.max() + 1)
        score = (hits + _PRIOR * positive[train].mean()) / (n + _PRIOR)
        found.append(auroc(score[cell[test]], positive[test]))
    return float(np.mean(found)) if found else None
