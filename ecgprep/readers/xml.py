"""The one door for XML: nothing else in the project opens a vendor file or imports an XML parser.

Policy: defusedxml's refusals, with one difference: a bare DOCTYPE is allowed (every MUSE export has one), any internal subset
is refused, so no entity and no default attribute can be declared (`<!ATTLIST>` alone takes defusedxml's defaults to 3.6 GB).
The bytes are brought to UTF-8 first, the prolog must match a small grammar, and only then does lxml parse, in one call, without
network, DTD loading or entity expansion: a third of the time of the standard library's parser.
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


MAX_FILE_BYTES = 32_000_000
"""Ten minutes of twelve leads at 1000 Hz in text are 30 MB; resting exports are 0.1-0.5 MB."""


MAX_MARKUP = 500_000
"""Tags or attributes in one file, far above any export (a few thousand): 32 MB of `<a/>` would take gigabytes as a tree."""


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
"""Declared encodings that are read, and the Python codec for each. Anything else is refused by name."""


_SINGLE_BYTE = {"latin-1", "iso8859-15", "cp1252"}


_BLOCK = 16_384


_DECLARATION = re.compile(rb"<\?xml\s[^>]{0,200}?\?>")


_DECLARED_ENCODING = re.compile(rb"encoding\s*=\s*[\"']([A-Za-z0-9._:-]{1,40})[\"']")


_DOCTYPE = re.compile(
    rb"<!DOCTYPE\s+[\w:.\x80-\xff-]+(\s+(SYSTEM|PUBLIC\s+(\"[^\"<>]*\"|'[^'<>]*'))\s+(\"[^\"<>]*\"|'[^'<>]*'))?\s*>"
)


_SPACE = re.compile(rb"[ \t\r\n]*")


_ROOT_START = re.compile(rb"<[A-Za-z_:\x80-\xff]")


def read_regular(path: Path, root: Path | None = None) -> bytes:
    """Return the bytes of a regular file of at most MAX_FILE_BYTES, never blocking and never following a final symlink.

    With `root`, the folder that holds the file must lie inside it once symlinks are resolved. Raises RecordError with
    `file_missing`, `not_regular`, `file_unreadable` or `file_too_large`.
    """
    try:
        if root is not None and not _leads_inside(os.path.dirname(path), str(root)):
            raise RecordError(
                "not_regular", "the file's folder is a symlink that leads out of the root folder"
            )
        fd = os.open(
            path,
            os.O_RDONLY
            | os.O_CLOEXEC
            | getattr(os, "O_NOFOLLOW", 0)
            | getattr(os, "O_NONBLOCK", 0),
        )
        with open(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise RecordError(
                    "not_regular", "not a regular file (a folder, pipe, socket or device)"
                )
            if status.st_size > MAX_FILE_BYTES:
                raise RecordError(
                    "file_too_large",
                    f"{status.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read",
                )
            return _read_all(file, status.st_size)
    except OSError as error:  # its text would repeat the path
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise RecordError("file_missing", "no such file") from None
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise RecordError(
                "not_regular", "a symlink, folder or socket; only regular files are read"
            ) from None
        raise RecordError(
            "file_unreadable", f"cannot be read ({os.strerror(error.errno or 0)})"
        ) from None
    except ValueError:  # a NUL in the path, or a surrogate that the file system cannot encode
        raise RecordError(
            "file_missing", "the path holds characters that no file name can have"
        ) from None


def _read_all(file: io.FileIO, size: int) -> bytes:
    """Read `size` bytes and what a writer may be adding; a buffer of the largest allowed size would cost 0.1 ms a file."""
    data = file.read(size + 1)
    while len(data) < MAX_FILE_BYTES and (more := file.read(MAX_FILE_BYTES - len(data))):
        data += more
    return data


@functools.lru_cache(maxsize=65536)
def _leads_inside(folder: str, root: str) -> bool:
    """Say whether a folder lies inside the root once symlinks are resolved; asked once a folder, since it costs 0.1 ms."""
    real = os.path.realpath(
        root
    )  # unlike Path.resolve, it does not fail on a loop of symlinks: opening the file then does
    return os.path.commonpath([os.path.realpath(folder), real]) == real


def parse_xml(data: bytes) -> Element:
    """Parse one whole document and return its root element.

    Raises RecordError `not_xml`, without quoting the document, for anything that is not well-formed XML in an allowed
    encoding, declares anything in a document type, or is built to exhaust memory.
    """
    text = _to_utf8(data)
    body = text[
        _prolog_end(text) :
    ]  # the parser never sees a DOCTYPE, so nothing can be declared at all
    if len(body) > MAX_MARKUP and max(body.count(b"<"), body.count(b"=")) > MAX_MARKUP:
        raise RecordError(
            "not_xml", f"more than {MAX_MARKUP:,} tags or attributes; no ECG export has as many"
        )
    try:
        root: Element = etree.fromstring(
            body, _parser()
        )  # an entity in the body is undeclared, which is an error
    except etree.XMLSyntaxError as error:  # its message may quote names from the document
        line, column = error.position
        raise RecordError(
            "not_xml",
            f"not well-formed XML at line {line}, column {column}, counted from the root element",
        ) from None
    return root


@functools.cache
def _parser() -> etree.XMLParser:
    """Build the parser once; lxml's own limits (256 levels, 10 MB of text in one node) stay on, since `huge_tree` is off."""
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
    """Bring the document to UTF-8 without an XML declaration, by byte-order mark, null bytes, then the declared encoding."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _recode(data, "utf-16")
    if (
        data[:4].replace(b"\0", b"") != data[:4]
    ):  # UTF-16 without a mark: every other byte of the first characters is null
        return _recode(data, "utf-16-be" if data[:1] == b"\0" else "utf-16-le")
    start = data[:1024].find(b"<")
    # Before the first tag: a UTF-8 mark, white space, or the `?` that a lossy conversion made of a mark [seen at real sites].
    if start < 0 or data[:start].removeprefix(b"\xef\xbb\xbf").strip() not in (b"", b"?"):
        raise RecordError("not_xml", "the file does not begin with an XML document")
    data = data[start:]
    declaration = _DECLARATION.match(data)
    if declaration is None:
        return _recode(data, "utf-8")
    named = _DECLARED_ENCODING.search(declaration[0])
    name = named[1].decode().lower() if named else "utf-8"
    if name not in ENCODINGS:
        raise RecordError(
            "not_xml",
            f"the declared encoding ({describe(name)}) is not one of {', '.join(sorted(ENCODINGS))}",
        )
    # Declared as UTF-16, but the bytes are single ones: some Philips exporters do this, and the content is UTF-8.
    codec = "utf-8" if ENCODINGS[name].startswith("utf-16") else ENCODINGS[name]
    return _recode(data[declaration.end() :], codec)


def _recode(data: bytes, codec: str) -> bytes:
    """Decode strictly and encode as UTF-8; drop a declaration that now would say something false."""
    if not codec.startswith("utf-16") and data.isascii():
        return data
    try:
        if codec == "utf-8":
            data.decode(codec)
            return data
        if (
            codec in _SINGLE_BYTE
        ):  # most blocks hold waveforms, which are ASCII and stay as they are: a fifth of the time
            blocks = [data[i : i + _BLOCK] for i in range(0, len(data), _BLOCK)]
            return b"".join(
                block if block.isascii() else block.decode(codec).encode("utf-8")
                for block in blocks
            )
        encoded = data.decode(codec).lstrip("\ufeff \t\r\n").encode("utf-8")
    except UnicodeError as error:
        place = (
            f" at byte {error.start}"
            if isinstance(error, UnicodeDecodeError) and codec == "utf-8"
            else ""
        )
        raise RecordError(
            "not_xml", f"the bytes are not {codec}, the file's encoding{place}"
        ) from None
    declaration = _DECLARATION.match(encoded)
    return encoded[declaration.end() :] if declaration else encoded


def _prolog_end(text: bytes) -> int:
    """Return where the root element starts; only white space, comments, instructions and one bare DOCTYPE may come before."""
    position, seen_doctype = 0, False
    while True:
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # matches the empty string too
        if text.startswith(b"<!--", position):
            end = text.find(b"-->", position + 4)
            position = end + 3
        elif text.startswith(b"<?", position):
            end = text.find(b"?>", position + 2)
            position = end + 2
        elif text.startswith(b"<!DOCTYPE", position) and not seen_doctype:
            match = _DOCTYPE.match(text, position)
            if match is None:
                raise RecordError(
                    "not_xml",
                    "the DOCTYPE declares something of its own (an internal subset); only a bare DOCTYPE is read",
                )
            end, seen_doctype = match.end(), True
            position = end
        else:
            break
        if end < 0:
            raise RecordError(
                "not_xml", "a comment or instruction before the root element does not end"
            )
    if not _ROOT_START.match(text, position):
        raise RecordError("not_xml", "no root element where the document should begin")
    return position
