"""Train one model, or go on with one that was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ecgfit.checkpoint import save_checkpoint
from ecgfit.compute.distributed import Ranks
from ecgfit.config import TrainConfig
from ecgfit.run import Run
from ecgfit.run_files import (
    BEST,
    CONFIG,
    LAST,
    NORM_STATS,
    THRESHOLD,
    delete_run,
    remove_leftovers,
    save_config,
    write_curves,
)
from ecgfit.training.decisions import _decide, _has_ended, is_whole
from ecgfit.training.outdir import _check_same_config, recorded_facts
from ecgfit.training.preflight import preflight
from ecgfit.training.trainer import Trainer
from ecgprep.errors import StoreError
from ecgprep.store.reader import Store

Say = Callable[[str], None]


def _train_one(
    config: TrainConfig,
    store: Store,
    outdir: Path,
    ranks: Ranks,
    resume: bool,
    say: Say,
    stop: Callable[[], bool],
) -> None:
    trainer = Trainer.prepare(config, store, ranks)
    for line in preflight(trainer, test=False):
        say(line)
    begun = resume and (outdir / CONFIG).exists()
    if begun:
        _check_same_config(outdir, config, store, ranks)
    if begun and ranks.is_first:
        remove_leftovers(outdir)
    if begun and _has_ended(outdir):
        if is_whole(outdir, config):
            say(f"{outdir} is finished already")
        else:
            say(f"{outdir} has been trained: what validation decides is made again")
            _decide(trainer, outdir)
        ranks.wait()
        return
    resumed = begun and (outdir / LAST).exists()
    if begun and not resumed and (outdir / THRESHOLD).exists():
        raise StoreError(
            f"{outdir} has results, but its weights are lost. --overwrite trains it again, and deletes them."
        )
    loaded = None
    if resumed:
        _continue(trainer, outdir, say)
    else:
        loaded = _begin(trainer, say)
    if ranks.is_first and not resumed:
        delete_run(outdir)  # what lies there is asked to go, or of a run that had no checkpoint yet
        outdir.mkdir(parents=True, exist_ok=True)
        save_config(outdir, config, recorded_facts(trainer, loaded))
        trainer.stats.save(outdir / NORM_STATS)
    _epochs(trainer, outdir, say, stop)
    ranks.wait()
    _decide(trainer, outdir)
    ranks.wait()


def _continue(trainer: Trainer, outdir: Path, say: Say) -> None:
    """Go on from the last checkpoint."""
    trainer.load_state(outdir / LAST)
    progress = trainer.progress
    if progress.epoch or progress.step:
        say(
            f"resuming after epoch {progress.epoch}"
            + (f" and {progress.step} steps" if progress.step else "")
        )


def _begin(trainer: Trainer, say: Say) -> list[str] | None:
    """Start from random weights, or as far as they fit from others; say which, and return the names of those."""
    loaded = trainer.load_weights()
    if loaded is None:
        return None
    say(f"init_from: {len(loaded.loaded)} tensors loaded")
    for name, why in loaded.skipped:
        say(f"init_from: not loaded {name} ({why})")
    if loaded.untouched:
        say(f"init_from: at their initial values {', '.join(loaded.untouched)}")
    for line in foreign_weights(trainer.config, trainer.store):
        say(line)
    return loaded.loaded


def foreign_weights(config: TrainConfig, store: Store) -> list[str]:
    """Warn where the weights are not of a run that trained on the same rows: they may have seen patients that select or test here."""
    path, of_rows = Path(config.init_from), ("folds", "missing") if config.folds else ("folds",)
    if (path / CONFIG).is_file():
        run = Run(path)
        same = all(
            getattr(run.config, name) == getattr(config, name) for name in of_rows
        ) and run.config.fold in (-1, config.fold)
        if same and run.content_sha256 == store.content_sha256 and not run.config.init_from:
            return []
    held_out = (
        "the folds that select and are scored"
        if config.folds
        else "this store's val and test splits"
    )
    return [
        f"init_from: these weights were trained on other data; make sure that no patient of {held_out} was among them"
    ]


def _epochs(trainer: Trainer, outdir: Path, say: Say, stop: Callable[[], bool]) -> None:
    """Train until the epochs or the patience are at an end; each epoch leaves a checkpoint and a line of the curves."""
    config, progress = trainer.config, trainer.progress

    def save() -> None:
        if trainer.ranks.is_first:
            save_checkpoint(outdir / LAST, trainer.state())

    while (
        progress.epoch < config.epochs
        and progress.epoch - progress.best["epoch"] < config.early_stop
    ):
        loss = trainer.train_epoch(save, stop)
        kept = trainer.kept()
        row = {
            "epoch": progress.epoch + 1,
            "lr": trainer.optimizer.param_groups[-1]["lr"],
            "train_loss": loss,
            **trainer.validate(kept),
        }
        progress.history.append(row)
        progress.step, progress.losses = 0, []
        score = row[f"val_{config.val_metric}"]
        if config.scheduler == "plateau":
            trainer.plateau.step(score)
        improved = score > progress.best["score"]
        if improved:
            progress.best.update(epoch=progress.epoch, score=score)
        if trainer.ranks.is_first:
            if improved:
                save_checkpoint(
                    outdir / BEST, {"model": kept.model.state_dict(), "epoch": progress.epoch}
                )
            write_curves(outdir, progress.history)
            save()  # last: what a run that is killed before goes on from makes the others again
        say(
            f"epoch {progress.epoch:3d}/{config.epochs}  loss {loss:.4f}  val loss {row['val_loss']:.4f}  "
            f"AUPRC {row['val_auprc']:.4f}  AUROC {row['val_auroc']:.4f}{'  best' if improved else ''}"
        )
