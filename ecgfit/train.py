"""Train one model, or the members of an ensemble, on one store: selected by validation, resumable to the bit."""

from __future__ import annotations

import copy
import platform
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecgfit.augment import AUGMENTATIONS, Draws, draw
from ecgfit.calibration import Calibration
from ecgfit.config import RECORDED, TrainConfig
from ecgfit.data import ModelInput, NormStats, select_rows, usable_rows
from ecgfit.device import pick_device, set_up, use_amp
from ecgfit.distributed import Ranks, start
from ecgfit.evaluate import is_of, operating_point, report
from ecgfit.loader import Batch, make_loader
from ecgfit.models import count_macs, count_parameters
from ecgfit.predict import UNCALIBRATED, Predictions, load_ensemble, predict_rows
from ecgfit.run import (
    BEST,
    CALIBRATION,
    CONFIG,
    DECIDED,
    LAST,
    LOCKED,
    MEMBERS,
    NORM_STATS,
    RUNS,
    THRESHOLD,
    Run,
    config_values,
    delete_run,
    differing_settings,
    is_leftover,
    load_checkpoint,
    looks_like_run,
    new_run_dir,
    remove_if_empty,
    remove_leftovers,
    save_checkpoint,
    save_config,
    write_curves,
)
from ecgfit.trainer import Stopped, Trainer, resolved_settings, training_rows
from ecgprep.durable import locked, write_json
from ecgprep.errors import EXIT_TERMINATED, InputError, StoreError, TargetExists
from ecgprep.leads import LEADS
from ecgprep.output import refuse_inside_store
from ecgprep.store import SPLITS, Store

FEW_EVENTS = 20
"""Positive validation patients below which selection by them is a matter of luck."""

OF_SINGLE_MODELS = "fitted to the single models' predictions out of fold, used on their mean logit"
CURVE_METRICS = ("auroc", "auprc")

Say = Callable[[str], None]


def train(config: TrainConfig, store: Store, outdir: Path | None, *, resume: bool = False, overwrite: bool = False, say: Say = print) -> Run:
    """Train, go back to the best epoch, let validation choose calibration and threshold, and return the finished run.

    With `seeds` or `folds` this is done for each member, and then for their mean logit. Test rows are never read. SIGTERM saves a checkpoint
    and ends the program with exit code 143. The first process locks the folder; without `outdir` it is the next number under runs/.
    Raises TargetExists, InputError, StoreError.
    """
    ranks = start(pick_device(config.device))
    say = say if ranks.is_first else _silent
    refuse_inside_store(outdir or RUNS / "001")
    missing = _missing(outdir or RUNS / "any")
    if outdir is None:
        outdir = _numbered(ranks)
        missing = [outdir, *missing[1:]]
    members = config.member_configs()
    with ExitStack() as held, _asked_to_stop() as stop:
        held.enter_context(_held(outdir, ranks, missing))
        check_outdir(outdir, resume, overwrite, config.init_from)
        ranks.wait()
        for name in members:  # nobody else goes on with one of them meanwhile
            folder = outdir / MEMBERS / name
            held.enter_context(_held(folder, ranks, _missing(folder)))
        if not members:
            _train_one(config, store, outdir, ranks, resume, say, stop)
        else:
            _train_members(config, members, store, outdir, ranks, resume, overwrite, say, stop)
    return Run(outdir)


def _numbered(ranks: Ranks) -> Path:
    """Return a new folder under runs/, the same in all processes."""
    made = new_run_dir(RUNS).name if ranks.is_first else ""
    names: list[str] = ranks.gather(np.array([made])).tolist()
    return RUNS / max(names)


@contextmanager
def _held(outdir: Path, ranks: Ranks, missing: Sequence[Path]) -> Iterator[None]:
    """Lock the run folder, made where it is not there, against other programs that would train into it. Raises TargetExists.

    The lock lies inside: what is above a folder that was mounted for one run often cannot be written to. The folders that were `missing` before
    go again where training was refused before anything was written.
    """
    if not ranks.is_first:
        yield
        return
    if not outdir.exists():
        outdir.mkdir(parents=True, exist_ok=True)
    try:
        with locked(outdir / LOCKED, wait=False, busy=f"{outdir} is being trained"):
            yield
    finally:
        remove_if_empty(*missing)


def _missing(outdir: Path) -> list[Path]:
    """Return the folders that making `outdir` makes, the innermost first."""
    return [folder for folder in (outdir, *outdir.parents) if not folder.exists()]


def _silent(line: str) -> None:
    """Say nothing: the first process speaks for all."""


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGTERM has come; the first one does nothing else, a second one ends the program as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False
    before = signal.getsignal(signal.SIGTERM)

    def note(*_: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: asked
    except Stopped:
        raise SystemExit(EXIT_TERMINATED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _train_one(config: TrainConfig, store: Store, outdir: Path, ranks: Ranks, resume: bool, say: Say, stop: Callable[[], bool]) -> None:
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
        raise StoreError(f"{outdir} has results, but its weights are lost. --overwrite trains it again, and deletes them.")
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


def _has_ended(outdir: Path) -> bool:
    """Say whether training has come to its end in a folder, whatever is left of its last checkpoint: validation has begun to decide."""
    return (outdir / BEST).exists() and any(
        (outdir / name).exists() for name in (THRESHOLD, CALIBRATION, *(f"metrics_{rows}.json" for rows in (*DECIDED, "test")))
    )


def is_whole(outdir: Path, config: TrainConfig, ensemble: Path | None = None) -> bool:
    """Say whether a run, trained with `config`, is finished and all that its end has written is there and can be read."""
    if not (outdir / THRESHOLD).exists():
        return False
    try:
        run = Run(outdir, ensemble)
        for name in DECIDED[: 1 + (config.fold >= 0)]:
            metrics = run.read_json(f"metrics_{name}.json")
            found = Predictions.load(outdir / f"predictions_{name}.csv", run.calibration)
            if metrics.get("threshold") != run.threshold or not is_of(metrics, found, run.calibration, run.threshold):
                return False
    except (StoreError, InputError):
        return False
    return True


def _continue(trainer: Trainer, outdir: Path, say: Say) -> None:
    """Go on from the last checkpoint."""
    trainer.load_state(outdir / LAST)
    progress = trainer.progress
    if progress.epoch or progress.step:
        say(f"resuming after epoch {progress.epoch}" + (f" and {progress.step} steps" if progress.step else ""))


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
        same = all(getattr(run.config, name) == getattr(config, name) for name in of_rows) and run.config.fold in (-1, config.fold)
        if same and run.content_sha256 == store.content_sha256 and not run.config.init_from:
            return []
    held_out = "the folds that select and are scored" if config.folds else "this store's val and test splits"
    return [f"init_from: these weights were trained on other data; make sure that no patient of {held_out} was among them"]


def _epochs(trainer: Trainer, outdir: Path, say: Say, stop: Callable[[], bool]) -> None:
    """Train until the epochs or the patience are at an end; each epoch leaves a checkpoint and a line of the curves."""
    config, progress = trainer.config, trainer.progress

    def save() -> None:
        if trainer.ranks.is_first:
            save_checkpoint(outdir / LAST, trainer.state())

    while progress.epoch < config.epochs and progress.epoch - progress.best["epoch"] < config.early_stop:
        loss = trainer.train_epoch(save, stop)
        kept = trainer.kept()
        row = {"epoch": progress.epoch + 1, "lr": trainer.optimizer.param_groups[-1]["lr"], "train_loss": loss, **trainer.validate(kept)}
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
                save_checkpoint(outdir / BEST, {"model": kept.model.state_dict(), "epoch": progress.epoch})
            write_curves(outdir, progress.history)
            save()  # last: what a run that is killed before goes on from makes the others again
        say(
            f"epoch {progress.epoch:3d}/{config.epochs}  loss {loss:.4f}  val loss {row['val_loss']:.4f}  "
            f"AUPRC {row['val_auprc']:.4f}  AUROC {row['val_auroc']:.4f}{'  best' if improved else ''}"
        )


def _decide(trainer: Trainer, outdir: Path) -> None:
    """Go back to the best epoch and write what validation decides; in cross-validation also how the scored fold was predicted."""
    best = trainer.kept()
    best.model.load_state_dict(load_checkpoint(outdir / BEST)["model"])
    predictions = {name: trainer.predict(best, name) for name in ("val", "scored") if name in trainer.rows}
    if not trainer.ranks.is_first:
        return
    trainer.stats.save(outdir / NORM_STATS)  # the same again, where it is there
    _write_decisions(outdir, trainer.config, trainer.store, {"oof" if name == "scored" else name: found for name, found in predictions.items()})


def _write_decisions(outdir: Path, config: TrainConfig, store: Store, predictions: dict[str, Predictions]) -> None:
    """Let the predictions of `val` choose calibration and threshold, and write how all are judged by them."""
    calibration, threshold = operating_point(predictions["val"], config, "val")
    for name, found in predictions.items():
        found.save(outdir / f"predictions_{name}.csv", calibration)
        eligible = select_rows(store, name, "mask") if config.fold < 0 else None  # of a fold there is no telling: it is made of usable rows
        metrics = report(found, name, store, calibration, threshold["value"], config.aggregate, config.seed, eligible=eligible)
        write_json(outdir / f"metrics_{name}.json", metrics)
    _finish(outdir, calibration, threshold)


def _finish(outdir: Path, calibration: Calibration, threshold: dict[str, Any]) -> None:
    """Write how the run is to be used; the threshold, which marks a run as finished, last."""
    write_json(outdir / CALIBRATION, calibration.to_json())
    write_json(outdir / THRESHOLD, threshold)


def _train_members(
    config: TrainConfig,
    members: dict[str, TrainConfig],
    store: Store,
    outdir: Path,
    ranks: Ranks,
    resume: bool,
    overwrite: bool,
    say: Say,
    stop: Callable[[], bool],
) -> None:
    """Train each member in its own folder and let the mean logit be judged: on validation, or out of fold."""
    for member in members.values():
        training_rows(member, store)  # a fold without both classes is told before the first is trained
    if ranks.is_first:
        if (outdir / CONFIG).exists() and not overwrite:
            _check_same_config(outdir, config, store, ranks)
        else:
            first = Trainer.prepare(next(iter(members.values())), store, ranks)
            first.load_weights()  # what is wrong with settings or weights is told before anything is deleted
            if overwrite:
                delete_run(outdir)
            outdir.mkdir(parents=True, exist_ok=True)
            facts = recorded_facts(first, None)
            if config.folds:
                facts["records"] = {"folds": sum(map(len, first.rows.values()))}
            save_config(outdir, config, facts)
    ranks.wait()
    for name, member in members.items():
        folder = outdir / MEMBERS / name
        if is_whole(folder, member, outdir):
            _check_same_config(folder, member, store, ranks)
            continue
        say(f"member {name} of {', '.join(members)}")
        _train_one(member, store, folder, ranks, resume, say, stop)
    if ranks.is_first:
        decide = _decide_out_of_fold if config.folds else _decide_together
        decide(config, [Run(outdir / MEMBERS / name, outdir) for name in members], store, outdir)
    ranks.wait()


def _check_same_config(outdir: Path, config: TrainConfig, store: Store, ranks: Ranks) -> None:
    """Refuse to go on with a run of other settings."""
    values = config_values(outdir)
    recorded = values.pop(RECORDED)
    device = pick_device(config.device)
    wanted = resolved_settings(config, device, use_amp(config.amp, device), ranks)
    was_on = "cpu" if str(recorded.get("device")).startswith("cpu ") else "cuda"
    values |= {"device": was_on, "amp": "on" if recorded.get("amp") else "off", "processes": recorded.get("processes")}
    if recorded["store"]["content_sha256"] != store.content_sha256:
        raise StoreError(f"{outdir} was trained on another store. Resume it with its own store, or start another run.")
    if changed := differing_settings(values, wanted):
        raise StoreError(f"{outdir} was started with other settings ({changed}). Resume with the same, or start another run.")


def _decide_together(config: TrainConfig, members: list[Run], store: Store, outdir: Path) -> None:
    """Write what validation decides for the members' mean logit, and how they do there."""
    set_up(config.threads)
    device = pick_device(config.device)
    scorer = load_ensemble(members, device)
    rows = training_rows(members[0].config, store)["val"]
    _write_decisions(outdir, config, store, {"val": predict_rows(scorer, store, rows, config.tabular, use_amp(config.amp, device))})


def _decide_out_of_fold(config: TrainConfig, members: list[Run], store: Store, outdir: Path) -> None:
    """Write how each patient is judged by the model that did not see them, and what that decides for the models' mean logit.

    The results use each model's own calibration and threshold, chosen on another fold than the one it is judged by. The mean logit, which is
    for other patients, gets one calibration and threshold from all predictions out of fold, as scikit-learn's CalibratedClassifierCV
    (ensemble=False) does: no patient is left on which the mean itself could be calibrated.
    """
    parts = [Predictions.load(member.path / "predictions_oof.csv", member.calibration) for member in members]
    raw = Predictions.joined(parts)
    calibration, threshold = operating_point(raw, config, "oof")
    if calibration.method != "none":
        calibration = replace(calibration, note="; ".join(filter(None, (calibration.note, OF_SINGLE_MODELS))))
    judged = Predictions.joined([part.calibrated(member.calibration, member.threshold) for part, member in zip(parts, members, strict=True)])
    judged.save(outdir / "predictions_oof.csv", UNCALIBRATED)
    identity = replace(UNCALIBRATED, note="each fold's own, in the logits")
    eligible = np.concatenate([select_rows(store, split, "mask") for split in ("train", "val")])
    metrics = report(judged, "oof", store, identity, threshold["value"], config.aggregate, config.seed, raw, eligible)
    write_json(outdir / "metrics_oof.json", metrics | {"folds": fold_results(members)})
    _finish(outdir, calibration, threshold)


def fold_results(members: list[Run]) -> dict[str, Any]:
    """Return each fold's own results, and their mean and standard deviation over the folds: predictions of different models are not pooled."""
    found = {member.path.name: member.read_json("metrics_oof.json") for member in members}
    each = {
        name: {**{key: own[key] for key in ("n_patients", "n_positive", "threshold")}, **{key: own["metrics"][key]["value"] for key in CURVE_METRICS}}
        for name, own in found.items()
    }
    values = {key: np.array([own[key] for own in each.values()]) for key in CURVE_METRICS}
    return {"each": each, **{key: {"mean": float(value.mean()), "sd": float(value.std(ddof=1))} for key, value in values.items()}}


def check_outdir(outdir: Path, resume: bool, overwrite: bool, init_from: str) -> None:
    """Refuse weights that are not there, and a folder that is in use, before anything in it is touched."""
    if init_from and not Path(init_from).exists():
        raise StoreError(f"init_from {init_from}: there is no such run folder or file of weights.")
    if overwrite and init_from and Path(init_from).resolve().is_relative_to(outdir.resolve()):
        raise InputError("--overwrite would delete the weights that --init-from names. Use another --outdir.")
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other: go on with the run, or start it again.")
    if not outdir.exists() or _holds_nothing(outdir):
        return
    if not looks_like_run(outdir):
        raise TargetExists(f"{outdir} is not empty and not a run folder, so nothing is written or deleted there. Use another --outdir.")
    if not resume and not overwrite:
        raise TargetExists(f"{outdir} exists. Use --resume to go on with it, --overwrite to start again, or another --outdir.")


def _holds_nothing(outdir: Path) -> bool:
    """Say whether a folder is empty but for leftovers, those of an ensemble that was killed before it began included."""
    members = outdir / MEMBERS
    above = [found for found in outdir.iterdir() if found != members or not found.is_dir()]
    return all(map(is_leftover, above)) and all(found.is_dir() and all(map(is_leftover, found.iterdir())) for found in members.glob("*"))


def recorded_facts(trainer: Trainer, loaded: list[str] | None) -> dict[str, Any]:
    """What config.yaml notes besides the settings: enough to reproduce the run, nothing that identifies a person or machine."""
    from importlib.metadata import version

    store = trainer.store
    return {
        "store": {
            "name": store.path.name,
            "content_sha256": store.content_sha256,
            "sample_rate_hz": store.sample_rate_hz,
            "n_samples": store.n_samples,
        },
        "device": torch.cuda.get_device_name() if trainer.device == "cuda" else f"cpu ({torch.backends.cpu.get_cpu_capability()})",
        "amp": trainer.amp,
        "class_weights": None if trainer.class_weights is None else [float(w) for w in trainer.class_weights],
        "model": {"parameters": count_parameters(trainer.model), "macs": _macs(trainer)},
        "tensors_loaded": loaded,
        "processes": trainer.ranks.world,
        "records": {split: len(rows) for split, rows in trainer.rows.items()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy", "zarr")}},
    }


def _macs(trainer: Trainer) -> int:
    model_input = trainer.scorer.model_input
    return count_macs(trainer.model, model_input.n_channels, trainer.store.n_samples, model_input.n_covariates)


def preflight(trainer: Trainer, *, test: bool = True) -> list[str]:
    """Check what a long run relies on, on one batch of each split, and return a line on each check. Raises StoreError.

    Training itself asks for no `test`, and so reads no test row; `ecgfit train --check` looks whether those tensors are finite, too.
    """
    store, config = trainer.store, trainer.config
    if tuple(store.attributes["lead_names"]) != LEADS:
        raise StoreError(f"{store.path}: the lead order is not {', '.join(LEADS)}.")
    shape = (trainer.scorer.model_input.n_channels, store.n_samples)
    looked_at = trainer.rows | ({"test": usable_rows(store, "test", config.missing)} if test else {})
    looked_at = {name: rows for name, rows in looked_at.items() if len(rows)}
    for name, rows in looked_at.items():
        _check_batch(trainer, name, next(iter(make_loader(store, rows, config.batch, covariates=config.tabular))), shape)
    used = [SPLITS.index("train")] + [SPLITS.index("val")] * (config.fold >= 0)  # cross-validation trains on both, never on test
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
        f"with {config.threads} threads" + (f" in each of {trainer.ranks.world} processes" if trainer.ranks.world > 1 else ""),
    ]
    return [*lines, *_events(trainer)]


def _events(trainer: Trainer) -> list[str]:
    """Say how many patients select the epoch, and warn when they are few."""
    rows, store = trainer.rows["val"], trainer.store
    patients = Predictions(rows, store.array("patient")[rows], store.array("label")[rows], np.zeros((len(rows), 2))).by_patient()
    n_positive = int((patients.label == 1).sum())
    line = f"validation: {len(patients.label):,} patients, {n_positive:,} positive"
    steadier = "" if trainer.config.folds else " (several --seeds, or --folds, make it steadier)"
    advice = f"; few: the epoch, threshold and calibration that they choose are uncertain{steadier}"
    return [line + (advice if n_positive < FEW_EVENTS else "")]


def _check_batch(trainer: Trainer, name: str, batch: Batch, shape: tuple[int, int]) -> None:
    draws = Draws(torch.Generator(trainer.device).manual_seed(0), len(batch.rows))
    drawn = draw(trainer.config.aug if name == "train" else (), draws, batch.waveforms.shape)
    tensors = (t.to(trainer.device) for t in (batch.waveforms, batch.lead_mask, batch.valid_span, batch.covariates))
    x, tabular = trainer.scorer.model_input(*tensors, drawn)
    if x.shape != (len(batch.rows), *shape) or x.dtype != torch.float32:
        raise StoreError(f"The {name} rows give tensors {tuple(x.shape)} {x.dtype}; (B, {shape[0]}, {shape[1]}) float32 is needed.")
    finite = torch.isfinite(x).flatten(1).all(dim=1) & (True if tabular is None else torch.isfinite(tabular).all(dim=1))
    if not finite.all():
        bad = batch.rows[~finite.cpu().numpy()]
        raise StoreError(f"The {name} rows give values that are not finite (store rows {', '.join(map(str, bad[:8]))}).")


def _check_augmentation(model_input: ModelInput, n_samples: int) -> None:
    """Augment records whose leads are all the same: they must stay the same, and keep their length."""
    unscaled = copy.deepcopy(model_input).cpu()
    unscaled.mean.zero_()
    unscaled.inverse_std.fill_(1)
    waveforms = (1000 * torch.sin(torch.arange(n_samples) / 7)).to(torch.int16).expand(4, len(LEADS), -1)
    mask, span = torch.ones(4, len(LEADS), dtype=torch.bool), torch.tensor([[0, n_samples]] * 4, dtype=torch.int32)
    for name in AUGMENTATIONS:
        drawn = draw((name,), Draws(torch.Generator().manual_seed(0), len(waveforms)), waveforms.shape)
        y = unscaled(waveforms, mask, span, None, drawn)[0][:, : len(LEADS)]
        kept = y.abs().amax(dim=2, keepdim=True) > 0  # leads that the augmentation did not take away
        first = y[torch.arange(len(y)), kept[:, :, 0].int().argmax(dim=1)][:, None]
        synchronous = name == "noise" or bool(((y == first) | ~kept).all())
        if y.shape != waveforms.shape or not synchronous:
            raise StoreError(f"The augmentation {name} changes the length or the leads' timing against each other. This is a bug.")
