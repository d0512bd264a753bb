"""Read a private CSV table as text, and report all its faults together.

Faults are named by line and column and never repeat a value, which could identify a patient.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ecgprep.errors import InputError

MAX_SHOWN = 20
"""Faults listed in one message; the rest are counted."""


@dataclass
class Faults:
    """Collects the faults of one file so that they can be reported together."""

    found: list[str] = field(default_factory=list)

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
        count = "1 fault" if n_faults == 1 else f"{n_faults:,} faults"
        listed = "\n  ".join(shown)
        raise InputError(
            f"Manifest {path.name}: {count}; no vendor file was read. "
            f"Correct the manifest and run again.\n  {listed}"
        )


def read_text(path: Path, columns: tuple[str, ...]) -> tuple[str, str]:
    """Read a UTF-8 file, with or without a byte-order mark; return its text and its SHA-256.

    `columns` are named in the message if there is no such file. Raises InputError.
    """
    try:
        if not path.is_file():
            found = "is not a regular file" if path.exists() else "does not exist"
            raise InputError(
                f"Manifest {path} {found}. Give a CSV file with the columns {', '.join(columns)}."
            )
        data = path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise InputError(
            f"Manifest {path.name} cannot be read ({reason}). Check its permissions and run again."
        ) from None
    try:
        return data.decode("utf-8-sig"), hashlib.sha256(data).hexdigest()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"Manifest {path.name}: line {line} is not UTF-8. "
            "Save the file as `CSV UTF-8` and run again."
        ) from None


def read_rows(text: str, path: Path, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) for the header, with names stripped, and for every row.

    A row that is shorter or longer than the header is a fault; blank lines are skipped. The line
    is the last one of a row whose fields span several. Raises InputError for broken quotes.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        yield reader.line_num, [name.strip() for name in header]
        for fields in reader:
            if len(fields) == len(header):
                yield reader.line_num, fields
            elif fields:
                message = f"{len(fields)} fields; the header has {len(header)}"
                faults.add(reader.line_num, "row", message)
    except csv.Error as error:
        raise InputError(
            f"Manifest {path.name}: line {reader.line_num} is not valid CSV ({error}). "
            "Correct the quotes and run again."
        ) from None
