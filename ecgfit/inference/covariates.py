"""Covariates of new files: from a CSV with a column `file`, else from the files' own headers.

The CSV is read line by line and not by pandas, which would lose the line numbers of faults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import InputError
from ecgprep.files.csv_header import check_header
from ecgprep.header import COVARIATES, Header
from ecgprep.patients.covariates import CovariateColumn, capped_age
from ecgprep.patients.private_csv import Faults, read_rows, read_text
from ecgprep.readers import VendorFile
from ecgprep.sex_code import SexCode

if TYPE_CHECKING:
    import pandas as pd

FILE = "file"

_WHAT = "Covariates file"

SexCodes = Mapping[str, SexCode]
"""{covariate: code} of the covariates of a run that hold sexes of a known code."""

_NO_CODES: SexCodes = {}


def fields_of_header(names: Sequence[str], sex_codes: SexCodes) -> list[str]:
    """Return the covariates that the header of a file can fill: those that have its fields' names.

    Sex is among them only if it is known which number is which.
    """
    return [name for name in names if name in COVARIATES and (name != "sex" or name in sex_codes)]


def read_covariates(
    path: Path,
    names: Sequence[str],
    sex_codes: SexCodes = _NO_CODES,
    may_lack: Collection[str] = (),
) -> pd.DataFrame:
    """Read a CSV with a column `file` and the named ones; other columns are ignored.

    Fields are read as in a manifest, F and M by `sex_codes`. Columns in `may_lack` need not be
    there. Returns float32 columns `names`, NaN where there is no value, indexed by `file`. Raises
    InputError that names every fault by line and column, and never a value.
    """
    import pandas as pd

    faults = Faults(what=_WHAT)
    source = read_text(path, [FILE], _WHAT)
    rows = read_rows(source, path, faults)
    _, header = next(rows)
    present = _present_columns(header, names, may_lack, path)
    columns = [
        CovariateColumn(name, sex_codes.get(name), decimal_comma=source.decimal_comma)
        for name in present
    ]
    values: dict[str, list[float]] = {}
    for line, fields in rows:
        row = dict(zip(header, fields, strict=True))
        _check_file(row[FILE], values, line, faults)
        values[row[FILE]] = [_value(row[column.name], line, column, faults) for column in columns]
    _check_columns(columns, sex_codes, faults)
    faults.raise_any(path)
    index = pd.Index(list(values), dtype=object, name=FILE)
    table = np.array(list(values.values()), np.float32).reshape(len(index), len(present))
    return pd.DataFrame(table, index, present).reindex(columns=list(names))


def _present_columns(
    header: Sequence[str], names: Sequence[str], may_lack: Collection[str], path: Path
) -> list[str]:
    """Return which of the covariates have a column. Raises InputError for a faulty header."""
    present = [name for name in names if name in header or name not in may_lack]
    is_index = FILE not in header and "path_xml" in header
    faults = ["path_xml is there: name it file"] if is_index else []
    if names and not present:
        faults.append(f"none of the run's covariates is there: {', '.join(names)}")
    check_header(header, [FILE, *present], f"{_WHAT} {path.name}: line 1", faults)
    return present


def _check_file(name: str, known: Collection[str], line: int, faults: Faults) -> None:
    if not name.strip():
        faults.add(line, FILE, "is empty. Name the file that the values belong to")
    elif name in known:
        faults.add(line, FILE, "is listed before. List each file once")


def _value(text: str, line: int, column: CovariateColumn, faults: Faults) -> float:
    try:
        return column.value(text)
    except ValueError as error:
        faults.add(line, column.name, str(error))
        return np.nan


def _check_columns(columns: Sequence[CovariateColumn], sex_codes: SexCodes, faults: Faults) -> None:
    """Note what the fields of a column contradict each other in, and sexes of an unknown code."""
    for column in columns:
        faults.found += [f"{column.name}: {fault}" for fault in column.faults()]
        if column.sex_code and column.name not in sex_codes:
            faults.found.append(
                f"{column.name}: holds F or M, but the run's store does not say which number is "
                "which sex. Write the numbers that its manifest had"
            )


def covariates_of_files(
    path: Path,
    files: Sequence[Path],
    names: Sequence[str],
    say: Callable[[str], Any] = print,
    sex_codes: SexCodes = _NO_CODES,
) -> NDArray[np.float32]:
    """Return the covariates (files, K) of a CSV in the order of `files`, NaN where it has no line.

    A line may hold a file's bare name if only one of the files has that name: in another folder it
    may be another patient's. Columns that the files' headers can fill may be absent. Says how many
    lines and files found no partner. Raises InputError.
    """
    known = read_covariates(path, names, sex_codes, fields_of_header(names, sex_codes))
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


class HeaderCovariates:
    """Fills in covariates that were not given from the headers of the files, and counts them.

    A header fills the covariates that have the names of its fields, `ecgprep.header.COVARIATES`,
    as a store would hold them.
    """

    def __init__(self, names: Sequence[str], sex_codes: SexCodes) -> None:
        self._names = names
        self._sex_codes = sex_codes
        self._fields = {name: names.index(name) for name in fields_of_header(names, sex_codes)}
        self._n_given: Counter[str] = Counter()
        self._n_filled: Counter[str] = Counter()
        self._n_missing: Counter[str] = Counter()

    def complete(self, values: NDArray[np.float32], file: VendorFile) -> NDArray[np.float32]:
        """Return the covariates (K,) of a usable file: `values`, and where NaN those of its header.

        The header is read only where it could fill one.
        """
        completed = values.copy()
        missing = [name for name, k in self._fields.items() if np.isnan(values[k])]
        if missing:
            header = file.header()
            for name in missing:
                completed[self._fields[name]] = self._field(header, name)
        for k, name in enumerate(self._names):
            is_known, was_given = not np.isnan(completed[k]), not np.isnan(values[k])
            counter = self._n_given if was_given else self._n_filled
            (counter if is_known else self._n_missing)[name] += 1
        return completed

    def _field(self, header: Header, name: str) -> float:
        """Return one field of a header, NaN where it is not known."""
        if name == "sex":
            return self._sex_codes[name].value(header.sex) if header.sex else np.nan
        value = getattr(header, name)
        return np.nan if value is None else capped_age(float(value), name)

    def say_sources(self, say: Callable[[str], Any]) -> None:
        """Say of each covariate where its values came from and how many are missing.

        A covariate whose values were all given needs no line.
        """
        for name in self._names:
            n_filled, n_missing = self._n_filled[name], self._n_missing[name]
            if not n_filled and not n_missing:
                continue
            counts = [f"{n_filled:,} from the XML"] if name in self._fields else []
            if self._n_given[name]:
                counts.insert(0, f"{self._n_given[name]:,} from the covariates file")
            say(f"{name}: {', '.join([*counts, f'{n_missing:,} missing'])}.{self._hint(name)}")

    def _hint(self, name: str) -> str:
        if name == "sex" and name not in self._fields and self._n_missing[name]:
            return (
                " The XML cannot fill it: the run's store does not say which number is which sex "
                "(ecgprep build --sex-code)."
            )
        return ""
