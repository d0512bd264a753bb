"""Extend a store by the rows that a longer manifest adds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.building.executors import Isolated
from ecgprep.building.parts import (
    ROW_ARRAYS,
    Outcome,
    Part,
    PartResult,
    Read,
    build_part,
    read_row,
    save_result,
)
from ecgprep.building.plan import (
    Plan,
    software_versions,
)
from ecgprep.building.record import _registry_agrees, _rows_sha256, _stamp
from ecgprep.building.rows import Rows
from ecgprep.conform import Row
from ecgprep.errors import STATUSES, InputError
from ecgprep.files.atomic import (
    write_file,
)
from ecgprep.leads import LEADS
from ecgprep.patients.duplicates import fingerprint
from ecgprep.quality import bins_per_hz, spectrum
from ecgprep.store.format import (
    CHUNK_RECORDS,
)
from ecgprep.store.reader import Store
from ecgprep.store.record import read_build_record


@dataclass(frozen=True, eq=False)
class Standing:
    """The rows of an existing store that a longer manifest extends: they are taken over as they are, and never read again."""

    store: Store
    record: dict[str, Any]

    @classmethod
    def of(cls, plan: Plan) -> Standing:
        """Check that the manifest begins with the store's rows. Raises InputError, and StoreError when the store cannot be opened."""
        store, record, manifest = Store(plan.store), read_build_record(plan.store), plan.manifest
        why = None
        if record is None or record["content_sha256"] != store.content_sha256:
            why = "its build record is missing or not its own"
        elif store.attributes["settings"] != plan.settings.recorded(manifest.covariate_names):
            why = "the settings differ"
        elif store.attributes["software"] != software_versions():
            why = "it was built with other versions of ecgprep, numpy, scipy or lxml, and one store cannot hold rows of both"
        elif (
            len(manifest) < len(store)
            or _rows_sha256(manifest, len(store)) != record["rows_sha256"]
        ):
            why = f"the first {len(store):,} rows of the manifest are not the ones it was built from; new rows go below the old ones"
        elif not _registry_agrees(store, manifest, plan.settings, plan.registry_path, record):
            why = "the registry is missing, or is not the one it was built with; name it with --registry"
        if why or record is None:
            raise InputError(
                f"{plan.store} cannot be extended: {why}. The store stays as it is; a new one needs another name."
            )
        return cls(store, record)

    def __len__(self) -> int:
        return len(self.store)

    def lay_down(self, parts: Sequence[Part], careful: bool) -> list[Part]:
        """Link full chunks into the work folder, build the part that is filled up from old rows and new files, and return all parts.

        Parts with old rows get a key of their own: their rows have the statuses of the store, which no other build may take for what
        reading gave. With `careful`, new files of the part that is filled up are read in a process that may die.
        """
        mine = f"standing in {self.store.content_sha256}"
        parts = [
            replace(part, context=f"{part.context} {mine}") if part.first_row < len(self) else part
            for part in parts
        ]
        isolated = Isolated() if careful else None
        read_new: Read = isolated or read_row
        try:
            for part in parts:
                if part.first_row >= len(self):
                    break
                if part.first_row + CHUNK_RECORDS <= len(self):
                    self._link(part)
                else:
                    build_part(part, lambda part, i: self._read(part, i, read_new))
        finally:
            if isolated is not None:
                isolated.close()
        return parts

    def _link(self, part: Part) -> None:
        source = self.store.path / self.store.layout.chunk_file("waveforms", part.index)
        part.chunk.parent.mkdir(parents=True, exist_ok=True)
        part.chunk.unlink(missing_ok=True)
        try:
            os.link(source, part.chunk)
        except OSError:  # a file system without hard links
            write_file(part.chunk, source.read_bytes())
        rows = slice(part.first_row, part.first_row + len(part.paths))
        arrays = {name: np.array(self.store.array(name)[rows]) for name in ROW_ARRAYS}
        arrays["fingerprint"] = np.stack(
            [self._fingerprint(row) for row in range(rows.start, rows.stop)]
        )
        save_result(
            part,
            PartResult(
                arrays,
                [_stamp(source) for source in self.record["sources"][rows]],
                self.record["dialects"][rows],
                [""] * len(part.paths),
            ),
        )

    def _read(self, part: Part, i: int, read_new: Read) -> Outcome:
        """Give row i of a part that is filled up: from the store what stands, from its file what is new."""
        row = part.first_row + i
        return self.outcome(row) if row < len(self) else read_new(part, i)

    def outcome(self, row: int) -> Outcome:
        """Return a row of the store as if it had just been read."""
        arrays = {name: np.array(self.store.array(name)[row]) for name in ROW_ARRAYS}
        waveform = self._waveform(row)
        span = int(arrays["valid_span"][0]), int(arrays["valid_span"][1])
        kept = Row(waveform, arrays["lead_mask"], span, arrays["moments"], float(arrays["rate_hz"]))
        status = STATUSES[int(arrays["status"])]
        return Outcome(
            _stamp(self.record["sources"][row]),
            kept,
            self.record["dialects"][row],
            arrays["quality"],
            self._fingerprint(row),
            status,
        )

    def _waveform(self, row: int) -> NDArray[np.int16]:
        return np.asarray(
            self.store.gather(
                np.array([row]), np.empty((1, len(LEADS), self.store.n_samples), "<i2")
            )[0]
        )

    def _fingerprint(self, row: int) -> NDArray[np.int8]:
        bins = spectrum(
            self._waveform(row),
            self.store.array("valid_span")[row],
            self.store.array("lead_mask")[row],
            self.store.sample_rate_hz,
        )
        return fingerprint(bins, bins_per_hz(bins, self.store.sample_rate_hz))

    def restore(self, rows: Rows) -> None:
        """Give the standing rows the statuses and messages they have in the store, and freeze them."""
        rows.n_frozen = len(self)
        rows.arrays["status"][: len(self)] = self.store.array("status")
        rows.copies += [list(group) for group in self.record["copies"]]
        rows.warnings += self.record.get("warnings", [])
        for row, message in self.record.get("messages", {}).items():
            rows.messages[int(row)] = message
