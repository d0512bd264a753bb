"""Average the beats of a group of recordings, and what the model sees in them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ecgfit.data.loader import Batch, make_loader
from ecgfit.explaining.beats import cut_beats, find_beats
from ecgfit.explaining.gradients import attribute
from ecgfit.inference.scorer import Ensemble
from ecgprep.store.reader import Store

BEFORE_S, AFTER_S = 0.25, 0.45
"""Seconds that are cut before and after an R peak."""

_RECORDINGS_AT_A_TIME = 4

_TINY = np.finfo(float).tiny

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GroupAverage:
    """A group of recordings: the mean over recordings of each one's mean beat.

    A lead counts where it is present. `mean_beat_uv` (8, T) is µV above the beat's median and
    `mean_attribution` (8, T) the part of the difference of logits per sample. `lead_share` (8,) is
    each lead's share of the absolute attribution over whole recordings.
    """

    mean_beat_uv: Floats
    mean_attribution: Floats
    lead_share: Floats
    n_recordings: int
    n_patients: int
    n_beats: int
    error: float
    """Error of the sum of attributions, as a share of the differences of outputs."""


def window_samples(rate_hz: float) -> tuple[int, int]:
    """Return how many samples are cut before an R peak, and from it on."""
    return round(BEFORE_S * rate_hz), round(AFTER_S * rate_hz)


@dataclass
class _Recordings:
    """The results of each recording that has a whole beat."""

    beats_uv: list[Floats] = field(default_factory=list)
    attributions: list[Floats] = field(default_factory=list)
    lead_sums: list[Floats] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    n_beats: int = 0

    def add(self, batch: Batch, i: int, attribution: Floats, rate_hz: float) -> None:
        """Average the beats of recording `i` of a batch; `attribution` is (8, L)."""
        waveform, mask = batch.waveforms[i].numpy(), batch.lead_mask[i].numpy()
        span = (int(batch.valid_span[i, 0]), int(batch.valid_span[i, 1]))
        before, after = window_samples(rate_hz)
        peaks = find_beats(waveform, mask, span, rate_hz)
        beats = cut_beats(waveform.astype(np.float64), peaks, before, after, span)
        if not len(beats):
            return
        above_median = beats - np.median(beats, axis=2, keepdims=True)
        cut_attribution = cut_beats(attribution, peaks, before, after, span)
        nan_where_absent = np.where(mask, 0.0, np.nan)[:, None]
        self.beats_uv.append(above_median.mean(axis=0) + nan_where_absent)
        self.attributions.append(cut_attribution.mean(axis=0) + nan_where_absent)
        self.lead_sums.append(np.abs(attribution).sum(axis=1))
        self.rows.append(int(batch.rows[i]))
        self.n_beats += len(beats)

    def lead_share(self) -> Floats:
        """Return the mean over recordings of each lead's share of the absolute attribution (8,)."""
        sums = np.stack(self.lead_sums)
        totals = np.maximum(sums.sum(axis=1, keepdims=True), _TINY)
        return np.asarray((sums / totals).mean(axis=0))


def average_group(
    store: Store, ensemble: Ensemble, rows: NDArray[np.int64], covariates: tuple[str, ...]
) -> GroupAverage | None:
    """Explain rows of a store and average them.

    A recording without a whole beat is left out. Returns None when no recording has one.
    """
    recordings = _Recordings()
    missed = explained = 0.0
    for batch in make_loader(store, rows, _RECORDINGS_AT_A_TIME, covariates=covariates):
        attribution, difference = attribute(ensemble, batch)
        missed += float(np.abs(attribution.sum(axis=(1, 2)) - difference).sum())
        explained += float(np.abs(difference).sum())
        for i in range(len(batch.rows)):
            recordings.add(batch, i, attribution[i], store.sample_rate_hz)
    if not recordings.rows:
        return None
    return GroupAverage(
        mean_beat_uv=_mean_of_present(recordings.beats_uv),
        mean_attribution=_mean_of_present(recordings.attributions),
        lead_share=recordings.lead_share(),
        n_recordings=len(recordings.rows),
        n_patients=len(np.unique(store.array("patient")[recordings.rows])),
        n_beats=recordings.n_beats,
        error=missed / max(explained, _TINY),
    )


def _mean_of_present(recordings: list[Floats]) -> Floats:
    """Return the mean over recordings, NaN for a lead that none has."""
    stack = np.stack(recordings)
    known = ~np.isnan(stack)
    count = known.sum(axis=0)
    sums = np.where(known, stack, 0).sum(axis=0)
    return np.where(count > 0, sums / np.maximum(count, 1), np.nan)
