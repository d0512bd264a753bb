"""Covariates that a run needs come from the files' own headers, as from a store of the same files.

The table of headers that a simulated corpus has stands for that of `ecgprep index`: a file a line,
fields as text, F and M.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from helpers import changed_store, copy_run, trained

import ecgprep
from ecgfit.cli import cli
from ecgfit.evaluation.groups import covariate_groups
from ecgfit.inference.covariates import HeaderCovariates, covariates_of_files, read_covariates
from ecgfit.inference.export import describe
from ecgfit.inference.files import predict_files, predict_store
from ecgfit.reports.html import MARK
from ecgfit.run import RunFolder
from ecgprep.errors import InputError, StoreError
from ecgprep.header import Header
from ecgprep.readers import open_file
from ecgprep.sex_code import SexCode
from ecgprep.store.reader import Store

NAMES = ("age_years", "sex", "heart_rate_bpm", "qrs_ms", "qtc_ms")
CODE = {"sex": SexCode()}


@pytest.fixture(scope="module")
def table(corpus) -> pd.DataFrame:
    """The corpus as an index with a label, everything as text."""
    headers = pd.read_csv(corpus / "headers.csv", dtype=str, keep_default_na=False)
    manifest = pd.read_csv(corpus / "manifest.csv", dtype=str)
    return headers.merge(manifest[["path_xml", "label"]], on="path_xml", validate="1:1")


@pytest.fixture(scope="module")
def indexed(corpus, table, tmp_path_factory) -> Store:
    """A tiny store of the index."""
    folder = tmp_path_factory.mktemp("indexed")
    table.to_csv(folder / "m.csv", index=False)
    return ecgprep.build(
        folder / "m.csv",
        folder / "s.zarr",
        root=corpus,
        covariates=NAMES,
        hz=100,
        length=200,
        duplicates="exact",
    )


@pytest.fixture(scope="module")
def run(indexed, tmp_path_factory) -> RunFolder:
    """A run on the store of the index; read-only."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    return trained(indexed, folder, epochs=1, tabular=",".join(NAMES))


@pytest.fixture(scope="module")
def files(corpus, table) -> list[Path]:
    return [corpus / path for path in table["path_xml"]]


def covariates_csv(path: Path, lines: list[str], separator: str = ",") -> Path:
    path.write_text("".join(line.replace("|", separator) + "\n" for line in lines))
    return path


# Bits


def test_the_store_holds_what_the_table_says(indexed, table):
    values = table[list(NAMES)].replace("", "nan")
    values["sex"] = values["sex"].map({"F": "1", "M": "0"})
    found = indexed.array("covariates")
    np.testing.assert_array_equal(found, values.to_numpy(np.float64).astype(np.float32))
    assert indexed.attributes["settings"]["sex_code"] == {"sex": "0=M,1=F"}
    assert set(found[:, 1].tolist()) == {0.0, 1.0}


def test_files_give_the_bits_of_their_rows_without_a_covariates_file(run, indexed, files):
    of_rows, said = predict_store(run, indexed), []
    found = predict_files(run, files, say=said.append)
    shared = ["probability", "positive", "warnings"]
    pd.testing.assert_frame_equal(found[shared], of_rows[shared], check_exact=True)
    assert said == [f"{name}: {len(files)} from the XML, 0 missing." for name in NAMES]


def test_the_run_would_give_others_without_its_covariates(run, indexed, files, tmp_path):
    """The tests above compare something: covariates matter."""
    lines = ["file|" + "|".join(NAMES), f"{files[0]}|20|M|190|190|300"]
    other = predict_files(run, files[:1], covariates_csv(tmp_path / "c.csv", lines), str)
    assert other["probability"][0] != predict_store(run, indexed)["probability"][0]


# Which value is taken


def test_a_given_value_wins_and_the_header_fills_what_is_empty(run, indexed, files, tmp_path):
    lines = ["file|age_years|sex", f"{files[0]}|93|female", f"{files[1]}|NA|", "absent.xml|1|M"]
    path, said = covariates_csv(tmp_path / "c.csv", lines), []
    given = covariates_of_files(path, files[:2], NAMES, said.append, run.sex_codes)
    np.testing.assert_array_equal(given[:, :2], [[90, 1], [np.nan, np.nan]])
    assert np.isnan(given[:, 2:]).all()
    headers = HeaderCovariates(NAMES, run.sex_codes)
    stored = indexed.array("covariates")
    first = headers.complete(given[0], open_file(files[0]))
    np.testing.assert_array_equal(first, [90, 1, *stored[0, 2:]])
    np.testing.assert_array_equal(headers.complete(given[1], open_file(files[1])), stored[1])
    said.clear()
    headers.say_sources(said.append)
    assert said == [
        "age_years: 1 from the covariates file, 1 from the XML, 0 missing.",
        "sex: 1 from the covariates file, 1 from the XML, 0 missing.",
        *(f"{name}: 2 from the XML, 0 missing." for name in NAMES[2:]),
    ]


class Headed:
    """A vendor file of which only the header is asked."""

    def __init__(self, **fields: object) -> None:
        self._header = Header(**fields)

    def header(self) -> Header:
        return self._header


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"age_years": 93.0, "sex": "F", "qtc_ms": 431.0}, [90, 1, 431]),
        ({"age_years": 89.0, "sex": "M"}, [89, 0, np.nan]),
        ({"age_years": 0.25}, [0.25, np.nan, np.nan]),
        ({}, [np.nan] * 3),
    ],
)
def test_fields_become_what_a_store_would_hold(fields, expected):
    headers = HeaderCovariates(("age_years", "sex", "qtc_ms"), CODE)
    found = headers.complete(np.full(3, np.nan, np.float32), Headed(**fields))
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    assert found.dtype == np.float32


def test_only_columns_with_the_names_of_fields_are_filled():
    names = ("age", "gender", "qtc")
    headers, said = HeaderCovariates(names, {"gender": SexCode()}), []
    empty = np.full(3, np.nan, np.float32)
    found = headers.complete(empty, Headed(age_years=50.0, sex="F", qtc_ms=400.0))
    assert np.isnan(found).all()
    headers.say_sources(said.append)
    assert said == [f"{name}: 1 missing." for name in names]


def test_a_column_of_0_and_1_is_not_filled_by_the_sex_of_the_xml():
    headers, said = HeaderCovariates(("sex",), {}), []
    found = headers.complete(np.array([np.nan], np.float32), Headed(sex="F"))
    assert np.isnan(found[0])
    headers.say_sources(said.append)
    assert said == [
        "sex: 1 missing. The XML cannot fill it: the run's store does not say which number is "
        "which sex (ecgprep build --sex-code)."
    ]


@pytest.mark.parametrize(("code", "expected"), [("0=F,1=M", [0, 1]), ("1=M,2=F", [2, 1])])
def test_the_code_of_the_store_decides(code, expected):
    headers = HeaderCovariates(("sex",), {"sex": SexCode.parse(code)})
    empty = np.array([np.nan], np.float32)
    assert [headers.complete(empty, Headed(sex=sex))[0] for sex in "FM"] == expected


def test_a_header_is_not_read_where_every_value_was_given():
    class Unread:
        def header(self) -> Header:
            raise AssertionError("the header was read")

    headers, said = HeaderCovariates(("age_years",), {}), []
    assert headers.complete(np.array([40], np.float32), Unread()).tolist() == [40]
    headers.say_sources(said.append)
    assert said == []


# The CSV of covariates


def test_the_csv_is_read_like_a_manifest(tmp_path):
    lines = ["file|age_years|sex|qtc_ms", "a.xml|93|m|431,5", "b.xml|.|Female|N/A"]
    path = covariates_csv(tmp_path / "c.csv", lines, ";")
    found = read_covariates(path, ["qtc_ms", "sex", "age_years"], CODE)
    np.testing.assert_array_equal(found, [[431.5, 0, 90], [np.nan, 1, np.nan]])
    path.write_bytes(path.read_text().replace(";", "\t").encode("utf-16"))
    of_tabs = read_covariates(path, ["qtc_ms", "sex", "age_years"], CODE)
    pd.testing.assert_frame_equal(of_tabs, found)


@pytest.mark.parametrize(
    ("codes", "field", "message"),
    [
        ({}, "F", "sex: holds F or M, but the run's store does not say which number"),
        (CODE, "2", "line 2, sex: must be F, M, a number of the code 0=M,1=F, or empty"),
    ],
)
def test_sexes_of_the_csv_need_the_code_of_the_run(tmp_path, codes, field, message):
    path = covariates_csv(tmp_path / "c.csv", ["file|sex", f"a.xml|{field}"])
    with pytest.raises(InputError, match=message):
        read_covariates(path, ["sex"], codes)


def test_faults_of_the_csv_are_reported_together(tmp_path):
    lines = ["file|age", "a.xml|old", "a.xml|3", "|4", "b.xml|1|2"]
    with pytest.raises(InputError) as caught:
        read_covariates(covariates_csv(tmp_path / "c.csv", lines), ["age"])
    assert "Covariates file c.csv: 4 faults" in str(caught.value)


def test_columns_that_the_xml_fills_may_be_absent_and_others_may_not(tmp_path):
    path = covariates_csv(tmp_path / "c.csv", ["file|troponin", "a.xml|5"])
    found = covariates_of_files(path, [Path("a.xml")], ["qtc_ms", "troponin"], str)
    np.testing.assert_array_equal(found, [[np.nan, 5]])
    with pytest.raises(InputError, match="column missing: age"):
        covariates_of_files(path, [Path("a.xml")], ["qtc_ms", "age"], str)
    with pytest.raises(InputError, match="none of the run's covariates is there: qtc_ms"):
        covariates_of_files(path, [Path("a.xml")], ["qtc_ms"], str)


# Runs


def test_a_run_records_the_code_and_shows_it(run, indexed):
    assert run.recorded["store"]["sex_code"] == {"sex": "0=M,1=F"}
    assert json.loads(describe(run)["sex_code"]) == {"sex": "0=M,1=F"}
    groups = covariate_groups("sex", indexed.array("covariates")[:3, 1], run.sex_codes["sex"])
    assert set(groups.tolist()) <= {"female", "male"}
    metrics = json.loads((run.path / "metrics_test.json").read_text())
    assert set(metrics["subgroups"]["sex"]) == {"female", "male"}
    assert "75 and above" in metrics["subgroups"]["age_years"]


def test_the_model_card_and_table_1_name_the_sexes(run, indexed, tmp_path):
    from ecgfit import report

    page = report(run, tmp_path / "r.html", store=indexed)
    text = Path(page).read_bytes()
    assert MARK in text
    assert b"covariates age_years, sex (0=M,1=F), heart_rate_bpm, qrs_ms, qtc_ms" in text
    assert b"female" in text


def test_a_run_of_numbers_records_no_code(mask_run):
    assert "sex_code" not in mask_run.recorded["store"]
    assert "sex_code" not in describe(mask_run)
    assert mask_run.sex_codes == {}


def test_a_store_of_another_code_is_refused(run, indexed, tmp_path):
    other = changed_store(indexed, tmp_path / "s.zarr")
    metadata = tmp_path / "s.zarr/zarr.json"
    metadata.write_text(metadata.read_text().replace("0=M,1=F", "0=F,1=M"))
    with pytest.raises(StoreError, match=r"the code of sex \(=0=F,1=M\) is not that of the run"):
        predict_store(run, Store(other.path))


def test_a_damaged_code_of_a_run_is_refused(run, tmp_path):
    config = copy_run(run, tmp_path / "r").path / "config.yaml"
    config.write_text(config.read_text().replace("0=M,1=F", "0=Jane"))
    with pytest.raises(StoreError, match="no readable sex_code") as caught:
        RunFolder(tmp_path / "r")
    assert "Jane" not in str(caught.value)


def test_the_command_needs_no_covariates_and_says_where_they_came_from(run, files, tmp_path):
    damaged = tmp_path / "damaged.xml"
    damaged.write_text("not an ECG")
    words = ["predict", "--run", run.path, *files[:3], damaged, "-o", tmp_path / "p.csv"]
    done = CliRunner().invoke(cli, list(map(str, words)))
    assert "age_years: 3 from the XML, 0 missing.\n" in done.stderr
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["warnings"] for row in rows] == [""] * 4
    for row in rows[:3]:
        header = open_file(row["file"]).header()
        assert header.patient_id
        assert header.patient_id not in done.stderr
