"""What is in a store, as numbers: the content of `ecgprep inspect`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ecgprep.errors import STATUS_CODE, STATUSES
from ecgprep.leads import LEADS
from ecgprep.store.format import SPLITS
from ecgprep.store.reader import Store


def summarise(store: Store) -> dict[str, Any]:
    """Count rows by status, patients and labels by split, leads present and rates; every figure is taken from the store alone."""
    status, split, patient, label = (
        np.asarray(store.array(name)) for name in ("status", "split", "patient", "label")
    )
    ok = status == STATUS_CODE["ok"]
    rates, n_rates = np.unique(store.array("rate_hz")[ok], return_counts=True)
    span = store.array("valid_span")[ok]
    return {
        "rows": len(store),
        "status": {
            name: int(n)
            for code, name in enumerate(STATUSES)
            if (n := np.count_nonzero(status == code))
        },
        "splits": {
            name: _split(patient[(split == k)], label[split == k]) for k, name in enumerate(SPLITS)
        },
        "asked": _asked(store.attributes["settings"]),
        "leads_present": {
            lead: int(n)
            for lead, n in zip(LEADS, store.array("lead_mask")[ok].sum(axis=0), strict=True)
        },
        "records_with_all_leads": int(store.array("lead_mask")[ok].all(axis=1).sum()),
        "records_padded": int(np.count_nonzero(span[:, 1] - span[:, 0] < store.n_samples)),
        "source_rates_hz": {f"{rate:g}": int(n) for rate, n in zip(rates, n_rates, strict=True)},
        "sample_rate_hz": store.sample_rate_hz,
        "n_samples": store.n_samples,
        "covariates": store.covariate_names,
        "settings": store.attributes["settings"],
        "software": store.attributes["software"],
        "bytes": sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file()),
        "content_sha256": store.content_sha256,
    }


def _asked(settings: dict[str, Any]) -> dict[str, str]:
    """What was asked for each split, in words: a share of the patients, or the test list."""
    ratios = settings.get("split_ratios", [])
    if settings.get("fixed_test"):
        rest = sum(ratios[:2]) or 1
        return {
            "train": f"{100 * ratios[0] / rest:.0f} % of rest",
            "val": f"{100 * ratios[1] / rest:.0f} % of rest",
            "test": "the list",
        }
    return {name: f"{ratio:g} %" for name, ratio in zip(SPLITS, ratios, strict=False)}


def _split(patient: np.ndarray[Any, Any], label: np.ndarray[Any, Any]) -> dict[str, int]:
    positive, negative = np.unique(patient[label == 1]), np.unique(patient[label == 0])
    return {
        "patients": len(np.unique(patient)),
        "positive_patients": len(positive),
        "patients_with_both_labels": len(np.intersect1d(positive, negative)),
        "records": len(patient),
        "positive_records": int(np.count_nonzero(label == 1)),
    }
