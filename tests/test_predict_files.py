"""A file gives the same bits as the store's row, and whatever is unlike training is reported."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from helpers import build, changed_store, trained

import ecgprep
from ecgfit.cli import cli
from ecgfit.data.statistics import SeenRange
from ecgfit.inference.covariates import covariates_of_files, read_covariates
from ecgfit.inference.files import count_refused, predict_files, predict_store
from ecgfit.inference.predictions import Predictions
from ecgfit.inference.tables import records, write_predictions
from ecgfit.inference.training_range import TrainingRange
from ecgfit.run import RunFolder
from ecgprep.building.plan import BuildSettings
from ecgprep.conform import Conformity
from ecgprep.errors import InputError, StoreError, TargetExists
from ecgprep.store.reader import Store

TINY = Conformity(100, 200)


@pytest.fixture(scope="module")
def run(mask_run) -> RunFolder:
    """Two members with covariates and the mask channel; read-only."""
    return mask_run


@pytest.fixture(scope="module")
def manifest(corpus) -> list[dict[str, str]]:
    with (corpus / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def files(corpus, manifest) -> list[Path]:
    """The XML files of the rows of `tiny_store`."""
    return [corpus / row["path_xml"] for row in manifest]


@pytest.fixture(scope="module")
def covariates(files, manifest, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("covariates") / "covariates.csv"
    rows = zip(files, manifest, strict=True)
    lines = [f"{file},{row['sex']},{row['age']}" for file, row in rows]
    path.write_text("\n".join(["file,sex,age", *lines, ""]))
    return path


@pytest.fixture(scope="module")
def of_rows(run, tiny_store) -> pd.DataFrame:
    """Predictions of all rows of the store."""
    return predict_store(run, tiny_store)


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, words)))


def exit_code(result: Result) -> int:
    """Return the status that the command would end with."""
    return getattr(result.exception, "exit_code", result.exit_code)


# Bits


def test_a_file_gives_the_same_bits_as_the_row_made_of_it(
    run, tiny_store, files, covariates, of_rows
):
    assert len(of_rows) == len(tiny_store) > 64  # more than a batch
    order = np.random.default_rng(0).permutation(len(files))  # in other batches than the store's
    table = predict_files(run, [files[i] for i in order], covariates)
    assert set(table["status"]) == {"ok"}
    shared = ["probability", "positive", "missing_leads", "warnings"]
    expected = of_rows.set_index("row").loc[order, shared].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[shared], expected, check_exact=True)
    assert table["missing_leads"].any()
    alone = predict_files(run, [files[5]], covariates)
    assert alone["probability"][0] == of_rows["probability"][5]


def test_real_files_give_the_bits_of_their_rows(run, samples, tmp_path):
    files = sorted((samples / "data" / "xml").rglob("*.[xX][mM][lL]"))
    lines = [f"p{i},{file.relative_to(samples)},{i % 2},60,1" for i, file in enumerate(files)]
    (tmp_path / "m.csv").write_text("\n".join(["patient_id,path_xml,label,age,sex", *lines, ""]))
    of_rows = predict_store(run, build_below(samples, tmp_path / "m.csv"))
    lines = [f"{file},60,1" for file in files]
    (tmp_path / "c.csv").write_text("\n".join(["file,age,sex", *lines, ""]))
    table = predict_files(run, files, tmp_path / "c.csv")
    assert len(of_rows) >= 6
    shared = ["probability", "warnings"]
    found = table.loc[of_rows["row"], shared].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, of_rows[shared], check_exact=True)
    refused = {Path(file).name for file in table["file"][table["status"] != "ok"]}
    assert refused >= {
        "sierra_invalid-doc-type.xml",
        "fda_empty.xml",
    }


def build_below(root: Path, manifest: Path, **options: object) -> Store:
    """Build a store of a manifest whose paths are relative to `root`; any file may be refused."""
    return ecgprep.build(
        manifest,
        manifest.with_suffix(".zarr"),
        root=root,
        covariates=["age", "sex"],
        hz=TINY.rate_hz,
        length=TINY.n_samples,
        split="0/0/100",
        allow_missing_class=True,
        max_rejected=1.0,
        **options,
    )


# Stores


def test_patients_of_a_store_get_the_calibrated_mean_logit(run, tiny_store):
    table = predict_store(run, tiny_store, "test")
    tested = np.flatnonzero(tiny_store.array("split") == 2)
    assert set(table["row"]) <= set(tested.tolist())
    p = table["probability"]
    calibration = run.calibration
    logit = (np.log(p / (1 - p)) - calibration.intercept) / calibration.slope
    expected = calibration.apply(logit.groupby(table["patient"]).transform("mean").to_numpy())
    np.testing.assert_allclose(table["patient_probability"], expected, atol=1e-9)
    assert table["positive"].tolist() == (p >= run.threshold).astype(int).tolist()


@pytest.mark.parametrize("how", ["mean", "max", "last"])
def test_patients_get_what_evaluation_gives_them(tiny_store, tmp_path, how):
    """With missing=drop a recording that lacks a lead has no part in its patient's result."""
    tested = np.flatnonzero(tiny_store.array("split")[:] == 2)
    mask = np.array(tiny_store.array("lead_mask"))
    mask[tested[::3], 4] = False
    store = changed_store(tiny_store, tmp_path / "m.zarr", lead_mask=mask)
    run = trained(store, tmp_path / "r", aggregate=how, epochs=1)
    evaluated = Predictions.load(run.path / "predictions_test.csv").by_patient(how)
    probability = run.calibration.apply(evaluated.logit_difference())
    expected = dict(zip(evaluated.patient.tolist(), probability, strict=True))
    table = predict_store(run, store, "test")
    assert table["missing_leads"].any()
    assert set(table["patient"]) > expected.keys()
    for entry in records(table):
        p = entry["patient_probability"]
        if entry["patient"] in expected:
            assert p == pytest.approx(expected[entry["patient"]], abs=1e-7)
            assert entry["patient_positive"] == int(p >= run.threshold)
        else:
            assert p is entry["patient_positive"] is None


def test_a_cohort_without_labels_is_predicted(run, corpus, manifest, of_rows, tmp_path):
    lines = [
        f"{row['patient_id']},{row['path_xml']},,{row['age']},{row['sex']}" for row in manifest[:12]
    ]
    path = tmp_path / "unlabelled.csv"
    path.write_text("\n".join(["patient_id,path_xml,label,age,sex", *lines, ""]))
    of_all = build_below(corpus, path, unlabelled=True, duplicates="exact")
    table = predict_store(run, of_all)
    assert table["probability"].tolist() == of_rows["probability"][:12].tolist()


def test_a_store_that_the_model_cannot_take_is_refused(run, store, small_store, corpus, tmp_path):
    with pytest.raises(StoreError, match="sampling rate in Hz"):
        predict_store(run, store)
    with pytest.raises(StoreError, match="number of samples"):
        predict_store(run, small_store)
    settings = BuildSettings(TINY, duplicates="exact")
    without = build(corpus / "manifest.csv", tmp_path / "without.zarr", settings)
    with pytest.raises(InputError, match="has no covariate age, sex"):
        predict_store(run, without)


# Files


def test_a_file_that_cannot_be_used_has_its_reason_and_the_others_their_probability(
    run, files, tmp_path
):
    (tmp_path / "JANE_DOE.xml").write_text("not an ECG")
    table = predict_files(run, [tmp_path / "JANE_DOE.xml", files[0], tmp_path / "absent.xml"])
    assert table["status"].tolist() == ["not_xml", "ok", "file_missing"]
    assert table["probability"].isna().tolist() == [True, False, True]
    assert table["positive"].isna().tolist() == [True, False, True]
    assert "JANE" not in table["message"][0]
    assert table["warnings"][1] == "age missing; sex missing"
    assert count_refused(table) == 2


def test_no_files_are_refused(run):
    with pytest.raises(InputError, match=r"files \(=\[\]\) must name at least one file"):
        predict_files(run, [])


# Warnings

SEEN = SeenRange((500.0,), ((50.0, 200.0),) * 8, 4000, 8, ((30.0, 80.0),))
USUAL = {
    "rate_hz": 500.0,
    "span": (0, 5000),
    "mask": np.ones(8, bool),
    "deviation": np.full(8, 100.0),
    "values": np.array([50.0]),
}


def deviation_with(lead: int, value: float) -> np.ndarray:
    return np.where(np.arange(8) == lead, value, 100.0)


@pytest.mark.parametrize(
    ("change", "warnings"),
    [
        ({}, []),
        ({"rate_hz": 1000.0}, ["recorded at 1000 Hz"]),
        ({"span": (1000, 4900)}, ["shorter than any"]),
        ({"mask": np.arange(8) > 0}, ["more leads missing than in any"]),
        ({"deviation": deviation_with(3, 310.0)}, ["V2 larger than in any"]),
        ({"deviation": deviation_with(0, 30.0)}, ["I smaller than in any"]),
        ({"deviation": deviation_with(0, 290.0)}, []),
        ({"deviation": deviation_with(0, 30.0), "mask": np.arange(8) > 0}, None),
        ({"values": np.array([np.nan])}, ["age missing"]),
        ({"values": np.array([29.0])}, ["age outside the range"]),
    ],
)
def test_what_is_unlike_the_training_data_is_said(change, warnings):
    expected = ["more leads missing than in any"] if warnings is None else warnings
    assert TrainingRange([SEEN], ("age",)).warnings(**(USUAL | change)) == expected


def test_an_ensemble_has_seen_what_any_member_has_seen():
    other = replace(SEEN, rates_hz=(1000.0,), lead_sd_uv=((10.0, 900.0),) * 8)
    recording = USUAL | {"rate_hz": 1000.0, "deviation": np.full(8, 800.0)}
    assert TrainingRange([SEEN, other], ("age",)).warnings(**recording) == []


def test_training_recordings_are_like_training_recordings(run, tiny_store):
    table = predict_store(run, tiny_store, "train")
    unflagged = ~tiny_store.array("quality")[table["row"].to_numpy()].any(axis=1)
    assert unflagged.sum() > 40
    assert set(table["warnings"][unflagged]) == {""}


# Covariates of files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,age\n", "column missing: file. Needed once each: file, age; .* has 2 columns"),
        ("path_xml,age\n", "column missing: file; path_xml is there: name it file"),
        ("file\n", "column missing: age. .* has these columns: file"),
        ("", "column missing: file, age"),
        ("file,age,age\na.xml,60,61\n", "column given twice: age"),
        ("file,name,age\na.xml,Doe, J.,60\n", "line 2, row: 4 fields; the header has 3"),
        ("file,age\na.xml\n", "line 2, row: 1 fields; the header has 2"),
        ("file,age\na.xml,4\na.xml,5\n", "line 3, file: is listed before"),
        ("file,age\na.xml,4\n,5\n", "line 3, file: is empty"),
        ("file,age\na.xml,old\n", "line 2, age: must be a number or empty; found 3 letters"),
        ("file,age\na.xml,inf\n", "line 2, age: must be a number or empty; found 3 letters"),
    ],
)
def test_faults_of_the_covariates_are_named_without_values(tmp_path, text, message):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_covariates(tmp_path / "c.csv", ["age"])
    assert not any(word in str(caught.value) for word in ("old", "Doe", "a.xml"))


def test_covariates_in_another_encoding_are_refused(tmp_path):
    (tmp_path / "c.csv").write_bytes(b"file,age\nM\xfcller.xml,60\n")
    with pytest.raises(InputError, match="Covariates file c.csv: line 2 is not UTF-8"):
        read_covariates(tmp_path / "c.csv", ["age"])


def test_empty_lines_of_a_spreadsheet_are_skipped(tmp_path):
    (tmp_path / "c.csv").write_text("file,age\n\n,\na.xml,4\n , \n,,,\n")
    assert read_covariates(tmp_path / "c.csv", ["age"]).index.tolist() == ["a.xml"]


def test_ages_over_89_become_90_as_in_a_store(tmp_path):
    (tmp_path / "c.csv").write_text("file,age,other\na.xml,93,93\nb.xml,,1\n")
    known = read_covariates(tmp_path / "c.csv", ["age", "other"])
    assert known.loc["a.xml"].tolist() == [90, 93]
    assert np.isnan(known.loc["b.xml", "age"])
    assert set(known.dtypes) == {np.dtype(np.float32)}


def test_covariates_of_a_run_that_uses_none_are_ignored(tmp_path):
    (tmp_path / "c.csv").write_text("file,age\na.xml,93\n")
    assert covariates_of_files(tmp_path / "c.csv", [Path("a.xml")], []).shape == (1, 0)


def test_a_bare_file_name_is_taken_if_only_one_file_has_it(tmp_path):
    (tmp_path / "c.csv").write_text("file,age\na/1.xml,40\n2.xml,50\n9.xml,60\n")
    files, said = [Path("a/1.xml"), Path("b/1.xml"), Path("b/2.xml")], []
    known = covariates_of_files(tmp_path / "c.csv", files, ["age"], said.append)
    np.testing.assert_array_equal(known, [[40], [np.nan], [50]])
    assert said == ["c.csv: 1 of 3 lines name none of the files; 1 of 3 files have no line."]
    with pytest.raises(InputError, match="several of the files have"):
        covariates_of_files(tmp_path / "c.csv", [*files, Path("a/2.xml")], ["age"], said.append)


def test_a_bare_file_name_may_be_the_path_as_given(tmp_path):
    (tmp_path / "c.csv").write_text("file,age\n1.xml,40\na/1.xml,50\n")
    files = [Path("1.xml"), Path("a/1.xml")]
    assert covariates_of_files(tmp_path / "c.csv", files, ["age"]).tolist() == [[40], [50]]


# Tables


def test_a_table_is_written_digit_by_digit_as_documented(tmp_path):
    table = pd.DataFrame(
        {
            "file": pd.Series(["a, b.xml", 'c"d.xml'], dtype=object),
            "status": ["ok", "not_xml"],
            "message": ["", "No element found"],
            "probability": [0.123456789123, np.nan],
            "positive": pd.Series([1, None], dtype="Int64"),
        }
    )
    write_predictions(table, tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == (
        "file,status,message,probability,positive\n"
        '"a, b.xml",ok,,0.123456789,1\n'
        '"c""d.xml",not_xml,No element found,,\n'
    )
    write_predictions(table, tmp_path / "p.json", as_json=True)
    first, second = json.loads((tmp_path / "p.json").read_text())
    assert (first["probability"], first["positive"]) == (0.123456789123, 1)
    assert (second["probability"], second["positive"]) == (None, None)


def test_a_written_table_is_for_its_owner_only(run, files, tmp_path):
    write_predictions(predict_files(run, files[:1]), tmp_path / "p.csv")
    assert (tmp_path / "p.csv").stat().st_mode & 0o777 == 0o600
    with (tmp_path / "p.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["file"] == str(files[0])
    assert 0 <= float(row["probability"]) <= 1


# The command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--store", "s.zarr", "--covariates", "c.csv"], "--covariates goes with FILES"),
        (["a.xml", "--split", "test"], "--split goes with --store"),
        ([], "Give FILES or --store"),
    ],
)
def test_options_that_would_do_nothing_are_refused(words, message):
    result = invoke("predict", "--run", "r", *words)
    assert result.exit_code == 2
    assert message in result.output


def test_the_command_reports_refused_files_by_exit_code(run, files, tmp_path):
    done = invoke("predict", "--run", run.path, files[0], "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)[0]["status"] == "ok"
    absent, output = tmp_path / "absent.xml", tmp_path / "p.csv"
    done = invoke("predict", "--run", run.path, files[0], absent, "-o", output)
    assert done.exit_code == 3
    assert "1 of 2 files could not be used" in done.stderr
    assert len(output.read_text().splitlines()) == 3


def test_quiet_prediction_leaves_out_notes_on_covariates(run, files, tmp_path):
    covariates = tmp_path / "c.csv"
    covariates.write_text(f"file,age,sex\n{files[0]},60,1\nother.xml,50,0\n")
    words = ["predict", "--run", run.path, files[0], "--covariates", covariates]
    noted, quiet = invoke(*words), invoke(*words, "-q")
    assert (
        noted.stderr == "c.csv: 1 of 2 lines name none of the files; 0 of 1 files have no line.\n"
    )
    assert (quiet.stderr, quiet.stdout) == ("", noted.stdout)


def test_a_name_that_is_not_utf_8_and_a_file_that_may_not_be_read_have_their_lines(
    run, files, tmp_path
):
    odd, closed = os.fsencode(tmp_path) + b"/M\xfcller.xml", tmp_path / "closed.xml"
    Path(os.fsdecode(odd)).write_bytes(files[0].read_bytes())
    closed.write_bytes(b"")
    closed.chmod(0)
    words = ["predict", "--run", run.path, os.fsdecode(odd), closed]
    printed, to_stdout = invoke(*words), invoke(*words, "-o", "-")
    written = invoke(*words, "-o", tmp_path / "p.csv")
    assert {result.exit_code for result in (printed, to_stdout, written)} == {3}
    assert to_stdout.stdout_bytes == printed.stdout_bytes
    assert (tmp_path / "p.csv").read_bytes() == printed.stdout_bytes
    _, first, second = printed.stdout_bytes.splitlines()
    assert first.startswith(odd + b",ok,")
    assert second.startswith(os.fsencode(closed))
    assert b",ok," not in second


@pytest.fixture
def inputs(run, files, tmp_path) -> dict[str, Path]:
    """An ECG, its covariates, a link to these and a file of the user, in one folder."""
    paths = {name: tmp_path / name for name in ("a.xml", "c.csv", "link.csv", "notes.csv")}
    paths["a.xml"].write_bytes(files[0].read_bytes())
    paths["c.csv"].write_text(f"file,age,sex\n{paths['a.xml']},60,1\n")
    paths["link.csv"].symlink_to(paths["c.csv"])
    paths["notes.csv"].write_text("mine\n")
    return paths


def predict_to(output: Path, run: RunFolder, inputs: dict[str, Path], *more: str) -> Result:
    words = ["predict", "--run", run.path, inputs["a.xml"], "--covariates", inputs["c.csv"]]
    return invoke(*words, "-o", output, *more)


def test_predictions_never_replace_an_input(run, inputs):
    before = {path: path.read_bytes() for path in inputs.values()}
    for name in ("a.xml", "c.csv", "link.csv"):
        for more in ([], ["--overwrite"]):
            result = predict_to(inputs[name], run, inputs, *more)
            assert exit_code(result) == 3
            assert "one of the inputs" in str(result.exception)
            assert name not in str(result.exception)
    assert {path: path.read_bytes() for path in before} == before


def test_predictions_replace_a_file_of_the_user_only_with_overwrite(run, inputs, tmp_path):
    result = predict_to(inputs["notes.csv"], run, inputs)
    assert exit_code(result) == 7
    assert "--overwrite" in str(result.exception)
    assert inputs["notes.csv"].read_text() == "mine\n"
    assert predict_to(tmp_path / "p.csv", run, inputs).exit_code == 0
    assert predict_to(inputs["notes.csv"], run, inputs, "--overwrite").exit_code == 0
    assert inputs["notes.csv"].read_bytes() == (tmp_path / "p.csv").read_bytes()


def test_predictions_replace_earlier_predictions(run, inputs, tmp_path):
    for name, more in (("p.csv", []), ("p.json", ["--json"])):
        for _ in range(2):
            assert predict_to(tmp_path / name, run, inputs, *more).exit_code == 0
    assert json.loads((tmp_path / "p.json").read_text())[0]["file"] == str(inputs["a.xml"])


CSV = "file,status,message,probability,positive,missing_leads,warnings\na.xml,ok,,0.5,1,,\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", CSV.replace("warnings\n", "warnings,my notes\n")),
        ("p.csv", f",{CSV}"),  # as pandas writes an index
        ("p.csv", f"# {CSV}"),
        ("p.json", '{\n  "probability": 0.5\n}\n'),
        ("p.json", '[\n  {\n    "file": "a.xml"\n  }\n]\n'),
        ("p.json", '{\n    "missing_leads": ""\n}\n'),
    ],
)
def test_predictions_do_not_replace_what_only_resembles_them(run, inputs, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert exit_code(predict_to(tmp_path / name, run, inputs)) == 7
    assert (tmp_path / name).read_text() == content


def test_the_csv_of_the_test_above_would_be_replaced_unchanged(run, inputs, tmp_path):
    (tmp_path / "p.csv").write_text(CSV)
    assert predict_to(tmp_path / "p.csv", run, inputs).exit_code == 0


# Stores and runs are not written into


def refused(*words: object) -> int:
    result = invoke(*words)
    assert isinstance(result.exception, InputError | TargetExists), result.output
    return result.exception.exit_code


def test_nothing_is_written_into_a_store_whether_the_command_was_given_it_or_not(
    run, tiny_store, files, monkeypatch
):
    store, before = tiny_store.path, sorted(tiny_store.path.rglob("*"))
    of_run = ("--run", run.path)
    of_store = ("--store", store)
    for words in (
        ["predict", *of_store, *of_run, "-o", store / "label" / "p.csv", "--overwrite"],
        ["predict", files[0], *of_run, "-o", store / "zarr.json", "--overwrite"],
        ["explain", run.path, *of_store, "-o", store / "explain"],
        ["explain", run.path, *of_store, "-o", store],
        ["report", run.path, "-o", store / "r.html", "--split", "val"],
        ["export", run.path, store / "m.onnx"],
        ["train", *of_store, "--outdir", store / "run"],
    ):
        assert refused(*words) == 7, words
    monkeypatch.chdir(store)
    assert refused("train", "--store", ".") == 7
    assert sorted(store.rglob("*")) == before


def test_files_of_a_run_are_replaced_by_no_command(run, files):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    member = run.path / "members/3"
    for output in (
        run.path / "threshold.json",
        member / "threshold.json",
        run.path / "predictions_test.csv",
        run.path / "metrics_test.json",
        run.path / "members/new.csv",
    ):
        assert refused("predict", files[0], "--run", member, "-o", output, "--overwrite") == 3
    mine = run.path / "mine.csv"
    mine.write_text("mine\n")
    assert refused("predict", files[0], "--run", run.path, "-o", mine, "--overwrite") == 7
    mine.unlink()
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_new_files_may_lie_beside_those_of_a_run(run, files, tmp_path):
    words = ["predict", files[0], "--run", run.path, "-o"]
    (run.path / "out").mkdir()
    for name in ("new.csv", "predictions_site.csv", "out/p.csv"):
        assert invoke(*words, run.path / name).exit_code == 0
        (run.path / name).unlink()
    (run.path / "out").rmdir()
    # A copy of the settings makes no run.
    (tmp_path / "config.yaml").write_bytes((run.path / "config.yaml").read_bytes())
    assert invoke(*words, tmp_path / "p.csv").exit_code == 0
