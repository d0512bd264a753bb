"""The one door for XML: nothing else in the project opens a vendor file or imports an XML parser.

The policy is that of defusedxml with one difference: a bare DOCTYPE is allowed, because every MUSE
export has one. Any internal subset is refused, so no entity and no default attribute can be
declared (`<!ATTLIST>` alone makes defusedxml's defaults take 3.6 GB).

The bytes are brought to UTF-8, the prolog must match a small grammar, and only then does lxml
parse the root element in one call, without network access, DTDs or entities. That takes a third of
the time of the standard library's parser.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import stat
from pathlib import Path
from typing import TypeAlias

from lxml import etree  # noqa: TID251 - this is the door

from ecgprep.errors import RecordError, describe

Element: TypeAlias = etree._Element
"""An element of a parsed file."""

LIBXML2_VERSION = ".".join(map(str, etree.LIBXML_VERSION))
"""Version of the C library that parses."""

MAX_FILE_BYTES = 32_000_000
"""Ten minutes of twelve leads at 1000 Hz are 30 MB of text; resting exports are 0.1 to 0.5 MB."""

MAX_MARKUP = 500_000
"""Limit on tags and on attributes. Exports have a few thousand; 32 MB of `<a/>` take gigabytes."""

ENCODINGS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "ascii",
    "ascii": "ascii",
    "iso-8859-1": "latin-1",
    "iso8859-1": "latin-1",
    "latin1": "latin-1",
    "iso-8859-15": "iso8859-15",
    "windows-1252": "cp1252",
    "cp1252": "cp1252",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "windows-31j": "cp932",
}
"""Declared encodings that are read, each with its Python codec. All others are refused."""

_SINGLE_BYTE = {"latin-1", "iso8859-15", "cp1252"}
_BLOCK_BYTES = 16_384

_DECLARATION = re.compile(rb"<\?xml\s[^>]{0,200}?\?>")
_DECLARED_ENCODING = re.compile(rb"encoding\s*=\s*[\"']([A-Za-z0-9._:-]{1,40})[\"']")

_LITERAL = rb"(?:\"[^\"<>]*\"|'[^'<>]*')"
_EXTERNAL_ID = rb"(?:SYSTEM|PUBLIC\s+%b)\s+%b" % (_LITERAL, _LITERAL)
_DOCTYPE = re.compile(rb"<!DOCTYPE\s+[\w:.\x80-\xff-]+(?:\s+%b)?\s*>" % _EXTERNAL_ID)
"""A DOCTYPE without an internal subset (XML 1.0, section 2.8)."""

_SPACE = re.compile(rb"[ \t\r\n]*")
_ROOT_START = re.compile(rb"<[A-Za-z_:\x80-\xff]")

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Never follow a final symlink, never block on a FIFO. Windows has neither flag."""

_MISSING = (errno.ENOENT, errno.ENOTDIR)
_NOT_REGULAR = (errno.ELOOP, errno.EISDIR, errno.ENXIO)


def read_regular(path: Path, root: Path | None = None) -> bytes:
    """Return the bytes of a regular file of at most MAX_FILE_BYTES.

    It never blocks and never follows a final symlink. With `root`, the folder that holds the file
    must lie inside it once symlinks are resolved.

    Raises RecordError `file_missing`, `not_regular`, `file_unreadable` or `file_too_large`; the
    message does not hold the path.
    """
    try:
        if root is not None and not _leads_inside(os.path.dirname(path), str(root)):
            raise RecordError(
                "not_regular", "the file's folder is a symlink that leads out of the root folder"
            )
        descriptor = os.open(path, _OPEN_FLAGS)
        with open(descriptor, "rb", buffering=0) as file:
            return _read_all(file, _regular_size(descriptor))
    except OSError as error:  # its own text would repeat the path
        raise _reworded(error) from None
    except ValueError:  # a NUL in the path, or a surrogate that the file system cannot encode
        raise RecordError(
            "file_missing", "the path holds characters that no file name can have"
        ) from None


def _regular_size(descriptor: int) -> int:
    """Return the size of an open file, which must be regular and not too large."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise RecordError("not_regular", "not a regular file (a folder, pipe, socket or device)")
    if status.st_size > MAX_FILE_BYTES:
        raise RecordError(
            "file_too_large",
            f"{status.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read",
        )
    return status.st_size


def _reworded(error: OSError) -> RecordError:
    """Turn an error of the operating system into one that does not name the path."""
    if error.errno in _MISSING:
        return RecordError("file_missing", "no such file")
    if error.errno in _NOT_REGULAR:
        return RecordError(
            "not_regular", "a symlink, folder or socket; only regular files are read"
        )
    return RecordError("file_unreadable", f"cannot be read ({os.strerror(error.errno or 0)})")


def _read_all(file: io.FileIO, size: int) -> bytes:
    """Read `size` bytes and whatever a writer is still adding.

    A buffer of the largest allowed size would cost 0.1 ms a file.
    """
    data = file.read(size + 1)
    while len(data) < MAX_FILE_BYTES:
        more = file.read(MAX_FILE_BYTES - len(data))
        if not more:
            break
        data += more
    return data


@functools.lru_cache(maxsize=65536)
def _leads_inside(folder: str, root: str) -> bool:
    """Say whether a folder lies inside the root once symlinks are resolved.

    Resolving costs 0.1 ms, so the answer is cached by folder. `realpath`, unlike `Path.resolve`,
    does not fail on a loop of symlinks: opening the file then does.
    """
    real_root = os.path.realpath(root)
    return os.path.commonpath([os.path.realpath(folder), real_root]) == real_root


def parse_xml(data: bytes) -> Element:
    """Parse one whole document and return its root element.

    Raises RecordError `not_xml` for anything that is not well-formed XML in an allowed encoding,
    that declares anything in its document type, or that is built to exhaust memory. The message
    does not quote the document.
    """
    text = _to_utf8(data)
    body = text[_prolog_end(text) :]  # the parser sees no DOCTYPE, so nothing can be declared
    _check_markup(body)
    try:
        root: Element = etree.fromstring(body, _parser())  # an undeclared entity is an error
    except etree.XMLSyntaxError as error:  # its message may quote names from the document
        line, column = error.position
        raise RecordError(
            "not_xml",
            f"not well-formed XML at line {line}, column {column}, counted from the root element",
        ) from None
    return root


def _check_markup(body: bytes) -> None:
    """Refuse a document that would fill memory once it is a tree."""
    if len(body) <= MAX_MARKUP:
        return
    if body.count(b"<") > MAX_MARKUP or body.count(b"=") > MAX_MARKUP:
        raise RecordError(
            "not_xml", f"more than {MAX_MARKUP:,} tags or attributes; no ECG export has as many"
        )


@functools.cache
def _parser() -> etree.XMLParser:
    """Build the parser once.

    `huge_tree` stays off, so lxml's own limits hold: 256 levels, 10 MB of text in one node.
    """
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        remove_comments=True,
        remove_pis=True,
        remove_blank_text=True,
        collect_ids=False,
    )


def local_name(element: Element) -> str:
    """Return the tag without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _to_utf8(data: bytes) -> bytes:
    """Bring the document to UTF-8 without an XML declaration.

    The encoding follows from the byte-order mark, else from null bytes, else from the declaration.
    """
    if data.startswith(_UTF16_MARKS):
        return _recode(data, "utf-16")
    if b"\0" in data[:4]:  # UTF-16 without a mark: every other byte of ASCII is null
        return _recode(data, "utf-16-be" if data[:1] == b"\0" else "utf-16-le")
    document = _from_first_tag(data)
    declaration = _DECLARATION.match(document)
    if declaration is None:
        return _recode(document, "utf-8")
    return _recode(document[declaration.end() :], _declared_codec(declaration[0]))


def _from_first_tag(data: bytes) -> bytes:
    """Cut what may stand before the first tag: a UTF-8 mark, white space, or one `?`.

    The `?` is what a lossy conversion makes of a byte-order mark; real sites have such files.
    """
    start = data[:1024].find(b"<")
    before = data[: max(0, start)].removeprefix(_UTF8_MARK).strip()
    if start < 0 or before not in (b"", b"?"):
        raise RecordError("not_xml", "the file does not begin with an XML document")
    return data[start:]


def _declared_codec(declaration: bytes) -> str:
    """Return the codec for the encoding that an XML declaration names; UTF-8 without one."""
    named = _DECLARED_ENCODING.search(declaration)
    name = named[1].decode().lower() if named else "utf-8"
    codec = ENCODINGS.get(name)
    if codec is None:
        allowed = ", ".join(sorted(ENCODINGS))
        raise RecordError(
            "not_xml", f"the declared encoding ({describe(name)}) is not one of {allowed}"
        )
    if codec.startswith("utf-16"):
        return "utf-8"  # some Philips exporters declare UTF-16 and write single bytes of UTF-8
    return codec


def _recode(data: bytes, codec: str) -> bytes:
    """Decode strictly and encode as UTF-8."""
    is_utf16 = codec.startswith("utf-16")
    if data.isascii() and not is_utf16:
        return data
    try:
        if codec == "utf-8":
            data.decode(codec)
            return data
        if codec in _SINGLE_BYTE:
            return _recode_blocks(data, codec)
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        place = f" at byte {error.start}" if codec == "utf-8" else ""
        raise RecordError(
            "not_xml", f"the bytes are not {codec}, the file's encoding{place}"
        ) from None
    return _without_declaration(text.lstrip("\ufeff \t\r\n").encode("utf-8"))


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


def _without_declaration(document: bytes) -> bytes:
    """Drop the XML declaration, which names the encoding that the bytes had before."""
    declaration = _DECLARATION.match(document)
    return document[declaration.end() :] if declaration else document


def _prolog_end(text: bytes) -> int:
    """Return where the root element starts.

    Only white space, comments, processing instructions and one bare DOCTYPE may come before it.
    """
    position, seen_doctype = 0, False
    while True:
        position = _end_of_space(text, position)
        if text.startswith(b"<!--", position):
            position = _end_of(b"-->", text, position + 4)
        elif text.startswith(b"<?", position):
            position = _end_of(b"?>", text, position + 2)
        elif text.startswith(b"<!DOCTYPE", position) and not seen_doctype:
            position, seen_doctype = _end_of_doctype(text, position), True
        elif _ROOT_START.match(text, position):
            return position
        else:
            raise RecordError("not_xml", "no root element where the document should begin")


def _end_of_space(text: bytes, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match  # the pattern matches the empty string, too
    return match.end()


def _end_of(mark: bytes, text: bytes, position: int) -> int:
    """Return the place after the next `mark`, which ends a comment or an instruction."""
    found = text.find(mark, position)
    if found < 0:
        raise RecordError("not_xml", "a comment or instruction before the root element never ends")
    return found + len(mark)


def _end_of_doctype(text: bytes, position: int) -> int:
    match = _DOCTYPE.match(text, position)
    if match is None:
        raise RecordError(
            "not_xml",
            "the DOCTYPE has an internal subset or is malformed; only a bare DOCTYPE is read",
        )
    return match.end()
