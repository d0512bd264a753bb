"""How fast is `ecgprep index`, against reading the recordings alone?

    python bench/index.py [--files 1000] [--rounds 7] [--samples FOLDER]

Both take the same files in one process, in turns: reading alone turns each file into arrays in µV;
index also finds the files, reads who, when and the measurements, decides the status, and writes the
table. Then the table is made again, with every file known. Times are those of the processor. With
--samples, a folder with real MUSE files in data/xml, copies of those are taken as well.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import ecgprep
from ecgprep.errors import RecordError
from ecgprep.readers import read_recording
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import muse


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time of one call: other programs disturb it less than the clock."""
    start = time.process_time()
    work()
    return time.process_time() - start


def read_all(paths: list[Path]) -> None:
    """Read every file, and do nothing else."""
    for path in paths:
        with contextlib.suppress(RecordError):
            read_recording(path)


def compare(title: str, export: Path, rounds: int) -> None:
    """Print files per second of both, and their ratio in every round."""
    paths = sorted(export.rglob("*.xml"))
    table = export.parent / "ecg.csv"
    reading, indexing, again = [], [], []
    for _ in range(rounds):
        table.unlink(missing_ok=True)
        table.with_name("ecg.csv.known").unlink(missing_ok=True)
        reading.append(len(paths) / seconds(lambda: read_all(paths)))
        indexing.append(len(paths) / seconds(lambda: ecgprep.write_index(export, table)))
        again.append(len(paths) / seconds(lambda: ecgprep.write_index(export, table)))
    ratios = sorted(one / other for one, other in zip(indexing, reading, strict=True))
    print(f"\n{title}: {len(paths):,} files of {paths[0].stat().st_size / 1000:,.0f} kB")
    print(f"  reading alone  {statistics.median(reading):9,.0f} files/s")
    print(f"  index          {statistics.median(indexing):9,.0f} files/s")
    print(f"  index again    {statistics.median(again):9,.0f} files/s")
    print(f"  index / reading {statistics.median(ratios):.2f}; {ratios[0]:.2f} to {ratios[-1]:.2f}")


def write_simulated(export: Path, n_files: int, rate_hz: int) -> None:
    """Write MUSE files that differ by noise, a hundred to a folder."""
    generator = np.random.default_rng(0)
    uv = simulate(Heart.draw(generator, 0), rate_hz, generator)
    for i in range(n_files):
        folder = export / f"{i // 100:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        noisy = uv + generator.integers(-20, 20, uv.shape)
        (folder / f"{i:06d}.xml").write_bytes(muse(noisy, rate_hz, f"B{i}"))


def copy_real(samples: Path, export: Path, n_files: int) -> None:
    """Copy the real MUSE files in turn until there are enough."""
    real = [path for path in sorted((samples / "data" / "xml").glob("*/*.xml")) if is_muse(path)]
    export.mkdir()
    for i in range(n_files):
        shutil.copyfile(real[i % len(real)], export / f"{i:06d}.xml")


def is_muse(path: Path) -> bool:
    """Return whether a file is one that the MUSE reader reads."""
    with contextlib.suppress(RecordError):
        return read_recording(path).dialect == "muse"
    return False


def main() -> None:
    """Print a table per kind of files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for rate_hz in (500, 250):
            export = Path(folder) / f"{rate_hz}"
            write_simulated(export, arguments.files, rate_hz)
            compare(f"MUSE, simulated, {rate_hz} Hz", export, arguments.rounds)
        if arguments.samples:
            export = Path(folder) / "real"
            copy_real(arguments.samples, export, arguments.files)
            compare("MUSE, real", export, arguments.rounds)


if __name__ == "__main__":
    main()
