"""Patient ids as texts: what is removed from one, and which two may be one person's.

The same rules hold wherever ids are compared: in a manifest, with the registry and with a list of
patients to test.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable

ASCII_BLANKS = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
"""What `str.strip` removes of ASCII, without a word to the user."""

_VISIBLE_FORMAT = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
"""Characters of category Cf that are visible (property Prepended_Concatenation_Mark)."""

_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
"""Characters that are invisible and not in category Cf.

They are joiners, fillers and variation selectors (Unicode: Default_Ignorable_Code_Point), and the
Braille pattern without dots.
"""

_APOSTROPHES = "'`´‘’ʹʼ＇"

_NUMBER = re.compile(r"([0-9]{1,40})(?:\.([0-9]{0,40})|,(00?))?(?:[eE]([+-]?[0-9]{1,2}))?")
"""A number as spreadsheets and data frames write one: `8.0`, `8,0` and `1E5`."""

_ROUNDED = re.compile(r"[0-9][.,][0-9]{2,}[eE]\+[0-9]{2,3}")
"""A long number as spreadsheets show it; the digits beyond the sixth are gone."""


def clean_id(text: str) -> str:
    """Return an id without invisible characters and blanks around it, composed (Unicode NFC).

    Invisible are zero-width characters, byte-order marks, soft hyphens, marks of direction
    (category Cf), fillers and variation selectors. Other fields and column names need it, too.
    """
    if text.isascii():
        return text.strip()
    return unicodedata.normalize("NFC", "".join(filter(_is_visible, text))).strip()


def holds_invisible(text: str) -> bool:
    """Say whether `clean_id` removes more from a text than ASCII blanks around it."""
    if text.isascii():
        return False
    stripped = text.strip(ASCII_BLANKS)
    return clean_id(text) != unicodedata.normalize("NFC", stripped)


def is_rounded(text: str) -> bool:
    """Say whether an id is a long number that a spreadsheet has rounded, such as `1.23457E+09`.

    Different patients may have been rounded to the same one.
    """
    return _ROUNDED.fullmatch(text) is not None


def _is_visible(character: str) -> bool:
    if unicodedata.category(character) == "Cf":
        return character in _VISIBLE_FORMAT
    return not _IGNORABLE.match(character)


def _plain_characters(text: str) -> str:
    """Write full-width, superscript and other digits and letters as plain ones, dashes as `-`."""
    if text.isascii():
        return text
    return "".join(map(_plain_character, unicodedata.normalize("NFKC", text)))


def _plain_character(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    is_dash = unicodedata.category(character) == "Pd" or character == "\N{MINUS SIGN}"
    return "-" if is_dash else character


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def _without_apostrophe(text: str) -> str:
    """Remove what keeps a spreadsheet from taking an id for a number: `'55` and `="55"`."""
    if text.startswith('="') and text.endswith('"'):
        text = text[2:-1]
    return text.lstrip(_APOSTROPHES) or text


def _whole_number(text: str) -> str:
    """Write `8.0` as `8` and `1e5` as `100000`; any text that is not a whole number as it is."""
    found = _NUMBER.fullmatch(text)
    if found is None or text.isdigit():
        return text
    whole, fraction, zeros, exponent = found.groups("")
    shift = int(exponent or 0) - len(fraction)
    number = int(whole + fraction)
    if zeros or shift >= 0:
        return str(number * 10 ** max(shift, 0))
    quotient, rest = divmod(number, 10**-shift)
    return text if rest else str(quotient)


def _without_zeros(text: str) -> str:
    return text.lstrip("0") or text[-1:]


_STEPS: dict[str, Callable[[str], str]] = {
    "full-width characters or other digits": _plain_characters,
    "blanks": _without_blanks,
    "an apostrophe in front": _without_apostrophe,
    "a decimal point or an exponent": _whole_number,
    "case": str.casefold,
    "leading zeros": _without_zeros,
}
"""What two ids of one person may differ by, and what makes them equal."""


def lookalike_key(text: str) -> str:
    """Return a text that is the same for ids that may be two spellings of one.

    So are `8` and `8.0`, `1E5` and `100000`, `'55` and `55`, `０７` and `7`, `ab 1` and `AB1`,
    `0042` and `42`. Marks such as hyphens and points count: `1-12` is not `11-2`.
    """
    key = clean_id(text)
    for step in _STEPS.values():
        key = step(key)
    return key


def lookalikes(patients: Iterable[str]) -> list[list[str]]:
    """Group different ids that look alike; groups and their ids in the order they came."""
    alike: dict[str, list[str]] = defaultdict(list)
    for patient in dict.fromkeys(patients):
        alike[lookalike_key(patient)].append(patient)
    return [group for group in alike.values() if len(group) > 1]


def differences(group: Iterable[str]) -> list[str]:
    """Name what the ids of a group of look-alikes differ by, such as "leading zeros"."""
    texts = [clean_id(patient) for patient in group]
    names = []
    for name, step in _STEPS.items():
        plainer = [step(text) for text in texts]
        n_changed = sum(new != old for new, old in zip(plainer, texts, strict=True))
        joins = len(set(plainer)) < len(set(texts))
        if joins or 0 < n_changed < len(texts):
            names.append(name)
        texts = plainer
    return names
