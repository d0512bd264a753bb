"""What the training loop works on, and its steps.

Everything random is a function of (seed, epoch, step). So a run that is killed at any step and
resumed from its last checkpoint ends in the same weights as one that was not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ecgfit.checkpoint import load_checkpoint, weights_of
from ecgfit.compute.device import pick_device, set_up, use_amp, warn_of_emulation
from ecgfit.compute.distributed import Ranks, running_statistics, synchronised
from ecgfit.config import TrainConfig
from ecgfit.data.augment import Draws, draw
from ecgfit.data.loader import Batch, Batches, make_loader
from ecgfit.data.model_input import ModelInput
from ecgfit.data.resident import DoesNotFit, fits, resident_loader
from ecgfit.data.rows import FOLDS_DEALT_BY, fold_rows, select_rows
from ecgfit.data.seeds import torch_seeds
from ecgfit.data.statistics import NormStats
from ecgfit.inference.predictions import Predictions
from ecgfit.inference.scorer import Scorer, build_network, predict_rows
from ecgfit.metrics.definitions import auroc_auprc
from ecgfit.models.factory import Network
from ecgfit.run_files import differing_settings, origin_of
from ecgfit.training.ema import Ema
from ecgfit.training.loss_log import LossLog, StepLoss
from ecgfit.training.losses import batch_weight, class_weights, row_losses
from ecgfit.training.stop_signal import StopSignal
from ecgfit.training.transfer import (
    Loaded,
    freeze_backbone,
    load_matching,
    parameter_groups,
    train_mode,
)
from ecgprep.errors import InputError, StoreError
from ecgprep.leads import LEADS
from ecgprep.store.reader import Store

WARMUP_SHARE = 0.05
"""Share of all steps in which `cosine` rises to the full rate."""

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 4

STEPS_BETWEEN_LOOKS = {"cpu": 1, "cuda": 32}
"""Steps after which losses and other processes' requests are read: reading synchronises a GPU."""

SECONDS_BETWEEN_SAVES = 600
"""A long epoch is saved before it ends."""


class Stopped(Exception):
    """The run was asked to end, and its state has been saved."""


@dataclass
class Progress:
    """How far a run has come: finished epochs, the best of them, steps of the current epoch."""

    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=lambda: {"epoch": 0, "score": -math.inf})
    step: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 0."""
        return len(self.history)


@dataclass(eq=False, kw_only=True)
class Trainer:
    """All that the loop works on.

    What changes from step to step is in `scorer`, `ema`, `optimizer`, `plateau` and `progress`.
    """

    config: TrainConfig
    store: Store
    ranks: Ranks
    rows: dict[str, NDArray[np.int64]]
    """Store rows by use: train, val and, in cross-validation, scored."""
    stats: NormStats
    device: str
    amp: bool
    """Whether the network computes in bfloat16."""
    scorer: Scorer
    class_weights: Tensor | None
    optimizer: torch.optim.Optimizer
    plateau: torch.optim.lr_scheduler.ReduceLROnPlateau
    ema: Ema | None
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def prepare(
        cls,
        config: TrainConfig,
        store: Store,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    ) -> Trainer:
        """Choose rows, compute statistics of the train rows, build the model.

        Raises InputError and StoreError.
        """
        set_up(config.threads, deterministic=config.deterministic == "on")
        device = pick_device(config.device)
        rows = training_rows(config, store)
        if min(config.batch, len(rows["train"])) < 2 * ranks.world:
            raise InputError(
                f"batch: each of the {ranks.world} processes needs two recordings of every batch. "
                "Use a larger batch or fewer processes."
            )
        stats = NormStats.of(store, rows["train"], config.tabular)
        model_input = ModelInput(stats, config.missing)
        model = _build_network(config, model_input)
        scorer = Scorer(model_input, synchronised(model, ranks, device)).to(device)
        amp = use_amp(config.amp, device)
        if amp and ranks.is_first:
            warn_of_emulation(device)
        groups = parameter_groups(model, config.lr, config.weight_decay, config.layer_decay)
        optimizer = torch.optim.AdamW(groups, fused=True)
        return cls(
            config=config,
            store=store,
            ranks=ranks,
            rows=rows,
            stats=stats,
            device=device,
            amp=amp,
            scorer=scorer,
            class_weights=class_weights(config.class_weights, store.array("label")[rows["train"]]),
            optimizer=optimizer,
            plateau=torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, "max", PLATEAU_FACTOR, PLATEAU_PATIENCE
            ),
            ema=Ema(scorer.model, config.ema) if config.ema else None,
        )

    @property
    def model(self) -> Network:
        """The network whose weights are trained."""
        model = self.scorer.model
        assert isinstance(model, Network)
        return model

    @cached_property
    def _weights_on_device(self) -> Tensor | None:
        return None if self.class_weights is None else self.class_weights.to(self.device)

    @cached_property
    def _compiled(self) -> tuple[nn.Module, nn.Module]:
        """The input's kernel and the network, as training steps call them.

        They share their weights with `scorer`, which is what is kept.
        """
        parts = self.scorer.model_input, self.scorer.model
        if self.config.compile == "off":
            return parts
        # Graphs belong to code. An ensemble's members would share its limit of eight graphs, and
        # then run uncompiled.
        torch.compiler.reset()
        model_input, network = (torch.compile(part, dynamic=False) for part in parts)
        return model_input, network  # type: ignore[return-value]

    @cached_property
    def batches(self) -> DataLoader[Batch]:
        """The train rows in batches: streamed from the store, or kept on the device."""
        rows, config = self.rows["train"], self.config
        streamed = make_loader(
            self.store,
            rows,
            config.batch,
            config.seed,
            self.device == "cuda",
            config.tabular,
            self.ranks,
        )
        n_bytes = 2 * len(rows) * len(LEADS) * self.store.n_samples
        if not fits(config.resident, n_bytes, self.device):
            return streamed
        try:
            return resident_loader(streamed, self.device)
        except DoesNotFit:
            if config.resident == "on":
                raise
            return streamed  # another process has taken the room meanwhile

    def loader(self) -> Any:
        """Return a DataLoader of the current epoch, from its next step."""
        dataset = self.batches.dataset
        assert isinstance(dataset, Batches)
        dataset.epoch, dataset.first_step = self.progress.epoch, self.progress.step
        return self.batches

    def train_epoch(self, save: Callable[[], None], stop: Callable[[], bool]) -> float:
        """Take the steps that are left of the current epoch and return its mean loss.

        Calls `save` every ten minutes, and when `stop` returns True; then raises Stopped. Raises
        InputError when a loss is not finite.
        """
        train_mode(self.model)
        loader = self.loader()
        n_steps = len(loader.dataset)
        log = LossLog(self.ranks, self.progress.epoch, self.progress.step)
        signal = StopSignal(stop, self.ranks, self.device, SECONDS_BETWEEN_SAVES)
        for batch in loader:
            self._schedule_rate(n_steps)
            signal.poll()
            log.append(self.take_step(batch, signal.requests))
            self.progress.step += 1
            is_last = self.progress.step == n_steps
            is_time_to_look = len(log) >= STEPS_BETWEEN_LOOKS[self.device]
            if not (is_last or is_time_to_look or signal.is_urgent):
                continue
            self.progress.losses.extend(log.read())
            signal.agree()
            if signal.wants_to_save or signal.wants_to_stop:
                save()
                signal.saved()
            if signal.wants_to_stop:
                raise Stopped
        return float(np.mean(self.progress.losses))

    def take_step(self, batch: Batch, requests: Sequence[Tensor] = ()) -> StepLoss:
        """Take one optimizer step, and sum `requests` over the processes on the way.

        Nothing here waits for a GPU.
        """
        seeds = torch_seeds(self.config.seed, self.progress.epoch, self.progress.step)
        losses = self.losses_of(batch, *seeds)
        all_labels = torch.from_numpy(self.store.array("label")[batch.all_rows].astype(np.int64))
        weight = batch_weight(all_labels, self.config.loss, self.class_weights)
        loss = losses.sum() / float(weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        is_shared = self.ranks.world > 1
        if is_shared:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            self.ranks.sum_([*gradients, loss, *requests])
        self.optimizer.step()
        if is_shared and self.device == "cpu":  # on GPUs they are those of the whole batch
            self.ranks.average_(running_statistics(self.model))
        if self.ema is not None:
            self.ema.update(self.model)
        return StepLoss(
            batch_loss=loss,
            row_losses=losses.detach(),
            rows=batch.rows,
            all_rows=batch.all_rows,
        )

    def losses_of(self, batch: Batch, augmentation_seed: int, dropout_seed: int) -> Tensor:
        """Return the training loss (B,) of each of the batch's recordings, augmented."""
        generator = torch.Generator(self.device).manual_seed(augmentation_seed)
        draws = Draws(generator, len(batch.all_rows), batch.first)
        drawn = draw(self.config.aug, draws, batch.waveforms.shape)
        torch.manual_seed(dropout_seed + self.ranks.rank)
        model_input, network = self._compiled
        x, tabular = model_input(
            self._sent(batch.waveforms),
            self._sent(batch.lead_mask),
            self._sent(batch.valid_span),
            self._sent(batch.covariates),
            drawn,
        )
        label = self._sent(batch.label)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.amp):
            logits = network(x, tabular)
        return row_losses(
            logits.float(),
            label,
            self.config.loss,
            self._weights_on_device,
            self.config.label_smoothing,
        )

    def _sent(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _schedule_rate(self, n_steps: int) -> None:
        """Set the learning rate of the next step; `plateau` changes it after epochs only."""
        if self.config.scheduler != "cosine":
            return
        taken = self.progress.epoch * n_steps + self.progress.step
        factor = cosine_factor(taken, self.config.epochs * n_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor * group["lr_factor"]

    def kept(self) -> Scorer:
        """Return the model that is validated and kept: with averaged weights if there are any."""
        if self.ema is None:
            return self.scorer
        averaged = copy.deepcopy(self.scorer)
        self.ema.copy_to(averaged.model)
        return averaged

    def predict(self, scorer: Scorer, name: str) -> Predictions:
        """Return logits of the rows called `name`, computed by all processes together."""
        rows = self.rows[name]
        share = rows[self.ranks.share(len(rows))]
        part = predict_rows(scorer, self.store, share, self.config.tabular, self.amp)
        if self.ranks.world == 1:
            return part
        return Predictions(
            rows,
            self.ranks.gather(part.patient),
            self.ranks.gather(part.label),
            self.ranks.gather(part.logits),
        )

    def validate(self, scorer: Scorer) -> dict[str, float]:
        """Return loss per recording, and AUROC and AUPRC per patient, on validation."""
        predictions = self.predict(scorer, "val")
        patients = predictions.by_patient(self.config.aggregate)
        auroc, auprc = auroc_auprc(patients.label, patients.logit_difference())
        assert auroc is not None  # both classes are there: see `training_rows`
        assert auprc is not None
        logits, label = torch.from_numpy(predictions.logits), torch.from_numpy(predictions.label)
        weights = None if self.class_weights is None else self.class_weights.double()
        losses = row_losses(logits, label, self.config.loss, weights)
        loss = losses.sum() / batch_weight(label, self.config.loss, weights)
        return {"val_loss": float(loss), "val_auroc": auroc, "val_auprc": auprc}

    def state(self) -> dict[str, Any]:
        """Return all that resuming needs."""
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state_dict(),
            "history": self.progress.history,
            "best": self.progress.best,
            "step": self.progress.step,
            "losses": self.progress.losses,
            "settings": resolved_settings(self.config, self.device, self.amp, self.ranks),
            "content_sha256": self.store.content_sha256,
            "software": self.store.attributes["software"],
        }

    def load_state(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises StoreError when it is damaged, or of another store or config.
        """
        state = load_checkpoint(path)
        try:
            self._check_origin(state, path.parent.parent)
            self.model.load_state_dict(state["model"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.plateau.load_state_dict(state["plateau"])
            self.progress = Progress(
                _checked_history(state["history"]),
                _checked_best(state["best"]),
                int(state["step"]),
                [float(loss) for loss in state["losses"]],
            )
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # the machine's fault, not the file's
        except (KeyError, RuntimeError, TypeError, AttributeError, ValueError):
            raise StoreError(f"{path} is damaged. Start again with --overwrite.") from None

    def _check_origin(self, state: dict[str, Any], run: Path) -> None:
        """Refuse a checkpoint of another store or config, and compute as it was trained."""
        if not self.store.has_content(*origin_of(state)):
            raise StoreError(
                f"{run} was trained on another store. Resume it with its own store, or start "
                "another run."
            )
        settings = state["settings"]
        self.amp = use_amp(self.config.amp, self.device, settings["amp"] == "on")
        own = resolved_settings(self.config, self.device, self.amp, self.ranks)
        changed = differing_settings(settings, own)
        if changed:
            raise StoreError(
                f"{run} was started with other settings ({changed}). Resume with the same, or "
                "start another run."
            )

    def load_weights(self) -> Loaded | None:
        """Start from the weights that `init_from` names, as far as they fit. Raises StoreError."""
        config = self.config
        if not config.init_from:
            return None
        member = config.seed if config.fold < 0 else config.fold
        state = weights_of(Path(config.init_from), str(member))
        try:
            loaded = load_matching(self.model, state)
        except ValueError as error:
            raise StoreError(f"init_from {config.init_from}: {error}") from None
        self._check_nothing_frozen_is_random(loaded)
        if self.ema is not None:
            self.ema = Ema(self.model, config.ema)
        return loaded

    def _check_nothing_frozen_is_random(self, loaded: Loaded) -> None:
        parameters = dict(self.model.named_parameters())
        frozen = {name for name, tensor in parameters.items() if not tensor.requires_grad}
        at_random = [name for name in loaded.untouched if name in frozen]
        if not at_random:
            return
        names = ", ".join(at_random[:4])
        if len(at_random) > 4:
            names += " and others"
        raise StoreError(
            f"init_from {self.config.init_from}: {names} do not fit, and with freeze=backbone "
            "would stay at random values. Use the --missing and --model-args that the weights "
            "come from, or leave --freeze out."
        )


def _build_network(config: TrainConfig, model_input: ModelInput) -> Network:
    """Build the config's network, with the backbone frozen where it says so."""
    network = build_network(config, model_input)
    if config.freeze == "backbone":
        freeze_backbone(network)
    return network


def _checked_history(value: Any) -> list[dict[str, float]]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _checked_best(value: Any) -> dict[str, Any]:
    best = dict(value)
    if not best.keys() >= {"epoch", "score"}:
        raise KeyError
    return best


def resolved_settings(config: TrainConfig, device: str, amp: bool, ranks: Ranks) -> dict[str, Any]:
    """Return the settings, including those that were left to the machine.

    A run that is continued with others would not end in the same weights.
    """
    return config.model_dump(mode="json") | {
        "device": device,
        "amp": "on" if amp else "off",
        "processes": ranks.world,
        "folds_dealt_by": FOLDS_DEALT_BY if config.folds else None,
    }


def training_rows(config: TrainConfig, store: Store) -> dict[str, NDArray[np.int64]]:
    """Return the rows that train and select and, in cross-validation, those that are scored.

    Raises InputError when one of the two classes is absent.
    """
    if config.fold >= 0:
        rows = fold_rows(store, config.missing, config.folds, config.fold, 0)
    else:
        rows = {split: select_rows(store, split, config.missing) for split in ("train", "val")}
    for name, found in rows.items():
        _check_both_classes(name, found, store, config.val_metric)
    return rows


def _check_both_classes(name: str, rows: NDArray[np.int64], store: Store, val_metric: str) -> None:
    """Refuse rows whose metric, or when they train whose loss, lacks a class.

    A patient is positive when any of the patient's recordings is.
    """
    patient, label = store.array("patient")[rows], store.array("label")[rows]
    n_patients = len(np.unique(patient))
    n_positive = len(np.unique(patient[label == 1]))
    has_both = 0 < n_positive < n_patients
    if name == "train":  # the loss is that of recordings
        has_both = len(np.unique(label)) == 2
    if has_both:
        return
    what = {"train": "train", "val": "validation", "scored": "scored"}[name]
    raise InputError(
        f"The {what} rows hold {n_positive:,} positive and {n_patients - n_positive:,} negative "
        f"patients; {val_metric} and the loss need both. Build the store with more patients or "
        "another --split, or use fewer --folds."
    )


def cosine_factor(step: int, n_steps: int) -> float:
    """Return the learning rate's factor at a step.

    It rises linearly over the first 5 % of the steps, then falls to 0 along half a cosine.
    """
    warmup = max(1, round(WARMUP_SHARE * n_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))
