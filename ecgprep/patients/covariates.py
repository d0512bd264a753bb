"""Covariates: which columns of a manifest may enter the store, and how their fields are read.

The store is handed over, so a column that could identify a patient is refused: by its name, by
values that look like dates, or because nearly every patient has a different value. A user who
knows that such a column identifies no one can allow it, unless its name is that of a person or
a date, or its values look like dates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import InputError, describe
from ecgprep.header import MEASUREMENTS
from ecgprep.patients.identifiers import clean_id
from ecgprep.sex_code import SexCode, sex_of

AGE_LIMIT = 90
"""Ages over 89 become 90 (HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(C))."""

MISSING = frozenset({"", ".", "na", "n/a", "#n/a", "nan", "null", "none"})
"""Fields that say that there is no value, in any case."""

NAME_RULE = "the name must be letters, digits and _ and must not be that of an id, a path or a date"
"""What `is_allowed_name` checks, in the words of messages."""

_MAX_ABS = 1e30

_MIN_PATIENTS, _MAX_DISTINCT = 20, 0.9
"""From so many patients on, a column with so many different values per patient is refused."""

_MAX_MEASUREMENT = 1000
"""No heart rate, interval in ms or axis in degrees of a cart is larger."""

_FIRST_DATE, _LAST_DATE = 19000101, 21001231

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")

_IDENTIFYING = re.compile(
    r"(^|_)(id|ids|mrn|name|path|file|dob|time|timestamp|phone|mail|email|address|zip|postcode"
    r"|ssn|number|no)(_|$)"
    r"|date|birth"
    r"|(patient|study|ecg|record|person|subject|case|visit|encounter)_?(id|no|nr|num)",
    re.IGNORECASE,
)

_NEVER_ALLOWED = re.compile(
    r"(^|_)(mrn|name|path|file|dob|timestamp|phone|mail|email|address|zip|postcode|ssn)(_|$)"
    r"|^ids?$|date|birth_?(day|month|year)|(day|month|year)_of_birth"
    r"|(patient|study|ecg|record|person|subject|case|visit|encounter)_?ids?(_|$)"
    r"|(patient|person|subject|case)_?(no|nr|num)",
    re.IGNORECASE,
)
"""Names of people, their places, files and dates: `--allow-covariate` does not open these."""


def is_allowed_name(name: str) -> bool:
    """Return whether a column's name is plain and is not that of an id, a path or a date."""
    return bool(_NAME.fullmatch(name)) and not _IDENTIFYING.search(name)


def name_faults(
    names: Iterable[str], allowed: Collection[str], reserved: Collection[str]
) -> list[str]:
    """Return what is wrong with the names of covariates, `reserved` columns among them.

    A name that looks like that of an id is no fault if it is in `allowed`, but names of people,
    paths and dates are always one.
    """
    faults = []
    for name in names:
        may_allow = _NAME.fullmatch(name) and not _NEVER_ALLOWED.search(name)
        if name in reserved or not (may_allow or is_allowed_name(name)):
            faults.append(f"--covariates {name}: {NAME_RULE}")
        elif not is_allowed_name(name) and name not in allowed:
            faults.append(
                f"--covariates {name}: the name looks like that of an id or a time. If its values "
                f"identify no one, add --allow-covariate {name}, which the store records"
            )
    unused = [name for name in allowed if name not in names]
    if unused:
        faults.append(f"--allow-covariate {', '.join(unused)}: not named with --covariates")
    return faults


def has_sexes(name: str) -> bool:
    """Return whether a column's name says that it holds sexes: `sex`, `patientSex`, `gender`."""
    return bool(_words(name) & {"sex", "gender"})


def capped_age(value: float, name: str) -> float:
    """Return 90 for an age over 89 in a column of ages, any other value as it is."""
    return float(AGE_LIMIT) if value > AGE_LIMIT - 1 and _has_ages(name) else value


def _has_ages(name: str) -> bool:
    """Return whether a column holds ages: `age`, `patientAge`, `age_at_ecg`; not `agent_dose`."""
    return bool(_words(name) & {"age", "ages"})


@cache
def _words(name: str) -> frozenset[str]:
    """Return the words of a name in snake_case or camelCase, in small letters."""
    return frozenset(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name))


class CovariateColumn:
    """Reads the fields of one covariate, and remembers what it has met.

    A field is a number, or one of `MISSING`, which is NaN. With `decimal_comma` a comma may
    stand for the point. Thousands separators are refused. An age over 89 becomes 90. In a column
    of sexes (`has_sexes`) F, M, female and male, in any case, become the numbers of `sex_code`;
    if this is None, the text of the column decides: F is 1, M is 0, and no number may occur.
    """

    def __init__(
        self, name: str, sex_code: SexCode | None = None, *, decimal_comma: bool = False
    ) -> None:
        self.name = name
        self._has_sexes = has_sexes(name)
        self._stated = sex_code
        self._decimal_comma = decimal_comma
        self._met: set[str] = set()

    @property
    def sex_code(self) -> SexCode | None:
        """The code of the sexes: stated, or that of the text that was read; None if unknown."""
        return self._stated or (SexCode() if "text" in self._met else None)

    def value(self, text: str) -> float:
        """Return the number of one field. Raises ValueError saying what it must be."""
        stripped = clean_id(text)
        value = self._number(stripped)
        if value is None:
            return self._value_of_word(stripped)
        if self._has_sexes:
            self._met.add("number")
            if self._stated and self._stated.word(value) is None:
                raise ValueError(self._fault(text))
        return capped_age(value, self.name)

    def _number(self, text: str) -> float | None:
        """Return a plain number, or None."""
        if self._decimal_comma:
            if "," in text and "." not in text:
                self._met.add("comma")
                text = text.replace(",", ".")
            elif "." in text.strip("."):
                self._met.add("point")
        try:
            value = float(text)
        except ValueError:
            return None
        return value if abs(value) < _MAX_ABS and "_" not in text else None

    def _value_of_word(self, text: str) -> float:
        """Return NaN for a missing value, or the number of a sex. Raises ValueError."""
        if text.lower() in MISSING:
            return math.nan
        sex = sex_of(text) if self._has_sexes else ""
        if not sex:
            raise ValueError(self._fault(text))
        self._met.add("text")
        return (self._stated or SexCode()).value(sex)

    def _fault(self, text: str) -> str:
        return f"must be {self._allowed()}; found {describe(text)}{self._hint(text)}"

    def _allowed(self) -> str:
        if self._stated:
            return f"F, M, a number of the code {self._stated}, or empty"
        return "F, M, a number or empty" if self._has_sexes else "a number or empty"

    def _hint(self, text: str) -> str:
        if sex_of(text) and not self._has_sexes:
            return ". F and M are understood in a column whose name has the word sex or gender"
        if "," in text and not self._decimal_comma:
            return ". A decimal comma needs a file whose separator is a semicolon or a tab"
        return ""

    def faults(self) -> Iterator[str]:
        """Say what the fields contradict each other in, once all are read."""
        if {"text", "number"} <= self._met and not self._stated:
            yield (
                "holds both F or M and numbers, and nothing says which number is which sex. "
                "Write F and M in every row, or state it (ecgprep build --sex-code 0=M,1=F)"
            )
        if {"comma", "point"} <= self._met:
            yield (
                "has decimal commas in some rows and points in others, which may separate "
                "thousands. Write all decimals alike"
            )


def check_not_identifying(
    path: Path,
    names: Sequence[str],
    values: NDArray[np.float32],
    n_patients: int,
    allowed: Collection[str] = (),
) -> None:
    """Refuse a column whose values (N, K) work as an identifier, whatever its name.

    Columns in `allowed` may differ for every patient, but not look like dates. Raises InputError.
    """
    for k, name in enumerate(names):
        known = values[~np.isnan(values[:, k]), k]
        where = f"Manifest {path.name}: --covariates {name}"
        if known.size and ((known >= _FIRST_DATE) & (known <= _LAST_DATE)).all():
            raise InputError(
                f"{where}: its values look like dates (YYYYMMDD). Leave the column out."
            )
        if name in allowed or _identifies_no_one(name, known):
            continue
        n_distinct = len(np.unique(known))
        if n_patients >= _MIN_PATIENTS and n_distinct >= _MAX_DISTINCT * n_patients:
            raise InputError(
                f"{where}: {n_distinct:,} different values for {n_patients:,} patients would "
                "identify them. Round or group the values, or leave the column out. If they "
                "identify no one, a laboratory value for example, add "
                f"--allow-covariate {name}, which the store records."
            )


def _identifies_no_one(name: str, known: NDArray[np.float32]) -> bool:
    """Return whether values may differ for every patient: ages in years, a cart's measurements.

    Safe Harbor permits ages in whole years, and measurements can be made from the waveform, which
    the store holds.
    """
    if name in MEASUREMENTS:
        return bool((np.abs(known) <= _MAX_MEASUREMENT).all())
    is_age = _has_ages(name) and (known >= 0).all() and (known <= AGE_LIMIT).all()
    return bool(is_age and (known == np.floor(known)).all())


def stated_sex_codes(code: str | None, names: Iterable[str]) -> dict[str, SexCode]:
    """Return {column: code} of the columns of sexes for which `--sex-code` states the code.

    Raises InputError for a text that is no code, and for a code without such a column.
    """
    if code is None:
        return {}
    stated = SexCode.parse(code)
    columns = [name for name in names if has_sexes(name)]
    if not columns:
        raise InputError(
            "--sex-code needs a covariate whose name has the word sex or gender, such as "
            "--covariates age,sex."
        )
    return dict.fromkeys(columns, stated)


def known_sex_codes(columns: Iterable[CovariateColumn]) -> Mapping[str, SexCode]:
    """Return {column: code} of the columns of sexes whose code is known."""
    return {column.name: column.sex_code for column in columns if column.sex_code}
