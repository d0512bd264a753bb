"""The manifest: which patient, which file, which label. Private: it names people.

Everything is read as text, so `00123` and `123`, `1e3` and `1000` are different patients. All faults are reported together, by
line and column and without repeating a value, before any vendor file is opened.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import InputError, describe
from ecgprep.files.atomic import PRIVATE, write_file
from ecgprep.store.format import LABEL_UNKNOWN

if TYPE_CHECKING:
    from pandas import DataFrame, Series

REQUIRED = ("patient_id", "path_xml", "label")


MAX_SHOWN = 20
"""Faults listed in one message; the rest are counted."""


AGE_LIMIT = 90
"""Ages over 89 become 90 (HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(C))."""


_COVARIATE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


_IDENTIFYING = re.compile(
    r"(^|_)(id|ids|mrn|name|path|file|dob|time|timestamp|phone|mail|email|address|zip|postcode|ssn|number|no)(_|$)"
    r"|date|birth|(patient|study|ecg|record|person|subject|case|visit|encounter)_?(id|no|nr|num)",
    re.I,
)


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, eq=False)
class Manifest:
    """The rows of a manifest, in order. `line[i]` is the line of the file that row i stands on, `group` the column that splits go by."""

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


@dataclass
class _Faults:
    """Collects faults so that they can be reported together."""

    found: list[str]

    def add(self, line: int, column: str, message: str) -> None:
        self.found.append(f"line {line}, {column}: {message}")

    def raise_any(self, path: Path) -> None:
        if self.found:
            more = (
                [f"and {len(self.found) - MAX_SHOWN:,} more"] if len(self.found) > MAX_SHOWN else []
            )
            listed = "\n  ".join(self.found[:MAX_SHOWN] + more)
            count = f"{len(self.found):,} fault{'s' if len(self.found) > 1 else ''}"
            raise InputError(
                f"Manifest {path.name}: {count}; no vendor file was read. Correct the manifest and run again.\n  {listed}"
            )


def read_manifest(
    path: Path,
    root: Path | None = None,
    covariates: Iterable[str] = (),
    unlabelled: bool = False,
    group_by: str | None = None,
) -> Manifest:
    """Read and check a manifest (CSV with header; columns patient_id, path_xml, label and any others).

    Paths are relative to `root`, by default the manifest's folder, and must stay inside it. `covariates` names columns to keep.
    With `unlabelled`, the label column may be missing or empty; `group_by` names a column of any text. Raises InputError listing
    every fault by line and column.
    """
    text, digest = _read_text(path)
    faults = _Faults([])
    names = tuple(dict.fromkeys(covariates))
    root = (path.parent if root is None else root).absolute()
    patients, paths, labels, lines, values = [], [], array("b"), array("q"), array("f")
    groups: list[str] = []
    known: dict[str, str] = {}
    column: dict[str, int] = {}
    for line, row in _rows(text, path, faults):
        if not column:
            _check_header(row, names, unlabelled, path, group_by)
            column = {name: i for i, name in enumerate(row)}
            continue
        patient = _patient_id(row[column["patient_id"]], line, faults)
        patients.append(known.setdefault(patient, patient))
        paths.append(_inner_path(row[column["path_xml"]], root, line, faults))
        labels.append(
            _label(row[column["label"]] if "label" in column else "", line, unlabelled, faults)
        )
        lines.append(line)
        if group_by:
            value = _patient_id(row[column[group_by]], line, faults, group_by)
            groups.append(known.setdefault(value, value))
        values.extend(_covariate(row[column[name]], name, line, faults) for name in names)
    if not column:
        _check_header([], names, unlabelled, path, group_by)
    if not lines and not faults.found:
        faults.found.append("line 2: no data rows; a manifest needs a header and at least one row")
    faults.raise_any(path)
    table = np.array(values, np.float32).reshape(len(lines), len(names))
    _check_not_identifying(path, names, table, patients)
    return Manifest(
        path,
        root,
        patients,
        paths,
        np.array(labels, np.int8),
        lines,
        names,
        table,
        tuple(_lookalikes(patients, lines)),
        digest,
        groups if group_by else None,
    )


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


def read_patients(path: Path) -> frozenset[str]:
    """Read the patients of a list: the column patient_id of a CSV file with a header, such as another manifest. Raises InputError."""
    faults, patients, column = _Faults([]), set(), -1
    for line, row in _rows(_read_text(path)[0], path, faults):
        if column < 0:
            if row.count("patient_id") != 1:
                raise InputError(
                    f"Manifest {path.name}: line 1 must name the column patient_id once."
                )
            column = row.index("patient_id")
        else:
            patients.add(_patient_id(row[column], line, faults))
    faults.raise_any(path)
    if not patients:
        raise InputError(f"Manifest {path.name} lists no patient.")
    return frozenset(patients)


def check_one_label_per_patient(manifest: Manifest) -> None:
    """Refuse a patient with two labels (`--label-level patient`). Raises InputError listing lines."""
    first: dict[str, int] = {}
    faults = _Faults([])
    for row, patient in enumerate(manifest.patient_id):
        if manifest.label[row] == LABEL_UNKNOWN:
            continue
        other = first.setdefault(patient, row)
        if manifest.label[other] != manifest.label[row]:
            faults.add(
                manifest.line[row],
                "label",
                f"line {manifest.line[other]} has another label for the same patient (--label-level patient)",
            )
    faults.raise_any(manifest.path)


def _read_text(path: Path) -> tuple[str, str]:
    try:
        if not path.is_file():
            found = "is not a regular file" if path.exists() else "does not exist"
            raise InputError(
                f"Manifest {path.name} {found}. Give a CSV file with the columns {', '.join(REQUIRED)}."
            )
        data = path.read_bytes()
        return data.decode("utf-8-sig"), hashlib.sha256(data).hexdigest()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"Manifest {path.name}: line {line} is not UTF-8. Save the file as `CSV UTF-8` and run again."
        ) from None
    except OSError as error:
        raise InputError(
            f"Manifest {path.name} cannot be read ({os.strerror(error.errno or 0)})."
        ) from None


def _rows(text: str, path: Path, faults: _Faults) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields), the header first; rows of the wrong length are faults, wholly blank lines are skipped."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    n_columns = 0
    try:
        for row in reader:
            if not n_columns:
                n_columns = len(row)
                yield reader.line_num, [name.strip() for name in row]
            elif row and len(row) != n_columns:
                faults.add(reader.line_num, "row", f"{len(row)} fields; the header has {n_columns}")
            elif row:
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(
            f"Manifest {path.name}: line {reader.line_num} is not valid CSV ({error}). Correct the quotes and run again."
        ) from None


def _check_header(
    header: list[str],
    covariates: tuple[str, ...],
    unlabelled: bool,
    path: Path,
    group_by: str | None,
) -> None:
    needed = [
        name
        for name in dict.fromkeys((*REQUIRED, *covariates, *([group_by] if group_by else [])))
        if not (unlabelled and name == "label")
    ]
    problems = []
    if missing := [name for name in needed if name not in header]:
        problems.append(f"column missing: {', '.join(missing)}")
    if doubled := sorted({name for name in header if name in needed and header.count(name) > 1}):
        problems.append(f"column given twice: {', '.join(doubled)}")
    problems += [
        f"--covariates {name}: the name must be letters, digits and _ and must not be that of an id, a path or a date"
        for name in covariates
        if name in REQUIRED or not _COVARIATE_NAME.fullmatch(name) or _IDENTIFYING.search(name)
    ]
    if group_by and (
        group_by in REQUIRED
        or not _COVARIATE_NAME.fullmatch(group_by)
        or _IDENTIFYING.search(group_by)
    ):
        problems.append(
            "--split-by-column: the name must be letters, digits and _ and must not be that of an id, a path or a date"
        )
    if problems:
        hint = (
            " Is it separated by semicolons or tabs? Commas are read."
            if len(header) == 1 and re.search(r"[;\t]", header[0])
            else ""
        )
        raise InputError(
            f"Manifest {path.name}: line 1: {'; '.join(problems)}. Needed once each: {', '.join(needed)}; other columns may follow.{hint}"
        )


def _patient_id(text: str, line: int, faults: _Faults, column: str = "patient_id") -> str:
    value = unicodedata.normalize("NFC", text.strip())
    if not value or _CONTROL.search(value):
        faults.add(line, column, f"must be text without control characters; found {describe(text)}")
    return value


def _inner_path(text: str, root: Path, line: int, faults: _Faults) -> str:
    """Return the path relative to the root, with `.` and `..` resolved in the text only: symlinks are met when the file is opened."""
    value = text.strip()
    if not value or _CONTROL.search(value):
        faults.add(
            line, "path_xml", f"must be a path without control characters; found {describe(text)}"
        )
        return ""
    inner = os.path.relpath(os.path.normpath(root / value), root)
    if PurePosixPath(inner).parts[:1] == ("..",) or inner == ".":
        faults.add(
            line,
            "path_xml",
            "leads out of the root folder. Paths are relative to the manifest's folder, or to --root",
        )
    return inner


def _label(text: str, line: int, unlabelled: bool, faults: _Faults) -> int:
    value = text.strip()
    if value in ("0", "1"):
        return int(value)
    if not (unlabelled and not value):
        hint = ". Where it is not known leave it empty" + (
            "" if unlabelled else ", and say --unlabelled"
        )
        faults.add(line, "label", f"must be 0 or 1; found {describe(text)}{hint}")
    return LABEL_UNKNOWN


def _covariate(text: str, name: str, line: int, faults: _Faults) -> float:
    try:
        return covariate_value(text, name)
    except ValueError:
        faults.add(line, name, f"must be a number or empty; found {describe(text)}")
        return math.nan


def covariate_value(text: str, name: str) -> float:
    """Read a number or nothing (NaN); an age over 89 becomes 90. Raises ValueError for anything else."""
    value = text.strip()
    result = float(value) if value else math.nan
    if value and not (math.isfinite(result) and abs(result) < 1e30 and "_" not in value):
        raise ValueError("not a number")
    return (
        float(AGE_LIMIT)
        if {"age", "ages"} & set(_words(name)) and result > AGE_LIMIT - 1
        else result
    )


def _words(name: str) -> list[str]:
    """Split a column's name at underscores, digits and capitals: `patientAge`, `age_at_ecg` -> their words."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def _check_not_identifying(
    path: Path, names: tuple[str, ...], table: NDArray[np.float32], patients: list[str]
) -> None:
    """Refuse a column that is different for nearly every patient: whatever its name, it works as an identifier."""
    n_patients = len(set(patients))
    for j, name in enumerate(names):
        distinct = len(np.unique(table[~np.isnan(table[:, j]), j]))
        values = table[~np.isnan(table[:, j]), j]
        if values.size and ((values >= 19000101) & (values <= 21001231)).all():
            raise InputError(
                f"Manifest {path.name}: --covariates {name}: its values look like dates (YYYYMMDD). Leave the column out."
            )
        if n_patients >= 20 and distinct >= 0.9 * n_patients:
            raise InputError(
                f"Manifest {path.name}: --covariates {name}: {distinct:,} different values for {n_patients:,} patients would identify them. "
                "Round or group the values, or leave the column out."
            )


def _lookalikes(patients: list[str], lines: Sequence[int]) -> list[str]:
    """Warn of ids that differ only by case, blanks or leading zeros: they stay different patients, but may be one person."""
    first_line: dict[str, int] = {}
    for patient, line in zip(patients, lines, strict=True):
        first_line.setdefault(patient, line)
    groups: dict[str, list[str]] = defaultdict(list)
    for patient in first_line:
        groups["".join(patient.split()).casefold().lstrip("0")].append(patient)
    doubtful = [sorted(first_line[p] for p in group) for group in groups.values() if len(group) > 1]
    return [
        f"lines {', '.join(map(str, group[:5]))}: patient ids differ only by case, blanks or leading zeros; they are kept as different patients"
        for group in sorted(doubtful)
    ]
