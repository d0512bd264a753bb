"""Augmentation in model space, for training batches only; never changes a shape, a lead's timing against the others, or padding.

Every random number comes from the generator that is passed in, so a batch is a function of (seed, epoch, step).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

NOISE_SIGMA = (0.01, 0.03)
"""Range of the noise's standard deviation, in standard deviations of the lead over the training rows."""
SCALE_RANGE = (0.9, 1.1)
MAX_SHIFT_SAMPLES = 10


def _uniform(low: float, high: float, x: Tensor, generator: torch.Generator) -> Tensor:
    """One number per record, shaped to multiply (B, leads, L)."""
    return torch.empty(len(x), 1, 1, device=x.device).uniform_(low, high, generator=generator)


def noise(x: Tensor, valid: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Add white noise of one strength per record where there is signal."""
    sigma = _uniform(*NOISE_SIGMA, x, generator)
    return x + sigma * valid * torch.randn(x.shape, device=x.device, generator=generator), valid


def scale(x: Tensor, valid: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Multiply all leads of a record by one factor of up to ±10 %."""
    return x * _uniform(*SCALE_RANGE, x, generator), valid


def shift(x: Tensor, valid: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Move all leads of a record together by up to 10 samples either way; what is uncovered is 0 and not signal."""
    n = x.shape[2]
    by = torch.randint(-MAX_SHIFT_SAMPLES, MAX_SHIFT_SAMPLES + 1, (len(x), 1, 1), device=x.device, generator=generator)
    source = torch.arange(n, device=x.device) - by
    inside = (source >= 0) & (source < n)
    index = source.clamp(0, n - 1).expand(-1, x.shape[1], -1)
    return x.gather(2, index) * inside, valid.gather(2, index) & inside


AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]] = {
    "noise": noise,
    "scale": scale,
    "shift": shift,
}
"""Name -> function of (x (B, leads, L), valid (B, leads, L) bool, generator) that returns both anew."""


def augment(x: Tensor, valid: Tensor, names: Sequence[str], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Apply the named augmentations, always in the order shift, scale, noise, so that noise is not shifted or scaled."""
    for name in ("shift", "scale", "noise"):
        if name in names:
            x, valid = AUGMENTATIONS[name](x, valid, generator)
    return x, valid
