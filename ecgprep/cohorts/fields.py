"""Fields of a hospital's tables: dates, percentages, strains, doses and laboratory values.

Each function reads one text and raises ValueError that says what it must be, never what it was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from typing import NamedTuple

from ecgprep.cohorts.expression import DECIMALS
from ecgprep.patients.covariates import MISSING

NO_DAY = -(2**31)
"""The day of a date that is missing."""

_YEARS = range(1900, 2101)
_ISO = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?:Z|[+-]\d{2}(?::?\d{2})?)?)?"
)
_COMPACT = re.compile(r"(\d{8})(?:(\d{2})(\d{2})(\d{2})?)?")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_SEPARATED = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})")

_EXAMPLES = {"iso": "2024-03-31", "compact": "20240331", "dmy": "31.03.2024", "mdy": "03/31/2024"}


class Moment(NamedTuple):
    """A date as a day number (`date.toordinal`), and the seconds of the day as they are written."""

    day: int
    second: float


NO_MOMENT = Moment(NO_DAY, 0.0)


def is_missing(text: str) -> bool:
    """Say whether a field holds nothing, or one of the manifest's words for it, such as NA."""
    return text.strip().lower() in MISSING


def moment_reader(style: str) -> Callable[[str], Moment]:
    """Return the function that reads dates in a style of `task.DateFormat`.

    A missing one is `NO_MOMENT`. A zone is read and not applied: a day is the day that the
    hospital wrote.
    """

    def read(text: str) -> Moment:
        stripped = text.strip()
        if is_missing(stripped):
            return NO_MOMENT
        moment = _moment(stripped, style)
        if moment is None:
            raise ValueError(_wrong_date(stripped, style))
        return moment

    return read


def _moment(text: str, style: str) -> Moment | None:
    try:
        if style == "iso":
            return _iso_moment(text)
        found = _compact_parts(text) if style == "compact" else _separated_parts(text, style)
        if found is None or found[0].year not in _YEARS:
            return None
        day, (hour, minute, second) = found
        clock = time(int(hour or 0), int(minute or 0), int(second or 0))
    except ValueError:
        return None
    return Moment(day.toordinal(), 3600.0 * clock.hour + 60 * clock.minute + clock.second)


def _iso_moment(text: str) -> Moment | None:
    if not _ISO.fullmatch(text):
        return None
    read = datetime.fromisoformat(text)
    if read.year not in _YEARS:
        return None
    second = 3600 * read.hour + 60 * read.minute + read.second + read.microsecond / 1e6
    return Moment(read.toordinal(), second)


_Clock = Sequence[str | None]


def _compact_parts(text: str) -> tuple[date, _Clock] | None:
    """Read `20240331` and `20240331101500`."""
    found = _COMPACT.fullmatch(text)
    return None if found is None else (date.fromisoformat(found[1]), found.groups()[1:])


def _separated_parts(text: str, style: str) -> tuple[date, _Clock] | None:
    """Read `31.03.2024` and `31.03.2024 10:15`."""
    written, _, clock = text.partition(" ")
    found, told = _SEPARATED.fullmatch(written), _CLOCK.fullmatch(clock.strip() or "0:00")
    if found is None or told is None:
        return None
    first, second, year = int(found[1]), int(found[3]), int(found[4])
    day, month = (first, second) if style == "dmy" else (second, first)
    return date(year, month, day), told.groups()


def _wrong_date(text: str, style: str) -> str:
    """Say how a date must be written, and how a column is declared that is written otherwise."""
    is_other = any(_moment(text, other) for other in _EXAMPLES if other != style)
    must = f"must be a date from 1900 to 2100, such as {_EXAMPLES[style]}"
    if not is_other:
        return must
    # One message for all: 03.04. could be of two formats, 31.03. only of one.
    examples = ", ".join(f"{name} {_EXAMPLES[name]}" for name in _EXAMPLES if name != style)
    return (
        f"{must}, but is a date in another format. One column has one format: correct it, or, if "
        f"the whole table is written so, name its format under dates in the task ({examples})"
    )


def number_reader(
    decimal_comma: bool, check: Callable[[float], float] = float
) -> Callable[[str], float]:
    """Return the function that reads a number and calls `check`; NaN if it is missing."""

    def read(text: str) -> float:
        stripped = text.strip()
        if is_missing(stripped):
            return math.nan
        return check(round(_number(stripped, decimal_comma), DECIMALS))

    return read


def _number(text: str, decimal_comma: bool) -> float:
    if decimal_comma:
        text = text.replace(",", ".")
    if "_" in text:
        raise ValueError("must be a number")
    try:
        value = float(text)
    except ValueError:
        raise ValueError("must be a number") from None
    if not math.isfinite(value):
        raise ValueError("must be a number")
    return value


def lvef_reader(decimal_comma: bool) -> Callable[[str], float]:
    """Return the function that reads LVEF in percent."""
    message = "LVEF must be one number in percent, such as 55; not a range and not text"

    def read(text: str) -> float:
        stripped = text.strip()
        if is_missing(stripped):
            return math.nan
        try:
            value = round(_number(stripped, decimal_comma), DECIMALS)
        except ValueError:
            raise ValueError(message) from None
        if 0 < value <= 1:
            raise ValueError("LVEF must be in percent (55), not a fraction (0.55)")
        if not 1 < value <= 100:
            raise ValueError("LVEF must be more than 1 and at most 100 percent")
        return value

    return read


def strain(sign: str | None) -> Callable[[float], float]:
    """Return the check of a GLS with the declared sign; the result is its magnitude."""

    def check(value: float) -> float:
        if abs(value) > 60:
            raise ValueError("GLS must be in percent, of at most 60")
        if 0 < abs(value) < 1:
            raise ValueError("GLS must be in percent (-18), not a fraction (-0.18)")
        if sign is not None and value * (-1 if sign == "negative" else 1) < 0:
            raise ValueError(f"GLS must not have another sign than gls_sign, which is {sign}")
        return abs(value)

    return check


def not_negative(value: float) -> float:
    """Refuse a number below 0."""
    if value < 0:
        raise ValueError("must not be negative")
    return value


def laboratory_reader(decimal_comma: bool) -> Callable[[str], float]:
    """Return the function that reads a laboratory value; `<5` and `>5` are read as 5."""
    read = number_reader(decimal_comma, not_negative)
    return lambda text: read(text.strip().lstrip("<>"))


def flag(text: str) -> float:
    """Read 0, 1 or nothing (NaN)."""
    if is_missing(text):
        return math.nan
    stripped = text.strip()
    if stripped not in ("0", "1"):
        raise ValueError("must be 0, 1 or empty")
    return float(stripped)
