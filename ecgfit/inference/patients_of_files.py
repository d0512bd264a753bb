"""Whose ECGs some files are, from the table that `ecgprep index` writes.

No message holds a path or an id, and neither do the results: patients are numbered in the order in
which their first file is given.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecgfit.inference.predictions import Aggregate, Predictions
from ecgprep.errors import InputError
from ecgprep.files.csv_header import check_header
from ecgprep.patients.identifiers import clean_id
from ecgprep.patients.private_csv import Faults, counted, read_rows, read_text

PATH, PATIENT = "path_xml", "patient_id"

_WHAT = "Index"

_NOBODY = -1


class ScoredFile(NamedTuple):
    """What of a predicted file counts towards its patient's result."""

    position: int
    """Of the file among those that were given."""
    logits: NDArray[np.float64]
    """(2,)."""
    lead_mask: NDArray[np.bool_]
    """(8,)."""
    crc32c: int
    """Checksum of the waveform, which tells copies."""


@dataclass(frozen=True, eq=False)
class PatientsOfFiles:
    """The patient of each file, by number, and the files' order in the index."""

    patient: NDArray[np.int64]
    """(files,), -1 where the index does not say."""
    line: NDArray[np.int64]
    """(files,): the line of the index, by which `first` and `last` go."""

    @classmethod
    def read(
        cls, index: Path, files: Sequence[Path], root: Path | None, say: Callable[[str], Any]
    ) -> PatientsOfFiles:
        """Look the files up in an index, whose paths are relative to `root` or to its folder.

        `say` gets a line where files are not in it, or have no patient id there. Raises InputError
        where the index has faults, or none of the files is in it.
        """
        if root is not None and not root.is_dir():
            raise InputError(
                "--root is not a folder. Name the one that the index's paths start at."
            )
        positions = _positions_by_path(files)
        base = os.path.realpath(index.parent if root is None else root)
        patient = np.full(len(files), _NOBODY, np.int64)
        line_of = np.full(len(files), _NOBODY, np.int64)
        id_of: dict[int, str] = {}
        for line, path, patient_id in _read_lines(index):
            for position in positions.get(str(Path(base, path)), ()):
                line_of[position] = line
                id_of[position] = clean_id(patient_id)
        if not (line_of >= 0).any():
            raise InputError(
                f"{_WHAT} {index.name}: none of the files is in it. Its paths are relative to its "
                "own folder; name another one with --root, as for `ecgprep index`."
            )
        number: dict[str, int] = {}
        for position in sorted(id_of):
            if id_of[position]:
                patient[position] = number.setdefault(id_of[position], len(number))
        _say_unknown(index, line_of, patient, say)
        return cls(patient, line_of)

    def predictions(self, scored: Sequence[ScoredFile], *, whole_only: bool) -> Predictions:
        """Return what counts towards patients' results, in the order of the index.

        Left out are files without a patient, with `whole_only` those that lack a lead, and all but
        the first of several copies of a recording, as in a store.
        """
        known = [one for one in scored if self.patient[one.position] != _NOBODY]
        if whole_only:
            known = [one for one in known if one.lead_mask.all()]
        known.sort(key=lambda one: int(self.line[one.position]))
        first = {(int(self.patient[one.position]), one.crc32c): one for one in reversed(known)}
        kept = [one for one in known if first[int(self.patient[one.position]), one.crc32c] is one]
        place = np.array([one.position for one in kept], np.int64)
        return Predictions(
            rows=self.line[place],
            patient=self.patient[place],
            label=np.full(len(place), -1, np.int64),
            logits=np.array([one.logits for one in kept], np.float64).reshape(-1, 2),
        )

    def differences(
        self, scored: Sequence[ScoredFile], how: Aggregate, *, whole_only: bool
    ) -> dict[int, float]:
        """Return {patient: difference of logits} with recordings combined as `how` says."""
        patients = self.predictions(scored, whole_only=whole_only).by_patient(how)
        pairs = zip(patients.patient.tolist(), patients.logit_difference().tolist(), strict=True)
        return dict(pairs)


def _positions_by_path(files: Sequence[Path]) -> dict[str, list[int]]:
    """Return {path: positions of the file}; a link counts by its own path and by its target's."""
    positions: dict[str, list[int]] = defaultdict(list)
    for position, file in enumerate(files):
        by_own_name = Path(os.path.realpath(file.parent), file.name)
        for path in {os.path.realpath(file), str(by_own_name), str(file.absolute())}:
            positions[path].append(position)
    return positions


def _read_lines(index: Path) -> list[tuple[int, str, str]]:
    """Return line, path and patient id of each file in the index. Raises InputError."""
    faults = Faults(what=_WHAT)
    rows = read_rows(read_text(index, [PATH, PATIENT], _WHAT), index, faults)
    _, header = next(rows)
    check_header(header, [PATH, PATIENT], f"{_WHAT} {index.name}: line 1")
    at_path, at_patient = header.index(PATH), header.index(PATIENT)
    seen: set[str] = set()
    found = []
    for line, fields in rows:
        path = fields[at_path]
        if path in seen:
            faults.add(line, PATH, "is listed before. List each file once")
        seen.add(path)
        found.append((line, path, fields[at_patient]))
    faults.raise_any(index)
    return found


def _say_unknown(
    index: Path, line_of: NDArray[np.int64], patient: NDArray[np.int64], say: Callable[[str], Any]
) -> None:
    n_absent = int((line_of < 0).sum())
    n_nameless = int((patient == _NOBODY).sum()) - n_absent
    if n_absent or n_nameless:
        say(
            f"{index.name}: {counted(n_absent, 'file')} not in it, {counted(n_nameless, 'file')} "
            "without a patient id there; they have no patient's result."
        )
