"""docs/definitions.md holds every built-in definition, with the source that the code names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ecgprep.cohorts.definitions import DEFINITIONS

PAGE = (Path(__file__).parent.parent / "docs" / "definitions.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.+)\|$", PAGE.split("## Two public")[0], re.MULTILINE))
SOURCES = dict(re.findall(r"^(\d)\. ((?:.+\n)+?)(?=\d\. |\Z)", PAGE, re.MULTILINE))


def test_the_table_holds_every_definition_once():
    assert list(ROWS) == list(DEFINITIONS)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_source_is_the_one_that_the_code_names(name):
    number = re.search(r"\[(\d)\]", ROWS[name])[1]
    volume_and_page = re.search(r"\d+;(\d+:e?\d+)", DEFINITIONS[name].source)[1]
    assert volume_and_page in " ".join(SOURCES[number].split())


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_formula_has_the_numbers_of_the_code(name):
    """`fda_doxorubicin` and the like are compared by their limits; borders are tested elsewhere."""
    written = ROWS[name].split(" | ")[0].replace("severe", "40").replace("moderate or", "50 10 15")
    in_page, in_code = (
        set(re.findall(r"\b\d+\b", text)) for text in (written, DEFINITIONS[name].criterion.text)
    )
    assert in_page == in_code
