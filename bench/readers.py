"""How fast are the readers, against the floor and against other packages?

    python bench/readers.py [--files 60] [--rounds 7] [--samples FOLDER]

Ratios are taken side by side in one run, per dialect: from a file on disk to arrays in µV. The
floor reads the file, parses it with the standard library's ElementTree (after what that needs to
accept the file) and decodes the numbers; it checks nothing. Other packages are used where they are
installed (extra `bench`: ecgdatakit, ecg2dcm, sierraecg) and named where they are not. With
--samples, a folder with real files in data/xml, those are read too.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib
import io
import statistics
import tempfile
import time
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ecgprep.conform import Conformity, conform
from ecgprep.readers import read_recording
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import VENDORS

Reader = Callable[[Path], object]


def floor(path: Path) -> None:
    """Parse with ElementTree and decode every text that is Base64 or a long list of numbers."""
    for element in ET.fromstring(path.read_bytes()).iter():  # noqa: S314 - our own files
        for text in (element.text or "", element.get("V") or "", element.get("DATA") or ""):
            if len(text) <= 500:
                continue
            if "," in text or " " in text.strip():
                [int(token) for token in text.replace(",", " ").split()]
            else:
                base64.b64decode(text)


def read_and_conform(path: Path) -> None:
    """Do what a build does with a file, without writing."""
    conform(read_recording(path), Conformity())


def rivals() -> dict[str, tuple[Reader, frozenset[str]]]:
    """Return the other packages that are installed, with the dialects that each claims."""
    found: dict[str, tuple[Reader, frozenset[str]]] = {}
    with contextlib.suppress(ImportError):
        parser = importlib.import_module("ecgdatakit").FileParser()
        found["ecgdatakit"] = (parser.parse, frozenset({"muse", "aecg", "philips", "mortara"}))
    with contextlib.suppress(ImportError):
        parse = importlib.import_module("ecg2dcm").parse
        claimed = frozenset({"muse", "aecg", "cardiosoft", "philips", "schiller", "mortara"})
        found["ecg2dcm"] = (lambda path: parse(str(path)), claimed)
    with contextlib.suppress(ImportError):
        read_file = importlib.import_module("sierraecg").read_file
        found["sierraecg"] = (lambda path: read_file(str(path)), frozenset({"philips"}))
    for name in {"ecgdatakit", "ecg2dcm", "sierraecg"} - found.keys():
        print(f"{name} is not installed: skipped (pip install 'ecgprep-ecgfit[bench]')")
    return found


def seconds(reader: Reader, paths: list[Path]) -> float:
    """Time one pass over the files."""
    start = time.perf_counter()
    for path in paths:
        reader(path)
    return time.perf_counter() - start


def why_not(reader: Reader, path: Path) -> str:
    """Return an empty text, or why a reader cannot be timed on this file."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            reader(path)
    except Exception as error:
        return type(error).__name__
    return ""


def compare(title: str, paths: list[Path], others: dict[str, Reader], rounds: int) -> None:
    """Print a line per reader: µs a file, and how many times ecgprep's time it takes."""
    candidates: dict[str, Reader] = {
        "ecgprep": read_recording,
        "ecgprep + conform": read_and_conform,
        "floor": floor,
        **others,
    }
    refusals = {name: why_not(reader, paths[0]) for name, reader in candidates.items()}
    readers = {name: reader for name, reader in candidates.items() if not refusals[name]}
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, reader in readers.items():
            times[name].append(seconds(reader, paths) / len(paths))
    print(f"\n{title}")
    for name, values in times.items():
        ratios = [value / own for value, own in zip(values, times["ecgprep"], strict=True)]
        median_us = 1e6 * statistics.median(values)
        spread = f"[{min(ratios):.2f}..{max(ratios):.2f}]"
        ratio = statistics.median(ratios)
        print(f"  {name:20s} {median_us:9.0f} µs a file {ratio:8.2f} {spread:>16s}")
    for name, why in refusals.items():
        if why:
            print(f"  {name:20s} cannot read it ({why})")


def compare_simulated(n_files: int, rounds: int) -> None:
    """Print one table per dialect, on files that differ by noise."""
    others = rivals()
    generator = np.random.default_rng(0)
    uv = simulate(Heart.draw(generator, 0), 500, generator)
    with tempfile.TemporaryDirectory() as folder:
        for dialect, write in VENDORS.items():
            paths = [Path(folder) / f"{dialect}{i}.xml" for i in range(n_files)]
            for path in paths:
                path.write_bytes(write(uv + generator.integers(-20, 20, uv.shape), 500, "B"))
            claiming = {
                name: reader for name, (reader, dialects) in others.items() if dialect in dialects
            }
            compare(f"{dialect}, simulated, 500 Hz", paths, claiming, rounds)


def compare_real(samples: Path, rounds: int) -> None:
    """Print one table per real file that ecgprep reads and conforms."""
    others = {name: reader for name, (reader, _) in rivals().items()}
    for file in sorted((samples / "data" / "xml").glob("*/*")):
        if file.suffix.lower() == ".xml" and not why_not(read_and_conform, file):
            compare(f"real: {file.name}", [file] * 20, others, rounds)


def main() -> None:
    """Print one table per dialect, and one per real file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    compare_simulated(arguments.files, arguments.rounds)
    if arguments.samples:
        compare_real(arguments.samples, arguments.rounds)


if __name__ == "__main__":
    main()
