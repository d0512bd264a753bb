"""What all networks share: the calls that training relies on, the checked arguments, and a few layers.

Every network is called as `network(x, tabular)` with float32 (B, channels, L) and None or (B, 2K), and returns float32 logits (B, 2).
An ECG network is `features` and then `head`; covariates join between the two, by `n_extra` more inputs of the head (late fusion).
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
        """Return the modules from input to head; together they hold every parameter once, and the last group is the head."""


class EcgNetwork(Network):
    """Features of a waveform and a head on them: (B, channels, L) and None or (B, n_extra) -> logits (B, 2)."""

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
        pooled = self.features(x)
        with torch.autocast(
            x.device.type, enabled=False
        ):  # bfloat16 logits would tie, and ties decide AUROC and AUPRC
            logits: Tensor = self.head(
                pooled if extra is None else torch.cat([pooled, extra.float()], dim=1)
            )
        return logits


def scaled(channels: int, width: float) -> int:
    """Return `channels` times `width` as a multiple of 8, which matrix units like."""
    return max(8, 8 * round(channels * width / 8))


MOST_OFFSET = 100
"""A channel's squared mean over its variance at most, for the quick statistics: their relative error is so many times that of float32."""


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d, equal to rounding, whose training statistics cost a CPU a quarter of what PyTorch's do (1.2 ms for 4.4, at 32 x 64 x 1000).

    PyTorch adds one number after the other in double precision. Here each row is summed in vectors, and only the rows' sums in double. Where a
    channel's mean is so far from 0 that the squares would cancel, PyTorch does it.
    """

    def forward(self, x: Tensor) -> Tensor:
        n = x.numel() // x.shape[1]
        if (
            not self.training
            or x.device.type != "cpu"
            or self.momentum is None
            or n < 2
            or x.dtype == torch.float64
        ):
            return super().forward(x)  # which refuses to train on one value
        rows = x if x.ndim == 3 else x.unsqueeze(2)
        with torch.no_grad():
            mean = rows.sum(2, dtype=torch.float32).double().sum(0) / n
            square = (
                torch.linalg.vector_norm(rows, dim=2, dtype=torch.float32).double().square().sum(0)
                / n
            )
            variance = (square - mean.square()).clamp(min=0)
            if bool((mean.square() > MOST_OFFSET * variance).any()):
                return super().forward(x)
            assert self.num_batches_tracked is not None  # these three: statistics are tracked
            assert self.running_mean is not None
            assert self.running_var is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.float(), self.momentum)
            self.running_var.lerp_((variance * (n / (n - 1))).float(), self.momentum)
        normalised: Tensor = _Normalise.apply(
            x, self.weight, self.bias, mean.float(), variance.float(), self.eps
        )  # type: ignore[no-untyped-call]
        return normalised


class _Normalise(torch.autograd.Function):
    """PyTorch's normalisation by given statistics, with its gradient for statistics that are those of `x`."""

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
        arguments = (
            gradient,
            x,
            weight,
            None,
            None,
            mean,
            inverse_std,
            True,
            ctx.eps,
            ctx.needs_input_grad[:3],
        )
        return (*torch.ops.aten.native_batch_norm_backward(*arguments), None, None, None)


class PointwiseConv(nn.Conv1d):
    """A convolution of length 1 without bias, as the matrix product that it is: 0.7 of the time of PyTorch's convolution on a CPU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        return torch.bmm(
            self.weight[:, :, 0].expand(x.shape[0], -1, -1), x
        )  # not len(x), which an export would take for a constant


class GroupMean(nn.Module):
    """The means of successive groups of `size` samples, of the rest as well if `rest`: (B, C, n) -> (B, C, n / size, rounded down or up).

    AvgPool1d, a fifth to a third of its time on a CPU.
    """

    def __init__(self, size: int, *, rest: bool) -> None:
        super().__init__()
        self.size, self.rest = size, rest

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.avg_pool1d(x, self.size, ceil_mode=self.rest, count_include_pad=False)
        whole = x.shape[2] // self.size * self.size
        means = (
            reduce(torch.add, (x[:, :, i : whole : self.size] for i in range(self.size)))
            / self.size
        )
        if self.rest and whole < x.shape[2]:
            return torch.cat([means, x[:, :, whole:].mean(dim=2, keepdim=True)], dim=2)
        return means


class Dropout(nn.Dropout):
    """Dropout whose random numbers, of 16 bits, cost a CPU 0.4 of PyTorch's; the probability is rounded to 1 / 65,536."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        drawn = (
            torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
            .random_(-(2**63), None)
            .view(torch.int16)[: x.numel()]
            .view_as(x)
        )
        kept = drawn >= round(self.p * 2**16) - 2**15
        return x * kept.to(x.dtype).mul_(1 / (1 - self.p))


def mean_and_max(h: Tensor) -> Tensor:
    """Pool over time: (B, F, n) -> float32 (B, 2F), means then maxima.

    `amax` rather than adaptive max pooling, whose gradient on a GPU is refused by deterministic mode.
    """
    return torch.cat([h.mean(dim=2), h.amax(dim=2)], dim=1).float()


def dense_head(n_in: int, dropout: float, hidden: int = 128) -> nn.Sequential:
    """Two linear layers with batch normalisation: (B, n_in) -> (B, 2); half the dropout before the first (fastai's `create_head`)."""
    first = [nn.BatchNorm1d(n_in), nn.Dropout(dropout / 2), nn.Linear(n_in, hidden), nn.ReLU()]
    return nn.Sequential(*first, nn.BatchNorm1d(hidden), nn.Dropout(dropout), nn.Linear(hidden, 2))
