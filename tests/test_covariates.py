"""Covariates of a manifest: what is a value, which number is which sex, what may enter a store."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import command, write_recordings

import ecgprep
from ecgprep.building.ensure import ensure_store
from ecgprep.building.plan import BuildSettings, read_plan
from ecgprep.conform import Conformity
from ecgprep.errors import InputError, TargetExists
from ecgprep.header import MEASUREMENTS
from ecgprep.patients.covariates import MISSING, CovariateColumn, stated_sex_codes
from ecgprep.patients.manifest import read_manifest
from ecgprep.sex_code import SexCode

SMALL = {"hz": 100, "length": 1000, "allow_missing_class": True}


def manifest_of(folder: Path, columns: dict[str, list[str]], separator: str = ",") -> Path:
    """Write a manifest with these columns, a patient a row."""
    n = len(next(iter(columns.values())))
    names = {
        "patient_id": [f"P{i}" for i in range(n)],
        "path_xml": [f"{i}.xml" for i in range(n)],
        "label": ["0"] * n,
    }
    path = folder / "m.csv"
    pd.DataFrame(names | columns).to_csv(path, index=False, sep=separator)
    return path


def values_of(folder: Path, texts: list[str], name: str = "x", **options: object) -> list[float]:
    """Return what a manifest's column of these texts is read as."""
    path = manifest_of(folder, {name: texts})
    return read_manifest(path, covariates=[name], **options).covariates[:, 0].tolist()


def fault_of(folder: Path, columns: dict[str, list[str]], **options: object) -> str:
    path = manifest_of(folder, columns)
    with pytest.raises(InputError) as caught:
        read_manifest(path, covariates=list(columns), **options)
    return str(caught.value)


# Numbers


def test_missing_values_are_those_that_are_documented_and_pandas_agrees(tmp_path):
    texts = ["", " ", "NA", "N/A", "#N/A", "NaN", "nan", ".", "NULL", "None", "n/a", "1.5", "-2"]
    assert {text.strip().lower() for text in texts[:-2]} == MISSING
    page = (Path(__file__).parent.parent / "docs" / "manifest.md").read_text()
    for text in ("`NA`", "`N/A`", "`#N/A`", "`NaN`", "`NULL`", "`None`", "`.`"):
        assert text in page
    quoted = "x\n" + "".join(f'"{text}"\n' for text in texts)
    expected = pd.read_csv(
        io.StringIO(quoted), na_values=[".", " ", "n/a"], skip_blank_lines=False
    )["x"]
    np.testing.assert_array_equal(values_of(tmp_path, texts), expected.astype(np.float32))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_are_read_where_the_separator_is_another(tmp_path, separator):
    texts = ["1,5", "-0,25", "3", "1,5e2", "NA"]
    path = manifest_of(tmp_path, {"x": texts}, separator)
    expected = pd.read_csv(path, sep=separator, decimal=",")["x"].astype(np.float32)
    found = read_manifest(path, covariates=["x"]).covariates[:, 0]
    np.testing.assert_array_equal(found, expected)


def test_a_decimal_comma_between_commas_is_refused_with_the_way_out(tmp_path):
    message = fault_of(tmp_path, {"x": ["1,5"]})
    assert "line 2, x: must be a number or empty; found 3 characters. A decimal comma" in message


@pytest.mark.parametrize("text", ["1.234,5", "1,234,5", "1'234", "1 234", "1_234"])
def test_separators_of_thousands_are_refused(text):
    for decimal_comma in (False, True):
        with pytest.raises(ValueError, match="must be a number or empty"):
            CovariateColumn("x", decimal_comma=decimal_comma).value(text)


def test_points_beside_decimal_commas_may_separate_thousands(tmp_path):
    path = manifest_of(tmp_path, {"x": ["1,5", "1.234"]}, ";")
    with pytest.raises(InputError, match="x: has decimal commas in some rows and points in others"):
        read_manifest(path, covariates=["x"])


# Sexes


@pytest.mark.parametrize("name", ["sex", "Gender", "patient_sex", "patientSex", "SEX"])
def test_f_and_m_become_1_and_0_and_the_code_is_known(tmp_path, name):
    texts = ["F", "M", "female", "MALE", "f", "NA", " Female ", "m"]
    path = manifest_of(tmp_path, {name: texts})
    rows = read_manifest(path, covariates=[name])
    np.testing.assert_array_equal(rows.covariates[:, 0], [1, 0, 1, 0, 1, np.nan, 1, 0])
    assert {column: str(code) for column, code in rows.sex_codes.items()} == {name: "0=M,1=F"}


def test_numbers_alone_have_no_known_code(tmp_path):
    path = manifest_of(tmp_path, {"sex": ["0", "1", "2"]})
    assert read_manifest(path, covariates=["sex"]).sex_codes == {}


def test_f_elsewhere_is_no_sex(tmp_path):
    message = fault_of(tmp_path, {"diabetes": ["F"], "sextant": ["M"]})
    assert message.count("understood in a column whose name has the word sex or gender") == 2


def test_letters_beside_numbers_are_refused_unless_the_code_is_stated(tmp_path):
    texts = ["F", "1", "0", "M"]
    message = fault_of(tmp_path, {"sex": texts})
    assert "sex: holds both F or M and numbers, and nothing says which number" in message
    for code, expected in [("0=M,1=F", [1, 1, 0, 0]), ("0=F,1=M", [0, 1, 0, 1])]:
        codes = stated_sex_codes(code, ["age", "sex"])
        assert values_of(tmp_path, texts, "sex", sex_codes=codes) == expected


def test_a_stated_code_refuses_other_numbers(tmp_path):
    message = fault_of(tmp_path, {"sex": ["0", "1"]}, sex_codes={"sex": SexCode.parse("1=M,2=F")})
    assert "line 2, sex: must be F, M, a number of the code 1=M,2=F, or empty" in message
    assert "line 3" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0=M,1=F", "0=M,1=F"), (" 1=F , 0=male", "0=M,1=F"), ("2=Female,1=MALE", "1=M,2=F")],
)
def test_a_code_is_read_in_any_order_and_written_in_one(text, expected):
    code = SexCode.parse(text)
    assert str(code) == expected
    assert [code.word(code.value(sex)) for sex in "FM"] == ["female", "male"]
    assert code.word(7.0) is None


@pytest.mark.parametrize("text", ["", "F=1,M=0", "0=M", "0=M,1=M", "1=M,1=F", "0=M,1=F,2=X", "x"])
def test_what_is_no_code_is_refused(text):
    with pytest.raises(InputError, match="--sex-code must name a digit for each sex"):
        SexCode.parse(text)


def test_a_code_needs_a_column_of_sexes():
    with pytest.raises(InputError, match="--sex-code needs a covariate whose name"):
        stated_sex_codes("0=M,1=F", ["age", "sextant"])
    assert stated_sex_codes(None, ["age"]) == {}


# Columns that may identify


def fault_or_none(folder: Path, name: str, texts: list[str], **options: object) -> str | None:
    try:
        values_of(folder, texts, name, **options)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "name", ["dose_number", "visit_no", "time_since_dose", "sex_at_birth", "site_id"]
)
def test_a_column_with_the_name_of_an_id_can_be_allowed(tmp_path, name):
    refused = fault_or_none(tmp_path, name, ["1", "2"])
    assert f"If its values identify no one, add --allow-covariate {name}" in refused
    assert fault_or_none(tmp_path, name, ["1", "2"], allow_covariate=[name]) is None


@pytest.mark.parametrize(
    "name", ["patient_id", "label", "mrn", "name", "dob", "birth_year", "studydate", "ecg_id", "id"]
)
def test_names_of_people_and_dates_cannot_be_allowed(tmp_path, name):
    refused = fault_or_none(tmp_path, name, ["1", "2"], allow_covariate=[name])
    assert f"--covariates {name}: the name must be letters" in refused


@pytest.mark.parametrize(("name", "step"), [("troponin", 3.5), ("bmi", 0.37)])
def test_a_laboratory_value_that_differs_for_every_patient_can_be_allowed(tmp_path, name, step):
    texts = [f"{18 + step * i:g}" for i in range(27)]
    refused = fault_or_none(tmp_path, name, texts)
    assert "27 different values for 27 patients would identify them" in refused
    assert f"add --allow-covariate {name}, which the store records" in refused
    assert fault_or_none(tmp_path, name, texts, allow_covariate=[name]) is None


def test_dates_cannot_be_allowed(tmp_path):
    refused = fault_or_none(tmp_path, "seen", ["20210131"], allow_covariate=["seen"])
    assert "look like dates (YYYYMMDD)" in refused


def test_what_is_allowed_must_be_a_covariate(tmp_path):
    refused = fault_or_none(tmp_path, "x", ["1"], allow_covariate=["troponin"])
    assert "--allow-covariate troponin: not named with --covariates" in refused


def test_ages_in_years_and_measurements_of_a_cart_need_no_permission(tmp_path):
    numbers = [str(i + 40) for i in range(30)]
    for name in ("age_years", *MEASUREMENTS):
        assert fault_or_none(tmp_path, name, numbers) is None, name
    large = [str(1_000 + i) for i in range(30)]
    assert "identify them" in fault_or_none(tmp_path, "qtc_ms", large)
    days = [f"{40 + i / 365:.4f}" for i in range(30)]
    assert "identify them" in fault_or_none(tmp_path, "age_years", days)


# Stores


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """A folder of 12 recordings."""
    folder = tmp_path_factory.mktemp("coded")
    write_recordings(folder, 12)
    return folder


def with_column(folder: Path, target: Path, change: dict[str, list[str]]) -> Path:
    """Write the manifest of a folder with other columns, its paths absolute."""
    table = pd.read_csv(folder / "manifest.csv", dtype=str).assign(**change)
    table["path_xml"] = [str(folder / path) for path in table["path_xml"]]
    table.to_csv(target, index=False)
    return target


SEXES = ["F", "M", "M", "F"] * 3
OPTIONS = {"covariates": ["age", "sex", "dose_number"], "allow_covariate": ["dose_number"]}


@pytest.fixture(scope="module")
def coded(recordings, tmp_path_factory) -> Path:
    """A store of F and M and of an allowed column."""
    folder = tmp_path_factory.mktemp("store")
    columns = {"sex": SEXES, "dose_number": ["1", "2", "3"] * 4}
    manifest = with_column(recordings, folder / "m.csv", columns)
    return ecgprep.build(manifest, folder / "s.zarr", root="/", **OPTIONS, **SMALL).path


def test_a_store_records_its_code_and_what_was_allowed(coded, tmp_path):
    store = ecgprep.open_store(coded)
    settings = store.attributes["settings"]
    assert settings["sex_code"] == {"sex": "0=M,1=F"}
    assert settings["allow_covariate"] == ["dose_number"]
    assert store.array("covariates")[:, 1].tolist() == [1.0, 0.0, 0.0, 1.0] * 3
    shown = command("inspect", coded).stdout
    assert "sex code: sex 0=M,1=F\n" in shown
    assert "covariates allowed by name (--allow-covariate): dose_number\n" in shown
    page = ecgprep.report(coded, tmp_path / "r.html", ecgs=0).read_text()
    assert "allowed by name: dose_number." in page
    assert "0=M,1=F" in page
    assert ecgprep.verify(coded).intact
    again = ecgprep.unpack(ecgprep.pack(coded, tmp_path / "p.zarr"), tmp_path / "u.zarr")
    assert again.content_sha256 == store.content_sha256
    assert str(again.sex_codes["sex"]) == "0=M,1=F"


def test_a_store_of_numbers_records_neither(store):
    assert not {"sex_code", "allow_covariate"} & store.attributes["settings"].keys()
    assert store.sex_codes == {}


def test_a_stated_code_is_recorded_and_noticed(recordings, tmp_path):
    words = ["build", recordings / "manifest.csv", tmp_path / "s.zarr", "--covariates", "sex"]
    words += ["--hz", 100, "--length", 1000, "--allow-missing-class"]
    words += ["--registry", tmp_path / "r.csv"]
    done = command(*words, "--sex-code", "1=F,0=M", "--json")
    assert json.loads(done.stdout)["settings"]["sex_code"] == {"sex": "0=M,1=F"}
    assert 'unchanged": true' in command(*words, "--sex-code", "0=M,1=F", "--json").stdout
    stale = command(*words)
    assert "sex_code: {'sex': '0=M,1=F'}, now None" in stale.stderr


def test_a_plan_keeps_code_and_permission_for_other_machines(coded, recordings, tmp_path):
    manifest = coded.with_name("m.csv")
    ecgprep.plan(manifest, tmp_path / "s.zarr", root="/", **OPTIONS, **SMALL)
    settings = read_plan(tmp_path / "s.zarr").recorded_settings
    assert settings == ecgprep.open_store(coded).attributes["settings"]


def test_a_store_is_extended_by_rows_of_the_same_code(coded, recordings, tmp_path):
    lines = coded.with_name("m.csv").read_text().splitlines(keepends=True)
    manifest, store = tmp_path / "m.csv", tmp_path / "s.zarr"
    manifest.write_text("".join(lines[:9]))
    options = {"root": "/", **OPTIONS, **SMALL}
    ecgprep.build(manifest, store, **options)
    manifest.write_text("".join(lines))
    extended = ecgprep.build(manifest, store, extend=True, **options)
    sexes = extended.array("covariates")[:, 1]
    assert sexes.tolist() == [1.0, 0.0, 0.0, 1.0] * 3
    numbers = with_column(recordings, tmp_path / "n.csv", {"dose_number": ["1"] * 12})
    manifest.write_text(numbers.read_text())
    with pytest.raises(InputError, match="sex_code"):
        ecgprep.build(manifest, store, extend=True, **options)


def test_a_store_without_any_sex_is_extended_by_rows_that_bring_a_code(recordings, tmp_path):
    options = {"root": "/", "covariates": ["sex"], **SMALL}
    manifest = with_column(recordings, tmp_path / "m.csv", {"sex": [""] * 8 + SEXES[8:]})
    text = manifest.read_text()
    manifest.write_text("".join(text.splitlines(keepends=True)[:9]))
    first = ecgprep.build(manifest, tmp_path / "s.zarr", **options)
    assert "sex_code" not in first.attributes["settings"]
    manifest.write_text(text)
    with pytest.raises(TargetExists, match="--extend if it only has new rows"):
        ecgprep.build(manifest, tmp_path / "s.zarr", **options)
    extended = ecgprep.build(manifest, tmp_path / "s.zarr", extend=True, **options)
    assert extended.attributes["settings"]["sex_code"] == {"sex": "0=M,1=F"}
    assert extended.array("covariates")[8:, 0].tolist() == [1.0, 0.0, 0.0, 1.0]


def test_ensure_store_keeps_permissions_and_refuses_another_code(recordings, tmp_path):
    numbers = {"dose_number": ["1", "2", "3"] * 4}
    manifest = with_column(recordings, tmp_path / "m.csv", {"sex": SEXES, **numbers})
    text = manifest.read_text().replace(f"{recordings}/", "")
    manifest.write_text(text.replace(",F,", ",1,").replace(",M,", ",0,"))
    (tmp_path / "xml").mkdir()
    for path in (recordings / "xml").iterdir():
        (tmp_path / "xml" / path.name).hardlink_to(path)
    target = Conformity(100, 1000)
    settings = BuildSettings(target, plan=replace(BuildSettings().plan, allow_missing_class=True))
    allowed = replace(settings, allow_covariate=("dose_number",))
    store = tmp_path / "m.zarr"
    assert not ensure_store(manifest, store, allowed, ("dose_number", "sex")).store.sex_codes
    manifest.write_text(text)
    opened = ensure_store(manifest, store, settings, ("sex",)).store
    assert opened.covariate_names == ["dose_number", "sex"]
    assert opened.attributes["settings"]["allow_covariate"] == ["dose_number"]
    assert str(opened.sex_codes["sex"]) == "0=M,1=F"
    manifest.write_text(text.replace(",F,", ",1,").replace(",M,", ",0,"))
    with pytest.raises(TargetExists, match=r"are not given here \(sex_code\)"):
        ensure_store(manifest, store, settings)
    manifest.write_text(text.replace(",F,", ",,").replace(",M,", ",,"))
    with pytest.raises(TargetExists, match=r"are not given here \(sex_code\)"):
        ensure_store(manifest, store, settings)
    manifest.write_text(text.replace(",F,", ",1,").replace(",M,", ",0,"))
    stated = replace(settings, sex_codes={"sex": SexCode()})
    assert ensure_store(manifest, store, stated).store.covariate_names == ["dose_number", "sex"]
