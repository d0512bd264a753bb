"""The one door for XML: nothing else in the project opens a vendor file or imports an XML parser.

The policy is that of defusedxml with one difference: a bare DOCTYPE is allowed, because every MUSE
export has one. Any internal subset is refused, so no entity and no default attribute can be
declared (`<!ATTLIST>` alone makes defusedxml's defaults take 3.6 GB).

The bytes are brought to UTF-8, the prolog must match a small grammar, and only then does lxml
parse the root element in one call, without network access, DTDs or entities. That takes a third of
the time of the standard library's parser. A document that is refused is mended once, see
`readers.repair`; what is mended must pass the same checks.
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

from ecgprep.errors import RecordError
from ecgprep.readers.encoding import to_utf8
from ecgprep.readers.repair import repair

Element: TypeAlias = etree._Element
"""An element of a parsed file."""

LIBXML2_VERSION = ".".join(map(str, etree.LIBXML_VERSION))
"""Version of the C library that parses."""

MAX_FILE_BYTES = 100_000_000
"""An hour of twelve leads at 500 Hz is 75 MB of text, and takes 800 MB of memory to read; resting
exports are 0.1 to 0.5 MB."""

_MORE_BYTES = 32_000_000

_MAX_ORDINARY_BYTES = 10_000_000
"""No text is longer in a smaller file, which is libxml2's ordinary limit for one node."""

MAX_MARKUP = 500_000
"""Limit on tags and on attributes. Exports have a few thousand; 100 MB of `<a/>` take gigabytes."""

_BEYOND_A_LIMIT = (etree.ErrorTypes.ERR_RESOURCE_LIMIT, etree.ErrorTypes.ERR_NAME_TOO_LONG)
"""What libxml2 reports beyond one of its limits."""

_LITERAL = rb"(?:\"[^\"<>]*\"|'[^'<>]*')"
_EXTERNAL_ID = rb"(?:SYSTEM|PUBLIC\s+%b)\s+%b" % (_LITERAL, _LITERAL)
_DOCTYPE = re.compile(rb"<!DOCTYPE\s+[\w:.\x80-\xff-]+(?:\s+%b)?\s*>" % _EXTERNAL_ID)
"""A DOCTYPE without an internal subset (XML 1.0, section 2.8)."""

_SPACE = re.compile(rb"[ \t\r\n]*")
_ROOT_START = re.compile(rb"<[A-Za-z_:\x80-\xff]")

_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Never follow a final symlink, never block on a FIFO. Windows has neither flag."""

_MISSING = (errno.ENOENT, errno.ENOTDIR)
_NOT_REGULAR = (errno.ELOOP, errno.EISDIR, errno.ENXIO)


def read_regular(
    path: str | os.PathLike[str], root: Path | None = None, follow_symlinks: bool = False
) -> bytes:
    """Return the bytes of a regular file of at most MAX_FILE_BYTES.

    It never blocks. With `root`, the folder that holds the file must lie inside it once symlinks
    are resolved. A final symlink is not followed, except with `root` and `follow_symlinks`: then
    the file that it leads to must lie inside the root.

    Raises RecordError `file_missing`, `not_regular`, `file_unreadable` or `file_too_large`; the
    message does not hold the path.
    """
    try:
        if root is not None and follow_symlinks:
            path = os.path.realpath(path)
        if root is not None and not _leads_inside(os.path.dirname(path), str(root)):
            raise RecordError(
                "not_regular",
                "a symlink leads out of the root folder; name a root that holds its target",
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
    if error.errno == errno.ELOOP:
        return RecordError(
            "not_regular",
            "a symlink; a build follows it within the root folder with --follow-symlinks",
        )
    if error.errno in _NOT_REGULAR:
        return RecordError("not_regular", "a folder or socket; only regular files are read")
    return RecordError("file_unreadable", f"cannot be read ({os.strerror(error.errno or 0)})")


def _read_all(file: io.FileIO, size: int) -> bytes:
    """Read `size` bytes and whatever a writer is still adding.

    A buffer of the largest allowed size would cost 0.1 ms a file. One of _MORE_BYTES is the largest
    that glibc takes from its heap, and freed once, it lets the arrays that follow come from there.
    """
    data = file.read(size + 1)
    while len(data) < MAX_FILE_BYTES:
        more = file.read(min(_MORE_BYTES, MAX_FILE_BYTES - len(data)))
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


def parse_document(data: bytes) -> tuple[Element, tuple[str, ...]]:
    """Parse one whole document; where that fails, mend its texts and try once more.

    Returns the root element and what was repaired. Raises the RecordError of the first try when the
    second fails too, or when a repair made a name of a tag or an attribute: that would hide a field
    from its reader.
    """
    try:
        return parse_xml(data), ()
    except RecordError as error:
        refusal = error
    try:
        text, notes = repair(data)
        root = _parse(text) if notes else None
    except RecordError:
        root = None
    if root is None or not _has_ascii_names(root):
        raise refusal
    return root, notes


def _has_ascii_names(root: Element) -> bool:
    """Say whether tags and attributes have ASCII names, as in every vendor's format."""
    return all(
        element.tag.isascii() and "".join(element.keys()).isascii() for element in root.iter()
    )


def parse_xml(data: bytes) -> Element:
    """Parse one whole document and return its root element. Nothing is repaired.

    Raises RecordError `not_xml` for anything that is not well-formed XML in an allowed encoding,
    that declares anything in its document type, or that is built to exhaust memory. The message
    does not quote the document.
    """
    return _parse(to_utf8(data))


def _parse(text: bytes) -> Element:
    """Parse a document in UTF-8 that has no XML declaration."""
    body = text[_prolog_end(text) :]  # the parser sees no DOCTYPE, so nothing can be declared
    _check_markup(body)
    try:
        is_huge = len(body) > _MAX_ORDINARY_BYTES
        root: Element = etree.fromstring(body, _parser(is_huge))  # an undeclared entity is an error
    except etree.XMLSyntaxError as error:  # its message may quote names from the document
        if error.code in _BEYOND_A_LIMIT:
            raise RecordError(
                "not_xml", "nested deeper, or with longer names, than any ECG export (256 levels)"
            ) from None
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
def _parser(is_huge: bool) -> etree.XMLParser:
    """Build each parser once.

    With `huge_tree` off, lxml's own limits hold: 256 levels, 10 MB of text in one node. The full
    disclosure of an exercise test is one text of 20 to 40 MB. MAX_FILE_BYTES and MAX_MARKUP bound
    what such a file can take, and nothing in it can be declared; 2,048 levels are allowed then.
    """
    return etree.XMLParser(
        huge_tree=is_huge,
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
