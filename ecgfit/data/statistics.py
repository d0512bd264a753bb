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
    """Median and scale of each covariate over the train rows.

    The scale is the standard deviation of the known values, or 1 where that is 0.
    """

    names: tuple[str, ...] = ()
    median: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @classmethod
    def of(cls, store: Store, rows: NDArray[np.int64], names: Sequence[str]) -> CovariateStats:
        """Compute over rows.

        Raises InputError for a covariate that the store lacks, or that is empty in every row.
        """
        columns = covariate_columns(store, names)
        values = store.array("covariates")[np.ix_(rows, columns)].astype(np.float64)
        is_known = ~np.isnan(values)
        empty = [name for i, name in enumerate(names) if not is_known[:, i].any()]
        if empty:
            raise InputError(f"tabular: no train recording has a value of {', '.join(empty)}.")
        deviation = np.nanstd(values, axis=0)
        scale = np.where(deviation > 0, deviation, 1.0)
        median = np.nanmedian(values, axis=0)
        return cls(tuple(names), tuple(median.tolist()), tuple(scale.tolist()))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CovariateStats:
        """Read one from JSON. Raises KeyError, TypeError or ValueError when it is not one."""
        return cls(
            names=tuple(map(str, value["names"])),
            median=tuple(map(float, value["median"])),
            scale=tuple(map(float, value["scale"])),
        )


@dataclass(frozen=True)
class SeenRange:
    """The range of the train recordings, with which a recording to predict is compared."""

    rates_hz: tuple[float, ...]
    lead_sd_uv: tuple[tuple[float, float], ...]
    """Least and greatest standard deviation of a recording's lead, for each lead."""
    shortest_samples: int
    fewest_leads: int
    covariates: tuple[tuple[float, float], ...]
    """Least and greatest value of each covariate."""
    lead_records: tuple[int, ...] | None = None
    """How many recordings have each lead; None in runs that did not count them."""

    @classmethod
    def of(cls, store: Store, rows: NDArray[np.int64], names: Sequence[str]) -> SeenRange:
        """Collect over rows from the arrays of the store; no waveform is read."""
        spans, mask = store.array("valid_span")[rows], store.array("lead_mask")[rows]
        length = spans[:, 1] - spans[:, 0]
        deviation = np.where(mask, lead_deviation(store.array("moments")[rows], length), np.nan)
        lead_bounds = []
        for lead in range(len(LEADS)):
            is_present = bool(mask[:, lead].any())
            bounds = _bounds(deviation[:, lead]) if is_present else (0.0, 0.0)
            lead_bounds.append(bounds)
        values = store.array("covariates")[np.ix_(rows, covariate_columns(store, names))]
        return cls(
            rates_hz=tuple(np.unique(store.array("rate_hz")[rows]).astype(float).tolist()),
            lead_sd_uv=tuple(lead_bounds),
            shortest_samples=int(length.min()),
            fewest_leads=int(mask.sum(axis=1).min()),
            covariates=tuple(_bounds(column) for column in values.T),
            lead_records=tuple(mask.sum(axis=0).tolist()),
        )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SeenRange:
        """Read one from JSON. Raises KeyError, TypeError or ValueError when it is not one."""
        counts = value.get("lead_records")
        return cls(
            rates_hz=tuple(map(float, value["rates_hz"])),
            lead_sd_uv=_pairs(value["lead_sd_uv"]),
            shortest_samples=int(value["shortest_samples"]),
            fewest_leads=int(value["fewest_leads"]),
            covariates=_pairs(value["covariates"]),
            lead_records=None if counts is None else tuple(map(int, counts)),
        )


def _bounds(values: NDArray[Any]) -> tuple[float, float]:
    return float(np.nanmin(values)), float(np.nanmax(values))


def _pairs(values: Any) -> tuple[tuple[float, float], ...]:
    return tuple((float(low), float(high)) for low, high in values)


def lead_deviation(moments: NDArray[np.int64], length: NDArray[Any]) -> NDArray[np.float64]:
    """Return the standard deviation in µV of each lead of each recording, (n, 8).

    `moments` holds Σx and Σx², (n, 8, 2), over `length` samples, (n,).
    """
    n = np.maximum(length, 1)[:, None]
    mean = moments[:, :, 0] / n
    variance = moments[:, :, 1] / n - mean**2
    return np.asarray(np.sqrt(np.maximum(variance, 0)))


@dataclass(frozen=True)
class NormStats:
    """Mean and standard deviation of each lead over the train rows, and other statistics.

    Means and deviations are in µV, over the valid samples.
    """

    mean_uv: tuple[float, ...]
    std_uv: tuple[float, ...]
    n_records: int
    covariates: CovariateStats
    seen: SeenRange

    @property
    def is_seen(self) -> tuple[bool, ...]:
        """Say for each lead whether any train recording has it.

        A lead that is constant is missing, so the deviation of a lead that was seen is above 0.
        """
        return tuple(std > 0 for std in self.std_uv)

    @classmethod
    def of(cls, store: Store, rows: NDArray[np.int64], covariates: Sequence[str] = ()) -> NormStats:
        """Compute from the store's integer moments: exact, and no waveform is read."""
        mean, std = store.lead_statistics(rows)
        return cls(
            mean_uv=tuple(mean.tolist()),
            std_uv=tuple(std.tolist()),
            n_records=len(rows),
            covariates=CovariateStats.of(store, rows, covariates),
            seen=SeenRange.of(store, rows, covariates),
        )

    def save(self, path: Path) -> None:
        """Write `norm_stats.json`."""
        value = {
            "leads": list(LEADS),
            "mean_uv": list(self.mean_uv),
            "std_uv": list(self.std_uv),
            "n_train_records": self.n_records,
            "covariates": asdict(self.covariates),
            "seen": asdict(self.seen),
        }
        write_json(path, value)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> NormStats:
        """Read what `save` wrote. Raises ValueError, saying what is wrong, when it is not that."""
        try:
            stats = cls(
                mean_uv=tuple(map(float, value["mean_uv"])),
                std_uv=tuple(map(float, value["std_uv"])),
                n_records=int(value["n_train_records"]),
                covariates=CovariateStats.from_json(value["covariates"]),
                seen=SeenRange.from_json(value["seen"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError("is damaged") from None
        n_leads = {len(stats.mean_uv), len(stats.std_uv), len(stats.seen.lead_sd_uv)}
        n_leads |= {len(stats.seen.lead_records or LEADS)}
        if value.get("leads") != list(LEADS) or n_leads != {len(LEADS)}:
            raise ValueError(f"is not for the leads {', '.join(LEADS)}")
        table = stats.covariates
        columns = (table.names, table.median, table.scale, stats.seen.covariates)
        if len({len(column) for column in columns}) != 1:
            raise ValueError("is damaged")
        return stats
