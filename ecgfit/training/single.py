"""Train one model, or continue an interrupted training."""

from __future__ import annotations

from pathlib import Path

from ecgfit.checkpoint import save_checkpoint
from ecgfit.config import TrainConfig
from ecgfit.run import RunFolder
from ecgfit.run_files import (
    BEST,
    CONFIG,
    LAST,
    NORM_STATS,
    delete_run,
    remove_leftovers,
    save_config,
    write_curves,
)
from ecgfit.training.decisions import decide
from ecgfit.training.job import Job
from ecgfit.training.outdir import check_same_settings, recorded_facts
from ecgfit.training.preflight import preflight
from ecgfit.training.state import RunState, decided_again, run_state
from ecgfit.training.trainer import Trainer
from ecgprep.errors import StoreError
from ecgprep.store.reader import Store


def train_one(job: Job) -> None:
    """Train one model into the job's folder, from wherever an earlier training there ended.

    Raises InputError and StoreError before anything in the folder is changed.
    """
    trainer = Trainer.prepare(job.config, job.store, job.ranks)
    for line in preflight(trainer, test=False):
        job.say(line)

    state = run_state(job.outdir, job.config, job.ensemble) if job.resume else RunState.EMPTY
    if state is not RunState.EMPTY:
        trainer.amp = check_same_settings(job)
        if job.ranks.is_first:
            remove_leftovers(job.outdir)
    job.ranks.wait()  # every process has looked before the first one deletes anything

    match state:
        case RunState.FINISHED:
            job.say(f"{job.outdir} is finished already")
            job.ranks.wait()
            return
        case RunState.TRAINED:
            job.say(f"{job.outdir} is trained: making again what validation decides")
            if decided_again(job.outdir):
                job.say("the decisions of `ecgfit decide` are lost with it: decide again")
        case RunState.WEIGHTS_LOST:
            raise StoreError(
                f"{job.outdir} has results, but its weights are lost. --overwrite deletes the "
                "results and trains again."
            )
        case RunState.RESUMABLE:
            _continue(trainer, job)
            _train_epochs(trainer, job)
        case RunState.EMPTY | RunState.STARTED:
            _begin(trainer, job)
            _train_epochs(trainer, job)

    job.ranks.wait()
    decide(trainer, job.outdir)
    job.ranks.wait()


def _continue(trainer: Trainer, job: Job) -> None:
    """Load the last checkpoint."""
    trainer.load_state(job.outdir / LAST)
    progress = trainer.progress
    if progress.step:
        job.say(f"resuming after epoch {progress.epoch} and {progress.step} steps")
    elif progress.epoch:
        job.say(f"resuming after epoch {progress.epoch}")


def _begin(trainer: Trainer, job: Job) -> None:
    """Set the initial weights, and replace what lies in the folder by a new run's settings."""
    loaded = _load_initial_weights(trainer, job)
    if not job.ranks.is_first:
        return
    # Left by a run that may be overwritten, or by one that was killed before its first checkpoint.
    delete_run(job.outdir)
    job.outdir.mkdir(parents=True, exist_ok=True)
    save_config(job.outdir, job.config, recorded_facts(trainer, loaded))
    trainer.stats.save(job.outdir / NORM_STATS)


def _load_initial_weights(trainer: Trainer, job: Job) -> list[str] | None:
    """Load what fits of the weights that `init_from` names, if any; return the tensors' names."""
    weights = trainer.load_weights()
    if weights is None:
        return None
    job.say(f"init_from: {len(weights.loaded)} tensors loaded")
    for name, why in weights.skipped:
        job.say(f"init_from: not loaded {name} ({why})")
    if weights.untouched:
        job.say(f"init_from: at their initial values {', '.join(weights.untouched)}")
    if not trained_on_same_rows(Path(job.config.init_from), job.config, job.store):
        held_out = "this store's val and test splits"
        if job.config.folds:
            held_out = "the folds that select and are scored"
        job.say(
            "init_from: these weights were trained on other data; make sure that no patient of "
            f"{held_out} was among them"
        )
    return weights.loaded


def trained_on_same_rows(weights: Path, config: TrainConfig, store: Store) -> bool:
    """Say whether weights come from a run that trained on no row that `config` holds out.

    A bare file does not say where it was trained. A run that itself started from other weights may
    have inherited what those had seen.
    """
    if not (weights / CONFIG).is_file():
        return False
    run = RunFolder(weights)
    if not run.is_of(store) or run.config.init_from:
        return False
    if run.config.folds != config.folds:
        return False
    if not config.folds:
        return True
    return run.config.missing == config.missing and run.config.fold in (-1, config.fold)


def _train_epochs(trainer: Trainer, job: Job) -> None:
    """Train until the epochs or the patience run out.

    Each epoch leaves a checkpoint and a line of the curves. The checkpoint to resume from is
    written last: a run that is killed before makes the other files again.
    """

    def save() -> None:
        if job.ranks.is_first:
            save_checkpoint(job.outdir / LAST, trainer.state())

    config, progress = trainer.config, trainer.progress
    while progress.epoch < config.epochs and _has_patience(trainer):
        train_loss = trainer.train_epoch(save, job.stop)
        kept = trainer.kept()
        row = {
            "epoch": progress.epoch + 1,
            "lr": trainer.optimizer.param_groups[-1]["lr"],
            "train_loss": train_loss,
            **trainer.validate(kept),
        }
        is_best = _note_epoch(trainer, row)
        if job.ranks.is_first:
            if is_best:
                weights = {"model": kept.model.state_dict(), "epoch": progress.epoch}
                save_checkpoint(job.outdir / BEST, weights)
            write_curves(job.outdir, progress.history)
            save()
        job.say(_epoch_line(row, config.epochs, is_best))


def _has_patience(trainer: Trainer) -> bool:
    epochs_without_better = trainer.progress.epoch - trainer.progress.best["epoch"]
    return bool(epochs_without_better < trainer.config.early_stop)


def _note_epoch(trainer: Trainer, row: dict[str, float]) -> bool:
    """Add a finished epoch to the progress, and say whether it is the best so far."""
    config, progress = trainer.config, trainer.progress
    progress.history.append(row)
    progress.step, progress.losses = 0, []
    score = row[f"val_{config.val_metric}"]
    if config.scheduler == "plateau":
        trainer.plateau.step(score)
    is_best = bool(score > progress.best["score"])
    if is_best:
        progress.best.update(epoch=progress.epoch, score=score)
    return is_best


def _epoch_line(row: dict[str, float], epochs: int, is_best: bool) -> str:
    line = (
        f"epoch {row['epoch']:3d}/{epochs}  loss {row['train_loss']:.4f}  "
        f"val loss {row['val_loss']:.4f}  AUPRC {row['val_auprc']:.4f}  "
        f"AUROC {row['val_auroc']:.4f}"
    )
    return f"{line}  best" if is_best else line
