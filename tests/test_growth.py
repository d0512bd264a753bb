"""bench/growth.py: what it writes can be built and loaded, and its projection is a line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from growth import building, loading, projection, table, watched, write_files, write_store

from ecgfit.data.rows import select_rows
from ecgfit.data.statistics import NormStats
from ecgprep.store.reader import Store


def test_files_that_are_written_are_all_built(tmp_path):
    figures = watched(lambda: building(write_files(tmp_path, 20)))
    store = Store(tmp_path / "s.zarr")
    assert (store.array("status")[:] == 0).all()
    assert len(store) == 20
    assert figures.keys() == {"us_a_row", "memory_mb"}
    assert figures["us_a_row"] > 0


def test_a_large_store_opens_and_trains_on_its_train_rows(tmp_path):
    store = write_store(tmp_path / "s.zarr", 700)
    assert (
        sum(
            (tmp_path / "s.zarr" / name).stat().st_blocks * 512
            for name in store.layout.chunk_files("waveforms")
        )
        < 1e6
        < 700 * 80_000
    )
    rows = select_rows(store, "train", "drop")
    assert len(rows) == 490
    assert min(NormStats.of(store, rows).std_uv) > 0
    assert loading(store.path).keys() == {"open_ms", "statistics_ms", "us_a_row"}


def test_projection_goes_on_with_the_line_through_both_sizes():
    building = [{"us_a_row": 500.0, "memory_mb": 40.0}, {"us_a_row": 400.0, "memory_mb": 60.0}]
    loading = [
        {"open_ms": 1.0, "statistics_ms": 10.0, "us_a_row": 9.0, "memory_mb": 20.0},
        {"open_ms": 3.0, "statistics_ms": 30.0, "us_a_row": 9.0, "memory_mb": 20.0},
    ]
    training = [
        {"prepare_ms": 100.0, "first_step_ms": 5.0, "step_ms": 32.0, "memory_mb": 200.0}
    ] * 2
    found = {"building": building, "loading": loading, "training": training}
    text = projection([1_000, 3_000], found, rows=1_003_000)
    assert "opening and mapping: 1.0 s" in text  # 3 ms and 1 ms for each further 1,000 rows
    assert "memory of building: 10,060 MB" in text
    assert "preparing a run: 0.1 s" in text
    assert "1,003,000 x 400 µs = 0.1 h" in text
    assert "| building: µs a row | 500 | 400 |" in table([1_000, 3_000], found)


def test_a_failure_of_what_is_watched_is_raised():
    with pytest.raises(ZeroDivisionError):
        watched(lambda: {"x": 1 / 0})
