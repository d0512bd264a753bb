"""The worst mistakes of a model: its most confident false positives and false negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgfit.reports import figures
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.prose import call
from ecgfit.reports.sections import Figure
from ecgprep.store.reader import Store
from ecgprep.store.row_ids import RowIds

N_MISTAKES = 3
"""How many mistakes of each kind are shown, each of another patient."""


@dataclass(frozen=True)
class Mistake:
    """One wrong call, and the recording that explains it best."""

    kind: str
    row: int
    """Row of the store of the recording that misled most."""
    probability: float
    """The probability that was judged: the patient's, or the recording's if recordings are."""
    probability_of_recording: float
    n_recordings: int
    """How many recordings the call was made from."""


def worst_mistakes(evaluated: EvaluatedSplit, n: int = N_MISTAKES) -> list[Mistake]:
    """Return the most confident mistakes, at most `n` of each kind, each of another patient."""
    return [
        *_of_one_kind(evaluated, "false positive", true_label=0, n=n),
        *_of_one_kind(evaluated, "false negative", true_label=1, n=n),
    ]


def _of_one_kind(evaluated: EvaluatedSplit, kind: str, *, true_label: int, n: int) -> list[Mistake]:
    run, items, records = evaluated.run, evaluated.items, evaluated.records
    probability, threshold = items.probability_and_threshold(run.calibration, run.threshold)
    of_recording, _ = records.probability_and_threshold(run.calibration, run.threshold)
    sign = 1.0 if true_label == 1 else -1.0  # the most confident has the smallest sign * p

    called = (probability >= threshold).astype(np.int64)
    wrong = np.flatnonzero((items.label == true_label) & (called != true_label))
    worst_first = wrong[np.argsort(sign * probability[wrong], kind="stable")]
    mistakes = []
    for at in _first_of_each(worst_first, items.patient[worst_first])[:n].tolist():
        own = np.flatnonzero(records.patient == items.patient[at])
        if evaluated.is_by_recording:
            own = own[records.rows[own] == items.rows[at]]
        worst = own[np.argmin(sign * of_recording[own])]
        mistakes.append(
            Mistake(
                kind=kind,
                row=int(records.rows[worst]),
                probability=float(probability[at]),
                probability_of_recording=float(of_recording[worst]),
                n_recordings=len(own),
            )
        )
    return mistakes


def _first_of_each(values: NDArray[np.int64], key: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first value of each key, in the order of the values."""
    _, first = np.unique(key, return_index=True)
    return values[np.sort(first)]


def draw_mistakes(
    evaluated: EvaluatedSplit, store: Store, whose: RowIds | None = None
) -> list[Figure]:
    """Draw the worst mistakes as ECGs; with `whose`, captions name patient and file."""
    return [_draw(mistake, store, whose) for mistake in worst_mistakes(evaluated)]


def _draw(mistake: Mistake, store: Store, whose: RowIds | None) -> Figure:
    waveform_uv, mask, _ = store.recording(mistake.row)
    caption = call(
        "captions.jinja",
        "mistake",
        mistake.row,
        mistake.probability,
        mistake.n_recordings,
        mistake.probability_of_recording,
        "" if whose is None else whose.describe(mistake.row),
    )
    svg = figures.ecg(waveform_uv, mask, store.sample_rate_hz)
    return Figure(mistake.kind.capitalize(), caption, svg)
