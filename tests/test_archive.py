"""Packing: a smaller copy that any Zarr reader opens, and the identical store back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from helpers import flip
from numcodecs.zstd import Zstd

from ecgprep.errors import StoreError, TargetExists
from ecgprep.store.archive import pack, unpack
from ecgprep.store.reader import Store


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def bytes_of(folder: Path) -> int:
    return sum(map(len, files_of(folder).values()))


@pytest.fixture(scope="module")
def packed_once(tiny_store, tmp_path_factory) -> Path:
    """A packed copy of `tiny_store`; read-only for tests."""
    path = tmp_path_factory.mktemp("packed") / "p.zarr"
    pack(tiny_store.path, path)
    return path


@pytest.fixture
def packed(packed_once, tmp_path) -> Path:
    """A packed store that a test may damage."""
    return Path(shutil.copytree(packed_once, tmp_path / "p.zarr"))


def test_unpacking_restores_the_store_to_the_byte(small_store, tmp_path):
    packed, restored = tmp_path / "p.zarr", tmp_path / "s.zarr"
    pack(small_store.path, packed)
    unpack(packed, restored)
    assert files_of(restored) == files_of(small_store.path)
    assert bytes_of(packed) < 0.6 * bytes_of(small_store.path)
    assert not list(tmp_path.glob(".*"))


def test_zarr_reads_a_packed_store(tiny_store, packed_once):
    group = zarr.open_group(packed_once, mode="r")
    np.testing.assert_array_equal(group["waveforms"][:], tiny_store.waveforms)
    assert dict(group.attrs) == tiny_store.attributes


def test_packed_store_says_which_command_to_run(packed_once):
    with pytest.raises(StoreError, match="`ecgprep unpack "):
        Store(packed_once)


DAMAGE = {
    "flip": lambda path: flip(path, path.stat().st_size // 2, 2),
    "truncate": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize(
    "name", ["waveforms/c/0/0/0", "label/c/0", "zarr.json", "moments/c/0/0/0", "quality/zarr.json"]
)
@pytest.mark.parametrize("fault", DAMAGE)
def test_damaged_packed_store_is_refused(packed, tmp_path, name, fault):
    DAMAGE[fault](packed / name)
    with pytest.raises(StoreError):
        unpack(packed, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_frame_that_declares_more_than_a_chunk_writes_no_further(packed, tmp_path):
    frame = Zstd().encode(bytes(200_000_000))  # 6 kB
    (packed / "waveforms/c/0/0/0").write_bytes(frame)
    with pytest.raises(StoreError, match="cannot be decompressed"):
        unpack(packed, tmp_path / "s.zarr")


def test_existing_targets_and_other_folders_are_refused(tiny_store, packed_once, tmp_path):
    with pytest.raises(TargetExists):
        pack(tiny_store.path, packed_once)
    with pytest.raises(TargetExists):
        unpack(packed_once, tiny_store.path)
    with pytest.raises(StoreError, match="is not a packed store"):
        unpack(tiny_store.path, tmp_path / "x.zarr")


def test_unknown_codec_is_refused_and_leaves_nothing(tiny_store, tmp_path):
    with pytest.raises(ValueError, match=r"codec \(=gzip\) must be one of zstd"):
        pack(tiny_store.path, tmp_path / "p.zarr", codec="gzip")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_damaged_store_is_not_packed(tiny_store, tmp_path):
    shutil.copytree(tiny_store.path, tmp_path / "s.zarr")
    flip(tmp_path / "s.zarr/waveforms/c/0/0/0", 99)
    with pytest.raises(StoreError, match="is damaged"):
        pack(tmp_path / "s.zarr", tmp_path / "p.zarr")
    assert not (tmp_path / "p.zarr").exists()
