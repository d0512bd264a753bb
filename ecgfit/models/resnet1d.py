"""A small residual 1D-CNN: the default model, made for a few thousand recordings and two cores.

At 500 Hz most of the cost of a CNN is in its first layers, but an ECG holds little above 40 Hz.
So the input is averaged down to 100 Hz first. Slow drift of the baseline is removed next, which is
worth more than any augmentation against it. Each lead then has filters of its own before leads are
mixed: the same waveform means different things in different leads, and a small cohort cannot teach
that to filters that see all leads at once (docs/experiments.md has the figures).

Blocks are those of He et al. 2016 ("Deep residual learning for image recognition") with kernels of
7. The shortcut averages before its 1x1 convolution (He et al. 2019, "Bag of tricks for image
classification with convolutional neural networks"). The head joins mean and maximum over time.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ecgfit.models.network import (
    BatchNorm,
    Dropout,
    EcgNetwork,
    GroupMean,
    PointwiseConv,
    mean_and_max,
    scaled,
)

N_LEADS = 8
"""Channels that are leads; a ninth, where there is one, is the mask."""
DECIMATION = 5
"""500 Hz -> 100 Hz."""
BASELINE_SAMPLES = 61
"""Length at 100 Hz of the moving average which, applied twice, gives the baseline.

What is left is down 3 dB at 0.9 Hz and 20 dB at 0.4 Hz.
"""
FILTERS_PER_LEAD = 8
WIDTHS = (32, 48, 64)
"""Channels of each block; each halves the rate: 50, 25, 12.5 Hz.

Four times the parameters were no better on 1,400 recordings.
"""
HEAD_DROPOUT = 0.5


class Block(nn.Module):
    """Two convolutions and a shortcut: (B, c_in, n) -> (B, c_out, ceil(n / stride))."""

    def __init__(self, c_in: int, c_out: int, kernel: int, dropout: float, stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.norm1 = BatchNorm(c_out)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv1d(c_out, c_out, kernel, 1, kernel // 2, bias=False)
        self.norm2 = BatchNorm(c_out)
        # Each block starts as its shortcut, which steadies the first epochs.
        nn.init.zeros_(self.norm2.weight)
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut.append(GroupMean(2, rest=True))
        if c_in != c_out:
            self.shortcut.extend([PointwiseConv(c_in, c_out), BatchNorm(c_out)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the shortcut to two convolutions."""
        h = self.dropout(F.relu(self.norm1(self.conv1(x)), inplace=True))
        return F.relu(self.norm2(self.conv2(h)).add_(self.shortcut(x)), inplace=True)


class PerLeadConv(nn.Conv1d):
    """A convolution with separate filters for each channel: (B, C, n) -> (B, C * filters, n).

    It is one small matrix product per channel. PyTorch's grouped convolution takes 1.3 times as
    long on a CPU, and ten times as long where the input needs a gradient.
    """

    def __init__(self, n_channels: int, filters: int, kernel: int) -> None:
        super().__init__(
            n_channels,
            filters * n_channels,
            kernel,
            padding=kernel // 2,
            groups=n_channels,
            bias=False,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply each channel's windows with its filters."""
        if x.device.type != "cpu":
            return super().forward(x)
        n, kernel = x.shape[2], self.kernel_size[0]
        padded = F.pad(x, (kernel // 2, kernel // 2))
        windows = torch.stack([padded[:, :, i : i + n] for i in range(kernel)], dim=2)
        return torch.matmul(self.weight.view(self.groups, -1, kernel), windows).flatten(1, 2)


class MovingAverage(nn.Module):
    """The mean of `width` neighbours, of fewer at the ends: (B, C, n) -> (B, C, n).

    Sums of 2, 4, 8, … neighbours are made from each other and add up to the width. That takes a
    tenth of the time of AvgPool1d, which adds all of them again for each sample.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Average over neighbours."""
        n, half = x.shape[2], self.width // 2
        if x.device.type != "cpu":
            return F.avg_pool1d(x, self.width, 1, half, count_include_pad=False)
        at = torch.arange(n, device=x.device)
        count = (at + half + 1).clamp(max=n) - (at - half).clamp(min=0)
        return moving_sum(F.pad(x, (half, half)), self.width) / count


def moving_sum(x: torch.Tensor, width: int) -> torch.Tensor:
    """Return the sums of `width` neighbours: (…, n) -> (…, n - width + 1)."""
    n = x.shape[-1] - width + 1
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    start = 0
    sums, size = x, 1  # sums[i] is that of `size` neighbours from i on
    while size <= width:
        if width & size:
            total = total + sums[..., start : start + n]
            start += size
        sums = sums[..., :-size] + sums[..., size:]
        size *= 2
    return total


class Stem(nn.Module):
    """Decimation, baseline removal, filters per lead, mixing of leads.

    Maps (B, channels, L) at 500 Hz to (B, c_out, L // 5) at 100 Hz.
    """

    def __init__(self, n_channels: int, c_out: int) -> None:
        super().__init__()
        self.decimate = GroupMean(DECIMATION, rest=False)
        self.smooth = MovingAverage(BASELINE_SAMPLES)
        each = FILTERS_PER_LEAD * n_channels
        self.per_lead = nn.Sequential(
            PerLeadConv(n_channels, FILTERS_PER_LEAD, 9), BatchNorm(each), nn.ReLU(inplace=True)
        )
        self.mix = nn.Sequential(
            PointwiseConv(each, c_out), BatchNorm(c_out), nn.ReLU(inplace=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Remove the baseline of the leads, but not of the mask channel."""
        x = self.decimate(x)
        leads, mask = x[:, :N_LEADS], x[:, N_LEADS:]
        leads = leads - self.smooth(self.smooth(leads))
        mixed: torch.Tensor = self.mix(self.per_lead(torch.cat([leads, mask], dim=1)))
        return mixed


class ResNet1d(EcgNetwork):
    """Decimation, stem, residual blocks, head: (B, channels, L) -> logits (B, 2)."""

    def __init__(
        self,
        n_channels: int,
        n_extra: int = 0,
        width: float = 1,
        depth: int = 1,
        kernel: int = 7,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        widths = [scaled(channels, width) for channels in WIDTHS]
        self.stem = Stem(n_channels, widths[0])
        self.blocks = nn.Sequential()
        c_in = widths[0]
        for c_out in widths:
            self.blocks.append(Block(c_in, c_out, kernel, dropout))
            for _ in range(depth - 1):
                self.blocks.append(Block(c_out, c_out, kernel, dropout, stride=1))
            c_in = c_out
        self.n_features = 2 * widths[-1]
        self.n_extra = n_extra
        self.head = nn.Sequential(nn.Dropout(HEAD_DROPOUT), nn.Linear(self.n_features + n_extra, 2))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean and maximum over time of the last block."""
        return mean_and_max(self.blocks(self.stem(x)))

    def depth_groups(self) -> list[list[nn.Module]]:
        """Return the stem, each block, the head."""
        blocks: list[list[nn.Module]] = [[block] for block in self.blocks]
        return [[self.stem], *blocks, [self.head]]


def resnet1d(n_channels: int, n_extra: int = 0, **args: float) -> EcgNetwork:
    """Build the default network: 0.10 M parameters and 0.024 GMAC at 8 x 5000."""
    return ResNet1d(n_channels, n_extra, **args)  # type: ignore[arg-type]  # see arguments.py
