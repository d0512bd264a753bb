"""Make a store from the rows of another one: other labels, covariates or splits, fewer rows.

No vendor file is read. Waveforms stay where whole chunks stay; all that the manifest and the
registry decide is made again, as a build would make it.
"""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.building.chunks import Progress, Sources
from ecgprep.building.parts import ROW_ARRAYS
from ecgprep.building.plan import BuildSettings, Plan
from ecgprep.building.rows import Rows
from ecgprep.building.run import check_plan, finish, working
from ecgprep.errors import STATUS_CODE, InputError, StoreError, TargetExists
from ecgprep.files.csv_header import check_header
from ecgprep.patients.identifiers import lookalike_key
from ecgprep.patients.manifest import Manifest
from ecgprep.patients.private_csv import Faults, counted, listed_lines, read_rows, read_text
from ecgprep.patients.registry import parse_ratios
from ecgprep.sex_code import SexCode
from ecgprep.store.format import QUALITY_FLAGS
from ecgprep.store.reader import Store
from ecgprep.store.row_ids import RowIds
from ecgprep.store.verify import VerificationFailed

log = logging.getLogger(__name__)

SEARCHED_AGAIN = 20_000
"""Up to so many rows of a larger store are searched for copies again, as a build would do.

In more, the copies that the store's own build found are taken over.
"""

_DECIDED_LATER = ("duplicate", "conflict", "quality")
"""Statuses that a build gives to rows that were read without fault."""


@dataclass(frozen=True, eq=False)
class Derivation:
    """The store of a plan, to be made from `rows` (N,) of `source`, one for each manifest row.

    `record` is the build record of `source`, or None where it is lost.
    """

    plan: Plan
    source: Store
    rows: NDArray[np.int64]
    record: dict[str, Any] | None

    @cached_property
    def sources(self) -> Sources:
        """Where the rows come from."""
        return Sources([self.source], np.zeros_like(self.rows), self.rows)

    @property
    def keeps_all(self) -> bool:
        """Whether every row of the source stays, so that no copy can have lost its partner."""
        return len(np.unique(self.rows)) == len(self.source)


def derived_settings(
    source: Store,
    given: Mapping[str, Any],
    covariates: Sequence[str],
    *,
    allowed: Sequence[str],
    sex_codes: Mapping[str, SexCode],
    exclude_quality: Sequence[str] | None,
) -> BuildSettings:
    """Return the settings of a store, with those that are given in their place.

    Raises InputError for splits that are not allowed, and for a pooled store.
    """
    if "sites" in source.attributes["settings"]:
        raise InputError(
            f"{source.path} was merged of other stores. Derive each of those, then merge them."
        )
    recorded = BuildSettings.from_recorded(source.attributes["settings"])
    plan = recorded.plan
    if plan.fixed_test and given["test_manifest"] is None and given["registry"] is None:
        raise InputError(
            f"{source.path} was built with --test-manifest. Give that list again, or begin anew "
            "with --registry NEW.csv."
        )
    is_new = given["split"] is not None
    splits = replace(
        plan,
        ratios=parse_ratios(given["split"]) if is_new else plan.ratios,
        by_column=given["split_by_column"] or plan.by_column,
        fixed_test=given["test_manifest"] is not None,
        allow_missing_class=given["allow_missing_class"] or plan.allow_missing_class,
    )
    codes = {name: code for name, code in recorded.sex_codes.items() if name in covariates}
    names = {*recorded.allow_covariate, *allowed} & set(covariates)
    return replace(
        recorded,
        plan=splits,
        unlabelled=given["unlabelled"] or recorded.unlabelled,
        exclude_quality=recorded.exclude_quality
        if exclude_quality is None
        else tuple(exclude_quality),
        allow_covariate=tuple(sorted(names)),
        sex_codes=codes | dict(sex_codes),
    )


def read_chosen_rows(path: Path, places: NDArray[np.int64], n_rows: int) -> NDArray[np.int64]:
    """Return which manifest rows stay, those whose store row a CSV lists in its column `row`.

    `places` (N,) has the store row of each manifest row. Raises InputError for what is no row of
    the store, or none of the manifest.
    """
    faults = Faults(what="Table")
    source = read_text(path, ["row"], "Table")
    lines = read_rows(source, path, faults)
    _, header = next(lines)
    check_header(header, ["row"], f"Table {path.name}: line 1")
    column, in_manifest = header.index("row"), set(places.tolist())
    chosen = set()
    for line, fields in lines:
        text = fields[column].strip()
        if not (text.isascii() and text.isdigit() and int(text) < n_rows):
            faults.add(line, "row", f"must be a row of the store, 0 to {n_rows - 1}")
        elif int(text) not in in_manifest:
            faults.add(line, "row", "the manifest does not have this row of the store")
        else:
            chosen.add(int(text))
    if not chosen and not faults.found:
        faults.found.append("no rows; a table needs a header and at least one row")
    faults.raise_any(path)
    return np.flatnonzero(np.isin(places, list(chosen)))


def match_rows(source: Store, ids: RowIds, manifest: Manifest, alike: bool) -> NDArray[np.int64]:
    """Return the row of a store that each manifest row is, by patient and path (N,).

    With `alike`, ids that look alike are one patient. Raises InputError listing the lines that no
    row belongs to.
    """
    key = lookalike_key if alike else str
    place: dict[tuple[str, str], int] = {}
    for row, (patient, path) in enumerate(zip(ids.patient_id, ids.path_xml, strict=True)):
        place.setdefault((key(patient), path), row)
    whose = zip(manifest.patient_id, manifest.path_xml, strict=True)
    rows = [place.get((key(patient), path), -1) for patient, path in whose]
    unknown = [manifest.line[i] for i, row in enumerate(rows) if row < 0]
    if unknown:
        raise InputError(
            f"Manifest {manifest.path.name}: {listed_lines(unknown)}: {source.path} has no row of "
            f"this patient and this path ({counted(len(unknown), 'row')}). Leave these rows out, "
            "or build the store with `ecgprep build`, which reads files."
        )
    return np.array(rows, np.int64)


def rows_in_order(source: Store, manifest: Manifest) -> NDArray[np.int64]:
    """Return the rows of a store whose manifest has as many. Raises InputError."""
    if len(manifest) != len(source):
        raise InputError(
            f"--by-row: manifest {manifest.path.name} has {len(manifest):,} rows, and "
            f"{source.path} has {len(source):,}. Row i must be the store's row i."
        )
    return np.arange(len(source))


def derive_store(derivation: Derivation, progress: Progress | None = None) -> Store:
    """Make the store, verify it and publish it, as `build_store` does.

    Raises:
        StoreError: if the source is damaged or was built without a quality flag of today.
        InputError, TargetExists, TooManyRejects, NoSpace: as `build_store`.
    """
    plan, source, sources = derivation.plan, derivation.source, derivation.sources
    if source.quality_flags != QUALITY_FLAGS:
        raise StoreError(
            f"{source.path} was built before some quality flags existed. Build it again."
        )
    if plan.store.exists():
        raise TargetExists(f"{plan.store} exists. Choose another name.")
    check_plan(plan, searches=derivation.record is None)
    with working(plan, n_linked=len(sources.linked)):
        _forget_other_plans(plan)
        sources.check_intact()
        taken = sources.write_chunks(plan.built, plan.layout, progress)
        rows = _rows_of(derivation)
        _exclude_copies(derivation, rows)
        try:
            return finish(plan, rows, taken)
        except VerificationFailed:  # nothing that was written can be trusted
            shutil.rmtree(plan.work, ignore_errors=True)
            raise


def _forget_other_plans(plan: Plan) -> None:
    """Keep what another build of the same store has read from being taken for what we write."""
    shutil.rmtree(plan.work / "parts", ignore_errors=True)
    (plan.work / "plan.json").unlink(missing_ok=True)


def _rows_of(derivation: Derivation) -> Rows:
    """Return the rows as they were read; what a build decides afterwards is taken back."""
    plan, record = derivation.plan, derivation.record
    rows = Rows.empty(plan.manifest, plan.layout)
    for name in ROW_ARRAYS:
        rows.arrays[name] = derivation.sources.array(name)
    status = rows.arrays["status"]
    later = [STATUS_CODE[name] for name in _DECIDED_LATER]
    status[np.isin(status, later)] = STATUS_CODE["ok"]
    if record is not None:
        rows.stamps = np.array(record["sources"][derivation.rows])
        rows.dialects = [record["dialects"][row] for row in derivation.rows.tolist()]
        messages = record.get("messages", {})
        for i in np.flatnonzero(~rows.ok).tolist():
            rows.messages[i] = messages.get(str(derivation.rows[i]), "")
    return rows


def _exclude_copies(derivation: Derivation, rows: Rows) -> None:
    """Exclude copies: found again, or taken from what the source's own build found."""
    plan, record = derivation.plan, derivation.record
    built, near = plan.built, plan.settings.duplicates == "near"
    rate_hz = plan.settings.target.rate_hz
    is_small = len(rows.stamps) <= SEARCHED_AGAIN and not derivation.keeps_all
    if near and record is not None and not is_small:
        known = list(_known_groups(derivation, record, rows))
        whole = [group for group, is_whole in known if is_whole]
        torn = [row for group, is_whole in known for row in group if not is_whole]
        rows.compute_fingerprints(built, rate_hz, torn)
        rows.exclude_known_duplicates(built, rate_hz, whole, torn)
        return
    if near:
        rows.compute_fingerprints(built, rate_hz, np.flatnonzero(rows.ok).tolist())
    rows.exclude_duplicates(built, rate_hz, near)


def _known_groups(
    derivation: Derivation, record: dict[str, Any], rows: Rows
) -> Iterator[tuple[list[int], bool]]:
    """Yield groups of copies as rows of the new store, and whether all of each group stayed.

    A recording may have been what made two others copies, so a group that lost one is torn.
    """
    places: dict[int, list[int]] = defaultdict(list)
    for i, row in enumerate(derivation.rows.tolist()):
        places[row].append(i)
    for group in record["copies"]:
        there = [row for row in group if row in places]
        members = [i for row in there for i in places[row] if rows.ok[i]]
        if len(members) > 1:
            yield sorted(members), len(there) == len(group)
