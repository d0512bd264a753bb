"""Networks by name. Each maps float32 (B, channels, L) to logits (B, 2), and stands in a file of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ecgfit.models.resnet1d import resnet1d

MODELS: dict[str, Callable[[int], nn.Module]] = {"resnet1d": resnet1d}
"""Name -> function of the number of input channels (8, or 9 with the mask channel)."""


def build_model(name: str, n_channels: int, seed: int) -> nn.Module:
    """Build a network whose initial weights depend on `seed` alone. Raises KeyError for an unknown name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](n_channels)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_macs(model: nn.Module, n_channels: int, n_samples: int) -> int:
    """Multiply-accumulates of convolutions and linear layers for one recording of (n_channels, n_samples)."""
    total = 0

    def add(module: nn.Module, _: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv1d):
            total += output.numel() * module.in_channels // module.groups * module.kernel_size[0]
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    hooks = [module.register_forward_hook(add) for module in model.modules() if isinstance(module, nn.Conv1d | nn.Linear)]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, n_channels, n_samples, device=next(model.parameters()).device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return total
