"""Integrated gradients of an ensemble, per lead and sample. Needs the extra `explain`.

Integrated gradients (Sundararajan, Taly & Yan 2017) divide the difference between the output for a
recording and the output for a baseline among the samples, so they add up to it. The output is the
difference of logits. The baseline is "no signal": 0 in model space, which is the mean of the train
recordings.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecgfit.data.loader import Batch
from ecgfit.inference.scorer import Ensemble, Scorer
from ecgprep.leads import LEADS

STEPS = 50
"""Steps on the path from the baseline to the recording (Gauss-Legendre)."""

MORE_STEPS = 200
"""Steps where `STEPS` are too few for the attributions to add up."""

TOLERANCE = 0.05
"""Greatest error of the sum of attributions, as a share of the difference of outputs over a batch,
before `MORE_STEPS` are taken."""

_ROWS_AT_ONCE = 100
"""Points of the path that the network computes together."""

Floats = NDArray[np.float64]


def attribute(ensemble: Ensemble, batch: Batch) -> tuple[Floats, Floats]:
    """Return attributions (B, 8, L), and the difference of outputs (B,) that they should add up to.

    Integrated gradients are linear in the output, so those of an ensemble are the mean over its
    members. The mask channel and the covariates stay at the recording's own values along the path.
    """
    device = next(ensemble.parameters()).device
    tensors = (batch.waveforms, batch.lead_mask, batch.valid_span, batch.covariates)
    inputs = [tensor.to(device) for tensor in tensors]
    attributions, differences = [], []
    for scorer in ensemble.scorers:
        of_member, difference = _attribute_member(cast(Scorer, scorer), inputs, STEPS)
        attributions.append(of_member)
        differences.append(difference)
    return _mean(attributions), _mean(differences)


def _mean(arrays: list[Floats]) -> Floats:
    return np.asarray(np.mean(np.stack(arrays), axis=0))


def _attribute_member(scorer: Scorer, inputs: list[Tensor], steps: int) -> tuple[Floats, Floats]:
    """Attribute with `steps` steps, and with `MORE_STEPS` where these do not add up."""
    from captum.attr import IntegratedGradients

    with torch.no_grad():
        x, tabular = scorer.model_input(*inputs)
    signal, mask_channel = x[:, : len(LEADS)], x[:, len(LEADS) :]
    baseline = torch.zeros_like(signal)

    def logit_difference(signal: Tensor, mask_channel: Tensor, *tabular: Tensor) -> Tensor:
        covariates = tabular[0] if tabular else None
        logits: Tensor = scorer.model(torch.cat([signal, mask_channel], dim=1), covariates)
        return logits[:, 1] - logits[:, 0]

    constant = (mask_channel,) if tabular is None else (mask_channel, tabular)
    attributions: Tensor = IntegratedGradients(logit_difference).attribute(
        signal.requires_grad_(),
        baseline,
        additional_forward_args=constant,
        n_steps=steps,
        internal_batch_size=max(_ROWS_AT_ONCE, len(signal)),
    )
    with torch.no_grad():
        change = logit_difference(signal, *constant) - logit_difference(baseline, *constant)
    found, expected = _to_numpy(attributions.detach()), _to_numpy(change)
    error = np.abs(found.sum(axis=(1, 2)) - expected).sum()
    if steps < MORE_STEPS and error > TOLERANCE * np.abs(expected).sum():
        return _attribute_member(scorer, inputs, MORE_STEPS)
    return found, expected


def _to_numpy(tensor: Tensor) -> Floats:
    return cast(Floats, tensor.double().cpu().numpy())
