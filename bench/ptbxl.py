"""Make a corpus of vendor XML with a manifest from your download of PTB-XL.

    python bench/ptbxl.py PTBXL OUT [--task ABNORM] [--recordings bench/ptbxl_recordings.csv]

It serves to try the whole path on real recordings. PTBXL is the unpacked data set (Wagner et al.,
Scientific Data 2020; PhysioNet, version 1.0.3, CC BY 4.0) with ptbxl_database.csv,
scp_statements.csv, records100/ and records500/ (WFDB format 16). The list names each recording and
the rate at which it is taken; the list in this folder holds 1,965 recordings of 1,835 patients that
have a diagnostic superclass. 60 % of the files are written as GE MUSE (8 leads, 4.88 µV a count),
25 % as HL7 aECG (12 leads, 1 µV), 15 % as GE CardioSoft (12 leads, 5 µV).

A recording has a superclass (NORM, MI, STTC, CD, HYP) when any of its statements, at any
likelihood, is a diagnostic one of that class. ABNORM means not NORM, AFIB the statement itself. No
public data carry a CTRCD label: these tasks stand in for it.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgprep.leads import TWELVE_LEADS
from ecgprep.simulation.vendors import VENDORS

DIALECT_SHARES = (("muse", 0.60), ("aecg", 0.25), ("cardiosoft", 0.15))
TASKS = ("ABNORM", "NORM", "MI", "STTC", "CD", "HYP", "AFIB")
RECORDINGS = Path(__file__).with_name("ptbxl_recordings.csv")

Signal = NDArray[np.int64]
Record = dict[str, str]
"""One line of ptbxl_database.csv."""


@dataclass(frozen=True)
class SignalLine:
    """What a WFDB header says about one lead in format 16."""

    file: str
    gain: float
    baseline: int
    checksum: int
    lead: str

    @classmethod
    def parse(cls, line: str) -> SignalLine:
        """Parse `FILE 16 GAIN(BASELINE)/mV 16 ZERO FIRST CHECKSUM 0 LEAD`."""
        file, storage, gain_and_unit, _, zero, _, checksum, _, lead = line.split()[:9]
        gain, unit = gain_and_unit.split("/")
        if storage != "16" or unit != "mV":
            raise ValueError("a lead is not in format 16, or its unit is not mV")
        gain, has_baseline, baseline = gain.partition("(")
        offset = int(baseline.rstrip(")") if has_baseline else zero)
        return cls(file, float(gain), offset, int(checksum), lead)


def read_wfdb(header: Path) -> tuple[int, Signal]:
    """Read a WFDB record of 12 leads in format 16: (rate in Hz, (12, n) µV).

    Format 16 is little-endian int16, sample 0 of all leads first. The checksum of a lead is the sum
    of its counts modulo 2^16. Raises ValueError for any other record or a damaged one.
    """
    text = header.read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    _, n_leads, rate, n_samples = lines[0].split()[:4]
    if int(n_leads) != 12 or len(lines) != 13:
        raise ValueError(f"{header.name}: not a record of 12 leads")
    try:
        signals = [SignalLine.parse(line) for line in lines[1:]]
    except ValueError as error:
        raise ValueError(f"{header.name}: {error}") from None
    counts = np.fromfile(header.with_name(signals[0].file), "<i2").astype(np.int64)
    counts = counts.reshape(-1, 12).T
    if counts.shape[1] != int(n_samples):
        raise ValueError(f"{header.name}: {counts.shape[1]} samples instead of {n_samples}")
    uv = np.empty_like(counts)
    for row, signal in zip(counts, signals, strict=True):
        if (int(row.sum()) - signal.checksum) % 65536:
            raise ValueError(f"{header.name}: a checksum does not match; the record is damaged")
        lead = next(name for name in TWELVE_LEADS if name.upper() == signal.lead.upper())
        row_uv = np.rint((row - signal.baseline) * 1000 / signal.gain)
        uv[TWELVE_LEADS.index(lead)] = row_uv
    return int(float(rate)), uv


def diagnostic_classes(ptbxl: Path) -> dict[str, str]:
    """Map each diagnostic statement to its superclass."""
    with (ptbxl / "scp_statements.csv").open(newline="") as file:
        rows = csv.reader(file)
        header = next(rows)
        diagnostic, superclass = header.index("diagnostic"), header.index("diagnostic_class")
        classes = {}
        for row in rows:
            if row[diagnostic] and float(row[diagnostic]) == 1:
                classes[row[0]] = row[superclass]
    return classes


def label_of(statements: set[str], classes: dict[str, str], task: str) -> int:
    """Return 1 where the recording has the task."""
    superclasses = {classes[name] for name in statements if name in classes}
    if task == "ABNORM":
        return int("NORM" not in superclasses)
    return int(task in superclasses or task in statements)


def dialect_of(ecg_id: int) -> str:
    """Choose the vendor by a hash of the number, so that it has nothing to do with the label."""
    digest = hashlib.sha256(f"dialect-{ecg_id}".encode()).hexdigest()
    u = int(digest[:8], 16) / 2**32
    for name, share in DIALECT_SHARES:
        u -= share
        if u < 0:
            return name
    return DIALECT_SHARES[-1][0]


def read_rates(recordings: Path) -> dict[int, int]:
    """Read the list of recordings: ecg_id -> rate in Hz."""
    with recordings.open(newline="") as file:
        return {int(row["ecg_id"]): int(row["rate_hz"]) for row in csv.DictReader(file)}


def read_database(ptbxl: Path, wanted: Sequence[int]) -> dict[int, Record]:
    """Read the lines of ptbxl_database.csv that are wanted. Raises ValueError if any is missing."""
    with (ptbxl / "ptbxl_database.csv").open(newline="", encoding="utf-8") as file:
        database = {int(row["ecg_id"]): row for row in csv.DictReader(file)}
    n_missing = len(set(wanted) - database.keys())
    if n_missing:
        raise ValueError(
            f"ptbxl_database.csv lacks {n_missing} of the {len(wanted)} recordings. "
            "Is it that of PTB-XL 1.0.3?"
        )
    return {ecg_id: database[ecg_id] for ecg_id in wanted}


def write_corpus(ptbxl: Path, out: Path, recordings: Path, task: str) -> tuple[int, int]:
    """Write OUT/xml/*.xml and OUT/manifest.csv.

    Returns the numbers of recordings and of positive ones. Raises ValueError for a download that is
    incomplete, damaged or of another version.
    """
    classes = diagnostic_classes(ptbxl)
    rates = read_rates(recordings)
    database = read_database(ptbxl, list(rates))
    (out / "xml").mkdir(parents=True, exist_ok=True)
    rows = []
    for ecg_id, rate_hz in rates.items():
        record = database[ecg_id]
        name = f"xml/{ecg_id:05d}.xml"
        (out / name).write_bytes(vendor_file(ptbxl, record, ecg_id, rate_hz))
        patient = f"P{int(float(record['patient_id'])):05d}"
        label = label_of(set(ast.literal_eval(record["scp_codes"])), classes, task)
        age = str(int(float(record["age"]))) if record["age"] else ""
        rows.append((patient, name, label, age, record["sex"]))
    with (out / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("patient_id", "path_xml", "label", "age", "sex"), *rows])
    return len(rows), sum(label for _, _, label, _, _ in rows)


def vendor_file(ptbxl: Path, record: Record, ecg_id: int, rate_hz: int) -> bytes:
    """Return one recording as a vendor would export it."""
    stem = record["filename_lr" if rate_hz == 100 else "filename_hr"]
    found_hz, uv = read_wfdb(ptbxl / f"{stem}.hea")
    if found_hz != rate_hz:
        raise ValueError(f"recording {ecg_id}: {found_hz} Hz instead of {rate_hz}")
    return VENDORS[dialect_of(ecg_id)](uv, rate_hz, f"E{ecg_id}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, write, say what to run next."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ptbxl", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", choices=TASKS, default="ABNORM")
    parser.add_argument("--recordings", type=Path, default=RECORDINGS)
    chosen = parser.parse_args(arguments)
    try:
        n, n_positive = write_corpus(chosen.ptbxl, chosen.out, chosen.recordings, chosen.task)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        sys.exit(f"Error: {error}")
    print(f"{n:,} recordings, {n_positive:,} positive, in {chosen.out}.")
    print(f"Next: make prep MANIFEST={chosen.out / 'manifest.csv'}")


if __name__ == "__main__":
    main()
