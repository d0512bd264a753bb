"""The definitions of cancer therapy-related cardiac dysfunction that a task may name.

Each is an expression over what is known at one echocardiogram after the baseline one, with its
source and clause. docs/definitions.md compares them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ecgprep.cohorts.expression import Expression, parse_expression

NUMBERS = {
    "lvef": "LVEF at the echocardiogram, in percent (f)",
    "baseline_lvef": "LVEF at the baseline echocardiogram, in percent (b)",
    "drop": "b - f, in points of LVEF",
    "gls": "global longitudinal strain at the echocardiogram, in percent, as a magnitude",
    "baseline_gls": "the same at the baseline echocardiogram",
    "gls_fall": "relative fall of the magnitude of GLS from baseline, in percent of the baseline",
    "lower_limit": "the lower limit of normal LVEF that the task gives, 50 unless it says so",
}
"""Numbers that an expression may refer to."""

FLAGS = {
    "biomarker_rise": "a cardiac biomarker is above its limit near the echocardiogram, and none "
    "was near the baseline one",
    "symptoms": "the patient had symptoms of heart failure at the echocardiogram",
}
"""What is true or false that an expression may refer to."""

ALWAYS_THERE = frozenset({"lvef", "baseline_lvef", "drop", "lower_limit"})
"""Inputs that every study has, as no echocardiogram comes without LVEF."""


def parse_criterion(text: str) -> Expression:
    """Check an expression over `NUMBERS` and `FLAGS`. Raises ValueError."""
    return parse_expression(text, NUMBERS, FLAGS)


@dataclass(frozen=True)
class Definition:
    """What makes an echocardiogram an event."""

    name: str
    criterion: Expression = field(repr=False)
    source: str = ""
    clause: str = ""

    def is_assessable(self, available: Iterable[str]) -> bool:
        """Say whether at least one of the inputs is there; `lower_limit` alone decides nothing."""
        inputs = self.criterion.names - {"lower_limit"}
        return bool(inputs & (ALWAYS_THERE | set(available)))

    def missing(self, available: Iterable[str]) -> frozenset[str]:
        """Return the inputs that a study lacks which has LVEF and those that are `available`."""
        return self.criterion.names - ALWAYS_THERE - frozenset(available)


_ESC = "Lyon AR et al. 2022 ESC Guidelines on cardio-oncology. Eur Heart J 2022;43:4229-4361"
_ESC_SEVERE = "(lvef < 40 and baseline_lvef >= 40)"
_ESC_EVIDENCE = "(gls_fall > 15 or biomarker_rise)"
_ESC_MODERATE = (
    f"{_ESC_SEVERE} or (40 <= lvef < 50 and (drop >= 10 or (drop < 10 and {_ESC_EVIDENCE})))"
)
_ESC_MILD = f"{_ESC_MODERATE} or (lvef >= 50 and {_ESC_EVIDENCE})"

_BUILT_IN = (
    (
        "esc2022_severe",
        _ESC_SEVERE,
        _ESC,
        "Table 3, asymptomatic CTRCD, severe: new LVEF reduction to below 40 %",
    ),
    (
        "esc2022_moderate",
        _ESC_MODERATE,
        _ESC,
        "Table 3, asymptomatic CTRCD, moderate or worse: new LVEF reduction by at least 10 points "
        "to 40-49 %, or by less than 10 points to 40-49 % with a relative GLS fall above 15 % or "
        "a new rise in cardiac biomarkers",
    ),
    (
        "esc2022_mild",
        _ESC_MILD,
        _ESC,
        "Table 3, asymptomatic CTRCD, mild or worse: LVEF of at least 50 % with a relative GLS "
        "fall above 15 % or a new rise in cardiac biomarkers",
    ),
    (
        "ase2014",
        "drop > 10 and lvef < 53",
        "Plana JC et al. ASE/EACVI expert consensus. J Am Soc Echocardiogr 2014;27:911-939",
        "Definition of CTRCD: a fall of LVEF by more than 10 points to below 53 %, confirmed by "
        "repeated imaging 2-3 weeks later (confirm_within_days)",
    ),
    (
        "hera",
        "drop >= 10 and lvef < 50",
        "Piccart-Gebhart MJ et al. HERA trial. N Engl J Med 2005;353:1659-1672",
        "Cardiac endpoint: a fall of LVEF by at least 10 points to below 50 %",
    ),
    (
        "crec",
        "lvef < 55 and (drop >= 10 or (symptoms and drop >= 5))",
        "Seidman A et al. Cardiac Review and Evaluation Committee. J Clin Oncol 2002;20:1215-1221",
        "A fall of LVEF to below 55 % by at least 10 points without symptoms, or 5 with",
    ),
    (
        "fda_doxorubicin",
        "(drop >= 10 and lvef < lower_limit) or (lvef <= 45 and lvef < baseline_lvef) "
        "or drop >= 20",
        "US label of doxorubicin hydrochloride, as in J Am Heart Assoc 2021;10:e024033, table 1",
        "A fall of LVEF by 10 points to below the lower limit of normal, an LVEF of 45 % or less, "
        "or a fall by 20 points at any level; the source leaves open whether 45 % must be lower "
        "than at baseline, and here it must",
    ),
)

DEFINITIONS = {
    name: Definition(name, parse_criterion(text), source, clause)
    for name, text, source, clause in _BUILT_IN
}
"""The built-in definitions, by name."""


def find_definition(text: str) -> Definition:
    """Return the built-in definition of that name, or the one that an expression makes.

    Raises ValueError for anything else.
    """
    name = text.strip()
    if name in DEFINITIONS:
        return DEFINITIONS[name]
    try:
        return Definition("custom", parse_criterion(name))
    except ValueError as error:
        built_in = ", ".join(DEFINITIONS)
        raise ValueError(f"must be one of {built_in}, or an expression, which {error}") from None


def describe_definitions() -> str:
    """Return the built-in definitions and the names that an expression may use, as plain text."""
    blocks = [
        f"{one.name}\n  {one.criterion.text}\n  {one.clause}.\n  {one.source}."
        for one in DEFINITIONS.values()
    ]
    names = [f"  {name}: {meaning}" for name, meaning in (NUMBERS | FLAGS).items()]
    return "\n\n".join([*blocks, "Names that an expression may use\n" + "\n".join(names)])
