"""What the training loop works on, and its steps.

Everything random is a function of (seed, epoch, step), so a run that is killed at any step and resumed from its last checkpoint ends in
the same weights as one that was not.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ecgfit.checkpoint import load_checkpoint, weights_of
from ecgfit.compute.device import pick_device, set_up, use_amp
from ecgfit.compute.distributed import Ranks, running_statistics, synchronised
from ecgfit.config import TrainConfig
from ecgfit.data.augment import Draws, draw
from ecgfit.data.loader import Batch, Batches, make_loader
from ecgfit.data.model_input import ModelInput
from ecgfit.data.resident import DoesNotFit, fits, resident_loader
from ecgfit.data.rows import fold_rows, select_rows
from ecgfit.data.seeds import torch_seeds
from ecgfit.data.statistics import NormStats
from ecgfit.inference.predictions import Predictions
from ecgfit.inference.scorer import Scorer, predict_rows
from ecgfit.metrics.definitions import auroc_auprc
from ecgfit.models.factory import Network, build_model
from ecgfit.run_files import differing_settings
from ecgfit.training.ema import Ema
from ecgfit.training.losses import batch_weight, class_weights, row_losses
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
"""A look at the losses, and at what other processes ask for, waits for a GPU to do all that it was asked."""


SECONDS_BETWEEN_SAVES = 600
"""A long epoch is saved on its way."""


class Stopped(Exception):
    """The run was asked to end, and its state has been saved."""


class Pending(NamedTuple):
    """A step whose loss has not been looked at: it still lies on the device."""

    rows: NDArray[np.int64]
    all_rows: NDArray[np.int64]
    row_losses: Tensor
    loss: Tensor


@dataclass
class Progress:
    """How far a run is: finished epochs, the best of them, and the steps of the epoch that is under way."""

    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=lambda: {"epoch": 0, "score": -math.inf})
    step: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Number of the epoch under way, from 0."""
        return len(self.history)


@dataclass(eq=False)
class Trainer:
    """All that the loop works on; what changes from step to step is in `scorer`, `ema`, `optimizer`, `plateau` and `progress`."""

    config: TrainConfig
    store: Store
    ranks: Ranks
    rows: dict[str, NDArray[np.int64]]
    stats: NormStats
    device: str
    amp: bool
    scorer: Scorer
    class_weights: Tensor | None
    optimizer: torch.optim.Optimizer
    plateau: torch.optim.lr_scheduler.ReduceLROnPlateau
    ema: Ema | None
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def prepare(cls, config: TrainConfig, store: Store, ranks: Ranks = Ranks()) -> Trainer:  # noqa: B008 - frozen
        """Choose rows, compute statistics from train rows, build the model. Raises InputError, StoreError."""
        set_up(config.threads, deterministic=config.deterministic == "on")
        device = pick_device(config.device)
        rows = training_rows(config, store)
        if min(config.batch, len(rows["train"])) < 2 * ranks.world:
            raise InputError(
                f"batch: each of the {ranks.world} processes needs two recordings of every batch. Use a larger batch or fewer processes."
            )
        stats = NormStats.of(store, rows["train"], config.tabular)
        model_input = ModelInput(stats, config.missing)
        model = build_model(
            config.model,
            model_input.n_channels,
            config.seed,
            len(config.tabular),
            ecg=not config.tabular_only,
            model_args=config.model_args,
        )
        if config.freeze == "backbone":
            freeze_backbone(model)
        scorer = Scorer(model_input, synchronised(model, ranks, device)).to(device)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, config.lr, config.weight_decay, config.layer_decay), fused=True
        )
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, "max", PLATEAU_FACTOR, PLATEAU_PATIENCE
        )
        weights = class_weights(config.class_weights, store.array("label")[rows["train"]])
        ema = Ema(scorer.model, config.ema) if config.ema else None
        return cls(
            config,
            store,
            ranks,
            rows,
            stats,
            device,
            use_amp(config.amp, device),
            scorer,
            weights,
            optimizer,
            plateau,
            ema,
        )

    @property
    def model(self) -> Network:
        """The weights that are trained."""
        model = self.scorer.model
        assert isinstance(model, Network)
        return model

    @cached_property
    def _weights_on_device(self) -> Tensor | None:
        return None if self.class_weights is None else self.class_weights.to(self.device)

    @cached_property
    def _compiled(self) -> tuple[nn.Module, nn.Module]:
        """The input's kernel and the network, as training steps call them: they share weights with `scorer`, which is what is kept."""
        parts = self.scorer.model_input, self.scorer.model
        if self.config.compile == "off":
            return parts
        torch.compiler.reset()  # graphs belong to code: an ensemble's members would share its limit of eight, and then go on without
        return torch.compile(parts[0], dynamic=False), torch.compile(parts[1], dynamic=False)  # type: ignore[return-value]

    @cached_property
    def batches(self) -> DataLoader[Batch]:
        """The train rows in batches: streamed from the store, or kept on the device."""
        rows, config = self.rows["train"], self.config
        loader = make_loader(
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
            return loader
        try:
            return resident_loader(loader, self.device)
        except DoesNotFit:
            if config.resident == "on":
                raise
            return loader  # another process has taken the room meanwhile

    def loader(self) -> Any:
        """Return a DataLoader of the epoch under way, from its next step."""
        dataset = self.batches.dataset
        assert isinstance(dataset, Batches)
        dataset.epoch, dataset.first_step = self.progress.epoch, self.progress.step
        return self.batches

    def train_epoch(self, save: Callable[[], None], stop: Callable[[], bool]) -> float:
        """Take the steps that are left of the epoch under way and return its mean loss.

        `save` is called every ten minutes, and when `stop` says so, followed by Stopped. Raises InputError when a loss is not finite.
        """
        train_mode(self.model)
        loader = self.loader()
        n_steps, saved = len(loader.dataset), time.monotonic()
        pending: list[Pending] = []
        for batch in loader:
            if self.config.scheduler == "cosine":
                self._set_lr(
                    cosine_factor(
                        self.progress.epoch * n_steps + self.progress.step,
                        self.config.epochs * n_steps,
                    )
                )
            own = stop(), time.monotonic() - saved > SECONDS_BETWEEN_SAVES
            wishes = self._step(batch, pending, own)
            self.progress.step += 1
            due = self.progress.step == n_steps or len(pending) >= STEPS_BETWEEN_LOOKS[self.device]
            if due or (self.ranks.world == 1 and any(own)):
                self._look_at(pending)
                asked, late = map(bool, wishes)
                if asked or late:
                    save()
                    saved = time.monotonic()
                if asked:
                    raise Stopped
        return float(np.mean(self.progress.losses))

    def _step(
        self, batch: Batch, pending: list[Pending], wishes: Sequence[bool | Tensor]
    ) -> Sequence[bool | Tensor]:
        """Take one step; return which wishes any process has, so that all heed one at the same step. Nothing here waits for a GPU."""
        losses = self._row_losses(
            batch, *torch_seeds(self.config.seed, self.progress.epoch, self.progress.step)
        )
        all_labels = torch.from_numpy(self.store.array("label")[batch.all_rows].astype(np.int64))
        loss = losses.sum() / float(batch_weight(all_labels, self.config.loss, self.class_weights))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        if self.ranks.world > 1:
            wishes = summed = [torch.full((), float(wish), device=self.device) for wish in wishes]
            self.ranks.sum_(
                [*(p.grad for p in self.model.parameters() if p.grad is not None), loss, *summed]
            )
        self.optimizer.step()
        if (
            self.ranks.world > 1 and self.device == "cpu"
        ):  # on GPUs they are those of the whole batch
            self.ranks.sum_(running_statistics(self.model), divide_by=self.ranks.world)
        if self.ema is not None:
            self.ema.update(self.model)
        pending.append(Pending(batch.rows, batch.all_rows, losses.detach(), loss))
        return wishes

    def _row_losses(self, batch: Batch, augmentation_seed: int, dropout_seed: int) -> Tensor:
        draws = Draws(
            torch.Generator(self.device).manual_seed(augmentation_seed),
            len(batch.all_rows),
            batch.first,
        )
        drawn = draw(self.config.aug, draws, batch.waveforms.shape)
        torch.manual_seed(dropout_seed + self.ranks.rank)
        tensors = (
            batch.waveforms,
            batch.lead_mask,
            batch.valid_span,
            batch.covariates,
            batch.label,
        )
        waveforms, lead_mask, span, covariates, label = (
            tensor.to(self.device, non_blocking=True) for tensor in tensors
        )
        model_input, network = self._compiled
        x, tabular = model_input(waveforms, lead_mask, span, covariates, drawn)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.amp):
            logits = network(x, tabular)
        return row_losses(
            logits.float(),
            label,
            self.config.loss,
            self._weights_on_device,
            self.config.label_smoothing,
        )

    def _look_at(self, pending: list[Pending]) -> None:
        """Note the losses of the steps since the last look. Raises InputError naming the rows of one that is not finite."""
        losses = torch.stack([step.loss for step in pending]).tolist()
        first = self.progress.step - len(pending) + 1
        for number, (step, value) in enumerate(zip(pending, losses, strict=True), start=first):
            if not math.isfinite(
                value
            ):  # for all processes at the same step, since the loss is that of the whole batch
                bad = self.ranks.gather(step.rows[~torch.isfinite(step.row_losses).cpu().numpy()])
                listed = ", ".join(map(str, (bad if len(bad) else step.all_rows)[:8]))
                raise InputError(
                    f"The loss is {value} at epoch {self.progress.epoch + 1}, step {number} (store rows {listed}). "
                    "Lower --lr, or look at these recordings with `ecgprep report`."
                )
        self.progress.losses.extend(losses)
        pending.clear()

    def _set_lr(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor * group["lr_factor"]

    def kept(self) -> Scorer:
        """Return the model that is validated and kept: the averaged weights, where there is an average."""
        if self.ema is None:
            return self.scorer
        averaged = copy.deepcopy(self.scorer)
        self.ema.copy_to(averaged.model)
        return averaged

    def predict(self, scorer: Scorer, name: str) -> Predictions:
        """Logits of the rows called `name` (train, val, scored), computed by all processes together."""
        rows = self.rows[name]
        part = predict_rows(
            scorer, self.store, rows[self.ranks.share(len(rows))], self.config.tabular, self.amp
        )
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
        loss = row_losses(logits, label, self.config.loss, weights).sum() / batch_weight(
            label, self.config.loss, weights
        )
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
        }

    def load_state(self, path: Path) -> None:
        """Go on from a checkpoint. Raises StoreError when it is of another store or config, or damaged."""
        state = load_checkpoint(path)
        try:
            if state["content_sha256"] != self.store.content_sha256:
                raise StoreError(
                    f"{path.parent.parent} was trained on another store. Resume it with its own store, or start another run."
                )
            if changed := differing_settings(
                state["settings"], resolved_settings(self.config, self.device, self.amp, self.ranks)
            ):
                raise StoreError(
                    f"{path.parent.parent} was started with other settings ({changed}). Resume with the same, or start another run."
                )
            self.model.load_state_dict(state["model"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.plateau.load_state_dict(state["plateau"])
            if not isinstance(state["history"], list) or not state["best"].keys() >= {
                "epoch",
                "score",
            }:
                raise KeyError
            self.progress = Progress(
                state["history"],
                state["best"],
                int(state["step"]),
                [float(loss) for loss in state["losses"]],
            )
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # the machine's fault, not the file's
        except (KeyError, RuntimeError, TypeError, AttributeError, ValueError):
            raise StoreError(f"{path} is damaged. Start again with --overwrite.") from None

    def load_weights(self) -> Loaded | None:
        """Start from the weights that `init_from` names, as far as they fit. Raises StoreError."""
        if not self.config.init_from:
            return None
        state = weights_of(
            Path(self.config.init_from),
            str(self.config.seed if self.config.fold < 0 else self.config.fold),
        )
        try:
            loaded = load_matching(self.model, state)
        except ValueError as error:
            raise StoreError(f"init_from {self.config.init_from}: {error}") from None
        frozen = {
            name for name, parameter in self.model.named_parameters() if not parameter.requires_grad
        }
        if at_random := [name for name in loaded.untouched if name in frozen]:
            names = ", ".join(at_random[:4]) + (" and others" if len(at_random) > 4 else "")
            raise StoreError(
                f"init_from {self.config.init_from}: {names} do not fit, and with freeze=backbone would stay at random values. Use the --missing and "
                "--model-args that the weights come from, or leave --freeze out."
            )
        if self.ema is not None:
            self.ema = Ema(self.model, self.config.ema)
        return loaded


def resolved_settings(config: TrainConfig, device: str, amp: bool, ranks: Ranks) -> dict[str, Any]:
    """Return the settings with what they left to the machine: a run that goes on elsewhere would not end in the same weights."""
    return config.model_dump(mode="json") | {
        "device": device,
        "amp": "on" if amp else "off",
        "processes": ranks.world,
    }


def training_rows(config: TrainConfig, store: Store) -> dict[str, NDArray[np.int64]]:
    """Return the rows that train and select (and, in cross-validation, those that are scored). Raises InputError where a class is absent."""
    if config.fold >= 0:
        rows = fold_rows(store, config.missing, config.folds, config.fold, 0)
    else:
        rows = {split: select_rows(store, split, config.missing) for split in ("train", "val")}
    for name, found in rows.items():
        patients = Predictions(
            found,
            store.array("patient")[found],
            store.array("label")[found],
            np.zeros((len(found), 2)),
        ).by_patient()
        positive = int((patients.label == 1).sum())
        items = store.array("label")[found] if name == "train" else patients.label
        if len(np.unique(items)) < 2:
            what = {"train": "train", "val": "validation", "scored": "scored"}[name]
            raise InputError(
                f"The {what} rows hold {positive:,} positive and {len(patients.label) - positive:,} negative patients; {config.val_metric} and the "
                "loss need both. Build the store with more patients or another --split, or use fewer --folds."
            )
    return rows


def cosine_factor(step: int, n_steps: int) -> float:
    """Return the learning rate's factor: a linear rise over the first 5 % of steps, then half a cosine to 0."""
    warmup = max(1, round(WARMUP_SHARE * n_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))
