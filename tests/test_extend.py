"""A longer manifest: what stands stays as it is, to the byte where it can; only new rows are read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import build

from ecgprep.building.parts import read_row
from ecgprep.building.plan import BuildSettings
from ecgprep.errors import STATUSES, InputError
from ecgprep.patients.registry import SplitPlan
from ecgprep.simulation.corpus import write_corpus
from ecgprep.simulation.vendors import aecg
from ecgprep.store.format import ARRAYS
from ecgprep.store.reader import Store
from ecgprep.store.record import private_path, read_build_record
from ecgprep.store.verify import check_store


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("extend")
    write_corpus(out, patients=260, seed=9, prevalence=0.3)
    return out


@pytest.fixture
def folder(corpus, tmp_path) -> Path:
    """A corpus of which the first 300 rows are in the store; `m.csv` has the rows of the store, `rows` all of them."""
    shutil.copytree(corpus, tmp_path / "c")
    rows = (tmp_path / "c" / "manifest.csv").read_text().splitlines(keepends=True)
    assert len(rows) > 340
    (tmp_path / "c" / "m.csv").write_text("".join(rows[:301]))
    build(tmp_path / "c" / "m.csv", tmp_path / "s.zarr", covariates=("age",))
    return tmp_path


def extend(folder: Path, settings: BuildSettings | None = None) -> Store:
    return build(
        folder / "c" / "m.csv", folder / "s.zarr", settings, covariates=("age",), extend=True
    )


def add(folder: Path, *rows: str) -> None:
    with (folder / "c" / "m.csv").open("a") as file:
        file.writelines(f"{row}\n" for row in rows)


def test_longer_manifest_gives_what_building_it_again_gives(folder, monkeypatch):
    whole = (folder / "c" / "manifest.csv").read_text()
    (folder / "c" / "m.csv").write_text(whole)
    before = {
        name: np.array(Store(folder / "s.zarr").array(name))
        for name in ARRAYS
        if name != "waveforms"
    }
    first_chunk = os.stat(folder / "s.zarr/waveforms/c/0/0/0").st_ino
    read = []
    monkeypatch.setattr(
        "ecgprep.building.extend.read_row",
        lambda part, i: read.append(part.paths[i]) or read_row(part, i),
    )
    store = extend(folder)
    for name, values in before.items():
        np.testing.assert_array_equal(store.array(name)[:300], values)
    assert os.stat(folder / "s.zarr/waveforms/c/0/0/0").st_ino == first_chunk  # linked, not copied
    assert read == [
        line.split(",")[1] for line in whole.splitlines()[301:513]
    ]  # of the part that was begun, new rows only
    assert not check_store(store.path).faults
    shutil.copy(folder / "s.registry.csv", folder / "again.registry.csv")
    again = build(folder / "c" / "m.csv", folder / "again.zarr", covariates=("age",))
    assert again.content_sha256 == store.content_sha256
    np.testing.assert_array_equal(
        read_build_record(store.path)["sources"], read_build_record(again.path)["sources"]
    )


def test_old_files_are_not_needed_any_more(folder):
    shutil.copy(folder / "c" / "manifest.csv", folder / "all.csv")
    shutil.rmtree(folder / "c" / "xml")
    add(folder, "NEW,absent.xml,1,50,1")
    store = extend(folder)
    assert [STATUSES[code] for code in store.array("status")] == ["ok"] * 300 + ["file_missing"]
    assert not check_store(store.path).faults


def test_new_copy_of_an_old_recording_is_the_conflict_and_the_old_row_stands(folder):
    rows = (folder / "c" / "m.csv").read_text().splitlines()
    old_path, label = rows[5].split(",")[1:3]
    add(
        folder,
        f"SOMEBODY,{old_path},{label},50,1",
        f"{rows[7].split(',')[0]},{rows[7].split(',')[1]},{rows[7].split(',')[2]},50,1",
    )
    store = extend(folder)
    assert [STATUSES[code] for code in store.array("status")] == ["ok"] * 300 + [
        "conflict",
        "duplicate",
    ]
    (warning,) = read_build_record(store.path)["warnings"]
    assert warning.startswith("line 302: the same recording stands in the store already (line 6)")
    add(folder, f"OTHER,{old_path},{label},50,1")
    assert STATUSES[extend(folder).array("status")[-1]] == "conflict"


def test_extending_a_store_with_conflicts_keeps_them(folder, uv):
    (folder / "c" / "new.xml").write_bytes(aecg(uv, 500, "N"))
    add(folder, "A,new.xml,0,50,1", "B,new.xml,0,50,1")
    build(folder / "c" / "m.csv", folder / "s.zarr", covariates=("age",), replace=True)
    add(folder, "C,new.xml,0,50,1")
    store = extend(folder)
    assert [STATUSES[code] for code in store.array("status")[-3:]] == ["conflict"] * 3
    rejects = private_path(store.path, "rejects.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in rejects] == ["302", "303", "304"]
    assert all("the same recording is on line" in line for line in rejects)


def change_a_label(folder):
    rows = (folder / "c" / "m.csv").read_text().splitlines(keepends=True)
    rows[3] = (
        rows[3].replace(",0,", ",1,") if ",0," in rows[3] else rows[3].replace(",1,", ",0,", 1)
    )
    (folder / "c" / "m.csv").write_text("".join(rows))


def drop_a_row(folder):
    rows = (folder / "c" / "m.csv").read_text().splitlines(keepends=True)
    (folder / "c" / "m.csv").write_text("".join(rows[:10] + rows[11:]))


def lose_the_registry(folder):
    (folder / "s.registry.csv").unlink()


def lose_the_record(folder):
    private_path(folder / "s.zarr", "build.json").unlink()


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (change_a_label, "the first 300 rows of the manifest are not"),
        (drop_a_row, "the first 300 rows of the manifest are not"),
        (lose_the_registry, "the registry is missing"),
        (lose_the_record, "its build record is missing"),
    ],
)
def test_what_is_no_extension_is_refused(folder, fault, why):
    before = Store(folder / "s.zarr").content_sha256
    fault(folder)
    with pytest.raises(InputError, match=why):
        extend(folder)
    assert Store(folder / "s.zarr").content_sha256 == before


def test_other_settings_are_no_extension(folder):
    with pytest.raises(InputError, match="the settings differ"):
        extend(folder, BuildSettings(plan=SplitPlan(allow_missing_class=True)))


def test_longer_manifest_of_another_name_uses_the_registry_of_the_store(folder):
    """As documented: `ecgprep build cohort.csv …`, later `ecgprep build longer.csv … --extend`."""
    import subprocess
    import sys

    def run(*arguments):
        command = [sys.executable, "-m", "ecgprep.cli", "build", *arguments, "--covariates", "age"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    assert run("c/m.csv", "t.zarr").returncode == 0
    before = np.array(Store(folder / "t.zarr").array("split"))
    done = run("c/manifest.csv", "t.zarr", "--extend", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    np.testing.assert_array_equal(Store(folder / "t.zarr").array("split")[:300], before)
    assert not (folder / "c" / "manifest.registry.csv").exists()
    again = run(
        "c/m.csv", "t.zarr", "--replace"
    )  # a shorter manifest, built anew: nobody changes sides
    assert again.returncode == 0, again.stderr
    np.testing.assert_array_equal(Store(folder / "t.zarr").array("split"), before)


def test_a_refused_extension_leaves_nothing_that_another_build_would_take_for_read(folder):
    from ecgprep.building.plan import read_plan
    from ecgprep.errors import TooManyRejects

    rows = (folder / "c" / "m.csv").read_text().splitlines()
    path, label = rows[5].split(",")[1:3]
    add(folder, f"OTHER,{path},{label},50,1")
    build(folder / "c" / "m.csv", folder / "s.zarr", covariates=("age",), replace=True)
    add(folder, f"THIRD,{path},{label},50,1")
    with pytest.raises(TooManyRejects):
        build(
            folder / "c" / "m.csv",
            folder / "s.zarr",
            covariates=("age",),
            extend=True,
            max_rejected=0.001,
        )
    with pytest.raises(InputError, match="--extend"):
        read_plan(folder / "s.zarr")
    store = build(folder / "c" / "m.csv", folder / "s.zarr", covariates=("age",), replace=True)
    assert [STATUSES[store.array("status")[row]] for row in (4, 300, 301)] == ["conflict"] * 3
    assert (
        "under another patient"
        in private_path(store.path, "rejects.csv").read_text().splitlines()[1]
    )


def test_a_moved_folder_can_be_extended(folder):
    (folder / "c").rename(folder / "moved")
    manifest = folder / "moved" / "m.csv"
    manifest.write_text(manifest.read_text() + "NEW,absent.xml,1,50,1\n")
    assert len(build(manifest, folder / "s.zarr", covariates=("age",), extend=True)) == 301


def test_warnings_and_groups_survive_the_next_extension(folder):
    rows = (folder / "c" / "m.csv").read_text().splitlines()
    path, label = rows[5].split(",")[1:3]
    add(folder, f"SOMEBODY,{path},{label},50,1")
    extend(folder)
    add(folder, f"OTHER,{path},{label},50,1")
    record = read_build_record(extend(folder).path)
    assert len(record["warnings"]) == 2
    assert record["copies"] == [[4, 300, 301]]


def test_only_new_chunks_need_space(folder, monkeypatch):
    (folder / "c" / "m.csv").write_text((folder / "c" / "manifest.csv").read_text())
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 25_000_000)
    )
    assert len(extend(folder)) > 300
