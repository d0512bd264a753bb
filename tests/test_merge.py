"""One store of several: rows, patients and splits stand; recordings in two of them are found."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    DYING,
    build,
    changed_store,
    command,
    files_of,
    flip,
    statuses,
    write_recordings,
)

import ecgprep
from ecgprep.building.plan import BuildSettings
from ecgprep.conform import Conformity
from ecgprep.errors import InputError, NoSpace, StoreError, TargetExists
from ecgprep.files.atomic import write_json
from ecgprep.patients.confounding import probe_confounding
from ecgprep.patients.registry import SplitPlan
from ecgprep.store.format import ARRAYS, content_sha256
from ecgprep.store.reader import Store
from ecgprep.store.verify import check_store

SETTINGS = BuildSettings(Conformity(100, 1000), SplitPlan(allow_missing_class=True))
N_NORTH, N_SOUTH, N_SHARED = 260, 40, 3
"""The first store has a whole chunk and 4 rows more; 3 recordings of it are in the second."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The stores `north.zarr` and `south.zarr`, without private files; read-only for tests."""
    folder = tmp_path_factory.mktemp("merge")
    lines = write_recordings(folder / "c", N_NORTH + N_SOUTH - N_SHARED).read_text().splitlines()
    header, rows = lines[0], lines[1:]
    parts = {"north": rows[:N_NORTH], "south": rows[N_NORTH - N_SHARED :]}
    for name, part in parts.items():
        (folder / "c" / f"{name}.csv").write_text("\n".join([header, *part, ""]))
        covariates = ("age", "sex") if name == "north" else ("sex",)
        build(folder / "c" / f"{name}.csv", folder / f"{name}.zarr", SETTINGS, covariates)
    for path in folder.glob("*.*"):
        if path.is_file():
            path.unlink()
    return folder


@pytest.fixture(scope="module")
def stores(folder) -> list[Store]:
    return [Store(folder / "north.zarr"), Store(folder / "south.zarr")]


@pytest.fixture(scope="module")
def merged(stores, tmp_path_factory) -> Store:
    return ecgprep.merge(
        stores, tmp_path_factory.mktemp("m") / "both.zarr", sites=["north", "south"]
    )


SHARED = [*range(N_NORTH - N_SHARED, N_NORTH), *range(N_NORTH, N_NORTH + N_SHARED)]


def test_every_array_is_that_of_the_stores_one_below_the_other(stores, merged):
    own = np.ones(len(merged), bool)
    own[SHARED] = False
    for name in ARRAYS:
        if name in ("patient", "covariates"):
            continue
        expected = np.concatenate([store.array(name) for store in stores])
        rows = slice(None) if name not in ("status", "split") else own
        np.testing.assert_array_equal(merged.array(name)[rows], expected[rows], name)
    assert check_store(merged.path).intact
    assert {path.name for path in merged.path.parent.iterdir()} <= {"both.zarr", ".both.zarr.lock"}


def test_recordings_in_two_stores_are_conflicts(merged):
    found = np.flatnonzero(np.array(statuses(merged)) == "conflict")
    assert found.tolist() == SHARED
    assert (merged.array("patient")[SHARED] == -1).all()
    assert (merged.array("split")[SHARED] == -1).all()


def test_patients_stay_apart_and_keep_their_split(stores, merged):
    patient, split = merged.array("patient"), merged.array("split")
    parts = [slice(0, N_NORTH), slice(N_NORTH, None)]
    numbers = [set(patient[part].tolist()) - {-1} for part in parts]
    assert not numbers[0] & numbers[1]
    for store, part in zip(stores, parts, strict=True):
        used = patient[part] >= 0
        assert len(np.unique(patient[part][used] - store.array("patient")[used])) == 1
        np.testing.assert_array_equal(split[part][used], store.array("split")[used])


def test_common_covariates_and_the_site_are_kept(stores, merged):
    assert merged.covariate_names == ["sex", "site"]
    sex = [stores[0].array("covariates")[:, 1], stores[1].array("covariates")[:, 0]]
    np.testing.assert_array_equal(merged.array("covariates")[:, 0], np.concatenate(sex))
    site = merged.array("covariates")[:, 1]
    np.testing.assert_array_equal(site, np.repeat([0, 1], [N_NORTH, N_SOUTH]))
    assert merged.attributes["settings"]["sites"] == ["north", "south"]


def test_whole_chunks_are_linked(folder, merged):
    inodes = [
        os.stat(path / "waveforms/c/0/0/0").st_ino for path in (folder / "north.zarr", merged.path)
    ]
    assert inodes[0] == inodes[1]


def test_the_probe_asks_the_site(stores, tmp_path):
    labels = [np.full(len(store), k, np.int8) for k, store in enumerate(stores)]
    changed = []
    for k, (store, label) in enumerate(zip(stores, labels, strict=True)):
        if k == 0:
            changed.append(store)
            continue
        path = changed_store(store, tmp_path / "raw.zarr", label=label).path
        changed.append(republished(path))
    merged = ecgprep.merge(changed, tmp_path / "b.zarr", sites="a,b")
    probe = probe_confounding(merged)
    assert "site" in probe.auroc
    assert probe.auroc["site"] > 0.55


DIE = (
    DYING
    + """
for name in ("fsync", "replace", "rename", "link"):
    setattr(os, name, counted(getattr(os, name)))
folder = Path(sys.argv[1])
stores = [folder / "north.zarr", folder / "south.zarr"]
ecgprep.merge(stores, sys.argv[3], sites=["north", "south"])
print(count)
"""
)


def test_killed_or_out_of_disk_it_leaves_nothing_and_can_be_repeated(
    folder, stores, merged, tmp_path, monkeypatch
):
    out = tmp_path / "b.zarr"

    def killed_at(at: int) -> str:
        done = subprocess.run(
            [sys.executable, "-c", DIE, folder, str(at), out],
            check=False, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == (-signal.SIGKILL if at else 0), done.stderr
        return done.stdout

    n_steps = int(killed_at(0))
    for at in (1, 4, n_steps // 2, n_steps - 2):
        shutil.rmtree(out, ignore_errors=True)
        killed_at(at)
        assert not out.exists()
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(NoSpace):
        ecgprep.merge(stores, out, sites=["north", "south"])
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} <= {".b.zarr.lock"}
    again = ecgprep.merge(stores, out, sites=["north", "south"])
    assert files_of(again.path) == files_of(merged.path)


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "full")


def republished(path: Path) -> Store:
    """Give a changed store the hash of its content."""
    root = json.loads((path / "zarr.json").read_bytes())
    root["attributes"]["content_sha256"] = content_sha256(path, root, Store(path).layout)
    write_json(path / "zarr.json", root)
    return Store(path)


def test_command_gives_the_same_bytes(folder, merged, tmp_path):
    done = command(
        "merge", folder / "north.zarr", folder / "south.zarr", tmp_path / "b.zarr",
        "--sites", "north,south",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 recordings are in more than one of the stores" in done.stderr
    assert files_of(tmp_path / "b.zarr") == files_of(merged.path)


def test_what_does_not_fit_is_refused_and_leaves_nothing(folder, stores, small_store, tmp_path):
    out = tmp_path / "x.zarr"
    for given, options, why in [
        (stores[:1], {}, "two stores or more"),
        ([stores[0], stores[0]], {"sites": "a,b"}, "more than once"),
        (stores, {"sites": "a"}, "must name each of the 2 stores"),
        (stores, {"sites": "a,Dr. Who"}, "must name each"),
    ]:
        with pytest.raises(InputError, match=why):
            ecgprep.merge(given, out, **options)
    damaged = Path(shutil.copytree(folder / "south.zarr", tmp_path / "d.zarr"))
    flip(damaged / "waveforms/c/0/0/0", 999)
    with pytest.raises(StoreError, match="is damaged"):
        ecgprep.merge([stores[0], damaged], out)
    out.mkdir()
    with pytest.raises(TargetExists):
        ecgprep.merge(stores, out)
    assert not any(out.iterdir())
    assert not list(tmp_path.glob(".x.zarr.m*"))


def test_a_merged_store_is_not_merged_or_derived_again(stores, merged, folder, tmp_path):
    with pytest.raises(InputError, match="in one command"):
        ecgprep.merge([merged, stores[0]], tmp_path / "x.zarr")
    with pytest.raises(InputError, match="Derive each of those"):
        ecgprep.derive(
            merged, tmp_path / "x.zarr", manifest=folder / "c" / "north.csv", by_row=True
        )
