"""Build a store: plan -> parts -> finalise -> verify -> publish.

Nothing stands under the store's name until it is complete and verified: everything is written beside it and renamed at the end. What
was read stays in the work folder until then, so that a build that was stopped, by whatever means, goes on where it stood.
The private side (rejects, build record, registry) lies next to the store with mode 0600, never in it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.conform import Row
from ecgprep.copies import fingerprint
from ecgprep.durable import (
    PRIVATE,
    canonical_json,
    fsync_dir,
    locked,
    out_of_space_is_named,
    publish_dir,
    recover_published,
    remove_partials,
    remove_partials_of,
    write_file,
    write_json,
)
from ecgprep.engines import Isolated, connect, run_parts, run_parts_dask
from ecgprep.errors import STATUSES, InputError, NoSpace, StoreError, TargetExists
from ecgprep.leads import LEADS
from ecgprep.manifest import Manifest, check_one_label_per_patient, read_manifest
from ecgprep.output import refuse_inside_store
from ecgprep.parts import (
    ROW_ARRAYS,
    Outcome,
    Part,
    PartResult,
    Read,
    Stamp,
    build_part,
    is_current,
    is_unchanged,
    load_result,
    read_row,
    save_result,
    stamp_of,
)
from ecgprep.plan import BuildSettings, Plan, Progress, default_registry, private_path, software_versions, work_folder, write_plan
from ecgprep.quality import bins_per_hz, spectrum
from ecgprep.rows import Rows, collect
from ecgprep.splits import Registry, assign, load_registry, save_registry
from ecgprep.store import ARRAYS, CHUNK_RECORDS, FORMAT_VERSION, PATIENT_NONE, SPLIT_NONE, Layout, Store, content_sha256, looks_like_store
from ecgprep.verify import NotAsMeantError, verify_new_store

_BUILD_RECORD_FORMAT = 3
MAX_COMPARED = 1_000_000
"""Recordings among which re-exported ones are looked for: the time grows with the square, and is 4 hours here."""


NO_RECORD = "its build record is missing or unreadable, so what it was built from is not known"
OTHER_RECORD = "its build record belongs to another store"
OTHER_REGISTRY = "the registry is missing, or is not the one it was built with"


def stale_reason(
    store: Path, manifest: Manifest, settings: BuildSettings, registry_path: Path, test_patients: frozenset[str] = frozenset()
) -> str | None:
    """Say why an existing store is not what this manifest, these files and settings would give, or None if it is.

    Files are compared by size and modification time. Raises StoreError when the store cannot be opened.
    """
    opened = Store(store)
    record = read_build_record(store)
    if record is None:
        return NO_RECORD
    if record["content_sha256"] != opened.content_sha256:
        return OTHER_RECORD
    if opened.attributes["settings"] != settings.recorded(manifest.covariate_names):
        return "the settings differ"
    if opened.attributes["software"] != software_versions():
        return "it was built with other versions of ecgprep, numpy, scipy or lxml"
    if record["manifest_sha256"] != manifest.sha256:
        return "the manifest has changed"
    if record["tested_sha256"] != _sha256_of(test_patients):
        return "the list of patients to test has changed"
    if not _registry_agrees(opened, manifest, settings, registry_path, record):
        return OTHER_REGISTRY
    if len(record["sources"]) != len(manifest):
        return "its build record is damaged"
    recorded = map(_stamp, record["sources"])
    changed = sum(stamp_of(manifest.root / path) != stamp for path, stamp in zip(manifest.path_xml, recorded, strict=True))
    return f"{changed:,} source file{'s have' if changed > 1 else ' has'} changed" if changed else None


def read_build_record(store: Path, kind: str = "build.json") -> dict[str, Any] | None:
    """Read the private record of a build, or None where it is missing or damaged."""
    try:
        record: dict[str, Any] = json.loads(private_path(store, kind).read_bytes())
        record["sources"] = np.frombuffer(base64.b64decode(record["sources"], validate=True), "<i8").reshape(-1, 2)
        needed = {"content_sha256", "manifest_sha256", "registry", "registry_sha256", "rows_sha256", "tested_sha256", "dialects", "copies"}
        return record if record["format"] == _BUILD_RECORD_FORMAT and needed <= record.keys() else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def standing_registry(store: Path) -> Path | None:
    """Return the registry that an existing store was built with: whoever builds it again or extends it must use no other."""
    if not store.name:
        return None
    record = read_build_record(store)
    return Path(record["registry"]) if record is not None and looks_like_store(store) else None


def _sha256_of(patients: frozenset[str]) -> str:
    return hashlib.sha256("\n".join(sorted(patients)).encode()).hexdigest()


def _stamp(source: NDArray[np.int64]) -> Stamp:
    size, modified = source.tolist()
    return None if size < 0 else (size, modified)


def _registry_agrees(opened: Store, manifest: Manifest, settings: BuildSettings, registry_path: Path, record: dict[str, Any]) -> bool:
    usable = np.flatnonzero(opened.array("patient") != PATIENT_NONE)
    patients = {manifest.patient_id[row] for row in usable}
    return bool(load_registry(registry_path, settings.plan).digest(patients) == record["registry_sha256"])


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
    plan = Plan(manifest, store, settings, registry_path, max_rejected, test_patients, replace or extend, extend)
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


def build_share(plan: Plan, parts: Sequence[Part], jobs: int = 1, progress: Progress | None = None) -> int:
    """Build those of `parts` that are not built yet, while others build theirs. Returns how many were built."""
    with locked(plan.store, wait=False, shared=True), out_of_space_is_named(plan.store.parent):
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
        missing = [part.index + 1 for part in parts if not ((result := load_result(part)) and is_unchanged(part, result))]
        if missing:
            listed = ", ".join(map(str, missing[:10])) + (f" and {len(missing) - 10:,} more" if len(missing) > 10 else "")
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
        raise InputError(f"--registry: the folder of {plan.registry_path.name} does not exist. Make it, or name another file.")


def _check_name(store: Path) -> None:
    if store.is_symlink() or store.name in ("", ".."):
        raise TargetExists(f"{store} is a symlink or no plain name. Give the name of a store.")
    refuse_inside_store(store)


def _check_target(store: Path, replace: bool) -> None:
    """Refuse to write where something stands that is not a store of ours, whatever `replace` says: it will be deleted."""
    if store.exists() and not replace:
        raise TargetExists(f"{store} exists. Use --replace to build it again, or another name.")
    if store.exists() and not looks_like_store(store):
        raise TargetExists(f"{store} exists and is not a store of ecgprep, so --replace will not delete it. Use another name.")


@contextlib.contextmanager
def _working(plan: Plan, standing: Standing | None = None) -> Iterator[None]:
    """Make the work folder, locked against a second builder; it stays until the store is published."""
    plan.store.parent.mkdir(parents=True, exist_ok=True)
    with locked(plan.store, wait=False), out_of_space_is_named(plan.store.parent):
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
    needed = (len(layout.chunk_files("waveforms")) - n_linked) * layout.chunk_bytes("waveforms") + 1000 * layout.n_records
    there = sum(path.stat().st_size for path in plan.built.glob("waveforms/c/*/0/0"))
    free = shutil.disk_usage(plan.store.parent).free
    if free < (needed - there) * 1.02:
        raise NoSpace(f"The store needs {needed / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB free. Free some space, or write elsewhere.")


def _unfinished(parts: Sequence[Part], standing: Standing | None) -> tuple[list[Part], int, int]:
    """Return the parts to build, and how many rows of the others there are and how many of those are rejected."""
    todo, done, rejected = [], 0, 0
    for part in parts:
        result = load_result(part)
        stands = standing is not None and part.first_row < len(standing)  # laid down already: its old files are not asked for
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
    with locked(plan.registry_path):  # two builds may share a registry: neither may lose the other's patients
        remove_partials_of(plan.registry_path)
        labels = rows.labels_by_patient()
        before = load_registry(plan.registry_path, settings.plan)
        registry = assign(before, labels, rows.groups_by_patient(), plan.test_patients)
        _write_store(plan, rows, registry)
        try:
            verify_new_store(built)
        except NotAsMeantError as error:  # what cannot be trusted must not be resumed
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
    if any(path.exists() for path in (private_path(store, "build.next.json"), store.with_name(f".{store.name}.old"))):
        with locked(store, wait=False):
            _recover(store)


def _recover(store: Path) -> None:
    recover_published(store)
    record = read_build_record(store, "build.next.json")
    if record is not None and looks_like_store(store) and Store(store).content_sha256 == record["content_sha256"]:
        _tidy(store)


def _tidy(store: Path) -> None:
    """Let the private files follow a store that has its name now, and delete the work folder."""
    if (rejects := private_path(store, "rejects.failed.csv")).exists():
        rejects.replace(private_path(store, "rejects.csv"))
    shutil.rmtree(work_folder(store), ignore_errors=True)
    private_path(store, "build.next.json").replace(private_path(store, "build.json"))  # last: as long as it is there, `recover` ends this


def _results(parts: Sequence[Part]) -> Iterator[tuple[int, PartResult]]:
    for part in parts:
        result = load_result(part)
        if result is None:
            raise StoreError(f"Part {part.index + 1} is damaged or was taken away while the store was built. Run the same command again.")
        yield part.first_row, result


def _write_store(plan: Plan, rows: Rows, registry: Registry) -> None:
    """Write the small arrays and all metadata beside the chunks that are there already."""
    manifest, layout, built = plan.manifest, plan.layout, plan.built
    remove_partials(built)
    arrays = dict(rows.arrays)
    arrays["label"] = manifest.label
    arrays["covariates"] = manifest.covariates
    arrays["patient"] = np.full(layout.n_records, PATIENT_NONE, np.int32)
    arrays["split"] = np.full(layout.n_records, SPLIT_NONE, np.int8)
    for row in np.flatnonzero(rows.ok):
        arrays["patient"][row] = registry.number[manifest.patient_id[row]]
        arrays["split"][row] = registry.split[manifest.patient_id[row]]
    for name, spec in ARRAYS.items():
        (built / name).mkdir(exist_ok=True)
        write_file(built / name / "zarr.json", canonical_json(layout.metadata(name), indent=2))
        if name != "waveforms":
            for path in layout.chunk_files(name):
                (built / path).parent.mkdir(parents=True, exist_ok=True)
                write_file(built / path, np.ascontiguousarray(arrays[name], np.dtype(spec.dtype).newbyteorder("<")).tobytes())
    _remove_strangers(built, layout)
    attributes = {
        "format_version": FORMAT_VERSION,
        "lead_names": list(LEADS),
        "sample_rate_hz": plan.settings.target.rate_hz,
        "n_samples": layout.n_samples,
        "covariate_names": list(manifest.covariate_names),
        "settings": plan.settings.recorded(manifest.covariate_names),
        "software": software_versions(),
    }
    root: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    root["attributes"]["content_sha256"] = content_sha256(built, root, layout)
    write_json(built / "zarr.json", root)
    for folder, _, _ in os.walk(built):
        fsync_dir(Path(folder))


def _remove_strangers(built: Path, layout: Layout) -> None:
    """Delete what an earlier plan for the same store left in the work folder: chunks beyond the last, arrays of another shape."""
    expected = {"zarr.json", *(name for name, _ in layout.files())}
    for path in sorted(built.rglob("*"), reverse=True):
        if path.is_dir():
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()
        elif path.relative_to(built).as_posix() not in expected:
            path.unlink()


def _write_build_record(plan: Plan, rows: Rows, built: Store, registry: str) -> None:
    """Keep what "is it stale?", `--extend` and the reports need and the store must not hold; named `next` until the store is published."""
    record = {
        "format": _BUILD_RECORD_FORMAT,
        "content_sha256": built.content_sha256,
        "manifest_sha256": plan.manifest.sha256,
        "registry": str(plan.registry_path.absolute()),
        "registry_sha256": registry,
        "tested_sha256": _sha256_of(plan.test_patients),
        "rows_sha256": _rows_sha256(plan.manifest, len(plan.manifest)),
        "sources": base64.b64encode(rows.stamps.astype("<i8").tobytes()).decode(),  # a list would be ten times as large
        "dialects": rows.dialects,
        "copies": rows.copies,
        "messages": {str(row): message for row, message in enumerate(rows.messages) if message},
        "warnings": rows.warnings,
    }
    write_file(private_path(plan.store, "build.next.json"), canonical_json(record), PRIVATE)


def _rows_sha256(manifest: Manifest, n: int) -> str:
    """Hash what the first n rows of a manifest say."""
    digest = hashlib.sha256(canonical_json(list(manifest.covariate_names)))
    for row in range(n):
        digest.update(f"{manifest.patient_id[row]}\0{manifest.path_xml[row]}\0{manifest.label[row]}\n".encode())
    digest.update(manifest.covariates[:n].tobytes())
    return digest.hexdigest()


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
        elif len(manifest) < len(store) or _rows_sha256(manifest, len(store)) != record["rows_sha256"]:
            why = f"the first {len(store):,} rows of the manifest are not the ones it was built from; new rows go below the old ones"
        elif not _registry_agrees(store, manifest, plan.settings, plan.registry_path, record):
            why = "the registry is missing, or is not the one it was built with; name it with --registry"
        if why or record is None:
            raise InputError(f"{plan.store} cannot be extended: {why}. The store stays as it is; a new one needs another name.")
        return cls(store, record)

    def __len__(self) -> int:
        return len(self.store)

    def lay_down(self, parts: Sequence[Part], careful: bool) -> list[Part]:
        """Link full chunks into the work folder, build the part that is filled up from old rows and new files, and return all parts.

        Parts with old rows get a key of their own: their rows have the statuses of the store, which no other build may take for what
        reading gave. With `careful`, new files of the part that is filled up are read in a process that may die.
        """
        mine = f"standing in {self.store.content_sha256}"
        parts = [replace(part, context=f"{part.context} {mine}") if part.first_row < len(self) else part for part in parts]
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
        arrays["fingerprint"] = np.stack([self._fingerprint(row) for row in range(rows.start, rows.stop)])
        save_result(
            part,
            PartResult(arrays, [_stamp(source) for source in self.record["sources"][rows]], self.record["dialects"][rows], [""] * len(part.paths)),
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
        return Outcome(_stamp(self.record["sources"][row]), kept, self.record["dialects"][row], arrays["quality"], self._fingerprint(row), status)

    def _waveform(self, row: int) -> NDArray[np.int16]:
        return np.asarray(self.store.gather(np.array([row]), np.empty((1, len(LEADS), self.store.n_samples), "<i2"))[0])

    def _fingerprint(self, row: int) -> NDArray[np.int8]:
        bins = spectrum(self._waveform(row), self.store.array("valid_span")[row], self.store.array("lead_mask")[row], self.store.sample_rate_hz)
        return fingerprint(bins, bins_per_hz(bins, self.store.sample_rate_hz))

    def restore(self, rows: Rows) -> None:
        """Give the standing rows the statuses and messages they have in the store, and freeze them."""
        rows.n_frozen = len(self)
        rows.arrays["status"][: len(self)] = self.store.array("status")
        rows.copies += [list(group) for group in self.record["copies"]]
        rows.warnings += self.record.get("warnings", [])
        for row, message in self.record.get("messages", {}).items():
            rows.messages[int(row)] = message


_GIVEN = {"sample_rate_hz", "n_samples", "resampler", "split_seed", "covariates"}
"""Settings by which `ensure_store` may replace a store; a store that differs in others was made on purpose, by other means."""
_KEEP = "Train on it with `ecgfit train --store {store}`, or move it away."


def ensure_store(
    manifest: Path, store: Path, settings: BuildSettings, covariates: tuple[str, ...] = (), progress: Progress | None = None
) -> tuple[Store, str]:
    """Return the store of a manifest, built when it is absent or stale, and a line that says which it was.

    Covariates that a store has are kept beside those asked for. Raises TargetExists for a store that was built with options that are not
    given here, such as exclusions or a split by column, or by another registry or from files that are not known.
    """
    recover(store)
    existed = store.exists()
    if existed:
        recorded = Store(store).attributes["settings"]
        covariates = (*recorded["covariates"], *(name for name in covariates if name not in recorded["covariates"]))
        wanted = settings.recorded(covariates)
        if other := sorted(key for key in wanted if key not in _GIVEN and recorded[key] != wanted[key]):
            raise TargetExists(
                f"{store} was built with options of `ecgprep build` that are not given here ({', '.join(other)}). {_KEEP.format(store=store)}"
            )
    rows = read_manifest(manifest, covariates=covariates)
    stale = stale_reason(store, rows, settings, default_registry(manifest)) if existed else "it does not exist yet"
    if stale is None:
        return Store(store), f"{store} is up to date"
    if stale in (NO_RECORD, OTHER_RECORD, OTHER_REGISTRY):
        raise TargetExists(f"{store} would be built again, but {stale}: its splits could change. {_KEEP.format(store=store)}")
    built = build_store(rows, store, settings, registry_path=default_registry(manifest), replace=True, progress=progress)
    lost = "; runs that were trained on what stood there can be applied, but not evaluated on it any more" if existed else ""
    return built, f"{store} was built: {stale}{lost}"
