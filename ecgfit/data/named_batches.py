"""Batches with named fields for other people's training code: normalised or as stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from ecgfit.data.loader import Batch, Batches
from ecgfit.data.model_input import ModelInput
from ecgfit.data.rows import Missing, select_rows
from ecgfit.data.statistics import NormStats
from ecgprep.errors import InputError
from ecgprep.store.reader import Store


@dataclass(frozen=True, eq=False)
class ECGBatch:
    """B recordings of a store. All tensors are the caller's: no later batch writes into them."""

    waveforms: Tensor
    """(B, 8, L): float32 z-scores, exactly 0 where nothing was measured, or raw int16 in µV.

    Among the z-scores, a lead that no train recording has is 0 as well: it has no scale.
    """
    lead_mask: Tensor
    """(B, 8) bool: whether the lead was measured and is usable."""
    valid_span: Tensor
    """(B, 2) int32: the first sample that is signal, and one past the last; the rest is padding."""
    label: Tensor
    """(B,) int64: 0 or 1."""
    covariates: Tensor
    """(B, K) float32, as stored, in the order they were asked for; NaN where unknown."""
    rows: NDArray[np.int64]
    """(B,): rows of the store."""
    patient: NDArray[np.int64]
    """(B,): the store's numbers of the patients; they identify nobody."""

    def __len__(self) -> int:
        return len(self.rows)


class NamedBatches(IterableDataset[ECGBatch]):
    """The labelled recordings of a split in batches; each iteration is the next epoch."""

    def __init__(
        self,
        store: Store,
        split: str,
        batch: int,
        *,
        seed: int | None,
        normalise: bool,
        covariates: Sequence[str],
        missing: Missing,
    ) -> None:
        if missing not in ("drop", "mask"):
            raise InputError(f"missing (={missing}) must be drop or mask")
        if batch < 1:
            raise InputError(f"batch (={batch}) must be at least 1")
        self._store = store
        self._batches = Batches(
            store, select_rows(store, split, missing), batch, seed, covariates=covariates
        )
        self._model_input: ModelInput | None = None
        if normalise:
            train_rows = select_rows(store, "train", missing)
            self._model_input = ModelInput(NormStats.of(store, train_rows), "drop")
        self.epoch = 0
        """Number of the next epoch, which decides the order of a shuffled one."""

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[ECGBatch]:
        self._batches.epoch = self.epoch
        self.epoch += 1
        for batch in self._batches:
            yield self._named(batch)

    def _named(self, batch: Batch) -> ECGBatch:
        lead_mask = batch.lead_mask
        if self._model_input is None:
            waveforms = batch.waveforms.clone()  # the original is in a reused buffer
        else:
            lead_mask = self._model_input.usable(lead_mask)
            with torch.no_grad():
                waveforms, _ = self._model_input(batch.waveforms, batch.lead_mask, batch.valid_span)
        patient = self._store.array("patient")[batch.rows].astype(np.int64)
        return ECGBatch(
            waveforms=waveforms,
            lead_mask=lead_mask,
            valid_span=batch.valid_span,
            label=batch.label,
            covariates=batch.covariates,
            rows=batch.rows,
            patient=patient,
        )
