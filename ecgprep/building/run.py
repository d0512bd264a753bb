"""Build a store: plan -> parts -> finalise -> verify -> publish.

Nothing stands under the store's name until it is complete and verified: everything is written beside it and renamed at the end. What
was read stays in the work folder until then, so that a build that was stopped, by whatever means, goes on where it stood.
The private side (rejects, build record, registry) lies next to the store with mode 0600, never in it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ecgprep.building.executors import connect, run_parts, run_parts_dask
from ecgprep.building.extend import Standing
from ecgprep.building.parts import (
    Part,
    PartResult,
    is_current,
    is_unchanged,
    load_result,
)
from ecgprep.building.plan import (
    BuildSettings,
    Plan,
    Progress,
    work_folder,
    write_plan,
)
from ecgprep.building.record import _write_build_record
from ecgprep.building.rows import collect
from ecgprep.building.writer import _write_store
from ecgprep.errors import InputError, NoSpace, StoreError, TargetExists
from ecgprep.files.atomic import (
    finish_publishing,
    naming_full_disk,
    publish_dir,
    remove_partials_of,
)
from ecgprep.files.lock import locked
from ecgprep.files.output import refuse_inside_store
from ecgprep.patients.manifest import Manifest, check_one_label_per_patient
from ecgprep.patients.registry import load_registry, save_registry
from ecgprep.patients.splits import assign
from ecgprep.store import Store, looks_like_store
from ecgprep.store.format import (
    CHUNK_RECORDS,
)
from ecgprep.store.record import private_path, read_build_record
from ecgprep.store.verify import VerificationFailed, verify_new_store

MAX_COMPARED = 1_000_000
"""Recordings among which re-exported ones are looked for: the time grows with the square, and is 4 hours here."""


def build_store(
    manifest: Manifest,
    store: Path,
    settings: BuildSettings,
    *,
    registry_path: Path,
    jobs: int = 1,
    dask: str | None = None,
    max_rejected: float = 0.05,
    replace: bool = False,
    extend: bool = False,
    test_patients: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> Store:
    """Build the store of a manifest and return it. What an earlier build of it, stopped half-way, has read is not read again.

    With `extend` the rows of the existing store stand and only those that the manifest has beyond them are read.
    Raises InputError (registry, split), TargetExists (without `replace`), TooManyRejects, NoSpace; then nothing is published and
    the registry is untouched. `<store>.rejects.csv` is written in either case, so that the user can see what was rejected.
    """
    plan = Plan(
        manifest,
        store,
        settings,
        registry_path,
        max_rejected,
        test_patients,
        replace or extend,
        extend,
    )
    _check_plan(plan)
    standing = Standing.of(plan) if extend else None
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(connect(dask)) if dask else None
        stack.enter_context(_working(plan, standing))
        write_plan(plan)
        parts = plan.parts()
        if standing is not None:
            parts = standing.lay_down(parts, careful=jobs > 1 or dask is not None)
        todo, done, rejected = _unfinished(parts, standing)
        if progress:
            progress(done, len(manifest), rejected)
        for n, n_rejected in run_parts_dask(todo, client) if dask else run_parts(todo, jobs):
            done, rejected = done + n, rejected + n_rejected
            if progress:
                progress(done, len(manifest), rejected)
        return _finalise(plan, parts, standing)


def plan_store(plan: Plan) -> int:
    """Write the plan of a build that other processes will carry out, and return the number of parts. Raises as `build_store`."""
    _check_plan(plan)
    with _working(plan):
        write_plan(plan)
    return len(plan.parts())


def build_share(
    plan: Plan, parts: Sequence[Part], jobs: int = 1, progress: Progress | None = None
) -> int:
    """Build those of `parts` that are not built yet, while others build theirs. Returns how many were built."""
    with locked(plan.store, wait=False, shared=True), naming_full_disk(plan.store.parent):
        todo, done, rejected = _unfinished(parts, None)
        for n, n_rejected in run_parts(todo, jobs):
            done, rejected = done + n, rejected + n_rejected
            if progress:
                progress(done, sum(len(part.paths) for part in parts), rejected)
    return len(todo)


def finalise_store(plan: Plan) -> Store:
    """Make the store of a plan whose parts are all built. Raises InputError naming the parts that are missing or out of date."""
    _check_plan(plan)
    with _working(plan):
        parts = plan.parts()
        missing = [
            part.index + 1
            for part in parts
            if not ((result := load_result(part)) and is_unchanged(part, result))
        ]
        if missing:
            listed = ", ".join(map(str, missing[:10])) + (
                f" and {len(missing) - 10:,} more" if len(missing) > 10 else ""
            )
            raise InputError(
                f"{len(missing):,} of {len(parts):,} parts of {plan.store} are missing, or their files have changed: {listed}. Build them with "
                f"`ecgprep part {plan.store} --part i/n`, or all that is missing with the command `ecgprep build`."
            )
        return _finalise(plan, parts, None)


def _check_plan(plan: Plan) -> None:
    """Find what would end the build before anything is read."""
    _check_name(plan.store)
    recover(plan.store)
    _check_target(plan.store, plan.replace)
    if plan.settings.duplicates == "near" and len(plan.manifest) > MAX_COMPARED:
        raise InputError(
            f"{len(plan.manifest):,} recordings are too many to compare every pair in a day; up to {MAX_COMPARED:,} are. With --duplicates exact "
            "only recordings that are equal to the byte are found."
        )
    if plan.settings.label_level == "patient":
        check_one_label_per_patient(plan.manifest)
    load_registry(plan.registry_path, plan.settings.plan)
    refuse_inside_store(plan.registry_path)
    if not plan.registry_path.parent.is_dir():
        raise InputError(
            f"--registry: the folder of {plan.registry_path.name} does not exist. Make it, or name another file."
        )


def _check_name(store: Path) -> None:
    if store.is_symlink() or store.name in ("", ".."):
        raise TargetExists(f"{store} is a symlink or no plain name. Give the name of a store.")
    refuse_inside_store(store)


def _check_target(store: Path, replace: bool) -> None:
    """Refuse to write where something stands that is not a store of ours, whatever `replace` says: it will be deleted."""
    if store.exists() and not replace:
        raise TargetExists(f"{store} exists. Use --replace to build it again, or another name.")
    if store.exists() and not looks_like_store(store):
        raise TargetExists(
            f"{store} exists and is not a store of ecgprep, so --replace will not delete it. Use another name."
        )


@contextlib.contextmanager
def _working(plan: Plan, standing: Standing | None = None) -> Iterator[None]:
    """Make the work folder, locked against a second builder; it stays until the store is published."""
    plan.store.parent.mkdir(parents=True, exist_ok=True)
    with locked(plan.store, wait=False), naming_full_disk(plan.store.parent):
        _recover(plan.store)
        remove_partials_of(plan.store)
        _check_target(plan.store, plan.replace)
        _check_space(plan, 0 if standing is None else len(standing) // CHUNK_RECORDS)
        plan.work.mkdir(mode=0o700, exist_ok=True)
        plan.built.mkdir(exist_ok=True)
        yield


def _check_space(plan: Plan, n_linked: int) -> None:
    """Refuse to begin what the disk cannot hold; chunks that are linked, or there already, need no space."""
    layout = plan.layout
    needed = (len(layout.chunk_files("waveforms")) - n_linked) * layout.chunk_bytes(
        "waveforms"
    ) + 1000 * layout.n_records
    there = sum(path.stat().st_size for path in plan.built.glob("waveforms/c/*/0/0"))
    free = shutil.disk_usage(plan.store.parent).free
    if free < (needed - there) * 1.02:
        raise NoSpace(
            f"The store needs {needed / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB free. Free some space, or write elsewhere."
        )


def _unfinished(parts: Sequence[Part], standing: Standing | None) -> tuple[list[Part], int, int]:
    """Return the parts to build, and how many rows of the others there are and how many of those are rejected."""
    todo, done, rejected = [], 0, 0
    for part in parts:
        result = load_result(part)
        stands = standing is not None and part.first_row < len(
            standing
        )  # laid down already: its old files are not asked for
        if result is None or not (stands or is_current(part, result)):
            todo.append(part)
        else:
            done, rejected = done + len(part.paths), rejected + result.n_rejected
    return todo, done, rejected


def _finalise(plan: Plan, parts: Sequence[Part], standing: Standing | None) -> Store:
    """Exclude copies, assign splits, write the small arrays and the metadata, verify, publish."""
    store, settings, built = plan.store, plan.settings, plan.built
    rows = collect(plan.manifest, plan.layout, _results(parts))
    if standing is not None:
        standing.restore(rows)
    rows.exclude_copies(built, settings.target.rate_hz, settings.duplicates == "near")
    rows.exclude_quality(settings.exclude_quality)
    rejects = private_path(store, "rejects.failed.csv" if store.exists() else "rejects.csv")
    if not store.exists():
        private_path(store, "rejects.failed.csv").unlink(missing_ok=True)
    rows.write_rejects(rejects)
    rows.check_rejects(plan.max_rejected, rejects.name)
    with locked(
        plan.registry_path
    ):  # two builds may share a registry: neither may lose the other's patients
        remove_partials_of(plan.registry_path)
        labels = rows.labels_by_patient()
        before = load_registry(plan.registry_path, settings.plan)
        registry = assign(before, labels, rows.groups_by_patient(), plan.test_patients)
        _write_store(plan, rows, registry)
        try:
            verify_new_store(built)
        except VerificationFailed as error:  # what cannot be trusted must not be resumed
            for index in {row // CHUNK_RECORDS for row in error.bad_rows}:
                parts[index].result.unlink(missing_ok=True)
            if not error.bad_rows:
                shutil.rmtree(plan.work, ignore_errors=True)
            raise
        opened = Store(built)
        save_registry(registry)
        _write_build_record(plan, rows, opened, registry.digest(labels))
        publish_dir(built, store, plan.replace)
    _tidy(store)
    return Store(store)


def recover(store: Path) -> None:
    """End what a process that was killed while it published a store has begun. Raises TargetExists while the store is being built."""
    if store.name in ("", ".."):
        return
    if any(
        path.exists()
        for path in (private_path(store, "build.next.json"), store.with_name(f".{store.name}.old"))
    ):
        with locked(store, wait=False):
            _recover(store)


def _recover(store: Path) -> None:
    finish_publishing(store)
    record = read_build_record(store, "build.next.json")
    if (
        record is not None
        and looks_like_store(store)
        and Store(store).content_sha256 == record["content_sha256"]
    ):
        _tidy(store)


def _tidy(store: Path) -> None:
    """Let the private files follow a store that has its name now, and delete the work folder."""
    if (rejects := private_path(store, "rejects.failed.csv")).exists():
        rejects.replace(private_path(store, "rejects.csv"))
    shutil.rmtree(work_folder(store), ignore_errors=True)
    private_path(store, "build.next.json").replace(
        private_path(store, "build.json")
    )  # last: as long as it is there, `recover` ends this


def _results(parts: Sequence[Part]) -> Iterator[tuple[int, PartResult]]:
    for part in parts:
        result = load_result(part)
        if result is None:
            raise StoreError(
                f"Part {part.index + 1} is damaged or was taken away while the store was built. Run the same command again."
            )
        yield part.first_row, result
