"""What training takes from a store: which rows, their statistics, the numbers of chance, and what the model sees of a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecgfit.augment import noise, shifted
from ecgprep.durable import write_json
from ecgprep.errors import STATUS_CODE, InputError, StoreError
from ecgprep.leads import LEADS
from ecgprep.store import SPLITS, Store

Missing = Literal["drop", "mask"]
ORDER_STREAM, _AUGMENT_STREAM, _DROPOUT_STREAM = 0, 1, 2


def select_rows(store: Store, split: str, missing: Missing, *, labelled: bool = True) -> NDArray[np.int64]:
    """Return the usable rows of a split, or of `all`, ascending; with `drop`, only those with all eight leads.

    Rows without a label are left out unless `labelled` is False. Raises InputError for an unknown split and StoreError when no row is left.
    """
    rows = usable_rows(store, split, missing, labelled=labelled)
    if not rows.size:
        hint = " with all eight leads; --missing mask keeps the others" if missing == "drop" else ""
        which = "store" if split == "all" else f"{split} split"
        raise StoreError(f"{store.path}: the {which} has no usable {'labelled ' if labelled else ''}recording{hint}.")
    return rows


def usable_rows(store: Store, split: str, missing: Missing, *, labelled: bool = True) -> NDArray[np.int64]:
    """Return what `select_rows` does, or no rows where there is none."""
    if split not in (*SPLITS, "all"):
        raise InputError(f"--split (={split}) must be one of {', '.join(SPLITS)}, all")
    keep = store.array("status") == STATUS_CODE["ok"]
    if split != "all":
        keep &= store.array("split") == SPLITS.index(split)
    if labelled:
        keep &= store.array("label") >= 0
    if missing == "drop":
        keep &= store.array("lead_mask").all(axis=1)
    return np.flatnonzero(keep)


def fold_rows(store: Store, missing: Missing, folds: int, fold: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return the rows of one turn of cross-validation by patient within train and val: `scored`, `val` and `train`.

    Patients are dealt to the folds at random within each label (positive: any recording is). Fold `fold` is scored, the next selects the
    epoch, the others train: nothing is chosen on what is scored. The test split takes no part.
    """
    rows = np.concatenate([select_rows(store, split, missing) for split in ("train", "val")])
    patients, index = np.unique(store.array("patient")[rows], return_inverse=True)
    if len(patients) < folds:
        raise InputError(f"folds: {len(patients)} patients are too few for {folds} folds.")
    positive = np.bincount(index, store.array("label")[rows] == 1) > 0
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, folds])))
    shuffled = generator.permutation(len(patients))
    dealt = np.empty(len(patients), np.int64)
    dealt[shuffled[np.argsort(positive[shuffled], kind="stable")]] = np.arange(len(patients)) % folds
    of_row, selecting = dealt[index], (fold + 1) % folds
    chosen = {"scored": of_row == fold, "val": of_row == selecting, "train": (of_row != fold) & (of_row != selecting)}
    return {name: np.sort(rows[keep]) for name, keep in chosen.items()}


def covariate_columns(store: Store, names: Sequence[str]) -> NDArray[np.int64]:
    """Return where the store holds the covariates. Raises InputError naming those that it has."""
    absent = [name for name in names if name not in store.covariate_names]
    if absent:
        has = ", ".join(store.covariate_names) or "none"
        raise InputError(f"tabular: {store.path} has no covariate {', '.join(absent)} (it has: {has}). Build it with --covariates.")
    return np.array([store.covariate_names.index(name) for name in names], np.int64)


@dataclass(frozen=True)
class CovariateStats:
    """Median and scale (standard deviation of the known values, 1 where it is 0) of each covariate over the train rows."""

    names: tuple[str, ...] = ()
    median: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @classmethod
    def of(cls, store: Store, rows: NDArray[np.int64], names: Sequence[str]) -> CovariateStats:
        """Compute over rows. Raises InputError for a covariate that the store lacks, or that no row has."""
        values = store.array("covariates")[np.ix_(rows, covariate_columns(store, names))].astype(np.float64)
        empty = [name for name, column in zip(names, values.T, strict=True) if np.isnan(column).all()]
        if empty:
            raise InputError(f"tabular: no train recording has a value of {', '.join(empty)}.")
        scale = np.nanstd(values, axis=0)
        return cls(tuple(names), tuple(np.nanmedian(values, axis=0).tolist()), tuple(np.where(scale > 0, scale, 1.0).tolist()))


@dataclass(frozen=True)
class SeenRange:
    """What the train recordings were like: what a recording to predict is compared with."""

    rates_hz: tuple[float, ...]
    lead_sd_uv: tuple[tuple[float, float], ...]
    """Least and greatest standard deviation of a recording's lead, for each lead."""
    shortest_samples: int
    fewest_leads: int
    covariates: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, store: Store, rows: NDArray[np.int64], names: Sequence[str]) -> SeenRange:
        """Collect over rows from the arrays of the store; no waveform is read."""
        spans, mask = store.array("valid_span")[rows], store.array("lead_mask")[rows]
        length = spans[:, 1] - spans[:, 0]
        deviation = np.where(mask, lead_deviation(store.array("moments")[rows], length), np.nan)
        bounds = [(float(np.nanmin(column)), float(np.nanmax(column))) if mask[:, i].any() else (0.0, 0.0) for i, column in enumerate(deviation.T)]
        values = store.array("covariates")[np.ix_(rows, covariate_columns(store, names))]
        return cls(
            tuple(np.unique(store.array("rate_hz")[rows]).astype(float).tolist()),
            tuple(bounds),
            int(length.min()),
            int(mask.sum(axis=1).min()),
            tuple((float(np.nanmin(column)), float(np.nanmax(column))) for column in values.T),
        )


def lead_deviation(moments: NDArray[np.int64], length: NDArray[Any]) -> NDArray[np.float64]:
    """Return the standard deviation in µV of each lead of each recording, (n, 8), from Σx and Σx² (n, 8, 2) over `length` samples (n,)."""
    n = np.maximum(length, 1)[:, None]
    mean = moments[:, :, 0] / n
    return np.asarray(np.sqrt(np.maximum(moments[:, :, 1] / n - mean**2, 0)))


@dataclass(frozen=True)
class NormStats:
    """Per-lead mean and standard deviation in µV of the valid samples of the train rows, and what else the train rows decide."""

    mean_uv: tuple[float, ...]
    std_uv: tuple[float, ...]
    n_records: int
    covariates: CovariateStats
    seen: SeenRange

    @classmethod
    def of(cls, store: Store, rows: NDArray[np.int64], covariates: Sequence[str] = ()) -> NormStats:
        """Compute from the store's integer moments: exact, and no waveform is read."""
        mean, std = store.lead_statistics(rows)
        table = CovariateStats.of(store, rows, covariates)
        return cls(tuple(mean.tolist()), tuple(std.tolist()), len(rows), table, SeenRange.of(store, rows, covariates))

    def save(self, path: Path) -> None:
        """Write `norm_stats.json`."""
        value = {"leads": list(LEADS), "mean_uv": list(self.mean_uv), "std_uv": list(self.std_uv), "n_train_records": self.n_records}
        write_json(path, {**value, "covariates": asdict(self.covariates), "seen": asdict(self.seen)})

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> NormStats:
        """Read what `save` wrote. Raises ValueError, saying what is wrong, when it is not that."""
        try:
            table, seen = value["covariates"], value["seen"]
            stats = cls(
                tuple(map(float, value["mean_uv"])),
                tuple(map(float, value["std_uv"])),
                int(value["n_train_records"]),
                CovariateStats(tuple(map(str, table["names"])), tuple(map(float, table["median"])), tuple(map(float, table["scale"]))),
                SeenRange(
                    tuple(map(float, seen["rates_hz"])),
                    tuple((float(low), float(high)) for low, high in seen["lead_sd_uv"]),
                    int(seen["shortest_samples"]),
                    int(seen["fewest_leads"]),
                    tuple((float(low), float(high)) for low, high in seen["covariates"]),
                ),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError("is damaged") from None
        lengths = {len(stats.mean_uv), len(stats.std_uv), len(stats.seen.lead_sd_uv)}
        if value.get("leads") != list(LEADS) or lengths != {len(LEADS)}:
            raise ValueError(f"is not for the leads {', '.join(LEADS)}")
        table = stats.covariates
        if len({len(table.names), len(table.median), len(table.scale), len(stats.seen.covariates)}) != 1:
            raise ValueError("is damaged")
        return stats


def generator_for(seed: int, epoch: int, step: int, stream: int) -> np.random.Generator:
    """Return numbers that depend on (seed, epoch, step, stream) alone, whatever was drawn before: resume and repeats are exact."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, step, stream])))


def torch_seeds(seed: int, epoch: int, step: int) -> tuple[int, int]:
    """Return the seeds of augmentation and of dropout for one training step."""
    augmentation, dropout = (int(generator_for(seed, epoch, step, stream).integers(2**63)) for stream in (_AUGMENT_STREAM, _DROPOUT_STREAM))
    return augmentation, dropout


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
        self.register_buffer("mean", torch.tensor(stats.mean_uv, dtype=torch.float64).float()[:, None], persistent=False)
        self.register_buffer("inverse_std", torch.where(std > 0, 1 / std, 1.0).float()[:, None], persistent=False)
        self.register_buffer("median", torch.tensor(stats.covariates.median, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(stats.covariates.scale, dtype=torch.float32), persistent=False)
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
            waveforms, valid_span = shifted(waveforms, drawn["shift"]), valid_span + drawn["shift"][:, None]
        if "scale" in drawn:
            gain = gain * drawn["scale"]
        if "leadmask" in drawn:
            lead_mask = lead_mask & drawn["leadmask"]
        time = torch.arange(waveforms.shape[2], device=waveforms.device, dtype=torch.int32)
        inside = ((time >= valid_span[:, :1]) & (time < valid_span[:, 1:])).float()[:, None]
        x = (waveforms.float() - self.mean).mul_(gain)
        if "noise" in drawn:
            x.addcmul_(noise(drawn, waveforms.shape[2]), drawn["noise"])
        x.mul_(inside).mul_(lead_mask.float()[:, :, None])  # one after the other: a joint mask would cost a CPU as much as all the rest
        if self.missing == "mask":
            x = torch.cat([x, inside * lead_mask.float().mean(dim=1)[:, None, None]], dim=1)
        return x, None if covariates is None or not self.n_covariates else self._standardise(covariates)

    def _standardise(self, covariates: Tensor) -> Tensor:
        missing = torch.isnan(covariates)
        values = torch.where(missing, 0.0, (covariates - self.median) / self.scale)
        return torch.cat([values, missing.float()], dim=1)
