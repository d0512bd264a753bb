"""Covariates: a small branch beside an ECG network, or a network of its own.

A row of `tabular` is (2K,): K standardised values, 0 where missing, then K indicators, 1 where
missing. So "not measured" is something that the network can weigh, and no value has to be invented.
Late fusion joins the branch just before the head. The ECG part is the same with and without
covariates, which makes the comparison of the two fair.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecgfit.models.network import EcgNetwork, Network


class TabularBranch(nn.Module):
    """A perceptron of two layers: (B, 2K) -> float32 (B, n_out)."""

    def __init__(
        self, n_covariates: int, hidden: int = 16, n_out: int = 16, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.n_covariates, self.n_out = n_covariates, n_out
        self.layers = nn.Sequential(
            nn.Linear(2 * n_covariates, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, n_out),
            nn.ReLU(),
        )

    def forward(self, tabular: Tensor) -> Tensor:
        """Encode in float32: the branch is so small that bfloat16 would only cost precision."""
        with torch.autocast(tabular.device.type, enabled=False):
            encoded: Tensor = self.layers(tabular.float())
        return encoded


class TabularNet(Network):
    """Covariates alone: (anything, (B, 2K)) -> float32 logits (B, 2)."""

    def __init__(self, branch: TabularBranch) -> None:
        super().__init__()
        self.branch = branch
        self.head = nn.Linear(branch.n_out, 2)

    def forward(
        self,
        x: Tensor | None,  # noqa: ARG002 - the ECG is ignored; the call is the other networks'
        tabular: Tensor,
    ) -> Tensor:
        """Return float32 logits of the covariates."""
        encoded = self.branch(tabular)
        with torch.autocast(tabular.device.type, enabled=False):
            logits: Tensor = self.head(encoded)
        return logits

    def depth_groups(self) -> list[list[nn.Module]]:
        """Return the branch, the head."""
        return [[self.branch], [self.head]]


class LateFusion(Network):
    """An ECG network whose head also sees a tabular branch.

    Maps (B, channels, L) and (B, 2K) to float32 logits (B, 2).
    """

    def __init__(self, ecg: EcgNetwork, branch: TabularBranch) -> None:
        """Join the two. Raises ValueError when the head was not built for the branch."""
        super().__init__()
        if ecg.n_extra != branch.n_out:
            raise ValueError(
                f"`n_extra` (={ecg.n_extra}) of the ECG network must be `n_out` (={branch.n_out}) "
                "of the branch."
            )
        self.ecg, self.branch = ecg, branch

    def forward(self, x: Tensor, tabular: Tensor) -> Tensor:
        """Return float32 logits."""
        logits: Tensor = self.ecg(x, self.branch(tabular))
        return logits

    def depth_groups(self) -> list[list[nn.Module]]:
        """Return the ECG network's groups, with the branch in the last one.

        The branch is as new to a transferred encoder as the head is.
        """
        *encoder, head = self.ecg.depth_groups()
        return [*encoder, [*head, self.branch]]
