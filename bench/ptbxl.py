"""From your download of PTB-XL to a corpus of vendor XML with a manifest, to try the whole path on real recordings.

    python bench/ptbxl.py PTBXL OUT [--task ABNORM] [--recordings bench/ptbxl_recordings.csv]

PTBXL is the unpacked data set (Wagner et al., Scientific Data 2020; PhysioNet, version 1.0.3, CC BY 4.0) with ptbxl_database.csv,
scp_statements.csv, records100/ and records500/ (WFDB format 16). The list names each recording and the rate at which it is taken; the one
in this folder holds 1,965 recordings of 1,835 patients that have a diagnostic superclass. 60 % of the files are written as GE MUSE (8 leads,
4.88 µV a count), 25 % as HL7 aECG (12 leads, 1 µV), 15 % as GE CardioSoft (12 leads, 5 µV).

A recording has a superclass (NORM, MI, STTC, CD, HYP) when any of its statements, at any likelihood, is a diagnostic one of that class;
ABNORM means not NORM, AFIB the statement itself. No public data carry a CTRCD label: these tasks stand in for it.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgprep.leads import TWELVE_LEADS
from ecgprep.simulation.vendors import VENDORS

DIALECT_SHARES = (("muse", 0.60), ("aecg", 0.25), ("cardiosoft", 0.15))
TASKS = ("ABNORM", "NORM", "MI", "STTC", "CD", "HYP", "AFIB")


def read_wfdb(header: Path) -> tuple[int, NDArray[np.int64]]:
    """Read a WFDB record of 12 leads in format 16: (rate in Hz, (12, n) µV). Raises ValueError when it is not one or is damaged.

    Format 16 is sample-interleaved little-endian int16; each header line gives gain(baseline)/mV and a 16-bit sum as checksum.
    """
    lines = [
        line.split()
        for line in header.read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    (_, n_leads, rate, n_samples), signals = lines[0][:4], lines[1:]
    if (int(n_leads), len(signals)) != (12, 12) or any(signal[1] != "16" for signal in signals):
        raise ValueError(f"{header.name}: not a record of 12 leads in format 16")
    counts = np.fromfile(header.with_name(signals[0][0]), "<i2").astype(np.int64).reshape(-1, 12).T
    if counts.shape[1] != int(n_samples):
        raise ValueError(f"{header.name}: {counts.shape[1]} samples instead of {n_samples}")
    uv = np.empty_like(counts)
    for row, signal in zip(counts, signals, strict=True):
        gain, unit = signal[2].split("/")
        baseline = gain[gain.index("(") + 1 : -1] if "(" in gain else signal[4]
        if unit != "mV" or (int(row.sum()) - int(signal[6])) % 65536:
            raise ValueError(f"{header.name}: unit is not mV, or a checksum does not match")
        lead = next(name for name in TWELVE_LEADS if name.upper() == signal[8].upper())
        uv[TWELVE_LEADS.index(lead)] = np.rint(
            (row - int(baseline)) * 1000 / float(gain.split("(")[0])
        )
    return int(float(rate)), uv


def diagnostic_classes(folder: Path) -> dict[str, str]:
    """Map each diagnostic statement to its superclass."""
    with (folder / "scp_statements.csv").open(newline="") as file:
        rows = csv.reader(file)
        header = next(rows)
        diagnostic, superclass = header.index("diagnostic"), header.index("diagnostic_class")
        return {
            row[0]: row[superclass]
            for row in rows
            if row[diagnostic] and float(row[diagnostic]) == 1
        }


def label_of(statements: set[str], classes: dict[str, str], task: str) -> int:
    """1 where the recording has the task."""
    superclasses = {classes[name] for name in statements if name in classes}
    if task == "ABNORM":
        return int("NORM" not in superclasses)
    return int(task in superclasses or task in statements)


def dialect_of(ecg_id: int) -> str:
    """Choose the vendor by a hash of the number, so that it has nothing to do with the label."""
    u = int(hashlib.sha256(f"dialect-{ecg_id}".encode()).hexdigest()[:8], 16) / 2**32
    for name, share in DIALECT_SHARES:
        u -= share
        if u < 0:
            return name
    return DIALECT_SHARES[-1][0]


def write_corpus(ptbxl: Path, out: Path, recordings: Path, task: str) -> tuple[int, int]:
    """Write OUT/xml/*.xml and OUT/manifest.csv; return the numbers of recordings and of positive ones."""
    classes = diagnostic_classes(ptbxl)
    with recordings.open(newline="") as file:
        rates = {int(row["ecg_id"]): int(row["rate_hz"]) for row in csv.DictReader(file)}
    with (ptbxl / "ptbxl_database.csv").open(newline="", encoding="utf-8") as file:
        database = {
            int(row["ecg_id"]): row for row in csv.DictReader(file) if int(row["ecg_id"]) in rates
        }
    missing = len(rates.keys() - database.keys())
    if missing:
        raise ValueError(
            f"ptbxl_database.csv lacks {missing} of the {len(rates)} recordings. Is it that of PTB-XL 1.0.3?"
        )
    (out / "xml").mkdir(parents=True, exist_ok=True)
    rows = []
    for ecg_id, rate_hz in rates.items():
        row = database[ecg_id]
        found_hz, uv = read_wfdb(
            ptbxl / (row["filename_lr" if rate_hz == 100 else "filename_hr"] + ".hea")
        )
        if found_hz != rate_hz:
            raise ValueError(f"recording {ecg_id}: {found_hz} Hz instead of {rate_hz}")
        name = f"xml/{ecg_id:05d}.xml"
        (out / name).write_bytes(VENDORS[dialect_of(ecg_id)](uv, rate_hz, f"E{ecg_id}"))
        label = label_of(set(ast.literal_eval(row["scp_codes"])), classes, task)
        age = str(int(float(row["age"]))) if row["age"] else ""
        rows.append((f"P{int(float(row['patient_id'])):05d}", name, label, age, row["sex"]))
    with (out / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("patient_id", "path_xml", "label", "age", "sex"), *rows])
    return len(rows), sum(row[2] for row in rows)


def main() -> None:
    """Parse, write, say what to run next."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ptbxl", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", choices=TASKS, default="ABNORM")
    parser.add_argument(
        "--recordings", type=Path, default=Path(__file__).with_name("ptbxl_recordings.csv")
    )
    arguments = parser.parse_args()
    try:
        n, positive = write_corpus(
            arguments.ptbxl, arguments.out, arguments.recordings, arguments.task
        )
    except (OSError, ValueError, KeyError, StopIteration) as error:
        sys.exit(f"Error: {error}")
    print(
        f"{n:,} recordings, {positive:,} positive, in {arguments.out}. Next: make prep MANIFEST={arguments.out / 'manifest.csv'}"
    )


if __name__ == "__main__":
    main()
