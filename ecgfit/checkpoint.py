"""Weights in and out: checkpoints, safetensors. Nothing that is read can run code."""

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
from ecgprep.errors import EcgError, StoreError
from ecgprep.files.atomic import write_file


def save_checkpoint(path: Path, value: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all; through memory, since torch puts the name of a file into the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_file(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it can run code. Raises StoreError."""
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - the one place
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
    """Read the weights of a run (of an ensemble, those of the member of this name or the first), a .pt or a .safetensors file."""
    if not path.exists():
        raise StoreError(f"init_from {path}: there is no such run folder or file of weights.")
    if path.is_dir():
        members = [path / MEMBERS / member, *sorted(path.glob(f"{MEMBERS}/*"))]
        path = next(
            (found / BEST for found in (path, *members) if (found / BEST).is_file()), path / BEST
        )
    if path.suffix == ".safetensors":
        from ecgfit.checkpoint import read_safetensors

        return read_safetensors(path)
    try:
        value = load_checkpoint(path)
    except StoreError:
        raise StoreError(
            f"init_from {path}: no weights, or damaged ones. Give a run folder, a .pt of tensors by name, or .safetensors."
        ) from None
    state = value.get("model", value)
    if not isinstance(state, dict) or not all(
        isinstance(tensor, Tensor) for tensor in state.values()
    ):
        raise StoreError(f"{path} does not hold the weights of a network.")
    return state


FORMAT = "ecgfit 1"


_MEMBER = "member."


def require(*packages: str) -> None:
    """Raise EcgError naming the extra when a package is not installed."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        raise EcgError(
            f"This needs the extra `export` ({', '.join(absent)} not found): pip install 'ecgprep-ecgfit[fit,export]'."
        )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the weights of a safetensors file by the names that a network gives them; of a file of ours, the first member's.

    Raises StoreError when the file is missing or damaged, EcgError where the extra is not installed.
    """
    require("safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118  # not a dict
            }  # not a dict
        if metadata.get("format") != FORMAT:
            return tensors
        prefix = f"{_MEMBER}{json.loads(metadata['members'])[0]}."
    except (OSError, SafetensorError, ValueError, KeyError, IndexError, TypeError):
        raise StoreError(f"{path} is missing, or not a safetensors file, or damaged.") from None
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
