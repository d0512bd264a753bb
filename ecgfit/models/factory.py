"""Networks by name. Each maps float32 (B, channels, L) to logits (B, 2), in a file of its own.

Whatever is built here is called as `model(x, tabular)`; `tabular` is None, or (B, 2K) for a model
that was built with covariates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from ecgfit.models import inception1d as inception
from ecgfit.models import resnet1d as resnet
from ecgfit.models import xresnet1d as xresnet
from ecgfit.models.arguments import check_model_args
from ecgfit.models.network import EcgNetwork, Network
from ecgfit.models.tabular import LateFusion, TabularBranch, TabularNet

__all__ = [
    "MODELS",
    "EcgNetwork",
    "Network",
    "build_model",
    "count_macs",
    "count_parameters",
]


MODELS: dict[str, Callable[..., EcgNetwork]] = {
    "resnet1d": resnet.resnet1d,
    "xresnet1d18": xresnet.xresnet1d18,
    "xresnet1d34": xresnet.xresnet1d34,
    "xresnet1d50": xresnet.xresnet1d50,
    "xresnet1d101": xresnet.xresnet1d101,
    "inception1d": inception.inception1d,
}
"""Name -> function that builds the network.

It takes the number of input channels (8, or 9 with the mask channel), the width of the tabular
branch, and the network's own arguments.
"""

BRANCH_WIDTH = 16
"""Features that a tabular branch hands to the head of an ECG network."""


def build_model(
    name: str,
    n_channels: int,
    seed: int,
    n_tabular: int = 0,
    *,
    ecg: bool = True,
    model_args: Mapping[str, float] | None = None,
) -> Network:
    """Build a network whose initial weights depend on `seed` alone.

    `n_tabular` covariates (so `tabular` is (B, 2 * n_tabular)) join by late fusion or, with `ecg`
    False, stand alone. The encoder's first weights are the same with and without them.

    Raises KeyError for an unknown name, and ValueError for `model_args` that the network does not
    take or for a model of neither ECG nor covariates.
    """
    args = check_model_args(name, model_args or {})
    if not ecg and n_tabular == 0:
        raise ValueError(
            "Without the ECG a model needs covariates: `n_tabular` (=0) must be at least 1."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if n_tabular == 0:
            return MODELS[name](n_channels, **args)
        if not ecg:
            return TabularNet(TabularBranch(n_tabular))
        encoder = MODELS[name](n_channels, BRANCH_WIDTH, **args)
        return LateFusion(encoder, TabularBranch(n_tabular, n_out=BRANCH_WIDTH))


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_macs(model: nn.Module, n_channels: int, n_samples: int, n_tabular: int = 0) -> int:
    """Return the multiply-accumulates of convolutions and linear layers for one recording.

    The recording is (n_channels, n_samples), with `n_tabular` covariates.
    """
    total = 0

    def add(module: nn.Module, _: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv1d):
            total += output.numel() * (module.in_channels // module.groups) * module.kernel_size[0]
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    device = next(model.parameters()).device
    inputs = [torch.zeros(1, n_channels, n_samples, device=device)]
    if n_tabular:
        inputs.append(torch.zeros(1, 2 * n_tabular, device=device))
    hooks = [
        module.register_forward_hook(add)
        for module in model.modules()
        if isinstance(module, nn.Conv1d | nn.Linear)
    ]
    # Each module has its own mode: frozen parts are in eval mode during training.
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(*inputs)
    finally:
        for module, mode in training.items():
            module.training = mode
        for hook in hooks:
            hook.remove()
    return total
