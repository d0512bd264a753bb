"""Read the fields of a vendor file for all readers: strictly, and without repeating their text.

Every function here raises RecordError; `what` names the field in the message, and `reason` is the
status that a missing or odd value gives the row.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pybase64
from numpy.typing import NDArray

from ecgprep.errors import RecordError, describe
from ecgprep.leads import LEADS, LIMB_LEADS, canonical_lead, shown_name, unknown_leads_note
from ecgprep.readers.xml import Element

Microvolts = NDArray[np.float64]
Stored = TypeVar("Stored")
Factor = TypeVar("Factor")

MAX_SAMPLES = 2_400_000
"""Samples of one lead: 20 minutes at 2000 Hz, an hour at up to 666 Hz. Strips have 1,000 to
150,000."""

CONTRADICTION = ""
"""Key of `fields_of` for a property that is stated twice, differently."""

_BLANKS = b" \t\r\n\v\f"
_LONE_SIGN = re.compile(r"[+-](?![0-9.])")
_MINUS, _ZERO = np.uint8(ord("-")), np.uint8(ord("0"))


def exactly_one(found: Sequence[Element], what: str, mean_beats: str) -> Element:
    """Return the one element that holds the rhythm.

    Raises `no_rhythm` for none: the mean beats that the vendor stores beside the rhythm (called
    `mean_beats`) are never read in its place. Raises `bad_waveform` for several.
    """
    if not found:
        raise RecordError(
            "no_rhythm", f"{what}: none found ({mean_beats} are not read in its place)"
        )
    if len(found) > 1:
        raise RecordError("bad_waveform", f"{what}: {len(found)} found; exactly one is allowed")
    return found[0]


class Leads(NamedTuple):
    """The leads of a rhythm in µV, the unknown names among them, and what was left out and why."""

    uv: dict[str, Microvolts]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def collect_leads(
    stored: Iterable[tuple[str | None, Stored]], to_uv: Callable[[Stored, str], Microvolts]
) -> Leads:
    """Convert each stored lead with `to_uv(stored, name)`.

    Only what a store needs must be whole: the eight leads, and the other limb leads where I or II
    is to be derived from them. A fault of any other lead leaves that lead out, with a note. A lead
    without samples is a missing lead, and an empty copy of a lead does not count. Raises the first
    fault of a lead that is needed; a lead that comes twice is one (`bad_waveform`).
    """
    found: dict[str, Microvolts] = {}
    faults: dict[str, RecordError] = {}
    unknown = []
    for label, content in stored:
        name = canonical_lead(label or "")
        if name is None:
            unknown.append(shown_name(label))
            continue
        try:
            uv = to_uv(content, name)
        except RecordError as error:
            faults.setdefault(name, error)
            continue
        if name not in found or not len(found[name]):
            found[name] = uv
        elif len(uv):
            faults.setdefault(name, RecordError("bad_waveform", f"lead {name} is stored twice"))
    if not faults and not unknown and _are_alike(found):  # as in nearly every file
        return Leads(found, (), ())
    whole = _whole_leads(found, faults)
    empty = [name for name in found if name not in whole and name not in faults]
    notes = [f"lead {name} is empty and left out" for name in empty]
    notes += [f"lead {name} is left out ({error.message})" for name, error in faults.items()]
    if unknown:
        notes.append(unknown_leads_note(unknown))
    return Leads(whole, tuple(unknown), tuple(notes))


def _are_alike(found: Mapping[str, Microvolts]) -> bool:
    """Say whether all leads have the same number of samples, and at least one."""
    lengths = set(map(len, found.values()))
    return len(lengths) == 1 and 0 not in lengths


def _whole_leads(
    found: Mapping[str, Microvolts], faults: dict[str, RecordError]
) -> dict[str, Microvolts]:
    """Return the leads that have samples and no fault; add leads of another length to `faults`.

    Raises the first fault of a lead that is needed, and `bad_waveform` when no lead is left.
    """
    with_samples = {name: uv for name, uv in found.items() if len(uv)}
    of_stored = [len(with_samples[name]) for name in LEADS if name in with_samples]
    n_samples = next(iter(of_stored or map(len, with_samples.values())), 0)
    for name, uv in with_samples.items():
        if len(uv) != n_samples and name not in LEADS:  # of the eight, `Recording` names all
            message = f"it has {len(uv):,} samples, other leads have {n_samples:,}"
            faults.setdefault(name, RecordError("bad_waveform", f"lead {name}: {message}"))
    whole = {name: uv for name, uv in with_samples.items() if name not in faults}
    needed = _needed_leads(whole)
    for name, error in faults.items():
        if name in needed or not whole:
            raise error
    if found and not whole:
        raise RecordError("bad_waveform", "the leads hold no samples")
    return whole


def _needed_leads(whole: Mapping[str, Microvolts]) -> set[str]:
    """Return the eight leads, and all limb leads where I or II cannot be derived without more."""
    any_two_will_do = len(LIMB_LEADS.keys() & whole.keys()) >= 2
    return set(LEADS) if any_two_will_do else {*LEADS, *LIMB_LEADS}


def is_blank(text: str | None) -> bool:
    """Say whether a lead's text holds no samples at all."""
    return not text or text.isspace()


def text_of(parent: Element, tag: str) -> str | None:
    """Return the stripped text of a direct child, or None when the child is absent or empty."""
    return (parent.findtext(tag) or "").strip() or None


def fields_of(parent: Element) -> dict[str, str]:
    """Return tag -> text of all direct children, read in one pass.

    A tag that comes twice with different texts is under CONTRADICTION.
    """
    fields: dict[str, str] = {}
    for child in parent:
        text = child.text or ""
        if fields.setdefault(child.tag, text) != text:
            fields[CONTRADICTION] = child.tag
    return fields


def number(text: str | None, what: str, reason: str) -> float:
    """Read a finite decimal number."""
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in (text or ""):  # Python reads 1_0 as 10
        raise RecordError(reason, f"{what} must be a number; found {describe(text)}")
    return value


def positive(text: str | None, what: str, reason: str) -> float:
    """Read a finite decimal number above 0."""
    value = number(text, what, reason)
    if value <= 0:
        raise RecordError(reason, f"{what} must be above 0; found {value:g}")
    return value


def exact(text: str | None, what: str, reason: str) -> Fraction:
    """Read a decimal number from 1e-12 to 1e12 without rounding."""
    value = number(text, what, reason)
    if not 1e-12 <= value <= 1e12 or len(text or "") > 40:
        raise RecordError(
            reason, f"{what} must be a positive number of ordinary size; found {describe(text)}"
        )
    return Fraction((text or "").strip())


def unit_factor(unit: str | None, per_unit: Mapping[str, Factor], what: str, reason: str) -> Factor:
    """Look a unit up in a reader's table of accepted units."""
    if unit is None or unit not in per_unit:
        allowed = ", ".join(per_unit)
        raise RecordError(reason, f"{what} must be one of {allowed}; found {describe(unit)}")
    return per_unit[unit]


def count(text: str | None, what: str) -> int | None:
    """Read a whole number that a file may leave out (None). Raises `bad_waveform`."""
    stripped = (text or "").strip()
    if not stripped:
        return None
    if stripped.isdecimal() and stripped.isascii() and len(stripped) < 16:
        return int(stripped)
    value = number(stripped, what, "bad_waveform")
    if value != int(value):
        raise RecordError(
            "bad_waveform", f"{what} must be a whole number; found {describe(stripped)}"
        )
    return int(value)


def same_count(found: int, declared: int | None, what: str) -> None:
    """Refuse (`bad_waveform`) a file that declares one number and holds another."""
    if declared is not None and declared != found:
        raise RecordError(
            "bad_waveform", f"{what}: the file declares {declared:,} but holds {found:,}"
        )


def check_count(found: int, declared: str | None, tag: str, what: str) -> None:
    """Compare what was found with the count that the field `tag` declares, if it is there."""
    same_count(found, count(declared, tag), what)


def decode_base64(text: str | None, what: str) -> bytes:
    """Decode Base64 with white space and nothing else in between. Raises `bad_waveform`."""
    try:
        data = (text or "").encode("ascii").strip()
        try:
            # Line feeds alone are left in most files, and replacing them is three times as fast.
            return pybase64.b64decode(data.replace(b"\n", b""), validate=True)
        except ValueError:
            return pybase64.b64decode(data.translate(None, _BLANKS), validate=True)
    except ValueError:  # covers binascii.Error and UnicodeEncodeError
        raise RecordError("bad_waveform", f"{what} is not valid Base64") from None


def parse_numbers(
    text: str | None, separator: str, what: str, n_leads: int = 1
) -> NDArray[np.float64]:
    """Parse separated numbers into float64; a blank as separator stands for any white space.

    Integers take the fast way, decimals the slow one. No text gives no samples. Raises
    `bad_waveform` for anything else, and `file_too_large` for more than MAX_SAMPLES for each of
    the `n_leads` in the text.
    """
    stripped = (text or "").strip()
    if not stripped:
        return np.empty(0)
    if _has_lone_sign(stripped):
        raise RecordError("bad_waveform", f"{what} holds a sign without a number")
    values = _parse_as(np.int64, stripped, separator)
    if values is None:
        values = _parse_as(np.float64, stripped, separator)
    if values is None:
        raise RecordError("bad_waveform", f"{what} holds something that is not a number")
    n_allowed = n_leads * MAX_SAMPLES
    if len(values) > n_allowed:
        raise RecordError(
            "file_too_large",
            f"{what} holds {len(values):,} samples; at most {n_allowed:,} are read",
        )
    return values.astype(np.float64)


def _parse_as(dtype: type[np.generic], text: str, separator: str) -> NDArray[Any] | None:
    """Parse all of `text` as numbers of one type, or return None.

    At a bad token numpy before 2.4 only warned and cut the list short; later versions raise.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return np.fromstring(text, dtype=dtype, sep=separator)
        except (ValueError, DeprecationWarning):
            return None


def _has_lone_sign(text: str) -> bool:
    """Say whether a sign stands without a digit behind it.

    numpy reads `1,-,3` as 1, 0, 3 and `1 - 3` as 1, -3. The regular expression decides, but it is
    slow, so it only runs when a vectorised look at the text finds something odd.
    """
    characters = np.frombuffer(text.encode("ascii", "replace"), np.uint8)
    is_minus = characters[:-1] == _MINUS
    digit = characters[1:] - _ZERO  # unsigned, so characters below "0" wrap round to above 9
    minus_without_digit = is_minus & (digit > 9)
    if not minus_without_digit.any() and text[-1] != "-" and "+" not in text:
        return False
    return _LONE_SIGN.search(text) is not None
