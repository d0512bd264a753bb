"""The options of the commands: who is tested, what is refused, what is printed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import command

from ecgprep.store.reader import Store

SMALL = ("--hz", "100", "--length", "1000")


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


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the command `ecgprep` in the test's folder, in this process."""
    monkeypatch.chdir(tmp_path)
    return command


@pytest.fixture
def build(run, folder):
    """Build `s.zarr` from the manifest of `folder`, by the command."""

    def with_options(*options: object):
        return run("build", "m.csv", "s.zarr", "--root", "/", *SMALL, *options)

    return with_options


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "m.csv").open() as file:
        return list(csv.DictReader(file))


def test_split_by_column_keeps_sites_whole(build, folder):
    done = build("--split-by-column", "site", "--allow-missing-class")
    assert done.returncode == 0, done.stderr
    split = np.array(Store(folder / "s.zarr").array("split"))
    of_site: dict[str, set[int]] = {}
    for row, k in zip(rows_of(folder), split, strict=True):
        of_site.setdefault(row["site"], set()).add(int(k))
    assert all(len(splits) == 1 for splits in of_site.values())
    assert set().union(*of_site.values()) == {0, 1, 2}
    settings = Store(folder / "s.zarr").attributes["settings"]
    assert settings["split_by_column"] == "site"
    said = json.dumps(Store(folder / "s.zarr").attributes) + done.stdout + done.stderr
    assert "Hospital" not in said


def test_test_manifest_decides_who_is_tested(build, folder):
    listed = sorted({row["patient_id"] for row in rows_of(folder)})[::4]
    lines = [f"{patient},x\n" for patient in [*listed, "NOT-HERE"]]
    (folder / "t.csv").write_text("patient_id,comment\n" + "".join(lines))
    done = build("--test-manifest", "t.csv", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "Warning: 1 patients of t.csv are not in the manifest\n"
    assert json.loads(done.stdout)["asked"] == {
        "train": "82 % of rest",
        "val": "18 % of rest",
        "test": "the list",
    }
    split = np.array(Store(folder / "s.zarr").array("split"))
    tested = {row["patient_id"] for row, k in zip(rows_of(folder), split, strict=True) if k == 2}
    assert tested == set(listed)


def test_label_level_patient_refuses_a_patient_with_two_labels(build, folder):
    text = (folder / "m.csv").read_text().splitlines()
    patients = [row["patient_id"] for row in rows_of(folder)]
    first = next(i for i, patient in enumerate(patients) if patients.count(patient) > 1)
    fields = text[first + 1].split(",")
    fields[2] = str(1 - int(fields[2]))
    text[first + 1] = ",".join(fields)
    (folder / "m.csv").write_text("\n".join(text) + "\n")
    assert build().returncode == 0
    shutil.rmtree(folder / "s.zarr")
    (folder / "s.zarr.build.json").unlink()
    done = build("--label-level", "patient", "--registry", "p.registry.csv")
    assert done.returncode == 3
    assert f"line {first + 2} has another label for the same patient" in done.stderr
    assert patients[first] not in done.stderr
    assert not (folder / ".s.zarr.building").exists()


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
def test_wrong_options_are_named_before_anything_is_read(build, folder, arguments, code, message):
    done = build(*arguments)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert not (folder / "s.zarr").exists()


def test_asked_and_achieved_stand_in_a_table_of_80_columns(build):
    done = build("--split", "60/20/20")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    (train,) = [line.split() for line in lines if line.split()[:1] == ["train"]]
    assert train[:6] == ["train", "60", "%", "36", "60.0", "%"]
    rule = next(i for i, line in enumerate(lines) if line.startswith("──"))
    table = lines[rule - 2 : rule + 4]
    assert [line.split()[0] for line in table[3:]] == ["train", "val", "test"]
    assert max(map(len, table)) <= 80


def test_origin_that_predicts_the_label_is_warned_of(run, tmp_path):
    from ecgprep.simulation.simulator import Heart, simulate
    from ecgprep.simulation.vendors import aecg, muse

    lines = ["patient_id,path_xml,label"]
    for i in range(40):
        generator = np.random.default_rng(i)
        uv = simulate(Heart.draw(generator, i % 2), 100, generator)
        write = muse if i % 2 else aecg
        (tmp_path / f"{i}.xml").write_bytes(write(uv, 100, "X"))
        lines.append(f"P{i},{i}.xml,{i % 2}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    done = run("build", "m.csv", "s.zarr", *SMALL)
    assert done.returncode == 0
    assert (
        "Warning: the origin of a recording alone predicts its label with an AUROC of 1.00"
        in done.stderr
    )


def test_doctor_says_what_matters(run):
    found = json.loads(run("doctor", "--json").stdout)
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
    assert run("doctor", "absent").returncode == 3


def test_another_test_list_is_noticed(build, folder):
    patients = sorted({row["patient_id"] for row in rows_of(folder)})
    for name, listed in (("t.csv", patients[::4]), ("u.csv", patients[1::4])):
        (folder / name).write_text("patient_id\n" + "".join(f"{patient}\n" for patient in listed))
    assert build("--test-manifest", "t.csv").returncode == 0
    assert "up to date" in build("--test-manifest", "t.csv").stderr
    stale = build("--test-manifest", "u.csv")
    assert stale.returncode == 7
    assert "the list of patients to test has changed" in stale.stderr
    moved = build("--test-manifest", "u.csv", "--replace")
    assert (moved.returncode, "a model may have seen them" in moved.stderr) == (3, True)


def test_chosen_exclusions_do_not_count_as_rejects(run, folder):
    options = ["--root", "/", "--exclude-quality", "noise", "--allow-missing-class", "--json"]
    done = run("build", "m.csv", "s.zarr", *options)  # at 500 Hz: 100 Hz holds no such noise
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"].get("quality", 0) > 5


@pytest.mark.parametrize("target", [".", ".."])
def test_a_target_without_a_name_is_refused(run, folder, target):
    assert run("build", "m.csv", target, "--root", "/").returncode in (4, 7)


def test_packing_into_the_store_and_replacing_a_packed_one_are_refused(run, store, tmp_path):
    copy = shutil.copytree(store.path, tmp_path / "s.zarr")
    assert run("pack", "s.zarr", "s.zarr/inner.zarr").returncode == 7
    assert run("pack", "s.zarr", "p.zarr").returncode == 0
    assert run("verify", str(copy)).returncode == 0
    (tmp_path / "m.csv").write_text("patient_id,path_xml,label\nA,a.xml,0\n")
    assert run("build", "m.csv", "p.zarr", "--replace").returncode == 7
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
