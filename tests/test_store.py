"""The store: the format to the letter, the same values through every reader, damage refused."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import math
import mmap
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray
import zarr

import ecgprep.store.mmap
import ecgprep.store.reader
from ecgprep.errors import STATUSES, StoreError
from ecgprep.files.atomic import canonical_json
from ecgprep.leads import LEADS
from ecgprep.store.format import ARRAYS, CHUNK_RECORDS, QUALITY_FLAGS, Layout
from ecgprep.store.reader import Store
from ecgprep.store.verify import check_store

FORMAT_1 = {
    "waveforms": ("int16", ("record", "lead", "sample")),
    "lead_mask": ("bool", ("record", "lead")),
    "valid_span": ("int32", ("record", "bound")),
    "moments": ("int64", ("record", "lead", "power")),
    "label": ("int8", ("record",)),
    "patient": ("int32", ("record",)),
    "split": ("int8", ("record",)),
    "status": ("uint8", ("record",)),
    "quality": ("uint32", ("record", "lead")),
    "rate_hz": ("float32", ("record",)),
    "crc32c": ("uint32", ("record",)),
    "covariates": ("float32", ("record", "covariate")),
}


@pytest.fixture
def copy(tiny_store, tmp_path) -> Path:
    """A copy of `tiny_store` that a test may damage."""
    return Path(shutil.copytree(tiny_store.path, tmp_path / "copy.zarr"))


def gathered(store: Store, rows: np.ndarray) -> np.ndarray:
    return store.gather(rows, np.empty((len(rows), 8, store.n_samples), np.int16))


def whole(store: Store) -> np.ndarray:
    return gathered(store, np.arange(len(store)))


def test_arrays_are_those_of_format_1(store):
    group = zarr.open_group(store.path, mode="r")
    assert set(group.array_keys()) == {*FORMAT_1, "lead"}
    for name, (dtype, axes) in FORMAT_1.items():
        array = group[name]
        assert str(array.dtype) == dtype
        assert array.metadata.dimension_names == axes
        assert array.shape[0] == len(store)
    assert group["waveforms"].chunks == (CHUNK_RECORDS, 8, 5000)
    assert group["waveforms"].nchunks_initialized == group["waveforms"].nchunks
    assert dict(group["waveforms"].attrs) == {"units": "mV", "scale_factor": 0.001}


def test_group_attributes_are_an_allow_list(store):
    attributes = json.loads((store.path / "zarr.json").read_bytes())["attributes"]
    assert set(attributes) == {
        "format_version",
        "lead_names",
        "sample_rate_hz",
        "n_samples",
        "covariate_names",
        "settings",
        "software",
        "content_sha256",
    }
    assert attributes["lead_names"] == ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]
    assert attributes["format_version"] == 1


def test_status_codes_are_part_of_the_format(store):
    names = (
        "ok file_missing not_regular file_unreadable file_too_large not_xml unknown_format "
        "no_rhythm bad_waveform bad_checksum bad_units bad_rate too_short leads_missing flat "
        "out_of_range reader_crashed duplicate conflict quality"
    )
    assert list(STATUSES[:20]) == names.split()
    attributes = zarr.open_group(store.path, mode="r")["status"].attrs
    assert attributes["flag_meanings"].split() == list(STATUSES)
    assert attributes["flag_values"] == list(range(len(STATUSES)))
    split = zarr.open_group(store.path, mode="r")["split"].attrs
    codes = dict(zip(split["flag_meanings"].split(), split["flag_values"], strict=True))
    assert codes == {"none": -1, "train": 0, "val": 1, "test": 2}


def test_zarr_reads_what_the_map_reads(store):
    group = zarr.open_group(store.path, mode="r")
    np.testing.assert_array_equal(group["waveforms"][:], whole(store))
    for name in ARRAYS:
        np.testing.assert_array_equal(group[name][:], store.array(name))


@pytest.mark.filterwarnings("error")
def test_xarray_shows_millivolts_and_selects_leads_by_name(store):
    data = xarray.open_zarr(store.path)
    assert data["lead"].values.tolist() == list(LEADS)
    v1 = data["waveforms"].isel(record=3).sel(lead="V1").values
    np.testing.assert_allclose(v1, store.waveforms[3, LEADS.index("V1")] / 1000, rtol=1e-6)
    assert data["waveforms"].dims == ("record", "lead", "sample")
    np.testing.assert_allclose(data["waveforms"].values, whole(store) * 0.001, rtol=1e-12)
    assert data["split"].attrs["flag_meanings"] == "none train val test"


def test_content_hash_is_what_the_format_says(store):
    root = json.loads((store.path / "zarr.json").read_bytes())
    claimed = root["attributes"].pop("content_sha256")
    files = {str(p.relative_to(store.path)): p for p in store.path.rglob("*") if p.is_file()}
    for name in ("zarr.json", "lead/zarr.json", "lead/c/0"):
        del files[name]
    del root["consolidated_metadata"]
    lines = [
        f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for name, path in sorted(files.items())
    ]
    text = "".join(lines) + json.dumps(root, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == claimed


def test_last_chunk_is_padded_and_chunks_are_whole_pages():
    layout = Layout(257, 5000)
    assert layout.chunk_files("waveforms") == ["waveforms/c/0/0/0", "waveforms/c/1/0/0"]
    assert layout.chunk_bytes("waveforms") % 4096 == 0


def test_gather_takes_any_rows_in_any_order(store):
    rows = np.array([5, 0, 5, len(store) - 1])
    np.testing.assert_array_equal(gathered(store, rows), store.waveforms[rows])


@pytest.mark.parametrize("row", [-1, 10**6])
def test_gather_refuses_a_row_outside(store, row):
    with pytest.raises(IndexError):
        gathered(store, np.array([row]))


@pytest.mark.parametrize(
    "out",
    [
        np.empty((2, 8, 5000), np.int16),
        np.empty((1, 8, 5000), np.float32),
        np.empty((1, 8, 4999), np.int16),
    ],
)
def test_gather_refuses_a_buffer_that_does_not_fit(store, out):
    with pytest.raises(ValueError, match="out"):
        store.gather(np.array([0]), out)


def test_gather_is_the_same_where_files_cannot_lie_side_by_side(store, monkeypatch):
    monkeypatch.setattr(ecgprep.store.mmap, "can_map_side_by_side", lambda size: False)
    other = Store(store.path)
    np.testing.assert_array_equal(whole(other), store.waveforms)
    assert len(other.waveform_chunks) == math.ceil(len(store) / CHUNK_RECORDS)


def test_files_of_odd_size_are_mapped_one_by_one_without_descriptors(tmp_path):
    for i in range(3):
        (tmp_path / str(i)).write_bytes(bytes([i]) * 5000)
    mapped = ecgprep.store.mmap.map_files([tmp_path / str(i) for i in range(3)], 5000)
    assert [array.size for array in mapped] == [5000] * 3
    assert [(int(array[0]), int(array[-1])) for array in mapped] == [(i, i) for i in range(3)]
    assert not any(isinstance(array, np.memmap) for array in mapped)


@pytest.mark.parametrize("side_by_side", [True, False])
def test_prefetched_bytes_are_those_of_the_rows(store, monkeypatch, side_by_side):
    asked = []

    def will_need(addresses, size):
        asked.extend((address, size) for address in addresses)

    monkeypatch.setattr(ecgprep.store.mmap, "can_map_side_by_side", lambda size: side_by_side)
    monkeypatch.setattr(ecgprep.store.reader, "will_need", will_need)
    other, rows = Store(store.path), np.array([7, 0, len(store) - 1])
    other.prefetch(rows)  # `other` keeps the addresses mapped
    for (address, size), waveform in zip(asked, store.waveforms[rows], strict=True):
        assert ctypes.string_at(address, size) == waveform.tobytes()


def test_advice_covers_whole_pages(monkeypatch):
    calls = []
    libc = SimpleNamespace(madvise=lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(ecgprep.store.mmap, "_libc", lambda: libc)
    page = mmap.PAGESIZE
    ecgprep.store.mmap.will_need([10 * page, 20 * page + 100], 80_000)
    assert calls == [
        (10 * page, 80_000, mmap.MADV_WILLNEED),
        (20 * page, 80_100, mmap.MADV_WILLNEED),
    ]
    monkeypatch.delattr(mmap, "MADV_WILLNEED")
    ecgprep.store.mmap.will_need([10 * page], 80_000)
    assert len(calls) == 2


def test_prefetching_changes_no_value(store):
    other = Store(store.path)
    other.prefetch(np.arange(len(store))[::-1])
    np.testing.assert_array_equal(whole(other), store.waveforms)
    for ask in (other.prefetch, other.is_resident):
        with pytest.raises(IndexError):
            ask(np.array([len(store)]))


def test_store_is_resident_when_it_was_read_and_not_when_it_was_evicted(copy):
    rows = np.arange(0, 40, 3)
    Store(copy).computed_sha256()
    assert Store(copy).is_resident(rows)
    for path in copy.glob("waveforms/c/*/0/0"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if Store(copy).is_resident(rows):
        pytest.skip("files cannot be evicted here: a file system in memory")
    assert len(whole(Store(copy))) == len(Store(copy))


def test_store_counts_as_cold_where_the_system_cannot_tell(store, monkeypatch):
    def unsupported(*arguments: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "preadv", unsupported)
    assert not store.is_resident(np.arange(3))
    monkeypatch.delattr(os, "RWF_NOWAIT")
    assert not store.is_resident(np.arange(3))


MANY_FILES = """
import resource, sys
from pathlib import Path
import numpy as np
import ecgprep.store.mmap
from corpus import fill, sparse_store

path, n_files, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
store = sparse_store(path, n_files * 256, 2)
ecgprep.store.mmap.can_map_side_by_side = lambda size: how == "together"
with (store.path / f"waveforms/c/{n_files - 1}/0/0").open("r+b") as file:
    file.seek(-32, 2)
    file.write(np.arange(16, dtype="<i2").tobytes())

from ecgfit.data.loader import make_loader
from loader import anonymous_mb

before, last = anonymous_mb(), None
for batch in make_loader(store, np.arange(len(store)), 4096):
    last = batch
store.lead_statistics(np.arange(len(store)))
used_mb = anonymous_mb() - before
values = last.waveforms[-1].flatten().tolist()
print(len(store.waveform_chunks), values == list(range(16)), used_mb)
"""


@pytest.mark.parametrize("how", ["together", "one by one"])
@pytest.mark.parametrize("n_files", [500, pytest.param(4000, marks=pytest.mark.full)])
def test_many_chunk_files_need_neither_descriptors_nor_memory(tmp_path, n_files, how):
    """All records are read at `ulimit -n 64`, a million of them within 200 MB."""
    bench = Path(__file__).parent.parent / "bench"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(bench), str(bench.parent)])}
    command = [sys.executable, "-c", MANY_FILES, tmp_path / "many.zarr", str(n_files), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    n_arrays, is_read_to_the_end, used_mb = done.stdout.split()
    assert int(n_arrays) == (1 if how == "together" else n_files)
    assert is_read_to_the_end == "True"
    assert float(used_mb) < n_files / 20


def test_store_that_cannot_be_mapped_says_which_limit_to_look_at(store, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(ecgprep.store.reader, "map_files", full)
    message = r"its 1 chunk files cannot be mapped \(Cannot allocate memory\)"
    with pytest.raises(StoreError, match=message + r".*sysctl vm.max_map_count"):
        gathered(Store(store.path), np.arange(1))


def test_waveforms_are_read_only(store):
    with pytest.raises(ValueError, match="read-only"):
        store.waveforms[0, 0, 0] = 1


def test_array_outlives_the_store(store):
    waveforms = Store(store.path).waveforms
    np.testing.assert_array_equal(waveforms[:3], gathered(store, np.arange(3)))


def test_store_pickles_small_and_prints_well(store):
    assert len(pickle.dumps(store)) < 500
    assert len(pickle.loads(pickle.dumps(store))) == len(store)  # noqa: S301 - our own bytes
    assert repr(store).endswith(f"{len(store):,} records x 8 leads x 5,000 samples at 500 Hz)")


def test_statistics_equal_numpy_on_the_stacked_rows(store):
    rows = np.flatnonzero((store.array("split") == 0) & (store.array("status") == 0))
    x = whole(store)[rows].astype(np.float64)
    mask, span = store.array("lead_mask")[rows], store.array("valid_span")[rows]
    mean, deviation = store.lead_statistics(rows)
    for lead in range(8):
        present = np.flatnonzero(mask[:, lead])
        values = np.concatenate([x[i, lead, span[i, 0] : span[i, 1]] for i in present])
        found, expected = [mean[lead], deviation[lead]], [values.mean(), values.std()]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_statistics_do_not_overflow(store, monkeypatch):
    """Two million full-scale rows: the sum of squares passes 2^63."""
    n = 2_000_000
    arrays = {
        "moments": np.broadcast_to(np.array([0, 5000 * 32767**2]), (n, 8, 2)),
        "valid_span": np.broadcast_to(np.array([0, 5000], np.int32), (n, 2)),
        "lead_mask": np.broadcast_to(np.True_, (n, 8)),
    }
    monkeypatch.setattr(Store, "array", lambda self, name: arrays[name])
    monkeypatch.setattr(Store, "__len__", lambda self: n)
    mean, deviation = store.lead_statistics(np.arange(n))
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_allclose(deviation, 32767, rtol=1e-15)


def test_lead_that_no_row_has_gets_zeros(store):
    mean, deviation = store.lead_statistics(np.array([], np.int64))
    assert not mean.any()
    assert not deviation.any()


def test_statistics_of_a_row_that_is_not_there_are_refused(store):
    for row in (-1, len(store)):
        with pytest.raises(IndexError, match=rf"^row -?\d+ is outside 0\.\.{len(store) - 1}$"):
            store.lead_statistics(np.array([0, row]))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_bytes())
    change(value)
    path.write_bytes(canonical_json(value))


def attribute(name: str, value: object) -> Callable[[Path], None]:
    """Return a damage that sets one attribute of the group."""
    return lambda store: edit(
        store / "zarr.json", lambda root: root["attributes"].update({name: value})
    )


def metadata(array: str, name: str, value: object) -> Callable[[Path], None]:
    """Return a damage that sets one field of an array's metadata."""
    return lambda store: edit(
        store / array / "zarr.json", lambda found: found.update({name: value})
    )


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BIG_ENDIAN = [{"name": "bytes", "configuration": {"endian": "big"}}]
GZIP = [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}]
DAMAGE = {
    "no zarr.json": lambda p: (p / "zarr.json").unlink(),
    "empty zarr.json": lambda p: (p / "zarr.json").write_bytes(b""),
    "not an object": lambda p: (p / "zarr.json").write_bytes(b"[]"),
    "deep json": lambda p: (p / "zarr.json").write_bytes(b"[" * 100_000),
    "version 2 without a task": attribute("format_version", 2),
    "version 3": attribute("format_version", 3),
    "version 1.0": attribute("format_version", 1.0),
    "version 0": attribute("format_version", "0"),
    "zarr 2": lambda p: edit(p / "zarr.json", lambda root: root.update(zarr_format=2)),
    "extra attribute": attribute("hospital", "x"),
    "path in settings": attribute("settings", {"path": "/home/jane"}),
    "code of no covariate": attribute("settings", {"sex_code": {"home": "0=M,1=F"}}),
    "text as sex code": attribute("settings", {"sex_code": {"sex": "Jane Doe"}}),
    "allowed what is no covariate": attribute("settings", {"allow_covariate": ["Jane Doe"]}),
    "text in software": attribute("software", {"numpy": "by Jane Doe"}),
    "rate is text": attribute("sample_rate_hz", "fast"),
    "other leads": attribute("lead_names", [*reversed(LEADS)]),
    "other length": attribute("n_samples", 199),
    "huge shape": metadata("waveforms", "shape", [10**15, 8, 200]),
    "shape is text": metadata("waveforms", "shape", "x"),
    "unknown codec": metadata("waveforms", "codecs", [{"name": "pickle"}]),
    "big-endian": metadata("waveforms", "codecs", BIG_ENDIAN),
    "compressed label": metadata("label", "codecs", GZIP),
    "fifo": lambda p: replace_by_fifo(p / "label/zarr.json"),
    "missing array": lambda p: shutil.rmtree(p / "patient"),
    "missing chunk": lambda p: (p / "waveforms/c/0/0/0").unlink(),
    "short chunk": lambda p: (p / "waveforms/c/0/0/0").write_bytes(b"\0" * 4096),
    "short label": lambda p: (p / "label/c/0").write_bytes(b""),
    "long label": lambda p: (p / "label/c/0").write_bytes((p / "label/c/0").read_bytes() + b"\0"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_store_is_refused_on_opening(copy, name):
    DAMAGE[name](copy)
    with pytest.raises(StoreError):
        Store(copy)


def test_missing_store_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(StoreError, match="`ecgprep build MANIFEST"):
        Store(tmp_path / "absent.zarr")


def test_newer_version_asks_for_an_update(copy):
    DAMAGE["version 3"](copy)
    with pytest.raises(StoreError, match="Update ecgprep"):
        Store(copy)


def test_dtypes_are_little_endian(store):
    for name in ARRAYS:
        dtype = store.array(name).dtype
        assert dtype.newbyteorder("<") == dtype


GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.zarr"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_stores_of_earlier_versions_open_and_are_intact(path):
    """Stores that were committed once and are never made again (golden/README.md)."""
    store = Store(path)
    assert not check_store(path).faults
    assert (len(store), store.n_samples, store.sample_rate_hz) == (20, 100, 50.0)
    assert store.covariate_names == ["age", "sex"]
    assert np.bincount(store.array("status")).tolist() == [19, 1]
    assert store.quality_flags == (() if "without" in path.stem else QUALITY_FLAGS[:9])
    assert whole(store).any(axis=(1, 2)).tolist() == [True] * 19 + [False]


def test_the_golden_stores_are_there():
    assert [path.stem for path in GOLDEN] == ["format1", "format1_without_flags"]
