"""What other programs add to a store, or find in it, is no damage; what lies there is."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import xarray
import zarr
from helpers import command, files_of

import ecgprep
from ecgfit.evaluation.evaluate import evaluate_run
from ecgfit.inference.files import predict_store
from ecgfit.run import RunFolder
from ecgprep.errors import StoreError
from ecgprep.files.atomic import write_json
from ecgprep.store.format import content_sha256
from ecgprep.store.reader import Store
from ecgprep.store.verify import check_store

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.zarr"))


@pytest.fixture
def copy(tiny_store, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_store.path, tmp_path / "copy.zarr"))


def consolidate(path: Path) -> None:
    """Let zarr-python rewrite the root, as a user would."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that version 3 does not specify this yet
        zarr.consolidate_metadata(path)


def built_by(path: Path, **versions: str) -> Store:
    """Make a store one that other versions built: the root and its hash say so."""
    root = json.loads((path / "zarr.json").read_bytes())
    root["attributes"]["software"] |= versions
    root["attributes"]["content_sha256"] = content_sha256(path, root, Store(path).layout)
    write_json(path / "zarr.json", root)
    return Store(path)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_consolidating_an_old_store_is_no_damage(golden, tmp_path):
    path = Path(shutil.copytree(golden, tmp_path / "old.zarr"))
    consolidate(path)
    assert Store(path).content_sha256 == Store(golden).content_sha256
    assert check_store(path).intact
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xarray.open_zarr(path)


def test_our_consolidated_metadata_are_those_that_zarr_writes(copy):
    ours = json.loads((copy / "zarr.json").read_bytes())
    consolidate(copy)
    assert json.loads((copy / "zarr.json").read_bytes()) == ours
    assert check_store(copy).intact


def test_a_packed_store_opens_and_is_restored_with_what_was_added(tiny_store, copy, tmp_path):
    consolidate(copy)
    for name, path in {"a": tiny_store.path, "b": copy}.items():
        packed = ecgprep.pack(path, tmp_path / f"{name}.packed.zarr")
        data = xarray.open_zarr(packed)
        assert data["lead"].values[2] == "V1"
        assert int(abs(data["waveforms"].values).sum()) > 0
        restored = ecgprep.unpack(packed, tmp_path / f"{name}.zarr")
        assert files_of(restored.path) == files_of(path)


def swap_leads(path: Path) -> None:
    chunk = path / "lead/c/0"
    chunk.write_bytes(chunk.read_bytes().replace(b"V1", b"V9"))


def lie_in_the_root(path: Path) -> None:
    root = json.loads((path / "zarr.json").read_bytes())
    root["consolidated_metadata"]["metadata"]["label"]["data_type"] = "int16"
    write_json(path / "zarr.json", root)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (swap_leads, "the coordinate lead does not name the leads"),
        (lie_in_the_root, "the consolidated metadata differ"),
        (lambda path: (path / "lead/c/0").unlink(), "the coordinate lead"),
        (lambda path: (path / "lead/c/1").write_bytes(b""), "1 file does not belong"),
    ],
)
def test_additions_that_contradict_the_store_are_faults(copy, damage, fault):
    damage(copy)
    assert fault in "; ".join(check_store(copy).faults)


def test_a_store_that_other_versions_built_serves_the_run(trained_run, tiny_store, copy, caplog):
    caplog.set_level("INFO", "ecgfit")
    other = built_by(copy, numpy="1.0.0")
    assert other.content_sha256 != tiny_store.content_sha256
    before = predict_store(trained_run, tiny_store, "test")
    assert predict_store(trained_run, other, "test").equals(before)
    trained_run.check_store(other)
    assert "only the versions" in caplog.text
    with pytest.raises(StoreError, match="not an external test"):
        evaluate_run(trained_run, other, "all", external=True)
    (copy / "label/c/0").write_bytes(bytes(len(tiny_store)))
    with pytest.raises(StoreError, match="trained on another store"):
        trained_run.check_store(Store(copy))


def test_a_run_that_did_not_record_the_versions_needs_its_own_store(trained_run, copy, tmp_path):
    path = Path(shutil.copytree(trained_run.path, tmp_path / "old"))
    config = path / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    start = next(k for k, line in enumerate(lines) if line.strip() == "software:")
    indent = len(lines[start]) - len(lines[start].lstrip())
    end = next(
        k for k in range(start + 1, len(lines)) if len(lines[k]) - len(lines[k].lstrip()) <= indent
    )
    config.write_text("".join(lines[:start] + lines[end:]))
    run = RunFolder(path)
    run.check_store(Store(copy))
    with pytest.raises(StoreError, match="trained on another store"):
        run.check_store(built_by(copy, numpy="1.0.0"))


def test_verify_compares_two_stores_without_their_versions(tiny_store, copy):
    built_by(copy, numpy="1.0.0")
    done = command("verify", copy, "--same-as", tiny_store.path)
    assert (done.returncode, done.stdout) == (
        0,
        f"{copy} is intact, and the same as {tiny_store.path}.\n",
    )
    label = copy / "label/c/0"
    label.write_bytes(bytes(byte ^ 1 for byte in label.read_bytes()))
    built_by(copy)
    done = command("verify", copy, "--same-as", tiny_store.path)
    assert done.returncode == StoreError.exit_code
    assert f"is intact, but differs from {tiny_store.path} in label." in done.stderr
