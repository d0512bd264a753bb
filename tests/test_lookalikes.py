"""Look-alike ids are warned of, or merged into the patient that the registry knows."""

from __future__ import annotations

import csv
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers import write_manifest, write_recordings

import ecgprep
from ecgprep.errors import InputError
from ecgprep.patients.lookalikes import as_spelled_in, one_spelling
from ecgprep.patients.manifest import read_manifest
from ecgprep.patients.registry import Registry, SplitPlan, load_registry

OPTIONS = {"hz": 100, "length": 1000, "duplicates": "exact", "allow_missing_class": True}
N = 14


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("lookalikes"), N).parent


def manifest_of(folder, ids, files=range(N)):
    rows = [(one, f"xml/{k}.xml", k % 2) for one, k in zip(ids, files, strict=False)]
    return write_manifest(folder, rows)


def registry_with(tmp_path, **splits):
    registry = Registry(tmp_path / "r.csv", SplitPlan())
    for number, (patient, split) in enumerate(splits.items()):
        registry.number[patient.removeprefix("_")] = number
        registry.split[patient.removeprefix("_")] = split
    return registry


def read(tmp_path, ids, **options):
    return read_manifest(manifest_of(tmp_path / "m.csv", ids), **options)


def test_the_warning_counts_groups_rows_and_kinds_and_names_no_id(tmp_path):
    ids = ["77123", "77123.0", "77123", "0088", "88", "'88", "SOLO", "A\u00a0b", "a B"]
    (warning,) = read(tmp_path, ids).warnings
    assert warning.startswith("lines 2, 3; lines 5, 6, 7; lines 9, 10: patient ids differ only by ")
    assert "leading zeros (1 group)" in warning
    assert "in 3 groups of 8 rows" in warning
    assert "--merge-lookalikes" in warning
    assert not any(one in warning for one in ("77123", "88", "SOLO"))


def test_many_groups_are_counted(tmp_path):
    ids = [spelling for k in range(1, 8) for spelling in (f"A{k}", f"a{k}")]
    (warning,) = read(tmp_path, ids).warnings
    assert (
        "lines 10, 11; and 2 more groups: patient ids differ only by case, in 7 groups" in warning
    )


def test_invisible_characters_are_removed_and_said(tmp_path):
    rows = read(tmp_path, ["Q\u200b7", "Q7", "\u00a0Q7", " Q7 "])
    assert rows.patient_id == ["Q7"] * 4
    assert rows.warnings == (
        "lines 2, 4: invisible characters in the patient id, or unusual blanks around it, were "
        "removed (2 rows)",
    )


def test_numbers_that_a_spreadsheet_has_rounded_are_warned_of(tmp_path):
    (warning,) = read(tmp_path, ["1.23457E+09", "12E5", "1.5E+07x", "1.23457E+09"]).warnings
    assert warning.startswith("lines 2, 5: the patient id is a number that a spreadsheet has")


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, ["042", "042", "x"]),
        ({"_42": 1}, ["42", "42", "x"]),
        ({"_42.0": 2}, ["42.0", "42.0", "x"]),
        ({"_42": 1, "_042": 1}, ["42", "42", "x"]),
        ({"X": 0}, ["042", "042", "X"]),
    ],
    ids=["first of the file", "known", "known otherwise", "known twice", "alone in the file"],
)
def test_merged_patients_have_the_spelling_that_the_registry_knows(tmp_path, known, expected):
    registry = registry_with(tmp_path, **known)
    assert one_spelling(["042", "42", "x"], [2, 3, 4], registry) == expected


def test_a_patient_in_two_splits_is_not_merged(tmp_path):
    registry = registry_with(tmp_path, _42=0, _042=2)
    with pytest.raises(InputError, match="line 3: .* in different splits") as caught:
        one_spelling(["x", "42"], [2, 3], registry)
    assert "42" not in str(caught.value)


def test_listed_patients_take_the_spelling_of_the_manifest():
    assert as_spelled_in(["7.0", "9"], ["7", "8"]) == {"7", "9"}


def test_a_merged_store_has_one_patient_and_says_so(recordings, tmp_path, caplog):
    ids = ["0007", "7", "7.0", *(f"P{k}" for k in range(N - 3))]
    manifest = manifest_of(recordings / "merged.csv", ids)
    apart = ecgprep.build(manifest, tmp_path / "a.zarr", registry=tmp_path / "a.csv", **OPTIONS)
    assert len(set(apart.array("patient")[:3].tolist())) == 3
    assert "merge_lookalikes" not in apart.attributes["settings"]

    options = OPTIONS | {"merge_lookalikes": True, "registry": tmp_path / "m.csv"}
    merged = ecgprep.build(manifest, tmp_path / "m.zarr", **options)
    assert len(set(merged.array("patient")[:3].tolist())) == 1
    assert len(set(merged.array("split")[:3].tolist())) == 1
    assert merged.attributes["settings"]["merge_lookalikes"] is True
    known = load_registry(tmp_path / "m.csv", SplitPlan(allow_missing_class=True))
    assert "0007" in known.number
    assert not {"7", "7.0"} & known.number.keys()
    before = (merged.path / "zarr.json").stat().st_mtime_ns
    again = ecgprep.build(manifest, tmp_path / "m.zarr", **options)
    assert (again.path / "zarr.json").stat().st_mtime_ns == before
    with pytest.raises(ecgprep.TargetExists, match="merge_lookalikes: True, now None"):
        ecgprep.build(manifest, tmp_path / "m.zarr", **OPTIONS, registry=tmp_path / "m.csv")


@pytest.mark.parametrize("merged_before", [True, False])
def test_an_extension_keeps_a_merged_patient_in_its_split(recordings, tmp_path, merged_before):
    ids = ["0007", *(f"P{k}" for k in range(N - 3)), "7", "7.0"]
    manifest = manifest_of(recordings / "longer.csv", ids[:-2])
    options = OPTIONS | {"merge_lookalikes": True, "registry": tmp_path / "m.csv"}
    ecgprep.build(manifest, tmp_path / "m.zarr", **options | {"merge_lookalikes": merged_before})
    manifest_of(manifest, ids)
    longer = ecgprep.build(manifest, tmp_path / "m.zarr", extend=True, **options)
    assert longer.attributes["settings"]["merge_lookalikes"] is True
    again = ecgprep.build(manifest, tmp_path / "m.zarr", **options)
    assert again.content_sha256 == longer.content_sha256
    patient = longer.array("patient")[:]
    assert patient[0] == patient[-1] == patient[-2]
    assert len(np.unique(longer.array("split")[:][[0, -1, -2]])) == 1


def test_an_extension_does_not_merge_patients_that_the_store_has_apart(recordings, tmp_path):
    ids = ["0007", "7", *(f"P{k}" for k in range(N - 3)), "7.0"]
    manifest = manifest_of(recordings / "apart.csv", ids[:-1])
    options = OPTIONS | {"registry": tmp_path / "m.csv"}
    built = ecgprep.build(manifest, tmp_path / "m.zarr", **options)
    manifest_of(manifest, ids)
    with pytest.raises(InputError):
        ecgprep.build(manifest, tmp_path / "m.zarr", extend=True, merge_lookalikes=True, **options)
    assert ecgprep.open_store(built.path).content_sha256 == built.content_sha256


def test_a_registry_that_knows_another_spelling_is_warned_of(recordings, tmp_path, caplog):
    ids = [f"P{k}" for k in range(N)]
    manifest = manifest_of(recordings / "first.csv", ids)
    ecgprep.build(manifest, tmp_path / "a.zarr", registry=tmp_path / "r.csv", **OPTIONS)
    caplog.clear()
    manifest_of(manifest, ["p0", *ids[1:]])
    ecgprep.build(manifest, tmp_path / "b.zarr", registry=tmp_path / "r.csv", **OPTIONS)
    assert "line 2: the registry knows these patient ids only in spellings" in caplog.text
    assert "p0" not in caplog.text


@pytest.mark.parametrize("merge", [False, True])
def test_a_test_list_in_another_spelling_is_warned_of_or_merged(
    recordings, tmp_path, caplog, merge
):
    manifest = manifest_of(recordings / "tested.csv", [f"{k}" for k in range(N)])
    (tmp_path / "t.csv").write_text("patient_id\n003\n4\n")
    store = ecgprep.build(
        manifest,
        tmp_path / "s.zarr",
        registry=tmp_path / "r.csv",
        test_manifest=tmp_path / "t.csv",
        merge_lookalikes=merge,
        **OPTIONS,
    )
    tested = np.flatnonzero(store.array("split")[:] == 2).tolist()
    assert tested == ([3, 4] if merge else [4])
    assert ("1 patient of t.csv: the manifest has this id only in another" in caplog.text) != merge


def test_invisible_characters_in_a_test_list_are_removed_and_said(recordings, tmp_path, caplog):
    manifest = manifest_of(recordings / "hidden.csv", [f"P{k}" for k in range(N)])
    (tmp_path / "t.csv").write_text("patient_id\nP4\nP\u200b5\nP6\u00a0\n", encoding="utf-8")
    options = OPTIONS | {"registry": tmp_path / "r.csv", "test_manifest": tmp_path / "t.csv"}
    store = ecgprep.build(manifest, tmp_path / "s.zarr", **options)
    assert np.flatnonzero(store.array("split")[:] == 2).tolist() == [4, 5, 6]
    assert (
        "t.csv: lines 3, 4: invisible characters in the patient id, or unusual blanks around it, "
        "were removed (2 rows)" in caplog.text
    )


def test_a_planned_build_merges_and_reads_the_named_columns_as_well(recordings, tmp_path):
    table = pd.DataFrame(
        {
            "MRN": ["0007", "7", *(f"P{k}" for k in range(N - 2))],
            "File": [f"xml/{k}.xml" for k in range(N)],
            "death": [k % 2 for k in range(N)],
            "label": [1 - k % 2 for k in range(N)],
        }
    )
    table.to_csv(recordings / "named.csv", sep=";", index=False)
    options = OPTIONS | {
        "patient_column": "MRN",
        "path_column": "File",
        "label_column": "death",
        "merge_lookalikes": True,
        "registry": tmp_path / "r.csv",
    }
    ecgprep.plan(recordings / "named.csv", tmp_path / "s.zarr", **options)
    ecgprep.build_part(tmp_path / "s.zarr", 1, 1)
    store = ecgprep.finalise(tmp_path / "s.zarr")
    assert store.array("label")[:].tolist() == table["death"].tolist()
    assert store.array("patient")[0] == store.array("patient")[1]

    same = ecgprep.build(recordings / "named.csv", tmp_path / "s.zarr", **options)
    assert same.content_sha256 == store.content_sha256
    with pytest.raises(ecgprep.TargetExists, match="another column of the manifest is used"):
        ecgprep.build(
            recordings / "named.csv", tmp_path / "s.zarr", **(options | {"label_column": "label"})
        )
    frame = pd.read_csv(recordings / "named.csv", sep=";", dtype=str)
    of_frame = ecgprep.build(frame, tmp_path / "f.zarr", root=recordings, **options)
    assert of_frame.content_sha256 == store.content_sha256


@pytest.mark.parametrize(
    "options",
    [{"path_column": "MRN", "patient_column": "MRN"}, {"label_column": " "}],
)
def test_columns_must_have_three_names(tmp_path, options):
    with pytest.raises(InputError, match="must name three different columns"):
        ecgprep.build(tmp_path / "m.csv", tmp_path / "s.zarr", **options)


@pytest.fixture(scope="module")
def hard(samples, tmp_path_factory):
    out = tmp_path_factory.mktemp("hard")
    script = samples / "tools" / "make_hard.py"
    subprocess.run([sys.executable, script, out], check=True, capture_output=True)
    return out


def test_hard_ids_are_seven_patients_under_two_spellings_each(hard):
    rows = read_manifest(hard / "ids.csv")
    assert len(set(rows.patient_id)) == 12  # two pairs differ by an invisible character only
    removed, alike = rows.warnings
    assert removed.startswith("lines 6, 8: invisible")
    assert "in 5 groups of 10 rows" in alike
    merged = read_manifest(hard / "ids.csv", merge_with=Registry(hard / "r.csv", SplitPlan()))
    pairs = np.array(merged.patient_id).reshape(7, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert len(set(merged.patient_id)) == 7


@pytest.mark.parametrize("name", ["semicolon.csv", "backslash.csv"])
def test_hard_manifests_name_files_that_exist(hard, name):
    rows = read_manifest(hard / name)
    with (hard / name).open(newline="", encoding="utf-8-sig") as file:
        truth = list(csv.DictReader(file, delimiter=";" if name == "semicolon.csv" else ","))
    assert rows.patient_id == [row["patient_id"] for row in truth]
    assert rows.label.tolist() == [int(row["label"]) for row in truth]
    assert all((rows.root / path).is_file() for path in rows.path_xml)
