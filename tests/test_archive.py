"""Packing: a smaller copy that any Zarr reader opens, and the identical store back."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import zarr

from ecgprep.errors import StoreError, TargetExists
from ecgprep.store.archive import pack, unpack
from ecgprep.store.reader import Store


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def packed(store, tmp_path):
    pack(store.path, tmp_path / "p.zarr")
    return tmp_path / "p.zarr"


def test_unpacking_restores_the_store_to_the_byte(store, packed, tmp_path):
    unpack(packed, tmp_path / "s.zarr")
    assert files_of(tmp_path / "s.zarr") == files_of(store.path)
    assert sum(map(len, files_of(packed).values())) < 0.6 * sum(
        map(len, files_of(store.path).values())
    )
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_zarr_reads_a_packed_store(store, packed):
    group = zarr.open_group(packed, mode="r")
    np.testing.assert_array_equal(group["waveforms"][:], store.waveforms)
    assert dict(group.attrs) == store.attributes


def test_packed_store_says_which_command_to_run(packed):
    with pytest.raises(StoreError, match="`ecgprep unpack "):
        Store(packed)


@pytest.mark.parametrize(
    "name", ["waveforms/c/0/0/0", "label/c/0", "zarr.json", "moments/c/0/0/0", "quality/zarr.json"]
)
@pytest.mark.parametrize("fault", ["flip", "truncate", "missing"])
def test_damaged_packed_store_is_refused(packed, tmp_path, name, fault):
    path = packed / name
    data = bytearray(path.read_bytes())
    if fault == "missing":
        path.unlink()
    else:
        data[len(data) // 2] ^= 4
        path.write_bytes(data if fault == "flip" else data[:-5])
    with pytest.raises(StoreError):
        unpack(packed, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_frame_that_declares_more_than_a_chunk_writes_no_further(packed, tmp_path):
    from numcodecs.zstd import Zstd

    (packed / "waveforms/c/0/0/0").write_bytes(Zstd().encode(bytes(200_000_000)))  # 6 kB
    with pytest.raises(StoreError, match="cannot be decompressed"):
        unpack(packed, tmp_path / "s.zarr")


def test_existing_targets_and_other_folders_are_refused(store, packed, tmp_path):
    with pytest.raises(TargetExists):
        pack(store.path, packed)
    with pytest.raises(TargetExists):
        unpack(packed, store.path)
    with pytest.raises(StoreError, match="is not a packed store"):
        unpack(store.path, tmp_path / "x.zarr")


def test_damaged_store_is_not_packed(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "s.zarr")
    chunk = tmp_path / "s.zarr/waveforms/c/0/0/0"
    data = bytearray(chunk.read_bytes())
    data[99] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match="is damaged"):
        pack(tmp_path / "s.zarr", tmp_path / "p.zarr")
    assert not (tmp_path / "p.zarr").exists()
