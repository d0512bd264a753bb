"""Ids: what is removed, and which two may be one person's. Expected values are by hand."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgprep.patients.identifiers import (
    clean_id,
    differences,
    holds_invisible,
    lookalike_key,
    lookalikes,
)

FORMAT = (0xAD, 0x200B, 0x200D, 0x200E, 0x202E, 0x2060, 0x2067, 0xFEFF)

IGNORABLE = (0x34F, 0x115F, 0x17B4, 0x180B, 0x2800, 0x3164, 0xFE0F, 0xFFA0, 0xE0100, 0xE01EF)
"""Of DerivedCoreProperties.txt (Default_Ignorable_Code_Point), and the empty Braille pattern."""

INVISIBLE = [chr(code) for code in FORMAT + IGNORABLE]


@pytest.mark.parametrize("mark", INVISIBLE, ids=lambda mark: f"U+{ord(mark):04X}")
def test_invisible_characters_are_removed_wherever_they_are(mark):
    assert clean_id(f"{mark}Q{mark}7{mark}") == "Q7"
    assert holds_invisible(f"Q7{mark}")


@pytest.mark.parametrize(
    ("text", "cleaned", "is_said"),
    [
        ("  Q 7\t", "Q 7", False),
        ("\u00a0Q7", "Q7", True),
        ("Q7\u3000", "Q7", True),
        ("Mu\u0308ller", "M\u00fcller", False),
        ("u\u200d\u0308", "\u00fc", True),
        ("\u0600Q7", "\u0600Q7", False),
    ],
    ids=["ASCII", "no-break space", "ideographic space", "composed", "joiner", "visible mark"],
)
def test_blanks_around_an_id_are_removed_and_unusual_ones_said(text, cleaned, is_said):
    assert clean_id(text) == cleaned
    assert holds_invisible(text) is is_said


@given(st.text(max_size=12))
def test_a_cleaned_id_has_no_format_character_and_stays_as_it_is(text):
    cleaned = clean_id(text)
    assert clean_id(cleaned) == cleaned
    assert not holds_invisible(cleaned)
    visible = (
        "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
    )
    assert all(c in visible for c in cleaned if unicodedata.category(c) == "Cf")


@given(st.text(max_size=12))
def test_every_id_has_a_key_that_is_not_empty(text):
    assert bool(lookalike_key(text)) == bool(clean_id(text))


ALIKE = [
    ("8", "8.0", "a decimal point or an exponent"),
    ("8", "8.", "a decimal point or an exponent"),
    ("8", "8,0", "a decimal point or an exponent"),
    ("100000", "1E5", "a decimal point or an exponent"),
    ("123400", "1.234e+5", "a decimal point or an exponent"),
    ("42", "4200e-2", "a decimal point or an exponent"),
    ("'55", "55", "an apostrophe in front"),
    ("\u201955", "55", "an apostrophe in front"),
    ('="0055"', "0055", "an apostrophe in front"),
    ("\uff11\uff12", "12", "full-width characters or other digits"),
    ("\u0661\u0662", "12", "full-width characters or other digits"),
    ("P\u20131", "P-1", "full-width characters or other digits"),
    ("P\u22121", "P-1", "full-width characters or other digits"),
    ("AB1", "ab1", "case"),
    ("943 476 5919", "9434765919", "blanks"),
    ("0042", "42", "leading zeros"),
    ("000", "0", "leading zeros"),
]


@pytest.mark.parametrize(("one", "other", "kind"), ALIKE)
def test_two_spellings_of_one_id_look_alike_and_the_difference_is_named(one, other, kind):
    assert lookalike_key(one) == lookalike_key(other)
    assert lookalikes([one, "Z", other, one]) == [[one, other]]
    assert differences([one, other]) == [kind]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1-12", "11-2"),
        ("1.5", "15"),
        ("1.10", "1.1"),
        ("1,000", "1"),
        ("1E-5", "0"),
        ("P1", "P01"),
        ("1E5", "1E6"),
        ("1E999", "1E998"),
        ("A1E5", "A100000"),
        ("10", "1"),
        ("-8", "8"),
        ("m\u00fcller", "muller"),
        ("1" * 41 + ".0", "1" * 41),
    ],
)
def test_other_ids_do_not_look_alike(one, other):
    assert lookalike_key(one) != lookalike_key(other)


def test_differences_of_several_kinds_are_all_named():
    assert differences(["0042", "42.0", "4 2"]) == [
        "blanks",
        "a decimal point or an exponent",
        "leading zeros",
    ]
