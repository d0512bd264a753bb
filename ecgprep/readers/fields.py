"""Reading one field of a vendor file: strictly, and without repeating what it held."""

from __future__ import annotations

import binascii
import math
import re
import warnings
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TypeVar

import numpy as np
import pybase64
from numpy.typing import NDArray

from ecgprep.errors import RecordError, describe
from ecgprep.leads import canonical_lead
from ecgprep.readers.xml import Element

Microvolts = NDArray[np.float64]
Stored = TypeVar("Stored")

_LONE_SIGN = re.compile(r"[+-](?![0-9.])")
_MINUS, _ZERO = np.uint8(ord("-")), np.uint8(ord("0"))
MAX_SAMPLES = 2_400_000
"""Samples of one lead: 20 minutes at 2000 Hz. Rhythm strips have 1,000 to 150,000."""


def text_of(parent: Element, tag: str) -> str | None:
    """Return the stripped text of a direct child, or None when the child is absent or empty."""
    return (parent.findtext(tag) or "").strip() or None


def fields_of(parent: Element) -> dict[str, str]:
    """Return tag -> text of all direct children, read in one pass; a tag that comes twice with different texts is refused."""
    fields: dict[str, str] = {}
    for child in parent:
        text = child.text or ""
        if fields.setdefault(child.tag, text) != text:
            raise RecordError(
                "bad_waveform", "a lead states one of its properties twice, differently"
            )
    return fields


def collect_leads(
    stored: Iterable[tuple[str | None, Stored]], to_uv: Callable[[Stored, str], Microvolts]
) -> dict[str, Microvolts]:
    """Convert each stored lead with `to_uv(stored, name)`; one without a standard name is left out, one that comes twice is refused."""
    leads: dict[str, Microvolts] = {}
    for label, content in stored:
        name = canonical_lead(label or "")
        if name in leads:
            raise RecordError("bad_waveform", f"lead {name} is stored twice")
        if name is not None:
            leads[name] = to_uv(content, name)
    return leads


def number(text: str | None, what: str, reason: str) -> float:
    """Read a finite decimal number; `reason` is the status that a missing or odd one gives."""
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in (text or ""):
        raise RecordError(reason, f"{what} must be a number; found {describe(text)}")
    return value


def count(text: str | None, what: str) -> int | None:
    """Read a whole number that a file may leave out (None); anything else in its place is `bad_waveform`."""
    if text is None or not (text := text.strip()):
        return None
    if text.isdecimal() and text.isascii() and len(text) < 16:
        return int(text)
    value = number(text, what, "bad_waveform")
    if value != int(value):
        raise RecordError("bad_waveform", f"{what} must be a whole number; found {describe(text)}")
    return int(value)


def exact(text: str | None, what: str, reason: str) -> Fraction:
    """Read a positive decimal number without rounding, within 1e-12 .. 1e12."""
    value = number(text, what, reason)
    if not 1e-12 <= value <= 1e12 or len(text or "") > 40:
        raise RecordError(
            reason, f"{what} must be a positive number of ordinary size; found {describe(text)}"
        )
    return Fraction((text or "").strip())


def same_count(found: int, declared: int | None, what: str) -> None:
    """Refuse a file that says one number and holds another."""
    if declared is not None and declared != found:
        raise RecordError(
            "bad_waveform", f"{what}: the file declares {declared:,} but holds {found:,}"
        )


def decode_base64(text: str | None, what: str) -> bytes:
    """Decode Base64 with line breaks and nothing else in between. Raises RecordError `bad_waveform`."""
    for blanks in (
        b"\n",
        b" \t\r\n\v\f",
    ):  # line feeds alone are the usual case and go three times as fast
        try:
            data = (text or "").encode("ascii")
            data = data.replace(blanks, b"") if len(blanks) == 1 else data.translate(None, blanks)
            return pybase64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            continue
    raise RecordError("bad_waveform", f"{what} is not valid Base64")


def _has_lone_sign(text: str) -> bool:
    """Say whether a sign stands without a digit behind it: numpy reads `1,-,3` as 1, 0, 3 and `1 - 3` as 1, -3."""
    characters = np.frombuffer(text.encode("ascii", "replace"), np.uint8)
    suspect = (characters[:-1] == _MINUS) & (
        characters[1:] - _ZERO > 9
    )  # unsigned: below "0" is far above 9, too
    if not suspect.any() and text[-1] != "-" and "+" not in text:
        return False
    return _LONE_SIGN.search(text) is not None


def parse_numbers(text: str | None, separator: str, what: str) -> NDArray[np.float64]:
    """Parse numbers separated by `separator` (a blank also stands for any white space) into float64.

    Integers take the fast way, decimals the slow one. Raises RecordError `bad_waveform` for anything else.
    """
    text = (text or "").strip()
    if not text:
        raise RecordError("bad_waveform", f"{what} holds no samples")
    if _has_lone_sign(text):
        raise RecordError("bad_waveform", f"{what} holds a sign without a number")
    for dtype in (np.int64, np.float64):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "error"
                )  # numpy before 2.4 only warned, and cut the list short at a bad token
                values = np.fromstring(text, dtype=dtype, sep=separator)
        except (ValueError, DeprecationWarning):
            continue
        if len(values) > MAX_SAMPLES:
            raise RecordError(
                "bad_waveform",
                f"{what} holds {len(values):,} samples; at most {MAX_SAMPLES:,} are read",
            )
        return values.astype(np.float64)
    raise RecordError("bad_waveform", f"{what} holds something that is not a number")
