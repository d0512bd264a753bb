"""A small residual 1D-CNN: the default model, made for a few thousand recordings and two cores.

At 500 Hz most of the cost of a CNN lies in its first layers, while an ECG holds little above 40 Hz: the input is averaged down to 100 Hz first.
Slow drift of the baseline is taken off next, which is worth more than any augmentation against it. Each lead then has filters of its own
before leads are mixed: the same waveform means another thing in another lead, and a small cohort cannot teach that to filters that see all
leads at once (docs/experiments.md has the figures). Blocks are those of He et al. 2016 ("Deep residual learning") with kernels of 7; the
shortcut averages before its 1x1 convolution (He et al. 2019, "Bag of tricks"); the head joins mean and maximum over time.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ecgfit.models.network import WIDTH, Arg, EcgNetwork, mean_and_max, scaled

N_LEADS = 8
"""Channels that are leads; a ninth, where there is one, is the mask."""
DECIMATION = 5
"""500 Hz -> 100 Hz."""
BASELINE_SAMPLES = 61
"""Length at 100 Hz of the moving average that is taken twice as the baseline: what is left is down 3 dB at 0.9 Hz, 20 dB at 0.4 Hz."""
FILTERS_PER_LEAD = 8
WIDTHS = (32, 48, 64)
"""Channels of each block; each halves the rate: 50, 25, 12.5 Hz. Four times the parameters were not better on 1,400 recordings."""
HEAD_DROPOUT = 0.5
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


class PerLeadConv(nn.Conv1d):
    """A grouped convolution with a group for each channel, computed as a dense one whose other weights are 0.

    For PyTorch's CPU kernels the gradient of so small groups costs ten times that of the dense convolution.
    """

    diagonal: torch.Tensor

    def __init__(self, n_channels: int, filters: int, kernel: int) -> None:
        super().__init__(n_channels, filters * n_channels, kernel, padding=kernel // 2, groups=n_channels, bias=False)
        self.register_buffer("diagonal", torch.eye(n_channels)[:, None, :, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.view(self.groups, -1, 1, self.kernel_size[0]) * self.diagonal
        return F.conv1d(x, weight.view(self.out_channels, self.in_channels, -1), padding=self.padding)


class Stem(nn.Module):
    """From (B, channels, L) at 500 Hz to (B, c_out, L // 5): decimation, baseline removal, filters per lead, mixing of leads."""

    def __init__(self, n_channels: int, c_out: int) -> None:
        super().__init__()
        self.decimate = nn.AvgPool1d(DECIMATION)
        self.smooth = nn.AvgPool1d(BASELINE_SAMPLES, 1, BASELINE_SAMPLES // 2, count_include_pad=False)
        each = FILTERS_PER_LEAD * n_channels
        self.per_lead = nn.Sequential(PerLeadConv(n_channels, FILTERS_PER_LEAD, 9), nn.BatchNorm1d(each), nn.ReLU())
        self.mix = nn.Sequential(nn.Conv1d(each, c_out, 1, bias=False), nn.BatchNorm1d(c_out), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.decimate(x)
        leads, mask = x[:, :N_LEADS], x[:, N_LEADS:]
        leads = leads - self.smooth(self.smooth(leads))
        mixed: torch.Tensor = self.mix(self.per_lead(torch.cat([leads, mask], dim=1)))
        return mixed


class ResNet1d(EcgNetwork):
    """Decimation, stem, residual blocks, head: (B, channels, L) -> logits (B, 2)."""

    def __init__(self, n_channels: int, n_extra: int = 0, width: float = 1, depth: int = 1, kernel: int = 7, dropout: float = 0.1) -> None:
        super().__init__()
        widths = [scaled(channels, width) for channels in WIDTHS]
        self.stem = Stem(n_channels, widths[0])
        self.blocks = nn.Sequential()
        for c_in, c_out in zip([widths[0], *widths], widths, strict=False):
            self.blocks.append(Block(c_in, c_out, kernel, dropout))
            self.blocks.extend(Block(c_out, c_out, kernel, dropout, stride=1) for _ in range(depth - 1))
        self.n_features, self.n_extra = 2 * widths[-1], n_extra
        self.head = nn.Sequential(nn.Dropout(HEAD_DROPOUT), nn.Linear(self.n_features + n_extra, 2))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean and maximum over time of the last block."""
        return mean_and_max(self.blocks(self.stem(x)))

    def depth_groups(self) -> list[list[nn.Module]]:
        """Return the stem, each block, the head."""
        return [[self.stem], *([block] for block in self.blocks), [self.head]]


def resnet1d(n_channels: int, n_extra: int = 0, **args: float) -> EcgNetwork:
    """The default network: 0.10 M parameters and 0.023 GMAC at 8 x 5000."""
    return ResNet1d(n_channels, n_extra, **args)  # type: ignore[arg-type]  # checked against ARGS
