"""Which numbers stand for F and M in a column of sexes.

Numbers alone do not say it, so a code is known only where a file wrote F and M, or a user stated
it. Stores and runs record a known code as text, such as "0=M,1=F".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ecgprep.errors import InputError

_SEXES = {"f": "F", "female": "F", "m": "M", "male": "M"}


def sex_of(text: str) -> str:
    """Return F or M of F, M, female or male in any case, else an empty text."""
    return _SEXES.get(text.strip().lower(), "")


@dataclass(frozen=True)
class SexCode:
    """The numbers of F and M, two different digits. As text it is "0=M,1=F", the lower first."""

    female: int = 1
    male: int = 0

    @classmethod
    def parse(cls, text: str) -> SexCode:
        """Read "0=M,1=F", in any order; the sexes may be F, M, female or male in any case.

        Raises InputError.
        """
        entries = [re.fullmatch(r"\s*([0-9])\s*=\s*(\w+)\s*", part) for part in text.split(",")]
        digit_of = {sex_of(entry[2]): int(entry[1]) for entry in entries if entry}
        is_code = len(entries) == 2 and digit_of.keys() == {"F", "M"}
        if not is_code or digit_of["F"] == digit_of["M"]:
            raise InputError(
                "--sex-code must name a digit for each sex, such as 0=M,1=F or 1=M,2=F."
            )
        return cls(digit_of["F"], digit_of["M"])

    def __str__(self) -> str:
        return ",".join(sorted((f"{self.female}=F", f"{self.male}=M")))

    def value(self, sex: str) -> float:
        """Return the number of F or M. Raises KeyError for anything else."""
        return float({"F": self.female, "M": self.male}[sex])

    def word(self, value: float) -> str | None:
        """Return `female` or `male` for their numbers, None for any other."""
        words: dict[float, str] = {self.female: "female", self.male: "male"}
        return words.get(value)
