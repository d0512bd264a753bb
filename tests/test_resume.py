"""Stopped builds: killed at any point, out of disk, or interrupted, a build goes on where it stood and ends in the same bytes."""

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
from conftest import build

import ecgprep.building.run
from ecgprep.building.parts import is_current, load_result
from ecgprep.building.plan import BuildSettings, Plan, read_plan, share
from ecgprep.building.record import stale_reason
from ecgprep.building.run import build_share, build_store, finalise_store, plan_store, recover
from ecgprep.errors import STATUSES, InputError, NoSpace, StoreError, TargetExists, TooManyRejects
from ecgprep.patients.manifest import read_manifest
from ecgprep.patients.registry import SplitPlan
from ecgprep.simulation.corpus import write_corpus
from ecgprep.store.reader import Store
from ecgprep.store.record import private_path

KILL_AT = """
import os, signal, sys
from pathlib import Path
from ecgprep.building.run import build_store
from ecgprep.patients.manifest import read_manifest
from ecgprep.building.plan import BuildSettings

count, at = 0, int(sys.argv[2])
def counted(call):
    def wrapped(*arguments, **options):
        global count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return wrapped
for name in ("fsync", "replace", "rename"):
    setattr(os, name, counted(getattr(os, name)))
folder = Path(sys.argv[1])
manifest, replace = read_manifest(folder / "c" / "manifest.csv"), "replace" in sys.argv
build_store(manifest, folder / "s.zarr", BuildSettings(), registry_path=folder / "r.csv", replace=replace)
print(count)
"""


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """260 rows and more, in two parts: small recordings would hide nothing, so they are real sized."""
    out = tmp_path_factory.mktemp("kill") / "c"
    write_corpus(out, patients=200, seed=3, prevalence=0.3)
    return out


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> Path:
    """A folder with the store of an uninterrupted build, its private files and registry."""
    folder = tmp_path_factory.mktemp("whole")
    build_store(
        read_manifest(corpus / "manifest.csv"),
        folder / "s.zarr",
        BuildSettings(),
        registry_path=folder / "r.csv",
    )
    assert len(Store(folder / "s.zarr")) > 256
    return folder


@pytest.fixture
def folder(corpus, tmp_path) -> Path:
    (tmp_path / "c").symlink_to(corpus)
    return tmp_path


def resume(folder: Path, **options) -> Store:
    recover(folder / "s.zarr")
    manifest = read_manifest(folder / "c" / "manifest.csv")
    if (folder / "s.zarr").exists() and stale_reason(
        folder / "s.zarr", manifest, BuildSettings(), folder / "r.csv"
    ) is None:
        return Store(folder / "s.zarr")
    return build_store(
        manifest, folder / "s.zarr", BuildSettings(), registry_path=folder / "r.csv", **options
    )


def killed_at(folder: Path, at: int, *arguments: str) -> int | None:
    """Build in a process that kills itself at its `at`-th fsync or rename; return the number of calls of a build that came through."""
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
    left = {path.name for path in folder.iterdir()} - {
        ".s.zarr.lock",
        ".r.csv.lock",
    }  # an empty lock file that nobody holds locks nothing
    assert left == {"c", "r.csv", "s.zarr", "s.zarr.build.json", "s.zarr.rejects.csv"}


def check_killed(folder: Path, whole: Path, at: int) -> bool:
    """Kill at one point, look, resume; return whether the build came through without reaching the point."""
    if killed_at(folder, at) is not None:
        return True
    if (folder / "s.zarr").exists():  # published before the kill: then it is whole
        assert files_of(folder / "s.zarr") == files_of(whole / "s.zarr")
    resume(folder)
    assert_same(folder, whole)
    return False


@pytest.mark.parametrize("at", [1, 5, 9, 30, 74, 80])
def test_killed_build_goes_on_to_the_same_bytes(folder, whole, at):
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
    """With --replace there is a whole store under the name at every moment but one, between two renames, and `recover` ends that."""
    n_calls = None
    at = 1
    while n_calls is None:
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
        resume(folder, replace=True)
        assert_same(folder, whole)
        at += 1 if at > 60 or at < 4 else 7


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_at_random_times(folder, whole, jobs):
    generator = random.Random(jobs)  # noqa: S311
    command = [
        sys.executable,
        "-m",
        "ecgprep.cli",
        "build",
        "c/manifest.csv",
        "s.zarr",
        "--registry",
        "r.csv",
        "--jobs",
        str(jobs),
    ]
    for _ in range(10):
        process = subprocess.Popen(
            command,
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
    resume(folder)
    assert_same(folder, whole)


def test_what_was_read_is_not_read_again(folder, whole, monkeypatch):
    killed_at(
        folder, 12
    )  # the first part is done: chunk and result are two files of four calls each
    read = []
    original = ecgprep.building.run.run_parts

    def counting(parts, jobs):
        read.extend(part.index for part in parts)
        return original(parts, jobs)

    monkeypatch.setattr(ecgprep.building.run, "run_parts", counting)
    resume(folder)
    assert read == [1]
    assert_same(folder, whole)


def test_a_source_that_changed_meanwhile_is_read_again(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "c")
    killed_at(tmp_path, 12)
    plan = read_plan(tmp_path / "s.zarr")
    first = plan.parts()[0]
    assert is_current(first, load_result(first))
    shutil.copy(
        corpus / plan.manifest.path_xml[9], tmp_path / "c" / plan.manifest.path_xml[8]
    )  # now a copy of row 9
    assert not is_current(first, load_result(first))
    resume(tmp_path)
    assert Store(tmp_path / "s.zarr").array("status")[[8, 9]].any()


@pytest.mark.parametrize("megabytes", [1, 22, 30, 38])
def test_full_disk(corpus, whole, tmp_path, megabytes):
    """On a file system that fills up, nothing half-written stays under a final name, and with more space the build goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", disk],
        check=False,
        capture_output=True,
    ).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        manifest = read_manifest(corpus / "manifest.csv")
        real, shutil.disk_usage = (
            shutil.disk_usage,
            lambda path: shutil._ntuple_diskusage(10**12, 0, 10**12),
        )  # so that it starts
        try:
            with pytest.raises(NoSpace):
                build_store(
                    manifest, disk / "s.zarr", BuildSettings(), registry_path=disk / "r.csv"
                )
            assert not (disk / "s.zarr").exists()
        finally:
            shutil.disk_usage = real
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        store = build_store(
            manifest, disk / "s.zarr", BuildSettings(), registry_path=disk / "r.csv"
        )
        assert files_of(store.path) == files_of(whole / "s.zarr")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_planned_parts_in_any_order_give_the_same_bytes(folder, whole):
    plan = Plan(
        read_manifest(folder / "c" / "manifest.csv"),
        folder / "s.zarr",
        BuildSettings(),
        folder / "r.csv",
    )
    assert plan_store(plan) == 2
    with pytest.raises(InputError, match=r"2 of 2 parts .* are missing.*: 1, 2\."):
        finalise_store(read_plan(folder / "s.zarr"))
    for i in (2, 1):
        again = read_plan(folder / "s.zarr")
        assert build_share(again, share(again.parts(), i, 2)) == 1
        assert build_share(again, share(again.parts(), i, 2)) == 0
    finalise_store(read_plan(folder / "s.zarr"))
    assert_same(folder, whole)


def test_commands_for_a_cluster(folder, whole):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "ecgprep.cli", *arguments],
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
        )

    assert "2 parts" in run("plan", "c/manifest.csv", "s.zarr", "--registry", "r.csv").stdout
    shares = [
        subprocess.Popen(
            [sys.executable, "-m", "ecgprep.cli", "part", "s.zarr", "--part", f"{i}/2"], cwd=folder
        )
        for i in (1, 2)
    ]
    assert [process.wait() for process in shares] == [0, 0]
    assert run("finalise", "s.zarr").returncode == 0
    assert_same(folder, whole)
    missing = run("part", "other.zarr", "--part", "1/2")
    assert missing.returncode == 3
    assert "There is no plan for other.zarr" in missing.stderr
    assert run("part", "s.zarr", "--part", "3/2").returncode == 2


@pytest.mark.timeout(120)
def test_dask_cluster_gives_the_same_bytes(folder, whole):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as cluster:
        manifest = read_manifest(folder / "c" / "manifest.csv")
        build_store(
            manifest,
            folder / "s.zarr",
            BuildSettings(),
            registry_path=folder / "r.csv",
            dask=cluster.scheduler_address,
        )
    assert_same(folder, whole)


def test_unreachable_scheduler_is_named(folder):
    pytest.importorskip("distributed")
    manifest = read_manifest(folder / "c" / "manifest.csv")
    with pytest.raises(InputError, match="--dask: no scheduler could be reached"):
        build_store(
            manifest,
            folder / "s.zarr",
            BuildSettings(),
            registry_path=folder / "r.csv",
            dask="nonsense",
        )


def test_a_higher_limit_reads_nothing_again(folder, monkeypatch):
    corpus = folder / "c"
    rows = (corpus / "manifest.csv").read_text().splitlines()
    manifest = corpus / "more.csv"
    manifest.write_text(
        "\n".join([*rows, *(f"X{i},absent{i}.xml,0,50,1" for i in range(60))]) + "\n"
    )
    try:
        with pytest.raises(TooManyRejects):
            build(manifest, folder / "s.zarr")
        monkeypatch.setattr(
            ecgprep.building.run,
            "run_parts",
            lambda parts, jobs: iter([(0, 0)] * 0) if not parts else pytest.fail("read again"),
        )
        assert len(build(manifest, folder / "s.zarr", max_rejected=0.5)) == len(rows) - 1 + 60
    finally:
        manifest.unlink()


def test_damaged_result_is_built_again(folder, whole):
    killed_at(folder, 12)
    result = next((folder / ".s.zarr.building" / "parts").glob("*.part"))
    result.write_bytes(result.read_bytes()[:-40])
    resume(folder)
    assert_same(folder, whole)


def test_damaged_chunk_is_found_and_not_resumed(folder, whole):
    killed_at(folder, 12)
    chunk = next((folder / ".s.zarr.building" / "store").rglob("0/0/0"))
    data = bytearray(chunk.read_bytes())
    data[1000] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match="Verification failed"):
        resume(folder)
    resume(folder)
    assert_same(folder, whole)


def test_a_file_that_stays_unreadable_does_not_keep_a_plan_from_its_end(folder, tmp_path):
    rows = (folder / "c" / "manifest.csv").read_text().splitlines()[:20]
    (tmp_path / "xml").mkdir()
    for row in rows[1:]:
        shutil.copy(folder / "c" / row.split(",")[1], tmp_path / "xml")
    manifest = tmp_path / "u.csv"
    manifest.write_text("\n".join([*rows, f"X,{'n' * 300}.xml,0,50,1"]) + "\n")
    plan = Plan(
        read_manifest(manifest),
        folder / "u.zarr",
        BuildSettings(plan=SplitPlan(allow_missing_class=True)),
        folder / "u.r.csv",
        0.5,
    )
    plan_store(plan)
    assert build_share(plan, plan.parts()) == 1
    assert build_share(plan, plan.parts()) == 1  # it is tried again
    assert STATUSES[finalise_store(plan).array("status")[-1]] == "file_unreadable"


def test_one_damaged_chunk_costs_its_part_only(folder, whole, monkeypatch):
    plan = Plan(
        read_manifest(folder / "c" / "manifest.csv"),
        folder / "s.zarr",
        BuildSettings(),
        folder / "r.csv",
    )
    plan_store(plan)
    build_share(plan, plan.parts())
    chunk = plan.parts()[0].chunk
    data = bytearray(chunk.read_bytes())
    data[5 * 80_000] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match="wrong in row 5"):
        finalise_store(plan)
    assert [load_result(part) is None for part in plan.parts()] == [True, False]
    resume(folder)
    assert_same(folder, whole)


def test_other_settings_use_nothing_of_a_stopped_build(folder):
    killed_at(folder, 12)
    store = build(
        folder / "c" / "manifest.csv",
        folder / "s.zarr",
        BuildSettings(plan=BuildSettings().plan),
        registry_path=folder / "q.csv",
    )
    assert set(store.array("status")) == {0}


def test_memory_limit_is_a_memory_error_and_not_a_dead_machine():
    code = "from ecgprep.building.executors import limit_memory; limit_memory(200_000_000); bytearray(100_000_000); bytearray(400_000_000)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "MemoryError" in done.stderr


def test_part_while_a_build_runs_is_refused(folder):
    import fcntl

    plan = Plan(
        read_manifest(folder / "c" / "manifest.csv"),
        folder / "s.zarr",
        BuildSettings(),
        folder / "r.csv",
    )
    plan_store(plan)
    with (folder / ".s.zarr.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TargetExists, match="another process"):
            build_share(plan, plan.parts())


def test_verified_parts_hold_what_reading_gives(folder):
    plan = Plan(
        read_manifest(folder / "c" / "manifest.csv"),
        folder / "s.zarr",
        BuildSettings(),
        folder / "r.csv",
    )
    plan_store(plan)
    part = plan.parts()[1]
    build_share(plan, [part])
    result = load_result(part)
    assert len(result.stamps) == len(part.paths)
    assert np.isfinite(result.arrays["fingerprint"]).all()
    assert private_path(plan.store, "build.json") == folder / "s.zarr.build.json"
