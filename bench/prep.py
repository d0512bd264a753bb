"""How fast and how lean is a build? Ratios are taken side by side in one run.

    python bench/prep.py [--files 512] [--rounds 5]

Floor: the bare parse of the same MUSE files, standard library ElementTree and base64, nothing checked and nothing kept. Goal: one file
to one row at no more than twice that. Jobs: one build with two against two builds of half the files each at the same time; goal: 0.9. Memory: peak of
a whole build at 2,000 and at 50,000 rows, in processes of their own.
"""

from __future__ import annotations

import argparse
import base64
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

from corpus import write_muse_corpus

from ecgprep.building.parts import Part, build_part, read_one
from ecgprep.building.plan import BuildSettings
from ecgprep.building.run import build_store
from ecgprep.conform import Conformity
from ecgprep.patients.manifest import read_manifest
from ecgprep.store.format import CHUNK_RECORDS

MEMORY_ROWS = (2_000, 50_000)


def bare_parse(paths: list[Path]) -> None:
    """Read, parse and decode: what any reader of these files must at least do."""
    for path in paths:
        for element in ET.fromstring(path.read_bytes()).iter("WaveFormData"):  # noqa: S314 - our own files
            base64.b64decode(element.text or "")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def time_builds(folder: Path, n_files: int, rounds: int) -> None:
    """Print microseconds a file and the ratio to the floor of each stage."""
    manifest = read_manifest(write_muse_corpus(folder, n_files))
    paths = [folder / path for path in manifest.path_xml]

    def read_and_conform() -> None:
        for path in manifest.path_xml:
            read_one(folder, path, Conformity())

    def build_parts() -> None:
        for first in range(0, n_files, CHUNK_RECORDS):
            rows = slice(first, first + CHUNK_RECORDS)
            build_part(
                Part(
                    first // CHUNK_RECORDS,
                    folder,
                    manifest.path_xml[rows],
                    manifest.line[rows],
                    Conformity(),
                    folder / "work",
                )
            )

    def whole_build() -> None:
        build_store(
            manifest,
            folder / "s.zarr",
            BuildSettings(),
            registry_path=folder / "r.csv",
            replace=True,
        )

    stages = {
        "file to row (read, conform)": read_and_conform,
        "parts (… and write, fsync)": build_parts,
        "whole build (… and verify)": whole_build,
    }
    ratios: dict[str, list[float]] = {name: [] for name in stages}
    times: dict[str, list[float]] = {name: [] for name in ("floor", *stages)}
    for _ in range(rounds):
        for name, stage in stages.items():
            floor = seconds(lambda: bare_parse(paths))
            taken = seconds(stage)
            times["floor"].append(floor)
            times[name].append(taken)
            ratios[name].append(taken / floor)
    print(f"{'stage':32s} {'µs a file':>10s} {'ratio to the floor':>20s}")
    print(
        f"{'floor: ElementTree + base64':32s} {1e6 * statistics.median(times['floor']) / n_files:10.0f} {1:20.2f}"
    )
    for name in stages:
        spread = f"[{min(ratios[name]):.2f}..{max(ratios[name]):.2f}]"
        print(
            f"{name:32s} {1e6 * statistics.median(times[name]) / n_files:10.0f} {statistics.median(ratios[name]):6.2f} {spread:>13s}"
        )


BUILD = "import sys; from ecgprep.cli import cli; cli(['build', *sys.argv[1:], '--replace', '--duplicates', 'exact', '--json'], standalone_mode=False)"
"""Simulated hearts are so alike that the search for re-exported ones would be what is timed; it has a benchmark of its own, duplicates.py."""


def time_jobs(folder: Path, rounds: int) -> None:
    """Print files a second of one build with two jobs, against two builds of half the files each at the same time, and against one job."""
    lines = (folder / "manifest.csv").read_text().splitlines()
    half = len(lines) // 2
    for name, rows in (("a", lines[1:half]), ("b", lines[half:])):
        (folder / f"half_{name}.csv").write_text("\n".join([lines[0], *rows]) + "\n")

    def start(manifest: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", BUILD, manifest, f"{manifest}.zarr", *options]
        return subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def run(*builds: tuple[str, ...]) -> float:
        begun = time.perf_counter()
        if sum([process.wait() for process in [start(*arguments) for arguments in builds]]):
            raise SystemExit("a build failed")
        return time.perf_counter() - begun

    times: dict[str, list[float]] = {
        "two builds of half": [],
        "one build, two jobs": [],
        "one build, one job": [],
    }
    for _ in range(rounds):
        times["two builds of half"].append(run(("half_a.csv",), ("half_b.csv",)))
        times["one build, two jobs"].append(run(("manifest.csv", "--jobs", "2")))
        times["one build, one job"].append(run(("manifest.csv",)))
    print(f"\n{'with start and finish':32s} {'files/s':>10s} {'of two builds':>20s}")
    for name, values in times.items():
        ratios = [
            both / value for both, value in zip(times["two builds of half"], values, strict=True)
        ]
        spread = f"[{min(ratios):.2f}..{max(ratios):.2f}]"
        print(
            f"{name:32s} {(len(lines) - 1) / statistics.median(values):10.0f} {statistics.median(ratios):6.2f} {spread:>13s}"
        )


WATCHED_BUILD = """
import sys, threading, time
from ecgprep.cli import cli
peak, over = 0, threading.Event()
def watch():
    global peak
    while not over.wait(0.005):
        with open('/proc/self/status') as file:
            peak = max(peak, next(int(line.split()[1]) for line in file if line.startswith('RssAnon')))
thread = threading.Thread(target=watch)
thread.start()
cli(['build', *sys.argv[1:], '--length', '100', '--max-rejected', '1', '--json'], standalone_mode=False)
over.set()
thread.join()
print(1024 * peak, file=sys.stderr)
"""
"""Anonymous memory is what a build needs; mapped pages of the store are page cache, which the system takes back."""


def peak_of_a_build(folder: Path, n_rows: int) -> int:
    """Return the peak of anonymous memory, in bytes, of a build of `n_rows` rows: 512 files that are there, the rest missing."""
    n_files = len(list((folder / "xml").glob("*.xml")))
    lines = [
        "patient_id,path_xml,label",
        *(f"B{i},xml/{'absent' if i >= n_files else i}.xml,{i % 2}" for i in range(n_rows)),
    ]
    manifest = folder / f"m{n_rows}.csv"
    manifest.write_text("\n".join(lines) + "\n")
    command = [
        sys.executable,
        "-c",
        WATCHED_BUILD,
        str(manifest),
        str(manifest.with_suffix(".zarr")),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stderr.strip().splitlines()[-1])


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        time_builds(Path(folder), arguments.files, arguments.rounds)
        write_muse_corpus(Path(folder) / "jobs", 6 * arguments.files)
        time_jobs(Path(folder) / "jobs", max(1, arguments.rounds // 2))
        peaks = [peak_of_a_build(Path(folder), n) for n in MEMORY_ROWS]
        per_row = (peaks[1] - peaks[0]) / (MEMORY_ROWS[1] - MEMORY_ROWS[0])
        print(
            f"\npeak memory: {peaks[0] / 1e6:.0f} MB at {MEMORY_ROWS[0]:,} rows, {peaks[1] / 1e6:.0f} MB at {MEMORY_ROWS[1]:,}: {per_row:.0f} B a row"
        )


if __name__ == "__main__":
    main()
