"""Time and memory of `ecgprep cohort` on generated tables: 100,000 patients, 10^6 echos and ECGs.

python bench/cohort.py [--patients 100000] [--folder DIR]

The tables are drawn at random and say nothing about hearts. Each measurement is a process of its
own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PER_PATIENT = 10
"""Echocardiograms and ECGs of each patient."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", action="store_true")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        write_tables(folder, options.patients)
        command = [sys.executable, __file__, "--measure", "--folder", str(folder)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    print(f"{options.patients:,} patients, {options.patients * PER_PATIENT:,} echos and ECGs")
    print(run.stdout.strip())


def write_tables(folder: Path, n: int) -> None:
    """Write therapy, echo, ECG, follow-up and laboratory tables of n patients."""
    generator = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.array([f"{k:08d}" for k in range(n)], object)
    start = np.datetime64("2010-01-01") + generator.integers(0, 4000, n)
    many = np.repeat(np.arange(n), PER_PATIENT)

    def day(who: np.ndarray, low: int, high: int) -> np.ndarray:
        days: np.ndarray = start[who] + generator.integers(low, high, len(who))
        return days.astype(str)

    doses = np.repeat(np.arange(n), 4)
    drugs = np.array(["Doxorubicin HCl", "EPIRUBICIN", "trastuzumab", "paclitaxel"], object)
    therapy = {
        "patient_id": ids[doses],
        "date": day(doses, 0, 120),
        "drug": drugs[generator.choice(4, len(doses), p=[0.5, 0.3, 0.1, 0.1])],
        "dose_mg_m2": generator.integers(40, 75, len(doses)),
    }
    echo = {
        "patient_id": ids[many],
        "date": day(many, -300, 1500),
        "lvef": generator.normal(57, 7, len(many)).clip(15, 80).round(1),
        "gls": -generator.normal(19, 3, len(many)).clip(5, 30).round(1),
    }
    seconds = generator.integers(0, 86400, len(many)).astype("timedelta64[s]")
    ecg = {
        "path_xml": [f"export/{k // 1000:04d}/{k:07d}.xml" for k in range(len(many))],
        "patient_id": ids[many],
        "acquired_at": (day(many, -500, 900).astype("datetime64[s]") + seconds).astype(str),
        "age_years": generator.integers(30, 85, len(many)),
        "sex": np.array(["F", "M"], object)[generator.integers(0, 2, len(many))],
        "heart_rate_bpm": generator.integers(50, 110, len(many)),
        "pr_ms": generator.integers(120, 210, len(many)),
        "qrs_ms": generator.integers(70, 130, len(many)),
        "qt_ms": generator.integers(350, 450, len(many)),
        "qtc_ms": generator.integers(380, 480, len(many)),
        "p_axis_deg": generator.integers(-30, 90, len(many)),
        "qrs_axis_deg": generator.integers(-60, 110, len(many)),
        "t_axis_deg": generator.integers(-60, 110, len(many)),
        "status": np.where(generator.random(len(many)) < 0.97, "ok", "flat"),
    }
    died = day(np.arange(n), 1, 2000)
    died[generator.random(n) < 0.9] = ""
    followup = {"patient_id": ids, "last_seen": day(np.arange(n), 300, 2000), "died": died}
    labs = {
        "patient_id": ids[doses],
        "date": day(doses, -100, 900),
        "name": np.array(["NT-proBNP", "hs-cTnT"], object)[generator.integers(0, 2, len(doses))],
        "value": generator.lognormal(4, 1, len(doses)).round(1),
        "upper_limit": 125,
    }
    tables = {"therapy": therapy, "echo": echo, "ecg": ecg, "followup": followup, "labs": labs}
    for name, columns in tables.items():
        pd.DataFrame(columns).to_csv(folder / f"{name}.csv", index=False)


def measure(folder: Path) -> dict[str, float]:
    """Run the command once; return seconds, and the peak memory in GB."""
    import ecgprep

    tables: dict[str, Any] = {
        name: folder / f"{name}.csv" for name in ("ecg", "echo", "therapy", "followup", "labs")
    }
    task = {"gls_sign": "negative"}
    begun = time.perf_counter()
    rows = ecgprep.cohort(task, out=folder / "cohort.csv", overwrite=True, **tables)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": round(seconds, 1), "peak_gb": round(peak, 2), **rows.attrs["counts"]}


if __name__ == "__main__":
    main()
