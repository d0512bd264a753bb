"""Augmentation in model space, for training batches only.

It never changes a shape, the timing of leads relative to each other, or padding. Every random
number comes from the draws that are passed in, so a batch is a function of (seed, epoch, step),
whichever processes share it. Numbers are drawn here and applied by `ModelInput` as it normalises:
without chance or state, so that torch.compile can make one kernel of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

NOISE_SIGMA = (0.01, 0.03)
"""Range of the noise's standard deviation, in standard deviations of the lead over train rows."""

NOISE_STARTS = 2**20
"""Places in the table of normal numbers at which a lead's noise may begin."""

SCALE_RANGE = (0.9, 1.1)

MAX_SHIFT_SAMPLES = 10

LEAD_DROP = 0.1
"""Probability that a lead of a record is masked."""


@dataclass(frozen=True)
class Draws:
    """Random numbers for records `first` to `first + n` of a batch of `total`.

    A few numbers per record are drawn for the whole batch, and those of other records are thrown
    away. So processes that share a batch give each record the same numbers as one process would. On
    a GPU the generator is counter-based (Philox): its only state is its seed and a count.
    """

    generator: torch.Generator
    total: int
    first: int = 0

    def uniform(self, low: float, high: float, n: int, *shape: int) -> Tensor:
        """Return float32 (n, *shape) in [low, high)."""
        drawn = torch.empty(self.total, *shape, device=self.generator.device)
        drawn.uniform_(low, high, generator=self.generator)
        return drawn[self.first : self.first + n]

    def integers(self, low: int, high: int, n: int, *shape: int) -> Tensor:
        """Return int64 (n, *shape), `low` to `high` inclusive."""
        drawn = torch.randint(
            low,
            high + 1,
            (self.total, *shape),
            device=self.generator.device,
            generator=self.generator,
        )
        return drawn[self.first : self.first + n]


def draw_shift(draws: Draws, shape: Sequence[int]) -> dict[str, Tensor]:
    """Draw by how many samples, up to 10 either way, a record is delayed: int64 (B,)."""
    return {"shift": draws.integers(-MAX_SHIFT_SAMPLES, MAX_SHIFT_SAMPLES, shape[0])}


def draw_scale(draws: Draws, shape: Sequence[int]) -> dict[str, Tensor]:
    """Draw a factor of up to ±10 % for all leads of a record (B, 1, 1)."""
    return {"scale": draws.uniform(*SCALE_RANGE, shape[0], 1, 1)}


def draw_noise(draws: Draws, shape: Sequence[int]) -> dict[str, Tensor]:
    """Draw white noise: one strength per record, and a stretch of a table for each lead.

    Returns the strength (B, 1, 1), where in the table of normal numbers each lead's noise starts,
    int64 (B, leads), and the table. Drawing each sample would be most of what an input costs: 5 ms
    for 32 x 8 x 5000 on a CPU, and memory written and read on a GPU.
    """
    strength = draws.uniform(*NOISE_SIGMA, shape[0], 1, 1)
    return {
        "noise": strength,
        "noise_start": draws.integers(0, NOISE_STARTS - 1, *shape[:2]),
        "normal": normal_table(shape[2], draws.generator.device),
    }


@lru_cache(maxsize=4)
def normal_table(n_samples: int, device: torch.device) -> Tensor:
    """Return normal numbers of mean 0 and variance 1, always the same: float32.

    They are as many as stretches of `n_samples` from every start need.
    """
    generator = torch.Generator().manual_seed(0)
    return torch.randn(NOISE_STARTS + n_samples - 1, generator=generator).to(device)


def draw_leadmask(draws: Draws, shape: Sequence[int]) -> dict[str, Tensor]:
    """Draw which leads are kept, each with a probability of 90 %: bool (B, leads).

    The others are masked as if they had not been recorded.
    """
    return {"leadmask": draws.uniform(0, 1, shape[0], shape[1]) >= LEAD_DROP}


AUGMENTATIONS: dict[str, Callable[[Draws, Sequence[int]], dict[str, Tensor]]] = {
    "shift": draw_shift,
    "scale": draw_scale,
    "noise": draw_noise,
    "leadmask": draw_leadmask,
}
"""Name -> function of (draws, shape (B, leads, L)), in the order in which they draw."""


def draw(names: Sequence[str], draws: Draws, shape: Sequence[int]) -> dict[str, Tensor]:
    """Draw what the named augmentations need for a batch of shape (B, leads, L)."""
    drawn: dict[str, Tensor] = {}
    for name, draw_for in AUGMENTATIONS.items():
        if name in names:
            drawn |= draw_for(draws, shape)
    return drawn


def noise(drawn: Mapping[str, Tensor], n_samples: int) -> Tensor:
    """Return the noise that was drawn, of variance 1: float32 (B, leads, n_samples)."""
    return drawn["normal"].unfold(0, n_samples, 1)[drawn["noise_start"]]


def shifted(waveforms: Tensor, by: Tensor) -> Tensor:
    """Delay each record (leads, L) by its number of samples, at most 10 either way.

    What is uncovered is 0.
    """
    record = torch.arange(len(waveforms), device=waveforms.device)
    padded = F.pad(waveforms, (MAX_SHIFT_SAMPLES, MAX_SHIFT_SAMPLES))
    windows = padded.unfold(2, waveforms.shape[2], 1)
    return windows[record, :, MAX_SHIFT_SAMPLES - by]
