"""A store made from the rows of another has the bytes of a build from the vendor files."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import DYING, command, files_of, flip, statuses, write_recordings

import ecgprep
import ecgprep.building.derivation
from ecgprep.errors import InputError, NoSpace, StoreError, TargetExists, TooManyRejects
from ecgprep.store.reader import Store
from ecgprep.store.record import private_path, read_build_record

OPTIONS = {"hz": 100, "length": 1000, "covariates": ("age",), "max_rejected": 0.2}
N = 262
"""Recordings: one whole chunk, and a second one with copies and a missing file below them."""

DERIVE_AND_DIE = (
    DYING
    + """
for name in ("fsync", "replace", "rename", "link"):
    setattr(os, name, counted(getattr(os, name)))
folder = Path(sys.argv[1])
ecgprep.derive(folder / "s.zarr", folder / "new.zarr", manifest=folder / "c/m.csv",
               label_column="mace", max_rejected=0.2)
print(count)
"""
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A corpus in `c` with a second endpoint, copies and a missing file, and its store."""
    folder = tmp_path_factory.mktemp("derive")
    lines = write_recordings(folder / "c", N).read_text().splitlines()
    lines += [
        "P3,xml/absent.xml,1,50,1",
        "P7,xml/7b.xml,1,47,1",  # the same patient twice
        "P9,xml/9b.xml,1,49,0",  # another label for the second endpoint
        "OTHER,xml/11b.xml,1,41,1",  # another patient: a conflict
    ]
    for k in (7, 9, 11):
        shutil.copy(folder / f"c/xml/{k}.xml", folder / f"c/xml/{k}b.xml")
    rows = [f"{line},{int(k % 4 == 0)}" for k, line in enumerate(lines[1:])]
    (folder / "c" / "m.csv").write_text("\n".join([f"{lines[0]},mace", *rows, ""]))
    ecgprep.build(folder / "c" / "m.csv", folder / "s.zarr", registry=folder / "r.csv", **OPTIONS)
    return folder


@pytest.fixture
def folder(stored, tmp_path) -> Path:
    """A copy of `stored`."""
    target = Path(shutil.copytree(stored, tmp_path / "f"))
    record = private_path(target / "s.zarr", "build.json")
    record.write_text(record.read_text().replace(str(stored), str(target)))
    return target


def lines_of(folder: Path) -> list[str]:
    return (folder / "c" / "m.csv").read_text().splitlines()


def write(folder: Path, rows: list[str]) -> Path:
    path = folder / "c" / "new.csv"
    path.write_text("\n".join([lines_of(folder)[0], *rows, ""]))
    return path


def derive(folder: Path, manifest: Path | None = None, **options) -> Store:
    given = {"manifest": manifest or folder / "c" / "m.csv", "max_rejected": 0.2}
    return ecgprep.derive(folder / "s.zarr", folder / "new.zarr", **given | options)


def built(folder: Path, manifest: Path | None = None, **options) -> Store:
    """Build from the vendor files, with a copy of the registry as it was before."""
    registry = folder / "again.csv"
    shutil.copy(folder / "r.csv", registry)
    given = OPTIONS | {"registry": registry} | options
    return ecgprep.build(manifest or folder / "c" / "m.csv", folder / "again.zarr", **given)


def assert_same(derived: Store, again: Store) -> None:
    assert files_of(derived.path) == files_of(again.path)
    assert private_path(derived.path, "rejects.csv").read_bytes() == (
        private_path(again.path, "rejects.csv").read_bytes()
    )
    ours, theirs = read_build_record(derived.path), read_build_record(again.path)
    for name in ("copies", "dialects", "ids", "messages", "rows_sha256"):
        assert ours[name] == theirs[name], name
    np.testing.assert_array_equal(ours["sources"], theirs["sources"])


def test_another_endpoint_gives_the_bytes_of_a_build_and_needs_no_files(folder):
    again = built(folder, label_column="mace")
    shutil.rmtree(folder / "c" / "xml")
    derived = derive(folder, label_column="mace")
    assert_same(derived, again)
    found = [statuses(store)[N:] for store in (Store(folder / "s.zarr"), derived)]
    assert found == [
        ["file_missing", "duplicate", "duplicate", "conflict"],
        ["file_missing", "duplicate", "conflict", "conflict"],
    ]
    linked = [os.stat(store.path / "waveforms/c/0/0/0").st_ino for store in (derived, again)]
    assert linked[0] == os.stat(folder / "s.zarr/waveforms/c/0/0/0").st_ino != linked[1]
    assert not (folder / ".new.zarr.building").exists()


@pytest.mark.parametrize("searched_again", [20_000, 0])
def test_a_shuffled_subset_gives_the_bytes_of_a_build(folder, monkeypatch, searched_again):
    monkeypatch.setattr(ecgprep.building.derivation, "SEARCHED_AGAIN", searched_again)
    rows = lines_of(folder)[1:]
    order = np.random.default_rng(1).permutation(N)[:60].tolist()
    chosen = [*dict.fromkeys([7, 9, *order]), N + 1, N + 2, N + 3]  # without 11: no conflict left
    chosen.remove(11) if 11 in chosen else None
    manifest = write(folder, [rows[k] for k in chosen])
    assert_same(derive(folder, manifest), built(folder, manifest))


def test_a_row_listed_twice_is_a_duplicate(folder):
    rows = lines_of(folder)[1:]
    manifest = write(folder, [*rows, rows[4]])
    derived = derive(folder, manifest)
    assert statuses(derived)[-1] == "duplicate"
    assert_same(derived, built(folder, manifest))


def test_a_new_registry_splits_anew_and_other_covariates_are_taken(folder):
    how = {"split": "50/25/25", "covariates": ("age", "sex"), "exclude_quality": ("noise",)}
    derived = derive(folder, registry=folder / "n.csv", **how)
    again = built(folder, registry=folder / "n2.csv", **how)
    assert_same(derived, again)
    assert (folder / "n.csv").read_bytes() == (folder / "n2.csv").read_bytes()
    old, new = Store(folder / "s.zarr").array("split"), derived.array("split")
    assert (old != new).any()


def test_splits_stand_unless_a_registry_is_named(folder):
    with pytest.raises(InputError, match="--registry NEW"):
        derive(folder, split="50/25/25")
    derived = derive(folder, label_column="mace")
    old, new = Store(folder / "s.zarr"), derived
    both = (old.array("patient") >= 0) & (new.array("patient") >= 0)
    for name in ("patient", "split"):
        np.testing.assert_array_equal(old.array(name)[both], new.array(name)[both])


def test_rows_of_the_store_can_be_chosen_by_a_table(folder):
    table = ecgprep.rows(folder / "s.zarr")
    kept = table[(table["status"] == "ok") & (table["row"] % 3 != 0)]
    kept.to_csv(folder / "kept.csv", index=False)
    rows = lines_of(folder)[1:]
    again = built(folder, write(folder, [rows[row] for row in kept["row"]]))
    derived = derive(folder, rows=folder / "kept.csv")
    assert files_of(derived.path) == files_of(again.path)


def test_without_a_record_rows_are_matched_by_position(folder):
    private_path(folder / "s.zarr", "build.json").unlink()
    with pytest.raises(InputError, match="Put it back"):
        derive(folder, registry=folder / "r.csv")
    again = built(folder, label_column="mace")
    derived = derive(folder, registry=folder / "r.csv", by_row=True, label_column="mace")
    assert files_of(derived.path) == files_of(again.path)
    shorter = write(folder, lines_of(folder)[1:9])
    with pytest.raises(InputError, match="has 8 rows"):
        ecgprep.derive(folder / "s.zarr", folder / "x.zarr", manifest=shorter, by_row=True)


def test_rows_that_the_store_does_not_have_are_named_by_line(folder):
    manifest = write(folder, [lines_of(folder)[1], "P1,xml/77.xml,1,40,1,0"])
    with pytest.raises(InputError, match=r"line 3: .* has no row .*\(1 row\)") as error:
        derive(folder, manifest)
    assert "xml/77" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("row\n999\n", "line 2, row: must be a row of the store, 0 to 265"),
        ("row\nx\n", "line 2, row: must be"),
        ("row\n", "no rows"),
        ("line\n2\n", "column missing: row"),
    ],
)
def test_bad_tables_of_rows_are_refused(folder, text, fault):
    (folder / "bad.csv").write_text(text)
    with pytest.raises(InputError, match=fault):
        derive(folder, rows=folder / "bad.csv")


def test_a_damaged_store_is_not_passed_on(folder):
    registry = (folder / "r.csv").read_bytes()
    flip(folder / "s.zarr/waveforms/c/0/0/0", 5000)
    with pytest.raises(StoreError, match="is damaged"):
        derive(folder)
    assert not (folder / "new.zarr").exists()
    assert (folder / "r.csv").read_bytes() == registry


def test_what_ends_a_build_ends_this_before_anything_is_published(folder, monkeypatch):
    with pytest.raises(TooManyRejects):
        derive(folder, max_rejected=0.0)
    (folder / "taken.zarr").mkdir()
    with pytest.raises(TargetExists):
        ecgprep.derive(folder / "s.zarr", folder / "taken.zarr", manifest=folder / "c/m.csv")

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(NoSpace):
        derive(folder)
    monkeypatch.undo()
    assert not (folder / "new.zarr").exists()
    assert_same(derive(folder), built(folder))


def killed_at(folder: Path, at: int) -> int:
    """Derive in a process that kills itself at its `at`-th step to the disk; return all steps."""
    done = subprocess.run(
        [sys.executable, "-c", DERIVE_AND_DIE, folder, str(at)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == 0:
        return int(done.stdout)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return 0


def test_a_killed_derivation_leaves_nothing_and_the_next_one_ends_in_the_same_bytes(folder):
    registry = (folder / "r.csv").read_bytes()
    n_steps = killed_at(folder, 0)
    whole = files_of(folder / "new.zarr")
    record = private_path(folder / "new.zarr", "build.json").read_bytes()
    for at in (1, 3, n_steps // 2, *range(n_steps - 5, n_steps + 1)):
        for path in folder.glob("*new.zarr*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (folder / "r.csv").write_bytes(registry)
        assert killed_at(folder, at) == 0
        try:
            derive(folder, label_column="mace")
        except TargetExists:  # it was published before the process died
            assert at > n_steps - 5
        assert files_of(folder / "new.zarr") == whole
        assert private_path(folder / "new.zarr", "build.json").read_bytes() == record
        assert not (folder / ".new.zarr.building").exists()


def test_command_prints_what_is_in_the_new_store(folder):
    done = command(
        *("derive", folder / "s.zarr", folder / "new.zarr", "--manifest", folder / "c/m.csv"),
        *("--label-column", "mace", "--covariates", "sex", "--max-rejected", "0.2"),
    )
    assert done.returncode == 0, done.stderr
    assert "266 rows" in done.stdout
    assert Store(folder / "new.zarr").covariate_names == ["sex"]
