"""What all networks share: the calls that training relies on, and a few layers.

Every network is called as `network(x, tabular)` with float32 (B, channels, L) and None or (B, 2K),
and returns float32 logits (B, 2). An ECG network is `features` followed by `head`. Covariates join
between the two as `n_extra` more inputs of the head (late fusion).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module, ABC):
    """Anything that maps (x, tabular) to logits (B, 2)."""

    @abstractmethod
    def depth_groups(self) -> list[list[nn.Module]]:
        """Return the modules from input to head.

        Together they hold every parameter once; the last group is the head.
        """


class EcgNetwork(Network):
    """Features of a waveform and a head on them.

    Maps (B, channels, L) and None or (B, n_extra) to logits (B, 2).
    """

    n_features: int
    n_extra: int
    head: nn.Module

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Return the pooled features, float32 (B, n_features)."""

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """Return float32 logits. Raises ValueError when `extra` is not (B, n_extra)."""
        width = 0 if extra is None else extra.shape[1]
        if width != self.n_extra:
            raise ValueError(
                f"`extra` has {width} features; the head was built for {self.n_extra}."
            )
        features = self.features(x)
        if extra is not None:
            features = torch.cat([features, extra.float()], dim=1)
        # Logits in bfloat16 would tie, and ties decide AUROC and AUPRC.
        with torch.autocast(x.device.type, enabled=False):
            logits: Tensor = self.head(features)
        return logits


def scaled(channels: int, width: float) -> int:
    """Return `channels` times `width` as a multiple of 8, which matrix units handle best."""
    return max(8, 8 * round(channels * width / 8))


MOST_OFFSET = 100
"""Largest ratio of a channel's squared mean to its variance for which the quick statistics hold.

Their relative error is that of float32 times this ratio.
"""


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d, equal up to rounding, whose training statistics cost a CPU a quarter.

    1.2 ms against PyTorch's 4.4 for 32 x 64 x 1000. PyTorch adds one number after the other in
    double precision. Here each row is summed in vectors, and only the sums of the rows in double.
    If a channel's mean is so far from 0 that the squares would cancel, PyTorch does the work.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, n) or (B, C) per channel; refuse to train on a single value."""
        statistics = self._quick_statistics(x)
        if statistics is None:
            return super().forward(x)
        mean, variance = statistics
        self._update_running_statistics(mean, variance, n=x.numel() // x.shape[1])
        normalised: Tensor = _Normalise.apply(
            x, self.weight, self.bias, mean.float(), variance.float(), self.eps
        )  # type: ignore[no-untyped-call]
        return normalised

    @torch.no_grad()
    def _quick_statistics(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return mean and variance (C,) in double precision, or None to leave it to PyTorch."""
        n = x.numel() // x.shape[1]
        is_elsewhere = x.device.type != "cpu" or x.dtype == torch.float64
        if is_elsewhere or not self.training or self.momentum is None or n < 2:
            return None
        rows = x if x.ndim == 3 else x.unsqueeze(2)
        mean = rows.sum(2, dtype=torch.float32).double().sum(0) / n
        norm = torch.linalg.vector_norm(rows, dim=2, dtype=torch.float32)
        square = norm.double().square().sum(0) / n
        variance = (square - mean.square()).clamp(min=0)
        is_far_from_zero = mean.square() > MOST_OFFSET * variance
        return None if bool(is_far_from_zero.any()) else (mean, variance)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, n: int) -> None:
        assert self.num_batches_tracked is not None  # these three: statistics are tracked
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.float(), self.momentum)
        unbiased = variance * (n / (n - 1))
        self.running_var.lerp_(unbiased.float(), self.momentum)


class _Normalise(torch.autograd.Function):
    """PyTorch's normalisation by given statistics, with the gradient for statistics of `x`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps))
        ctx.eps = eps
        return torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, eps, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, mean, inverse_std = ctx.saved_tensors
        running_mean = running_variance = None
        is_training = True
        of_x_weight_bias = torch.ops.aten.native_batch_norm_backward(
            gradient,
            x,
            weight,
            running_mean,
            running_variance,
            mean,
            inverse_std,
            is_training,
            ctx.eps,
            ctx.needs_input_grad[:3],
        )
        return (*of_x_weight_bias, None, None, None)


class PointwiseConv(nn.Conv1d):
    """A convolution of length 1 without bias, as the matrix product that it is.

    It takes 0.7 of the time of PyTorch's convolution on a CPU.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, n) -> (B, c_out, n)."""
        if x.device.type != "cpu":
            return super().forward(x)
        n_records = x.shape[0]  # not len(x), which an export would take for a constant
        return torch.bmm(self.weight[:, :, 0].expand(n_records, -1, -1), x)


class GroupMean(nn.Module):
    """The means of successive groups of `size` samples: AvgPool1d in a third of its time on a CPU.

    Maps (B, C, n) to (B, C, n / size). With `rest` a last, shorter group has its mean too, and
    n / size is rounded up; otherwise down.
    """

    def __init__(self, size: int, *, rest: bool) -> None:
        super().__init__()
        self.size, self.rest = size, rest

    def forward(self, x: Tensor) -> Tensor:
        """Average over groups of time."""
        if x.device.type != "cpu":
            return F.avg_pool1d(x, self.size, ceil_mode=self.rest, count_include_pad=False)
        whole = x.shape[2] // self.size * self.size
        parts = (x[:, :, i : whole : self.size] for i in range(self.size))
        means = reduce(torch.add, parts) / self.size
        if self.rest and whole < x.shape[2]:
            last = x[:, :, whole:].mean(dim=2, keepdim=True)
            return torch.cat([means, last], dim=2)
        return means


class Dropout(nn.Dropout):
    """Dropout whose random numbers cost a CPU 0.4 of PyTorch's.

    They have 16 bits, so the probability is rounded to a multiple of 1 / 65,536.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop and scale as PyTorch does."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        four_each = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        drawn = four_each.view(torch.int16)[: x.numel()].view_as(x)
        kept = drawn >= round(self.p * 2**16) - 2**15
        return x * kept.to(x.dtype).mul_(1 / (1 - self.p))


def mean_and_max(h: Tensor) -> Tensor:
    """Pool over time: (B, F, n) -> float32 (B, 2F), means, then maxima.

    `amax` rather than adaptive max pooling, whose gradient on a GPU deterministic mode refuses.
    """
    return torch.cat([h.mean(dim=2), h.amax(dim=2)], dim=1).float()


def dense_head(n_in: int, dropout: float, hidden: int = 128) -> nn.Sequential:
    """Two linear layers with batch normalisation: (B, n_in) -> (B, 2).

    Half the dropout comes before the first, as in fastai's `create_head` (Howard & Gugger 2020).
    """
    return nn.Sequential(
        nn.BatchNorm1d(n_in),
        nn.Dropout(dropout / 2),
        nn.Linear(n_in, hidden),
        nn.ReLU(),
        nn.BatchNorm1d(hidden),
        nn.Dropout(dropout),
        nn.Linear(hidden, 2),
    )
