"""Covariates of new files, from a CSV with a column `file`.

The CSV is read line by line and not by pandas, which would lose the line numbers of faults.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import InputError
from ecgprep.files.csv_header import check_header
from ecgprep.patients.covariates import covariate_value

if TYPE_CHECKING:
    import pandas as pd

FILE = "file"


def read_covariates(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """Read a CSV with a column `file` and the named ones; other columns are ignored.

    Returns float32 columns `names`, NaN where a cell is empty, indexed by `file`. Empty lines are
    skipped. Raises InputError that names line and column, and never a value.
    """
    import pandas as pd

    values: dict[str, list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            check_header(header, (FILE, *names), f"{path.name}, line 1")
            for cells in reader:
                if any(cell.strip() for cell in cells):  # spreadsheets leave empty lines
                    where = f"{path.name}, line {reader.line_num}"
                    row = _parse_line(cells, header, where)
                    if row[FILE] in values:
                        raise InputError(
                            f"{where}: this file is listed before. List each file once."
                        )
                    values[row[FILE]] = [_parse_value(row[name], name, where) for name in names]
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path.name} is not a CSV file in UTF-8. Save it as one.") from None
    index = pd.Index(list(values), dtype=object, name=FILE)
    table = np.array(list(values.values()), np.float32).reshape(len(index), len(names))
    return pd.DataFrame(table, index, list(names))


def _parse_line(cells: Sequence[str], header: Sequence[str], where: str) -> dict[str, str]:
    if len(cells) != len(header):
        raise InputError(
            f"{where}: {len(cells)} values for {len(header)} columns. "
            "A value with a comma in it needs quotes."
        )
    row = dict(zip(header, cells, strict=True))
    if not row[FILE].strip():
        raise InputError(f"{where}: file is empty. Name the file that the values belong to.")
    return row


def _parse_value(text: str, name: str, where: str) -> float:
    try:
        return covariate_value(text, name)
    except ValueError:
        raise InputError(
            f"{where}, column {name}: not a number. Leave it empty where it is not known."
        ) from None


def covariates_of_files(
    path: Path, files: Sequence[Path], names: Sequence[str], say: Callable[[str], Any] = print
) -> NDArray[np.float32]:
    """Return the covariates (files, K) of a CSV in the order of `files`, NaN where it has no line.

    A line may hold a file's bare name if only one of the files has that name: in another folder it
    may be another patient's. Says how many lines and files found no partner. Raises InputError.
    """
    known = read_covariates(path, names)
    line_of = {name: position for position, name in enumerate(known.index)}
    _check_bare_names(path, files, line_of)
    found: dict[Path, int | None] = {}
    for file in files:
        found[file] = line_of.get(str(file), line_of.get(file.name))
    _say_unmatched(path, found, len(known), say)
    values = np.full((len(files), len(names)), np.nan, np.float32)
    table = known.to_numpy(np.float32)
    for i, file in enumerate(files):
        line = found[file]
        if line is not None:
            values[i] = table[line]
    return values


def _check_bare_names(path: Path, files: Sequence[Path], line_of: dict[str, int]) -> None:
    """Refuse a line that holds a bare name which several of the files have."""
    n_files = Counter(file.name for file in set(files))
    for file in files:
        by_bare_name = str(file) not in line_of and file.name in line_of
        if by_bare_name and n_files[file.name] > 1:
            raise InputError(
                f"{path.name}: a line holds a bare file name that several of the files have, so "
                "it is not known which of them it belongs to. Write the paths as you give them "
                "to `predict`."
            )


def _say_unmatched(
    path: Path, found: dict[Path, int | None], n_lines: int, say: Callable[[str], Any]
) -> None:
    lines = {line for line in found.values() if line is not None}
    n_unused = n_lines - len(lines)
    n_without = sum(line is None for line in found.values())
    if n_unused or n_without:
        say(
            f"{path.name}: {n_unused:,} of {n_lines:,} lines name none of the files; "
            f"{n_without:,} of {len(found):,} files have no line."
        )
