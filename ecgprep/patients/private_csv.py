"""Read a private CSV table as text, and report all its faults together.

Faults are named by line and column and never repeat a value, which could identify a patient.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ecgprep.errors import InputError
from ecgprep.patients.identifiers import clean_id

MAX_SHOWN = 20
"""Faults listed in one message; the rest are counted."""

_MAX_LINES = 5

MANIFEST = "Manifest"
"""What a file is called in messages, unless the caller says otherwise."""

_SEPARATORS = (",", ";", "\t")

_EXCEL_LINE = re.compile(r'"?sep=[,;\t]"?[,;\t]*(?=\r|\n)', re.IGNORECASE)
"""A first line that tells Excel the separator; it is not the header."""

_HEADER_CHARACTERS = 65536
"""Where the header is looked for: it ends long before."""


@dataclass
class Faults:
    """Collects the faults of one file so that they can be reported together."""

    found: list[str] = field(default_factory=list)
    what: str = MANIFEST

    def add(self, line: int, column: str, message: str) -> None:
        """Note one fault."""
        self.found.append(f"line {line}, {column}: {message}")

    def raise_any(self, path: Path) -> None:
        """Raise InputError if any fault was noted."""
        n_faults = len(self.found)
        if not n_faults:
            return
        shown = self.found[:MAX_SHOWN]
        if n_faults > MAX_SHOWN:
            shown.append(f"and {n_faults - MAX_SHOWN:,} more")
        listed = "\n  ".join(shown)
        raise InputError(
            f"{self.what} {path.name}: {counted(n_faults, 'fault')}; no vendor file was read. "
            f"Correct the {self.what.lower()} and run again.\n  {listed}"
        )


@dataclass(frozen=True)
class CsvText:
    """The text of a CSV file, the SHA-256 of its bytes, and what separates its fields."""

    text: str
    sha256: str
    separator: str = ","
    what: str = MANIFEST

    @property
    def decimal_comma(self) -> bool:
        """Say whether a number may be written as `1,5`: commas do not separate fields."""
        return self.separator != ","


def counted(n: int, noun: str) -> str:
    """Write `1 path` or `2,000 paths`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def listed_lines(lines: Sequence[int]) -> str:
    """Write `line 4` or `lines 4, 7, 9`; those beyond the fifth are counted."""
    shown = ", ".join(map(str, lines[:_MAX_LINES]))
    more = f" and {len(lines) - _MAX_LINES:,} more" if len(lines) > _MAX_LINES else ""
    noun = "line" if len(lines) == 1 else "lines"
    return f"{noun} {shown}{more}"


def read_text(path: Path, columns: Sequence[str], what: str = MANIFEST) -> CsvText:
    """Read a CSV file in UTF-8, or in UTF-16 with a byte-order mark.

    Fields are separated by commas, or by semicolons or tabs where only that gives the header all of
    `columns`. They are also named in the message if there is no such file. `what` is the kind of
    file, for messages. Raises InputError.
    """
    try:
        if not path.is_file():
            found = "is not a regular file" if path.exists() else "does not exist"
            raise InputError(
                f"{what} {path} {found}. Give a CSV file with the columns {', '.join(columns)}."
            )
        data = path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise InputError(
            f"{what} {path.name} cannot be read ({reason}). Check its permissions and run again."
        ) from None
    text = _decode(data, f"{what} {path.name}")
    # The line is emptied and not removed, so that messages count it.
    excel_line = _EXCEL_LINE.match(text)
    text = text[excel_line.end() :] if excel_line else text
    return CsvText(text, hashlib.sha256(data).hexdigest(), _separator(text, columns), what)


def _decode(data: bytes, where: str) -> str:
    """Decode the bytes of a file by its byte-order mark, UTF-8 without one. Raises InputError."""
    is_utf16 = data.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "replace").count("\n") + 1
        name = "UTF-16, as its first bytes say" if is_utf16 else "UTF-8"
        raise InputError(
            f"{where}: line {line} is not {name}. Save the file as `CSV UTF-8` and run again."
        ) from None
    if "\0" in text.partition("\n")[0]:
        raise InputError(
            f"{where}: line 1 holds NUL characters, so it may be UTF-16 without a "
            "byte-order mark. Save the file as `CSV UTF-8` and run again."
        )
    return text


def _separator(text: str, columns: Sequence[str]) -> str:
    """Return the separator that gives the header all of `columns`.

    If not exactly one does, it is the only one that gives a header of several fields, so that the
    message about it can name what is missing, or else a comma.
    """
    headers = {mark: _header(text, mark) for mark in _SEPARATORS}
    complete = [mark for mark, header in headers.items() if set(columns) <= set(header)]
    if len(complete) == 1:
        return complete[0]
    splitting = [mark for mark, header in headers.items() if len(header) > 1]
    return splitting[0] if len(splitting) == 1 else ","


def _header(text: str, separator: str) -> list[str]:
    """Return the names in the first row that is not blank; none where quotes are broken."""
    start = text[:_HEADER_CHARACTERS]
    reader = csv.reader(io.StringIO(start, newline=""), strict=True, delimiter=separator)
    try:
        names = next((fields for fields in reader if not _is_blank(fields)), [])
    except csv.Error:  # reported by `read_rows`
        return []
    return [clean_id(name) for name in names]


def _is_blank(fields: Sequence[str]) -> bool:
    return not any(clean_id(field) for field in fields)


def read_rows(source: CsvText, path: Path, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) for the header, its names as `clean_id` gives them, and for every row.

    A row that is shorter or longer than the header is a fault. Rows without a field that holds
    anything are skipped, before the header, too. The line is the last one of a row whose fields
    span several. Raises InputError for broken quotes.
    """
    text = io.StringIO(source.text, newline="")
    reader = csv.reader(text, strict=True, delimiter=source.separator)
    header: list[str] | None = None
    try:
        for fields in reader:
            if _is_blank(fields):
                continue
            if header is None:
                header = [clean_id(name) for name in fields]
                yield reader.line_num, header
            elif len(fields) == len(header):
                yield reader.line_num, fields
            else:
                message = f"{len(fields)} fields; the header has {len(header)}"
                faults.add(reader.line_num, "row", message)
        if header is None:
            yield 0, []
    except csv.Error as error:
        raise InputError(
            f"{source.what} {path.name}: line {reader.line_num} is not valid CSV ({error}). "
            "Correct the quotes and run again."
        ) from None
