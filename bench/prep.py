"""How fast and how lean is a build? Ratios are taken side by side in one run.

    python bench/prep.py [--files 512] [--rounds 5]

Floor: the bare parse of the same MUSE files by the standard library's ElementTree and base64, with
nothing checked and nothing kept. Goal: one file to one row in at most twice that time.

Jobs: one build with two jobs against two builds of half the files each at the same time. Goal: 0.9
of their speed.

Memory: the peak of a whole build at 2,000 and at 50,000 rows, each in a process of its own.
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

import ecgprep
from ecgprep.building.parts import build_part, read_one
from ecgprep.building.plan import BuildSettings, Plan
from ecgprep.conform import Conformity
from ecgprep.patients.manifest import read_manifest

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
    plan = Plan(manifest, folder / "p.zarr", BuildSettings(), folder / "p.csv")
    plan.built.mkdir(parents=True)

    def read_and_conform() -> None:
        for path in manifest.path_xml:
            read_one(folder, path, Conformity())

    def build_parts() -> None:
        for part in plan.parts():
            build_part(part)

    def whole_build() -> None:
        store, registry = folder / "s.zarr", folder / "r.csv"
        ecgprep.build(manifest.path, store, registry=registry, replace=True)

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
    floor_us = 1e6 * statistics.median(times["floor"]) / n_files
    print(f"{'floor: ElementTree + base64':32s} {floor_us:10.0f} {1:20.2f}")
    for name in stages:
        print_line(name, 1e6 * statistics.median(times[name]) / n_files, ratios[name])


def print_line(name: str, value: float, ratios: list[float]) -> None:
    """Print a line of a table: a name, a value, the median and the range of ratios."""
    spread = f"[{min(ratios):.2f}..{max(ratios):.2f}]"
    print(f"{name:32s} {value:10.0f} {statistics.median(ratios):6.2f} {spread:>13s}")


OPTIONS = ("--replace", "--duplicates", "exact", "--json")
"""Simulated hearts are much alike, so the search for near duplicates would dominate the time.

It has a benchmark of its own, duplicates.py.
"""


def time_jobs(folder: Path, rounds: int) -> None:
    """Print the files a second of one build with two jobs.

    It is compared with two builds of half the files each at the same time, and with one job.
    """
    lines = (folder / "manifest.csv").read_text().splitlines()
    half = len(lines) // 2
    for name, rows in (("a", lines[1:half]), ("b", lines[half:])):
        (folder / f"half_{name}.csv").write_text("\n".join([lines[0], *rows]) + "\n")

    def start(manifest: str, *options: str) -> subprocess.Popen[bytes]:
        build = [sys.executable, "-m", "ecgprep", "build", manifest, f"{manifest}.zarr"]
        return subprocess.Popen(
            [*build, *OPTIONS, *options],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run(*builds: tuple[str, ...]) -> float:
        begun = time.perf_counter()
        processes = [start(*arguments) for arguments in builds]
        codes = [process.wait() for process in processes]
        if any(codes):
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
        pairs = zip(times["two builds of half"], values, strict=True)
        files_a_second = (len(lines) - 1) / statistics.median(values)
        print_line(name, files_a_second, [both / value for both, value in pairs])


WATCHED_BUILD = """
import sys, threading, time
import ecgprep
peak, over = 0, threading.Event()
def watch():
    global peak
    while not over.wait(0.005):
        with open('/proc/self/status') as file:
            line = next(line for line in file if line.startswith('RssAnon'))
        peak = max(peak, int(line.split()[1]))
thread = threading.Thread(target=watch)
thread.start()
ecgprep.build(sys.argv[1], sys.argv[2], length=100, max_rejected=1.0)
over.set()
thread.join()
print(1024 * peak, file=sys.stderr)
"""
"""Anonymous memory is what a build needs.

Mapped pages of the store are page cache, which the system takes back.
"""


def peak_of_a_build(folder: Path, n_rows: int) -> int:
    """Return the peak of anonymous memory, in bytes, of a build of `n_rows` rows.

    512 of the files exist, the rest are missing.
    """
    n_files = len(list((folder / "xml").glob("*.xml")))
    lines = ["patient_id,path_xml,label"]
    for i in range(n_rows):
        name = i if i < n_files else "absent"
        lines.append(f"B{i},xml/{name}.xml,{i % 2}")
    manifest = folder / f"m{n_rows}.csv"
    manifest.write_text("\n".join(lines) + "\n")
    store = manifest.with_suffix(".zarr")
    command = [sys.executable, "-c", WATCHED_BUILD, str(manifest), str(store)]
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
        few, many = MEMORY_ROWS
        per_row = (peaks[1] - peaks[0]) / (many - few)
        print(
            f"\npeak memory: {peaks[0] / 1e6:.0f} MB at {few:,} rows, "
            f"{peaks[1] / 1e6:.0f} MB at {many:,}: {per_row:.0f} B a row"
        )


if __name__ == "__main__":
    main()
