"""What the benchmarks work on: simulated MUSE files at 500 Hz, and large stores of zeros."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.leads import LEADS
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import muse
from ecgprep.store.format import ARRAYS, FORMAT_VERSION, Layout
from ecgprep.store.reader import Store


def write_muse_corpus(folder: Path, n_files: int) -> Path:
    """Write `n_files` different recordings of as many patients and return the manifest."""
    (folder / "xml").mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows: list[tuple[str, str, str | int]] = [("patient_id", "path_xml", "label")]
    for i in range(n_files):
        label = i % 2
        uv = simulate(Heart.draw(generator, label), 500, generator)
        (folder / "xml" / f"{i}.xml").write_bytes(muse(uv, 500, f"B{i}"))
        rows.append((f"B{i}", f"xml/{i}.xml", label))
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return manifest


def sparse_store(path: Path, n_records: int, n_samples: int) -> Store:
    """Write a store of zeros, all status `ok` and train.

    It takes no room on disk: its files have holes where the values would be.
    """
    layout = Layout(n_records, n_samples)
    for name in ARRAYS:
        (path / name).mkdir(parents=True)
        (path / name / "zarr.json").write_text(json.dumps(layout.metadata(name)))
        for chunk in layout.chunk_files(name):
            (path / chunk).parent.mkdir(parents=True, exist_ok=True)
            with (path / chunk).open("wb") as file:
                file.truncate(layout.chunk_bytes(name))
    attributes = {
        "format_version": FORMAT_VERSION,
        "lead_names": list(LEADS),
        "sample_rate_hz": 500.0,
        "n_samples": n_samples,
        "covariate_names": [],
        "settings": {},
        "software": {},
        "content_sha256": "",
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (path / "zarr.json").write_text(json.dumps(group))
    return Store(path)


def fill(store: Store, name: str, values: NDArray[Any]) -> None:
    """Write one array of a store of `sparse_store`, whole."""
    (file,) = store.layout.chunk_files(name)
    assert values.shape == store.layout.shape(name)
    assert values.dtype == np.dtype(ARRAYS[name].dtype)
    with (store.path / file).open("r+b") as out:
        out.write(values.tobytes())


def anonymous_mb() -> float:
    """Return how much memory of this process is not backed by a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e3
    raise RuntimeError("/proc/self/status has no RssAnon: this needs Linux 4.5 or later")
