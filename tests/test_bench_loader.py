"""The loader's benchmarks measure what they say: the same rows, the same values."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from ecgprep.building.plan import BuildSettings
from ecgprep.building.run import build_store
from ecgprep.patients.manifest import read_manifest

sys.path.append(str(Path(__file__).parent.parent / "bench"))

import alternatives
import corpus
import floor
import loader

INSTALLED = [
    "Dataset per item, no workers",
    "one .npy per record",
    "zarr, blocks of 256",
    "zarr, items",
    "XML, parsed again",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> alternatives.Source:
    folder = tmp_path_factory.mktemp("bench")
    manifest = read_manifest(corpus.write_muse_corpus(folder, 40))
    store = build_store(
        manifest, folder / "s.zarr", BuildSettings(), registry_path=folder / "r.csv"
    )
    (folder / "work").mkdir()
    return alternatives.Source(store, folder, folder / "work")


@pytest.mark.parametrize("name", INSTALLED)
def test_every_way_returns_what_the_store_holds(source, name):
    way = next(way for way in alternatives.WAYS if way.name == name)
    rates = alternatives.measure(way, source, 1)
    assert {key: len(values) for key, values in rates.items()} == {
        "way": 1,
        "gather": 1,
        "loader": 1,
        "floor": 1,
    }
    assert min(min(values) for values in rates.values()) > 0


def test_way_that_returns_something_else_is_refused(source):
    way = alternatives.Way(
        "wrong",
        "numpy",
        lambda source, rows: lambda: iter([(rows[0], np.zeros((len(rows[0]), 8, 5000), np.int16))]),
    )
    with pytest.raises(ValueError, match="wrong does not return what the store holds"):
        alternatives.measure(way, source, 1)


def test_missing_package_is_named_and_the_others_go_on(source, monkeypatch, capsys):
    absent = alternatives.Way("an absent one", "no_such_package", alternatives.lmdb)
    there = next(way for way in alternatives.WAYS if way.name == "one .npy per record")
    monkeypatch.setattr(alternatives, "WAYS", [absent, there])
    alternatives.compare_others(source.corpus, source.store.path, 8, 1, None)
    skipped, measured = capsys.readouterr().out.splitlines()[-2:]
    assert skipped.split("  ")[-1].strip() == "skipped: no_such_package is not installed"
    assert measured.startswith("one .npy per record")
    assert not list(source.corpus.glob("tmp*"))


def test_floor_copies_the_rows(source, tmp_path, monkeypatch):
    rows, values = np.array([3, 0, 39]), np.array(source.store.waveforms)
    for compiler in (shutil.which("cc"), None):
        monkeypatch.setattr(floor.shutil, "which", lambda name, found=compiler: found)
        name, gather = floor.memcpy_gather(tmp_path)
        out = np.empty((3, 8, 5000), np.int16)
        gather(values, rows, out)
        np.testing.assert_array_equal(out, values[rows])
        assert ("numpy" in name or "np.take" in name) == (compiler is None)


def test_large_store_of_zeros_opens(tmp_path):
    store = corpus.sparse_store(tmp_path / "large.zarr", 600, 2)
    assert (len(store), store.waveforms.shape) == (600, (600, 8, 2))
    corpus.fill(store, "lead_mask", np.ones((600, 8), bool))
    assert store.array("lead_mask").all()


def test_tables_are_printed(capsys):
    loader.main(["--records", "40", "--rounds", "1", "--large", "600", "--without-others"])
    out = capsys.readouterr().out
    assert "cold: batches of 32" in out or "cold: skipped" in out
    warm = next(line for line in out.splitlines() if line.startswith("    32 "))
    assert len(warm.split("[")) == 6
    assert "600 records in 3 chunk files" in out
    assert "mean and deviation of all rows" in out
