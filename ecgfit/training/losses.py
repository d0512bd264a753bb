"""What is minimised: losses of recordings, and the weight that their sum is divided by."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["ce", "bce"]


def class_weights(asked: str | tuple[float, float], label: NDArray[np.int8]) -> Tensor | None:
    """Return the weights of label 0 and 1, or None with `none`.

    With `auto` they are n / (2 n_class) over the train recordings, whose labels are given.
    """
    if asked == "none":
        return None
    if asked == "auto":
        counts = np.bincount(label, minlength=2)
        return torch.tensor(len(label) / (2 * counts), dtype=torch.float32)
    assert isinstance(asked, tuple)
    return torch.tensor(asked, dtype=torch.float32)


def row_losses(
    logits: Tensor, label: Tensor, kind: Loss, weights: Tensor | None, smoothing: float = 0.0
) -> Tensor:
    """Return each recording's weighted loss (B,).

    `ce` is cross-entropy of both logits, `bce` binary cross-entropy of their difference with
    pos_weight = w1 / w0. Smoothing mixes the label with the uniform distribution (Szegedy et al.
    2016, "Rethinking the Inception architecture for computer vision").
    """
    if kind == "ce":
        return F.cross_entropy(
            logits, label, weight=weights, label_smoothing=smoothing, reduction="none"
        )
    positive_weight = None if weights is None else weights[1] / weights[0]
    target = label.to(logits.dtype) * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(
        logits[:, 1] - logits[:, 0], target, pos_weight=positive_weight, reduction="none"
    )


def batch_weight(label: Tensor, kind: Loss, weights: Tensor | None) -> Tensor:
    """Return what the sum of `row_losses` is divided by, as in PyTorch's own means.

    It is the sum of the labels' weights with `ce`, and the number of labels with `bce`.
    """
    if kind == "bce" or weights is None:
        return torch.tensor(float(len(label)))
    return weights[label].sum()
