"""The run folder that training writes to: checked, locked, described."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecgfit.compute.device import pick_device, use_amp
from ecgfit.compute.distributed import Ranks
from ecgfit.config import RECORDED
from ecgfit.data.rows import FOLDS_DEALT_BY
from ecgfit.models.factory import count_parameters
from ecgfit.run_files import (
    LOCKED,
    MEMBERS,
    RUNS,
    THRESHOLD,
    config_values,
    differing_settings,
    is_leftover,
    looks_like_run,
    new_run_dir,
    origin_of,
    remove_if_empty,
)
from ecgfit.training.job import Job
from ecgfit.training.preflight import multiply_accumulates
from ecgfit.training.trainer import Trainer, resolved_settings
from ecgprep.errors import InputError, StoreError, TargetExists
from ecgprep.files.lock import locked


def next_numbered(ranks: Ranks) -> Path:
    """Make the next numbered folder under runs/, and return it in all processes."""
    made = new_run_dir(RUNS).name if ranks.is_first else ""
    names: list[str] = ranks.gather(np.array([made])).tolist()
    return RUNS / max(names)


def absent_folders(outdir: Path) -> list[Path]:
    """Return the folders that making `outdir` would make, the innermost first."""
    return [folder for folder in (outdir, *outdir.parents) if not folder.exists()]


@contextmanager
def held(outdir: Path, ranks: Ranks, absent: Sequence[Path]) -> Iterator[None]:
    """Lock the run folder, made if need be, against other programs that would train into it.

    The lock lies inside: the folder above one that was mounted for a run is often read-only. The
    folders that were `absent` before go again if training was refused before it wrote anything.
    Raises TargetExists.
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
        remove_if_empty(*absent)


def check_same_settings(job: Job) -> bool:
    """Refuse to resume a run that was started with other settings, or on another store.

    Returns whether the run computes in bfloat16: where `amp: auto` meant float32 when it began, it
    stays in float32. Raises StoreError.
    """
    values = config_values(job.outdir)
    recorded = values.pop(RECORDED)
    if not job.store.has_content(*origin_of(recorded["store"])):
        raise StoreError(
            f"{job.outdir} was trained on another store. Resume it with its own store, or start "
            "another run."
        )
    device = pick_device(job.config.device)
    amp = use_amp(job.config.amp, device, recorded.get("amp"))
    wanted = resolved_settings(job.config, device, amp, job.ranks)
    is_of_cpu = str(recorded.get("device")).startswith("cpu ")
    values |= {
        "device": "cpu" if is_of_cpu else "cuda",
        "amp": "on" if recorded.get("amp") else "off",
        "processes": recorded.get("processes"),
        "folds_dealt_by": wanted["folds_dealt_by"],
    }
    _check_folds(job, recorded.get("folds_dealt_by"), wanted["folds_dealt_by"])
    changed = differing_settings(values, wanted)
    if changed:
        raise StoreError(
            f"{job.outdir} was started with other settings ({changed}). Resume with the same, or "
            "start another run."
        )
    return amp


def _check_folds(job: Job, recorded: str | None, wanted: str | None) -> None:
    """Refuse to train on with folds that were dealt in another way; a finished run is left alone.

    Raises StoreError.
    """
    is_finished = (job.outdir / THRESHOLD).exists()
    if recorded != wanted and not is_finished:
        raise StoreError(
            f"{job.outdir}: an earlier version dealt the patients to these folds, and this one "
            "would deal them differently. Start the run again with --overwrite."
        )


def check_outdir(outdir: Path, resume: bool, overwrite: bool, init_from: str) -> None:
    """Refuse a folder that is in use, and weights that are not there, before anything is touched.

    Raises InputError, StoreError and TargetExists.
    """
    if init_from and not Path(init_from).exists():
        raise StoreError(f"init_from {init_from}: there is no such run folder or file of weights.")
    if overwrite and init_from and Path(init_from).resolve().is_relative_to(outdir.resolve()):
        raise InputError(
            "--overwrite would delete the weights that --init-from names. Use another --outdir."
        )
    if resume and overwrite:
        raise InputError(
            "--resume and --overwrite exclude each other: continue the run, or start it again."
        )
    if not outdir.exists() or _holds_nothing(outdir):
        return
    if not looks_like_run(outdir):
        raise TargetExists(
            f"{outdir} is not empty and not a run folder, so nothing is written or deleted there. "
            "Use another --outdir."
        )
    if not resume and not overwrite:
        raise TargetExists(
            f"{outdir} exists. Use --resume to continue it, --overwrite to start again, or another "
            "--outdir."
        )


def _holds_nothing(outdir: Path) -> bool:
    """Say whether a folder holds at most what a program left that died before its run began."""
    members = outdir / MEMBERS
    for found in outdir.iterdir():
        is_members = found == members and found.is_dir()
        if not is_members and not is_leftover(found):
            return False
    for member in members.glob("*"):
        if not member.is_dir() or not all(is_leftover(found) for found in member.iterdir()):
            return False
    return True


def recorded_facts(trainer: Trainer, loaded: list[str] | None) -> dict[str, Any]:
    """Return what config.yaml notes besides the settings.

    It is enough to reproduce the run, and nothing in it identifies a person or a machine. `loaded`
    names the tensors that came from other weights.
    """
    from importlib.metadata import version

    store, weights = trainer.store, trainer.class_weights
    sex_codes = {
        name: str(code) for name, code in store.sex_codes.items() if name in trainer.config.tabular
    }
    versions = {name: version(name) for name in ("torch", "numpy", "zarr")}
    folds_dealt_by = {"folds_dealt_by": FOLDS_DEALT_BY} if trainer.config.folds else {}
    return {
        **folds_dealt_by,
        "store": {
            "name": store.path.name,
            "content_sha256": store.content_sha256,
            "software": store.attributes["software"],
            "sample_rate_hz": store.sample_rate_hz,
            "n_samples": store.n_samples,
            **({"sex_code": sex_codes} if sex_codes else {}),
            **({"task": store.task} if store.task is not None else {}),
        },
        "device": _describe_device(trainer.device),
        "amp": trainer.amp,
        "class_weights": None if weights is None else weights.tolist(),
        "model": {
            "parameters": count_parameters(trainer.model),
            "macs": multiply_accumulates(trainer),
        },
        "tensors_loaded": loaded,
        "processes": trainer.ranks.world,
        "records": {split: len(rows) for split, rows in trainer.rows.items()},
        "versions": {"python": platform.python_version(), **versions},
    }


def _describe_device(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu ({torch.backends.cpu.get_cpu_capability()})"
