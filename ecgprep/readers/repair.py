"""Mend a document whose texts are damaged, so that its waveform can be read.

Only files that the strict pass refuses come here. Real exports hold, in the names and remarks that
people typed:

    damage                                            is read as
    bytes that are not in the declared encoding       Windows-1252, the usual mix-up
    an encoding name that Python does not know        UTF-8
    NUL or Ctrl-Z after the end of the document       nothing
    characters that XML forbids, also as `&#11;`      U+FFFD, the replacement character
    half of a pair of surrogates in UTF-16            the same
    an ampersand that begins no reference, `&nbsp;`   the text that it is

A repair never makes a number or a waveform of damaged ones. Whatever is put in is a character that
no number and no Base64 holds, nor white space around them, so a reader refuses the field. Nothing
is taken out of the document, so no two digits move together. `readers.xml` refuses a document in
which a repair made a name of a tag or an attribute. What is cut off, or not XML for any other
reason, stays refused.
"""

from __future__ import annotations

import re

from ecgprep.readers.encoding import (
    UTF8,
    Codec,
    UnknownEncoding,
    encoded,
    identify,
    without_declaration,
)

MAX_REPAIRS = 10_000
"""Of one kind in a document. Names and remarks hold a few; more is another encoding, or an attack.

It also limits the comments, sections and instructions of a document with ampersands to repair.
"""

_REPLACEMENT = "\ufffd"
_AFTER_THE_END = b"\0\x1a \t\r\n"

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_UNDECODED = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of a byte that cannot be decoded."""
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]")
"""Control characters, U+FFFE and U+FFFF in UTF-8 (XML 1.0, section 2.2)."""
_SURROGATE = rb"5529[6-9]|55[3-9]\d\d|56\d{3}|57[0-2]\d\d|573[0-3]\d|5734[0-3]"
_FORBIDDEN_REFERENCE = re.compile(
    rb"&#(?:0*(?:[0-8]|1[124-9]|2\d|3[01]|%b|6553[45])"
    rb"|x0*(?:[0-8bBcCeEfF]|1[\da-fA-F]|[dD][89a-fA-F][\da-fA-F]{2}|[fF]{3}[eEfF]));" % _SURROGATE
)
"""References to control characters, surrogates, U+FFFE and U+FFFF."""
_BARE_AMPERSAND = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos|#[0-9]+|#x[0-9a-fA-F]+);)")
_OPAQUE = re.compile(rb"(<!\[CDATA\[.*?(?:\]\]>|\Z)|<!--.*?(?:-->|\Z)|<\?.*?(?:\?>|\Z))", re.DOTALL)
"""Sections, comments and instructions, in which `&` is a character like any other."""


class TooMany(Exception):
    """More faults of one kind than a document with damaged texts has."""


def repair(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return the document in UTF-8 without a declaration, and what was repaired.

    There is no note where nothing can be repaired. The time is linear in the size. Raises
    RecordError where the encoding is refused.
    """
    notes: list[str] = []
    try:
        document = _decoded(data, notes)
        document = _without_end(document, notes)
        document = _without_control_characters(document, notes)
        document = _with_escaped_ampersands(document, notes)
    except (TooMany, UnicodeDecodeError):
        return b"", ()
    return document, tuple(f"repaired: {note}" for note in notes)


def _decoded(data: bytes, notes: list[str]) -> bytes:
    try:
        codec, document = identify(data)
    except UnknownEncoding:
        codec, document = UTF8, without_declaration(data)
        notes.append("the declared encoding is unknown, the text was read as UTF-8")
    if not codec.keeps_ascii:
        whole = _without_odd_end(document, codec)
        if whole != document:
            notes.append("1 byte after the end left out")
        return encoded(_wide_text(whole, codec.name, notes))
    text = document.decode(codec.name, "surrogateescape")
    text, n = _UNDECODED.subn(_windows_1252, text, count=MAX_REPAIRS + 1)
    if n:
        noun = "byte that is" if n == 1 else "bytes that are"
        name = codec.name.upper()
        notes.append(f"{_limited(n):,} {noun} not {name} read as Windows-1252")
    return encoded(text)


def _wide_text(document: bytes, codec: str, notes: list[str]) -> str:
    """Decode a document; half of a pair that stands alone in UTF-16 is no character."""
    if not codec.startswith("utf-16"):
        return document.decode(codec)
    text, n = _LONE_SURROGATE.subn(
        _REPLACEMENT, document.decode(codec, "surrogatepass"), count=MAX_REPAIRS + 1
    )
    if n:
        noun = "half character" if n == 1 else "half characters"
        notes.append(f"{_limited(n):,} {noun} of UTF-16 read as U+FFFD")
    return text


def _without_odd_end(document: bytes, codec: Codec) -> bytes:
    """Drop a single NUL or Ctrl-Z byte behind the two-byte characters of UTF-16."""
    is_odd = codec.name.startswith("utf-16") and len(document) % 2
    return document[:-1] if is_odd and document[-1:] in (b"\0", b"\x1a") else document


def _windows_1252(undecoded: re.Match[str]) -> str:
    """Return the character of one byte. White space would pass beside a number, so it does not."""
    byte = bytes([ord(undecoded[0]) - 0xDC00])
    character = byte.decode("cp1252", "replace")
    return _REPLACEMENT if character.isspace() else character


def _without_end(document: bytes, notes: list[str]) -> bytes:
    """Drop what some systems write behind the end of a text file."""
    kept = document.rstrip(_AFTER_THE_END)
    dropped = document[len(kept) :]
    n = dropped.count(b"\0") + dropped.count(b"\x1a")
    if not n:
        return document
    notes.append(f"{n:,} NUL or Ctrl-Z after the end left out")
    return kept


def _without_control_characters(document: bytes, notes: list[str]) -> bytes:
    """Replace them: left out, they would join what they separate."""
    document, n = _FORBIDDEN.subn(_REPLACEMENT.encode(), document, count=MAX_REPAIRS + 1)
    if n:
        noun = "character" if n == 1 else "characters"
        notes.append(f"{_limited(n):,} control {noun} read as U+FFFD")
    return document


def _with_escaped_ampersands(document: bytes, notes: list[str]) -> bytes:
    """Escape every `&` that begins no reference, and replace references to forbidden characters."""
    if b"&" not in document:
        return document
    parts = _OPAQUE.split(document, maxsplit=MAX_REPAIRS + 1)
    _limited(len(parts) // 2)
    n_references = n_bare = 0
    for i in range(0, len(parts), 2):  # every other part is opaque
        parts[i], n = _FORBIDDEN_REFERENCE.subn(_REPLACEMENT.encode(), parts[i], MAX_REPAIRS + 1)
        n_references += n
        parts[i], n = _BARE_AMPERSAND.subn(b"&amp;", parts[i], MAX_REPAIRS + 1)
        n_bare += n
    if n_references:
        noun = "reference" if n_references == 1 else "references"
        notes.append(f"{_limited(n_references):,} {noun} to a forbidden character read as U+FFFD")
    if n_bare:
        noun = "ampersand" if n_bare == 1 else "ampersands"
        notes.append(f"{_limited(n_bare):,} bare {noun} read as text")
    return b"".join(parts)


def _limited(n: int) -> int:
    if n > MAX_REPAIRS:
        raise TooMany
    return n
