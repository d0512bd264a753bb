"""What is known of every manifest row after reading, and which rows are excluded because of it.

Duplicates, conflicts and chosen quality flags exclude rows that were read without fault.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.building.parts import ROW_ARRAYS, PartResult
from ecgprep.errors import STATUS_CODE, STATUSES, InputError, TooManyRejects
from ecgprep.files.atomic import PRIVATE, write_file
from ecgprep.leads import LEADS
from ecgprep.patients.duplicates import (
    FINGERPRINT_SIZE,
    Load,
    exact_duplicates,
    fingerprint,
    join_pairs,
    near_duplicates,
)
from ecgprep.patients.manifest import Manifest
from ecgprep.patients.vendor_paths import where
from ecgprep.quality import BIT, Spectrum, bins_per_hz, spectrum
from ecgprep.store.format import ARRAYS, CHUNK_RECORDS, LABEL_UNKNOWN, Layout

_MAX_LINES = 6
"""Lines named in one message: a recording that occurs a thousand times would name a million."""


@dataclass(eq=False)
class Rows:
    """An entry per manifest row, in order; `stamps` (N, 2) are -1 where there was no file.

    The first `n_frozen` rows come from an older store that is extended: nothing about them changes.
    `duplicates` lists the groups of rows that hold the same recording.
    """

    manifest: Manifest
    layout: Layout
    arrays: dict[str, NDArray[Any]]
    fingerprints: NDArray[np.int8]
    stamps: NDArray[np.int64]
    dialects: list[str]
    messages: list[str]
    n_frozen: int = 0
    duplicates: list[list[int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _interned: dict[str, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, manifest: Manifest, layout: Layout) -> Rows:
        """Make room for the rows of a manifest."""
        n = len(manifest)
        return cls(
            manifest=manifest,
            layout=layout,
            arrays={name: np.zeros(layout.shape(name), ARRAYS[name].dtype) for name in ROW_ARRAYS},
            fingerprints=np.zeros((n, FINGERPRINT_SIZE), np.int8),
            stamps=np.full((n, 2), -1),
            dialects=[""] * n,
            messages=[""] * n,
        )

    def take(self, first_row: int, result: PartResult) -> None:
        """Put the result of a part in its place."""
        place = slice(first_row, first_row + len(result.stamps))
        for name, array in self.arrays.items():
            array[place] = result.arrays[name]
        self.fingerprints[place] = result.arrays["fingerprint"]
        self.stamps[place] = [stamp or (-1, -1) for stamp in result.stamps]
        self.dialects[place] = self._intern(result.dialects)
        self.messages[place] = self._intern(result.messages)

    def _intern(self, texts: Iterable[str]) -> list[str]:
        """Keep equal texts once: a million rows have few dialects and few messages."""
        return [self._interned.setdefault(text, text) for text in texts]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Usable rows."""
        return np.asarray(self.arrays["status"] == STATUS_CODE["ok"])

    def reject(self, row: int, status: str, message: str) -> None:
        """Exclude a row that was read."""
        self.arrays["status"][row] = STATUS_CODE[status]
        self.messages[row] = message

    def exclude_duplicates(self, built: Path, rate_hz: float, near: bool) -> None:
        """Find recordings that occur more than once, and exclude what cannot be trusted.

        One patient keeps the first. Where patients or labels differ, nobody knows which is right,
        and every row is a conflict. Only usable rows and rows of an older store are
        compared. `near` also finds recordings that were exported again (patients/duplicates.py).
        """
        waveforms = _Waveforms(built, self.layout)
        groups = self._exact_duplicates(waveforms)
        if near:
            groups = self._with_near_duplicates(groups, waveforms, rate_hz)
        for group in groups:
            if any(row >= self.n_frozen for row in group):
                self._exclude_group(group)

    def compute_fingerprints(self, built: Path, rate_hz: float, rows: Iterable[int]) -> None:
        """Compute the fingerprints of rows whose files are not read."""
        load = self._loader(_Waveforms(built, self.layout), rate_hz)
        for row in rows:
            bins, per_hz, _, _ = load(row)
            self.fingerprints[row] = fingerprint(bins, per_hz)

    def exclude_known_duplicates(
        self, built: Path, rate_hz: float, known: Iterable[list[int]], suspects: Sequence[int]
    ) -> None:
        """Exclude as `exclude_duplicates` where it is known which rows are exported again.

        Only equal rows are looked for among all, and near ones among `suspects`.
        """
        waveforms = _Waveforms(built, self.layout)
        again = near_duplicates(
            self.fingerprints,
            self.arrays["lead_mask"],
            np.unique(np.array(suspects, np.int64)),
            self._loader(waveforms, rate_hz),
        )
        groups = [*self._exact_duplicates(waveforms), *known, *again]
        for group in join_pairs((copies[0], row) for copies in groups for row in copies[1:]):
            self._exclude_group(group)

    def _compared(self) -> NDArray[np.int64]:
        """Return the rows among which duplicates are looked for."""
        status = self.arrays["status"]
        compared = self.ok
        compared[: self.n_frozen] |= status[: self.n_frozen] == STATUS_CODE["conflict"]
        return np.flatnonzero(compared)

    def _exact_duplicates(self, waveforms: _Waveforms) -> list[list[int]]:
        keys = [self.arrays[name] for name in ("crc32c", "moments", "valid_span", "lead_mask")]
        return exact_duplicates(self._compared(), keys, waveforms.read)

    def _with_near_duplicates(
        self, exact: list[list[int]], waveforms: _Waveforms, rate_hz: float
    ) -> list[list[int]]:
        """Join groups of equal rows with those of rows that are the same recording."""
        load = self._loader(waveforms, rate_hz)
        repeated = [row for group in exact for row in group[1:]]
        compared = self._compared()
        distinct = compared[~np.isin(compared, repeated)]
        near = near_duplicates(self.fingerprints, self.arrays["lead_mask"], distinct, load)
        return join_pairs((group[0], row) for group in [*exact, *near] for row in group[1:])

    def _loader(self, waveforms: _Waveforms, rate_hz: float) -> Load:
        """Return a function that gives what comparing a row needs."""

        def load(row: int) -> tuple[Spectrum, float, NDArray[np.bool_], float]:
            span, mask = self.arrays["valid_span"][row], self.arrays["lead_mask"][row]
            bins = spectrum(waveforms.row(row), span, mask, rate_hz)
            duration_s = float(span[1] - span[0]) / rate_hz
            return bins, bins_per_hz(bins, rate_hz), mask, duration_s

        return load

    def _exclude_group(self, group: list[int]) -> None:
        """Exclude the new rows of a group of duplicates as conflicts, or all but one of them."""
        others = [known for known in self.duplicates if not set(known) <= set(group)]
        self.duplicates = [*others, group]
        if self._is_conflict(group):
            self._exclude_conflict(group)
        else:
            self._keep_one(group)

    def _is_conflict(self, group: list[int]) -> bool:
        """Say whether patients or labels of a group differ, or an older store already said so."""
        patients = {self.manifest.patient_id[row] for row in group}
        labels = {int(self.manifest.label[row]) for row in group} - {LABEL_UNKNOWN}
        statuses = {int(self.arrays["status"][row]) for row in group if row < self.n_frozen}
        return len(patients) > 1 or len(labels) > 1 or STATUS_CODE["conflict"] in statuses

    def _exclude_conflict(self, group: list[int]) -> None:
        """Reject every new row; rows of an older store stay, with a warning."""
        old = [row for row in group if row < self.n_frozen]
        new = [row for row in group if row >= self.n_frozen]
        more = f" and {len(group) - _MAX_LINES:,} more" if len(group) > _MAX_LINES else ""
        for row in new:
            others = self._lines(other for other in group[:_MAX_LINES] if other != row)
            message = (
                f"the same recording is on line {others}{more}, under another patient or label"
            )
            self.reject(row, "conflict", message)
        if old:
            self.warnings.append(
                f"line {self._lines(new)}: the same recording is already in the store "
                f"(line {self._lines(old)}) under another patient or label, and stays in it. "
                "Find out whose it is."
            )

    def _keep_one(self, group: list[int]) -> None:
        """Reject all new rows but one.

        Kept is a row of an older store, else the first row with a label, else the first row.
        """
        old = [row for row in group if row < self.n_frozen]
        new = [row for row in group if row >= self.n_frozen]
        labelled_first = sorted(new, key=lambda row: self.manifest.label[row] == LABEL_UNKNOWN)
        kept = (old + labelled_first)[0]
        message = (
            f"the same recording is on line {self.manifest.line[kept]}, under the same patient"
        )
        for row in new:
            if row != kept:
                self.reject(row, "duplicate", message)

    def _lines(self, rows: Iterable[int]) -> str:
        """List the manifest lines of some rows."""
        return ", ".join(str(self.manifest.line[row]) for row in rows)

    def exclude_quality(self, flags: Sequence[str]) -> None:
        """Exclude usable rows with a chosen quality flag on any lead."""
        chosen = np.uint32(sum(BIT[name] for name in flags))
        quality = self.arrays["quality"]
        rows = np.flatnonzero(self.ok & (quality & chosen).any(axis=1))
        for row in rows[rows >= self.n_frozen].tolist():
            found = [name for name in flags if (quality[row] & BIT[name]).any()]
            flagged = zip(LEADS, (quality[row] & chosen).tolist(), strict=True)
            leads = [lead for lead, bits in flagged if bits]
            message = f"{', '.join(found)} in {', '.join(leads)} (--exclude-quality)"
            self.reject(row, "quality", message)

    def write_rejects(self, path: Path) -> None:
        """List every row that is not ok by line, status and message: no id, no path."""
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["line", "status", "message"])
        for row in np.flatnonzero(~self.ok).tolist():
            status = STATUSES[self.arrays["status"][row]]
            writer.writerow([self.manifest.line[row], status, self.messages[row]])
        write_file(path, buffer.getvalue().encode(), PRIVATE)

    def check_rejects(self, max_rejected: float, rejects_name: str) -> None:
        """Check that not too many rows were rejected, and that some are usable.

        Duplicates do not count, since their recording is in the store, and neither do rows that
        `--exclude-quality` left out on request.

        Raises:
            TooManyRejects: above the limit.
            InputError: if no row is usable.
        """
        counts = Counter(STATUSES[code] for code in self.arrays["status"])
        n = len(self.stamps)
        rejected = n - counts["ok"] - counts["duplicate"] - counts["quality"]
        by_status = [f"{name} {count:,}" for name, count in counts.most_common() if name != "ok"]
        listed = ", ".join(by_status)
        hint = self._missing_hint(counts["file_missing"], rejected)
        if not rejected <= max_rejected * n:
            raise TooManyRejects(
                f"{rejected:,} of {n:,} rows ({100 * rejected / n:.1f} %) were rejected; "
                f"--max-rejected allows {100 * max_rejected:g} %. Nothing was published. "
                f"By status: {listed}. {rejects_name} lists them by manifest line: "
                f"correct the files, or raise --max-rejected.{hint}"
            )
        if not counts["ok"]:
            raise InputError(
                f"No row is usable ({listed}), so there is no store to make. "
                f"{rejects_name} lists them by manifest line.{hint}"
            )

    def _missing_hint(self, n_missing: int, n_rejected: int) -> str:
        """Say where files were looked for, if most of the rejected rows lack theirs."""
        if not n_missing or 2 * n_missing < n_rejected:
            return ""
        status = self.arrays["status"]
        first = int(np.flatnonzero(status == STATUS_CODE["file_missing"])[0])
        return f" {where(self.manifest.root, self.manifest.path_xml[first])}"

    def labels_by_patient(self) -> dict[str, list[int]]:
        """Map each patient id to the labels of the patient's usable rows."""
        labels: dict[str, list[int]] = {}
        for row in np.flatnonzero(self.ok).tolist():
            patient, label = self.manifest.patient_id[row], int(self.manifest.label[row])
            labels.setdefault(patient, []).append(label)
        return labels

    def groups_by_patient(self) -> dict[str, set[str]] | None:
        """Map each patient id to values of the column that splits must not cut.

        None without `--split-by-column`.
        """
        if self.manifest.group is None:
            return None
        groups: dict[str, set[str]] = {}
        for row in np.flatnonzero(self.ok).tolist():
            groups.setdefault(self.manifest.patient_id[row], set()).add(self.manifest.group[row])
        return groups


@dataclass(frozen=True, eq=False)
class _Waveforms:
    """Rows of the chunk files of a store that is being built."""

    built: Path
    layout: Layout

    def read(self, row: int) -> bytes:
        """Return the bytes of a row."""
        size = self.layout.chunk_bytes("waveforms") // CHUNK_RECORDS
        chunk = self.built / self.layout.chunk_file("waveforms", row // CHUNK_RECORDS)
        with open(chunk, "rb") as file:
            file.seek(row % CHUNK_RECORDS * size)
            return file.read(size)

    def row(self, row: int) -> NDArray[np.int16]:
        """Return a row: (8, L) int16 µV."""
        return np.frombuffer(self.read(row), "<i2").reshape(len(LEADS), self.layout.n_samples)


def collect(manifest: Manifest, layout: Layout, results: Iterable[tuple[int, PartResult]]) -> Rows:
    """Gather (first row, result) of every part, in any order."""
    rows = Rows.empty(manifest, layout)
    for first_row, result in results:
        rows.take(first_row, result)
    return rows
