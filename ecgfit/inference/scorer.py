"""Logits of a trained model, per recording.

A recording's logits do not depend on what else is predicted with it: every batch has the same size,
and the last is filled up with zeros. So a file gives the same bits as the store row made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecgfit.checkpoint import load_checkpoint
from ecgfit.compute.device import pick_device, set_up, use_amp
from ecgfit.config import TrainConfig
from ecgfit.data.loader import Batch, make_loader
from ecgfit.data.model_input import ModelInput
from ecgfit.inference.predictions import Predictions
from ecgfit.models.factory import Network, build_model
from ecgfit.run import RunFolder
from ecgfit.run_files import BEST
from ecgprep.errors import InputError, StoreError
from ecgprep.leads import LEADS
from ecgprep.store.reader import Store

BATCH = 64
"""Recordings at a time outside training."""

_SHOWN_ROWS = 8


class Scorer(nn.Module):
    """One model with its input.

    int16 µV (B, 8, L), lead_mask (B, 8), valid_span (B, 2) and covariates (B, K) -> float32 logits
    (B, 2).
    """

    def __init__(self, model_input: ModelInput, model: nn.Module) -> None:
        super().__init__()
        self.model_input, self.model = model_input, model

    def forward(
        self, waveforms: Tensor, lead_mask: Tensor, valid_span: Tensor, covariates: Tensor | None
    ) -> Tensor:
        """Return the logits of a batch."""
        x, tabular = self.model_input(waveforms, lead_mask, valid_span, covariates)
        return cast(Tensor, self.model(x, tabular))


class Ensemble(nn.Module):
    """The mean logit of one or more scorers of the same recordings."""

    def __init__(self, scorers: list[Scorer]) -> None:
        super().__init__()
        self.scorers = nn.ModuleList(scorers)

    def forward(
        self, waveforms: Tensor, lead_mask: Tensor, valid_span: Tensor, covariates: Tensor | None
    ) -> Tensor:
        """Return the mean logits of a batch."""
        logits = [scorer(waveforms, lead_mask, valid_span, covariates) for scorer in self.scorers]
        return torch.stack(logits).mean(dim=0)


def load_ensemble(members: Sequence[RunFolder], device: str) -> Ensemble:
    """Rebuild the best models of a run's members on a device, in evaluation mode.

    Raises StoreError when weights are damaged or do not fit.
    """
    return Ensemble([_load_scorer(member) for member in members]).eval().to(device)


def build_network(config: TrainConfig, model_input: ModelInput) -> Network:
    """Build the network of a config with its initial weights."""
    return build_model(
        config.model,
        model_input.n_channels,
        config.seed,
        len(config.tabular),
        ecg=not config.tabular_only,
        model_args=config.model_args,
    )


def _load_scorer(member: RunFolder) -> Scorer:
    config = member.config
    model_input = ModelInput(member.stats, config.missing)
    model = build_network(config, model_input)
    try:
        model.load_state_dict(load_checkpoint(member.path / BEST)["model"])
    except (KeyError, RuntimeError, TypeError, AttributeError):
        raise StoreError(
            f"{member.path}/{BEST} does not hold the weights of a {config.model}. Train again."
        ) from None
    return Scorer(model_input, model)


def load_run(run: RunFolder) -> tuple[Ensemble, bool]:
    """Return a run's models on their device, and whether they compute in bfloat16.

    Sets the machine up as the run's config says. A run that was trained on a GPU is used on the CPU
    where there is none. Raises StoreError.
    """
    set_up(run.config.threads)
    asked = "cpu" if run.config.device == "cpu" else "auto"
    device = pick_device(asked)
    return load_ensemble(run.members, device), _computes_in_bfloat16(run, device)


def _computes_in_bfloat16(run: RunFolder, device: str) -> bool:
    """Return whether a run is used in bfloat16 on a device.

    `auto` does so only on the kind of device that it was trained on, and if it was trained so.
    """
    was_on = "cpu" if str(run.recorded.get("device")).startswith("cpu ") else "cuda"
    trained = bool(run.recorded.get("amp")) and device == was_on
    return use_amp(run.config.amp, device, trained)


def score_batch(
    scorer: nn.Module,
    batch: Batch,
    device: torch.device,
    amp: bool,
    change: Callable[[Batch], Batch] | None = None,
) -> Tensor:
    """Return float64 logits (B, 2), on the device, of at most `BATCH` recordings.

    `change` is applied to the batch first.
    """
    if change is not None:
        batch = change(batch)
    n = len(batch.waveforms)
    tensors = (batch.waveforms, batch.lead_mask, batch.valid_span, batch.covariates)
    inputs = [_fill_up(tensor).to(device, non_blocking=True) for tensor in tensors]
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=amp):
        logits: Tensor = scorer(*inputs)
    return logits[:n].double()


def _fill_up(tensor: Tensor) -> Tensor:
    """Add zeros up to `BATCH` recordings, so that all batches are computed alike."""
    n_absent = BATCH - len(tensor)
    if n_absent <= 0:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(n_absent, *tensor.shape[1:])])


def predict_rows(
    scorer: nn.Module,
    store: Store,
    rows: NDArray[np.int64],
    covariates: tuple[str, ...],
    amp: bool,
    change: Callable[[Batch], Batch] | None = None,
) -> Predictions:
    """Run a scorer, or an ensemble, over rows of a store, on the device that it is on.

    Raises InputError when a logit is not finite.
    """
    device = next(scorer.parameters()).device
    loader = make_loader(store, rows, BATCH, pin=device.type == "cuda", covariates=covariates)
    with _evaluation_mode(scorer):
        scored = [score_batch(scorer, batch, device, amp, change) for batch in loader]
    # Fetched together: each fetch waits for a GPU.
    logits = torch.cat(scored).cpu().numpy() if scored else np.empty((0, 2))
    _check_finite(logits, rows)
    patient = store.array("patient")[rows].astype(np.int64)
    label = store.array("label")[rows].astype(np.int64)
    return Predictions(rows, patient, label, logits)


@contextmanager
def _evaluation_mode(scorer: nn.Module) -> Iterator[None]:
    """Put all modules into evaluation mode, and afterwards back into the mode they were in."""
    was_training = {module: module.training for module in scorer.modules()}
    scorer.eval()
    try:
        yield
    finally:
        for module, mode in was_training.items():
            module.training = mode


def _check_finite(logits: NDArray[np.float64], rows: NDArray[np.int64]) -> None:
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        bad = rows[~finite]
        shown = ", ".join(map(str, bad[:_SHOWN_ROWS]))
        raise InputError(
            f"The model gives logits that are not finite ({len(bad):,} recordings, store rows "
            f"{shown}). Lower --lr."
        )


def without_lead(lead: str) -> Callable[[Batch], Batch]:
    """Return a change of batches that removes a lead, as if it had not been recorded."""
    index = LEADS.index(lead)

    def change(batch: Batch) -> Batch:
        waveforms, lead_mask = batch.waveforms.clone(), batch.lead_mask.clone()
        waveforms[:, index] = 0
        lead_mask[:, index] = False
        return replace(batch, waveforms=waveforms, lead_mask=lead_mask)

    return change
