"""bench/ptbxl.py makes from a PTB-XL download the corpus whose result README shows."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import build

ROOT = Path(__file__).parent.parent
STATEMENT = {"NORM": "NORM", "MI": "IMI", "STTC": "NDT", "CD": "CRBBB", "HYP": "LVH"}
LEADS = "I II III AVR AVL AVF V1 V2 V3 V4 V5 V6".split()


def write_wfdb(folder: Path, name: str, rate_hz: int, uv: np.ndarray) -> None:
    """Write (12, n) µV as WFDB format 16, as PTB-XL has it."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    uv.T.astype("<i2").tofile(folder / f"{name}.dat")
    stem = Path(name).name
    lines = [f"{stem} 12 {rate_hz} {uv.shape[1]}"]
    for lead, row in zip(LEADS, uv, strict=True):
        checksum = int(row.astype(np.int64).sum()) % 65536
        lines.append(
            f"{stem}.dat 16 1000.0(0)/mV 16 0 {row[0]} {checksum - 65536 if checksum > 32767 else checksum} 0 {lead}"
        )
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")


def write_database(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("ecg_id patient_id age sex scp_codes filename_lr filename_hr".split())
        for row in rows:
            codes = {STATEMENT[name]: 0.0 for name in STATEMENT if row[name] == "1"} | {"SR": 0.0}
            names = [
                f"records{n}/{int(row['ecg_id']):05d}_{k}" for n, k in ((100, "lr"), (500, "hr"))
            ]
            writer.writerow(
                [
                    row["ecg_id"],
                    f"{row['patient_id']}.0",
                    f"{row['age']}.0",
                    row["sex"],
                    codes,
                    *names,
                ]
            )
    lines = [
        ",diagnostic,diagnostic_class",
        *(f"{code},1.0,{name}" for name, code in STATEMENT.items()),
        "SR,,",
    ]
    (folder / "scp_statements.csv").write_text("\n".join(lines) + "\n")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "bench" / "ptbxl.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def download(tmp_path, uv) -> Path:
    """A PTB-XL of two recordings."""
    row = {"patient_id": "7", "age": "50", "sex": "1", **dict.fromkeys(STATEMENT, "0")}
    write_database(
        tmp_path, [{**row, "ecg_id": "1", "NORM": "1"}, {**row, "ecg_id": "2", "CD": "1"}]
    )
    write_wfdb(tmp_path, "records100/00001_lr", 100, uv[:, ::5])
    write_wfdb(tmp_path, "records500/00002_hr", 500, uv)
    (tmp_path / "list.csv").write_text("ecg_id,rate_hz\n1,100\n2,500\n")
    return tmp_path


def test_small_download(download):
    done = run(download, download / "out", "--recordings", download / "list.csv", "--task", "CD")
    assert done.returncode == 0, done.stderr
    text = (download / "out" / "manifest.csv").read_text().split()
    assert text == [
        "patient_id,path_xml,label,age,sex",
        "P00007,xml/00001.xml,0,50,1",
        "P00007,xml/00002.xml,1,50,1",
    ]


def test_damaged_record_is_named(download):
    path = download / "records500/00002_hr.dat"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    done = run(download, download / "out", "--recordings", download / "list.csv")
    assert done.returncode == 1
    assert "00002_hr.hea: unit is not mV, or a checksum does not match" in done.stderr


def test_list_of_another_version_is_named(download):
    (download / "list.csv").write_text("ecg_id,rate_hz\n99,100\n")
    assert (
        "lacks 1 of the 1 recordings"
        in run(download, download / "out", "--recordings", download / "list.csv").stderr
    )


def test_real_download_gives_the_store_of_the_reference_corpus(samples, make_real_corpus, tmp_path):
    """Written through WFDB files and this script or by an independent script, the same recordings give the same store to the byte."""
    with (samples / "data/ptbxl/records.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if any(row[name] == "1" for name in STATEMENT)][
            :120
        ]
    for rate, kind in ((100, "lr"), (500, "hr")):
        with np.load(samples / f"data/ptbxl/waveforms_{rate}hz_uv.npz") as waves:
            uv_of = dict(zip(waves["ecg_id"].tolist(), waves["uv"], strict=True))
        for row in rows:
            if row["rate_hz"] == str(rate):
                write_wfdb(
                    tmp_path,
                    f"records{rate}/{int(row['ecg_id']):05d}_{kind}",
                    rate,
                    uv_of[int(row["ecg_id"])],
                )
    write_database(tmp_path, rows)
    with (ROOT / "bench/ptbxl_recordings.csv").open() as file:
        chosen = list(csv.reader(file))[: len(rows) + 1]
    (tmp_path / "list.csv").write_text("\n".join(",".join(line) for line in chosen) + "\n")
    done = run(tmp_path, tmp_path / "out", "--recordings", tmp_path / "list.csv")
    assert done.returncode == 0, done.stderr
    reference = make_real_corpus("--task", "ABNORM", "--limit", str(len(rows)))
    stores = [
        build(folder / "manifest.csv", tmp_path / f"{i}.zarr", covariates=("age", "sex"))
        for i, folder in enumerate((tmp_path / "out", reference))
    ]
    assert stores[0].content_sha256 == stores[1].content_sha256
