"""Which values an option may have, for the API and for the commands alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ecgprep.errors import InputError

LIMITS: dict[str, tuple[float, float | None]] = {
    "hz": (50, 2000),
    "length": (100, 1_000_000),
    "min_seconds": (0, None),
    "min_leads": (1, 8),
    "split_seed": (0, 2**31 - 1),
    "max_rejected": (0, 1),
    "jobs": (1, 256),
    "ecgs": (0, 200),
    "patients": (1, 10_000_000),
    "seed": (0, 2**31 - 1),
    "prevalence": (0, 1),
    "auroc": (0.5, 1),
    "parameters": (1, 10_000),
    "risk_threshold": (0, 1),
}
"""The smallest and the largest value of each number; None where there is no largest."""

FRACTIONS = frozenset({"min_seconds", "max_rejected", "prevalence", "auroc", "risk_threshold"})
"""The numbers that need not be whole."""

CHOICES: dict[str, tuple[str, ...]] = {
    "label_level": ("record", "patient"),
    "duplicates": ("near", "exact"),
    "codec": ("zstd",),
    "dialects": ("muse", "aecg", "cardiosoft", "philips", "schiller", "sapphire", "mortara"),
}
"""The words that an option may be, or, if it is a list, that each of its entries may be."""


def check_options(**values: Any) -> None:
    """Check values against `LIMITS` and `CHOICES`.

    Raises:
        InputError: naming the first option whose value is not allowed.
    """
    for name, value in values.items():
        if name in CHOICES:
            _check_choice(name, value)
        elif name in LIMITS:
            _check_limits(name, value)


def _check_choice(name: str, value: str | Iterable[str]) -> None:
    given = [value] if isinstance(value, str) else list(value)
    unknown = [word for word in given if word not in CHOICES[name]]
    if unknown:
        raise InputError(f"{name} (={', '.join(unknown)}) must be {_listed(CHOICES[name])}.")


def _listed(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _check_limits(name: str, value: float) -> None:
    low, high = LIMITS[name]
    may_be_fraction = name in FRACTIONS
    is_number = isinstance(value, (int, float) if may_be_fraction else int)
    if is_number and not isinstance(value, bool) and low <= value <= (high or math.inf):
        return
    what = "a number" if may_be_fraction else "a whole number"
    allowed = f"at least {low:,}" if high is None else f"from {low:,} to {high:,}"
    raise InputError(f"{name} (={value!r}) must be {what}, {allowed}.")
