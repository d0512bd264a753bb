"""What training takes from a store: which rows, their statistics, the numbers of chance, and what the model sees of a recording."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ecgfit.data.augment import noise, shifted
from ecgfit.data.rows import Missing
from ecgfit.data.statistics import NormStats
from ecgprep.leads import LEADS


class ModelInput(nn.Module):
    """From int16 µV to what the model sees: z-score with train statistics, zeros where nothing was measured, optional mask channel.

    Returns float32 (B, 8, L), or (B, 9, L) with `missing="mask"`: the ninth channel is, at each sample, the fraction of the eight
    leads that is present and not padding. And, where there are covariates, float32 (B, 2K): (value - median) / scale, 0 where the value
    is missing, then 1 where it is.
    """

    mean: Tensor
    inverse_std: Tensor
    median: Tensor
    scale: Tensor

    def __init__(self, stats: NormStats, missing: Missing) -> None:
        super().__init__()
        std = torch.tensor(stats.std_uv, dtype=torch.float64)
        self.register_buffer(
            "mean",
            torch.tensor(stats.mean_uv, dtype=torch.float64).float()[:, None],
            persistent=False,
        )
        self.register_buffer(
            "inverse_std", torch.where(std > 0, 1 / std, 1.0).float()[:, None], persistent=False
        )
        self.register_buffer(
            "median", torch.tensor(stats.covariates.median, dtype=torch.float32), persistent=False
        )
        self.register_buffer(
            "scale", torch.tensor(stats.covariates.scale, dtype=torch.float32), persistent=False
        )
        self.missing = missing

    @property
    def n_channels(self) -> int:
        """Channels that the model gets."""
        return len(LEADS) + (self.missing == "mask")

    @property
    def n_covariates(self) -> int:
        """Covariates that the model gets, K."""
        return len(self.median)

    def forward(
        self,
        waveforms: Tensor,
        lead_mask: Tensor,
        valid_span: Tensor,
        covariates: Tensor | None = None,
        drawn: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Normalise, mask, and augment by what was drawn for it. `covariates` is (B, K) with NaN where missing.

        Shifted waveforms are masked by the shifted span, and a lead that is taken away is masked like one that is missing: so padding stays
        padding, and noise is not shifted or scaled and is only where there is signal.
        """
        drawn, gain = drawn or {}, self.inverse_std
        if "shift" in drawn:
            waveforms, valid_span = (
                shifted(waveforms, drawn["shift"]),
                valid_span + drawn["shift"][:, None],
            )
        if "scale" in drawn:
            gain = gain * drawn["scale"]
        if "leadmask" in drawn:
            lead_mask = lead_mask & drawn["leadmask"]
        time = torch.arange(waveforms.shape[2], device=waveforms.device, dtype=torch.int32)
        inside = ((time >= valid_span[:, :1]) & (time < valid_span[:, 1:])).float()[:, None]
        x = (waveforms.float() - self.mean).mul_(gain)
        if "noise" in drawn:
            x.addcmul_(noise(drawn, waveforms.shape[2]), drawn["noise"])
        x.mul_(inside).mul_(
            lead_mask.float()[:, :, None]
        )  # one after the other: a joint mask would cost a CPU as much as all the rest
        if self.missing == "mask":
            x = torch.cat([x, inside * lead_mask.float().mean(dim=1)[:, None, None]], dim=1)
        return x, None if covariates is None or not self.n_covariates else self._standardise(
            covariates
        )

    def _standardise(self, covariates: Tensor) -> Tensor:
        missing = torch.isnan(covariates)
        values = torch.where(missing, 0.0, (covariates - self.median) / self.scale)
        return torch.cat([values, missing.float()], dim=1)
