"""Statistics of the train rows: what inputs are normalised by and compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.data.rows import covariate_columns
from ecgprep.errors import InputError
from ecgprep.files.atomic import write_json
from ecgprep.leads import LEADS
from ecgprep.store.reader import Store


@dataclass(frozen=True)
class CovariateStats:
    """Median and scale (standard deviation of the known values, 1 where it is 0) of each covariate over the train rows."""

    names: tuple[str, ...] = ()
    median: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @classmethod
    def of(cls, store: Store, rows: NDArray[np.int64], names: Sequence[str]) -> CovariateStats:
        """Compute over rows. Raises InputError for a covariate that the store lacks, or that no row has."""
        values = store.array("covariates")[np.ix_(rows, covariate_columns(store, names))].astype(
            np.float64
        )
        empty = [
            name for name, column in zip(names, values.T, strict=True) if np.isnan(column).all()
        ]
        if empty:
            raise InputError(f"tabular: no train recording has a value of {', '.join(empty)}.")
        scale = np.nanstd(values, axis=0)
        return cls(
            tuple(names),
            tuple(np.nanmedian(values, axis=0).tolist()),
            tuple(np.where(scale > 0, scale, 1.0).tolist()),
        )


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
        bounds = [
            (float(np.nanmin(column)), float(np.nanmax(column))) if mask[:, i].any() else (0.0, 0.0)
            for i, column in enumerate(deviation.T)
        ]
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
        return cls(
            tuple(mean.tolist()),
            tuple(std.tolist()),
            len(rows),
            table,
            SeenRange.of(store, rows, covariates),
        )

    def save(self, path: Path) -> None:
        """Write `norm_stats.json`."""
        value = {
            "leads": list(LEADS),
            "mean_uv": list(self.mean_uv),
            "std_uv": list(self.std_uv),
            "n_train_records": self.n_records,
        }
        write_json(
            path, {**value, "covariates": asdict(self.covariates), "seen": asdict(self.seen)}
        )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> NormStats:
        """Read what `save` wrote. Raises ValueError, saying what is wrong, when it is not that."""
        try:
            table, seen = value["covariates"], value["seen"]
            stats = cls(
                tuple(map(float, value["mean_uv"])),
                tuple(map(float, value["std_uv"])),
                int(value["n_train_records"]),
                CovariateStats(
                    tuple(map(str, table["names"])),
                    tuple(map(float, table["median"])),
                    tuple(map(float, table["scale"])),
                ),
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
        if (
            len({len(table.names), len(table.median), len(table.scale), len(stats.seen.covariates)})
            != 1
        ):
            raise ValueError("is damaged")
        return stats
