"""Bring the bytes of an XML document to UTF-8, strictly by the encoding that the file states.

The encoding follows from the byte-order mark, else from null bytes, else from the XML declaration.
Any text codec of Python may be declared that leaves the characters of markup, numbers and Base64
what they are in ASCII. The others could make a tag or a sample out of something else, so they are
refused: EBCDIC, UTF-7 and the escapes of programming languages.
"""

from __future__ import annotations

import codecs
import functools
import re
from typing import NamedTuple

from ecgprep.errors import RecordError, describe


class Codec(NamedTuple):
    """A Python codec. With `keeps_ascii`, ASCII bytes mean the same in it, without exception."""

    name: str
    keeps_ascii: bool


class UnknownEncoding(RecordError):
    """The declared encoding is none that Python knows; the bytes may still be UTF-8."""


UTF8 = Codec("utf-8", keeps_ascii=True)

_SUPERSETS = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift-jis": "cp932",
    "euc-kr": "cp949",
    "utf-8-sig": "utf-8",
}
"""Declared -> what is written under that name: vendors' own extensions of the standard."""

_OTHER_NAMES = {
    "windows-31j": "cp932",
    "iso-8859-8-i": "iso8859-8",
    "unicode": "utf-16",
}
"""Names in use that Python does not know."""

_REFUSED = {
    "utf-7",
    "idna",
    "punycode",
    "unicode-escape",
    "raw-unicode-escape",
    "undefined",
    "charmap",
    "mbcs",
    "oem",
}
"""Text codecs that are no encoding of a document, or another one on each machine."""

_WIDE = ("utf-16", "utf-32")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # it begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_SINGLE_BYTE = {"iso8859-1", "iso8859-15", "cp1252"}
_BLOCK_BYTES = 16_384

_NOT_IN_MARKUP = "\\~%"
"""No tag, number or Base64 holds these, and in some encodings they stand for something else."""
_SAMPLE = "\t\r\n" + "".join(chr(b) for b in range(32, 127) if chr(b) not in _NOT_IN_MARKUP)

_BEFORE = re.compile(rb"(?:\xef\xbb\xbf|\xc3\xaf\xc2\xbb\xc2\xbf|\?|\s){0,9}\s*")
"""The UTF-8 mark, that mark read as Latin-1 and written as UTF-8, or a `?` that replaced one."""

_DECLARATION = re.compile(rb"<\?xml\s[^>]{0,200}?\?>")
_DECLARED_ENCODING = re.compile(rb"encoding\s*=\s*[\"']([A-Za-z0-9._:-]{1,40})[\"']")


def to_utf8(data: bytes) -> bytes:
    """Return the document in UTF-8 without an XML declaration.

    Raises RecordError `not_xml` where no XML begins, where the declared encoding is not allowed, or
    where the bytes are not in it.
    """
    codec, document = identify(data)
    if codec.keeps_ascii and document.isascii():
        return document
    try:
        if codec == UTF8:
            document.decode()
            return document
        if codec.name in _SINGLE_BYTE:
            return _recode_blocks(document, codec.name)
        text = document.decode(codec.name)
    except UnicodeDecodeError as error:
        place = f" at byte {error.start}" if codec == UTF8 else ""
        raise RecordError(
            "not_xml", f"the bytes are not {codec.name}, the file's encoding{place}"
        ) from None
    return encoded(text)


def identify(data: bytes) -> tuple[Codec, bytes]:
    """Return the codec of a document, and its bytes behind the mark and the declaration.

    UTF-16 and UTF-32 keep both, which only show once they are decoded. Raises RecordError.
    """
    wide = _wide_codec(data)
    if wide is not None:
        return Codec(wide, keeps_ascii=False), data
    document = _from_first_tag(data)
    declaration = _DECLARATION.match(document)
    if declaration is None:
        return UTF8, document
    return _declared_codec(declaration[0]), document[declaration.end() :]


def without_declaration(data: bytes) -> bytes:
    """Return the bytes behind the declaration of a document whose declared encoding is unknown."""
    document = _from_first_tag(data)
    declaration = _DECLARATION.match(document)
    return document[declaration.end() :] if declaration else document


def encoded(text: str) -> bytes:
    """Return a decoded document in UTF-8.

    Its XML declaration goes, because it names the encoding that the bytes had before.
    """
    document = text.lstrip("\ufeff \t\r\n").encode()
    declaration = _DECLARATION.match(document)
    return document[declaration.end() :] if declaration else document


def _wide_codec(data: bytes) -> str | None:
    """Recognise UTF-16 and UTF-32 by their mark, or by the nulls beside the first `<`."""
    for mark, codec in _MARKS:
        if data.startswith(mark):
            return codec
    start = data[:4]
    if b"\0" not in start:
        return None
    if start in (b"<\0\0\0", b"\0\0\0<"):
        return "utf-32-le" if start[:1] == b"<" else "utf-32-be"
    return "utf-16-be" if start[:1] == b"\0" else "utf-16-le"


def _from_first_tag(data: bytes) -> bytes:
    """Cut what may stand before the first tag: white space, and what became of a byte-order mark.

    Real sites have files whose mark was doubled, or went through a conversion.
    """
    start = data[:1024].find(b"<")
    if start < 0 or not _BEFORE.fullmatch(data, 0, start):
        raise RecordError("not_xml", "the file does not begin with an XML document")
    return data[start:]


def _declared_codec(declaration: bytes) -> Codec:
    """Return the codec for the encoding that an XML declaration names; UTF-8 without one."""
    named = _DECLARED_ENCODING.search(declaration)
    return codec_of(named[1].decode()) if named else UTF8


@functools.lru_cache(maxsize=256)
def codec_of(name: str) -> Codec:
    """Return the codec for a declared encoding, in whatever spelling Python knows it.

    Raises UnknownEncoding for a name that Python does not know, RecordError for one that is
    refused.
    """
    codec = _lookup(name)
    if codec is None:
        raise UnknownEncoding(
            "not_xml", f"the declared encoding ({describe(name)}) is none that Python knows"
        )
    if codec.startswith(_WIDE):
        return UTF8  # some Philips exporters declare UTF-16 and write single bytes of UTF-8
    codec = _SUPERSETS.get(codec, codec)
    if codec in _REFUSED or not _keeps(codec, _SAMPLE):
        raise RecordError(
            "not_xml",
            f"the declared encoding ({describe(name)}) is refused: "
            "ASCII characters do not stand for themselves in it",
        )
    return Codec(codec, _keeps(codec, "".join(map(chr, range(128)))))


def _lookup(name: str) -> str | None:
    """Return Python's name of a codec; `x-windows-874` and its like are there as `cp874`."""
    lower = name.lower().removeprefix("x-")
    for spelling in (_OTHER_NAMES.get(lower, lower), lower.replace("windows-", "cp")):
        try:
            return codecs.lookup(spelling).name.replace("_", "-")
        except LookupError:
            continue
    return None


def _keeps(codec: str, characters: str) -> bool:
    """Say whether each of these ASCII characters stands for itself in a codec."""
    try:
        return all(c.encode("ascii").decode(codec) == c for c in characters)
    except (LookupError, UnicodeError):  # not a text codec; a byte that starts something longer
        return False


def _recode_blocks(data: bytes, codec: str) -> bytes:
    """Recode a single-byte encoding block by block.

    Most blocks hold waveforms, which are ASCII and stay as they are: a fifth of the time.
    """
    blocks = []
    for start in range(0, len(data), _BLOCK_BYTES):
        block = data[start : start + _BLOCK_BYTES]
        if not block.isascii():
            block = block.decode(codec).encode("utf-8")
        blocks.append(block)
    return b"".join(blocks)
