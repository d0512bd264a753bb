"""Applying a run: a file gives the same bits as the store's row, nothing is lost, and what is unlike the training data is said."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import build, changed_store, quick, silent

from ecgfit.cli import cli
from ecgfit.config import make_config
from ecgfit.data.statistics import SeenRange
from ecgfit.evaluation.evaluate import evaluate_run
from ecgfit.inference.files import (
    Seen,
    covariates_of_files,
    predict_files,
    predict_store,
    read_covariates,
    write_predictions,
)
from ecgfit.inference.predictions import Predictions
from ecgfit.run import Run
from ecgfit.training.runner import train
from ecgprep.building.plan import BuildSettings, default_registry
from ecgprep.building.run import build_store
from ecgprep.errors import InputError, StoreError, TargetExists
from ecgprep.patients.manifest import read_manifest
from ecgprep.patients.registry import SplitPlan
from ecgprep.store.reader import Store


@pytest.fixture(scope="module")
def run(store, tmp_path_factory) -> Run:
    config = make_config(
        {
            "epochs": 1,
            "batch": 16,
            "threads": 2,
            "tabular": "age,sex",
            "seeds": [0, 1],
            "missing": "mask",
        },
        "test",
    )
    return train(config, store, tmp_path_factory.mktemp("runs") / "001", say=lambda line: None)


@pytest.fixture(scope="module")
def manifest(corpus) -> list[dict[str, str]]:
    with (corpus / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def covariates(corpus, manifest, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("covariates") / "covariates.csv"
    lines = [f"{corpus / row['path_xml']},{row['sex']},{row['age']}" for row in manifest]
    path.write_text("\n".join(["file,sex,age", *lines, ""]))
    return path


def test_a_file_gives_the_same_bits_as_the_row_made_of_it(run, store, corpus, manifest, covariates):
    by_row = {entry["row"]: entry for entry in predict_store(run, store)}
    assert len(by_row) == len(store) > 64  # more than a batch
    order = np.random.default_rng(0).permutation(len(manifest))  # in other batches than the store's
    table = predict_files(run, [corpus / manifest[i]["path_xml"] for i in order], covariates)
    for i, entry in zip(order.tolist(), table, strict=True):
        assert entry["status"] == "ok"
        for name in ("probability", "positive", "missing_leads", "warnings"):
            assert entry[name] == by_row[i][name]
    assert any(entry["missing_leads"] for entry in table)
    alone = predict_files(run, [corpus / manifest[5]["path_xml"]], covariates)
    assert alone[0]["probability"] == by_row[5]["probability"]


def test_patients_of_a_store_get_the_calibrated_mean_logit(run, store):
    table = predict_store(run, store, "test")
    assert {entry["row"] for entry in table} <= set(
        np.flatnonzero(store.array("split") == 2).tolist()
    )
    calibration = run.calibration

    def logit(p: float) -> float:
        return (np.log(p / (1 - p)) - calibration.intercept) / calibration.slope

    for patient in {entry["patient"] for entry in table}:
        own = [entry for entry in table if entry["patient"] == patient]
        expected = calibration.apply(np.mean([logit(entry["probability"]) for entry in own]))
        assert own[0]["patient_probability"] == pytest.approx(float(expected), abs=1e-9)
        assert all(entry["positive"] == int(entry["probability"] >= run.threshold) for entry in own)


@pytest.mark.parametrize("how", ["mean", "max", "last"])
def test_patients_get_what_evaluation_gives_them(small_store, tmp_path, how):
    """With missing=drop a recording that lacks a lead takes no part in its patient's result, in `predict` as in `eval`."""
    tested, mask = (
        np.flatnonzero(small_store.array("split")[:] == 2),
        np.array(small_store.array("lead_mask")),
    )
    mask[tested[::3], 4] = False
    small_store = changed_store(small_store, tmp_path / "m.zarr", lead_mask=mask)
    run = train(quick(epochs=1, aggregate=how), small_store, tmp_path / "r", say=silent)
    evaluate_run(run, small_store, "test")
    judged = Predictions.load(run.path / "predictions_test.csv").by_patient(how)
    expected = dict(
        zip(judged.patient.tolist(), run.calibration.apply(judged.logit_difference()), strict=True)
    )
    table = predict_store(run, small_store, "test")
    assert any(entry["missing_leads"] for entry in table)
    found = {entry["patient"]: entry["patient_probability"] for entry in table}
    assert found.keys() > expected.keys()
    for patient, probability in found.items():
        assert probability == (
            pytest.approx(expected[patient], abs=1e-7) if patient in expected else None
        )
    for entry in table:
        p = entry["patient_probability"]
        assert entry["patient_positive"] == (None if p is None else int(p >= run.threshold))


def test_a_cohort_without_labels_is_predicted(run, store, corpus, manifest, tmp_path):
    rows = [
        f"{row['patient_id']},{row['path_xml']},,{row['age']},{row['sex']}" for row in manifest[:12]
    ]
    (corpus / "unlabelled.csv").write_text(
        "\n".join(["patient_id,path_xml,label,age,sex", *rows, ""])
    )
    settings = BuildSettings(
        plan=SplitPlan(ratios=(0, 0, 100), allow_missing_class=True), unlabelled=True
    )
    new = build(
        corpus / "unlabelled.csv", tmp_path / "new.zarr", settings, covariates=("age", "sex")
    )
    expected = {entry["row"]: entry["probability"] for entry in predict_store(run, store)}
    table = predict_store(run, new)
    assert [entry["probability"] for entry in table] == [expected[row] for row in range(12)]


def test_a_store_that_the_model_cannot_take_is_refused(run, corpus, tmp_path):
    without = build(corpus / "manifest.csv", tmp_path / "without.zarr")
    with pytest.raises(InputError, match="has no covariate age, sex"):
        predict_store(run, without)
    without.attributes["n_samples"] = 2500
    run.recorded["store"]["n_samples"], kept = 2500, run.recorded["store"]["n_samples"]
    try:
        with pytest.raises(StoreError, match="number of samples"):
            predict_store(run, Store(without.path))
    finally:
        run.recorded["store"]["n_samples"] = kept


def test_a_file_that_cannot_be_used_has_its_reason_and_the_others_their_probability(
    run, corpus, manifest, tmp_path
):
    (tmp_path / "JANE_DOE.xml").write_text("not an ECG")
    table = predict_files(
        run, [tmp_path / "JANE_DOE.xml", corpus / manifest[0]["path_xml"], tmp_path / "absent.xml"]
    )
    assert [entry["status"] for entry in table] == ["not_xml", "ok", "file_missing"]
    assert [entry["probability"] is None for entry in table] == [True, False, True]
    assert "JANE" not in table[0]["message"]
    assert table[1]["warnings"] == "age missing; sex missing"


SEEN = SeenRange((500.0,), ((50.0, 200.0),) * 8, 4000, 8, ((30.0, 80.0),))
FINE = {
    "rate_hz": 500.0,
    "span": (0, 5000),
    "mask": np.ones(8, bool),
    "deviation": np.full(8, 100.0),
    "values": np.array([50.0]),
}


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({}, []),
        ({"rate_hz": 1000.0}, ["recorded at 1000 Hz"]),
        ({"span": (1000, 4900)}, ["shorter than any"]),
        ({"mask": np.arange(8) > 0}, ["more leads missing than in any"]),
        ({"deviation": np.where(np.arange(8) == 3, 310.0, 100.0)}, ["V2 larger than in any"]),
        ({"deviation": np.where(np.arange(8) == 0, 30.0, 100.0)}, ["I smaller than in any"]),
        ({"deviation": np.where(np.arange(8) == 0, 290.0, 100.0)}, []),
        ({"values": np.array([np.nan])}, ["age missing"]),
        ({"values": np.array([29.0])}, ["age outside the range"]),
    ],
)
def test_what_is_unlike_the_training_data_is_said(change, warning):
    assert Seen([SEEN], ("age",)).warnings(**(FINE | change)) == warning


def test_an_ensemble_has_seen_what_any_member_has_seen():
    other = replace(SEEN, rates_hz=(1000.0,), lead_sd_uv=((10.0, 900.0),) * 8)
    assert (
        Seen([SEEN, other], ("age",)).warnings(
            **(FINE | {"rate_hz": 1000.0, "deviation": np.full(8, 800.0)})
        )
        == []
    )


def test_training_recordings_are_like_training_recordings(run, store):
    table = predict_store(run, store, "train")
    assert {entry["warnings"] for entry in table} == {""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,age\n", "column file is missing; it needs file,age, and it has 2 columns"),
        ("file\n", "column age is missing"),
        ("", "column file, age is missing"),
        ("file;age\na.xml;60\n", "semicolons or tabs"),
        ("file\tage\na.xml\t60\n", "semicolons or tabs"),
        ("file,age,age\na.xml,60,61\n", "column age is there twice"),
        ("file,name,age\na.xml,Doe, J.,60\n", "line 2: 4 values for 3 columns"),
        ("file,age\na.xml\n", "line 2: 1 values for 2 columns"),
        ("file,age\na.xml,4\na.xml,5\n", "line 3: a file that is listed before"),
        ("file,age\na.xml,4\n,5\n", "line 3: file is empty"),
        ("file,age\na.xml,old\n", "line 2, column age: not a number"),
        ("file,age\na.xml,inf\n", "line 2, column age: not a number"),
    ],
)
def test_faults_of_the_covariates_are_named_without_values(tmp_path, text, message):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_covariates(tmp_path / "c.csv", ["age"])
    assert not any(word in str(caught.value) for word in ("old", "Doe", "a.xml"))


def test_empty_rows_of_a_spreadsheet_are_passed_over(tmp_path):
    (tmp_path / "c.csv").write_text("file,age\n\n,\na.xml,4\n , \n,,,\n")
    assert read_covariates(tmp_path / "c.csv", ["age"]).keys() == {"a.xml"}


def test_ages_over_89_become_90_as_in_a_store(tmp_path):
    (tmp_path / "c.csv").write_text("file,age,other\na.xml,93,93\nb.xml,,1\n")
    known = read_covariates(tmp_path / "c.csv", ["age", "other"])
    assert known["a.xml"].tolist() == [90, 93]
    assert np.isnan(known["b.xml"][0])


def test_a_bare_file_name_is_taken_only_where_one_file_has_it(tmp_path):
    (tmp_path / "c.csv").write_text("file,age\na/1.xml,40\n2.xml,50\n9.xml,60\n")
    files, said = [Path("a/1.xml"), Path("b/1.xml"), Path("b/2.xml")], []
    known = covariates_of_files(tmp_path / "c.csv", files, ["age"], said.append)
    assert {str(path): values.tolist() for path, values in known.items()} == {
        "a/1.xml": [40],
        "b/2.xml": [50],
    }
    assert said == ["c.csv: 1 of 3 lines name none of the files; 1 of 3 files have no line."]
    (tmp_path / "whole.csv").write_text(
        "file,age\n1.xml,40\na/1.xml,50\n"
    )  # the bare name is a path as it was given
    known = covariates_of_files(
        tmp_path / "whole.csv", [Path("1.xml"), Path("a/1.xml")], ["age"], said.append
    )
    assert [values.tolist() for values in known.values()] == [[40], [50]]
    with pytest.raises(InputError, match="several of the files have"):
        covariates_of_files(tmp_path / "c.csv", [*files, Path("a/2.xml")], ["age"], said.append)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--store", "s.zarr", "--covariates", "c.csv"], "--covariates goes with FILES"),
        (["a.xml", "--split", "test"], "--split goes with --store"),
    ],
)
def test_options_that_would_do_nothing_are_refused(words, message):
    result = CliRunner().invoke(cli, ["predict", "--run", "r", *words])
    assert result.exit_code == 2
    assert message in result.output


def test_a_written_table_is_for_its_owner_only(run, corpus, manifest, tmp_path):
    write_predictions(predict_files(run, [corpus / manifest[0]["path_xml"]]), tmp_path / "p.csv")
    assert (tmp_path / "p.csv").stat().st_mode & 0o777 == 0o600
    with (tmp_path / "p.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["file"].endswith(manifest[0]["path_xml"])
    assert 0 <= float(row["probability"]) <= 1


def test_the_command_reports_refused_files_by_exit_code(run, corpus, manifest, tmp_path):
    def ecgfit(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ecgfit.cli", "predict", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )

    good = corpus / manifest[0]["path_xml"]
    done = ecgfit("--run", run.path, good, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["status"] == "ok"
    done = ecgfit("--run", run.path, good, tmp_path / "absent.xml", "-o", tmp_path / "p.csv")
    assert done.returncode == 3
    assert "1 of 2 files could not be used" in done.stderr
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 3
    assert ecgfit("--run", run.path).returncode == 2


def test_predictions_replace_neither_an_input_nor_what_is_not_theirs(
    run, corpus, manifest, tmp_path
):
    good, covariates = tmp_path / "a.xml", tmp_path / "c.csv"
    good.write_bytes((corpus / manifest[0]["path_xml"]).read_bytes())
    covariates.write_text(f"file,age,sex\n{good},60,1\n")
    (tmp_path / "link.csv").symlink_to(covariates)
    (tmp_path / "notes.csv").write_text("mine\n")
    before = {path: path.read_bytes() for path in (good, covariates, tmp_path / "notes.csv")}

    def predict(output: Path, *more: str) -> tuple[int, str]:
        found = CliRunner().invoke(
            cli,
            [
                "predict",
                "--run",
                str(run.path),
                str(good),
                "--covariates",
                str(covariates),
                "-o",
                str(output),
                *more,
            ],
        )
        return getattr(found.exception, "exit_code", found.exit_code), str(found.exception)

    for output in (good, covariates, tmp_path / "link.csv"):
        for more in ([], ["--overwrite"]):
            code, message = predict(output, *more)
            assert code == 3
            assert "one of the inputs" in message
            assert output.name not in message
    code, message = predict(tmp_path / "notes.csv")
    assert code == 7
    assert "--overwrite" in message
    assert {path: path.read_bytes() for path in before} == before
    assert predict(tmp_path / "p.csv")[0] == 0
    first = (tmp_path / "p.csv").read_bytes()
    assert predict(tmp_path / "p.csv")[0] == 0  # its own of before
    assert predict(tmp_path / "notes.csv", "--overwrite")[0] == 0
    assert (tmp_path / "notes.csv").read_bytes() == first
    assert (
        predict(tmp_path / "p.json", "--json")[0] == predict(tmp_path / "p.json", "--json")[0] == 0
    )
    assert json.loads((tmp_path / "p.json").read_text())[0]["file"] == str(good)
    for mine in (
        first.replace(b"warnings\n", b"warnings,my notes\n"),
        b"," + first,
        b"# " + first,
    ):  # columns added behind, and by pandas in front
        (tmp_path / "p.csv").write_bytes(mine)
        assert predict(tmp_path / "p.csv")[0] == 7
    for mine in (
        '{\n  "probability": 0.5\n}\n',
        '[\n  {\n    "file": "a.xml"\n  }\n]\n',
        '{\n    "missing_leads": ""\n}\n',
    ):
        (tmp_path / "p.json").write_text(mine)
        assert predict(tmp_path / "p.json")[0] == 7


def refused(*words: object) -> int:
    found = CliRunner().invoke(cli, list(map(str, words)))
    assert isinstance(found.exception, InputError | TargetExists), found.output
    return found.exception.exit_code


def test_nothing_is_written_into_a_store_whether_the_command_was_given_it_or_not(
    run, store, corpus, manifest, tmp_path, monkeypatch
):
    before, file = sorted(store.path.rglob("*")), corpus / manifest[0]["path_xml"]
    for words in (
        [
            "predict",
            "--store",
            store.path,
            "--run",
            run.path,
            "-o",
            store.path / "label" / "p.csv",
            "--overwrite",
        ],
        ["predict", file, "--run", run.path, "-o", store.path / "zarr.json", "--overwrite"],
        ["explain", run.path, "--store", store.path, "-o", store.path / "explain"],
        ["explain", run.path, "--store", store.path, "-o", store.path],
        ["report", run.path, "-o", store.path / "r.html", "--split", "val"],
        ["export", run.path, store.path / "m.onnx"],
        ["train", "--store", store.path, "--outdir", store.path / "run"],
    ):
        assert refused(*words) == 7, words
    monkeypatch.chdir(store.path)
    assert refused("train", "--store", ".") == 7
    assert sorted(store.path.rglob("*")) == before


def test_files_of_a_run_are_replaced_by_no_command(run, corpus, manifest, tmp_path):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    file, member = corpus / manifest[0]["path_xml"], run.path / "members/0"
    for output in (
        run.path / "threshold.json",
        member / "threshold.json",
        run.path / "predictions_test.csv",
        run.path / "metrics_test.json",
        run.path / "members/new.csv",
    ):
        assert refused("predict", file, "--run", member, "-o", output, "--overwrite") == 3
    (run.path / "mine.csv").write_text("mine\n")
    assert (
        refused("predict", file, "--run", run.path, "-o", run.path / "mine.csv", "--overwrite") == 7
    )
    (run.path / "mine.csv").unlink()
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    (run.path / "out").mkdir()
    for name in ("new.csv", "predictions_site.csv", "out/p.csv"):
        assert (
            CliRunner()
            .invoke(cli, ["predict", str(file), "--run", str(run.path), "-o", str(run.path / name)])
            .exit_code
            == 0
        )
        (run.path / name).unlink()
    (run.path / "out").rmdir()
    (tmp_path / "config.yaml").write_bytes(
        (run.path / "config.yaml").read_bytes()
    )  # a copy of the settings makes no run
    assert (
        CliRunner()
        .invoke(cli, ["predict", str(file), "--run", str(run.path), "-o", str(tmp_path / "p.csv")])
        .exit_code
        == 0
    )


def test_a_name_that_is_not_utf_8_and_a_file_that_may_not_be_read_have_their_lines(
    run, corpus, manifest, tmp_path
):
    odd, closed = os.fsencode(tmp_path) + b"/M\xfcller.xml", tmp_path / "closed.xml"
    with open(odd, "wb") as file:
        file.write((corpus / manifest[0]["path_xml"]).read_bytes())
    closed.write_bytes(b"")
    closed.chmod(0)
    words = [sys.executable, "-m", "ecgfit.cli", "predict", "--run", run.path, odd, closed]
    printed = subprocess.run(words, capture_output=True, check=False)
    assert printed.returncode == 3, printed.stderr
    written = subprocess.run([*words, "-o", tmp_path / "p.csv"], capture_output=True, check=False)
    assert written.returncode == 3
    assert (
        subprocess.run([*words, "-o", "-"], capture_output=True, check=False).stdout
        == printed.stdout
    )
    for content in (printed.stdout, (tmp_path / "p.csv").read_bytes()):
        _, first, second = content.splitlines()
        assert first.startswith(odd + b",ok,")
        assert second.startswith(os.fsencode(closed))
        assert b",ok," not in second


def test_real_files_give_the_bits_of_their_rows(run, samples, tmp_path):
    files = sorted((samples / "data" / "xml").rglob("*.[xX][mM][lL]"))
    lines = [f"p{i},{path.relative_to(samples)},{i % 2},60,1" for i, path in enumerate(files)]
    (tmp_path / "m.csv").write_text("\n".join(["patient_id,path_xml,label,age,sex", *lines, ""]))
    rows = predict_store(run, build_real(tmp_path / "m.csv", samples))
    (tmp_path / "c.csv").write_text(
        "\n".join(["file,age,sex", *(f"{path},60,1" for path in files), ""])
    )
    table = predict_files(run, files, tmp_path / "c.csv")
    assert len(rows) >= 6
    for entry in rows:
        assert [table[entry["row"]][name] for name in ("probability", "warnings")] == [
            entry[name] for name in ("probability", "warnings")
        ]
    refused = {entry["file"].rsplit("/")[-1] for entry in table if entry["status"] != "ok"}
    assert refused >= {
        "sierra_invalid-doc-type.xml",
        "sierra_invalid-doc-version.xml",
        "fda_empty.xml",
    }


def build_real(manifest: Path, root: Path) -> Store:
    target = manifest.with_name("real.zarr")
    settings = BuildSettings(plan=SplitPlan(ratios=(0, 0, 100), allow_missing_class=True))
    rows = read_manifest(manifest, root, covariates=("age", "sex"))
    return build_store(
        rows, target, settings, registry_path=default_registry(manifest), max_rejected=100
    )
