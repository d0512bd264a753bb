"""Metrics by subgroup, with small groups withheld."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.metrics.bootstrap import N_BOOTSTRAP, count_patients, with_intervals
from ecgfit.metrics.definitions import (
    Columns,
    Floats,
    Ints,
    check_labels_and_probabilities,
    curve_metrics,
    threshold_metrics,
)
from ecgfit.metrics.summary import with_score_intervals
from ecgprep.reports.disclosure import FEWEST_VALUES, SMALLEST_COUNT, groups_to_withhold

SUBGROUP_METRICS = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv")
"""The metrics of each group, in the order of the report."""

N_BOOTSTRAP_SUBGROUP = 500
"""Bootstrap replicates a group: there are many groups, and each gets a rough interval."""

WITHHELD = "fewer than 10 patients, positive or negative ones, here or in a group beside it"
"""The reason given for every withheld group, so that it does not tell which one is small."""


def subgroups(
    label: Ints,
    probability: Floats,
    threshold: float | Floats,
    groups: Mapping[str, NDArray[Any]],
    seed: int,
    n_bootstrap: int = N_BOOTSTRAP_SUBGROUP,
    cluster: Ints | None = None,
) -> dict[str, Any]:
    """Return, for each grouping and each of its groups, the counts and the metrics.

    A grouping is an array (n,) of group names. A group has its numbers of patients, positive and
    negative patients, and `SUBGROUP_METRICS` with intervals; `withhold_small_groups` says which
    groups are withheld. `threshold` is one for all, or (n,). `cluster` (n,) holds the patient of
    each entry where entries are recordings.

    Raises ValueError as `compute_metrics` does, and for a grouping of another length.
    """
    check_labels_and_probabilities(label, probability)
    each_threshold = np.broadcast_to(threshold, label.shape)
    result = {}
    for grouping, names in groups.items():
        if names.shape != label.shape:
            raise ValueError(
                f"grouping {grouping} has shape {names.shape}; there are {len(label)} labels."
            )
        members = {str(name): names == name for name in np.unique(names)}
        counts = {name: _count(label, cluster, here) for name, here in members.items()}
        result[grouping] = withhold_small_groups(counts)
        for name, group in result[grouping].items():
            if group["suppressed"] is None:
                here = members[name]
                patient = None if cluster is None else cluster[here]
                own = (label[here], probability[here], each_threshold[here])
                group["metrics"] = _subgroup_metrics(*own, seed, n_bootstrap, patient)
    return result


def _count(label: Ints, cluster: Ints | None, here: NDArray[np.bool_]) -> dict[str, int]:
    """Count the patients of a group, and those of each class."""
    patient = None if cluster is None else cluster[here]
    n, n_positive = count_patients(label[here], patient)
    return {"n": n, "n_positive": n_positive, "n_negative": n - n_positive}


def withhold_small_groups(
    counts: Mapping[str, Mapping[str, int]],
    smallest: int = SMALLEST_COUNT,
    fewest_values: int = FEWEST_VALUES,
) -> dict[str, dict[str, Any]]:
    """Return {group: {n, n_positive, n_negative, suppressed, metrics}}; withheld counts are None.

    A group is withheld if any of its counts is below `smallest`, or to keep such a group from
    being worked out; `ecgprep.reports.disclosure` has the rule. Where no group has fewer than
    `smallest` patients, `n` is shown for all groups and only the classes are withheld. Nothing
    says which group is withheld for its own counts and which beside it.
    """
    sizes_known = all(count["n"] >= smallest for count in counts.values())
    withheld = groups_to_withhold(
        counts, sizes_known=sizes_known, smallest=smallest, fewest_values=fewest_values
    )
    shown: dict[str, dict[str, Any]] = {}
    for name, count in counts.items():
        group: dict[str, Any] = dict(count)
        if name in withheld:
            group = dict.fromkeys(count)
            if sizes_known:
                group["n"] = count["n"]
        reason = WITHHELD if name in withheld else None
        shown[name] = group | {"suppressed": reason, "metrics": None}
    return shown


def _subgroup_metrics(
    label: Ints,
    probability: Floats,
    threshold: Floats,
    seed: int,
    n_bootstrap: int,
    cluster: Ints | None,
) -> dict[str, Any]:
    """Return the metrics of one group with their intervals."""

    def compute(weight: Floats) -> Columns:
        values = curve_metrics(label, probability, weight)
        values |= threshold_metrics(label, probability, threshold, weight)
        return {name: values[name] for name in SUBGROUP_METRICS}

    intervals = with_intervals(compute, len(label), seed, n_bootstrap, cluster)
    return with_score_intervals(intervals, label, probability >= threshold, cluster)


def count_baseline(
    label: Ints, n_recordings: NDArray[Any], seed: int = 0, n_bootstrap: int = N_BOOTSTRAP
) -> dict[str, Any]:
    """Return AUROC and AUPRC of the number of recordings as the only predictor of a patient.

    Sick patients are recorded more often, and a model that sees all recordings of a patient can
    use that. This says how far it would get on the number alone, more counting as more risk.
    """
    score = n_recordings.astype(np.float64)

    def compute(weight: Floats) -> Columns:
        return curve_metrics(label, score, weight)

    return with_intervals(compute, len(label), seed, n_bootstrap)
