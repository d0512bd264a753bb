"""Train one model on one store: a flat loop, selected by validation, resumable to the bit.

Everything random is a function of (seed, epoch, step), so a run that is killed at any step and resumed from its last finished epoch
ends in the same weights as one that was not.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ecgfit.augment import AUGMENTATIONS
from ecgfit.config import TrainConfig
from ecgfit.data import Batch, Batches, ModelInput, NormStats, make_loader, select_rows, torch_seeds
from ecgfit.evaluate import BATCH, pick_device, report, threshold_from_validation, use_amp
from ecgfit.metrics import auroc_auprc
from ecgfit.models import build_model, count_macs, count_parameters
from ecgfit.predict import Predictions, predict_rows
from ecgfit.run import (
    BEST,
    LAST,
    NORM_STATS,
    THRESHOLD,
    Run,
    delete_run,
    load_checkpoint,
    looks_like_run,
    save_checkpoint,
    save_config,
    write_curves,
)
from ecgprep.durable import write_json
from ecgprep.errors import InputError, StoreError, TargetExists
from ecgprep.leads import LEADS
from ecgprep.store import SPLITS, Store

WARMUP_SHARE = 0.05
"""Share of all steps in which `cosine` rises to the full rate."""
PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 4

Say = Callable[[str], None]


@dataclass(eq=False)
class Trainer:
    """All that the loop works on; what changes from step to step is in `model`, `optimizer` and `scheduler`."""

    config: TrainConfig
    store: Store
    rows: dict[str, NDArray[np.int64]]
    stats: NormStats
    device: str
    amp: bool
    model_input: ModelInput
    model: nn.Module
    class_weights: Tensor | None
    optimizer: torch.optim.Optimizer
    plateau: torch.optim.lr_scheduler.ReduceLROnPlateau

    @classmethod
    def prepare(cls, config: TrainConfig, store: Store) -> Trainer:
        """Choose rows, compute statistics from train rows, build the model. Raises InputError, StoreError."""
        _make_deterministic(config)
        device = pick_device(config.device)
        rows = {split: select_rows(store, split, config.missing) for split in ("train", "val")}
        for split, name in (("train", "train"), ("val", "validation")):
            counts = np.bincount(store.array("label")[rows[split]], minlength=2)
            if counts.min() == 0:
                raise InputError(
                    f"The {name} split has {counts[1]} positive and {counts[0]} negative recordings; {config.val_metric} and the loss need both. "
                    "Build the store with more patients or another --split."
                )
        stats = NormStats.of(store, rows["train"])
        model_input = ModelInput(stats, config.missing).to(device)
        model = build_model(config.model, model_input.n_channels, config.seed).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", PLATEAU_FACTOR, PLATEAU_PATIENCE)
        weights = class_weights(config, store.array("label")[rows["train"]])
        weights = None if weights is None else weights.to(device)
        return cls(config, store, rows, stats, device, use_amp(config.amp, device), model_input, model, weights, optimizer, plateau)

    def train_epoch(self, epoch: int) -> float:
        """Take every step of one epoch and return the mean loss. Raises InputError when a loss is not finite."""
        loader = make_loader(self.store, self.rows["train"], self.config.batch, self.config.seed, pin=self.device == "cuda")
        dataset = loader.dataset
        assert isinstance(dataset, Batches)
        dataset.epoch = epoch
        self.model.train()
        losses = []
        for step, batch in enumerate(loader):
            if self.config.scheduler == "cosine":
                self._set_lr(cosine_factor(epoch * len(dataset) + step, self.config.epochs * len(dataset)))
            loss = self._loss(batch, *torch_seeds(self.config.seed, epoch, step))
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                listed = ", ".join(map(str, batch.rows[:8]))
                raise InputError(f"The loss is {losses[-1]} at epoch {epoch + 1}, step {step + 1} (store rows {listed}, …). Lower --lr.")
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return float(np.mean(losses))

    def _loss(self, batch: Batch, augmentation_seed: int, dropout_seed: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(augmentation_seed)
        torch.manual_seed(dropout_seed)
        waveforms, lead_mask, span, label = (t.to(self.device) for t in (batch.waveforms, batch.lead_mask, batch.valid_span, batch.label))
        x = self.model_input(waveforms, lead_mask, span, self.config.aug, generator)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.amp):
            logits = self.model(x)
        return classification_loss(logits.float(), label, self.config.loss, self.class_weights)

    def _set_lr(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor

    def predict(self, split: str) -> Predictions:
        """Logits of a split under the current weights."""
        return predict_rows(self.model, self.model_input, self.store, self.rows[split], BATCH, self.amp)


def class_weights(config: TrainConfig, label: NDArray[np.int8]) -> Tensor | None:
    """Return the weights of label 0 and 1: given, or n / (2 n_class) over the train recordings, or None."""
    if config.class_weights == "none":
        return None
    if config.class_weights == "auto":
        counts = np.bincount(label, minlength=2)
        return torch.tensor(len(label) / (2 * counts), dtype=torch.float32)
    return torch.tensor(config.class_weights, dtype=torch.float32)


def classification_loss(logits: Tensor, label: Tensor, kind: str, weights: Tensor | None) -> Tensor:
    """Weighted cross-entropy of both logits, or binary cross-entropy of their difference with pos_weight = w1 / w0."""
    if kind == "ce":
        return F.cross_entropy(logits, label, weight=weights)
    positive_weight = None if weights is None else weights[1] / weights[0]
    return F.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], label.float(), pos_weight=positive_weight)


def cosine_factor(step: int, n_steps: int) -> float:
    """Return the learning rate's factor: a linear rise over the first 5 % of steps, then half a cosine to 0."""
    warmup = max(1, round(WARMUP_SHARE * n_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def train(config: TrainConfig, store: Store, outdir: Path, *, resume: bool = False, overwrite: bool = False, say: Say = print) -> Run:
    """Train, restore the best epoch, choose the threshold on validation, and return the finished run.

    Raises TargetExists for a run that exists without `resume` or `overwrite`, InputError, StoreError.
    """
    _check_outdir(outdir, resume, overwrite)
    trainer = Trainer.prepare(config, store)
    for line in preflight(trainer):
        say(line)
    if overwrite:
        delete_run(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    state = _resume(trainer, outdir) if resume and (outdir / LAST).exists() else _start(trainer, outdir)
    history, best = state["history"], state["best"]
    if history:
        say(f"resuming after epoch {len(history)}")
    while len(history) < config.epochs and len(history) - best["epoch"] < config.early_stop:
        epoch = len(history)
        loss = trainer.train_epoch(epoch)
        row = {"epoch": epoch + 1, "lr": trainer.optimizer.param_groups[0]["lr"], "train_loss": loss, **_validate(trainer)}
        history.append(row)
        score = row[f"val_{config.val_metric}"]
        if config.scheduler == "plateau":
            trainer.plateau.step(score)
        improved = score > best["score"]
        if improved:
            best.update(epoch=epoch + 1, score=score)
            save_checkpoint(outdir / BEST, {"model": trainer.model.state_dict(), "epoch": epoch + 1})
        _save_state(trainer, outdir, history, best)
        write_curves(outdir, history)
        say(
            f"epoch {epoch + 1:3d}/{config.epochs}  loss {loss:.4f}  val loss {row['val_loss']:.4f}  "
            f"AUPRC {row['val_auprc']:.4f}  AUROC {row['val_auroc']:.4f}{'  best' if improved else ''}"
        )
    return _finish(trainer, outdir)


def _check_outdir(outdir: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that is in use, before anything in it is touched."""
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other: go on with the run, or start it again.")
    if not outdir.exists() or not any(outdir.iterdir()):
        return
    if not looks_like_run(outdir):
        raise TargetExists(f"{outdir} is not empty and not a run folder, so nothing is written or deleted there. Use another --outdir.")
    if not resume and not overwrite:
        raise TargetExists(f"{outdir} exists. Use --resume to go on with it, --overwrite to start again, or another --outdir.")


def _start(trainer: Trainer, outdir: Path) -> dict[str, Any]:
    save_config(outdir, trainer.config, recorded_facts(trainer))
    trainer.stats.save(outdir / NORM_STATS)
    return {"history": [], "best": {"epoch": 0, "score": -math.inf}}


def _save_state(trainer: Trainer, outdir: Path, history: list[dict[str, float]], best: dict[str, Any]) -> None:
    state = {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "plateau": trainer.plateau.state_dict(),
        "history": history,
        "best": best,
        "config": trainer.config.model_dump(mode="json"),
        "content_sha256": trainer.store.content_sha256,
    }
    save_checkpoint(outdir / LAST, state)


def _resume(trainer: Trainer, outdir: Path) -> dict[str, Any]:
    """Load the last finished epoch into the trainer. Raises StoreError when it is of another store or config, or damaged."""
    state = load_checkpoint(outdir / LAST)
    try:
        if state["content_sha256"] != trainer.store.content_sha256:
            raise StoreError(f"{outdir} was trained on another store. Resume it with its own store, or start another run.")
        config = trainer.config.model_dump(mode="json")
        changed = sorted(key for key in config if state["config"].get(key) != config[key])
        if changed:
            raise StoreError(f"{outdir} was started with other settings ({', '.join(changed)}). Resume with the same, or start another run.")
        trainer.model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.plateau.load_state_dict(state["plateau"])
        if not isinstance(state["history"], list) or not state["best"].keys() >= {"epoch", "score"}:
            raise KeyError
    except (KeyError, RuntimeError, TypeError, AttributeError, ValueError):
        raise StoreError(f"{outdir / LAST} is damaged. Start again with --overwrite.") from None
    return state


def _validate(trainer: Trainer) -> dict[str, float]:
    """Return loss per recording, and AUROC and AUPRC per patient, on validation."""
    predictions = trainer.predict("val")
    patients = predictions.by_patient()
    auroc, auprc = auroc_auprc(patients.label, patients.probability())
    if auroc is None or auprc is None:
        raise InputError("The validation split has patients of one class only: AUPRC is undefined. Build the store with another --split.")
    logits, label = torch.from_numpy(predictions.logits), torch.from_numpy(predictions.label)
    weights = None if trainer.class_weights is None else trainer.class_weights.cpu().double()
    loss = classification_loss(logits, label, trainer.config.loss, weights)
    return {"val_loss": float(loss), "val_auroc": auroc, "val_auprc": auprc}


def _finish(trainer: Trainer, outdir: Path) -> Run:
    """Go back to the best epoch and write what validation decides."""
    if not (outdir / BEST).exists():
        raise InputError("No epoch gave a finite validation metric, so there is no model to keep. Lower --lr.")
    trainer.model.load_state_dict(load_checkpoint(outdir / BEST)["model"])
    predictions = trainer.predict("val")
    threshold = threshold_from_validation(predictions, trainer.config.threshold)
    predictions.save(outdir / "predictions_val.csv")
    write_json(outdir / "metrics_val.json", report(predictions, "val", threshold["value"], trainer.config.seed))
    write_json(outdir / THRESHOLD, threshold)
    return Run(outdir)


def recorded_facts(trainer: Trainer) -> dict[str, Any]:
    """What config.yaml notes besides the settings: enough to reproduce the run, nothing that identifies a person or machine."""
    from importlib.metadata import version

    n_channels = trainer.model_input.n_channels
    return {
        "store": {"name": trainer.store.path.name, "content_sha256": trainer.store.content_sha256},
        "device": torch.cuda.get_device_name() if trainer.device == "cuda" else f"cpu ({torch.backends.cpu.get_cpu_capability()})",
        "amp": trainer.amp,
        "class_weights": None if trainer.class_weights is None else [float(w) for w in trainer.class_weights],
        "model": {"parameters": count_parameters(trainer.model), "macs": count_macs(trainer.model, n_channels, trainer.store.n_samples)},
        "records": {split: len(rows) for split, rows in trainer.rows.items()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy", "zarr")}},
    }


def _make_deterministic(config: TrainConfig) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)


def preflight(trainer: Trainer) -> list[str]:
    """Check what a long run relies on, on one batch of each split, and return a line on each check. Raises StoreError."""
    store, config = trainer.store, trainer.config
    if tuple(store.attributes["lead_names"]) != LEADS:
        raise StoreError(f"{store.path}: the lead order is not {', '.join(LEADS)}.")
    shape = (trainer.model_input.n_channels, store.n_samples)
    present = [split for split in SPLITS if (store.array("split") == SPLITS.index(split)).any()]
    for split in present:
        rows = select_rows(store, split, config.missing)
        _check_batch(trainer, split, next(iter(make_loader(store, rows, config.batch))), shape)
    train_rows = select_rows(store, "train", config.missing)
    if not (store.array("split")[train_rows] == SPLITS.index("train")).all() or NormStats.of(store, train_rows) != trainer.stats:
        raise StoreError("The normalisation statistics do not come from train rows only.")
    _check_augmentation(store.n_samples)
    macs, size = count_macs(trainer.model, *shape), count_parameters(trainer.model)
    return [
        f"checked: tensors of {', '.join(present)} are finite and (B, {shape[0]}, {shape[1]}); leads are {', '.join(LEADS)}",
        f"checked: statistics come from {len(train_rows):,} train recordings only; augmentation keeps length and lead synchrony",
        f"{config.model}: {size:,} parameters, {macs / 1e9:.3f} GMAC a recording, on {trainer.device} with {config.threads} threads",
    ]


def _check_batch(trainer: Trainer, split: str, batch: Batch, shape: tuple[int, int]) -> None:
    augmentations = trainer.config.aug if split == "train" else ()
    generator = torch.Generator(trainer.device).manual_seed(0) if split == "train" else None
    tensors = (t.to(trainer.device) for t in (batch.waveforms, batch.lead_mask, batch.valid_span))
    x = trainer.model_input(*tensors, augmentations, generator)
    if x.shape != (len(batch.rows), *shape) or x.dtype != torch.float32:
        raise StoreError(f"The {split} split gives tensors {tuple(x.shape)} {x.dtype}; (B, {shape[0]}, {shape[1]}) float32 is needed.")
    if not torch.isfinite(x).all():
        bad = batch.rows[~torch.isfinite(x).flatten(1).all(dim=1).cpu().numpy()]
        raise StoreError(f"The {split} split gives values that are not finite (store rows {', '.join(map(str, bad[:8]))}).")


def _check_augmentation(n_samples: int) -> None:
    """Shift and scale a record whose leads are all the same: they must stay the same, and keep their length."""
    x = torch.sin(torch.arange(n_samples) / 7).expand(4, len(LEADS), -1)
    valid = torch.ones_like(x, dtype=torch.bool)
    for name, function in AUGMENTATIONS.items():
        y, still_valid = function(x, valid, torch.Generator().manual_seed(0))
        synchronous = name == "noise" or bool((y == y[:, :1]).all())
        if y.shape != x.shape or still_valid.shape != valid.shape or not synchronous:
            raise StoreError(f"The augmentation {name} changes the length or the leads' timing against each other. This is a bug.")
