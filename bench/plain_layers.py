"""The networks written with PyTorch's own layers, which ecgfit's layers must equal.

They are also what ecgfit's speed is measured against.
"""

from __future__ import annotations

import copy

from torch import nn

from ecgfit.models.network import BatchNorm, Dropout, GroupMean
from ecgfit.models.resnet1d import MovingAverage


def plain(network: nn.Module) -> nn.Module:
    """Return a copy of a network, with the same weights, whose layers are all PyTorch's."""
    network = copy.deepcopy(network)
    for name, child in network.named_children():
        setattr(network, name, plain_layer(child) or plain(child))
    return network


def plain_layer(layer: nn.Module) -> nn.Module | None:
    """Return PyTorch's form of one of ecgfit's layers, None for any other module."""
    made: nn.Module
    if isinstance(layer, GroupMean):
        return nn.AvgPool1d(layer.size, ceil_mode=layer.rest, count_include_pad=False)
    if isinstance(layer, MovingAverage):
        return nn.AvgPool1d(layer.width, 1, layer.width // 2, count_include_pad=False)
    if isinstance(layer, Dropout):
        return nn.Dropout(layer.p).train(layer.training)
    if isinstance(layer, nn.Conv1d) and type(layer) is not nn.Conv1d:
        assert isinstance(layer.padding, tuple)
        made = nn.Conv1d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size[0],
            padding=layer.padding[0],
            groups=layer.groups,
            bias=False,
        )
    elif isinstance(layer, BatchNorm):
        made = nn.BatchNorm1d(layer.num_features)
    else:
        return None
    made.load_state_dict(layer.state_dict())
    return made.train(layer.training)
