"""Extend a store by the rows that a longer manifest adds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.building.executors import IsolatedReader
from ecgprep.building.parts import (
    ROW_ARRAYS,
    Outcome,
    Part,
    PartResult,
    ReadRow,
    build_part,
    read_row,
    save_result,
)
from ecgprep.building.plan import Plan
from ecgprep.building.record import (
    NO_RECORD,
    OTHER_REGISTRY,
    OTHER_SOFTWARE,
    difference_of_origin,
    has_first_rows,
    has_same_registry,
    stamp_from_record,
)
from ecgprep.building.rows import Rows
from ecgprep.conform import Row
from ecgprep.errors import STATUSES, InputError
from ecgprep.files.atomic import write_file
from ecgprep.patients.duplicates import fingerprint
from ecgprep.quality import bins_per_hz, spectrum
from ecgprep.store.format import CHUNK_RECORDS
from ecgprep.store.reader import Store
from ecgprep.store.record import read_build_record

_HINTS = {
    OTHER_SOFTWARE: ", and one store cannot hold rows of both",
    OTHER_REGISTRY: "; name it with --registry",
}


@dataclass(frozen=True, eq=False)
class ExistingRows:
    """The rows of a store that a longer manifest extends: taken as they are, never read again."""

    store: Store
    record: dict[str, Any]

    @classmethod
    def of(cls, plan: Plan) -> ExistingRows:
        """Check that the manifest begins with the store's rows.

        Raises:
            InputError: if it does not, or if the store was built in another way.
            StoreError: if the store cannot be opened.
        """
        store, record = Store(plan.store), read_build_record(plan.store)
        reason = NO_RECORD if record is None else _why_not(store, record, plan)
        if record is None or reason is not None:
            raise InputError(
                f"{plan.store} cannot be extended: {reason}. The store stays as it is; "
                "a new one needs another name."
            )
        return cls(store, record)

    def __len__(self) -> int:
        return len(self.store)

    @property
    def n_full_chunks(self) -> int:
        """Chunks that are linked, and need no space."""
        return len(self) // CHUNK_RECORDS

    def holds(self, part: Part) -> bool:
        """Say whether any row of a part is in the store."""
        return part.first_row < len(self)

    def prepare_parts(self, parts: Sequence[Part], isolate: bool) -> list[Part]:
        """Make the parts that hold existing rows, and return all parts.

        Full chunks are linked into the work folder. The one part that has both existing rows and
        new files is built; with `isolate` its new files are read in a process that may die.

        Parts with existing rows get a key of their own: their rows have the statuses of the store,
        which no other build may take for what reading gave.
        """
        ours = f"standing in {self.store.content_sha256}"
        prepared = []
        for part in parts:
            if self.holds(part):
                part = replace(part, context=f"{part.context} {ours}")
                self._prepare(part, isolate)
            prepared.append(part)
        return prepared

    def _prepare(self, part: Part, isolate: bool) -> None:
        if part.first_row + CHUNK_RECORDS <= len(self):
            self._link(part)
        elif isolate:
            with contextlib.closing(IsolatedReader()) as read_new:
                self._fill(part, read_new)
        else:
            self._fill(part, read_row)

    def _link(self, part: Part) -> None:
        """Make a part whose rows are all in the store."""
        source = self.store.path / self.store.layout.chunk_file("waveforms", part.index)
        part.chunk.parent.mkdir(parents=True, exist_ok=True)
        part.chunk.unlink(missing_ok=True)
        try:
            os.link(source, part.chunk)
        except OSError:  # a file system without hard links
            write_file(part.chunk, source.read_bytes())
        rows = part.rows
        arrays = {name: np.array(self.store.array(name)[rows]) for name in ROW_ARRAYS}
        fingerprints = [self._fingerprint(row) for row in range(rows.start, rows.stop)]
        result = PartResult(
            arrays=arrays | {"fingerprint": np.stack(fingerprints)},
            stamps=[stamp_from_record(source) for source in self.record["sources"][rows]],
            dialects=self.record["dialects"][rows],
            messages=[""] * len(part.paths),
        )
        save_result(part, result)

    def _fill(self, part: Part, read_new: ReadRow) -> None:
        """Build a part whose first rows are in the store and whose others are new files."""

        def read(part: Part, i: int) -> Outcome:
            row = part.first_row + i
            return self.outcome(row) if row < len(self) else read_new(part, i)

        build_part(part, read)

    def outcome(self, row: int) -> Outcome:
        """Return a row of the store as if it had just been read."""
        arrays = {name: np.array(self.store.array(name)[row]) for name in ROW_ARRAYS}
        first_sample, end_sample = arrays["valid_span"].tolist()
        conformed = Row(
            waveform=self.store.recording(row)[0],
            lead_mask=arrays["lead_mask"],
            valid_span=(first_sample, end_sample),
            moments=arrays["moments"],
            rate_hz=float(arrays["rate_hz"]),
        )
        return Outcome(
            stamp=stamp_from_record(self.record["sources"][row]),
            row=conformed,
            dialect=self.record["dialects"][row],
            quality=arrays["quality"],
            fingerprint=self._fingerprint(row),
            status=STATUSES[int(arrays["status"])],
        )

    def _fingerprint(self, row: int) -> NDArray[np.int8]:
        rate_hz = self.store.sample_rate_hz
        waveform, mask, span = self.store.recording(row)
        bins = spectrum(waveform, span, mask, rate_hz)
        return fingerprint(bins, bins_per_hz(bins, rate_hz))

    def restore(self, rows: Rows) -> None:
        """Give the existing rows the statuses and messages of the store, and freeze them."""
        rows.n_frozen = len(self)
        rows.arrays["status"][: len(self)] = self.store.array("status")
        rows.duplicates += [list(group) for group in self.record["copies"]]
        rows.warnings += self.record.get("warnings", [])
        for row, message in self.record.get("messages", {}).items():
            rows.messages[int(row)] = message


def _why_not(store: Store, record: dict[str, Any], plan: Plan) -> str | None:
    """Say why a plan does not extend a store, or None if it does."""
    reason = difference_of_origin(store, record, plan, may_have_new_rows=True)
    if reason is None and not has_first_rows(store, record, plan.manifest):
        return (
            f"the first {len(store):,} rows of the manifest are not the ones it was built from; "
            "new rows go below the old ones"
        )
    if reason is None and not has_same_registry(store, record, plan):
        reason = OTHER_REGISTRY
    return None if reason is None else reason + _HINTS.get(reason, "")
