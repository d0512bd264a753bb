"""Build a store: plan -> parts -> finalise -> verify -> publish.

Nothing stands under the store's name until it is complete and verified: everything is written beside it and renamed at the end.
The private side (rejects, build record, registry) lies next to the store with mode 0600, never in it.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.conform import RESAMPLER, Conformity
from ecgprep.durable import PRIVATE, canonical_json, fsync_dir, locked, out_of_space_is_named, publish_dir, write_file, write_json
from ecgprep.errors import STATUS_CODE, STATUSES, InputError, NoSpace, TargetExists, TooManyRejects
from ecgprep.leads import LEADS
from ecgprep.manifest import Manifest, read_manifest
from ecgprep.parts import Part, PartResult, build_parts, stamp_of
from ecgprep.splits import Registry, SplitPlan, assign, load_registry, save_registry
from ecgprep.store import (
    ARRAYS,
    CHUNK_RECORDS,
    FORMAT_VERSION,
    LABEL_UNKNOWN,
    PATIENT_NONE,
    SPLIT_NONE,
    Layout,
    Store,
    content_sha256,
    looks_like_store,
)
from ecgprep.verify import verify_new_store

Progress = Callable[[int, int, int], None]
"""Called with rows done, rows in all, rows rejected so far."""

_BUILD_RECORD_FORMAT = 1
_SOFTWARE = ("numpy", "scipy", "lxml")
"""Packages whose version can change a value in the store."""


@dataclass(frozen=True)
class BuildSettings:
    """Everything that decides a value in the store besides the manifest, the files and the registry."""

    target: Conformity = field(default_factory=Conformity)
    plan: SplitPlan = field(default_factory=SplitPlan)
    unlabelled: bool = False

    def recorded(self, covariates: tuple[str, ...]) -> dict[str, Any]:
        """The `settings` attribute of the store."""
        return {
            "sample_rate_hz": self.target.rate_hz,
            "n_samples": self.target.n_samples,
            "min_seconds": self.target.min_seconds,
            "min_leads": self.target.min_leads,
            "resampler": RESAMPLER,
            "split_ratios": list(self.plan.ratios),
            "split_seed": self.plan.seed,
            "allow_missing_class": self.plan.allow_missing_class,
            "unlabelled": self.unlabelled,
            "covariates": list(covariates),
        }


def software_versions() -> dict[str, str]:
    """Versions of what can change a value in the store."""
    from ecgprep import __version__

    return {"ecgprep": __version__, **{name: importlib.metadata.version(name) for name in _SOFTWARE}}


def private_path(store: Path, kind: str) -> Path:
    """Where the private side lies: `kind` is `rejects.csv` or `build.json`."""
    return store.with_name(f"{store.name}.{kind}")


def default_registry(manifest: Path) -> Path:
    """The registry of `m.csv` is `m.registry.csv`."""
    return manifest.with_name(f"{manifest.stem}.registry.csv")


def stale_reason(store: Path, manifest: Manifest, settings: BuildSettings, registry_path: Path) -> str | None:
    """Say why an existing store is not what this manifest, these files and settings would give, or None if it is.

    Files are compared by size and modification time. Raises StoreError when the store cannot be opened.
    """
    opened = Store(store)
    try:
        record = json.loads(private_path(store, "build.json").read_bytes())
        stamps = [None if stamp is None else tuple(stamp) for stamp in record["sources"]]
        known = record["content_sha256"], record["manifest_sha256"], record["registry_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "its build record is missing or unreadable, so what it was built from is not known"
    if known[0] != opened.content_sha256:
        return "its build record belongs to another store"
    if opened.attributes["settings"] != settings.recorded(manifest.covariate_names):
        return "the settings differ"
    if opened.attributes["software"] != software_versions():
        return "it was built with other versions of ecgprep, numpy, scipy or lxml"
    if known[1] != manifest.sha256:
        return "the manifest has changed"
    usable = np.flatnonzero(opened.array("patient") != PATIENT_NONE)
    if load_registry(registry_path, settings.plan).digest({manifest.patient_id[row] for row in usable}) != known[2]:
        return "the registry is missing, or is not the one it was built with"
    if len(stamps) != len(manifest):
        return "its build record is damaged"
    changed = sum(stamp_of(manifest.root / path) != stamp for path, stamp in zip(manifest.path_xml, stamps, strict=True))
    return f"{changed:,} source file{'s have' if changed > 1 else ' has'} changed" if changed else None


def build_store(
    manifest: Manifest,
    store: Path,
    settings: BuildSettings,
    *,
    registry_path: Path,
    jobs: int = 1,
    max_rejected: float = 0.05,
    replace: bool = False,
    progress: Progress | None = None,
) -> Store:
    """Build the store of a manifest and return it.

    Raises InputError (registry, split), TargetExists (without `replace`), TooManyRejects, NoSpace; then nothing is published and
    the registry is untouched. `<store>.rejects.csv` is written in either case, so that the user can see what was rejected.
    """
    _check_target(store, replace)
    load_registry(registry_path, settings.plan)  # a fault in it is told before anything is read
    if not registry_path.parent.is_dir():
        raise InputError(f"--registry: the folder of {registry_path.name} does not exist. Make it, or name another file.")
    rejects = private_path(store, "rejects.failed.csv" if store.exists() else "rejects.csv")
    layout = Layout(len(manifest), settings.target.n_samples, len(manifest.covariate_names))
    with _building(store, layout) as built:
        rows = _Rows.read(manifest, layout, settings, built, jobs, progress)
        rows.exclude_copies(manifest, built, layout)
        _write_rejects(rejects, manifest, rows)
        _check_rejects(rejects, rows, max_rejected)
        with locked(registry_path):  # two builds may share a registry: neither may lose the other's patients
            labels = _labels_by_patient(manifest, rows)
            registry = assign(load_registry(registry_path, settings.plan), labels)
            _write_store(built, layout, manifest, rows, registry, settings)
            verify_new_store(built)
            save_registry(registry)
            opened = Store(built)
            publish_dir(built, store, replace)
        _write_build_record(store, manifest, rows, opened, registry.digest(labels))
        rejects.replace(private_path(store, "rejects.csv"))
    return Store(store)


def _check_target(store: Path, replace: bool) -> None:
    """Refuse to write where something stands that is not a store of ours, whatever `replace` says: it will be deleted."""
    if store.is_symlink() or store.name in ("", ".."):
        raise TargetExists(f"{store} is a symlink or no plain name. Give the name of a store.")
    if store.exists() and not replace:
        raise TargetExists(f"{store} exists. Use --replace to build it again, or another name.")
    if store.exists() and not looks_like_store(store):
        raise TargetExists(f"{store} exists and is not a store of ecgprep, so --replace will not delete it. Use another name.")


@contextlib.contextmanager
def _building(store: Path, layout: Layout) -> Iterator[Path]:
    """Make the folder to build in, locked against a second builder and gone at the end unless it was published."""
    store.parent.mkdir(parents=True, exist_ok=True)
    built = store.with_name(f".{store.name}.building")
    with locked(store, wait=False):
        shutil.rmtree(built, ignore_errors=True)  # what a killed build left behind
        needed = len(layout.chunk_files("waveforms")) * layout.chunk_bytes("waveforms") + 300 * layout.n_records
        free = shutil.disk_usage(store.parent).free
        if free < needed * 1.02:
            raise NoSpace(f"The store needs {needed / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB free. Free some space, or write elsewhere.")
        try:
            with out_of_space_is_named(store.parent):
                built.mkdir()
                yield built
        finally:
            shutil.rmtree(built, ignore_errors=True)


@dataclass(eq=False)
class _Rows:
    """What is known of every manifest row after reading, in manifest order."""

    arrays: dict[str, NDArray[Any]]
    stamps: list[Any]
    dialects: list[str]
    messages: list[str]
    copies: list[list[int]] = field(default_factory=list)

    @classmethod
    def read(cls, manifest: Manifest, layout: Layout, settings: BuildSettings, built: Path, jobs: int, progress: Progress | None) -> _Rows:
        """Build every part, in any order, and lay the results out by row."""
        n = len(manifest)
        names = ("lead_mask", "valid_span", "moments", "status", "rate_hz", "crc32c")
        arrays = {name: np.zeros(layout.shape(name), ARRAYS[name].dtype) for name in names}
        rows = cls(arrays, [None] * n, [""] * n, [""] * n)
        done = rejected = 0
        for result in build_parts(list(_plan(manifest, layout, settings, built)), jobs):
            rows._take(result)
            done += len(result.status)
            rejected += int(np.count_nonzero(result.status))
            if progress:
                progress(done, n, rejected)
        return rows

    def _take(self, result: PartResult) -> None:
        place = slice(result.first_row, result.first_row + len(result.status))
        for name, array in self.arrays.items():
            array[place] = getattr(result, name)
        self.stamps[place], self.dialects[place], self.messages[place] = result.stamps, result.dialects, result.messages

    @property
    def ok(self) -> NDArray[np.bool_]:
        return np.asarray(self.arrays["status"] == STATUS_CODE["ok"])

    def reject(self, row: int, status: str, message: str) -> None:
        """Exclude a row that was read."""
        self.arrays["status"][row] = STATUS_CODE[status]
        self.messages[row] = message

    def exclude_copies(self, manifest: Manifest, built: Path, layout: Layout) -> None:
        """Find recordings that are the same to the bit: one patient keeps the first; otherwise nobody knows whose it is.

        Candidates share checksum, moments, span and mask; their waveforms are then compared. The same recording under one patient
        with two labels is a conflict too: nobody knows which label is right.
        """
        keys: dict[bytes, list[int]] = defaultdict(list)
        for row in np.flatnonzero(self.ok):
            keys[b"".join(self.arrays[name][row].tobytes() for name in ("crc32c", "moments", "valid_span", "lead_mask"))].append(int(row))
        for candidates in keys.values():
            if len(candidates) > 1:
                for group in _same_waveforms(candidates, built, layout):
                    self._exclude_group(group, manifest)

    def _exclude_group(self, group: list[int], manifest: Manifest) -> None:
        self.copies.append(group)
        group = sorted(group, key=lambda row: manifest.label[row] == LABEL_UNKNOWN)  # a labelled copy is the one to keep
        first, *others = group
        known = {int(manifest.label[row]) for row in group} - {LABEL_UNKNOWN}
        if len({manifest.patient_id[row] for row in group}) > 1 or len(known) > 1:
            for row in group:
                elsewhere = ", ".join(str(manifest.line[other]) for other in group if other != row)
                self.reject(row, "conflict", f"the same recording is on line {elsewhere}, under another patient or label")
        else:
            for row in others:
                self.reject(row, "duplicate", f"the same recording is on line {manifest.line[first]}, under the same patient")


def _plan(manifest: Manifest, layout: Layout, settings: BuildSettings, built: Path) -> Iterator[Part]:
    for i, chunk in enumerate(layout.chunk_files("waveforms")):
        rows = slice(i * CHUNK_RECORDS, (i + 1) * CHUNK_RECORDS)
        yield Part(rows.start, manifest.root, manifest.path_xml[rows], manifest.line[rows], settings.target, built / chunk)


def _same_waveforms(rows: list[int], built: Path, layout: Layout) -> list[list[int]]:
    """Group rows whose waveforms are equal to the byte; groups of one are left out."""
    size = layout.chunk_bytes("waveforms") // CHUNK_RECORDS
    files = layout.chunk_files("waveforms")
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in rows:
        with open(built / files[row // CHUNK_RECORDS], "rb") as file:
            file.seek(row % CHUNK_RECORDS * size)
            groups[file.read(size)].append(row)
    return [group for group in groups.values() if len(group) > 1]


def _labels_by_patient(manifest: Manifest, rows: _Rows) -> dict[str, list[int]]:
    labels: dict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(rows.ok):
        labels[manifest.patient_id[row]].append(int(manifest.label[row]))
    return labels


def _write_rejects(path: Path, manifest: Manifest, rows: _Rows) -> None:
    """List every row that is not ok by line, status and message: no id, no path."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["line", "status", "message"])
    for row in np.flatnonzero(~rows.ok):
        writer.writerow([manifest.line[int(row)], STATUSES[rows.arrays["status"][row]], rows.messages[row]])
    write_file(path, buffer.getvalue().encode(), PRIVATE)


def _check_rejects(path: Path, rows: _Rows, max_rejected: float) -> None:
    """Stop above the limit. Duplicates do not count: their recording is in the store."""
    counts = Counter(STATUSES[code] for code in rows.arrays["status"])
    n = len(rows.stamps)
    rejected = n - counts["ok"] - counts["duplicate"]
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.most_common() if name != "ok")
    where = path.name
    if not rejected <= max_rejected * n:
        raise TooManyRejects(
            f"{rejected:,} of {n:,} rows ({100 * rejected / n:.1f} %) were rejected; --max-rejected allows {100 * max_rejected:g} %. Nothing was "
            f"published. By status: {listed}. {where} lists them by manifest line: correct the files, or raise --max-rejected."
        )
    if not counts["ok"]:
        raise InputError(f"No row is usable ({listed}), so there is no store to make. {where} lists them by manifest line.")


def _write_store(built: Path, layout: Layout, manifest: Manifest, rows: _Rows, registry: Registry, settings: BuildSettings) -> None:
    """Write the small arrays and all metadata beside the chunks that are there already."""
    arrays = dict(rows.arrays)
    arrays["label"] = manifest.label
    arrays["covariates"] = manifest.covariates
    arrays["quality"] = np.zeros(layout.shape("quality"), np.uint32)
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
    attributes = {
        "format_version": FORMAT_VERSION,
        "lead_names": list(LEADS),
        "sample_rate_hz": settings.target.rate_hz,
        "n_samples": layout.n_samples,
        "covariate_names": list(manifest.covariate_names),
        "settings": settings.recorded(manifest.covariate_names),
        "software": software_versions(),
    }
    root: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    root["attributes"]["content_sha256"] = content_sha256(built, root, layout)
    write_json(built / "zarr.json", root)
    for folder, _, _ in os.walk(built):
        fsync_dir(Path(folder))


def _write_build_record(store: Path, manifest: Manifest, rows: _Rows, built: Store, registry: str) -> None:
    """Keep what "is it stale?" and the reports need and the store must not hold."""
    record = {
        "format": _BUILD_RECORD_FORMAT,
        "content_sha256": built.content_sha256,
        "manifest_sha256": manifest.sha256,
        "registry_sha256": registry,
        "sources": rows.stamps,
        "dialects": rows.dialects,
        "copies": rows.copies,
    }
    write_file(private_path(store, "build.json"), canonical_json(record), PRIVATE)


def ensure_store(manifest: Path, store: Path, settings: BuildSettings, progress: Progress | None = None) -> tuple[Store, str]:
    """Return the store of a manifest, built when it is absent or stale, and a line that says which it was."""
    rows = read_manifest(manifest)
    stale = stale_reason(store, rows, settings, default_registry(manifest)) if store.exists() else "it does not exist yet"
    if stale is None:
        return Store(store), f"{store} is up to date"
    built = build_store(rows, store, settings, registry_path=default_registry(manifest), replace=True, progress=progress)
    return built, f"{store} was built: {stale}"
