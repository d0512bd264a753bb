"""Manifests: everything is text; all faults are reported at once, and no value is repeated."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecgprep.errors import InputError
from ecgprep.patients.manifest import read_manifest, read_patients, write_frame
from ecgprep.patients.manifest_columns import ManifestColumns

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


def test_ids_that_look_alike_are_warned_of_by_line(tmp_path):
    rows = manifest_of(
        tmp_path, HEADER + "00123,a.xml,0\n123,b.xml,1\nab,c.xml,0\nAB,d.xml,0\nxy,e.xml,0\n"
    )
    assert rows.warnings == (
        "lines 2, 3; lines 4, 5: patient ids differ only by leading zeros (1 group), case (1 group)"
        ", in 2 groups of 4 rows; they are kept as different patients. If they are not, add "
        "--merge-lookalikes",
    )


def test_byte_order_mark_quotes_crlf_and_other_columns_are_fine(tmp_path):
    content = '\ufeffsite,label,path_xml,patient_id\r\n"A, B",1,"x/a.xml",P1\r\n\r\n,0,b.xml,P2\r\n'
    rows = manifest_of(tmp_path, content)
    assert rows.path_xml == ["x/a.xml", "b.xml"]
    assert list(rows.line) == [2, 4]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", r"column missing: patient_id, path_xml, label. .* The file has no line\."),
        ("patient_id,label\nP1,0\n", "path_xml. .* has these columns: patient_id, label."),
        ("patient_id,path_xml,label,label\nP1,a,0,0\n", "column given twice: label\\. "),
        ("patient_id;path_xml;outcome\nP1;a;0\n", "Did you mean --label-column outcome"),
        ("P1;a.xml;0\nP2;b.xml;1\n", r"The file has 3 columns\. A column of another name"),
        ("patient_id|path_xml|label\nP1|a|0\n", "must be separated by commas, semicolons or tabs"),
        (HEADER, "no data rows"),
        (HEADER + "P1,a.xml\n", "line 2, row: 2 fields; the header has 3"),
        (HEADER + "P1,a.xml,0,extra\n", "line 2, row: 4 fields; the header has 3"),
        (HEADER + "P1,a.xml,2\n", "line 2, label: must be 0 or 1; found 1 digits"),
        (HEADER + "P1,a.xml,\n", "line 2, label: must be 0 or 1; found an empty value"),
        (HEADER + "P1,a.xml,yes\n", "line 2, label: must be 0 or 1; found 3 letters"),
        (HEADER + " ,a.xml,0\n", "line 2, patient_id: is empty. Fill it in, or leave out the row"),
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
    assert re.search(expected, fault_of(tmp_path, content))


COMMAS = 'patient_id,path_xml,label,age,site\nP1,a.xml,0,56,"A; B"\n,,,,\nÜ2,"x;y.xml",1,,C\n'


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_separators_and_encodings_read_as_pandas_reads_them(tmp_path, separator, encoding):
    truth = pd.read_csv(io.StringIO(COMMAS), dtype=str).dropna(how="all")
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    content = mark + truth.to_csv(sep=separator, index=False).encode(encoding)
    again = pd.read_csv(io.BytesIO(content), sep=separator, encoding=encoding.removesuffix("-be"))
    rows = manifest_of(tmp_path, content, covariates=["age"], group_by="site")
    assert rows.patient_id == again["patient_id"].tolist() == ["P1", "Ü2"]
    assert rows.label.tolist() == again["label"].tolist() == [0, 1]
    assert rows.group == again["site"].tolist() == ["A; B", "C"]
    np.testing.assert_array_equal(rows.covariates[:, 0], again["age"])


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "sep=;;;"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_line_that_tells_excel_the_separator_is_no_header(tmp_path, first, encoding):
    text = f"{first}\r\n{HEADER}P1,a.xml,0\nP2,b.xml,2\n".replace(",", ";")
    assert "line 4, label: must be 0 or 1" in fault_of(tmp_path, text.encode(encoding))
    rows = manifest_of(tmp_path, text.replace("2\n", "1\n").encode(encoding))
    assert (rows.patient_id, list(rows.line)) == (["P1", "P2"], [3, 4])


@pytest.mark.parametrize("mark", ["\ufeff", "\u200b", "\u00ad"])
def test_invisible_characters_in_names_and_values_change_nothing(tmp_path, mark):
    content = f"patient_id,{mark}path_xml,label{mark},a{mark}ge,sex\n{mark},,,,\n"
    content += f"P1,a.xml,{mark}1,4{mark}5,F{mark}\n"
    rows = manifest_of(tmp_path, content, covariates=["age", "sex"])
    assert rows.label.tolist() == [1]
    assert rows.covariates.tolist() == [[45, 1]]


@pytest.mark.parametrize("blank", [",,", " , ,\t", "  ", ",,,,,"])
def test_blank_rows_are_skipped_and_counted_as_lines(tmp_path, blank):
    rows = manifest_of(tmp_path, f"{blank}\n{HEADER}P1,a.xml,0\n{blank}\nP2,b.xml,1\n{blank}\n")
    assert rows.patient_id == ["P1", "P2"]
    assert list(rows.line) == [3, 5]


def test_a_comma_stays_the_separator_where_the_header_allows_two(tmp_path):
    (tmp_path / "t.csv").write_text("patient_id\nP1;x\n")
    assert read_patients(tmp_path / "t.csv") == ({"P1;x"}, ())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEADER.encode("utf-16-le"), "line 1 holds NUL characters"),
        ((HEADER + "P1,a,0\n").encode("utf-16") + b"x", "line 3 is not UTF-16, as its first"),
    ],
)
def test_utf16_without_a_mark_or_cut_is_named(tmp_path, content, expected):
    assert expected in fault_of(tmp_path, content)


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("Patient_ID,path_xml,label", "Did you mean --patient-column Patient_ID?"),
        ("patientid,path_xml,label", "Did you mean --patient-column patientid?"),
        ("patient_id,PATH,Outcome", "Did you mean --path-column PATH, --label-column Outcome?"),
        ("Patient Id,path_xml,label", "Did you mean --patient-column 'Patient Id'?"),
        ("patient_id,path_xml,death", "A column of another name is given with --label-column."),
        ("patient_id,path_xml,label,Age", "Did you mean Age?"),
    ],
)
def test_a_column_of_nearly_the_same_name_is_hinted_at(tmp_path, header, hint):
    message = fault_of(tmp_path, f"{header}\nP1,a.xml,0,1\n", covariates=["age"])
    assert hint in message


def test_a_hint_repeats_no_name_that_is_not_known(tmp_path):
    message = fault_of(tmp_path, "SECRET,PATIENT-ID\n1,2\n")
    assert "--patient-column PATIENT-ID" in message
    assert "SECRET" not in message


def test_columns_have_the_names_that_are_given(tmp_path):
    content = "MRN;label;File;death\nP1;0;a.xml;1\nP2;1;b.xml;0\n"
    columns = ManifestColumns("MRN", "File", "death")
    rows = manifest_of(tmp_path, content, columns=columns)
    assert rows.patient_id == ["P1", "P2"]
    assert rows.label.tolist() == [1, 0]
    message = fault_of(tmp_path, content.replace("P1;0;a.xml;1", ";0;../a;x"), columns=columns)
    assert re.search(r"line 2, MRN:.*line 2, File:.*line 2, death:", message, re.DOTALL)


@pytest.mark.parametrize("text", ["1", "1.0", "1.", "1.00", "True", "TRUE", "true", " true "])
def test_a_label_may_be_a_whole_number_or_true_and_false(tmp_path, text):
    opposite = text.replace("1", "0").lower().replace("true", "fALSE")
    rows = manifest_of(tmp_path, f"{HEADER}P1,a.xml,{text}\nP2,b.xml,{opposite}\n")
    assert rows.label.tolist() == [1, 0]


def test_a_label_has_a_decimal_comma_only_where_commas_do_not_separate(tmp_path):
    rows = manifest_of(tmp_path, HEADER.replace(",", ";") + "P1;a.xml;1,0\nP2;b.xml;0,00\n")
    assert rows.label.tolist() == [1, 0]
    assert "must be 0 or 1" in fault_of(tmp_path, HEADER + 'P1,a.xml,"1,0"\n')


@pytest.mark.parametrize("text", ["0.5", "10", "1.01", "t", "1e0", "01", "-0", "2.0"])
def test_no_other_label_is_understood(tmp_path, text):
    assert "must be 0 or 1" in fault_of(tmp_path, f"{HEADER}P1,a.xml,{text}\n")


@pytest.mark.parametrize("text", ["yes", "No", "n"])
def test_yes_and_no_are_refused_with_a_hint(tmp_path, text):
    assert "Write 1 for yes and 0 for no" in fault_of(tmp_path, f"{HEADER}P1,a.xml,{text}\n")


def test_header_that_holds_values_is_not_repeated(tmp_path):
    message = fault_of(tmp_path, "SECRET,a.xml,0\nP2,b.xml,1\n")
    assert "The file has 3 columns." in message
    assert "SECRET" not in message


def test_a_long_header_is_cut(tmp_path):
    header = ",".join(["patient_id", *(f"c{i}" for i in range(20))])
    assert "patient_id, c0, c1, c2" in fault_of(tmp_path, header + "\n")
    assert "c10 and 9 more." in fault_of(tmp_path, header + "\n")


def test_all_faults_are_reported_together_and_none_repeats_a_value(tmp_path):
    secrets = "P1,a.xml,SECRET1\nP2,../SECRET2,0\nSECRET3\n"
    message = fault_of(tmp_path, HEADER + secrets + "P3,a.xml,x\n" * 40)
    assert message.startswith("Manifest m.csv: 43 faults")
    assert "and 23 more" in message
    assert "SECRET" not in message


@pytest.mark.parametrize(
    ("name", "found"), [("absent.csv", "does not exist"), ("", "is not a regular file")]
)
def test_manifest_that_is_missing_or_a_folder(tmp_path, name, found):
    with pytest.raises(InputError, match=f"{found}. Give a CSV file with the columns patient_id"):
        read_manifest(tmp_path / name)


def test_absolute_path_inside_the_root_is_fine(tmp_path):
    assert manifest_of(tmp_path, HEADER + f"P1,{tmp_path}/x/a.xml,0\n").path_xml == ["x/a.xml"]


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("patient_id,path_xml\nP1,a.xml\n", [-1]),
        (HEADER + "P1,a.xml,\nP2,b.xml,1\n", [-1, 1]),
    ],
)
def test_rows_without_a_label_are_read_with_the_option(tmp_path, content, labels):
    assert manifest_of(tmp_path, content, unlabelled=True).label.tolist() == labels


@pytest.mark.parametrize("value", ["", "-1", "NA"])
def test_rows_without_a_label_name_the_option(tmp_path, value):
    message = fault_of(tmp_path, HEADER + f"P1,a.xml,{value}\n")
    assert "label is not known, leave the field empty, and add --unlabelled" in message


WITH_AGE = "patient_id,path_xml,label,age,mrn_no,name\n"


def test_covariates_are_numbers_and_ages_over_89_become_90(tmp_path):
    ages = ["56", "300", "", "89", "89.5"]
    lines = "".join(f"P{i},a,0,{age},1,x\n" for i, age in enumerate(ages))
    rows = manifest_of(tmp_path, WITH_AGE + lines, covariates=["age"])
    np.testing.assert_array_equal(rows.covariates[:, 0], [56, 90, np.nan, 89, 90])
    assert rows.covariates.dtype == np.float32


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
    header = WITH_AGE.strip() + ",birth date,date_of_birth,studydate,patientid\n"
    message = fault_of(tmp_path, header + "P1,a,0,1,1,1,1,1,1,1\n", covariates=[name])
    assert f"--covariates {name}: the name must be letters, digits and _" in message


def test_age_is_a_word_of_the_name_not_its_beginning(tmp_path):
    content = "patient_id,path_xml,label,agent_dose,patient_age,ageAtEcg\nP1,a,0,120,96,97\n"
    rows = manifest_of(tmp_path, content, covariates=["agent_dose", "patient_age", "ageAtEcg"])
    assert rows.covariates.tolist() == [[120, 90, 90]]


def test_near_unique_column_is_no_covariate(tmp_path):
    lines = "".join(f"P{i},a{i},0,{1000 + i}\n" for i in range(50))
    content = "patient_id,path_xml,label,code\n" + lines
    assert "50 different values for 50 patients" in fault_of(tmp_path, content, covariates=["code"])


def test_column_of_dates_is_no_covariate(tmp_path):
    content = "patient_id,path_xml,label,seen\nP1,a,0,20210131\nP2,b,1,\n"
    assert "look like dates (YYYYMMDD)" in fault_of(tmp_path, content, covariates=["seen"])


@pytest.mark.parametrize("value", ["SECRET", "1_0", "--", "inf", "1e39"])
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
    assert "line 3, patient_id: is empty" in str(caught.value)


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
    names = pd.Series(["SECRET\udcff"], dtype=object)  # pyarrow, if it is there, takes no such text
    frame = pd.DataFrame({"patient_id": names, "path_xml": ["a"], "label": [0]})
    with pytest.raises(InputError, match="not valid Unicode") as caught:
        write_frame(frame, tmp_path / "m.csv")
    assert "SECRET" not in str(caught.value)
