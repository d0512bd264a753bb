"""The options of `ecgprep build` from the command line: who is tested, what is refused, what is printed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ecgprep.store.reader import Store


@pytest.fixture
def folder(corpus, tmp_path) -> Path:
    """The simulated corpus with a column `site` and no covariates of its own."""
    with (corpus / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "m.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "site"])
        writer.writeheader()
        for row in rows:
            row["path_xml"] = str(corpus / row["path_xml"])
            writer.writerow(row | {"site": f"Hospital {int(row['patient_id'][-2:]) % 5}"})
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ecgprep.cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "m.csv").open() as file:
        return list(csv.DictReader(file))


def test_split_by_column_keeps_sites_whole(folder):
    done = run(
        folder,
        "build",
        "m.csv",
        "s.zarr",
        "--root",
        "/",
        "--split-by-column",
        "site",
        "--allow-missing-class",
    )
    assert done.returncode == 0, done.stderr
    split = np.array(Store(folder / "s.zarr").array("split"))
    of_site: dict[str, set[int]] = {}
    for row, k in zip(rows_of(folder), split, strict=True):
        of_site.setdefault(row["site"], set()).add(int(k))
    assert all(len(splits) == 1 for splits in of_site.values())
    assert set().union(*of_site.values()) == {0, 1, 2}
    settings = Store(folder / "s.zarr").attributes["settings"]
    assert settings["split_by_column"] == "site"
    assert (
        "Hospital"
        not in json.dumps(Store(folder / "s.zarr").attributes) + done.stdout + done.stderr
    )


def test_test_manifest_decides_who_is_tested(folder):
    listed = sorted({row["patient_id"] for row in rows_of(folder)})[::4]
    (folder / "t.csv").write_text(
        "patient_id,comment\n" + "".join(f"{patient},x\n" for patient in [*listed, "NOT-HERE"])
    )
    done = run(
        folder, "build", "m.csv", "s.zarr", "--root", "/", "--test-manifest", "t.csv", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert "1 patients of t.csv are not in the manifest" in done.stderr
    assert "NOT-HERE" not in done.stderr
    assert json.loads(done.stdout)["asked"] == {
        "train": "82 % of rest",
        "val": "18 % of rest",
        "test": "the list",
    }
    split = np.array(Store(folder / "s.zarr").array("split"))
    tested = {row["patient_id"] for row, k in zip(rows_of(folder), split, strict=True) if k == 2}
    assert tested == set(listed)


def test_label_level_patient_refuses_a_patient_with_two_labels(folder):
    text = (folder / "m.csv").read_text().splitlines()
    patients = [row["patient_id"] for row in rows_of(folder)]
    first = next(i for i, patient in enumerate(patients) if patients.count(patient) > 1)
    fields = text[first + 1].split(",")
    fields[2] = str(1 - int(fields[2]))
    text[first + 1] = ",".join(fields)
    (folder / "m.csv").write_text("\n".join(text) + "\n")
    assert run(folder, "build", "m.csv", "s.zarr", "--root", "/").returncode == 0
    done = run(
        folder,
        "build",
        "m.csv",
        "p.zarr",
        "--root",
        "/",
        "--label-level",
        "patient",
        "--registry",
        "p.registry.csv",
    )
    assert done.returncode == 3
    assert f"line {first + 2} has another label for the same patient" in done.stderr
    assert patients[first] not in done.stderr
    assert not (folder / ".p.zarr.building").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--exclude-quality", "ugly"], 3, "unknown flag ugly; there are flat, clipped"),
        (["--duplicates", "some"], 2, "'some' is not one of 'near', 'exact'"),
        (["--label-level", "visit"], 2, "'visit' is not one of 'record', 'patient'"),
        (["--split-by-column", "ward"], 3, "column missing: ward"),
        (["--split-by-column", "patient_id"], 3, "must not be that of an id"),
        (["--test-manifest", "absent.csv"], 3, "Manifest absent.csv does not exist"),
        (["--extend", "--replace"], 2, "use one of them"),
        (["--extend"], 4, "does not exist"),
    ],
)
def test_wrong_options_are_named_before_anything_is_read(folder, arguments, code, message):
    done = run(folder, "build", "m.csv", "s.zarr", "--root", "/", *arguments)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "s.zarr").exists()


def test_asked_and_achieved_stand_in_the_table(folder):
    done = run(folder, "build", "m.csv", "s.zarr", "--root", "/", "--split", "60/20/20")
    assert done.returncode == 0
    train = (
        next(line for line in done.stdout.splitlines() if "train" in line).replace("│", " ").split()
    )
    assert train[:6] == ["train", "60", "%", "36", "60.0", "%"]


def test_origin_that_predicts_the_label_is_warned_of(tmp_path):
    from ecgprep.simulation.simulator import Heart, simulate
    from ecgprep.simulation.vendors import aecg, muse

    lines = ["patient_id,path_xml,label"]
    for i in range(40):
        generator = np.random.default_rng(i)
        (tmp_path / f"{i}.xml").write_bytes(
            (muse if i % 2 else aecg)(
                simulate(Heart.draw(generator, i % 2), 500, generator), 500, "X"
            )
        )
        lines.append(f"P{i},{i}.xml,{i % 2}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    done = run(tmp_path, "build", "m.csv", "s.zarr")
    assert done.returncode == 0
    assert (
        "Warning: the origin of a recording alone predicts its label with an AUROC of 1.00"
        in done.stderr
    )


def test_doctor_says_what_matters(tmp_path):
    found = json.loads(run(tmp_path, "doctor", "--json").stdout)
    assert {
        "python",
        "numpy",
        "lxml",
        "libxml2",
        "expat",
        "free space",
        "open files",
        "accelerator",
        "processors",
    } <= found.keys()
    assert run(tmp_path, "doctor", "absent").returncode == 3


def test_another_test_list_is_noticed(folder):
    patients = sorted({row["patient_id"] for row in rows_of(folder)})
    for name, listed in (("t.csv", patients[::4]), ("u.csv", patients[1::4])):
        (folder / name).write_text("patient_id\n" + "".join(f"{patient}\n" for patient in listed))
    assert (
        run(
            folder, "build", "m.csv", "s.zarr", "--root", "/", "--test-manifest", "t.csv"
        ).returncode
        == 0
    )
    assert (
        "up to date"
        in run(folder, "build", "m.csv", "s.zarr", "--root", "/", "--test-manifest", "t.csv").stderr
    )
    stale = run(folder, "build", "m.csv", "s.zarr", "--root", "/", "--test-manifest", "u.csv")
    assert (stale.returncode, "the list of patients to test has changed" in stale.stderr) == (
        7,
        True,
    )
    moved = run(
        folder, "build", "m.csv", "s.zarr", "--root", "/", "--test-manifest", "u.csv", "--replace"
    )
    assert (moved.returncode, "a model may have seen them" in moved.stderr) == (3, True)


def test_chosen_exclusions_do_not_count_as_rejects(folder):
    done = run(
        folder,
        "build",
        "m.csv",
        "s.zarr",
        "--root",
        "/",
        "--exclude-quality",
        "noise",
        "--allow-missing-class",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"].get("quality", 0) > 5


@pytest.mark.parametrize("target", [".", ".."])
def test_a_target_without_a_name_is_refused(folder, target):
    done = run(folder, "build", "m.csv", target, "--root", "/")
    assert done.returncode in (4, 7)
    assert "Traceback" not in done.stderr


def test_packing_into_the_store_and_replacing_a_packed_one_are_refused(store, tmp_path):
    import shutil

    copy = shutil.copytree(store.path, tmp_path / "s.zarr")
    assert run(tmp_path, "pack", "s.zarr", "s.zarr/inner.zarr").returncode == 7
    assert run(tmp_path, "pack", "s.zarr", "p.zarr").returncode == 0
    assert run(tmp_path, "verify", str(copy)).returncode == 0
    (tmp_path / "m.csv").write_text("patient_id,path_xml,label\nA,a.xml,0\n")
    assert run(tmp_path, "build", "m.csv", "p.zarr", "--replace").returncode == 7
    assert (tmp_path / "p.zarr" / "zarr.json").exists()


def test_too_many_recordings_to_compare_are_told_before_anything_is_read(folder, monkeypatch):
    from ecgprep.building import run as build
    from ecgprep.building.plan import BuildSettings, Plan
    from ecgprep.errors import InputError
    from ecgprep.patients.manifest import read_manifest

    monkeypatch.setattr(build, "MAX_COMPARED", 50)
    rows = read_manifest(folder / "m.csv", Path("/"))
    with pytest.raises(InputError, match="--duplicates exact"):
        build.plan_store(Plan(rows, folder / "s.zarr", BuildSettings(), folder / "r.csv"))
    assert (
        build.plan_store(
            Plan(rows, folder / "s.zarr", BuildSettings(duplicates="exact"), folder / "r.csv")
        )
        == 1
    )
