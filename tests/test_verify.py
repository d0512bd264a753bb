"""Verification finds damage that opening cannot see."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import changed_store, flip

from ecgprep.errors import StoreError
from ecgprep.store.verify import VerificationFailed, check_store, verify_new_store

GOLDEN = Path(__file__).parent / "golden" / "format1.zarr"


@pytest.fixture
def copy(tiny_store, tmp_path) -> Path:
    """A copy of `tiny_store` that a test may damage."""
    return Path(shutil.copytree(tiny_store.path, tmp_path / "copy.zarr"))


def test_intact_store_has_no_faults(store):
    result = check_store(store.path)
    assert result.intact
    assert (result.faults, result.bad_rows, result.stray_files) == ((), (), ())


@pytest.mark.parametrize("row", [0, 7, 40])
def test_flipped_bit_of_a_waveform_names_the_row(copy, tiny_store, row):
    record_bytes = tiny_store.waveforms[0].nbytes
    flip(copy / "waveforms/c/0/0/0", row * record_bytes + 1234, 3)
    assert check_store(copy).bad_rows == (row,)


def test_a_new_store_that_is_damaged_says_what_to_do(copy):
    flip(copy / "waveforms/c/0/0/0", 0)
    with pytest.raises(
        VerificationFailed, match=r"^Verification failed: .*Check the disk"
    ) as error:
        verify_new_store(copy)
    assert error.value.bad_rows == (0,)


@pytest.mark.parametrize(
    "name",
    [
        "label/c/0",
        "patient/c/0",
        "split/c/0",
        "moments/c/0/0/0",
        "crc32c/c/0",
        "covariates/c/0/0",
    ],
)
def test_flipped_bit_of_a_small_array_is_found(copy, name):
    flip(copy / name, 3)
    result = check_store(copy)
    assert "its files do not match content_sha256" in result.faults
    assert result.advice == "Restore it from a copy, or build it again."


def test_equal_json_in_other_bytes_is_found(copy):
    metadata = copy / "label/zarr.json"
    metadata.write_bytes(metadata.read_bytes().replace(b"  ", b" "))
    assert "its files do not match content_sha256" in check_store(copy).faults


def damages(folder: Path, every: int) -> Iterator[tuple[Path, int, int | None]]:
    """Yield (file, offset, bit) over all files of a store; bit None cuts off the last byte.

    Small files are damaged at every stride of bytes, large ones at some places.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        stride = every if size < 5_000 else max(every, size // 40)
        for offset in range(0, size, stride):
            yield path, offset, (offset * 7) % 8
        yield path, size - 1, 0
        yield path, size - 1, None


def is_found(copy: Path) -> bool:
    try:
        return bool(check_store(copy).faults)
    except StoreError:
        return True


def sweep(copy: Path, every: int) -> int:
    """Check that each damage alone is found, and return how many there were."""
    missed, n = [], 0
    for path, offset, bit in damages(copy, every):
        before = path.read_bytes()
        if bit is None:
            path.write_bytes(before[:-1])
        else:
            flip(path, offset, bit)
        if not is_found(copy):
            missed.append((path.relative_to(copy), offset, bit))
        path.write_bytes(before)
        n += 1
    assert missed == []
    assert not check_store(copy).faults
    return n


def test_flipped_bits_and_truncation_in_any_file_are_found(tmp_path):
    copy = Path(shutil.copytree(GOLDEN, tmp_path / "copy.zarr"))
    assert sweep(copy, every=311) > 90


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_every_byte_of_the_metadata_and_many_of_the_data(tmp_path):
    copy = Path(shutil.copytree(GOLDEN, tmp_path / "copy.zarr"))
    assert sweep(copy, every=1) > 8_000


def test_files_that_do_not_belong_are_named(copy):
    (copy / ".DS_Store").write_bytes(b"")
    (copy / "label/notes.txt").write_text("Jane Doe")
    result = check_store(copy)
    (fault,) = result.faults
    assert result.advice == "Delete the files that do not belong."
    assert fault.startswith("2 files do not belong to a store: .DS_Store, label/notes.txt (")
    assert ".DS_Store, may be deleted; if no other fault is listed, nothing else is wrong" in fault


def test_a_few_stray_files_are_named_and_the_rest_counted(copy):
    for i in range(8):
        (copy / f"{i}.txt").write_text("")
    (fault,) = check_store(copy).faults
    assert "8 files do not belong to a store: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 3 more" in fault


def test_patient_in_two_splits_is_found(tiny_store, tmp_path):
    patient, split = tiny_store.array("patient"), np.array(tiny_store.array("split"))
    values, first_row, n_rows = np.unique(patient, return_index=True, return_counts=True)
    row = first_row[(n_rows > 1) & (values >= 0)][0]
    split[row] = (split[row] + 1) % 3
    changed = changed_store(tiny_store, tmp_path / "changed.zarr", split=split)
    assert "1 patients have recordings in more than one split" in check_store(changed.path).faults
