"""Random numbers as a function of seed, epoch and step."""

from __future__ import annotations

import numpy as np

ORDER_STREAM = 0
AUGMENT_STREAM = 1
DROPOUT_STREAM = 2


def generator_for(seed: int, epoch: int, step: int, stream: int) -> np.random.Generator:
    """Return a generator that depends on (seed, epoch, step, stream) alone.

    Nothing that was drawn before matters, so runs are resumed and repeated exactly.
    """
    sequence = np.random.SeedSequence([seed, epoch, step, stream])
    return np.random.Generator(np.random.PCG64(sequence))


def torch_seeds(seed: int, epoch: int, step: int) -> tuple[int, int]:
    """Return the seeds of augmentation and of dropout for one training step."""
    augmentation = generator_for(seed, epoch, step, AUGMENT_STREAM).integers(2**63)
    dropout = generator_for(seed, epoch, step, DROPOUT_STREAM).integers(2**63)
    return int(augmentation), int(dropout)
