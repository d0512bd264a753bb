"""Verification finds damage that opening cannot see."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ecgprep.verify import check_store


@pytest.fixture
def copy(store, tmp_path) -> Path:
    return Path(shutil.copytree(store.path, tmp_path / "copy.zarr"))


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def test_intact_store_has_no_faults(store):
    result = check_store(store.path)
    assert (result.faults, result.bad_rows) == ((), ())


@pytest.mark.parametrize("row", [0, 7, 40])
def test_flipped_bit_of_a_waveform_names_the_row(copy, row):
    flip(copy / "waveforms/c/0/0/0", row * 80_000 + 12_345, 3)
    assert check_store(copy).bad_rows == (row,)


@pytest.mark.parametrize("name", ["label/c/0", "patient/c/0", "split/c/0", "moments/c/0/0/0", "crc32c/c/0", "covariates/c/0/0", "label/zarr.json"])
def test_flipped_bit_anywhere_else_is_found(copy, name):
    if name.endswith("json"):
        (copy / name).write_bytes((copy / name).read_bytes().replace(b"  ", b" "))  # equal JSON, other bytes
    else:
        flip(copy / name, 3)
    assert "its files do not match content_sha256" in check_store(copy).faults


def test_file_that_does_not_belong_is_found(copy):
    (copy / "patients.txt").write_text("Jane Doe")
    assert check_store(copy).faults == ("1 files are in it that do not belong to a store",)


def test_patient_in_two_splits_is_found(copy, store):
    patient = store.array("patient")
    row = next(r for r in range(len(store)) if (patient == patient[r]).sum() > 1)
    split = np.array(store.array("split"))
    split[row] = (split[row] + 1) % 3
    (copy / "split/c/0").write_bytes(split.tobytes())
    assert any("1 patients have recordings in more than one split" in fault for fault in check_store(copy).faults)
