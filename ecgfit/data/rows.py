"""Which rows of a store train, select, test, or belong to a fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import STATUS_CODE, InputError, StoreError
from ecgprep.store.format import SPLITS
from ecgprep.store.reader import Store

Missing = Literal["drop", "mask"]


def select_rows(
    store: Store, split: str, missing: Missing, *, labelled: bool = True
) -> NDArray[np.int64]:
    """Return the usable rows of a split, or of `all`, ascending; with `drop`, only those with all eight leads.

    Rows without a label are left out unless `labelled` is False. Raises InputError for an unknown split and StoreError when no row is left.
    """
    rows = usable_rows(store, split, missing, labelled=labelled)
    if not rows.size:
        hint = " with all eight leads; --missing mask keeps the others" if missing == "drop" else ""
        which = "store" if split == "all" else f"{split} split"
        raise StoreError(
            f"{store.path}: the {which} has no usable {'labelled ' if labelled else ''}recording{hint}."
        )
    return rows


def usable_rows(
    store: Store, split: str, missing: Missing, *, labelled: bool = True
) -> NDArray[np.int64]:
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


def fold_rows(
    store: Store, missing: Missing, folds: int, fold: int, seed: int
) -> dict[str, NDArray[np.int64]]:
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
    dealt[shuffled[np.argsort(positive[shuffled], kind="stable")]] = (
        np.arange(len(patients)) % folds
    )
    of_row, selecting = dealt[index], (fold + 1) % folds
    chosen = {
        "scored": of_row == fold,
        "val": of_row == selecting,
        "train": (of_row != fold) & (of_row != selecting),
    }
    return {name: np.sort(rows[keep]) for name, keep in chosen.items()}


def covariate_columns(store: Store, names: Sequence[str]) -> NDArray[np.int64]:
    """Return where the store holds the covariates. Raises InputError naming those that it has."""
    absent = [name for name in names if name not in store.covariate_names]
    if absent:
        has = ", ".join(store.covariate_names) or "none"
        raise InputError(
            f"tabular: {store.path} has no covariate {', '.join(absent)} (it has: {has}). Build it with --covariates."
        )
    return np.array([store.covariate_names.index(name) for name in names], np.int64)
