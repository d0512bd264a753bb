"""A small residual 1D-CNN: the default model, made for a few thousand recordings and two cores.

At 500 Hz most of the cost of a CNN lies in its first layers, while an ECG holds little above 40 Hz. So the input is averaged down
to 100 Hz first, as coarse a low-pass as a small cohort needs, and convolutions of 90 ms and then 70 ms and more follow. Blocks are those of
He et al. 2016 ("Deep residual learning") with kernels of 7; the shortcut averages before its 1x1 convolution (He et al. 2019, "Bag of
tricks"); the head joins mean and maximum over time.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ecgfit.models.network import WIDTH, Arg, EcgNetwork, mean_and_max, scaled

DECIMATION = 5
"""500 Hz -> 100 Hz."""
WIDTHS = (32, 48, 64)
"""Channels of each block; each halves the rate: 50, 25, 12.5 Hz. Four times the parameters were not better on 1,400 recordings."""
ARGS = {
    "width": WIDTH,
    "depth": Arg(1, 1, 4, 1, "blocks of each stage; the first halves the rate"),
    "kernel": Arg(7, 3, 31, 2, "samples of the blocks' convolutions"),
    "dropout": Arg(0.1, 0, 0.9, None, "between the convolutions of a block"),
}


class Block(nn.Module):
    """Two convolutions and a shortcut: (B, c_in, n) -> (B, c_out, ceil(n / stride))."""

    def __init__(self, c_in: int, c_out: int, kernel: int, dropout: float, stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.norm1 = nn.BatchNorm1d(c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv1d(c_out, c_out, kernel, 1, kernel // 2, bias=False)
        self.norm2 = nn.BatchNorm1d(c_out)
        nn.init.zeros_(self.norm2.weight)  # each block starts as its shortcut, which steadies the first epochs
        project = [nn.Conv1d(c_in, c_out, 1, bias=False), nn.BatchNorm1d(c_out)] if c_in != c_out else []
        pool = [nn.AvgPool1d(2, ceil_mode=True, count_include_pad=False)] if stride == 2 else []
        self.shortcut = nn.Sequential(*pool, *project)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.dropout(F.relu(self.norm1(self.conv1(x))))
        return F.relu(self.norm2(self.conv2(h)) + self.shortcut(x))


class ResNet1d(EcgNetwork):
    """Decimation, stem, residual blocks, head: (B, channels, L) -> logits (B, 2)."""

    def __init__(self, n_channels: int, n_extra: int = 0, width: float = 1, depth: int = 1, kernel: int = 7, dropout: float = 0.1) -> None:
        super().__init__()
        widths = [scaled(channels, width) for channels in WIDTHS]
        first = widths[0]
        self.stem = nn.Sequential(nn.AvgPool1d(DECIMATION), nn.Conv1d(n_channels, first, 9, 1, 4, bias=False), nn.BatchNorm1d(first), nn.ReLU())
        self.blocks = nn.Sequential()
        for c_in, c_out in zip([first, *widths], widths, strict=False):
            self.blocks.append(Block(c_in, c_out, kernel, dropout))
            self.blocks.extend(Block(c_out, c_out, kernel, dropout, stride=1) for _ in range(depth - 1))
        self.n_features, self.n_extra = 2 * widths[-1], n_extra
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(self.n_features + n_extra, 2))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean and maximum over time of the last block."""
        return mean_and_max(self.blocks(self.stem(x)))

    def depth_groups(self) -> list[list[nn.Module]]:
        """Return the stem, each block, the head."""
        return [[self.stem], *([block] for block in self.blocks), [self.head]]


def resnet1d(n_channels: int, n_extra: int = 0, **args: float) -> EcgNetwork:
    """The default network: 0.10 M parameters and 0.023 GMAC at 8 x 5000."""
    return ResNet1d(n_channels, n_extra, **args)  # type: ignore[arg-type]  # checked against ARGS
