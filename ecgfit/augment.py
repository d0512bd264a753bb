"""Augmentation in model space, for training batches only; never changes a shape, a lead's timing against the others, or padding.

Every random number comes from the draws that are passed in, so a batch is a function of (seed, epoch, step), whichever processes share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

NOISE_SIGMA = (0.01, 0.03)
"""Range of the noise's standard deviation, in standard deviations of the lead over the training rows."""
SCALE_RANGE = (0.9, 1.1)
MAX_SHIFT_SAMPLES = 10
LEAD_DROP = 0.1
"""Probability that a lead of a record is taken away."""


@dataclass(frozen=True)
class Draws:
    """Random numbers for records `first` to `first + n` of a batch of `total`.

    Numbers are drawn for the whole batch and those of the other records thrown away: processes that share a batch give each record the
    same numbers as one process would.
    """

    generator: torch.Generator
    total: int
    first: int = 0

    def uniform(self, low: float, high: float, n: int, *shape: int) -> Tensor:
        """Return float32 (n, *shape) in [low, high)."""
        drawn = torch.empty(self.total, *shape, device=self.generator.device).uniform_(low, high, generator=self.generator)
        return drawn[self.first : self.first + n]

    def integers(self, low: int, high: int, n: int, *shape: int) -> Tensor:
        """Return int64 (n, *shape), `low` to `high` inclusive."""
        drawn = torch.randint(low, high + 1, (self.total, *shape), device=self.generator.device, generator=self.generator)
        return drawn[self.first : self.first + n]

    def normal(self, n: int, *shape: int) -> Tensor:
        """Return float32 (n, *shape) of mean 0 and variance 1."""
        return torch.randn(self.total, *shape, device=self.generator.device, generator=self.generator)[self.first : self.first + n]


def noise(x: Tensor, valid: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Add white noise of one strength per record where there is signal."""
    sigma = draws.uniform(*NOISE_SIGMA, len(x), 1, 1)
    return draws.normal(len(x), *x.shape[1:]).mul_(sigma).mul_(valid.float()).add_(x), valid


def scale(x: Tensor, valid: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Multiply all leads of a record by one factor of up to ±10 %."""
    return x * draws.uniform(*SCALE_RANGE, len(x), 1, 1), valid


def shift(x: Tensor, valid: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Move all leads of a record together by up to 10 samples either way; what is uncovered is 0 and not signal."""
    n = x.shape[2]
    start = MAX_SHIFT_SAMPLES - draws.integers(-MAX_SHIFT_SAMPLES, MAX_SHIFT_SAMPLES, len(x))
    record = torch.arange(len(x), device=x.device)

    def moved(signal: Tensor) -> Tensor:
        return F.pad(signal, (MAX_SHIFT_SAMPLES, MAX_SHIFT_SAMPLES)).unfold(2, n, 1)[record, :, start]

    return moved(x), moved(valid)


def leadmask(x: Tensor, valid: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Take each lead away with a probability of 10 %, as if it had not been recorded."""
    kept = draws.uniform(0, 1, len(x), x.shape[1], 1) >= LEAD_DROP
    return x * kept.float(), valid & kept


AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor, Draws], tuple[Tensor, Tensor]]] = {
    "shift": shift,
    "scale": scale,
    "noise": noise,
    "leadmask": leadmask,
}
"""Name -> function of (x (B, leads, L), valid (B, leads, L) bool, draws) that returns both anew; in the order in which they are applied, so
that noise is not shifted or scaled and a lead that is taken away is silent."""


def augment(x: Tensor, valid: Tensor, names: Sequence[str], draws: Draws) -> tuple[Tensor, Tensor]:
    """Apply the named augmentations in the order of AUGMENTATIONS."""
    for name, function in AUGMENTATIONS.items():
        if name in names:
            x, valid = function(x, valid, draws)
    return x, valid
