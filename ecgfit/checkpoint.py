"""Weights in and out: checkpoints and safetensors. Nothing that is read can run code."""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecgfit.run_files import BEST, MEMBERS
from ecgprep.errors import EcgError, StoreError, missing_extra
from ecgprep.files.atomic import write_file

FORMAT = "ecgfit 1"
"""`format` in the metadata of a safetensors file that `ecgfit export` wrote."""

MEMBER_PREFIX = "member."
"""Prefix of a member's tensors in such a file: member.NAME.TENSOR."""


def save_checkpoint(path: Path, value: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    It goes through memory, since torch puts the name of the file it writes into the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_file(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; nothing in it can run code. Raises StoreError."""
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - here only
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
        pickle.UnpicklingError,
    ):
        raise StoreError(f"{path} is missing or damaged. Train again.") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path} is not a checkpoint of ecgfit. Train again.")
    return value


def weights_of(path: Path, member: str) -> dict[str, Tensor]:
    """Read the weights of a run folder, or of a .pt or .safetensors file, by tensor name.

    An ensemble gives those of the member with this name, or of the first if there is none.
    Raises StoreError, and EcgError where safetensors is not installed.
    """
    if not path.exists():
        raise StoreError(f"init_from {path}: there is no such run folder or file of weights.")
    if path.is_dir():
        path = _best_of(path, member)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        value = load_checkpoint(path)
    except StoreError:
        raise StoreError(
            f"init_from {path}: no weights, or damaged ones. Give a run folder, a .pt of tensors "
            "by name, or .safetensors."
        ) from None
    state = value.get("model", value)
    is_state = isinstance(state, dict) and all(isinstance(t, Tensor) for t in state.values())
    if not is_state:
        raise StoreError(f"{path} does not hold the weights of a network.")
    return dict(state)


def _best_of(run: Path, member: str) -> Path:
    """Return the file of weights of a single run, else of the wanted member, else of the first."""
    members = sorted(run.glob(f"{MEMBERS}/*"))
    for folder in (run, run / MEMBERS / member, *members):
        if (folder / BEST).is_file():
            return folder / BEST
    return run / BEST


def require(*packages: str) -> None:
    """Raise EcgError naming the extra when a package that export needs is not installed."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        raise EcgError(missing_extra(", ".join(absent), "fit,export"))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the weights of a safetensors file by the names that a network gives them.

    A file that `ecgfit export` wrote gives those of its first member. Raises StoreError when the
    file is missing or damaged, and EcgError where safetensors is not installed.
    """
    require("safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            metadata = file.metadata() or {}
            names = list(file.keys())
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
        if metadata.get("format") != FORMAT:
            return tensors
        first = json.loads(metadata["members"])[0]
    except (OSError, SafetensorError, ValueError, KeyError, IndexError, TypeError):
        raise StoreError(f"{path} is missing, or not a safetensors file, or damaged.") from None
    prefix = f"{MEMBER_PREFIX}{first}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
