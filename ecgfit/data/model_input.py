"""What the model sees of a recording: normalised, masked, augmented in training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ecgfit.data.augment import noise, shifted
from ecgfit.data.rows import Missing
from ecgfit.data.statistics import NormStats
from ecgprep.leads import LEADS


class ModelInput(nn.Module):
    """From int16 µV to what the model sees.

    Returns float32 (B, 8, L): z-scores by the train statistics, 0 where nothing was measured. With
    `missing="mask"` it is (B, 9, L), and the ninth channel is, at each sample, the fraction of the
    eight leads that is present and not padding. A lead that no train recording has counts as
    missing, as it did in training. With covariates, it also returns float32 (B, 2K):
    (value - median) / scale, 0 where the value is missing, then 1 where it is.
    """

    mean: Tensor
    inverse_std: Tensor
    median: Tensor
    scale: Tensor
    is_seen: Tensor

    def __init__(self, stats: NormStats, missing: Missing) -> None:
        super().__init__()
        mean = torch.tensor(stats.mean_uv, dtype=torch.float64)
        std = torch.tensor(stats.std_uv, dtype=torch.float64)
        inverse_std = torch.where(std > 0, 1 / std, 1.0)
        self._keep("mean", mean.float()[:, None])
        self._keep("inverse_std", inverse_std.float()[:, None])
        self._keep("median", torch.tensor(stats.covariates.median, dtype=torch.float32))
        self._keep("scale", torch.tensor(stats.covariates.scale, dtype=torch.float32))
        # Where all leads were seen, as in most runs, there is nothing to compute, and an exported
        # file has no trace of it.
        self.has_unseen = not all(stats.is_seen)
        self._keep("is_seen", torch.tensor(stats.is_seen))
        self.missing = missing

    def _keep(self, name: str, values: Tensor) -> None:
        """Let `values` move between devices with the module, but stay out of checkpoints."""
        self.register_buffer(name, values, persistent=False)

    @property
    def n_channels(self) -> int:
        """Channels that the model gets."""
        return len(LEADS) + (self.missing == "mask")

    @property
    def n_covariates(self) -> int:
        """Covariates that the model gets, K."""
        return len(self.median)

    def usable(self, lead_mask: Tensor) -> Tensor:
        """Return which leads of `lead_mask` (B, 8) the model gets: those that training has seen."""
        return lead_mask & self.is_seen if self.has_unseen else lead_mask

    def forward(
        self,
        waveforms: Tensor,
        lead_mask: Tensor,
        valid_span: Tensor,
        covariates: Tensor | None = None,
        drawn: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Normalise, mask, and augment by what was `drawn`. `covariates` is (B, K), NaN if missing.

        Shifted waveforms are masked by the shifted span, and a dropped lead is masked like a
        missing one. So padding stays padding, and noise, which is neither shifted nor scaled, is
        only where there is signal.
        """
        drawn = drawn or {}
        gain = self.inverse_std
        if "shift" in drawn:
            waveforms = shifted(waveforms, drawn["shift"])
            valid_span = valid_span + drawn["shift"][:, None]
        if "scale" in drawn:
            gain = gain * drawn["scale"]
        lead_mask = self.usable(lead_mask)
        if "leadmask" in drawn:
            lead_mask = lead_mask & drawn["leadmask"]
        x = (waveforms.float() - self.mean).mul_(gain)
        if "noise" in drawn:
            x.addcmul_(noise(drawn, waveforms.shape[2]), drawn["noise"])
        time = torch.arange(waveforms.shape[2], device=waveforms.device, dtype=torch.int32)
        is_valid = (time >= valid_span[:, :1]) & (time < valid_span[:, 1:])
        inside = is_valid.float()[:, None]
        present = lead_mask.float()
        # One after the other: a joint mask would cost a CPU as much as all the rest.
        x.mul_(inside).mul_(present[:, :, None])
        if self.missing == "mask":
            fraction = present.mean(dim=1)[:, None, None]
            x = torch.cat([x, inside * fraction], dim=1)
        if covariates is None or not self.n_covariates:
            return x, None
        return x, self._standardise(covariates)

    def _standardise(self, covariates: Tensor) -> Tensor:
        missing = torch.isnan(covariates)
        values = torch.where(missing, 0.0, (covariates - self.median) / self.scale)
        return torch.cat([values, missing.float()], dim=1)
