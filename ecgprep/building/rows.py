"""What is known of every manifest row after reading, and which rows are excluded for it: copies, conflicts, chosen quality flags."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
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
    exact_duplicates,
    join_pairs,
    near_duplicates,
)
from ecgprep.patients.manifest import Manifest
from ecgprep.quality import BIT, Spectrum, bins_per_hz, spectrum
from ecgprep.store.format import ARRAYS, CHUNK_RECORDS, LABEL_UNKNOWN, Layout

_MAX_LINES = 6
"""Lines named in one message: a recording that is there a thousand times would make a million."""


@dataclass(eq=False)
class Rows:
    """An entry per manifest row, in order; `stamps` (N, 2) are -1 where there was no file.

    The first `n_frozen` rows stand in an older store: nothing is changed about them.
    """

    manifest: Manifest
    layout: Layout
    arrays: dict[str, NDArray[Any]]
    fingerprints: NDArray[np.int8]
    stamps: NDArray[np.int64]
    dialects: list[str]
    messages: list[str]
    n_frozen: int = 0
    copies: list[list[int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _interned: dict[str, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, manifest: Manifest, layout: Layout) -> Rows:
        """Make room for the rows of a manifest."""
        n = len(manifest)
        arrays = {name: np.zeros(layout.shape(name), ARRAYS[name].dtype) for name in ROW_ARRAYS}
        return cls(
            manifest,
            layout,
            arrays,
            np.zeros((n, FINGERPRINT_SIZE), np.int8),
            np.full((n, 2), -1),
            [""] * n,
            [""] * n,
        )

    def take(self, first_row: int, result: PartResult) -> None:
        """Lay the result of a part out at its place."""
        place = slice(first_row, first_row + len(result.stamps))
        for name, array in self.arrays.items():
            array[place] = result.arrays[name]
        self.fingerprints[place] = result.arrays["fingerprint"]
        self.stamps[place] = [(-1, -1) if stamp is None else stamp for stamp in result.stamps]
        self.dialects[place] = [self._interned.setdefault(name, name) for name in result.dialects]
        self.messages[place] = [self._interned.setdefault(text, text) for text in result.messages]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Usable rows."""
        return np.asarray(self.arrays["status"] == STATUS_CODE["ok"])

    def reject(self, row: int, status: str, message: str) -> None:
        """Exclude a row that was read."""
        self.arrays["status"][row] = STATUS_CODE[status]
        self.messages[row] = message

    def exclude_copies(self, built: Path, rate_hz: float, near: bool) -> None:
        """Find recordings that are there twice: one patient keeps the first; otherwise nobody knows whose it is.

        The same recording under one patient with two labels is a conflict too: nobody knows which label is right. Only rows that are
        usable, or stand in an older store, are compared; `near` also finds those exported again (duplicates.py).
        """
        waveforms = _Waveforms(built, self.layout)
        known = self.ok
        known[: self.n_frozen] |= self.arrays["status"][: self.n_frozen] == STATUS_CODE["conflict"]
        rows = np.flatnonzero(known)
        keys = [self.arrays[name] for name in ("crc32c", "moments", "valid_span", "lead_mask")]
        groups = exact_duplicates(rows, keys, waveforms.read)
        if near:
            repeated = {row for group in groups for row in group[1:]}
            unique = rows[~np.isin(rows, list(repeated))]

            def load(row: int) -> tuple[Spectrum, float, NDArray[np.bool_], float]:
                span, mask = self.arrays["valid_span"][row], self.arrays["lead_mask"][row]
                bins = spectrum(waveforms.row(row), span, mask, rate_hz)
                return bins, bins_per_hz(bins, rate_hz), mask, float(span[1] - span[0]) / rate_hz

            pairs = [
                (group[0], row)
                for group in [
                    *groups,
                    *near_duplicates(self.fingerprints, self.arrays["lead_mask"], unique, load),
                ]
                for row in group[1:]
            ]
            groups = join_pairs(pairs)
        for group in groups:
            if any(row >= self.n_frozen for row in group):
                self._exclude_group(group)

    def _exclude_group(self, group: list[int]) -> None:
        manifest = self.manifest
        self.copies = [known for known in self.copies if not set(known) <= set(group)] + [group]
        old, new = (
            [row for row in group if row < self.n_frozen],
            [row for row in group if row >= self.n_frozen],
        )
        known = {int(manifest.label[row]) for row in group} - {LABEL_UNKNOWN}
        disputed = any(self.arrays["status"][row] == STATUS_CODE["conflict"] for row in old)
        if len({manifest.patient_id[row] for row in group}) > 1 or len(known) > 1 or disputed:
            for row in new:
                elsewhere = [
                    str(manifest.line[other]) for other in group[:_MAX_LINES] if other != row
                ]
                more = f" and {len(group) - _MAX_LINES:,} more" if len(group) > _MAX_LINES else ""
                self.reject(
                    row,
                    "conflict",
                    f"the same recording is on line {', '.join(elsewhere)}{more}, under another patient or label",
                )
            if old:
                self.warnings.append(
                    f"line {', '.join(str(manifest.line[row]) for row in new)}: the same recording stands in the store already (line "
                    f"{', '.join(str(manifest.line[row]) for row in old)}) under another patient or label, and stays in it. Find out whose it is."
                )
            return
        # What stands comes first; of new ones, one with a label is the one to keep.
        first, *others = old + sorted(new, key=lambda row: manifest.label[row] == LABEL_UNKNOWN)
        for row in others:
            if row >= self.n_frozen:
                self.reject(
                    row,
                    "duplicate",
                    f"the same recording is on line {manifest.line[first]}, under the same patient",
                )

    def exclude_quality(self, flags: tuple[str, ...]) -> None:
        """Exclude usable rows of which a present or stored lead has one of the chosen quality flags."""
        chosen = sum(BIT[name] for name in flags)
        rows = np.flatnonzero(self.ok & (self.arrays["quality"] & np.uint32(chosen)).any(axis=1))
        for row in rows[rows >= self.n_frozen].tolist():
            found = [name for name in flags if (self.arrays["quality"][row] & BIT[name]).any()]
            where = [
                lead
                for lead, bits in zip(LEADS, self.arrays["quality"][row].tolist(), strict=True)
                if bits & chosen
            ]
            self.reject(
                row, "quality", f"{', '.join(found)} in {', '.join(where)} (--exclude-quality)"
            )

    def write_rejects(self, path: Path) -> None:
        """List every row that is not ok by line, status and message: no id, no path."""
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["line", "status", "message"])
        for row in np.flatnonzero(~self.ok):
            writer.writerow(
                [
                    self.manifest.line[int(row)],
                    STATUSES[self.arrays["status"][row]],
                    self.messages[row],
                ]
            )
        write_file(path, buffer.getvalue().encode(), PRIVATE)

    def check_rejects(self, max_rejected: float, where: str) -> None:
        """Raise TooManyRejects above the limit, InputError where nothing is left.

        Duplicates do not count, since their recording is there, nor does what `--exclude-quality` was asked to leave out.
        """
        counts = Counter(STATUSES[code] for code in self.arrays["status"])
        n = len(self.stamps)
        rejected = n - counts["ok"] - counts["duplicate"] - counts["quality"]
        listed = ", ".join(
            f"{name} {count:,}" for name, count in counts.most_common() if name != "ok"
        )
        if not rejected <= max_rejected * n:
            raise TooManyRejects(
                f"{rejected:,} of {n:,} rows ({100 * rejected / n:.1f} %) were rejected; --max-rejected allows {100 * max_rejected:g} %. Nothing was "
                f"published. By status: {listed}. {where} lists them by manifest line: correct the files, or raise --max-rejected."
            )
        if not counts["ok"]:
            raise InputError(
                f"No row is usable ({listed}), so there is no store to make. {where} lists them by manifest line."
            )

    def labels_by_patient(self) -> dict[str, list[int]]:
        """Patient id -> labels of the usable rows."""
        labels: dict[str, list[int]] = {}
        for row in np.flatnonzero(self.ok).tolist():
            labels.setdefault(self.manifest.patient_id[row], []).append(
                int(self.manifest.label[row])
            )
        return labels

    def groups_by_patient(self) -> dict[str, set[str]] | None:
        """Patient id -> values of the column that splits must not cut (`--split-by-column`), or None without one."""
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
        size = self.layout.chunk_bytes("waveforms") // CHUNK_RECORDS
        with open(
            self.built / self.layout.chunk_file("waveforms", row // CHUNK_RECORDS), "rb"
        ) as file:
            file.seek(row % CHUNK_RECORDS * size)
            return file.read(size)

    def row(self, row: int) -> NDArray[np.int16]:
        return np.frombuffer(self.read(row), "<i2").reshape(len(LEADS), self.layout.n_samples)


def collect(manifest: Manifest, layout: Layout, results: Iterable[tuple[int, PartResult]]) -> Rows:
    """Gather (first row, result) of every part, in any order."""
    rows = Rows.empty(manifest, layout)
    for first_row, result in results:
        rows.take(first_row, result)
    return rows
