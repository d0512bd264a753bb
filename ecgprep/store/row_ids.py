"""Whose each row of a store is: patient, file and line, from the private build record."""

from __future__ import annotations

import base64
import csv
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ecgprep.errors import STATUSES, InputError
from ecgprep.store.format import SPLIT_NONE, SPLITS
from ecgprep.store.reader import Store
from ecgprep.store.record import private_path, read_build_record

COLUMNS = ("row", "patient_id", "path_xml", "line", "status", "split")
"""Columns of the table of `ecgprep rows`."""

MARK = ",".join(COLUMNS).encode()
"""Every such table begins with this, so that a file is recognised as one."""


class RowIds(NamedTuple):
    """Whose each row of a store is: an entry per row. Private."""

    patient_id: list[str]
    path_xml: list[str]
    line: list[int]
    """Line of the manifest."""

    def describe(self, row: int) -> str:
        """Say whose a row is. For private outputs only."""
        return f"patient {self.patient_id[row]}, {self.path_xml[row]}, line {self.line[row]}"


def read_row_ids(store: Store) -> RowIds:
    """Read from the build record beside a store whose its rows are.

    Raises InputError where the record is missing or damaged, belongs to another store, or was
    written before it held ids.
    """
    name = private_path(store.path, "build.json").name
    record = read_build_record(store.path)
    if record is None:
        raise InputError(
            f"{store.path}: its build record {name} is missing or damaged, and nothing else says "
            "whose the rows are. Put it back beside the store, or build the store again."
        )
    if record["content_sha256"] != store.content_sha256:
        raise InputError(
            f"{store.path}: the build record {name} beside it belongs to another store. "
            "Put its own there."
        )
    ids = row_ids_of(record)
    if ids is None or {len(column) for column in ids} != {len(store)}:
        raise InputError(
            f"{store.path}: its build record {name} does not say whose the rows are: it is "
            "damaged, or an earlier version of ecgprep wrote it. Build the store again."
        )
    return ids


def row_ids_of(record: dict[str, Any]) -> RowIds | None:
    """Return the ids that a build record holds; None where it has none, or damaged ones."""
    try:
        patients, paths, lines = (_unpack(record["ids"][name]) for name in RowIds._fields)
        return RowIds(patients, paths, [int(line) for line in lines])
    except (KeyError, TypeError, ValueError, zlib.error):
        return None


def packed_row_ids(
    patients: Sequence[str], paths: Sequence[str], lines: Iterable[int]
) -> dict[str, str]:
    """Return ids as a build record holds them: compressed, as a million would be 60 MB."""
    columns = (patients, paths, map(str, lines))
    return {name: _pack(texts) for name, texts in zip(RowIds._fields, columns, strict=True)}


def _pack(texts: Iterable[str]) -> str:
    """Join texts, none of which holds a line feed, and compress them."""
    return base64.b64encode(zlib.compress("\n".join(texts).encode(), 1)).decode()


def _unpack(packed: str) -> list[str]:
    return zlib.decompress(base64.b64decode(packed, validate=True)).decode().split("\n")


def rows_csv(store: Store) -> bytes:
    """Return the table of all rows as CSV: whose each is, its status and its split.

    A row without a split has an empty field. Raises as `read_row_ids`.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_lines(store, read_row_ids(store)))
    return text.getvalue().encode()


def _lines(store: Store, ids: RowIds) -> Iterator[tuple[Any, ...]]:
    codes = zip(store.array("status").tolist(), store.array("split").tolist(), strict=True)
    for row, (whose, (status, split)) in enumerate(zip(zip(*ids, strict=True), codes, strict=True)):
        name = "" if split == SPLIT_NONE else SPLITS[split]
        yield (row, *whose, STATUSES[status], name)
