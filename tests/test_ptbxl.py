"""bench/ptbxl.py makes the corpus whose result README shows from a download of PTB-XL."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import build

from ecgprep.leads import TWELVE_LEADS

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "bench"))

import ptbxl  # noqa: E402 - bench/ is no package

STATEMENT = {"NORM": "NORM", "MI": "IMI", "STTC": "NDT", "CD": "CRBBB", "HYP": "LVH"}
"""Superclass -> one of its statements."""


def write_wfdb(folder: Path, name: str, rate_hz: int, uv: np.ndarray) -> None:
    """Write (12, n) µV as WFDB format 16, as PTB-XL has it."""
    header = folder / f"{name}.hea"
    header.parent.mkdir(parents=True, exist_ok=True)
    uv.T.astype("<i2").tofile(header.with_suffix(".dat"))
    lines = [f"{header.stem} 12 {rate_hz} {uv.shape[1]}"]
    for lead, row in zip(TWELVE_LEADS, uv, strict=True):
        checksum = int(np.int64(row.sum()).astype(np.int16))
        gain = "1000.0(0)/mV"
        lines.append(f"{header.stem}.dat 16 {gain} 16 0 {row[0]} {checksum} 0 {lead.upper()}")
    header.write_text("\n".join(lines) + "\n")


def write_database(folder: Path, rows: list[dict[str, str]]) -> None:
    """Write the two tables of PTB-XL for recordings with superclasses."""
    with (folder / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("ecg_id patient_id age sex scp_codes filename_lr filename_hr".split())
        for row in rows:
            statements = [STATEMENT[name] for name in STATEMENT if row[name] == "1"]
            codes = dict.fromkeys([*statements, "SR"], 0.0)
            patient, age = f"{row['patient_id']}.0", f"{row['age']}.0"
            stem = f"{int(row['ecg_id']):05d}"
            files = [f"records100/{stem}_lr", f"records500/{stem}_hr"]
            writer.writerow([row["ecg_id"], patient, age, row["sex"], codes, *files])
    lines = [f"{code},1.0,{name}" for name, code in STATEMENT.items()]
    table = [",diagnostic,diagnostic_class", *lines, "SR,,"]
    (folder / "scp_statements.csv").write_text("\n".join(table) + "\n")


def make_corpus(download: Path, *options: str) -> Path:
    """Run the script on a download that holds list.csv."""
    out = download / "out"
    ptbxl.main([str(download), str(out), "--recordings", str(download / "list.csv"), *options])
    return out


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


def test_small_download(download, capsys):
    out = make_corpus(download, "--task", "CD")
    assert (out / "manifest.csv").read_text().split() == [
        "patient_id,path_xml,label,age,sex",
        "P00007,xml/00001.xml,0,50,1",
        "P00007,xml/00002.xml,1,50,1",
    ]
    assert capsys.readouterr().out.startswith(f"2 recordings, 1 positive, in {out}.")


def test_damaged_record_is_named(download):
    path = download / "records500/00002_hr.dat"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(SystemExit, match="^Error: 00002_hr.hea: a checksum does not match"):
        make_corpus(download)


def test_record_in_other_units_is_named(download):
    path = download / "records500/00002_hr.hea"
    path.write_text(path.read_text().replace("/mV", "/uV", 1))
    with pytest.raises(SystemExit, match="^Error: 00002_hr.hea: .*its unit is not mV$"):
        make_corpus(download)


def test_list_of_another_version_is_named(download):
    (download / "list.csv").write_text("ecg_id,rate_hz\n99,100\n")
    with pytest.raises(SystemExit, match="lacks 1 of the 1 recordings. Is it that of PTB-XL 1.0.3"):
        make_corpus(download)


def test_real_download_gives_the_store_of_the_reference_corpus(samples, make_real_corpus, tmp_path):
    """An independent script writes the same store to the byte, without WFDB files."""
    with (samples / "data/ptbxl/records.csv").open() as file:
        with_superclass = [
            row for row in csv.DictReader(file) if any(row[name] == "1" for name in STATEMENT)
        ]
    rows = with_superclass[:120]
    for rate, kind in ((100, "lr"), (500, "hr")):
        with np.load(samples / f"data/ptbxl/waveforms_{rate}hz_uv.npz") as waves:
            uv_of = dict(zip(waves["ecg_id"].tolist(), waves["uv"], strict=True))
        for row in rows:
            ecg_id = int(row["ecg_id"])
            if row["rate_hz"] == str(rate):
                write_wfdb(tmp_path, f"records{rate}/{ecg_id:05d}_{kind}", rate, uv_of[ecg_id])
    write_database(tmp_path, rows)
    listed = ptbxl.RECORDINGS.read_text().splitlines()[: len(rows) + 1]
    (tmp_path / "list.csv").write_text("\n".join(listed) + "\n")
    ours = make_corpus(tmp_path)
    reference = make_real_corpus("--task", "ABNORM", "--limit", str(len(rows)))
    stores = [
        build(folder / "manifest.csv", tmp_path / f"{name}.zarr", covariates=("age", "sex"))
        for name, folder in (("ours", ours), ("reference", reference))
    ]
    assert stores[0].content_sha256 == stores[1].content_sha256
