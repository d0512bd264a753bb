"""The manifest: which patient, which file, which label. Private: it names people.

Everything is read as text, so `00123` and `123`, `1e3` and `1000` are different patients. All
faults are reported together, by line and column and without repeating a value, before any vendor
file is opened.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import InputError, describe
from ecgprep.files.atomic import PRIVATE, write_file
from ecgprep.files.csv_header import check_header
from ecgprep.patients.covariates import (
    NAME_RULE,
    check_not_identifying,
    covariate_value,
    is_allowed_name,
)
from ecgprep.patients.private_csv import Faults, read_rows, read_text
from ecgprep.store.format import LABEL_UNKNOWN

if TYPE_CHECKING:
    from pandas import DataFrame, Series

REQUIRED = ("patient_id", "path_xml", "label")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, eq=False, kw_only=True)
class Manifest:
    """The rows of a manifest, in order.

    Row i stands on line `line[i]` of the file. `covariates` is (N, K) with NaN for a missing
    value. `group` holds the column that splits go by, if there is one.
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
    group: list[str] | None = None

    def __len__(self) -> int:
        return len(self.patient_id)


def read_manifest(
    path: Path,
    root: Path | None = None,
    covariates: Iterable[str] = (),
    unlabelled: bool = False,
    group_by: str | None = None,
) -> Manifest:
    """Read and check a manifest, a CSV file with the columns patient_id, path_xml and label.

    Paths are relative to `root`, by default the manifest's folder, and must stay inside it.
    `covariates` names columns of numbers to keep. With `unlabelled`, the label column may be
    missing or empty. `group_by` names a column of any text. Raises InputError listing every fault
    by line and column.
    """
    required = [name for name in REQUIRED if name != "label" or not unlabelled]
    source = read_text(path, required)
    root = (path.parent if root is None else root).absolute()
    names = tuple(dict.fromkeys(covariates))
    faults = Faults()
    rows = read_rows(source, path, faults)
    _, header = next(rows)
    _check_columns(header, names, unlabelled, path, group_by)
    columns = _Columns(header, root, names, unlabelled, group_by, faults)
    for line, fields in rows:
        columns.append(line, fields)
    if not columns.line and not faults.found:
        faults.found.append("line 2: no data rows; a manifest needs a header and at least one row")
    faults.raise_any(path)
    values = np.array(columns.covariates, np.float32).reshape(len(columns.line), len(names))
    check_not_identifying(path, names, values, len(set(columns.patient_id)))
    return Manifest(
        path=path,
        root=root,
        patient_id=columns.patient_id,
        path_xml=columns.path_xml,
        label=np.array(columns.label, np.int8),
        line=columns.line,
        covariate_names=names,
        covariates=values,
        warnings=tuple(_lookalikes(columns.patient_id, columns.line)),
        sha256=source.sha256,
        group=columns.group if group_by else None,
    )


class _Columns:
    """The checked columns of a manifest, filled row by row.

    Columns take less memory than a million row objects. An id that occurs again is stored once.
    """

    def __init__(
        self,
        header: list[str],
        root: Path,
        covariates: tuple[str, ...],
        unlabelled: bool,
        group_by: str | None,
        faults: Faults,
    ) -> None:
        self.patient_id: list[str] = []
        self.path_xml: list[str] = []
        self.label = array("b")
        self.line = array("q")
        self.covariates = array("f")
        self.group: list[str] = []
        self._position = {name: k for k, name in enumerate(header)}
        self._root = root
        self._covariate_names = covariates
        self._unlabelled = unlabelled
        self._group_by = group_by
        self._faults = faults
        self._texts: dict[str, str] = {}

    def append(self, line: int, fields: list[str]) -> None:
        """Check and keep the fields of one row."""
        position = self._position
        self.line.append(line)
        self.patient_id.append(self._text(fields[position["patient_id"]], line, "patient_id"))
        self.path_xml.append(self._inner_path(fields[position["path_xml"]], line))
        label = fields[position["label"]] if "label" in position else ""
        self.label.append(self._label(label, line))
        for name in self._covariate_names:
            self.covariates.append(self._covariate(fields[position[name]], line, name))
        if self._group_by:
            self.group.append(self._text(fields[position[self._group_by]], line, self._group_by))

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
            self._faults.add(line, "path_xml", message)
            return ""
        inner = os.path.relpath(os.path.normpath(self._root / value), self._root)
        if inner == "." or PurePosixPath(inner).parts[:1] == ("..",):
            self._faults.add(
                line,
                "path_xml",
                "leads out of the root folder. "
                "Paths are relative to the manifest's folder, or to --root",
            )
        return inner

    def _label(self, text: str, line: int) -> int:
        value = text.strip()
        if value in ("0", "1"):
            return int(value)
        if value or not self._unlabelled:
            hint = "" if self._unlabelled else ", and add --unlabelled"
            message = (
                f"must be 0 or 1; found {describe(text)}. "
                f"If the label is not known, leave the field empty{hint}"
            )
            self._faults.add(line, "label", message)
        return LABEL_UNKNOWN

    def _covariate(self, text: str, line: int, name: str) -> float:
        try:
            return covariate_value(text, name)
        except ValueError:
            self._faults.add(line, name, f"must be a number or empty; found {describe(text)}")
            return math.nan


def checked_text(text: str, line: int, column: str, faults: Faults) -> str:
    """Return an id in Unicode's composed form (NFC); a fault if empty or with control codes."""
    value = unicodedata.normalize("NFC", text.strip())
    if not value or _CONTROL.search(value):
        message = f"must be text without control characters; found {describe(text)}"
        faults.add(line, column, message)
    return value


def _check_columns(
    header: list[str],
    covariates: tuple[str, ...],
    unlabelled: bool,
    path: Path,
    group_by: str | None,
) -> None:
    """Check that the header has the required columns and those asked for. Raises InputError."""
    required = [name for name in REQUIRED if name != "label" or not unlabelled]
    groups = [group_by] if group_by else []
    needed = list(dict.fromkeys([*required, *covariates, *groups]))
    faults = [
        f"--covariates {name}: {NAME_RULE}"
        for name in covariates
        if name in REQUIRED or not is_allowed_name(name)
    ]
    if group_by and (group_by in REQUIRED or not is_allowed_name(group_by)):
        faults.append(f"--split-by-column: {NAME_RULE}")
    check_header(header, needed, f"Manifest {path.name}: line 1", faults)


def read_patients(path: Path) -> frozenset[str]:
    """Read the column patient_id of a CSV file with a header, such as another manifest.

    Raises InputError.
    """
    faults = Faults()
    rows = read_rows(read_text(path, ["patient_id"]), path, faults)
    _, header = next(rows)
    check_header(header, ["patient_id"], f"Manifest {path.name}: line 1")
    position = header.index("patient_id")
    patients = {checked_text(fields[position], line, "patient_id", faults) for line, fields in rows}
    faults.raise_any(path)
    if not patients:
        raise InputError(
            f"Manifest {path.name} lists no patient. Give a file with at least one row."
        )
    return frozenset(patients)


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
            faults.add(manifest.line[row], "label", message)
    faults.raise_any(manifest.path)


def _lookalikes(patients: list[str], lines: Sequence[int]) -> list[str]:
    """Warn of ids that differ only by case, blanks or leading zeros.

    They stay different patients, but may be one person.
    """
    first_line: dict[str, int] = {}
    for patient, line in zip(patients, lines, strict=True):
        first_line.setdefault(patient, line)
    alike: dict[str, list[int]] = defaultdict(list)
    for patient, line in first_line.items():
        bare = "".join(patient.split()).casefold().lstrip("0")
        alike[bare].append(line)
    warnings = []
    for first_lines in sorted(group for group in alike.values() if len(group) > 1):
        listed = ", ".join(map(str, first_lines[:5]))
        warnings.append(
            f"lines {listed}: patient ids differ only by case, blanks or leading zeros; "
            "they are kept as different patients"
        )
    return warnings


def write_frame(frame: DataFrame, path: Path) -> None:
    """Write a pandas DataFrame as a private CSV manifest (mode 0600), for `read_manifest`.

    Row i of the frame becomes line i + 2 of the file; the index is left out. Missing values become
    empty fields and whole floats become integers (0.0 -> 0), because pandas stores a column of
    integers as floats as soon as one value is missing. For the same reason floats are refused in
    `patient_id` and `path_xml`: the original text ("00123", say) cannot be recovered from them.
    Raises InputError for a repeated column name, for such floats and for text that is not Unicode.
    """
    names = [str(name).strip() for name in frame.columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(
            f"The DataFrame has more than one column {', '.join(repeated)}. "
            "Column names must be unique. Drop or rename the others."
        )
    columns = [_cells(frame.iloc[:, k], name) for k, name in enumerate(names)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))
    try:
        data = text.getvalue().encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            "The DataFrame holds text that is not valid Unicode, so it cannot be written as UTF-8. "
            "Rename the files, or correct the text."
        ) from None
    write_file(path, data, PRIVATE)


def _cells(column: Series, name: str) -> list[str]:
    """Return the CSV fields of one column; empty where a value is missing."""
    cells = []
    for row, (value, missing) in enumerate(zip(column, column.isna(), strict=True)):
        if missing:
            cells.append("")
            continue
        is_float = isinstance(value, float | np.floating)
        if is_float and name in ("patient_id", "path_xml"):
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
