"""Build a store: plan -> parts -> finalise -> verify -> publish.

Nothing has the store's name until it is complete and verified: everything is written beside it
and renamed at the end. What was read stays in the work folder until then, so a build that was
stopped, by whatever means, continues where it was. The private side (rejects, build record,
registry) lies next to the store with mode 0600, never in it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ecgprep.building.executors import connect, run_parts, run_parts_dask
from ecgprep.building.extend import ExistingRows
from ecgprep.building.parts import (
    Part,
    PartCounts,
    PartResult,
    is_current,
    is_unchanged,
    load_result,
)
from ecgprep.building.plan import Plan, Progress, share, work_folder, write_plan
from ecgprep.building.record import OTHER_MANIFEST, stale_reason, write_build_record
from ecgprep.building.rows import Rows, collect
from ecgprep.building.writer import Taken, write_store
from ecgprep.errors import InputError, NoSpace, StoreError, TargetExists
from ecgprep.files.atomic import (
    finish_publishing,
    naming_full_disk,
    publish_dir,
    remove_partials_of,
)
from ecgprep.files.lock import locked
from ecgprep.files.output import refuse_inside_store
from ecgprep.patients.lookalikes import new_lookalikes
from ecgprep.patients.manifest import check_one_label_per_patient
from ecgprep.patients.private_csv import listed_lines
from ecgprep.patients.registry import load_registry, save_registry
from ecgprep.patients.splits import assign
from ecgprep.patients.vendor_paths import MissingFiles
from ecgprep.store import Store, looks_like_store
from ecgprep.store.format import CHUNK_RECORDS
from ecgprep.store.record import private_path, read_build_record
from ecgprep.store.verify import VerificationFailed, verify_new_store

log = logging.getLogger(__name__)

MAX_COMPARED = 1_000_000
"""Recordings among which near duplicates are looked for.

The time grows with the square, and is 4 hours here.
"""

_MAX_PARTS_LISTED = 10

_SMALL_BYTES_PER_ROW = 1000
"""Upper bound on what the small arrays and private files need for a row."""

_SPACE_MARGIN = 1.02


class BuiltParts(NamedTuple):
    """How many parts a share has, and how many of them were built by this call."""

    parts: int
    built_now: int


def is_up_to_date(plan: Plan) -> bool:
    """Say whether the store of a plan exists and is what the plan would give, so need not be built.

    Raises:
        TargetExists: for a stale store, without `replace` or `extend`.
        StoreError: if what has the store's name cannot be opened.
    """
    recover(plan.store)
    if plan.replace or not plan.store.exists():
        return False
    reason = stale_reason(plan)
    if reason is not None and not plan.extend:
        raise TargetExists(_stale_message(plan.store, reason))
    return reason is None


def _stale_message(store: Path, reason: str) -> str:
    extend = ", --extend if it only has new rows," if reason == OTHER_MANIFEST else ""
    return f"{store} is stale: {reason}. Use --replace to build it again{extend} or another name."


def build_store(
    plan: Plan, *, jobs: int = 1, dask: str | None = None, progress: Progress | None = None
) -> Store:
    """Build the store of a plan and return it.

    Files that an earlier build read before it was stopped are not read again. If the build
    fails, nothing is published and the registry is untouched. `STORE.rejects.csv` is written in
    either case, so that the user can see what was rejected.

    Args:
        plan: what to build.
        jobs: processes that read; from 2 on, a file that kills one costs only its row.
        dask: address or scheduler file of a Dask cluster that reads instead.
        progress: called with the rows done, all rows and the rows rejected.

    Raises:
        InputError: for what is wrong with the registry, the splits or an extension.
        TargetExists: if the store exists and is not to be replaced or extended.
        TooManyRejects: if more rows are rejected than the plan allows.
        NoSpace: if the disk is full, or would be.
    """
    check_plan(plan)
    existing = ExistingRows.of(plan) if plan.extend else None
    _check_files(plan, 0 if existing is None else len(existing))
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(connect(dask)) if dask else None
        stack.enter_context(working(plan, 0 if existing is None else existing.n_full_chunks))
        write_plan(plan)
        parts = plan.parts()
        if existing is not None:
            parts = existing.prepare_parts(parts, isolate=jobs > 1 or dask is not None)
        work = Work.of(parts, existing)
        built = run_parts_dask(work.todo, client) if dask else run_parts(work.todo, jobs)
        work.follow(built, progress)
        return _finalise(plan, parts, existing)


def plan_store(plan: Plan) -> int:
    """Write the plan of a build that other processes will carry out.

    Returns the number of parts. Raises as `build_store`.
    """
    check_plan(plan)
    _check_files(plan)
    with working(plan):
        write_plan(plan)
    return len(plan.parts())


def build_share(
    plan: Plan, part: int, n: int, *, jobs: int = 1, progress: Progress | None = None
) -> BuiltParts:
    """Build the share `part` of `n` (from 1) of a plan's parts, while others build theirs.

    Parts that are built already are left as they are.

    Raises:
        TargetExists: while a build of the whole store runs.
        NoSpace: if the disk is full.
    """
    parts = share(plan.parts(), part, n)
    with locked(plan.store, wait=False, shared=True), naming_full_disk(plan.store.parent):
        work = Work.of(parts, None)
        work.follow(run_parts(work.todo, jobs), progress)
    return BuiltParts(len(parts), len(work.todo))


def finalise_store(plan: Plan) -> Store:
    """Make the store of a plan whose parts are all built.

    Raises:
        InputError: naming the parts that are missing or out of date; otherwise as `build_store`.
    """
    check_plan(plan)
    with working(plan):
        parts = plan.parts()
        missing = [part.index + 1 for part in parts if not _is_built(part)]
        if missing:
            raise InputError(_missing_message(plan.store, missing, len(parts)))
        return _finalise(plan, parts, None)


def _is_built(part: Part) -> bool:
    result = load_result(part)
    return result is not None and is_unchanged(part, result)


def _missing_message(store: Path, missing: list[int], n_parts: int) -> str:
    listed = ", ".join(map(str, missing[:_MAX_PARTS_LISTED]))
    if len(missing) > _MAX_PARTS_LISTED:
        listed += f" and {len(missing) - _MAX_PARTS_LISTED:,} more"
    return (
        f"{len(missing):,} of {n_parts:,} parts of {store} are missing, or their files have "
        f"changed: {listed}. Build them with `ecgprep part {store} --part i/n`, or all that is "
        "missing with the command `ecgprep build`."
    )


@dataclass
class Work:
    """The parts that are still to be built, and the rows of those that are built."""

    todo: list[Part]
    n_rows: int
    done: int = 0
    rejected: int = 0

    @classmethod
    def of(cls, parts: Sequence[Part], existing: ExistingRows | None) -> Work:
        """Find the parts to build among `parts`."""
        work = cls([], sum(len(part.paths) for part in parts))
        for part in parts:
            result = load_result(part)
            # What an extension took from the store is not compared with its files again.
            is_prepared = existing is not None and existing.holds(part)
            if result is not None and (is_prepared or is_current(part, result)):
                work.done += len(part.paths)
                work.rejected += result.n_rejected
            else:
                work.todo.append(part)
        return work

    def follow(self, built: Iterable[PartCounts], progress: Progress | None) -> None:
        """Count the parts as they are built, and report progress."""
        log.debug("Reading %s of %s rows.", f"{self.n_rows - self.done:,}", f"{self.n_rows:,}")
        if progress:
            progress(self.done, self.n_rows, self.rejected)
        for counts in built:
            self.done += counts.rows
            self.rejected += counts.rejected
            if progress:
                progress(self.done, self.n_rows, self.rejected)


def check_plan(plan: Plan, searches: bool = True) -> None:
    """Find what would end the build before it begins; `searches` if copies are looked for."""
    check_store_name(plan.store)
    recover(plan.store)
    _check_target(plan)
    is_near = searches and plan.settings.duplicates == "near"
    if is_near and len(plan.manifest) > MAX_COMPARED:
        raise InputError(
            f"{len(plan.manifest):,} recordings are too many to compare every pair in a day; "
            f"the limit is {MAX_COMPARED:,}. With --duplicates exact only recordings that are "
            "identical to the byte are found."
        )
    if plan.settings.label_level == "patient":
        check_one_label_per_patient(plan.manifest)
    _warn_of_known_patients(plan)
    refuse_inside_store(plan.registry_path)
    if not plan.registry_path.parent.is_dir():
        raise InputError(
            f"--registry: the folder of {plan.registry_path.name} does not exist. "
            "Make it, or name another file."
        )


def _warn_of_known_patients(plan: Plan) -> None:
    """Warn of patients that the registry knows under another spelling. Raises InputError."""
    registry = load_registry(plan.registry_path, plan.settings.plan)
    lines = new_lookalikes(plan.manifest.patient_id, plan.manifest.line, registry)
    if lines:
        log.warning(
            "%s: the registry knows these patient ids only in spellings that differ by case, "
            "leading zeros or the like; they become new patients and may land in another split. If "
            "they are the same, correct the ids, or add --merge-lookalikes",
            listed_lines(lines),
        )


def _check_files(plan: Plan, first_row: int = 0) -> None:
    """Look for some of the files from `first_row` on: without any, nothing need be read.

    Where only many are missing, say so and go on. Raises InputError.
    """
    root = plan.manifest.root
    missing = MissingFiles.among(root, plan.manifest.path_xml[first_row:])
    if missing is None:
        return
    if missing.n_missing == missing.n_sought:
        raise InputError(f"{missing.describe(root)} Nothing was read.")
    log.warning(missing.describe(root))


def check_store_name(store: Path) -> None:
    """Refuse a path that cannot be a store's name. Raises TargetExists."""
    if store.is_symlink() or store.name in ("", ".."):
        raise TargetExists(f"{store} is a symlink or not a plain name. Give the name of a store.")
    refuse_inside_store(store)


def _check_target(plan: Plan) -> None:
    """Refuse to replace anything that is not one of our stores: it would be deleted."""
    store = plan.store
    if not store.exists():
        return
    if not (plan.replace or plan.extend):
        raise TargetExists(f"{store} exists. Use --replace to build it again, or another name.")
    if not looks_like_store(store):
        raise TargetExists(
            f"{store} exists and is not a store of ecgprep, so --replace will not delete it. "
            "Use another name."
        )


@contextlib.contextmanager
def working(plan: Plan, n_linked: int = 0) -> Iterator[None]:
    """Make the work folder, locked against a second builder.

    The folder stays until the store is published. `n_linked` chunks will need no space.
    """
    plan.store.parent.mkdir(parents=True, exist_ok=True)
    with locked(plan.store, wait=False), naming_full_disk(plan.store.parent):
        _recover(plan.store)
        remove_partials_of(plan.store)
        _check_target(plan)
        _check_space(plan, n_linked)
        plan.work.mkdir(mode=0o700, exist_ok=True)
        plan.built.mkdir(exist_ok=True)
        yield


def _check_space(plan: Plan, n_linked: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Chunks that are linked, or in the work folder already, need no space.
    """
    layout = plan.layout
    n_chunks = len(layout.chunk_files("waveforms")) - n_linked
    needed = n_chunks * layout.chunk_bytes("waveforms") + _SMALL_BYTES_PER_ROW * layout.n_records
    written = sum(path.stat().st_size for path in plan.built.glob("waveforms/c/*/0/0"))
    free = shutil.disk_usage(plan.store.parent).free
    if free < (needed - written) * _SPACE_MARGIN:
        raise NoSpace(
            f"The store needs {needed / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB free. "
            "Free some space, or write elsewhere."
        )


def _finalise(plan: Plan, parts: Sequence[Part], existing: ExistingRows | None) -> Store:
    """Gather the rows of all parts, exclude copies, and finish the store."""
    rows = collect(plan.manifest, plan.layout, _results(parts))
    if existing is not None:
        existing.restore(rows)
    log.debug("Looking for duplicates.")
    near = plan.settings.duplicates == "near"
    rows.exclude_duplicates(plan.built, plan.settings.target.rate_hz, near)
    try:
        return finish(plan, rows)
    except VerificationFailed as error:
        _forget_damaged(plan, parts, error.bad_rows)
        raise


def finish(plan: Plan, rows: Rows, taken: Taken | None = None) -> Store:
    """Exclude rows for quality, assign splits, write what is not a waveform, verify, publish.

    `taken` is what comes from another store.

    Raises:
        TooManyRejects: if more rows are rejected than the plan allows.
        VerificationFailed: if what was written reads back otherwise.
        InputError: for what is wrong with the registry or the splits.
    """
    rows.exclude_quality(plan.settings.exclude_quality)
    _check_rejects(plan, rows)
    # Two builds may share a registry: neither may lose the other's patients.
    with locked(plan.registry_path):
        _publish(plan, rows, taken)
    _finish_private_files(plan.store)
    return Store(plan.store)


def _check_rejects(plan: Plan, rows: Rows) -> None:
    """List the rejected rows, and raise if there are too many.

    While an older store has the name, its own list of rejects stays: ours has another name until
    our store is published.
    """
    failed = private_path(plan.store, "rejects.failed.csv")
    rejects = failed if plan.store.exists() else private_path(plan.store, "rejects.csv")
    if rejects != failed:
        failed.unlink(missing_ok=True)
    rows.write_rejects(rejects)
    rows.check_rejects(plan.max_rejected, rejects.name)


def _publish(plan: Plan, rows: Rows, taken: Taken | None) -> None:
    """Assign splits, write the rest of the store, verify it, and give it its name."""
    log.debug("Assigning splits.")
    remove_partials_of(plan.registry_path)
    labels = rows.labels_by_patient()
    before = load_registry(plan.registry_path, plan.settings.plan)
    registry = assign(before, labels, rows.groups_by_patient(), plan.test_patients)
    write_store(plan, rows, registry, taken)
    log.debug("Verifying what was written.")
    verify_new_store(plan.built, frozenset() if taken is None else taken.chunks)
    save_registry(registry)
    write_build_record(plan, rows, Store(plan.built), registry.digest(labels))
    publish_dir(plan.built, plan.store, plan.replace or plan.extend)
    log.debug("Published %s.", plan.store)


def _forget_damaged(plan: Plan, parts: Sequence[Part], bad_rows: Iterable[int]) -> None:
    """Keep the next build from resuming what cannot be trusted."""
    damaged = {row // CHUNK_RECORDS for row in bad_rows}
    for index in damaged:
        parts[index].result.unlink(missing_ok=True)
    if not damaged:
        shutil.rmtree(plan.work, ignore_errors=True)


def recover(store: Path) -> None:
    """Finish the publishing of a store whose process was killed in the middle of it.

    Raises:
        TargetExists: while the store is being built.
    """
    if store.name in ("", ".."):
        return
    traces = (private_path(store, "build.next.json"), store.with_name(f".{store.name}.old"))
    if any(path.exists() for path in traces):
        with locked(store, wait=False):
            _recover(store)


def _recover(store: Path) -> None:
    finish_publishing(store)
    record = read_build_record(store, "build.next.json")
    if record is None or not looks_like_store(store):
        return
    if Store(store).content_sha256 == record["content_sha256"]:
        _finish_private_files(store)


def _finish_private_files(store: Path) -> None:
    """Give the private files of a published store their names, and remove its work folder."""
    rejects = private_path(store, "rejects.failed.csv")
    if rejects.exists():
        rejects.replace(private_path(store, "rejects.csv"))
    shutil.rmtree(work_folder(store), ignore_errors=True)
    # This comes last: while the file has its temporary name, `recover` repeats all of this.
    private_path(store, "build.next.json").replace(private_path(store, "build.json"))


def _results(parts: Sequence[Part]) -> Iterator[tuple[int, PartResult]]:
    for part in parts:
        result = load_result(part)
        if result is None:
            raise StoreError(
                f"Part {part.index + 1} was damaged or removed while the store was built. "
                "Run the same command again."
            )
        yield part.first_row, result
