"""The confounding probe: how well a recording's origin predicts its label, without the ECG.

If the positives were recorded at one site and the negatives at another, a network learns the sites
(DeGrave et al., Nat Mach Intell 2021;3:610, for chest radiographs). The origin is what a store
keeps of it (the source rate, which leads are present, how much is padding) and what its build
record knows (the dialect). It should predict nothing: an area under the ROC curve of 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgprep.ranking import auroc
from ecgprep.store.format import LABEL_UNKNOWN, PATIENT_NONE
from ecgprep.store.opening import SITE
from ecgprep.store.reader import Store

WARN_ABOVE = 0.6
"""AUROC above which a warning is given."""

_FOLDS = 5

_PRIOR = 5.0
"""Imagined recordings of average risk added to every origin, so that small ones say little."""


@dataclass(frozen=True)
class Probe:
    """The AUROC of each clue alone and of `all` together, over `n` recordings.

    A value is None if either class has too few patients.
    """

    auroc: dict[str, float | None]
    n: int

    @property
    def warning(self) -> str | None:
        """Explain a high value in words; None if there is none."""
        together = self.auroc.get("all")
        if together is None or together <= WARN_ABOVE:
            return None
        alone = ", ".join(
            f"{name} {value:.2f}"
            for name, value in self.auroc.items()
            if name != "all" and value is not None
        )
        return (
            "the origin of a recording alone predicts its label with an AUROC of "
            f"{together:.2f} ({alone}): a model can score by telling sites or devices apart. "
            "Balance the sources, or keep them apart with --split-by-column, and report results "
            "for each source."
        )


def probe_confounding(store: Store, dialects: Sequence[str] | None = None) -> Probe:
    """Predict labels from the origin, cross-validated by patient.

    The score of a recording is the smoothed rate of positives among recordings of the same origin
    in the other folds. `dialects` holds one name per row of the store.
    """
    patient, label = np.asarray(store.array("patient")), np.asarray(store.array("label"))
    rows = np.flatnonzero((patient != PATIENT_NONE) & (label != LABEL_UNKNOWN))
    clues = _clues(store, rows, dialects)
    origins = {
        name: np.unique(values, return_inverse=True)[1]  # numbered from 0
        for name, values in clues.items()
    }
    together = np.stack(list(clues.values()))
    origins["all"] = np.unique(together, axis=1, return_inverse=True)[1].ravel()
    positive = label[rows] == 1
    values = {
        name: _cross_validated_auroc(origin, positive, patient[rows])
        for name, origin in origins.items()
    }
    return Probe(values, len(rows))


def _clues(
    store: Store, rows: NDArray[np.int64], dialects: Sequence[str] | None
) -> dict[str, NDArray[np.float64]]:
    """Return what is known of the origin of each row, as numbers."""
    rate_hz = np.asarray(store.array("rate_hz"))[rows]
    lead_mask = np.asarray(store.array("lead_mask"))[rows]
    span = np.asarray(store.array("valid_span"))[rows].astype(np.int64)
    tenths_of_signal = np.round(10 * (span[:, 1] - span[:, 0]) / store.n_samples)
    clues = {
        "rate": rate_hz.astype(np.float64),
        "leads": np.packbits(lead_mask, axis=1)[:, 0].astype(np.float64),
        "padding": tenths_of_signal,
    }
    if "sites" in store.attributes["settings"]:
        column = store.covariate_names.index(SITE)
        clues[SITE] = np.asarray(store.array("covariates"))[rows, column].astype(np.float64)
    if dialects is not None and len(dialects) == len(store):
        _, code = np.unique(np.array(dialects), return_inverse=True)
        clues["dialect"] = code[rows].astype(np.float64)
    return clues


def _cross_validated_auroc(
    origin: NDArray[np.int64], positive: NDArray[np.bool_], patient: NDArray[np.int32]
) -> float | None:
    """Average the AUROC over folds: scores from different folds cannot be compared."""
    n_positive = len(np.unique(patient[positive]))
    n_negative = len(np.unique(patient[~positive]))
    if min(n_positive, n_negative) < _FOLDS:
        return None
    fold = _folds(positive, patient)
    found = []
    for k in range(_FOLDS):
        train, test = fold != k, fold == k
        if positive[test].all() or not positive[test].any():
            continue
        n = np.bincount(origin[train], minlength=origin.max() + 1)
        n_hits = np.bincount(origin[train], positive[train], minlength=origin.max() + 1)
        score = (n_hits + _PRIOR * positive[train].mean()) / (n + _PRIOR)
        found.append(auroc(score[origin[test]], positive[test]))
    return float(np.mean(found)) if found else None


def _folds(positive: NDArray[np.bool_], patient: NDArray[np.int32]) -> NDArray[np.int64]:
    """Assign recordings to folds by patient; each fold has positive and negative patients."""
    order = np.random.Generator(np.random.PCG64(0)).permutation(patient.max() + 1)
    is_positive = np.zeros(len(order), np.bool_)
    is_positive[patient[positive]] = True
    fold_of = np.zeros(len(order), np.int64)
    for group in (order[is_positive[order]], order[~is_positive[order]]):
        fold_of[group] = np.arange(len(group)) % _FOLDS
    return fold_of[patient]
