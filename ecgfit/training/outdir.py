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
from ecgfit.config import RECORDED, TrainConfig
from ecgfit.data.rows import FOLDS_DEALT_BY
from ecgfit.models.factory import count_parameters
from ecgfit.run_files import (
    LOCKED,
    MEMBERS,
    RUNS,
    config_values,
    differing_settings,
    is_leftover,
    looks_like_run,
    new_run_dir,
    remove_if_empty,
)
from ecgfit.training.preflight import _macs
from ecgfit.training.trainer import Trainer, resolved_settings
from ecgprep.errors import InputError, StoreError, TargetExists
from ecgprep.files.lock import locked
from ecgprep.store.reader import Store


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


def _check_same_config(outdir: Path, config: TrainConfig, store: Store, ranks: Ranks) -> None:
    """Refuse to go on with a run of other settings."""
    values = config_values(outdir)
    recorded = values.pop(RECORDED)
    device = pick_device(config.device)
    wanted = resolved_settings(
        config, device, use_amp(config.amp, device, recorded.get("amp")), ranks
    )
    was_on = "cpu" if str(recorded.get("device")).startswith("cpu ") else "cuda"
    values |= {
        "device": was_on,
        "amp": "on" if recorded.get("amp") else "off",
        "processes": recorded.get("processes"),
        "folds_dealt_by": recorded.get("folds_dealt_by"),
    }
    if recorded["store"]["content_sha256"] != store.content_sha256:
        raise StoreError(
            f"{outdir} was trained on another store. Resume it with its own store, or start another run."
        )
    if changed := differing_settings(values, wanted):
        raise StoreError(
            f"{outdir} was started with other settings ({changed}). Resume with the same, or start another run."
        )


def check_outdir(outdir: Path, resume: bool, overwrite: bool, init_from: str) -> None:
    """Refuse weights that are not there, and a folder that is in use, before anything in it is touched."""
    if init_from and not Path(init_from).exists():
        raise StoreError(f"init_from {init_from}: there is no such run folder or file of weights.")
    if overwrite and init_from and Path(init_from).resolve().is_relative_to(outdir.resolve()):
        raise InputError(
            "--overwrite would delete the weights that --init-from names. Use another --outdir."
        )
    if resume and overwrite:
        raise InputError(
            "--resume and --overwrite exclude each other: go on with the run, or start it again."
        )
    if not outdir.exists() or _holds_nothing(outdir):
        return
    if not looks_like_run(outdir):
        raise TargetExists(
            f"{outdir} is not empty and not a run folder, so nothing is written or deleted there. Use another --outdir."
        )
    if not resume and not overwrite:
        raise TargetExists(
            f"{outdir} exists. Use --resume to go on with it, --overwrite to start again, or another --outdir."
        )


def _holds_nothing(outdir: Path) -> bool:
    """Say whether a folder is empty but for leftovers, those of an ensemble that was killed before it began included."""
    members = outdir / MEMBERS
    above = [found for found in outdir.iterdir() if found != members or not found.is_dir()]
    return all(map(is_leftover, above)) and all(
        found.is_dir() and all(map(is_leftover, found.iterdir())) for found in members.glob("*")
    )


def recorded_facts(trainer: Trainer, loaded: list[str] | None) -> dict[str, Any]:
    """What config.yaml notes besides the settings: enough to reproduce the run, nothing that identifies a person or machine."""
    from importlib.metadata import version

    store = trainer.store
    dealt = {"folds_dealt_by": FOLDS_DEALT_BY} if trainer.config.folds else {}
    return {
        **dealt,
        "store": {
            "name": store.path.name,
            "content_sha256": store.content_sha256,
            "sample_rate_hz": store.sample_rate_hz,
            "n_samples": store.n_samples,
        },
        "device": torch.cuda.get_device_name()
        if trainer.device == "cuda"
        else f"cpu ({torch.backends.cpu.get_cpu_capability()})",
        "amp": trainer.amp,
        "class_weights": None
        if trainer.class_weights is None
        else [float(w) for w in trainer.class_weights],
        "model": {"parameters": count_parameters(trainer.model), "macs": _macs(trainer)},
        "tensors_loaded": loaded,
        "processes": trainer.ranks.world,
        "records": {split: len(rows) for split, rows in trainer.rows.items()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "zarr")},
        },
    }
