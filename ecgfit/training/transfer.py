"""Transfer: start from other weights, train some of them, or train them at different rates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ecgfit.models.factory import Network


class Loaded(NamedTuple):
    """What `load_matching` did, by name."""

    loaded: list[str]
    """Tensors of the model that were set."""
    skipped: list[tuple[str, str]]
    """Tensors of the given state that were not used, each with the reason."""
    untouched: list[str]
    """Tensors of the model that keep their initial values."""


def load_matching(model: nn.Module, state: Mapping[str, Tensor]) -> Loaded:
    """Set every tensor of the model whose name and shape the state has, and list the rest.

    Names agree up to the prefix that late fusion gives its ECG network, so an encoder moves between
    models with and without covariates. A BatchNorm is set as a whole or not at all: its statistics
    mean nothing beside other weights. Raises ValueError when nothing fits; the model is then
    unchanged.
    """
    own = model.state_dict()
    sources = _sources_that_fit(own, state)
    for names in _batch_norms(model):
        if not sources.keys() >= names:
            for name in names:
                sources.pop(name, None)
    if not sources:
        raise ValueError(
            f"None of the {len(state)} tensors fits the model by name and shape: these are weights "
            "of another network."
        )
    with torch.no_grad():
        for name, source in sources.items():
            own[name].copy_(state[source])  # state_dict() shares memory with the model
    own_by_key = {_without_prefix(name): tensor for name, tensor in own.items()}
    used = set(sources.values())
    skipped = []
    for source, tensor in state.items():
        if source not in used:
            here = own_by_key.get(_without_prefix(source))
            skipped.append((source, _why_skipped(tensor, here)))
    untouched = [name for name in own if name not in sources]
    return Loaded(list(sources), skipped, untouched)


def _sources_that_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, by the name of a model's tensor, the name of one of its key and shape in `state`."""
    source_by_key = {_without_prefix(name): name for name in state}
    found = {}
    for name, tensor in own.items():
        source = source_by_key.get(_without_prefix(name))
        if source is not None and state[source].shape == tensor.shape:
            found[name] = source
    return found


def _without_prefix(name: str) -> str:
    return name.removeprefix("ecg.")


def _batch_norms(model: nn.Module) -> Iterator[set[str]]:
    """Yield the tensor names of each BatchNorm."""
    for prefix, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            parent = f"{prefix}." if prefix else ""
            yield set(module.state_dict(prefix=parent))


def _why_skipped(there: Tensor, here: Tensor | None) -> str:
    if here is None:
        return "not in the model"
    if there.shape != here.shape:
        return f"{tuple(there.shape)} there, {tuple(here.shape)} here"
    return "another tensor of its BatchNorm does not fit"


def freeze_backbone(model: Network) -> None:
    """Let only the last depth group, the head, be trained.

    Follow with `train_mode` instead of `model.train()`.
    """
    for group in model.depth_groups()[:-1]:
        for module in group:
            module.requires_grad_(False)


def train_mode(model: Network) -> None:
    """Put the model in train mode, but frozen parts in eval mode.

    Their running statistics stay as they are, and they drop nothing.
    """
    model.train()
    for group in model.depth_groups():
        for module in group:
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()


def parameter_groups(
    model: Network,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    *,
    decay_norm_and_bias: bool = True,
) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups from input to head, without what is frozen.

    A depth group that lies d below the head learns at lr * layer_decay ** d (ULMFiT, Howard & Ruder
    2018; BEiT, Bao et al. 2022). Early layers hold what all ECGs share and need to move least.
    `lr_factor` is that power, for a scheduler to set lr * its factor * lr_factor. Without
    `decay_norm_and_bias`, vectors (biases, gains of norms) are not decayed. Equal settings share a
    group, so layer_decay 1 gives a single one. Raises ValueError when everything is frozen.
    """
    settings: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    groups = model.depth_groups()
    for i, group in enumerate(groups):
        factor = layer_decay ** (len(groups) - 1 - i)
        for parameter in _trainable(group):
            is_decayed = decay_norm_and_bias or parameter.ndim > 1
            decay = weight_decay if is_decayed else 0.0
            settings[factor, decay].append(parameter)
    if not settings:
        raise ValueError("Every parameter is frozen: there is nothing to train.")
    return [
        {"params": found, "lr": lr * factor, "weight_decay": decay, "lr_factor": factor}
        for (factor, decay), found in settings.items()
    ]


def _trainable(modules: Iterable[nn.Module]) -> Iterator[nn.Parameter]:
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                yield parameter
