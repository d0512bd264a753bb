"""A longer manifest: existing rows stay as they are, to the byte; only new rows are read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import build, command, statuses, write_recordings

from ecgprep.building.parts import read_row
from ecgprep.building.plan import BuildSettings, read_plan
from ecgprep.conform import Conformity
from ecgprep.errors import InputError, TooManyRejects
from ecgprep.patients.registry import SplitPlan
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import aecg
from ecgprep.store.format import ARRAYS
from ecgprep.store.reader import Store
from ecgprep.store.record import private_path, read_build_record
from ecgprep.store.verify import check_store

TARGET = Conformity(100, 1000)
SETTINGS = BuildSettings(TARGET)
N_STORED = 300
"""Rows of the store: one full part, and a second one that new rows fill up."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A corpus in `c` whose first 300 of 345 rows are in `s.zarr`; read-only for tests."""
    folder = tmp_path_factory.mktemp("extend")
    lines = write_recordings(folder / "c", 345).read_text().splitlines(keepends=True)
    (folder / "c" / "m.csv").write_text("".join(lines[: N_STORED + 1]))
    build(folder / "c" / "m.csv", folder / "s.zarr", SETTINGS, ("age",))
    return folder


@pytest.fixture
def folder(stored, tmp_path) -> Path:
    """A copy of `stored`; `m.csv` has the rows of the store, `manifest.csv` all of them."""
    return Path(shutil.copytree(stored, tmp_path / "copy"))


def rebuild(folder: Path, settings: BuildSettings = SETTINGS, **options) -> Store:
    return build(folder / "c" / "m.csv", folder / "s.zarr", settings, ("age",), **options)


def extend(folder: Path, settings: BuildSettings = SETTINGS, **options) -> Store:
    return rebuild(folder, settings, extend=True, **options)


def lines_of(folder: Path) -> list[str]:
    """Return the lines of the manifest: line i + 1 of the file is entry i."""
    return (folder / "c" / "m.csv").read_text().splitlines()


def add(folder: Path, *rows: str) -> None:
    with (folder / "c" / "m.csv").open("a") as file:
        file.writelines(f"{row}\n" for row in rows)


def small_arrays(store: Store) -> dict[str, np.ndarray]:
    return {name: np.array(store.array(name)) for name in ARRAYS if name != "waveforms"}


def test_longer_manifest_gives_what_building_it_again_gives(folder, monkeypatch):
    whole = (folder / "c" / "manifest.csv").read_text()
    (folder / "c" / "m.csv").write_text(whole)
    before = small_arrays(Store(folder / "s.zarr"))
    first_chunk = os.stat(folder / "s.zarr/waveforms/c/0/0/0").st_ino
    read = []

    def counting(part, i):
        read.append(part.paths[i])
        return read_row(part, i)

    monkeypatch.setattr("ecgprep.building.extend.read_row", counting)
    store = extend(folder)
    for name, values in before.items():
        np.testing.assert_array_equal(store.array(name)[:N_STORED], values)
    assert os.stat(folder / "s.zarr/waveforms/c/0/0/0").st_ino == first_chunk  # linked, not copied
    assert read == [line.split(",")[1] for line in whole.splitlines()[N_STORED + 1 :]]
    assert check_store(store.path).intact
    shutil.copy(folder / "s.registry.csv", folder / "again.registry.csv")
    again = build(folder / "c" / "m.csv", folder / "again.zarr", SETTINGS, ("age",))
    assert again.content_sha256 == store.content_sha256
    np.testing.assert_array_equal(
        read_build_record(store.path)["sources"], read_build_record(again.path)["sources"]
    )


def test_old_files_are_not_needed_any_more(folder):
    shutil.rmtree(folder / "c" / "xml")
    add(folder, "NEW,absent.xml,1,50,1")
    store = extend(folder)
    assert statuses(store) == ["ok"] * N_STORED + ["file_missing"]
    assert check_store(store.path).intact


def test_new_duplicate_of_an_old_recording_is_the_conflict_and_the_old_row_stays(folder):
    lines = lines_of(folder)
    _, old_path, label = lines[5].split(",")[:3]
    add(folder, f"SOMEBODY,{old_path},{label},50,1", lines[7])
    store = extend(folder)
    assert statuses(store) == ["ok"] * N_STORED + ["conflict", "duplicate"]
    (warning,) = read_build_record(store.path)["warnings"]
    assert warning == (
        "line 302: the same recording is already in the store (line 6) under another patient or "
        "label, and stays in it. Find out whose it is."
    )
    add(folder, f"OTHER,{old_path},{label},50,1")
    assert statuses(extend(folder))[-1] == "conflict"


def test_extending_a_store_with_conflicts_keeps_them(folder):
    generator = np.random.default_rng(1000)
    uv = simulate(Heart.draw(generator, 0), 500, generator)
    (folder / "c" / "new.xml").write_bytes(aecg(uv, 500, "N"))
    add(folder, "A,new.xml,0,50,1", "B,new.xml,0,50,1")
    rebuild(folder, replace=True)
    add(folder, "C,new.xml,0,50,1")
    store = extend(folder)
    assert statuses(store)[-3:] == ["conflict"] * 3
    rejects = private_path(store.path, "rejects.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in rejects] == ["302", "303", "304"]
    assert all("the same recording is on line" in line for line in rejects)


def change_a_label(folder):
    lines = lines_of(folder)
    patient, path, label, *rest = lines[3].split(",")
    lines[3] = ",".join([patient, path, str(1 - int(label)), *rest])
    (folder / "c" / "m.csv").write_text("\n".join(lines) + "\n")


def drop_a_row(folder):
    lines = lines_of(folder)
    (folder / "c" / "m.csv").write_text("\n".join(lines[:10] + lines[11:]) + "\n")


def lose_the_registry(folder):
    (folder / "s.registry.csv").unlink()


def lose_the_record(folder):
    private_path(folder / "s.zarr", "build.json").unlink()


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (change_a_label, "the first 300 rows of the manifest are not"),
        (drop_a_row, "the first 300 rows of the manifest are not"),
        (lose_the_registry, "the registry is missing.*; name it with --registry"),
        (lose_the_record, "its build record is missing"),
    ],
)
def test_what_is_no_extension_is_refused(folder, fault, why):
    before = Store(folder / "s.zarr").content_sha256
    fault(folder)
    with pytest.raises(InputError, match=rf"s\.zarr cannot be extended: {why}"):
        extend(folder)
    assert Store(folder / "s.zarr").content_sha256 == before


def test_other_settings_are_no_extension(folder):
    with pytest.raises(InputError, match="the settings differ"):
        extend(folder, BuildSettings(TARGET, SplitPlan(allow_missing_class=True)))


def test_longer_manifest_of_another_name_uses_the_registry_of_the_store(folder, monkeypatch):
    """As documented: `ecgprep build cohort.csv …`, later `ecgprep build longer.csv … --extend`."""
    monkeypatch.chdir(folder)

    def run(manifest, *options):
        settings = "--covariates age --hz 100 --length 1000".split()
        return command("build", manifest, "t.zarr", *settings, *options)

    assert run("c/m.csv").returncode == 0
    before = np.array(Store(folder / "t.zarr").array("split"))
    done = run("c/manifest.csv", "--extend", "--jobs", "2")
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(Store(folder / "t.zarr").array("split")[:N_STORED], before)
    assert not (folder / "c" / "manifest.registry.csv").exists()
    again = run("c/m.csv", "--replace")  # a shorter manifest, built anew: nobody changes sides
    assert again.returncode == 0, again.stderr
    np.testing.assert_array_equal(Store(folder / "t.zarr").array("split"), before)


def test_a_refused_extension_leaves_nothing_that_another_build_would_take_for_read(folder):
    _, path, label = lines_of(folder)[5].split(",")[:3]
    add(folder, f"OTHER,{path},{label},50,1")
    rebuild(folder, replace=True)
    add(folder, f"THIRD,{path},{label},50,1")
    with pytest.raises(TooManyRejects):
        extend(folder, max_rejected=0.001)
    with pytest.raises(InputError, match="--extend"):
        read_plan(folder / "s.zarr")
    store = rebuild(folder, replace=True)
    found = statuses(store)
    assert [found[4], *found[-2:]] == ["conflict"] * 3
    first_reject = private_path(store.path, "rejects.csv").read_text().splitlines()[1]
    assert "under another patient" in first_reject


def test_a_moved_folder_can_be_extended(folder):
    (folder / "c").rename(folder / "moved")
    manifest = folder / "moved" / "m.csv"
    manifest.write_text(manifest.read_text() + "NEW,absent.xml,1,50,1\n")
    assert len(build(manifest, folder / "s.zarr", SETTINGS, ("age",), extend=True)) == N_STORED + 1


def test_warnings_and_groups_survive_the_next_extension(folder):
    _, path, label = lines_of(folder)[5].split(",")[:3]
    add(folder, f"SOMEBODY,{path},{label},50,1")
    extend(folder)
    add(folder, f"OTHER,{path},{label},50,1")
    record = read_build_record(extend(folder).path)
    assert len(record["warnings"]) == 2
    assert record["copies"] == [[4, 300, 301]]


def test_only_new_chunks_need_space(folder, monkeypatch):
    (folder / "c" / "m.csv").write_text((folder / "c" / "manifest.csv").read_text())
    chunk_bytes = 256 * 8 * 1000 * 2
    free = shutil._ntuple_diskusage(10**9, 10**9, int(1.2 * chunk_bytes))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    assert len(extend(folder)) == 345
