"""Stopped builds: killed anywhere, or out of disk, the next one ends in the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import DYING, command, files_of, statuses, write_recordings

import ecgprep
import ecgprep.building.run
from ecgprep.building.parts import is_current, load_result
from ecgprep.building.plan import BuildSettings, Plan, read_plan
from ecgprep.building.run import build_share, finalise_store, plan_store, recover
from ecgprep.conform import Conformity
from ecgprep.errors import InputError, NoSpace, StoreError, TargetExists, TooManyRejects
from ecgprep.patients.manifest import read_manifest
from ecgprep.store.reader import Store
from ecgprep.store.record import private_path

SETTINGS = BuildSettings(Conformity(100, 1000))
FIRST_PART_DONE = 12
"""The call at which one part is whole: its chunk and its result are files of four calls each."""

KILL_AT = (
    DYING
    + """
for name in ("fsync", "replace", "rename"):
    setattr(os, name, counted(getattr(os, name)))
folder = Path(sys.argv[1])
manifest, registry = folder / "c" / "manifest.csv", folder / "r.csv"
ecgprep.build(
    manifest, folder / "s.zarr", hz=100, length=1000, registry=registry,
    replace="replace" in sys.argv,
)
print(count)
"""
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """260 rows, in two parts."""
    return write_recordings(tmp_path_factory.mktemp("kill") / "c", 260).parent


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> Path:
    """A folder with the store of an uninterrupted build, its private files and registry."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "c").symlink_to(corpus)
    build(folder)
    return folder


@pytest.fixture
def folder(corpus, tmp_path) -> Path:
    (tmp_path / "c").symlink_to(corpus)
    return tmp_path


def build(folder: Path, manifest: str = "c/manifest.csv", **options) -> Store:
    """Build the store of a folder, or continue its build, as the user does."""
    return ecgprep.build(
        folder / manifest,
        folder / "s.zarr",
        registry=folder / "r.csv",
        hz=100,
        length=1000,
        **options,
    )


def plan_of(folder: Path) -> Plan:
    manifest = read_manifest(folder / "c" / "manifest.csv")
    return Plan(manifest, folder / "s.zarr", SETTINGS, folder / "r.csv")


def killed_at(folder: Path, at: int, *arguments: str) -> int | None:
    """Build in a process that kills itself at its `at`-th fsync or rename.

    Returns the number of calls of a build that was not killed.
    """
    done = subprocess.run(
        [sys.executable, "-c", KILL_AT, folder, str(at), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == 0:
        return int(done.stdout)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return None


def assert_same(folder: Path, whole: Path) -> None:
    assert files_of(folder / "s.zarr") == files_of(whole / "s.zarr")
    for name in ("r.csv", "s.zarr.rejects.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    # An empty lock file that nobody holds locks nothing.
    left = {path.name for path in folder.iterdir()} - {".s.zarr.lock", ".r.csv.lock"}
    assert left == {"c", "r.csv", "s.zarr", "s.zarr.build.json", "s.zarr.rejects.csv"}


def check_killed(folder: Path, whole: Path, at: int) -> bool:
    """Kill at one point, look, continue; return whether the build ended before the point."""
    if killed_at(folder, at) is not None:
        return True
    if (folder / "s.zarr").exists():  # published before the kill: then it is whole
        assert files_of(folder / "s.zarr") == files_of(whole / "s.zarr")
    build(folder)
    assert_same(folder, whole)
    return False


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(1, id="before the first file"),
        pytest.param(9, id="within the second part"),
        pytest.param(74, id="within the small arrays"),
        pytest.param(80, id="about publishing"),
    ],
)
def test_killed_build_continues_to_the_same_bytes(folder, whole, at):
    assert not check_killed(folder, whole, at)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_killed_at_every_point(folder, whole):
    at = 1
    while not check_killed(folder, whole, at):
        for path in folder.iterdir():
            if path.name != "c":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        at += 1
    assert at > 70


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_rebuild_killed_at_every_point_keeps_the_old_store_or_has_the_new(folder, whole):
    """With --replace a whole store has the name at every moment but one, between two renames.

    `recover` ends that moment.
    """
    n_calls = None
    at = 1
    while n_calls is None:
        n_calls = check_rebuild_killed(folder, whole, at)
        at += 1 if at > 60 or at < 4 else 7


@pytest.mark.parametrize("at", [40, 76])
def test_killed_rebuild_keeps_the_old_store_or_has_the_new(folder, whole, at):
    assert check_rebuild_killed(folder, whole, at) is None


def check_rebuild_killed(folder: Path, whole: Path, at: int) -> int | None:
    """Kill a rebuild at one point, look, continue; return its calls if it was not killed."""
    for name in ("s.zarr", ".s.zarr.building", ".s.zarr.old"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in folder.glob("*.*"):
        if path.is_file():
            path.unlink()
    shutil.copytree(whole / "s.zarr", folder / "s.zarr")
    for name in ("r.csv", "s.zarr.rejects.csv"):
        shutil.copy(whole / name, folder / name)
    n_calls = killed_at(folder, at, "replace")
    recover(folder / "s.zarr")
    assert files_of(folder / "s.zarr") == files_of(whole / "s.zarr")
    build(folder, replace=True)
    assert_same(folder, whole)
    return n_calls


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_at_random_times(folder, whole, jobs):
    generator = random.Random(jobs)  # noqa: S311
    options = f"--registry r.csv --hz 100 --length 1000 --jobs {jobs}".split()
    arguments = [sys.executable, "-m", "ecgprep", "build", "c/manifest.csv", "s.zarr", *options]
    for _ in range(10):
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(generator.uniform(0.2, 2.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if (folder / "s.zarr").exists():
            assert files_of(folder / "s.zarr") == files_of(whole / "s.zarr")
    build(folder)
    assert_same(folder, whole)


def test_what_was_read_is_not_read_again(folder, whole, monkeypatch):
    read = []
    original = ecgprep.building.run.run_parts

    def counting(parts, jobs):
        read.extend(part.index for part in parts)
        return original(parts, jobs)

    assert killed_at(folder, FIRST_PART_DONE) is None
    monkeypatch.setattr(ecgprep.building.run, "run_parts", counting)
    build(folder)
    assert read == [1]
    assert_same(folder, whole)


def test_a_source_that_changed_meanwhile_is_read_again(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "c")
    plan = plan_of(tmp_path)
    plan_store(plan)
    build_share(plan, 1, 2)
    first = plan.parts()[0]
    assert is_current(first, load_result(first))
    paths = plan.manifest.path_xml
    shutil.copy(corpus / paths[9], tmp_path / "c" / paths[8])
    assert not is_current(first, load_result(first))
    assert statuses(build(tmp_path, max_rejected=1.0))[8:10] == ["conflict", "conflict"]


@pytest.mark.parametrize(
    "megabytes",
    [
        pytest.param(1, id="for no part"),
        pytest.param(5, id="for one part"),
        pytest.param(8, id="for both parts and little more"),
    ],
)
def test_full_disk(folder, whole, tmp_path, megabytes):
    """A full file system leaves nothing half-written; with more space the build continues."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", disk]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        (disk / "c").symlink_to(folder / "c")
        with pytest.MonkeyPatch.context() as patch:  # or the build would not even start
            much = shutil._ntuple_diskusage(10**12, 0, 10**12)
            patch.setattr(shutil, "disk_usage", lambda path: much)
            with pytest.raises(NoSpace):
                build(disk)
        assert not (disk / "s.zarr").exists()
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        assert files_of(build(disk).path) == files_of(whole / "s.zarr")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_planned_parts_in_any_order_give_the_same_bytes(folder, whole):
    assert plan_store(plan_of(folder)) == 2
    with pytest.raises(InputError, match=r"2 of 2 parts .* are missing.*: 1, 2\."):
        finalise_store(read_plan(folder / "s.zarr"))
    for part in (2, 1):
        assert build_share(read_plan(folder / "s.zarr"), part, 2) == (1, 1)
        assert build_share(read_plan(folder / "s.zarr"), part, 2) == (1, 0)
    finalise_store(read_plan(folder / "s.zarr"))
    assert_same(folder, whole)


def test_a_plan_is_read_as_it_was_written(folder):
    settings = BuildSettings(Conformity(100, 1000, 2.5, 3), exclude_quality=("flat", "noise"))
    manifest = read_manifest(folder / "c" / "manifest.csv", covariates=("age",))
    tested = frozenset({"P1", "P2"})
    plan = Plan(manifest, folder / "s.zarr", settings, folder / "r.csv", 0.25, tested)
    plan_store(plan)
    again = read_plan(folder / "s.zarr")
    assert again.settings == settings
    assert (again.store, again.registry_path) == (plan.store, plan.registry_path)
    assert (again.max_rejected, again.test_patients, again.replace) == (0.25, tested, False)
    assert [part.key for part in again.parts()] == [part.key for part in plan.parts()]


def test_a_plan_of_another_version_is_told(folder):
    plan_store(plan_of(folder))
    (folder / ".s.zarr.building" / "plan.json").write_text('{"format": 1, "manifest": "m.csv"}')
    with pytest.raises(InputError, match="or another version of ecgprep made it. Run `ecgprep pla"):
        read_plan(folder / "s.zarr")


def test_commands_for_a_cluster(folder, whole, monkeypatch):
    monkeypatch.chdir(folder)
    options = "--registry r.csv --hz 100 --length 1000".split()
    assert "2 parts" in command("plan", "c/manifest.csv", "s.zarr", *options).stdout
    shares = [
        subprocess.Popen([sys.executable, "-m", "ecgprep", "part", "s.zarr", "--part", f"{i}/2"])
        for i in (1, 2)
    ]
    assert [process.wait() for process in shares] == [0, 0]
    assert command("finalise", "s.zarr").returncode == 0
    assert_same(folder, whole)
    missing = command("part", "other.zarr", "--part", "1/2")
    assert missing.returncode == 3
    assert "There is no plan for other.zarr" in missing.stderr
    assert command("part", "s.zarr", "--part", "3/2").returncode == 2


@pytest.mark.timeout(120)
def test_dask_cluster_gives_the_same_bytes(folder, whole):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as cluster:
        build(folder, dask=cluster.scheduler_address)
    assert_same(folder, whole)


def test_unreachable_scheduler_is_named(folder):
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="--dask: no scheduler could be reached"):
        build(folder, dask="nonsense")


def test_a_higher_limit_reads_nothing_again(folder, tmp_path, monkeypatch):
    rows = (folder / "c" / "manifest.csv").read_text().splitlines()
    absent = [f"X{i},xml/absent{i}.xml,0,50,1" for i in range(60)]
    (tmp_path / "more.csv").write_text("\n".join([*rows, *absent]) + "\n")
    options = {"manifest": "more.csv", "root": folder / "c"}
    with pytest.raises(TooManyRejects):
        build(tmp_path, **options)

    def read_nothing(parts, jobs):
        assert not parts
        return iter(())

    monkeypatch.setattr(ecgprep.building.run, "run_parts", read_nothing)
    assert len(build(tmp_path, **options, max_rejected=0.5)) == 260 + 60


def test_damaged_result_is_built_again(folder, whole):
    plan = plan_of(folder)
    plan_store(plan)
    build_share(plan, 1, 2)
    result = plan.parts()[0].result
    result.write_bytes(result.read_bytes()[:-40])
    assert load_result(plan.parts()[0]) is None
    build(folder)
    assert_same(folder, whole)


def flip_a_bit(chunk: Path, at: int) -> None:
    data = bytearray(chunk.read_bytes())
    data[at] ^= 1
    chunk.write_bytes(data)


def test_one_damaged_chunk_is_found_and_costs_its_part_only(folder, whole):
    plan = plan_of(folder)
    plan_store(plan)
    build_share(plan, 1, 1)
    row_bytes = 8 * 1000 * 2
    flip_a_bit(plan.parts()[0].chunk, 5 * row_bytes)
    with pytest.raises(StoreError, match="wrong in row 5"):
        finalise_store(plan)
    assert [load_result(part) is None for part in plan.parts()] == [True, False]
    build(folder)
    assert_same(folder, whole)


def test_a_file_that_stays_unreadable_does_not_keep_a_plan_from_its_end(corpus, tmp_path):
    rows = (corpus / "manifest.csv").read_text().splitlines()[:20]
    (tmp_path / "u.csv").write_text("\n".join([*rows, f"X,{'n' * 300}.xml,0,50,1"]) + "\n")
    manifest = read_manifest(tmp_path / "u.csv", corpus)
    plan = Plan(manifest, tmp_path / "u.zarr", SETTINGS, tmp_path / "u.r.csv", max_rejected=0.5)
    plan_store(plan)
    assert build_share(plan, 1, 1) == (1, 1)
    assert build_share(plan, 1, 1) == (1, 1)  # it is tried again
    assert statuses(finalise_store(plan))[-1] == "file_unreadable"


def test_other_settings_use_nothing_of_a_stopped_build(folder):
    plan = plan_of(folder)
    plan_store(plan)
    build_share(plan, 1, 2)
    manifest, registry = folder / "c" / "manifest.csv", folder / "q.csv"
    store = ecgprep.build(manifest, plan.store, hz=100, length=900, registry=registry)
    assert store.n_samples == 900
    assert set(statuses(store)) == {"ok"}


def test_memory_limit_is_a_memory_error_and_not_a_dead_machine():
    code = (
        "from ecgprep.workers import limit_memory; limit_memory(200_000_000); "
        "bytearray(100_000_000); print('fits'); bytearray(400_000_000)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout == "fits\n"
    assert "MemoryError" in done.stderr


def test_part_while_a_build_runs_is_refused(folder):
    import fcntl

    plan = plan_of(folder)
    plan_store(plan)
    with (folder / ".s.zarr.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TargetExists, match="another process"):
            build_share(plan, 1, 1)


def test_verified_parts_hold_what_reading_gives(folder):
    plan = plan_of(folder)
    plan_store(plan)
    build_share(plan, 2, 2)
    part = plan.parts()[1]
    result = load_result(part)
    assert len(result.stamps) == len(part.paths)
    assert np.isfinite(result.arrays["fingerprint"]).all()
    assert private_path(plan.store, "build.json") == folder / "s.zarr.build.json"
