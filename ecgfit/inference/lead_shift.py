"""How the leads of some recordings differ from those that a run was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecgfit.metrics.results import LeadShare, LeadShift
from ecgfit.run import RunFolder
from ecgprep.leads import LEADS

RELEVANT_DIFFERENCE = 0.1
"""Shares of recordings that have a lead may differ by less than this without a word."""

BY_CHANCE = 0.001
"""They may also differ by what chance gives small samples with at least this probability."""


def unseen_leads(run: RunFolder) -> list[str]:
    """Return the leads that no train recording of any member has; none where the ECG is not used.

    The model never gets them (`ModelInput`).
    """
    if run.config.tabular_only:
        return []
    seen = np.any([member.stats.is_seen for member in run.members], axis=0)
    return [lead for lead, is_seen in zip(LEADS, seen.tolist(), strict=True) if not is_seen]


def lead_shift(run: RunFolder, lead_mask: NDArray[np.bool_]) -> LeadShift | None:
    """Compare the leads of recordings, `lead_mask` (n, 8), with those of the train recordings.

    Returns None where there is nothing to say, as for most recordings.
    """
    unseen = unseen_leads(run)
    is_unseen = np.isin(LEADS, unseen)
    masked = lead_mask[:, is_unseen].any(axis=1)
    differing = {} if run.config.tabular_only else _differing(run, lead_mask, unseen)
    if not masked.any() and not differing:
        return None
    return {
        "n_records": len(lead_mask),
        "unseen": [lead for lead in unseen if lead_mask[:, LEADS.index(lead)].any()],
        "n_records_masked": int(masked.sum()),
        "differing": differing,
    }


def _differing(
    run: RunFolder, lead_mask: NDArray[np.bool_], unseen: Sequence[str]
) -> dict[str, LeadShare]:
    """Return the shares of each lead, unseen ones aside, whose share is relevantly another."""
    counts = [member.stats.seen.lead_records for member in run.members]
    if any(count is None for count in counts) or not len(lead_mask):
        return {}  # trained before leads were counted
    # Members share most of their recordings, so they count as one sample.
    n_train = max(member.stats.n_records for member in run.members)
    shares = [
        np.array(member.stats.seen.lead_records) / member.stats.n_records for member in run.members
    ]
    trained, here = np.mean(shares, axis=0), lead_mask.mean(axis=0)
    is_relevant = np.abs(here - trained) >= RELEVANT_DIFFERENCE
    return {
        lead: {"train": float(trained[i]), "here": float(here[i])}
        for i, lead in enumerate(LEADS)
        if lead not in unseen
        and is_relevant[i]
        and _probability_by_chance(trained[i], n_train, here[i], len(lead_mask)) < BY_CHANCE
    }


def _probability_by_chance(share_a: float, n_a: int, share_b: float, n_b: int) -> float:
    """Return the p value of Fisher's exact test of two shares."""
    from scipy.stats import fisher_exact  # importing it takes most of a second

    counts = np.rint([share_a * n_a, share_b * n_b]).astype(int)
    table = [counts, np.array([n_a, n_b]) - counts]
    return float(fisher_exact(table).pvalue)


def shift_in_words(shift: LeadShift | None) -> list[str]:
    """Return a line on unseen leads and one on leads that are rarer or more common; or neither."""
    if shift is None:
        return []
    lines = []
    if shift["unseen"]:
        lines.append(
            f"{', '.join(shift['unseen'])}: no train recording has them, so the model does not "
            f"get them ({shift['n_records_masked']:,} of {shift['n_records']:,} recordings have "
            "some)"
        )
    if shift["differing"]:
        shares = [
            f"{lead} in {100 * share['here']:.0f} % (training: {100 * share['train']:.0f} %)"
            for lead, share in shift["differing"].items()
        ]
        lines.append(f"other leads than in training: {', '.join(shares)} of the recordings")
    return lines
