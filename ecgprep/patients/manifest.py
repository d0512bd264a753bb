"""The manifest: which patient, which file, which label. Private: it names people.

Everything is read as text, so `00123` and `123`, `1e3` and `1000` are different patients, unless
look-alikes are merged. All faults are reported together, by line and column and without repeating
a value, before any vendor file is opened.
"""

from __future__ import annotations

import csv
import io
import os
import re
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import InputError, describe
from ecgprep.files.atomic import PRIVATE, write_file
from ecgprep.files.csv_header import check_header
from ecgprep.patients.covariates import (
    NAME_RULE,
    CovariateColumn,
    check_not_identifying,
    is_allowed_name,
    known_sex_codes,
    name_faults,
)
from ecgprep.patients.identifiers import clean_id, holds_invisible, is_rounded
from ecgprep.patients.lookalikes import lookalike_warning, one_spelling
from ecgprep.patients.manifest_columns import DEFAULT_COLUMNS, ManifestColumns
from ecgprep.patients.private_csv import Faults, counted, listed_lines, read_rows, read_text
from ecgprep.patients.registry import Registry
from ecgprep.patients.vendor_paths import with_slashes
from ecgprep.sex_code import SexCode
from ecgprep.store.format import LABEL_UNKNOWN

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_INNER_PATH = re.compile(r"(?:(?!\.{1,2}(?:/|$))[^/\\]+(?:/|$))+(?<!/)")
"""A relative path that needs no resolving: most are, and resolving each takes half the time."""

_LABEL = re.compile(r"([01])(?:\.0*)?")

_LABEL_DECIMAL_COMMA = re.compile(r"([01])(?:[.,]0*)?")


@dataclass(frozen=True, eq=False, kw_only=True)
class Manifest:
    """The rows of a manifest, in order.

    Row i stands on line `line[i]` of the file. `covariates` is (N, K) with NaN for a missing
    value. `sex_codes` has the code of each column of sexes where it is known. `group` holds the
    column that splits go by, if there is one. `columns` are the names that the file has for
    patient, path and label.
    """

    path: Path
    root: Path
    patient_id: list[str]
    path_xml: list[str]
    label: NDArray[np.int8]
    line: Sequence[int]
    covariate_names: tuple[str, ...]
    covariates: NDArray[np.float32]
    warnings: tuple[str, ...]
    sha256: str
    sex_codes: Mapping[str, SexCode] = field(default_factory=dict)
    group: list[str] | None = None
    columns: ManifestColumns = DEFAULT_COLUMNS

    def __len__(self) -> int:
        return len(self.patient_id)

    def select(self, index: NDArray[np.int64]) -> Manifest:
        """Return some of the rows, in the order of `index`."""
        chosen = index.tolist()
        return replace(
            self,
            patient_id=[self.patient_id[i] for i in chosen],
            path_xml=[self.path_xml[i] for i in chosen],
            label=self.label[index],
            line=[self.line[i] for i in chosen],
            covariates=self.covariates[index],
            group=None if self.group is None else [self.group[i] for i in chosen],
        )


def read_manifest(
    path: Path,
    root: Path | None = None,
    covariates: Iterable[str] = (),
    unlabelled: bool = False,
    group_by: str | None = None,
    *,
    allow_covariate: Collection[str] = (),
    sex_codes: Mapping[str, SexCode] | None = None,
    columns: ManifestColumns = DEFAULT_COLUMNS,
    merge_with: Registry | None = None,
) -> Manifest:
    """Read and check a manifest, a CSV file with the columns patient_id, path_xml and label.

    Paths are relative to `root`, by default the manifest's folder, and must stay inside it.
    `covariates` names columns of numbers to keep. With `unlabelled`, the label column may be
    missing or empty. `group_by` names a column of any text. Covariates in `allow_covariate` may
    look as if they identified patients. `sex_codes` states which numbers are F and M in a column.
    `columns` are the names that the file has for its three columns. With `merge_with`, a registry,
    ids that look alike are one patient: the one that the registry knows, or else the first of the
    file. Raises InputError listing every fault by line and column.
    """
    columns = columns.checked()
    required = [name for name in columns if name != columns.label or not unlabelled]
    source = read_text(path, required)
    root = (path.parent if root is None else root).absolute()
    names = tuple(dict.fromkeys(covariates))
    faults = Faults()
    rows = read_rows(source, path, faults)
    _, header = next(rows)
    _check_columns(header, columns, required, names, path, group_by, allow_covariate)
    codes = sex_codes or {}
    covariate_columns = [
        CovariateColumn(name, codes.get(name), decimal_comma=source.decimal_comma) for name in names
    ]
    table = _Table(
        header,
        columns,
        root,
        covariate_columns,
        unlabelled,
        group_by,
        source.decimal_comma,
        faults,
    )
    for line, fields in rows:
        table.append(line, fields)
    for column in covariate_columns:
        faults.found += [f"{column.name}: {fault}" for fault in column.faults()]
    if not table.line and not faults.found:
        faults.found.append("line 2: no data rows; a manifest needs a header and at least one row")
    faults.raise_any(path)
    warnings = [*table.warnings(), *lookalike_warning(table.patient_id, table.line, merge_with)]
    patient_id = table.patient_id
    if merge_with is not None:
        patient_id = one_spelling(patient_id, table.line, merge_with)
    values = np.array(table.covariates, np.float32).reshape(len(table.line), len(names))
    check_not_identifying(path, names, values, len(set(patient_id)), allow_covariate)
    return Manifest(
        path=path,
        root=root,
        patient_id=patient_id,
        path_xml=table.path_xml,
        label=np.array(table.label, np.int8),
        line=table.line,
        covariate_names=names,
        covariates=values,
        warnings=tuple(warnings),
        sha256=source.sha256,
        sex_codes=known_sex_codes(covariate_columns),
        group=table.group if group_by else None,
        columns=columns,
    )


class _Table:
    """The checked columns of a manifest, filled row by row.

    Columns take less memory than a million row objects. An id that occurs again is stored once.
    """

    def __init__(
        self,
        header: list[str],
        columns: ManifestColumns,
        root: Path,
        covariates: Sequence[CovariateColumn],
        unlabelled: bool,
        group_by: str | None,
        decimal_comma: bool,
        faults: Faults,
    ) -> None:
        self.patient_id: list[str] = []
        self.path_xml: list[str] = []
        self.label = array("b")
        self.line = array("q")
        self.covariates = array("f")
        self.group: list[str] = []
        self._position = {name: k for k, name in enumerate(header)}
        self._columns = columns
        self._root = root
        self._covariate_columns = covariates
        self._unlabelled = unlabelled
        self._group_by = group_by
        self._label_of = _LABEL_DECIMAL_COMMA if decimal_comma else _LABEL
        self._faults = faults
        self._texts: dict[str, str] = {}
        self._cleaned_lines: list[int] = []
        self._n_backslashes = 0

    def append(self, line: int, fields: list[str]) -> None:
        """Check and keep the fields of one row."""
        position = self._position
        self.line.append(line)
        names = self._columns
        patient = fields[position[names.patient]]
        if holds_invisible(patient):
            self._cleaned_lines.append(line)
        self.patient_id.append(self._text(patient, line, names.patient))
        self.path_xml.append(self._inner_path(fields[position[names.path]], line))
        label = fields[position[names.label]] if names.label in position else ""
        self.label.append(self._label(label, line))
        for column in self._covariate_columns:
            self.covariates.append(self._covariate(fields[position[column.name]], line, column))
        if self._group_by:
            self.group.append(self._text(fields[position[self._group_by]], line, self._group_by))

    def warnings(self) -> list[str]:
        """Say what was read otherwise than it is written, and which ids cannot be trusted."""
        found = []
        if self._cleaned_lines:
            found.append(_cleaned(self._cleaned_lines))
        ids = zip(self.line, self.patient_id, strict=True)
        rounded = [line for line, patient in ids if is_rounded(patient)]
        if rounded:
            found.append(
                f"{listed_lines(rounded)}: the patient id is a number that a spreadsheet has "
                f"rounded ({counted(len(rounded), 'row')}); different patients may share it. "
                "Export the ids again as text"
            )
        if self._n_backslashes:
            found.append(
                f"{counted(self._n_backslashes, 'path')} with backslashes: no file has such a "
                "name, so they were read as slashes"
            )
        return found

    def _text(self, text: str, line: int, column: str) -> str:
        value = checked_text(text, line, column, self._faults)
        return self._texts.setdefault(value, value)

    def _inner_path(self, text: str, line: int) -> str:
        """Return the path relative to the root.

        `.` and `..` are resolved in the text only: symlinks are met when the file is opened.
        """
        value = text.strip()
        if not value or _CONTROL.search(value):
            message = f"must be a path without control characters; found {describe(text)}"
            self._faults.add(line, self._columns.path, message)
            return ""
        if _INNER_PATH.fullmatch(value):
            return value
        path = with_slashes(self._root, value)
        self._n_backslashes += path != value
        inner = os.path.relpath(os.path.normpath(self._root / path), self._root)
        if inner == "." or PurePosixPath(inner).parts[:1] == ("..",):
            self._faults.add(
                line,
                self._columns.path,
                "leads out of the root folder. "
                "Paths are relative to the manifest's folder, or to --root",
            )
        return inner

    def _label(self, text: str, line: int) -> int:
        value = clean_id(text).casefold()
        if value in ("true", "false"):
            return int(value == "true")
        if number := self._label_of.fullmatch(value):
            return int(number[1])
        if value or not self._unlabelled:
            hint = "" if self._unlabelled else ", and add --unlabelled"
            message = (
                f"must be 0 or 1; found {describe(text)}. "
                f"If the label is not known, leave the field empty{hint}"
            )
            if value in ("yes", "no", "y", "n"):
                message = f"must be 0 or 1; found {describe(text)}. Write 1 for yes and 0 for no"
            self._faults.add(line, self._columns.label, message)
        return LABEL_UNKNOWN

    def _covariate(self, text: str, line: int, column: CovariateColumn) -> float:
        try:
            return column.value(text)
        except ValueError as error:
            self._faults.add(line, column.name, str(error))
            return np.nan


def _cleaned(lines: Sequence[int]) -> str:
    return (
        f"{listed_lines(lines)}: invisible characters in the patient id, or unusual blanks around "
        f"it, were removed ({counted(len(lines), 'row')})"
    )


def checked_text(text: str, line: int, column: str, faults: Faults) -> str:
    """Return an id as `clean_id` gives it; a fault if empty or with control codes."""
    value = clean_id(text)
    if not value:
        faults.add(line, column, "is empty. Fill it in, or leave out the row")
    elif _CONTROL.search(value):
        message = f"must be text without control characters; found {describe(text)}"
        faults.add(line, column, message)
    return value


def _check_columns(
    header: list[str],
    columns: ManifestColumns,
    required: Sequence[str],
    covariates: tuple[str, ...],
    path: Path,
    group_by: str | None,
    allow_covariate: Collection[str],
) -> None:
    """Check that the header has the required columns and those asked for. Raises InputError."""
    groups = [group_by] if group_by else []
    needed = list(dict.fromkeys([*required, *covariates, *groups]))
    faults = name_faults(covariates, allow_covariate, columns)
    if group_by and (group_by in columns or not is_allowed_name(group_by)):
        faults.append(f"--split-by-column: {NAME_RULE}")
    check_header(header, needed, f"Manifest {path.name}: line 1", faults, columns.naming)


class PatientList(NamedTuple):
    """Ids of patients, and what was read otherwise than it is written."""

    patients: frozenset[str]
    warnings: tuple[str, ...] = ()


def read_patients(path: Path, column: str = "patient_id") -> PatientList:
    """Read the patients' ids of a CSV file with a header, such as another manifest.

    `column` holds them. Raises InputError.
    """
    columns = ManifestColumns(patient=column)
    faults = Faults()
    rows = read_rows(read_text(path, [column]), path, faults)
    _, header = next(rows)
    check_header(header, [column], f"Manifest {path.name}: line 1", naming=columns.naming)
    position = header.index(column)
    patients, cleaned = set(), []
    for line, fields in rows:
        patients.add(checked_text(fields[position], line, column, faults))
        if holds_invisible(fields[position]):
            cleaned.append(line)
    faults.raise_any(path)
    if not patients:
        raise InputError(
            f"Manifest {path.name} lists no patient. Give a file with at least one row."
        )
    return PatientList(frozenset(patients), (_cleaned(cleaned),) if cleaned else ())


def check_one_label_per_patient(manifest: Manifest) -> None:
    """Refuse a patient with two labels (`--label-level patient`). Raises InputError with lines."""
    first_row: dict[str, int] = {}
    faults = Faults()
    for row, patient in enumerate(manifest.patient_id):
        if manifest.label[row] == LABEL_UNKNOWN:
            continue
        first = first_row.setdefault(patient, row)
        if manifest.label[first] != manifest.label[row]:
            message = (
                f"line {manifest.line[first]} has another label for the same patient "
                "(--label-level patient)"
            )
            faults.add(manifest.line[row], manifest.columns.label, message)
    faults.raise_any(manifest.path)


def write_frame(frame: DataFrame, path: Path, columns: ManifestColumns = DEFAULT_COLUMNS) -> None:
    """Write a pandas DataFrame as a private CSV manifest (mode 0600), for `read_manifest`.

    Row i of the frame becomes line i + 2 of the file; the index is left out. Missing values become
    empty fields and whole floats become integers (0.0 -> 0), because pandas stores a column of
    integers as floats as soon as one value is missing. For the same reason floats are refused in
    the columns of ids and paths: the original text ("00123", say) cannot be recovered from them.
    Raises InputError for a repeated column name, for such floats and for text that is not Unicode.
    """
    names = [clean_id(str(name)) for name in frame.columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(
            f"The DataFrame has more than one column {', '.join(repeated)}. "
            "Column names must be unique. Drop or rename the others."
        )
    texts = (columns.patient, columns.path)
    cells = [_cells(frame.iloc[:, k], name, name in texts) for k, name in enumerate(names)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*cells, strict=True))
    try:
        data = text.getvalue().encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            "The DataFrame holds text that is not valid Unicode, so it cannot be written as UTF-8. "
            "Rename the files, or correct the text."
        ) from None
    write_file(path, data, PRIVATE)


def _cells(column: Series, name: str, is_text: bool) -> list[str]:
    """Return the CSV fields of one column; empty where a value is missing.

    Raises InputError for a float in a column that must be text.
    """
    cells = []
    for row, (value, missing) in enumerate(zip(column, column.isna(), strict=True)):
        if missing:
            cells.append("")
            continue
        is_float = isinstance(value, float | np.floating)
        if is_float and is_text:
            raise InputError(
                f"The DataFrame, row {row}, column {name}: a floating-point number; it must be "
                "text or an integer. pandas turns integers into floats where values are missing: "
                f"read the file with dtype={{{name!r}: str}}."
            )
        cells.append(_cell(value))
    return cells


def _cell(value: Any) -> str:
    """Write one value that is not missing: True as 1 and 56.0 as 56, everything else as itself."""
    is_whole = isinstance(value, float | np.floating) and float(value).is_integer()
    if is_whole or isinstance(value, bool | np.bool_):
        return str(int(value))
    return str(value)
