"""bench/transfer.py: a smaller cohort loses train patients only, and every way is measured."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ecgprep.building.plan import BuildSettings
from ecgprep.building.run import build_store
from ecgprep.patients.manifest import read_manifest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "bench"))

import corpus  # noqa: E402 - bench/ is no package
import transfer  # noqa: E402


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_only_train_patients_are_left_out(tmp_path):
    manifest = corpus.write_muse_corpus(tmp_path, 40)
    build_store(
        read_manifest(manifest),
        tmp_path / "s.zarr",
        BuildSettings(),
        registry_path=tmp_path / "r.csv",
    )
    with (tmp_path / "r.csv").open() as file:
        next(file)
        split = {row["patient_id"]: row["split"] for row in csv.DictReader(file)}
    few = rows_of(
        transfer.smaller_manifest(manifest, tmp_path / "r.csv", 9, 42, tmp_path / "few.csv")
    )
    kept = [split[row["patient_id"]] for row in few]
    assert (kept.count("train"), kept.count("val"), kept.count("test")) == (
        9,
        *(list(split.values()).count(name) for name in ("val", "test")),
    )
    assert [row for row in rows_of(manifest) if row in few] == few
    with pytest.raises(ValueError, match="there are only 28 train patients"):
        transfer.smaller_manifest(manifest, tmp_path / "r.csv", 29, 42, tmp_path / "few.csv")


@pytest.mark.full
def test_every_way_is_measured(tmp_path):
    manifest = corpus.write_muse_corpus(tmp_path, 60)
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "xml", other / "xml")
    with (other / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("patient_id", "path_xml", "label"))
        writer.writeheader()
        writer.writerows(
            row | {"label": str((int(row["label"]) + i // 2) % 2)}
            for i, row in enumerate(rows_of(manifest))
        )
    options = [
        "--patients",
        "20",
        "--split-seeds",
        "0",
        "--train-args",
        "--epochs 1 --threads 1 --batch 8",
    ]
    command = [
        sys.executable,
        str(ROOT / "bench/transfer.py"),
        "out",
        "--pretrain",
        str(other),
        "--target",
        str(tmp_path),
        *options,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" | ")[0].removeprefix("| ").rstrip() for line in lines[2:]] == list(
        transfer.ways(Path("x"))
    )
    assert all(0 <= float(line.split(" | ")[1]) <= 1 for line in lines[2:])
