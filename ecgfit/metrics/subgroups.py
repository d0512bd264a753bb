"""Metrics by subgroup, with small groups withheld."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.metrics.bootstrap import (
    N_BOOTSTRAP,
    count_patients,
    with_intervals,
)
from ecgfit.metrics.definitions import (
    Columns,
    Floats,
    Ints,
    check_labels_and_probabilities,
    curve_metrics,
    threshold_metrics,
)
from ecgfit.metrics.summary import with_score_intervals
from ecgprep.reports.disclosure import SMALLEST_COUNT, UNSURE, Range, possible

SUBGROUP_METRICS = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv")


N_BOOTSTRAP_SUBGROUP = 500


COUNTS = ("n", "n_positive", "n_negative")


WITHHELD = "fewer than 10 patients, positive or negative ones, here or in a group beside it"


def subgroups(
    label: Ints,
    probability: Floats,
    threshold: float | Floats,
    groups: Mapping[str, NDArray[Any]],
    seed: int,
    n_bootstrap: int = N_BOOTSTRAP_SUBGROUP,
    cluster: Ints | None = None,
) -> dict[str, Any]:
    """Return for each grouping, an array of names (n,), and each of its groups: patients, positive and negative ones, metrics with intervals.

    A group with fewer than 10 patients, positive patients or negative patients is withheld, and others beside it where the total less the
    rest would give its counts away (see `suppress`).
    Raises ValueError as `compute_metrics`, and for a grouping of another length.
    """
    check_labels_and_probabilities(label, probability)
    result = {}
    for grouping, names in groups.items():
        if names.shape != label.shape:
            raise ValueError(
                f"grouping {grouping} has shape {names.shape}; there are {len(label)} labels."
            )
        counts = {}
        for name in np.unique(names):
            here = names == name
            n, n_positive = count_patients(label[here], None if cluster is None else cluster[here])
            counts[str(name)] = {"n": n, "n_positive": n_positive, "n_negative": n - n_positive}
        result[grouping] = suppress(counts)
        for name, group in result[grouping].items():
            if group["suppressed"] is None:
                here = names == name
                part = None if cluster is None else cluster[here]
                own = np.broadcast_to(threshold, label.shape)[here]
                group["metrics"] = _subgroup_metrics(
                    label[here], probability[here], own, seed, n_bootstrap, part
                )
    return result


def suppress(
    counts: Mapping[str, dict[str, int]], smallest: int = SMALLEST_COUNT, unsure: int = UNSURE
) -> dict[str, dict[str, Any]]:
    """Return {group: {n, n_positive, n_negative, suppressed, metrics}}, without small counts and what would give them away.

    The classes of a group with any count below `smallest` are withheld, and so are those of the smallest other groups, one after the other,
    until each small count has at least `unsure` values for a reader who knows the totals, this method, and even which counts are small; where
    that takes all groups but one, of all. `n` of withheld groups is shown where no group of the grouping has a small one. Nothing says
    which group is withheld for its own counts and which beside it.
    """
    small = [name for name, count in counts.items() if min(count.values()) < smallest]
    others = sorted(
        (name for name in counts if name not in small), key=lambda name: (counts[name]["n"], name)
    )
    n_shown = all(count["n"] >= smallest for count in counts.values())
    choices = ({*small, *others[:beside]} for beside in range(len(others)))
    withheld = (
        next(
            (
                chosen
                for chosen in choices
                if _keeps_secret(counts, chosen, n_shown, smallest, unsure)
            ),
            set(counts),
        )
        if small
        else set()
    )
    return {
        name: {
            key: value if name not in withheld or (key == "n" and n_shown) else None
            for key, value in count.items()
        }
        | {"suppressed": WITHHELD if name in withheld else None, "metrics": None}
        for name, count in counts.items()
    }


def _keeps_secret(
    counts: Mapping[str, Mapping[str, int]],
    withheld: set[str],
    n_shown: bool,
    smallest: int,
    unsure: int,
) -> bool:
    """Say whether each small count has enough values left, by narrowing down what is possible from sums over groups and within each group."""
    totals = {key: sum(counts[name][key] for name in withheld) for key in COUNTS}
    most = dict(totals)
    most["n"] = min(
        [totals["n"], *(count["n"] for name, count in counts.items() if name not in withheld)]
    )  # others are withheld by size
    ranges: dict[str, dict[str, Range]] = {
        key: {
            name: (int(key == "n"), smallest - 1)
            if counts[name][key] < smallest
            else (smallest, most[key])
            for name in withheld
        }
        for key in COUNTS
    }
    if n_shown:
        ranges["n"] = {name: (counts[name]["n"], counts[name]["n"]) for name in withheld}
    for _ in range(4):  # more change nothing
        ranges = {key: possible(totals[key], ranges[key]) for key in COUNTS}
        for name in withheld:
            (low, high), (low_p, high_p), (low_n, high_n) = (ranges[key][name] for key in COUNTS)
            ranges["n"][name] = max(low, low_p + low_n), min(high, high_p + high_n)
            ranges["n_positive"][name] = max(low_p, low - high_n), min(high_p, high - low_n)
            ranges["n_negative"][name] = max(low_n, low - high_p), min(high_n, high - low_p)
    small = ((key, name) for key in COUNTS for name in withheld if counts[name][key] < smallest)
    return len(withheld) > 1 and all(
        ranges[key][name][1] - ranges[key][name][0] + 1 >= unsure for key, name in small
    )


def _subgroup_metrics(
    label: Ints,
    probability: Floats,
    threshold: Floats,
    seed: int,
    n_bootstrap: int,
    cluster: Ints | None,
) -> dict[str, Any]:
    def compute(weight: Floats) -> Columns:
        values = curve_metrics(label, probability, weight) | threshold_metrics(
            label, probability, threshold, weight
        )
        return {name: values[name] for name in SUBGROUP_METRICS}

    return with_score_intervals(
        with_intervals(compute, len(label), seed, n_bootstrap, cluster),
        label,
        probability >= threshold,
        cluster,
    )


def count_baseline(
    label: Ints, n_recordings: NDArray[Any], seed: int = 0, n_bootstrap: int = N_BOOTSTRAP
) -> dict[str, Any]:
    """Return AUROC and AUPRC, with intervals, of each patient's number of recordings as the only predictor: more is taken as more risk.

    Sick patients are recorded more often. A model that sees all of a patient's recordings can use that; this says how far it would get.
    """
    score = n_recordings.astype(np.float64)
    return with_intervals(
        lambda weight: curve_metrics(label, score, weight), len(label), seed, n_bootstrap
    )
