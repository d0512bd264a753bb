"""Check on one batch of each split what a long run relies on."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

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

MOST_ROWS_NAMED = 8


def preflight(trainer: Trainer, *, test: bool = True) -> list[str]:
    """Check what a long run relies on, on one batch of each split; return one line per check.

    Training itself passes `test=False` and so reads no test row. `ecgfit train --check` also checks
    that the test tensors are finite. Raises StoreError.
    """
    store, config = trainer.store, trainer.config
    if tuple(store.attributes["lead_names"]) != LEADS:
        raise StoreError(f"{store.path}: the lead order is not {', '.join(LEADS)}.")

    rows_by_name = dict(trainer.rows)
    if test:
        rows_by_name["test"] = usable_rows(store, "test", config.missing)
    checked = []
    for name, rows in rows_by_name.items():
        if len(rows):
            loader = make_loader(store, rows, config.batch, covariates=config.tabular)
            _check_batch(trainer, name, next(iter(loader)))
            checked.append(name)
    _check_statistics(trainer)
    _check_augmentation(trainer.scorer.model_input, store.n_samples)
    lines = [
        f"checked: tensors of {', '.join(checked)} are finite and "
        f"(B, {trainer.scorer.model_input.n_channels}, {store.n_samples}); "
        f"leads are {', '.join(LEADS)}",
        f"checked: statistics come from {len(trainer.rows['train']):,} train recordings only; "
        "augmentation keeps length and lead synchrony",
        _describe_model(trainer),
        _describe_validation(trainer),
    ]
    return lines + _describe_unseen_leads(trainer)


def multiply_accumulates(trainer: Trainer) -> int:
    """Return the multiply-accumulate operations that the network takes for one recording."""
    model_input = trainer.scorer.model_input
    return count_macs(
        trainer.model, model_input.n_channels, trainer.store.n_samples, model_input.n_covariates
    )


def _describe_model(trainer: Trainer) -> str:
    config = trainer.config
    line = (
        f"{config.model}: {count_parameters(trainer.model):,} parameters to train, "
        f"{multiply_accumulates(trainer) / 1e9:.3f} GMAC a recording, "
        f"on {trainer.device} with {config.threads} threads"
    )
    n_processes = trainer.ranks.world
    return f"{line} in each of {n_processes} processes" if n_processes > 1 else line


def _describe_validation(trainer: Trainer) -> str:
    """Say how many patients select the epoch, and warn if they are few."""
    rows, store = trainer.rows["val"], trainer.store
    labels = store.array("label")[rows]
    patients = Predictions(
        rows, store.array("patient")[rows], labels, np.zeros((len(rows), 2))
    ).by_patient()
    n_positive = int((patients.label == 1).sum())
    line = f"validation: {len(patients.label):,} patients, {n_positive:,} positive"
    if n_positive >= FEW_EVENTS:
        return line
    line += "; with so few, the choice of epoch, threshold and calibration is uncertain"
    if trainer.config.folds:
        return line
    return f"{line} (several --seeds, or --folds, steady it)"


def _describe_unseen_leads(trainer: Trainer) -> list[str]:
    """Say which leads no train recording has, as the model will not get them from others either."""
    seen = zip(LEADS, trainer.stats.is_seen, strict=True)
    unseen = [lead for lead, is_seen in seen if not is_seen]
    if not unseen or trainer.config.tabular_only:
        return []
    return [
        f"leads: no train recording has {', '.join(unseen)}, so this model does not get them, "
        "even from recordings that have them"
    ]


def _check_statistics(trainer: Trainer) -> None:
    """Refuse statistics that any row outside the train rows has influenced."""
    store, config, rows = trainer.store, trainer.config, trainer.rows["train"]
    allowed = [SPLITS.index("train")]
    if config.fold >= 0:  # cross-validation trains on both, never on test
        allowed.append(SPLITS.index("val"))
    is_allowed = np.isin(store.array("split")[rows], allowed).all()
    if not is_allowed or NormStats.of(store, rows, config.tabular) != trainer.stats:
        raise StoreError(
            "The normalisation statistics do not come from train rows only. This is a bug."
        )


def _check_batch(trainer: Trainer, name: str, batch: Batch) -> None:
    """Refuse a batch whose tensors have another shape or type, or values that are not finite."""
    x, tabular = _tensors_of(trainer, name, batch)
    shape = (trainer.scorer.model_input.n_channels, trainer.store.n_samples)
    if x.shape != (len(batch.rows), *shape) or x.dtype != torch.float32:
        raise StoreError(
            f"The {name} rows give tensors {tuple(x.shape)} {x.dtype}; "
            f"(B, {shape[0]}, {shape[1]}) float32 is needed."
        )
    is_finite = torch.isfinite(x).flatten(1).all(dim=1)
    if tabular is not None:
        is_finite &= torch.isfinite(tabular).all(dim=1)
    if not is_finite.all():
        bad = batch.rows[~is_finite.cpu().numpy()]
        listed = ", ".join(str(row) for row in bad[:MOST_ROWS_NAMED])
        raise StoreError(
            f"The {name} rows give values that are not finite (store rows {listed}). Build the "
            "store again; `ecgprep verify` tells whether it is damaged."
        )


def _tensors_of(trainer: Trainer, name: str, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return what the model sees of a batch; train rows are augmented as in training."""
    augmentations = trainer.config.aug if name == "train" else ()
    draws = Draws(torch.Generator(trainer.device).manual_seed(0), len(batch.rows))
    drawn = draw(augmentations, draws, batch.waveforms.shape)
    waveforms = batch.waveforms.to(trainer.device)
    lead_mask = batch.lead_mask.to(trainer.device)
    valid_span = batch.valid_span.to(trainer.device)
    covariates = batch.covariates.to(trainer.device)
    x, tabular = trainer.scorer.model_input(waveforms, lead_mask, valid_span, covariates, drawn)
    return x, tabular


def _check_augmentation(model_input: ModelInput, n_samples: int) -> None:
    """Augment recordings with eight equal leads: these must stay equal, and keep their length."""
    unscaled = copy.deepcopy(model_input).cpu()
    unscaled.mean.zero_()
    unscaled.inverse_std.fill_(1)
    sine = (1000 * torch.sin(torch.arange(n_samples) / 7)).to(torch.int16)
    waveforms = sine.expand(4, len(LEADS), -1)
    mask = torch.ones(4, len(LEADS), dtype=torch.bool)
    span = torch.tensor([[0, n_samples]] * 4, dtype=torch.int32)
    for name in AUGMENTATIONS:
        draws = Draws(torch.Generator().manual_seed(0), len(waveforms))
        drawn = draw((name,), draws, waveforms.shape)
        augmented = unscaled(waveforms, mask, span, None, drawn)[0][:, : len(LEADS)]
        # Noise differs from lead to lead by design.
        is_synchronous = name == "noise" or _leads_agree(augmented)
        if augmented.shape != waveforms.shape or not is_synchronous:
            raise StoreError(
                f"The augmentation {name} changes the length or the leads' timing against each "
                "other. This is a bug."
            )


def _leads_agree(x: Tensor) -> bool:
    """Say whether all leads that the augmentation did not take away are the same."""
    is_kept = x.abs().amax(dim=2, keepdim=True) > 0
    first_kept = is_kept[:, :, 0].int().argmax(dim=1)
    reference = x[torch.arange(len(x)), first_kept][:, None]
    return bool(((x == reference) | ~is_kept).all())
