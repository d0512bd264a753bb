"""Logits of a trained model, per recording and per patient.

A recording's logits do not depend on what else is predicted with it: every batch has the same size, the last is filled up with zeros. So
a file gives the same bits as the store's row that was made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecgfit.checkpoint import load_checkpoint
from ecgfit.compute.device import pick_device, set_up, use_amp
from ecgfit.data.loader import Batch, make_loader
from ecgfit.data.model_input import ModelInput
from ecgfit.inference.predictions import Predictions
from ecgfit.models.factory import build_model
from ecgfit.run import Run
from ecgfit.run_files import BEST
from ecgprep.errors import InputError, StoreError
from ecgprep.leads import LEADS
from ecgprep.store.reader import Store

BATCH = 64
"""Recordings at a time outside training."""


class Scorer(nn.Module):
    """One model with its input: int16 µV (B, 8, L), lead_mask (B, 8), valid_span (B, 2), covariates (B, K) -> float32 logits (B, 2)."""

    def __init__(self, model_input: ModelInput, model: nn.Module) -> None:
        super().__init__()
        self.model_input, self.model = model_input, model

    def forward(
        self, waveforms: Tensor, lead_mask: Tensor, valid_span: Tensor, covariates: Tensor | None
    ) -> Tensor:
        x, tabular = self.model_input(waveforms, lead_mask, valid_span, covariates)
        return cast(Tensor, self.model(x, tabular))


class Ensemble(nn.Module):
    """The mean logit of several scorers of the same recordings; of one, that one's."""

    def __init__(self, scorers: list[Scorer]) -> None:
        super().__init__()
        self.scorers = nn.ModuleList(scorers)

    def forward(
        self, waveforms: Tensor, lead_mask: Tensor, valid_span: Tensor, covariates: Tensor | None
    ) -> Tensor:
        return torch.stack(
            [scorer(waveforms, lead_mask, valid_span, covariates) for scorer in self.scorers]
        ).mean(dim=0)


def load_ensemble(members: Sequence[Run], device: str) -> Ensemble:
    """Rebuild the best models of a run's `members` on a device. Raises StoreError when weights are damaged or do not fit."""
    scorers = []
    for member in members:
        config = member.config
        model_input = ModelInput(member.stats, config.missing)
        names = len(config.tabular)
        model = build_model(
            config.model,
            model_input.n_channels,
            config.seed,
            names,
            ecg=not config.tabular_only,
            model_args=config.model_args,
        )
        try:
            model.load_state_dict(load_checkpoint(member.path / BEST)["model"])
        except (KeyError, RuntimeError, TypeError, AttributeError):
            raise StoreError(
                f"{member.path}/{BEST} does not hold the weights of a {config.model}. Train again."
            ) from None
        scorers.append(Scorer(model_input, model))
    return Ensemble(scorers).eval().to(device)


def load_run(run: Run) -> tuple[Ensemble, bool]:
    """Set the machine up as the run's config says; return its models on their device, and whether they compute in bfloat16. Raises StoreError.

    A run that was trained on a GPU is used on the CPU where there is none.
    """
    set_up(run.config.threads)
    device = pick_device("cpu" if run.config.device == "cpu" else "auto")
    return load_ensemble(run.members, device), use_amp(run.config.amp, device)


def score_batch(
    scorer: nn.Module,
    batch: Batch,
    device: torch.device,
    amp: bool,
    change: Callable[[Batch], Batch] | None = None,
) -> Tensor:
    """Return float64 logits (B, 2), on the device, of at most BATCH recordings."""
    batch = batch if change is None else change(batch)
    n = len(batch.waveforms)

    def full(tensor: Tensor) -> Tensor:
        return (
            torch.cat([tensor, tensor.new_zeros(BATCH - n, *tensor.shape[1:])])
            if n < BATCH
            else tensor
        )

    inputs = (
        full(t).to(device, non_blocking=True)
        for t in (batch.waveforms, batch.lead_mask, batch.valid_span, batch.covariates)
    )
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=amp):
        logits: Tensor = scorer(*inputs)
    return logits[:n].double()


def predict_rows(
    scorer: nn.Module,
    store: Store,
    rows: NDArray[np.int64],
    covariates: tuple[str, ...],
    amp: bool,
    change: Callable[[Batch], Batch] | None = None,
) -> Predictions:
    """Run a scorer, or an ensemble of them, over rows of a store, on the device that it is on. Raises InputError when a logit is not finite."""
    device = next(scorer.parameters()).device
    was_training = {module: module.training for module in scorer.modules()}
    scorer.eval()
    loader = make_loader(store, rows, BATCH, pin=device.type == "cuda", covariates=covariates)
    found = [
        score_batch(scorer, batch, device, amp, change) for batch in loader
    ]  # fetched together: each fetch waits for a GPU
    logits = torch.cat(found).cpu().numpy() if found else np.empty((0, 2))
    for module, mode in was_training.items():
        module.training = mode
    if not np.isfinite(logits).all():
        bad = rows[~np.isfinite(logits).all(axis=1)]
        raise InputError(
            f"The model gives logits that are not finite ({len(bad):,} recordings, store rows {', '.join(map(str, bad[:8]))}). Lower --lr."
        )
    return Predictions(
        rows,
        store.array("patient")[rows].astype(np.int64),
        store.array("label")[rows].astype(np.int64),
        logits,
    )


def without_lead(lead: str) -> Callable[[Batch], Batch]:
    """Return a change of batches that takes a lead away, as if it had not been recorded."""
    index = LEADS.index(lead)

    def change(batch: Batch) -> Batch:
        waveforms, lead_mask = batch.waveforms.clone(), batch.lead_mask.clone()
        waveforms[:, index], lead_mask[:, index] = 0, False
        return replace(batch, waveforms=waveforms, lead_mask=lead_mask)

    return change
