"""What is in a store, as numbers: the content of `ecgprep inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import STATUS_CODE, STATUSES
from ecgprep.leads import LEADS
from ecgprep.store.format import SPLITS
from ecgprep.store.reader import Store


class SplitCounts(TypedDict):
    """Patients and recordings of one split."""

    patients: int
    positive_patients: int
    patients_with_both_labels: int
    records: int
    positive_records: int


class StoreSummary(TypedDict):
    """What is in a store, ready for JSON; `ok` rows are those that can be used."""

    rows: int
    status: dict[str, int]
    """Rows by status, of those that occur."""
    splits: dict[str, SplitCounts]
    asked: dict[str, str]
    """What was asked for each split, in words: a share of the patients, or the test list."""
    leads_present: dict[str, int]
    """By lead: `ok` rows that have it."""
    records_with_all_leads: int
    records_padded: int
    quality_flags: dict[str, int]
    """By flag: `ok` rows that have it on any lead."""
    source_rates_hz: dict[str, int]
    """By sampling rate of the file: `ok` rows."""
    sample_rate_hz: float
    n_samples: int
    covariates: list[str]
    settings: dict[str, Any]
    """The options of the build, as in the store's attributes."""
    software: dict[str, str]
    bytes: int
    content_sha256: str


def summarise(store: Store) -> StoreSummary:
    """Count rows by status, patients and labels by split, leads present and rates.

    Every number is taken from the store alone.
    """
    ok = np.asarray(store.array("status")) == STATUS_CODE["ok"]
    lead_mask = store.array("lead_mask")[ok]
    span = store.array("valid_span")[ok]
    settings = store.attributes["settings"]
    return {
        "rows": len(store),
        "status": _count_statuses(store),
        "splits": _describe_splits(store),
        "asked": _describe_request(settings),
        "leads_present": dict(zip(LEADS, lead_mask.sum(axis=0).tolist(), strict=True)),
        "records_with_all_leads": int(lead_mask.all(axis=1).sum()),
        "records_padded": int(np.count_nonzero(span[:, 1] - span[:, 0] < store.n_samples)),
        "quality_flags": _count_flags(store.array("quality")[ok], store.quality_flags),
        "source_rates_hz": _count_rates(store.array("rate_hz")[ok]),
        "sample_rate_hz": store.sample_rate_hz,
        "n_samples": store.n_samples,
        "covariates": store.covariate_names,
        "settings": settings,
        "software": store.attributes["software"],
        "bytes": sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file()),
        "content_sha256": store.content_sha256,
    }


def _count_statuses(store: Store) -> dict[str, int]:
    """Count the rows of each status that occurs."""
    counts = np.bincount(store.array("status"), minlength=len(STATUSES)).tolist()
    return {name: n for name, n in zip(STATUSES, counts, strict=False) if n}


def _count_flags(quality: NDArray[np.uint32], names: Sequence[str]) -> dict[str, int]:
    """Count the rows that have each flag on any lead; bit k is that of the k-th name."""
    return {name: int((quality >> k & 1).any(axis=1).sum()) for k, name in enumerate(names)}


def _count_rates(rates: NDArray[np.float32]) -> dict[str, int]:
    values, counts = np.unique(rates, return_counts=True)
    return {f"{rate:g}": n for rate, n in zip(values, counts.tolist(), strict=True)}


def _describe_request(settings: dict[str, Any]) -> dict[str, str]:
    """Say in words what was asked for each split: a share of the patients, or the test list."""
    ratios = settings.get("split_ratios", [])
    if settings.get("fixed_test"):
        rest = sum(ratios[:2]) or 1
        return {
            "train": f"{100 * ratios[0] / rest:.0f} % of rest",
            "val": f"{100 * ratios[1] / rest:.0f} % of rest",
            "test": "the list",
        }
    return {name: f"{ratio:g} %" for name, ratio in zip(SPLITS, ratios, strict=False)}


def _describe_splits(store: Store) -> dict[str, SplitCounts]:
    split, patient, label = (
        np.asarray(store.array(name)) for name in ("split", "patient", "label")
    )
    return {
        name: _count_patients(patient[split == k], label[split == k])
        for k, name in enumerate(SPLITS)
    }


def _count_patients(patient: NDArray[np.int32], label: NDArray[np.int8]) -> SplitCounts:
    positive, negative = np.unique(patient[label == 1]), np.unique(patient[label == 0])
    return {
        "patients": len(np.unique(patient)),
        "positive_patients": len(positive),
        "patients_with_both_labels": len(np.intersect1d(positive, negative)),
        "records": len(patient),
        "positive_records": int(np.count_nonzero(label == 1)),
    }
