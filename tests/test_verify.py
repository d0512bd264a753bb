"""Verification finds damage that opening cannot see."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ecgprep.errors import StoreError
from ecgprep.store.verify import check_store


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


@pytest.mark.parametrize(
    "name",
    [
        "label/c/0",
        "patient/c/0",
        "split/c/0",
        "moments/c/0/0/0",
        "crc32c/c/0",
        "covariates/c/0/0",
        "label/zarr.json",
    ],
)
def test_flipped_bit_anywhere_else_is_found(copy, name):
    if name.endswith("json"):
        (copy / name).write_bytes(
            (copy / name).read_bytes().replace(b"  ", b" ")
        )  # equal JSON, other bytes
    else:
        flip(copy / name, 3)
    assert "its files do not match content_sha256" in check_store(copy).faults


def damages(folder: Path, every: int):
    """Yield (file, offset, bit) over all files of a store: every byte of small ones up to a stride, some of the large ones."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        stride = every if size < 5_000 else max(every, size // 40)
        yield from ((path, offset, (offset * 7) % 8) for offset in range(0, size, stride))
        yield path, size - 1, 0
        yield path, size - 1, None


def is_found(path: Path, copy: Path) -> bool:
    try:
        return bool(check_store(copy).faults)
    except StoreError:
        return True


def sweep(copy: Path, every: int) -> int:
    missed, n = [], 0
    for path, offset, bit in damages(copy, every):
        before = path.read_bytes()
        path.write_bytes(before[:-1]) if bit is None else flip(path, offset, bit)
        if not is_found(path, copy):
            missed.append((path.relative_to(copy), offset, bit))
        path.write_bytes(before)
        n += 1
    assert missed == []
    assert not check_store(copy).faults
    return n


def test_flipped_bits_and_truncation_in_any_file_are_found(tmp_path):
    golden = Path(__file__).parent / "golden" / "format1.zarr"
    assert sweep(Path(shutil.copytree(golden, tmp_path / "copy.zarr")), every=131) > 150


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_every_byte_of_the_metadata_and_many_of_the_data(tmp_path):
    golden = Path(__file__).parent / "golden" / "format1.zarr"
    assert sweep(Path(shutil.copytree(golden, tmp_path / "copy.zarr")), every=1) > 8_000


def test_files_that_do_not_belong_are_named(copy):
    (copy / ".DS_Store").write_bytes(b"")
    (copy / "label/notes.txt").write_text("Jane Doe")
    (fault,) = check_store(copy).faults
    assert fault.startswith("2 files do not belong to a store: .DS_Store, label/notes.txt (")
    assert ".DS_Store, may be deleted; if no other fault is listed, nothing else is wrong" in fault


def test_a_few_stray_files_are_named_and_the_rest_counted(copy):
    for i in range(8):
        (copy / f"{i}.txt").write_text("")
    (fault,) = check_store(copy).faults
    assert "8 files do not belong to a store: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 3 more" in fault


def test_patient_in_two_splits_is_found(copy, store):
    patient = store.array("patient")
    row = next(r for r in range(len(store)) if (patient == patient[r]).sum() > 1)
    split = np.array(store.array("split"))
    split[row] = (split[row] + 1) % 3
    (copy / "split/c/0").write_bytes(split.tobytes())
    assert any(
        "1 patients have recordings in more than one split" in fault
        for fault in check_store(copy).faults
    )
