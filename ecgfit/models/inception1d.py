"""inception1d: several kernel lengths side by side, at full rate.

InceptionTime (Ismail Fawaz et al. 2020) with the dense head of Strodthoff et al. 2020. A module looks at the same 32 channels through three
kernels, at 500 Hz 78, 38 and 18 ms, so waves of different widths meet filters of their own. Nothing is strided: of all networks here it
costs most (2.35 GMAC a recording), hours on two cores. For comparison with published results, or a GPU.
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
    """Three convolutions behind a bottleneck, and a maximum: (B, c_in, n) -> (B, 4 * filters, n)."""

    def __init__(self, c_in: int, filters: int, kernel: int) -> None:
        super().__init__()
        self.bottleneck = nn.Conv1d(c_in, filters, 1, bias=False)
        kernels = (length - 1 + length % 2 for length in (kernel, kernel // 2, kernel // 4))
        self.convs = nn.ModuleList(
            nn.Conv1d(filters, filters, length, padding=length // 2, bias=False)
            for length in kernels
        )
        self.pooled = nn.Conv1d(c_in, filters, 1, bias=False)
        self.norm = BatchNorm(4 * filters)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.bottleneck(x)
        branches = [*(conv(narrow) for conv in self.convs), self.pooled(F.max_pool1d(x, 3, 1, 1))]
        return F.relu(self.norm(torch.cat(branches, dim=1)))


class Unit(nn.Module):
    """Three inception modules and a shortcut around them: (B, c_in, n) -> (B, 4 * filters, n)."""

    def __init__(self, c_in: int, filters: int, kernel: int) -> None:
        super().__init__()
        c_out = 4 * filters
        self.inceptions = nn.Sequential(
            *(Inception(c_in if i == 0 else c_out, filters, kernel) for i in range(3))
        )
        self.shortcut = nn.Sequential(nn.Conv1d(c_in, c_out, 1, bias=False), BatchNorm(c_out))

    def forward(self, x: Tensor) -> Tensor:
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
        self.units = nn.Sequential(
            *(
                Unit(n_channels if i == 0 else 4 * filters, filters, kernel)
                for i in range(depth // 3)
            )
        )
        self.n_features, self.n_extra = 8 * filters, n_extra
        self.head = dense_head(self.n_features + n_extra, dropout)

    def features(self, x: Tensor) -> Tensor:
        """Return the mean and maximum over time of the last unit."""
        return mean_and_max(self.units(x))

    def depth_groups(self) -> list[list[nn.Module]]:
        """Return each unit, the head: there is no stem."""
        return [*([unit] for unit in self.units), [self.head]]


def inception1d(n_channels: int, n_extra: int = 0, **args: float) -> EcgNetwork:
    """0.51 M parameters and 2.35 GMAC at 8 x 5000."""
    return Inception1d(n_channels, n_extra, **args)  # type: ignore[arg-type]  # checked: check_model_args
