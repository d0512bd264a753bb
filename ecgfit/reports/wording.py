"""How reports write numbers, intervals, splits and rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecgfit.metrics.thresholds import parse_rule

_RULES = {
    "youden": "the threshold with the largest sensitivity + specificity − 1 (Youden)",
    "f1": "the threshold with the largest F1 score",
    "sensitivity": "the highest threshold with a sensitivity of at least {}",
    "specificity": "the lowest threshold with a specificity of at least {}",
    "npv": "the highest threshold with a negative predictive value of at least {}",
    "net-benefit": "the threshold with the largest net benefit at a risk of {}",
    "fixed": "the threshold {}, fixed in advance",
}
_SPLITS = {
    "scored": "scored (not for development)",
    "train": "train",
    "val": "validation",
    "test": "test",
    "oof": "out-of-fold",
    "all": "all rows",
    "folds": "cross-validated",
}


def rule_in_words(rule: str) -> str:
    """Say how a threshold was chosen."""
    name, _, value = rule.partition("=")
    return _RULES.get(name, rule).format(value)


def is_fixed(rule: str) -> bool:
    """Say whether the threshold was given in advance instead of chosen on data."""
    return parse_rule(rule)[0] == "fixed"


def split_name(name: str) -> str:
    """Return the readers' name of a split, with the aggregation where it is not the run's own."""
    rows, _, aggregation = name.removeprefix("external_").partition("_")
    words = f"external {rows}" if name.startswith("external_") else _SPLITS.get(rows, rows)
    if not aggregation:
        return words
    if aggregation == "none":
        return f"{words}, recordings one by one"
    return f"{words}, {aggregation} of recordings"


def day(value: int) -> str:
    """Return a day counted from the index, with a real minus sign."""
    return f"{value:,}".replace("-", "−")


def number(value: float | None) -> str:
    """Return a number with three decimals and a real minus sign."""
    return "undefined" if value is None else f"{value:.3f}".replace("-", "−")


def percent(value: float | None) -> str:
    """Return a proportion in whole percent."""
    return "undefined" if value is None else f"{100 * value:.0f} %"


def between(entry: Mapping[str, Any]) -> str:
    """Return the 95 % interval of a metric in words, or nothing where it has no width.

    An interval without width is what resampling gives where all resamples agree.
    """
    if not entry.get("ci95"):
        return ""
    low, high = entry["ci95"]
    if low == high:
        return ""
    return f"{low:.3f} to {high:.3f}".replace("-", "−")


def interval_or_reason(entry: Mapping[str, Any]) -> str:
    """Return the text beside a value in a table: its interval, or why there is none."""
    return between(entry) or str(entry.get("reason", ""))


def with_interval(entry: Mapping[str, Any]) -> str:
    """Return a value, and its interval in brackets where it has one."""
    interval = between(entry)
    value = number(entry["value"])
    return f"{value} ({interval})" if interval else value
