"""Covariates: which columns of a manifest may enter the store, and how their fields are read.

The store is handed over, so a column that could identify a patient is refused: by its name, by
values that look like dates, or because nearly every patient has a different value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import InputError

AGE_LIMIT = 90
"""Ages over 89 become 90 (HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(C))."""

NAME_RULE = "the name must be letters, digits and _ and must not be that of an id, a path or a date"
"""What `is_allowed_name` checks, in the words of messages."""

_MAX_ABS = 1e30

_MIN_PATIENTS, _MAX_DISTINCT = 20, 0.9
"""From so many patients on, a column with so many different values per patient is refused."""

_FIRST_DATE, _LAST_DATE = 19000101, 21001231

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")

_IDENTIFYING = re.compile(
    r"(^|_)(id|ids|mrn|name|path|file|dob|time|timestamp|phone|mail|email|address|zip|postcode"
    r"|ssn|number|no)(_|$)"
    r"|date|birth"
    r"|(patient|study|ecg|record|person|subject|case|visit|encounter)_?(id|no|nr|num)",
    re.IGNORECASE,
)


def is_allowed_name(name: str) -> bool:
    """Return whether a column's name is plain and is not that of an id, a path or a date."""
    return bool(_NAME.fullmatch(name)) and not _IDENTIFYING.search(name)


def covariate_value(text: str, name: str) -> float:
    """Read a number, or NaN from an empty field; an age over 89 becomes 90.

    Raises ValueError for anything else.
    """
    stripped = text.strip()
    if not stripped:
        return math.nan
    value = float(stripped)
    is_plain = math.isfinite(value) and abs(value) < _MAX_ABS and "_" not in stripped
    if not is_plain:
        raise ValueError("not a number")
    if value > AGE_LIMIT - 1 and _is_age(name):
        return float(AGE_LIMIT)
    return value


@cache
def _is_age(name: str) -> bool:
    """Return whether a column holds ages: `age`, `patientAge`, `age_at_ecg`; not `agent_dose`."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return any(word.lower() in ("age", "ages") for word in words)


def check_not_identifying(
    path: Path, names: Sequence[str], values: NDArray[np.float32], n_patients: int
) -> None:
    """Refuse a column whose values (N, K) work as an identifier, whatever its name.

    Raises InputError.
    """
    for k, name in enumerate(names):
        known = values[~np.isnan(values[:, k]), k]
        where = f"Manifest {path.name}: --covariates {name}"
        if known.size and ((known >= _FIRST_DATE) & (known <= _LAST_DATE)).all():
            raise InputError(
                f"{where}: its values look like dates (YYYYMMDD). Leave the column out."
            )
        n_distinct = len(np.unique(known))
        if n_patients >= _MIN_PATIENTS and n_distinct >= _MAX_DISTINCT * n_patients:
            raise InputError(
                f"{where}: {n_distinct:,} different values for {n_patients:,} patients would "
                "identify them. Round or group the values, or leave the column out."
            )
