"""bench/transfer.py: a smaller cohort loses train patients only, and every way is measured."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import ecgprep

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "bench"))

import corpus  # noqa: E402 - bench/ is no package
import transfer  # noqa: E402


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return corpus.write_muse_corpus(tmp_path_factory.mktemp("corpus"), 40)


@pytest.fixture(scope="module")
def registry(manifest) -> Path:
    path = manifest.with_name("registry.csv")
    target = manifest.with_name("s.zarr")
    ecgprep.build(manifest, target, registry=path, hz=100, length=200, duplicates="exact")
    return path


def test_only_train_patients_are_left_out(manifest, registry, tmp_path):
    with registry.open() as file:
        next(file)  # the line above the header
        split = {row["patient_id"]: row["split"] for row in csv.DictReader(file)}
    few = rows_of(transfer.smaller_manifest(manifest, registry, 9, 42, tmp_path / "few.csv"))
    kept = Counter(split[row["patient_id"]] for row in few)
    whole = Counter(split.values())
    assert kept == {"train": 9, "val": whole["val"], "test": whole["test"]}
    assert [row for row in rows_of(manifest) if row in few] == few


def test_more_train_patients_than_there_are_is_refused(manifest, registry, tmp_path):
    with pytest.raises(ValueError, match="there are only 28 train patients"):
        transfer.smaller_manifest(manifest, registry, 29, 42, tmp_path / "few.csv")


@pytest.mark.full
def test_every_way_is_measured(tmp_path):
    manifest = corpus.write_muse_corpus(tmp_path, 60)
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "xml", other / "xml")
    with (other / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("patient_id", "path_xml", "label"))
        writer.writeheader()
        for i, row in enumerate(rows_of(manifest)):
            another_label = (int(row["label"]) + i // 2) % 2
            writer.writerow(row | {"label": str(another_label)})
    words = [sys.executable, ROOT / "bench/transfer.py", "out"]
    words += ["--pretrain", other, "--target", tmp_path, "--patients", "20"]
    words += ["--split-seeds", "0", "--train-args", "--epochs 1 --threads 1 --batch 8"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    names = [line[0].removeprefix("| ").rstrip() for line in lines]
    assert names == list(transfer.ways(Path("x")))
    assert all(0 <= float(line[1]) <= 1 for line in lines)
