"""Read a table of any size as columns of text: each distinct text is stored and checked once.

A table is a CSV file, a Parquet file or a DataFrame. Faults are named by line and column, and never
repeat a value, which could identify a patient.
"""

from __future__ import annotations

import itertools
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import EcgError, InputError, missing_extra
from ecgprep.files.csv_header import check_header
from ecgprep.patients.private_csv import Faults, counted, listed_lines, read_rows, read_text

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MAX_SHOWN = 20
"""Faults listed in one message; the rest are counted."""


_ROWS_AT_ONCE = 4096


class Wanted(NamedTuple):
    """Which columns of a table are used.

    `role` is what the table is for, such as echo. `optional` columns may be missing; with None, all
    further columns are read. `names` maps our names of columns to the table's own.
    """

    role: str
    required: Sequence[str]
    optional: Sequence[str] | None
    names: Mapping[str, str]

    def own(self, name: str) -> str:
        """Return what the table calls a column."""
        return self.names.get(name, name)


class TextColumn(NamedTuple):
    """A column of N fields: row i holds `texts[codes[i]]`."""

    texts: list[str]
    codes: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of a table that are used, under our names; row i stands on line `line[i]`."""

    name: str
    columns: dict[str, TextColumn]
    line: NDArray[np.int64]
    decimal_comma: bool
    faults: Faults

    def __len__(self) -> int:
        return len(self.line)

    def parsed(self, column: str, parse: Callable[[str], Any], missing: Any) -> NDArray[Any]:
        """Return a column's values, `parse` called once for each distinct text.

        Texts for which `parse` raises ValueError are faults, and get the value `missing`.
        """
        texts, codes = self.columns[column]
        values, bad = [], defaultdict(list)
        for code, text in enumerate(texts):
            try:
                values.append(parse(text))
            except ValueError as error:
                bad[str(error)].append(code)
                values.append(missing)
        for message, wrong in bad.items():
            self.add_fault(column, np.isin(codes, wrong), message)
        return np.array(values or [missing])[codes]

    def add_fault(self, column: str, rows: NDArray[np.bool_], message: str) -> None:
        """Note one fault for all `rows`, a mask; nothing if there are none."""
        lines = self.line[rows].tolist()
        if lines:
            where = f"{counted(len(lines), 'row')} ({listed_lines(lines)})"
            self.faults.found.append(f"{self.name}, {column}: {where}: {message}")


def raise_faults(faults: Iterable[Faults]) -> None:
    """Raise InputError that lists the faults of all tables, if there are any."""
    found = [fault for one in faults for fault in one.found]
    if not found:
        return
    shown = found[:MAX_SHOWN]
    if len(found) > MAX_SHOWN:
        shown.append(f"and {len(found) - MAX_SHOWN:,} more")
    listed = "\n  ".join(shown)
    raise InputError(
        f"The tables have {counted(len(found), 'fault')}; nothing was written. "
        f"Correct them and run again.\n  {listed}"
    )


def read_table(source: Any, wanted: Wanted, faults: Faults) -> Table:
    """Read the columns of a table that are used.

    Raises InputError where the table cannot be read or lacks a required column.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        reader = _read_parquet if path.suffix.lower() in (".parquet", ".pq") else _read_csv
        return reader(path, wanted, faults)
    return _from_frame(source, f"{wanted.role} (DataFrame)", wanted, faults)


def _positions(header: Sequence[str], where: str, wanted: Wanted) -> dict[str, int]:
    """Find the columns that are used in a header. Raises InputError.

    A column that the task names must be there, even if it is optional.
    """
    role, required, optional, names = wanted
    known = [*required, *(optional or ())]
    unknown = [name for name in names if optional is not None and name not in known]
    if unknown:
        raise InputError(
            f"The task, columns.{role}: unknown column {', '.join(unknown)}; this table has "
            f"{', '.join(known)}."
        )
    needed = [wanted.own(name) for name in known if name in required or name in names]
    example = f"columns: {{{role}: {{{required[-1]}: YOUR_NAME}}}}"
    check_header(
        header, needed, where, hint=f"Columns of other names are mapped in the task: {example}."
    )
    repeated = sorted({name for name in header if header.count(name) > 1 and name in known})
    if repeated:
        raise InputError(f"{where}: column given twice: {', '.join(repeated)}.")
    if optional is None:
        known = list(dict.fromkeys([*required, *header]))
    own = {name: wanted.own(name) for name in known}
    return {name: header.index(other) for name, other in own.items() if other in header}


class _Codes:
    """Numbers the distinct texts of a column in the order in which they come."""

    def __init__(self) -> None:
        self._code_of: defaultdict[str, int] = defaultdict()
        self._code_of.default_factory = self._code_of.__len__  # the next number
        self._codes = array("i")

    def extend(self, texts: Iterable[str]) -> None:
        self._codes.extend(map(self._code_of.__getitem__, texts))

    def finished(self) -> TextColumn:
        return TextColumn(list(self._code_of), np.array(self._codes, np.int32))


def _read_csv(path: Path, wanted: Wanted, faults: Faults) -> Table:
    what = f"Table ({wanted.role})"
    source = read_text(path, [wanted.own(name) for name in wanted.required], what)
    shape = Faults()
    rows = read_rows(source, path, shape)
    _, header = next(rows)
    where = f"{what} {path.name}: line 1"
    positions = _positions(header, where, wanted)
    lines = array("q")
    columns = {name: _Codes() for name in positions}
    while chunk := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        lines.extend(line for line, _ in chunk)
        fields = list(zip(*(texts for _, texts in chunk), strict=True))
        for name, position in positions.items():
            columns[name].extend(fields[position])
    faults.found += [f"{path.name}, {fault}" for fault in shape.found]
    return Table(
        name=path.name,
        columns={name: column.finished() for name, column in columns.items()},
        line=np.array(lines, np.int64),
        decimal_comma=source.decimal_comma,
        faults=faults,
    )


def _read_parquet(path: Path, wanted: Wanted, faults: Faults) -> Table:
    import pandas as pd

    if not path.is_file():
        raise InputError(f"Table ({wanted.role}) {path} does not exist or is not a regular file.")
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise EcgError(f"A Parquet file: {missing_extra('pyarrow', 'parquet')}") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"Table ({wanted.role}) {path.name} is not a readable Parquet file "
            f"({type(error).__name__}). Write it again, or give a CSV file."
        ) from None
    return _from_frame(frame, path.name, wanted, faults)


def _from_frame(frame: DataFrame, name: str, wanted: Wanted, faults: Faults) -> Table:
    """Take a DataFrame as a CSV file whose row i stands on line i + 2."""
    header = [str(column).strip() for column in frame.columns]
    where = f"Table ({wanted.role}) {name}: column names"
    positions = _positions(header, where, wanted)
    return Table(
        name=name,
        columns={
            column: _text_column(frame.iloc[:, position], name, column)
            for column, position in positions.items()
        },
        line=np.arange(2, len(frame) + 2),
        decimal_comma=False,
        faults=faults,
    )


def _text_column(column: Series, table: str, name: str) -> TextColumn:
    """Write each distinct value of a pandas column as text; missing values become empty."""
    import pandas as pd

    try:
        codes, values = pd.factorize(column, use_na_sentinel=True)
    except TypeError:
        raise InputError(
            f"Table {table}, column {name}: holds lists or other nested values; it must hold text, "
            "numbers or dates."
        ) from None
    is_float = pd.api.types.is_float_dtype(column.dtype)
    if is_float and name in ("patient_id", "path_xml"):
        raise InputError(
            f"Table {table}, column {name}: floating-point numbers; it must be text or integers. "
            "pandas turns integers into floats where values are missing: read the file with "
            f"dtype={{{name!r}: str}}."
        )
    if is_float:
        values = values.to_numpy()  # iterating over the index would make them double precision
    texts = [*(_written(value) for value in values), ""]
    return TextColumn(texts, np.where(codes < 0, len(texts) - 1, codes).astype(np.int32))


def _written(value: Any) -> str:
    """Write a value as a CSV file would hold it: days without a time, whole floats as integers.

    A number of single precision keeps its own digits: 54.4, and not 54.400001525878906.
    """
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() else str(value)
    if hasattr(value, "isoformat"):
        return str(value.isoformat()).removesuffix("T00:00:00")
    if isinstance(value, bytes):  # text in Parquet files that do not call it so
        return value.decode("utf-8", "replace")
    return str(value)
