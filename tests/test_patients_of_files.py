"""Files are grouped by patient through an index, as a store groups its rows."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers import copy_run

import ecgfit
import ecgprep
from ecgfit.cli import cli
from ecgfit.inference.files import predict_store
from ecgfit.inference.patients_of_files import PatientsOfFiles, ScoredFile
from ecgfit.inference.tables import records
from ecgprep.errors import InputError


@pytest.fixture(scope="module")
def export(corpus, tmp_path_factory) -> Path:
    """The files of `corpus` in a folder, with their index beside them."""
    folder = tmp_path_factory.mktemp("export")
    shutil.copytree(corpus / "xml", folder / "xml")
    ecgprep.index(folder / "xml", folder / "ecg.csv")
    return folder


@pytest.fixture(scope="module")
def manifest(corpus) -> list[dict[str, str]]:
    with (corpus / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def files(export, manifest) -> list[Path]:
    """The files of the rows of `tiny_store`, in their order."""
    return [export / row["path_xml"] for row in manifest]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, words)))


def test_patients_get_the_bits_that_a_store_gives_them(trained_run, tiny_store, export, files):
    """`missing=drop`, mean: files that lack a lead take no part, as in the store."""
    of_store = predict_store(trained_run, tiny_store)
    order = np.random.default_rng(0).permutation(len(files))
    given = [files[i] for i in order]
    table = ecgfit.predict(trained_run, given, index=export / "ecg.csv")
    expected = of_store.set_index("row").loc[order].reset_index(drop=True)
    assert expected["missing_leads"].any()
    assert expected["patient"].nunique() < len(expected)
    for name in ("probability", "positive"):
        assert records(table[[name]]) == records(expected[[name]])
    found, wanted = table["patient_probability"].to_numpy(), expected["patient_probability"]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)  # nan where the store has none
    assert records(table[["patient_positive"]]) == records(expected[["patient_positive"]])
    # The numbers are others than the store's, and tell the same patients apart.
    pairs = set(zip(table["patient"], expected["patient"], strict=True))
    assert len(pairs) == expected["patient"].nunique() == table["patient"].nunique()
    assert table["patient"].drop_duplicates().tolist() == list(range(len(pairs)))


@pytest.mark.parametrize(("how", "expected"), [("first", 1.0), ("last", 3.0), ("max", 5.0)])
def test_first_and_last_go_by_the_index_and_not_by_the_files_given(how, expected):
    patients = PatientsOfFiles(np.zeros(3, np.int64), np.array([4, 2, 3]))
    scored = [
        ScoredFile(position, np.array([0.0, d]), np.ones(8, bool), position)
        for position, d in enumerate([3.0, 1.0, 5.0])
    ]
    assert patients.differences(scored, how, whole_only=False) == {0: expected}


def test_a_copy_counts_once_and_a_file_without_all_leads_as_the_run_asks():
    patients = PatientsOfFiles(np.array([0, 0, 0, -1]), np.arange(4))
    whole, lacking = np.ones(8, bool), np.arange(8) > 0
    scored = [
        ScoredFile(0, np.array([0.0, 1.0]), whole, crc32c=7),
        ScoredFile(1, np.array([0.0, 1.0]), whole, crc32c=7),
        ScoredFile(2, np.array([0.0, 4.0]), lacking, crc32c=8),
        ScoredFile(3, np.array([0.0, 9.0]), whole, crc32c=9),
    ]
    assert patients.differences(scored, "mean", whole_only=False) == {0: 2.5}
    assert patients.differences(scored, "mean", whole_only=True) == {0: 1.0}
    assert patients.differences([], "mean", whole_only=True) == {}


def test_a_run_of_single_recordings_has_no_result_of_patients(trained_run, export, files, tmp_path):
    run = copy_run(trained_run, tmp_path / "run")
    config = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(config.replace("aggregate: mean", "aggregate: none"))
    table = ecgfit.predict(run.path, files[:3], index=export / "ecg.csv")
    assert "patient" in table
    assert "patient_probability" not in table


def test_refused_and_unknown_files_have_no_patients_result(trained_run, export, files, tmp_path):
    bad, stranger = export / "xml" / "bad.xml", tmp_path / "stranger.xml"
    shutil.copy(files[0], stranger)
    bad.write_text("no ECG")
    said: list[str] = []
    given = [files[0], bad, stranger]
    table = ecgfit.predict(trained_run, given, index=export / "ecg.csv", progress=said.append)
    bad.unlink()
    assert table["status"].tolist() == ["ok", "not_xml", "ok"]
    assert records(table[["patient"]]) == [{"patient": 0}, {"patient": None}, {"patient": None}]
    assert table["patient_probability"].isna().tolist() == [False, True, True]
    assert said == [
        "ecg.csv: 2 files not in it, 0 files without a patient id there; they have no patient's "
        "result."
    ]


def changed_index(export: Path, target: Path, change) -> Path:
    with (export / "ecg.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [change(dict(row)) for row in rows]
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return target


def test_ids_are_compared_as_in_a_manifest_and_may_be_empty(trained_run, export, files, tmp_path):
    def change(row):
        name = Path(row["path_xml"]).name
        one, other = files[0].name, files[1].name
        ids = {one: "JANE", other: "\u200b JANE "}
        return row | {"patient_id": ids.get(name, "")}

    index = changed_index(export, tmp_path / "ecg.csv", change)
    said: list[str] = []
    table = ecgfit.predict(trained_run, files[:3], index=index, root=export, progress=said.append)
    assert records(table[["patient"]]) == [{"patient": 0}, {"patient": 0}, {"patient": None}]
    assert said[0].startswith("ecg.csv: 0 files not in it, 1 file without a patient id there")
    assert "JANE" not in table.to_csv()


def test_an_index_elsewhere_needs_its_root(trained_run, export, files, tmp_path):
    index = shutil.copy(export / "ecg.csv", tmp_path)
    with pytest.raises(InputError, match=r"Index ecg.csv: none of the files is in it.* --root"):
        ecgfit.predict(trained_run, files[:2], index=index)
    with pytest.raises(InputError, match="--root is not a folder"):
        ecgfit.predict(trained_run, files[:2], index=index, root=tmp_path / "absent")
    table = ecgfit.predict(trained_run, files[:2], index=index, root=export)
    assert table["patient"].notna().all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path_xml,label\na.xml,1\n", "column missing: patient_id"),
        ("path_xml,patient_id\na.xml,JANE\na.xml,JANE\n", "line 3, path_xml: is listed before"),
    ],
)
def test_faults_of_an_index_are_named_without_values(trained_run, files, tmp_path, text, message):
    (tmp_path / "i.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        ecgfit.predict(trained_run, files[:1], index=tmp_path / "i.csv")
    assert "JANE" not in str(caught.value)


def test_the_command_writes_both_levels_and_spares_the_index(trained_run, export, files, tmp_path):
    words = ["predict", *files[:4], "--run", trained_run.path, "--index", export / "ecg.csv", "-o"]
    for name, more in (("p.csv", []), ("p.json", ["--json"])):
        for _ in range(2):  # the second replaces what the first wrote
            assert invoke(*words, tmp_path / name, *more).exit_code == 0
    header = (tmp_path / "p.csv").read_text().splitlines()[0]
    assert header == (
        "file,status,message,patient,probability,positive,patient_probability,patient_positive,"
        "missing_leads,warnings"
    )
    assert json.loads((tmp_path / "p.json").read_text())[0]["patient"] == 0
    before = (export / "ecg.csv").read_bytes()
    assert invoke(*words, export / "ecg.csv", "--overwrite").exit_code != 0
    assert (export / "ecg.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--store", "s.zarr", "--index", "i.csv"], "--index goes with FILES"),
        (["a.xml", "--root", "."], "--root goes with --index"),
    ],
)
def test_options_that_would_do_nothing_are_refused(words, message):
    result = invoke("predict", "--run", "r", *words)
    assert result.exit_code == 2
    assert message in result.output
