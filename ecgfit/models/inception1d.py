"""inception1d: several kernel lengths side by side, at full rate.

InceptionTime (Ismail Fawaz et al. 2020, "InceptionTime: Finding AlexNet for time series
classification") with the dense head of Strodthoff et al. 2020 ("Deep learning for ECG analysis").
A module looks at the same 32 channels through three kernels, which span 78, 38 and 18 ms at 500 Hz,
so that waves of different widths meet filters of their own.

Nothing is strided, so this is the most expensive network here (2.35 GMAC a recording): training
takes hours on two cores. It is kept for comparison with published results, and for GPUs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgfit.models.network import (
    BatchNorm,
    EcgNetwork,
    dense_head,
    mean_and_max,
    scaled,
)


class Inception(nn.Module):
    """Three convolutions behind a bottleneck, and a maximum.

    Maps (B, c_in, n) to (B, 4 * filters, n).
    """

    def __init__(self, c_in: int, filters: int, kernel: int) -> None:
        super().__init__()
        self.bottleneck = nn.Conv1d(c_in, filters, 1, bias=False)
        self.convs = nn.ModuleList()
        for length in (kernel, kernel // 2, kernel // 4):
            odd = length - 1 + length % 2
            conv = nn.Conv1d(filters, filters, odd, padding=odd // 2, bias=False)
            self.convs.append(conv)
        self.pooled = nn.Conv1d(c_in, filters, 1, bias=False)
        self.norm = BatchNorm(4 * filters)

    def forward(self, x: Tensor) -> Tensor:
        """Join the branches and normalise."""
        narrow = self.bottleneck(x)
        branches = [conv(narrow) for conv in self.convs]
        branches.append(self.pooled(F.max_pool1d(x, 3, 1, 1)))
        return F.relu(self.norm(torch.cat(branches, dim=1)))


class Unit(nn.Module):
    """Three inception modules and a shortcut around them: (B, c_in, n) -> (B, 4 * filters, n)."""

    def __init__(self, c_in: int, filters: int, kernel: int) -> None:
        super().__init__()
        c_out = 4 * filters
        self.inceptions = nn.Sequential(
            Inception(c_in, filters, kernel),
            Inception(c_out, filters, kernel),
            Inception(c_out, filters, kernel),
        )
        self.shortcut = nn.Sequential(nn.Conv1d(c_in, c_out, 1, bias=False), BatchNorm(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut."""
        return F.relu(self.inceptions(x) + self.shortcut(x))


class Inception1d(EcgNetwork):
    """Units of three modules, dense head: (B, channels, L) -> logits (B, 2)."""

    def __init__(
        self,
        n_channels: int,
        n_extra: int = 0,
        width: float = 1,
        depth: int = 6,
        kernel: int = 39,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        filters = scaled(32, width)
        self.units = nn.Sequential(Unit(n_channels, filters, kernel))
        for _ in range(depth // 3 - 1):
            self.units.append(Unit(4 * filters, filters, kernel))
        self.n_features = 8 * filters
        self.n_extra = n_extra
        self.head = dense_head(self.n_features + n_extra, dropout)

    def features(self, x: Tensor) -> Tensor:
        """Return the mean and maximum over time of the last unit."""
        return mean_and_max(self.units(x))

    def depth_groups(self) -> list[list[nn.Module]]:
        """Return each unit, then the head: there is no stem."""
        units: list[list[nn.Module]] = [[unit] for unit in self.units]
        return [*units, [self.head]]


def inception1d(n_channels: int, n_extra: int = 0, **args: float) -> EcgNetwork:
    """Build inception1d: 0.51 M parameters and 2.35 GMAC at 8 x 5000."""
    return Inception1d(n_channels, n_extra, **args)  # type: ignore[arg-type]  # see arguments.py
