"""Manifest: everything is text, all faults are told at once by line and column, and no value is repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecgprep.errors import InputError
from ecgprep.patients.manifest import read_manifest, write_frame

HEADER = "patient_id,path_xml,label\n"


def manifest_of(tmp_path, content, **options):
    path = tmp_path / "m.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_manifest(path, **options)


def fault_of(tmp_path, content, **options):
    with pytest.raises(InputError) as caught:
        manifest_of(tmp_path, content, **options)
    return str(caught.value)


def test_ids_are_text(tmp_path):
    rows = manifest_of(
        tmp_path, HEADER + "00123,a.xml,0\n123,b.xml,1\n1e3,c.xml,0\n1000,d.xml,0\nNA,e.xml,0\n"
    )
    assert rows.patient_id == ["00123", "123", "1e3", "1000", "NA"]
    assert rows.label.tolist() == [0, 1, 0, 0, 0]
    assert list(rows.line) == [2, 3, 4, 5, 6]


def test_ids_that_look_alike_are_told_by_line(tmp_path):
    rows = manifest_of(
        tmp_path, HEADER + "00123,a.xml,0\n123,b.xml,1\nab,c.xml,0\nAB,d.xml,0\nxy,e.xml,0\n"
    )
    assert [warning.split(":")[0] for warning in rows.warnings] == ["lines 2, 3", "lines 4, 5"]
    assert "123" not in "".join(rows.warnings)


def test_byte_order_mark_quotes_crlf_and_other_columns_are_fine(tmp_path):
    rows = manifest_of(
        tmp_path,
        b'\xef\xbb\xbfsite,label,path_xml,patient_id\r\n"A, B",1,"x/a.xml",P1\r\n\r\n,0,b.xml,P2\r\n',
    )
    assert rows.path_xml == ["x/a.xml", "b.xml"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "column missing: patient_id, path_xml, label"),
        ("patient_id,label\nP1,0\n", "column missing: path_xml"),
        ("patient_id,path_xml,label,label\nP1,a,0,0\n", "column given twice: label"),
        ("patient_id;path_xml;label\nP1;a;0\n", "separated by semicolons"),
        (HEADER, "no data rows"),
        (HEADER + "P1,a.xml\n", "line 2, row: 2 fields; the header has 3"),
        (HEADER + "P1,a.xml,0,extra\n", "line 2, row: 4 fields; the header has 3"),
        (HEADER + "P1,a.xml,2\n", "line 2, label: must be 0 or 1; found 1 digits"),
        (HEADER + "P1,a.xml,\n", "line 2, label: must be 0 or 1; found an empty value"),
        (HEADER + "P1,a.xml,yes\n", "line 2, label: must be 0 or 1; found 3 letters"),
        (HEADER + " ,a.xml,0\n", "line 2, patient_id"),
        (HEADER + "P1,,0\n", "line 2, path_xml"),
        (HEADER + "P1,../a.xml,0\n", "line 2, path_xml: leads out of the root"),
        (HEADER + "P1,x/../../a.xml,0\n", "line 2, path_xml: leads out of the root"),
        (HEADER + "P1,/etc/passwd,0\n", "line 2, path_xml: leads out of the root"),
        (HEADER + "P1,a\0b.xml,0\n", "line 2, path_xml: must be a path without control"),
        (HEADER + '"P\n1",a.xml,0\n', "patient_id: must be text without control"),
        (HEADER + 'P1,"a.xml,0\n', "not valid CSV"),
        (HEADER.encode() + b"M\xfcller,a.xml,0\n", "line 2 is not UTF-8"),
    ],
)
def test_fault_is_named_by_line_and_column(tmp_path, content, expected):
    assert expected in fault_of(tmp_path, content)


def test_all_faults_are_reported_together_and_none_repeats_a_value(tmp_path):
    message = fault_of(
        tmp_path, HEADER + "P1,a.xml,SECRET1\nP2,../SECRET2,0\nSECRET3\n" + "P3,a.xml,x\n" * 40
    )
    assert message.startswith("Manifest m.csv: 43 faults")
    assert "and 23 more" in message
    assert "SECRET" not in message


def test_manifest_that_is_missing_or_a_folder(tmp_path):
    for path, found in (
        (tmp_path / "absent.csv", "does not exist"),
        (tmp_path, "is not a regular file"),
    ):
        with pytest.raises(InputError, match=found):
            read_manifest(path)


def test_absolute_path_inside_the_root_is_fine(tmp_path):
    assert manifest_of(tmp_path, HEADER + f"P1,{tmp_path}/x/a.xml,0\n").path_xml == ["x/a.xml"]


def test_unlabelled_rows_need_the_option(tmp_path):
    assert manifest_of(
        tmp_path, "patient_id,path_xml\nP1,a.xml\n", unlabelled=True
    ).label.tolist() == [-1]
    assert manifest_of(
        tmp_path, HEADER + "P1,a.xml,\nP2,b.xml,1\n", unlabelled=True
    ).label.tolist() == [-1, 1]
    for value in ("", "-1", "NA"):
        assert (
            "Where the label is not known, leave the field empty, and add --unlabelled"
            in fault_of(tmp_path, HEADER + f"P1,a.xml,{value}\n")
        )


WITH_AGE = "patient_id,path_xml,label,age,mrn_no,name\n"


def test_covariates_are_numbers_and_ages_over_89_become_90(tmp_path):
    rows = manifest_of(
        tmp_path,
        WITH_AGE + "P1,a,0,56,1,x\nP2,b,0,300,2,y\nP3,c,1,,3,z\nP4,c,1,89,3,z\nP5,c,1,89.5,3,z\n",
        covariates=["age"],
    )
    np.testing.assert_array_equal(
        rows.covariates[:, 0], np.array([56, 90, np.nan, 89, 90], np.float32)
    )


@pytest.mark.parametrize(
    "name",
    [
        "name",
        "mrn_no",
        "patient_id",
        "label",
        "birth date",
        "date_of_birth",
        "studydate",
        "patientid",
    ],
)
def test_identifying_column_is_no_covariate(tmp_path, name):
    assert f"--covariates {name}" in fault_of(
        tmp_path,
        WITH_AGE.replace("name", "name,birth date,date_of_birth,studydate,patientid")
        + "P1,a,0,1,1,1,1,1,1,1\n",
        covariates=[name],
    )


def test_age_is_a_word_of_the_name_not_its_beginning(tmp_path):
    content = "patient_id,path_xml,label,agent_dose,patient_age,ageAtEcg\nP1,a,0,120,96,97\n"
    rows = manifest_of(tmp_path, content, covariates=["agent_dose", "patient_age", "ageAtEcg"])
    assert rows.covariates.tolist() == [[120, 90, 90]]


def test_near_unique_column_is_no_covariate(tmp_path):
    content = "patient_id,path_xml,label,code\n" + "".join(
        f"P{i},a{i},0,{1000 + i}\n" for i in range(50)
    )
    assert "50 different values for 50 patients" in fault_of(tmp_path, content, covariates=["code"])


@pytest.mark.parametrize("value", ["SECRET", "1_0", "nan", "inf", "1e39"])
def test_covariate_that_is_no_number(tmp_path, value):
    message = fault_of(tmp_path, WITH_AGE + f"P1,a,0,{value},1,x\n", covariates=["age"])
    assert "line 2, age: must be a number or empty" in message
    assert "SECRET" not in message


def round_trip(tmp_path, columns, **options):
    """Write a DataFrame as a manifest and read it."""
    path = tmp_path / "frame.csv"
    write_frame(pd.DataFrame(columns), path)
    return read_manifest(path, **options)


def test_dataframe_reads_like_the_csv_of_the_same_rows(tmp_path):
    content = HEADER.replace("label", "label,age,site") + (
        '00123,a.xml,0,56,1\n123,"x, y/b.xml",1,,2\n1e3,"""c"".xml",0,0.1,1\n'
    )
    from_csv = manifest_of(tmp_path, content, covariates=["age"], group_by="site")
    from_frame = round_trip(
        tmp_path,
        {
            "patient_id": ["00123", "123", "1e3"],
            "path_xml": ["a.xml", Path("x, y/b.xml"), '"c".xml'],
            "label": [0, 1, 0],
            "age": np.array([56, np.nan, 0.1], np.float32),
            "site": [1.0, 2.0, 1.0],
        },
        covariates=["age"],
        group_by="site",
    )
    assert from_frame.patient_id == from_csv.patient_id
    assert from_frame.path_xml == from_csv.path_xml
    assert from_frame.group == from_csv.group
    assert from_frame.label.tolist() == from_csv.label.tolist()
    assert list(from_frame.line) == list(from_csv.line)
    assert from_frame.covariates.tobytes() == from_csv.covariates.tobytes()
    assert (tmp_path / "frame.csv").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "labels",
    [
        [0.0, 1.0, np.nan],
        pd.array([0, 1, pd.NA], "Int8"),
        np.array([False, True, None], object),
        ["0", "1", None],
    ],
    ids=["float", "Int8", "bool", "text"],
)
def test_labels_of_a_dataframe_may_have_any_of_the_types_that_pandas_makes(tmp_path, labels):
    columns = {"patient_id": [7, 8, 9], "path_xml": ["a", "b", "c"], "label": labels}
    rows = round_trip(tmp_path, columns, unlabelled=True)
    assert rows.label.tolist() == [0, 1, -1]
    assert rows.patient_id == ["7", "8", "9"]


def test_faults_of_a_dataframe_are_named_by_line_and_column(tmp_path):
    columns = {"patient_id": ["P1", None], "path_xml": ["a", "b"], "label": [0.5, 1.0]}
    with pytest.raises(InputError) as caught:
        round_trip(tmp_path, columns)
    assert "line 2, label: must be 0 or 1" in str(caught.value)
    assert "line 3, patient_id: must be text" in str(caught.value)


@pytest.mark.parametrize("ids", [[7.0, np.nan], ["P1", 8.0]], ids=["float column", "one float"])
def test_float_ids_of_a_dataframe_are_refused(tmp_path, ids):
    frame = pd.DataFrame({"patient_id": ids, "path_xml": ["a", "b"], "label": [0, 1]})
    with pytest.raises(InputError, match=r"column patient_id: a floating-point.*dtype=.*str"):
        write_frame(frame, tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()


def test_repeated_columns_of_a_dataframe_are_refused(tmp_path):
    frame = pd.DataFrame([["P1", "a", 0, 1]], columns=[*HEADER.strip().split(","), "label"])
    with pytest.raises(InputError, match="more than one column label"):
        write_frame(frame, tmp_path / "m.csv")


def test_text_of_a_dataframe_that_is_not_unicode_is_refused_without_repeating_it(tmp_path):
    frame = pd.DataFrame({"patient_id": ["SECRET\udcff"], "path_xml": ["a"], "label": [0]})
    with pytest.raises(InputError, match="not valid Unicode") as caught:
        write_frame(frame, tmp_path / "m.csv")
    assert "SECRET" not in str(caught.value)
