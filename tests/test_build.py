"""Build: every row accounted for, the same bytes however it is built, and only whole results."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import build, files_of, statuses, write_manifest, write_recordings

import ecgprep.files.atomic
from ecgprep.building.ensure import ensure_store
from ecgprep.building.executors import run_parts
from ecgprep.building.parts import Part, build_part, load_result
from ecgprep.building.plan import BuildSettings, Plan, default_registry
from ecgprep.building.record import stale_reason
from ecgprep.conform import Conformity, conform
from ecgprep.errors import STATUSES, InputError, NoSpace, TargetExists, TooManyRejects
from ecgprep.patients.manifest import read_manifest
from ecgprep.patients.manifest_columns import ManifestColumns
from ecgprep.patients.registry import SplitPlan
from ecgprep.readers import read_recording
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import aecg, muse
from ecgprep.store.reader import Store
from ecgprep.store.record import private_path

LOOSE = BuildSettings(plan=SplitPlan(allow_missing_class=True))
SMALL = BuildSettings(Conformity(100, 1000))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def folder(tmp_path, uv) -> Path:
    """Recordings of six patients, every other one positive, and their manifest."""
    rows = []
    for i in range(6):
        (tmp_path / f"{i}.xml").write_bytes(muse(other_uv(i), 500, f"P{i}"))
        rows.append((f"P{i}", f"{i}.xml", i % 2))
    write_manifest(tmp_path / "m.csv", rows)
    return tmp_path


def other_uv(seed: int) -> np.ndarray:
    """A recording of its own for each seed: (12, 5000) whole µV."""
    generator = np.random.default_rng(1000 + seed)
    return simulate(Heart.draw(generator, seed % 2), 500, generator)


def add_row(folder: Path, patient: str, name: str, label: int, data: bytes | None) -> None:
    if data is not None:
        (folder / name).write_bytes(data)
    with (folder / "m.csv").open("a") as file:
        file.write(f"{patient},{name},{label}\n")


def test_row_i_is_what_reading_and_conforming_file_i_gives(corpus, store):
    manifest = read_manifest(corpus / "manifest.csv", covariates=["age", "sex"])
    buffer = np.empty((1, 8, 5000), np.int16)
    for i, path in enumerate(manifest.path_xml):
        row = conform(read_recording(corpus / path), Conformity())
        np.testing.assert_array_equal(store.gather(np.array([i]), buffer)[0], row.waveform)
        assert store.array("crc32c")[i] == row.crc32c()
    np.testing.assert_array_equal(store.array("label"), manifest.label)
    np.testing.assert_array_equal(store.array("covariates"), manifest.covariates)


@pytest.mark.parametrize("jobs", [2, pytest.param(3, marks=pytest.mark.full)])
def test_bytes_do_not_depend_on_jobs(tmp_path, jobs):
    manifest = write_recordings(tmp_path / "corpus", 260)  # more than one part
    one = build(manifest, tmp_path / "one.zarr", SMALL)
    many = build(manifest, tmp_path / "many.zarr", SMALL, jobs=jobs)
    assert len(one) == 260
    assert files_of(one.path) == files_of(many.path)


def test_bytes_do_not_depend_on_demographics(folder, uv):
    one = build(folder / "m.csv", folder / "one.zarr", LOOSE)
    named = re.compile(rb"(<PatientID>|Synth\S+ )[^<]*")
    for path in folder.glob("*.xml"):
        renamed = named.sub(rb"\1Somebody Else", path.read_bytes())
        path.write_bytes(renamed.replace(b"01-01-2000", b"12-31-1999"))
    other = build(folder / "m.csv", folder / "other.zarr", LOOSE)
    assert files_of(one.path) == files_of(other.path)


def test_every_defect_is_a_row_with_its_status(folder, uv):
    add_row(folder, "P7", "absent.xml", 0, None)
    add_row(folder, "P8", "text.xml", 0, b"not xml")
    add_row(folder, "P9", "flat.xml", 1, muse(uv * 0, 500, "X"))
    add_row(folder, "P9", "short.xml", 1, muse(uv[:, :1000], 500, "X"))
    (folder / "link.xml").symlink_to(folder / "0.xml")
    add_row(folder, "P9", "link.xml", 1, None)
    store = build(folder / "m.csv", folder / "s.zarr", LOOSE, max_rejected=1.0)
    assert statuses(store) == ["ok"] * 6 + [
        "file_missing",
        "not_xml",
        "flat",
        "too_short",
        "not_regular",
    ]
    bad = np.arange(6, 11)
    assert not store.gather(bad, np.empty((5, 8, 5000), np.int16)).any()
    for name in ("lead_mask", "moments", "valid_span", "rate_hz"):
        assert not store.array(name)[bad].any()
    for name in ("patient", "split"):
        assert (store.array(name)[bad] == -1).all()
    rejects = private_path(store.path, "rejects.csv")
    assert [line.split(",")[:2] for line in rejects.read_text().splitlines()[1:]] == [
        [str(i + 2), statuses(store)[i]] for i in bad
    ]


def test_private_files_are_private(folder):
    store = build(
        folder / "m.csv", folder / "s.zarr", LOOSE, registry_path=default_registry(folder / "m.csv")
    )
    for path in (
        private_path(store.path, "rejects.csv"),
        private_path(store.path, "build.json"),
        folder / "m.registry.csv",
    ):
        assert path.stat().st_mode & 0o777 == 0o600


def test_copy_under_the_same_patient_is_a_duplicate(folder):
    add_row(folder, "P0", "copy.xml", 0, (folder / "0.xml").read_bytes())
    store = build(folder / "m.csv", folder / "s.zarr", LOOSE)
    assert statuses(store) == ["ok"] * 6 + ["duplicate"]
    assert store.gather(
        np.array([6]), np.empty((1, 8, 5000), np.int16)
    ).any()  # keeps what was read
    assert store.array("patient")[6] == store.array("split")[6] == -1


@pytest.mark.parametrize(("patient", "label"), [("P9", 0), ("P9", 1), ("P0", 1)])
def test_copy_under_another_patient_or_label_is_a_conflict_for_all(folder, patient, label):
    add_row(
        folder,
        patient,
        "copy.xml",
        label,
        (folder / "0.xml").read_bytes().replace(b"ID>P0", b"ID>P9"),
    )
    store = build(folder / "m.csv", folder / "s.zarr", LOOSE, max_rejected=1.0)
    assert statuses(store) == ["conflict"] + ["ok"] * 5 + ["conflict"]


def test_too_many_rejects_publish_nothing_but_say_which(folder):
    add_row(folder, "P7", "absent.xml", 0, None)
    with pytest.raises(
        TooManyRejects, match=r"1 of 7 rows \(14\.3 %\) were rejected.*file_missing 1"
    ):
        build(folder / "m.csv", folder / "s.zarr", LOOSE, registry_path=folder / "m.registry.csv")
    assert not (folder / "s.zarr").exists()
    assert not (folder / "m.registry.csv").exists()
    assert (
        private_path(folder / "s.zarr", "rejects.csv").read_text().splitlines()[1]
        == "8,file_missing,no such file"
    )
    assert leftovers(folder) == [
        ".s.zarr.building"
    ]  # what was read: a higher limit does not read it again


def test_no_usable_row_is_an_error(tmp_path):
    write_manifest(tmp_path / "m.csv", [("P1", "absent.xml", 0)])
    with pytest.raises(InputError, match="No row is usable"):
        build(tmp_path / "m.csv", tmp_path / "s.zarr", LOOSE, max_rejected=1.0)


def test_existing_store_is_kept_without_replace(folder):
    store = build(folder / "m.csv", folder / "s.zarr", LOOSE)
    before = files_of(store.path)
    with pytest.raises(TargetExists, match="--replace"):
        build(folder / "m.csv", folder / "s.zarr", LOOSE)
    assert files_of(store.path) == before
    assert files_of(build(folder / "m.csv", folder / "s.zarr", LOOSE, replace=True).path) == before
    assert not leftovers(folder)


@pytest.mark.parametrize("kind", ["folder", "file", "link", "corpus"])
def test_replace_deletes_nothing_but_a_store(folder, kind):
    target = folder if kind == "corpus" else folder / "thesis"
    if kind == "folder":
        target.mkdir()
        (target / "chapter.tex").write_text("x")
    elif kind == "file":
        target.write_text("x")
    elif kind == "link":
        build(folder / "m.csv", folder / "s.zarr", LOOSE)
        target.symlink_to(folder / "s.zarr")
    before = sorted(folder.rglob("*"))
    with pytest.raises(TargetExists):
        build(folder / "m.csv", target, LOOSE, replace=True, registry_path=folder / "r.csv")
    assert sorted(folder.rglob("*")) == before


def test_failed_rebuild_leaves_the_rejects_of_the_store(folder):
    store = build(folder / "m.csv", folder / "s.zarr", LOOSE)
    before = private_path(store.path, "rejects.csv").read_bytes()
    (folder / "0.xml").unlink()
    with pytest.raises(TooManyRejects, match=r"s\.zarr\.rejects\.failed\.csv lists them"):
        build(folder / "m.csv", folder / "s.zarr", LOOSE, replace=True)
    assert private_path(store.path, "rejects.csv").read_bytes() == before


def test_labelled_copy_is_kept_where_the_other_has_no_label(folder):
    (folder / "copy.xml").write_bytes((folder / "0.xml").read_bytes())
    (folder / "u.csv").write_text(
        "patient_id,path_xml,label\nP0,copy.xml,\n"
        + "".join(f"P{i},{i}.xml,{i % 2}\n" for i in range(6))
    )
    settings = BuildSettings(plan=LOOSE.plan, unlabelled=True)
    assert (
        statuses(build(folder / "u.csv", folder / "s.zarr", settings)) == ["duplicate"] + ["ok"] * 6
    )


def test_loop_of_symlinks_is_a_status(folder):
    (folder / "loop").symlink_to(folder / "loop")
    add_row(folder, "P9", "loop/x.xml", 0, None)
    assert (
        statuses(build(folder / "m.csv", folder / "s.zarr", LOOSE, max_rejected=1.0))[-1]
        == "not_regular"
    )


def test_longer_manifest_keeps_patients_and_splits(tmp_path, uv):
    manifest = write_recordings(tmp_path / "c", 30)
    old = build(manifest, tmp_path / "s.zarr", SMALL)
    kept = {name: np.array(old.array(name)) for name in ("patient", "split", "status")}
    (tmp_path / "c" / "new.xml").write_bytes(aecg(uv[:, ::-1], 500, "N"))
    manifest.write_text(manifest.read_text() + "NEW,new.xml,1,50,1\n")
    new = build(manifest, tmp_path / "s.zarr", SMALL, replace=True)
    for name, values in kept.items():
        np.testing.assert_array_equal(new.array(name)[:-1], values)
    assert new.array("patient")[-1] == kept["patient"].max() + 1


def test_stale_is_told_with_its_reason(folder):
    manifest = folder / "m.csv"
    store = build(manifest, folder / "s.zarr", LOOSE).path

    def reason(settings=LOOSE):
        rows = read_manifest(manifest)
        return stale_reason(Plan(rows, store, settings, folder / "s.registry.csv"))

    assert reason() is None
    kept = (folder / "s.registry.csv").read_bytes()
    (folder / "s.registry.csv").write_bytes(kept.replace(b",test", b",val"))
    assert reason() == "the registry is missing, or is not the one it was built with"
    (folder / "s.registry.csv").unlink()
    assert reason() == "the registry is missing, or is not the one it was built with"
    (folder / "s.registry.csv").write_bytes(kept)
    shorter = BuildSettings(Conformity(n_samples=4000), LOOSE.plan)
    assert reason(shorter) == "the settings differ (n_samples: 5000, now 4000)"
    os.utime(folder / "3.xml", ns=(1, 1))
    assert reason() == "1 source file has changed"
    (folder / "2.xml").unlink()
    assert reason() == "2 source files have changed"
    add_row(folder, "P9", "9.xml", 1, None)
    assert reason() == "the manifest has changed"
    private_path(store, "build.json").unlink()
    assert "build record is missing" in reason()


def test_ensure_store_builds_once_and_again_when_stale(tmp_path):
    manifest = write_recordings(tmp_path / "c", 30)
    store = manifest.with_suffix(".zarr")
    assert ensure_store(manifest, store, SMALL).note == f"{store} was built: it does not exist yet"
    assert ensure_store(manifest, store, SMALL).note == f"{store} is up to date"
    shorter = BuildSettings(Conformity(100, 500))
    opened, note = ensure_store(manifest, store, shorter)
    assert note.startswith(
        f"{store} was built: the settings differ (n_samples: 1000, now 500); runs"
    )
    assert opened.n_samples == 500
    assert ensure_store(manifest, store, shorter, ("age",)).store.covariate_names == ["age"]
    opened, note = ensure_store(manifest, store, shorter)
    assert (opened.covariate_names, note) == (["age"], f"{store} is up to date")
    assert ensure_store(manifest, store, shorter, ("sex",)).store.covariate_names == ["age", "sex"]


def test_ensure_store_builds_again_for_another_label_column(tmp_path):
    manifest = write_recordings(tmp_path / "c", 30)
    store = manifest.with_suffix(".zarr")
    labels = ensure_store(manifest, store, SMALL).store.array("label")[:].tolist()
    columns = ManifestColumns(label="sex")
    opened, note = ensure_store(manifest, store, SMALL, columns=columns)
    assert "was built: another column of the manifest is used" in note
    assert labels == [i % 2 for i in range(30)]
    assert opened.array("label")[:].tolist() == [i // 2 % 2 for i in range(30)]
    assert ensure_store(manifest, store, SMALL, columns=columns).note == f"{store} is up to date"


def test_ensure_store_keeps_a_store_of_merged_patients(tmp_path):
    manifest = write_recordings(tmp_path / "c", 30)
    store = manifest.with_suffix(".zarr")
    build(manifest, store, dataclasses.replace(SMALL, merge_lookalikes=True))
    with pytest.raises(TargetExists, match=r"are not given here \(merge_lookalikes\)"):
        ensure_store(manifest, store, SMALL)


def test_ensure_store_keeps_what_was_built_by_other_means(tmp_path):
    manifest = write_recordings(tmp_path / "c", 30)
    store = manifest.with_suffix(".zarr")
    build(manifest, store, replace_settings(exclude_quality=("flat",), duplicates="exact"))
    with pytest.raises(TargetExists, match=r"are not given here \(duplicates, exclude_quality\)"):
        ensure_store(manifest, store, SMALL)
    shutil.rmtree(store)
    default_registry(manifest).unlink()
    build(manifest, store, SMALL, registry_path=tmp_path / "elsewhere.csv")
    kept = Store(store).content_sha256
    with pytest.raises(TargetExists, match="registry is missing.*splits could change"):
        ensure_store(manifest, store, SMALL)
    private_path(store, "build.json").unlink()
    with pytest.raises(TargetExists, match="build record is missing"):
        ensure_store(manifest, store, SMALL)
    assert Store(store).content_sha256 == kept


def replace_settings(**changes: object) -> BuildSettings:
    return dataclasses.replace(SMALL, **changes)


def test_unlabelled_cohort_goes_to_test(folder):
    settings = BuildSettings(plan=SplitPlan((0, 0, 100)), unlabelled=True)
    (folder / "u.csv").write_text(
        "patient_id,path_xml\n" + "".join(f"P{i},{i}.xml\n" for i in range(6))
    )
    store = build(folder / "u.csv", folder / "u.zarr", settings)
    assert set(store.array("split")) == {2}
    assert set(store.array("label")) == {-1}


def test_full_disk_is_named_and_leaves_nothing(folder, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ecgprep.files.atomic.os, "fsync", full)
    with pytest.raises(NoSpace, match="is full"):
        build(folder / "m.csv", folder / "s.zarr", LOOSE)
    assert not (folder / "s.zarr").exists()
    assert leftovers(folder) == [".s.zarr.building"]
    assert not list(folder.rglob(".*.partial"))


def test_disk_that_would_be_full_is_refused_before_the_first_byte(folder, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6)
    )
    with pytest.raises(NoSpace, match=r"needs 20 MB, the disk has 1 MB free"):
        build(folder / "m.csv", folder / "s.zarr", LOOSE)


@pytest.mark.parametrize(
    ("number", "code", "jobs"),
    [
        (signal.SIGINT, 130, 1),
        (signal.SIGTERM, 143, 2),
        pytest.param(signal.SIGTERM, 143, 1, marks=pytest.mark.full),
        pytest.param(signal.SIGINT, 130, 2, marks=pytest.mark.full),
    ],
)
def test_interrupted_build_leaves_its_work_folder_only(tmp_path, number, code, jobs):
    manifest = write_recordings(tmp_path / "c", 20)
    header, *rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([header, *rows * 300]) + "\n")  # far more than is read below
    line = f"build c/manifest.csv s.zarr --hz 100 --length 1000 --jobs {jobs}"
    process = subprocess.Popen(
        [sys.executable, "-m", "ecgprep", *line.split()],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        # A shell starts what runs in its background, perhaps these tests, deaf to SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob(".s.zarr.building/parts/*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=240)
    assert process.returncode == code
    assert sorted(path.name for path in tmp_path.iterdir()) == [".s.zarr.building", "c"]
    assert not [path for path in tmp_path.rglob(".*") if path.name.endswith((".partial", ".lock"))]
    assert (tmp_path / ".s.zarr.building").stat().st_mode & 0o777 == 0o700


def test_second_builder_is_refused(folder):
    import fcntl

    with (folder / ".s.zarr.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TargetExists, match="is being built by another process"):
            build(folder / "m.csv", folder / "s.zarr", LOOSE)


def test_a_file_system_that_cannot_lock_is_warned_of_and_used(folder, monkeypatch):
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.warns(UserWarning, match="does not support file locks. Do not start two programs"):
        build(folder / "m.csv", folder / "s.zarr", LOOSE)
    assert (folder / "s.zarr/zarr.json").exists()
    assert not list(folder.glob(".*.lock"))


class Deadly(str):
    """A path that kills the process into which it is sent."""

    __slots__ = ()

    def __reduce__(self):
        return _die_elsewhere, (os.getpid(), str(self))


def _die_elsewhere(pid: int, path: str) -> str:
    if os.getpid() != pid:
        os._exit(9)
    return path


def test_worker_that_dies_costs_its_row_and_not_the_build(folder):
    paths = [Deadly("2.xml") if i == 2 else f"{i}.xml" for i in range(6)]
    part = Part(0, folder, paths, range(2, 8), Conformity(), folder / "work")
    assert list(run_parts([part], jobs=2)) == [(6, 1)]
    assert [STATUSES[code] for code in load_result(part).arrays["status"]] == [
        "ok",
        "ok",
        "reader_crashed",
        "ok",
        "ok",
        "ok",
    ]


def test_bug_in_a_reader_is_a_traceback_that_names_the_line(folder, monkeypatch):
    def broken(part, i):
        raise ZeroDivisionError

    part = Part(0, folder, ["0.xml"], [17], Conformity(), folder / "work")
    with pytest.raises(ZeroDivisionError) as caught:
        build_part(part, broken)
    assert caught.value.__notes__ == ["while reading manifest line 17"]


def test_store_says_nothing_of_the_private_side(corpus, store):
    """No patient id, file name, dialect or date of the corpus is in a name or byte of the store."""
    secrets = {
        b"000001",
        b"S0000",
        b".xml",
        b"muse",
        b"aecg",
        b"cardiosoft",
        b"2000",
        b"ller",
        str(corpus).encode(),
        os.uname().nodename.encode(),
    }
    content = b"".join(
        name.encode() + data for name, data in files_of(store.path).items() if name.endswith("json")
    )
    names = "".join(files_of(store.path)).encode()
    assert not [secret for secret in secrets if secret in content or secret in names]
    record = json.loads(private_path(store.path, "build.json").read_bytes())
    assert set(record["dialects"]) == {"muse", "aecg", "cardiosoft"}


def test_a_write_that_fails_names_what_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        ecgprep.files.atomic.write_file(tmp_path / "absent" / "p.csv", b"")
    assert caught.value.filename == str(tmp_path / "absent" / "p.csv")
