"""Check on one batch of each split what a long run relies on."""

from __future__ import annotations

import copy

import numpy as np
import torch

from ecgfit.data.augment import AUGMENTATIONS, Draws, draw
from ecgfit.data.loader import Batch, make_loader
from ecgfit.data.model_input import ModelInput
from ecgfit.data.rows import usable_rows
from ecgfit.data.statistics import NormStats
from ecgfit.inference.predictions import Predictions
from ecgfit.models.factory import count_macs, count_parameters
from ecgfit.training.trainer import Trainer
from ecgprep.errors import StoreError
from ecgprep.leads import LEADS
from ecgprep.store.format import SPLITS

FEW_EVENTS = 20
"""Positive validation patients below which selection by them is a matter of luck."""


def _macs(trainer: Trainer) -> int:
    model_input = trainer.scorer.model_input
    return count_macs(
        trainer.model, model_input.n_channels, trainer.store.n_samples, model_input.n_covariates
    )


def preflight(trainer: Trainer, *, test: bool = True) -> list[str]:
    """Check what a long run relies on, on one batch of each split, and return a line on each check. Raises StoreError.

    Training itself asks for no `test`, and so reads no test row; `ecgfit train --check` looks whether those tensors are finite, too.
    """
    store, config = trainer.store, trainer.config
    if tuple(store.attributes["lead_names"]) != LEADS:
        raise StoreError(f"{store.path}: the lead order is not {', '.join(LEADS)}.")
    shape = (trainer.scorer.model_input.n_channels, store.n_samples)
    looked_at = trainer.rows | (
        {"test": usable_rows(store, "test", config.missing)} if test else {}
    )
    looked_at = {name: rows for name, rows in looked_at.items() if len(rows)}
    for name, rows in looked_at.items():
        _check_batch(
            trainer,
            name,
            next(iter(make_loader(store, rows, config.batch, covariates=config.tabular))),
            shape,
        )
    used = [SPLITS.index("train")] + [SPLITS.index("val")] * (
        config.fold >= 0
    )  # cross-validation trains on both, never on test
    if (
        not np.isin(store.array("split")[trainer.rows["train"]], used).all()
        or NormStats.of(store, trainer.rows["train"], config.tabular) != trainer.stats
    ):
        raise StoreError("The normalisation statistics do not come from train rows only.")
    _check_augmentation(trainer.scorer.model_input, store.n_samples)
    lines = [
        f"checked: tensors of {', '.join(looked_at)} are finite and (B, {shape[0]}, {shape[1]}); leads are {', '.join(LEADS)}",
        f"checked: statistics come from {len(trainer.rows['train']):,} train recordings only; augmentation keeps length and lead synchrony",
        f"{config.model}: {count_parameters(trainer.model):,} parameters to train, {_macs(trainer) / 1e9:.3f} GMAC a recording, on {trainer.device} "
        f"with {config.threads} threads"
        + (f" in each of {trainer.ranks.world} processes" if trainer.ranks.world > 1 else ""),
    ]
    return [*lines, *_events(trainer)]


def _events(trainer: Trainer) -> list[str]:
    """Say how many patients select the epoch, and warn when they are few."""
    rows, store = trainer.rows["val"], trainer.store
    patients = Predictions(
        rows, store.array("patient")[rows], store.array("label")[rows], np.zeros((len(rows), 2))
    ).by_patient()
    n_positive = int((patients.label == 1).sum())
    line = f"validation: {len(patients.label):,} patients, {n_positive:,} positive"
    steadier = "" if trainer.config.folds else " (several --seeds, or --folds, make it steadier)"
    advice = f"; few: the epoch, threshold and calibration that they choose are uncertain{steadier}"
    return [line + (advice if n_positive < FEW_EVENTS else "")]


def _check_batch(trainer: Trainer, name: str, batch: Batch, shape: tuple[int, int]) -> None:
    draws = Draws(torch.Generator(trainer.device).manual_seed(0), len(batch.rows))
    drawn = draw(trainer.config.aug if name == "train" else (), draws, batch.waveforms.shape)
    tensors = (
        t.to(trainer.device)
        for t in (batch.waveforms, batch.lead_mask, batch.valid_span, batch.covariates)
    )
    x, tabular = trainer.scorer.model_input(*tensors, drawn)
    if x.shape != (len(batch.rows), *shape) or x.dtype != torch.float32:
        raise StoreError(
            f"The {name} rows give tensors {tuple(x.shape)} {x.dtype}; (B, {shape[0]}, {shape[1]}) float32 is needed."
        )
    finite = torch.isfinite(x).flatten(1).all(dim=1) & (
        True if tabular is None else torch.isfinite(tabular).all(dim=1)
    )
    if not finite.all():
        bad = batch.rows[~finite.cpu().numpy()]
        raise StoreError(
            f"The {name} rows give values that are not finite (store rows {', '.join(map(str, bad[:8]))})."
        )


def _check_augmentation(model_input: ModelInput, n_samples: int) -> None:
    """Augment records whose leads are all the same: they must stay the same, and keep their length."""
    unscaled = copy.deepcopy(model_input).cpu()
    unscaled.mean.zero_()
    unscaled.inverse_std.fill_(1)
    waveforms = (
        (1000 * torch.sin(torch.arange(n_samples) / 7)).to(torch.int16).expand(4, len(LEADS), -1)
    )
    mask, span = (
        torch.ones(4, len(LEADS), dtype=torch.bool),
        torch.tensor([[0, n_samples]] * 4, dtype=torch.int32),
    )
    for name in AUGMENTATIONS:
        drawn = draw(
            (name,), Draws(torch.Generator().manual_seed(0), len(waveforms)), waveforms.shape
        )
        y = unscaled(waveforms, mask, span, None, drawn)[0][:, : len(LEADS)]
        kept = (
            y.abs().amax(dim=2, keepdim=True) > 0
        )  # leads that the augmentation did not take away
        first = y[torch.arange(len(y)), kept[:, :, 0].int().argmax(dim=1)][:, None]
        synchronous = name == "noise" or bool(((y == first) | ~kept).all())
        if y.shape != waveforms.shape or not synchronous:
            raise StoreError(
                f"The augmentation {name} changes the length or the leads' timing against each other. This is a bug."
            )
