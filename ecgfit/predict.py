"""Logits of a trained model, per recording and per patient."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ecgfit.data import ModelInput, make_loader
from ecgfit.run import write_table
from ecgprep.errors import InputError
from ecgprep.store import Store


@dataclass(frozen=True, eq=False)
class Predictions:
    """One entry per recording: store row, patient number, label, and logits (n, 2) float64."""

    rows: NDArray[np.int64]
    patient: NDArray[np.int64]
    label: NDArray[np.int64]
    logits: NDArray[np.float64]

    def by_patient(self) -> Predictions:
        """Average the logits of each patient's recordings; a patient is positive when any of them is. `rows` are each one's first."""
        patient, first, index, count = np.unique(self.patient, return_index=True, return_inverse=True, return_counts=True)
        sums = np.stack([np.bincount(index, self.logits[:, k]) for k in (0, 1)], axis=1)
        positive = np.bincount(index, self.label == 1) > 0
        return Predictions(self.rows[first], patient, positive.astype(np.int64), sums / count[:, None])

    def probability(self) -> NDArray[np.float64]:
        """Probability of label 1: softmax of the two logits, which is the sigmoid of their difference."""
        return np.asarray(1 / (1 + np.exp(np.clip(self.logits[:, 0] - self.logits[:, 1], -700, 700))))

    def save(self, path: Path) -> None:
        """Write predictions as CSV: numbers only, no identifier."""
        columns = (self.rows, self.patient, self.label, self.logits[:, 0], self.logits[:, 1], self.probability())
        table = [[int(r), int(p), int(y), f"{a:.9g}", f"{b:.9g}", f"{q:.9g}"] for r, p, y, a, b, q in zip(*columns, strict=True)]
        write_table(path, ["row", "patient", "label", "logit_0", "logit_1", "probability"], table)


def predict_rows(model: nn.Module, model_input: ModelInput, store: Store, rows: NDArray[np.int64], batch_size: int, amp: bool) -> Predictions:
    """Run the model over rows of a store, on the device that the model is on."""
    device = next(model.parameters()).device
    model.eval()
    parts = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=amp):
        for batch in make_loader(store, rows, batch_size, pin=device.type == "cuda"):
            x = model_input(batch.waveforms.to(device), batch.lead_mask.to(device), batch.valid_span.to(device))
            parts.append(model(x).double().cpu().numpy())
    logits = np.concatenate(parts)
    if not np.isfinite(logits).all():
        bad = rows[~np.isfinite(logits).all(axis=1)]
        raise InputError(
            f"The model gives logits that are not finite ({len(bad):,} recordings, store rows {', '.join(map(str, bad[:8]))}). Lower --lr."
        )
    return Predictions(rows, store.array("patient")[rows].astype(np.int64), store.array("label")[rows].astype(np.int64), logits)
