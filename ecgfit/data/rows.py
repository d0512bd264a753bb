"""Which rows of a store train, select, test, or belong to a fold."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import STATUS_CODE, InputError, StoreError
from ecgprep.store.format import SPLITS
from ecgprep.store.reader import Store

Missing = Literal["drop", "mask"]
"""How to treat recordings that lack a lead: drop them, or mask the leads they lack."""

FOLDS_DEALT_BY = "StratifiedKFold"
"""How patients are dealt to folds, noted with each run: members of one run must agree on it."""


def select_rows(
    store: Store, split: str, missing: Missing, *, labelled: bool = True
) -> NDArray[np.int64]:
    """Return the usable rows of a split, or of `all`, ascending.

    With `drop`, only rows with all eight leads are usable. Rows without a label are left out unless
    `labelled` is False. Raises InputError for an unknown split, StoreError when no row is left.
    """
    rows = usable_rows(store, split, missing, labelled=labelled)
    if rows.size:
        return rows
    where = "store" if split == "all" else f"{split} split"
    what = "labelled recording" if labelled else "recording"
    hint = ""
    if missing == "drop":
        hint = " with all eight leads; --missing mask keeps the others"
    raise StoreError(f"{store.path}: the {where} has no usable {what}{hint}.")


def usable_rows(
    store: Store, split: str, missing: Missing, *, labelled: bool = True
) -> NDArray[np.int64]:
    """Return what `select_rows` does, or an empty array where no row is left."""
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
    """Return the rows of one turn of cross-validation: `scored`, `val` and `train`.

    The patients of train and val are dealt to the folds at random, stratified by label; a patient
    is positive when any recording is. Fold `fold` is scored, the next one selects the epoch, the
    others train: nothing is chosen on what is scored. The test split takes no part. Raises
    InputError when there are too few patients.
    """
    rows = np.concatenate([select_rows(store, split, missing) for split in ("train", "val")])
    _, patient_of_row = np.unique(store.array("patient")[rows], return_inverse=True)
    n_positive_rows = np.bincount(patient_of_row, store.array("label")[rows] == 1)
    fold_of_row = _deal(n_positive_rows > 0, folds, seed)[patient_of_row]
    selecting = (fold + 1) % folds
    chosen = {
        "scored": fold_of_row == fold,
        "val": fold_of_row == selecting,
        "train": (fold_of_row != fold) & (fold_of_row != selecting),
    }
    return {name: np.sort(rows[keep]) for name, keep in chosen.items()}


def _deal(positive: NDArray[np.bool_], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each patient."""
    from sklearn.model_selection import StratifiedKFold  # takes a second to import

    n_patients, n_positive = len(positive), int(positive.sum())
    if max(n_positive, n_patients - n_positive) < folds:
        raise InputError(
            f"folds: {n_patients} patients, {n_positive} of them positive, are too few for {folds} "
            "folds. Use fewer --folds."
        )
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    fold_of_patient = np.empty(n_patients, np.int64)
    with warnings.catch_warnings():
        # A class with fewer patients than folds; who uses the rows checks that both are there.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for fold, (_, held_out) in enumerate(splitter.split(positive, positive)):
            fold_of_patient[held_out] = fold
    return fold_of_patient


def covariate_columns(store: Store, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the columns of covariates. Raises InputError naming those that the store has."""
    absent = [name for name in names if name not in store.covariate_names]
    if absent:
        has = ", ".join(store.covariate_names) or "none"
        raise InputError(
            f"tabular: {store.path} has no covariate {', '.join(absent)} (it has: {has}). "
            "Build it with --covariates."
        )
    return np.array([store.covariate_names.index(name) for name in names], np.int64)
