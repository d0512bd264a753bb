"""Random numbers as a function of seed, epoch and step."""

from __future__ import annotations

import numpy as np

ORDER_STREAM, _AUGMENT_STREAM, _DROPOUT_STREAM = 0, 1, 2


def generator_for(seed: int, epoch: int, step: int, stream: int) -> np.random.Generator:
    """Return numbers that depend on (seed, epoch, step, stream) alone, whatever was drawn before: resume and repeats are exact."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, step, stream])))


def torch_seeds(seed: int, epoch: int, step: int) -> tuple[int, int]:
    """Return the seeds of augmentation and of dropout for one training step."""
    augmentation, dropout = (
        int(generator_for(seed, epoch, step, stream).integers(2**63))
        for stream in (_AUGMENT_STREAM, _DROPOUT_STREAM)
    )
    return augmentation, dropout
