"""What all networks share: the calls that training relies on, the checked arguments, and a few layers.

Every network is called as `network(x, tabular)` with float32 (B, channels, L) and None or (B, 2K), and returns float32 logits (B, 2).
An ECG network is `features` and then `head`; covariates join between the two, by `n_extra` more inputs of the head (late fusion).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Anything that maps (x, tabular) to logits (B, 2)."""

    def depth_groups(self) -> list[list[nn.Module]]:
        """Return the modules from input to head; together they hold every parameter once, and the last group is the head."""
        raise NotImplementedError


class EcgNetwork(Network):
    """Features of a waveform and a head on them: (B, channels, L) and None or (B, n_extra) -> logits (B, 2)."""

    n_features: int
    n_extra: int
    head: nn.Module

    def features(self, x: Tensor) -> Tensor:
        """Return the pooled features, float32 (B, n_features)."""
        raise NotImplementedError

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """Return float32 logits. Raises ValueError when `extra` is not (B, n_extra)."""
        width = 0 if extra is None else extra.shape[1]
        if width != self.n_extra:
            raise ValueError(f"`extra` has {width} features; the head was built for {self.n_extra}.")
        pooled = self.features(x)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 logits would tie, and ties decide AUROC and AUPRC
            logits: Tensor = self.head(pooled if extra is None else torch.cat([pooled, extra.float()], dim=1))
        return logits


@dataclass(frozen=True)
class Arg:
    """One argument of a network: its default and the values that it takes."""

    default: float
    lowest: float
    highest: float
    step: int | None
    """Whole numbers `lowest`, `lowest + step`, … up to `highest`; None: any number between."""
    meaning: str

    def takes(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.lowest <= value <= self.highest:
            return False
        return self.step is None or (value - self.lowest) % self.step == 0

    def __str__(self) -> str:
        by = "" if self.step in (None, 1) else f" in steps of {self.step}"
        return f"{self.lowest:g} to {self.highest:g}{by}, default {self.default:g}: {self.meaning}"


def check_args(network: str, allowed: Mapping[str, Arg], given: Mapping[str, float]) -> dict[str, float]:
    """Return `given`, whole numbers as int. Raises ValueError naming every fault and what is allowed."""
    faults = [f"`{key}` (={value!r})" for key, value in given.items() if key not in allowed or not allowed[key].takes(value)]
    if faults:
        choices = "; ".join(f"{key} {arg}" for key, arg in allowed.items())
        raise ValueError(f"{network} does not take {', '.join(faults)}. Allowed: {choices}.")
    return {key: float(value) if allowed[key].step is None else int(value) for key, value in given.items()}


WIDTH = Arg(1, 0.25, 4, None, "factor on the channels of every convolution, rounded to multiples of 8")


def scaled(channels: int, width: float) -> int:
    """Return `channels` times `width` as a multiple of 8, which matrix units like."""
    return max(8, 8 * round(channels * width / 8))


def mean_and_max(h: Tensor) -> Tensor:
    """Pool over time: (B, F, n) -> float32 (B, 2F), means then maxima.

    `amax` rather than adaptive max pooling, whose gradient on a GPU is refused by deterministic mode.
    """
    return torch.cat([h.mean(dim=2), h.amax(dim=2)], dim=1).float()


def dense_head(n_in: int, dropout: float, hidden: int = 128) -> nn.Sequential:
    """Two linear layers with batch normalisation: (B, n_in) -> (B, 2); half the dropout before the first (fastai's `create_head`)."""
    first = [nn.BatchNorm1d(n_in), nn.Dropout(dropout / 2), nn.Linear(n_in, hidden), nn.ReLU()]
    return nn.Sequential(*first, nn.BatchNorm1d(hidden), nn.Dropout(dropout), nn.Linear(hidden, 2))
