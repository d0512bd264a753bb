"""The Python API of ecgfit, as a notebook uses it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import QUICK, changed_store, copy_run, same_results

import ecgfit
from ecgfit.config import TrainConfig, make_config
from ecgfit.inference.export import ExportedFile
from ecgprep.errors import EcgError, InputError, StoreError, TargetExists

SMALL = {**QUICK, "epochs": 1, "model_args": {"width": 0.5}}


@pytest.fixture(scope="module")
def run(trained_run) -> ecgfit.Run:
    return ecgfit.load_run(trained_run.path)


def test_importing_ecgfit_loads_nothing_and_names_everything():
    code = "import sys, ecgfit; print([m for m in sys.modules if m.startswith('ecgfit.')])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert loaded.stdout == "[]\n"
    assert set(ecgfit.__all__) <= set(dir(ecgfit))
    for name in ecgfit.__all__:
        assert getattr(ecgfit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        ecgfit.tain  # noqa: B018 - the access is the test


def test_a_function_names_the_extra_that_is_missing():
    code = (
        "import sys; sys.modules['pydantic'] = None; import ecgfit\n"
        "try: ecgfit.load_run\nexcept ecgfit.EcgError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'ecgprep-ecgfit[fit]'" in done.stdout, done.stderr


def test_checking_settings_and_reading_a_run_import_no_torch(run):
    code = (
        "import sys, ecgfit; ecgfit.TrainConfig(epochs=3); "
        f"ecgfit.load_run({str(run.path)!r}).history; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_training_takes_paths_as_text_and_lists_and_prints_nothing(tiny_store, tmp_path, capfd):
    lines = []
    run = ecgfit.train(
        str(tiny_store.path),
        str(tmp_path / "r"),
        tabular=["age", "sex"],
        aug=["noise"],
        progress=lines.append,
        **SMALL,
    )
    assert isinstance(run, ecgfit.Run)
    assert (run.config.tabular, run.config.aug) == (("age", "sex"), ("noise",))
    assert any(line.startswith("epoch   1/1") for line in lines)
    assert capfd.readouterr() == ("", "")


def test_progress_goes_to_the_log_where_nobody_else_takes_it(tiny_store, tmp_path, caplog):
    with caplog.at_level("INFO", logger="ecgfit"):
        ecgfit.train(tiny_store, tmp_path / "r", **SMALL)
    assert any(record.message.startswith("epoch   1/1") for record in caplog.records)


def test_settings_win_over_a_config_file_and_both_are_checked(run, tiny_store, tmp_path):
    with pytest.raises(InputError, match=r"settings.*: lr: must be a number"):
        ecgfit.train(tiny_store, tmp_path / "r", lr="fast")
    with pytest.raises(InputError, match="momentum: unknown key"):
        ecgfit.train(tiny_store, tmp_path / "r", momentum=0.9)
    again = ecgfit.train(
        tiny_store, tmp_path / "again", config=run.path / "config.yaml", threshold="f1"
    )
    assert again.config == run.config.model_copy(update={"threshold": "f1"})
    assert isinstance(again.config, TrainConfig)
    same = ecgfit.train(tiny_store, tmp_path / "same", config=run.config)
    assert same_results(same.path, run.path)


def test_train_works_in_a_running_event_loop_and_off_the_main_thread(tiny_store, tmp_path):
    """As in a notebook, whose kernel runs an event loop and some of whose cells run in threads."""

    async def notebook() -> list[ecgfit.Run]:
        here = ecgfit.train(tiny_store, tmp_path / "here", **SMALL)
        elsewhere = await asyncio.to_thread(ecgfit.train, tiny_store, tmp_path / "thread", **SMALL)
        return [here, elsewhere]

    here, elsewhere = asyncio.run(notebook())
    assert same_results(here.path, elsewhere.path)


def test_resume_finds_settings_and_store_by_itself(tiny_store, tmp_path, monkeypatch):
    project = tmp_path / "project"
    shutil.copytree(tiny_store.path, project / "data/tiny.zarr")
    whole = ecgfit.train(tiny_store, project / "runs/whole", lr=0.01, **SMALL)
    killed = copy_run(whole, project / "runs/killed")
    for name in ("threshold.json", "calibration.json", "metrics_val.json", "metrics_test.json"):
        (killed.path / name).unlink(missing_ok=True)
    monkeypatch.chdir("/")
    resumed = ecgfit.train(outdir=killed.path, resume=True)
    assert resumed.config == whole.config
    with pytest.raises(StoreError, match=r"other settings \(lr: 0\.01, now 0\.1\)"):
        ecgfit.train(outdir=killed.path, resume=True, lr=0.1)
    (tmp_path / "other.yaml").write_text("lr: 0.02\n")
    with pytest.raises(StoreError, match=r"other settings \(lr: 0\.01, now 0\.02\)"):
        ecgfit.train(outdir=killed.path, resume=True, config=tmp_path / "other.yaml")


def test_resume_takes_only_the_store_with_the_recorded_content(run, tiny_store, tmp_path):
    runs = copy_run(run, tmp_path / "project/runs/a")
    label = 1 - np.array(tiny_store.array("label"))
    other = changed_store(tiny_store, tmp_path / "project/tiny.zarr", label=label)
    attributes = other.path / "zarr.json"
    attributes.write_text(attributes.read_text().replace(tiny_store.content_sha256, "0" * 64))
    with pytest.raises(StoreError, match=r"tiny\.zarr, content_sha256 .*--store"):
        ecgfit.train(outdir=runs.path, resume=True)
    with pytest.raises(StoreError, match="There is no run to resume"):
        ecgfit.train(outdir=tmp_path / "empty", resume=True)
    with pytest.raises(InputError, match="Give the store to train on"):
        ecgfit.train(outdir=tmp_path / "empty")
    assert ecgfit.train(tiny_store, runs.path, resume=True).threshold == run.threshold


def test_an_existing_run_is_kept(run, tiny_store):
    with pytest.raises(TargetExists, match="--overwrite"):
        ecgfit.train(tiny_store, run.path, **SMALL)


def test_check_returns_lines_and_trains_nothing(tiny_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ecgfit.check(tiny_store.path, tabular=["age"])
    assert "tensors of train, val, test are finite and (B, 8, 200)" in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_run_shows_what_it_is(run, ensemble_run, tiny_store):
    assert repr(run) == f"Run('{run.path}': resnet1d, trained on tiny.zarr)"
    members = ecgfit.load_run(ensemble_run.path)
    assert repr(members) == f"Run('{members.path}': resnet1d, 2 members, trained on tiny.zarr)"
    assert run.content_sha256 == tiny_store.content_sha256


def test_metrics_and_predictions_are_those_of_the_files(run):
    metrics = run.metrics("test")
    assert metrics["split"] == "test"
    assert metrics == run.read_json("metrics_test.json")
    table = run.predictions("test")
    columns = ["row", "patient", "label", "logit_0", "logit_1", "probability"]
    assert list(table.columns) == columns
    assert len(table) == metrics["n_records"]
    with_calibration = run.calibration.apply((table.logit_1 - table.logit_0).to_numpy())
    np.testing.assert_allclose(table.probability, with_calibration, rtol=1e-6)


def test_a_split_that_was_not_evaluated_is_said_with_what_to_do(run):
    for read in (run.metrics, run.predictions):
        with pytest.raises(StoreError, match=r"not evaluated on train.*ecgfit eval.*run\.evaluate"):
            read("train")


def test_results_of_folds_are_read_out_of_fold(folds_run):
    run = ecgfit.load_run(folds_run.path)
    assert set(run.metrics("oof")["folds"]["each"]) == {"0", "1", "2"}
    assert "threshold" in run.predictions("oof")


def test_history_is_the_curves_of_every_member(run, ensemble_run):
    assert list(run.history.epoch) == [1, 2]
    assert {"train_loss", "val_auprc"} <= set(run.history.columns)
    members = ecgfit.load_run(ensemble_run.path).history
    assert list(members.member) == ["0", "0", "1", "1"]


def test_evaluate_returns_what_it_writes(run, tiny_store, tmp_path):
    copy = ecgfit.Run(copy_run(run, tmp_path / "r").path)
    metrics = copy.evaluate(tiny_store.path, split="train")
    assert metrics == copy.metrics("train")
    assert ecgfit.evaluate(copy.path, tiny_store)["split"] == "test"
    with pytest.raises(InputError, match="trained_on goes with external"):
        ecgfit.evaluate(copy, tiny_store, trained_on=tiny_store)


def test_newest_run_is_found_by_its_store(run, tiny_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy_run(run, tmp_path / "runs/001")
    assert ecgfit.newest_run(tiny_store.path).path == Path("runs/001")


def test_prediction_of_files_is_a_table_with_a_line_for_each(run, corpus):
    files = sorted((corpus / "xml").glob("*.xml"))[:3]
    table = run.predict([str(files[0]), files[1], corpus / "absent.xml"])
    assert list(table.file) == [str(files[0]), str(files[1]), str(corpus / "absent.xml")]
    assert list(table.status) == ["ok", "ok", "file_missing"]
    assert table.probability[:2].between(0, 1).all()
    alone = ecgfit.predict(run.path, files[0])
    assert alone.probability[0] == table.probability[0]


def test_prediction_of_a_store_is_a_table_of_its_rows(run, tiny_store):
    table = ecgfit.predict(run, store=tiny_store, split="test")
    assert set(table.row) >= set(run.predictions("test").row)


def test_arguments_of_predict_that_exclude_each_other_are_refused(run, tiny_store, tmp_path):
    for arguments, message in (
        ({}, "one of the two"),
        ({"files": ["a.xml"], "store": tiny_store}, "one of the two"),
        ({"files": []}, "no file to predict"),
        ({"files": ["a.xml"], "split": "test"}, "split goes with a store"),
        ({"store": tiny_store, "covariates": tmp_path / "c.csv"}, "covariates goes with files"),
    ):
        with pytest.raises(InputError, match=message):
            ecgfit.predict(run, **arguments)


def test_compare_takes_runs_and_folders(run, ensemble_run):
    result = ecgfit.compare([run, ensemble_run.path])
    assert set(result["against_first"]) == {str(ensemble_run.path)}
    with pytest.raises(InputError, match="two runs or more"):
        ecgfit.compare([run])


def test_report_and_export_return_what_they_wrote(run, tmp_path):
    page = run.report(tmp_path / "r.html")
    assert page == tmp_path / "r.html"
    assert page.read_text().startswith("<!doctype html>")
    written = run.export(tmp_path / "m.safetensors")
    assert written.keys() == ExportedFile.__annotations__.keys()
    assert written["bytes"] == (tmp_path / "m.safetensors").stat().st_size
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(TargetExists):
        ecgfit.report(run, tmp_path / "mine.html")
    assert issubclass(TargetExists, EcgError)


@pytest.mark.parametrize("missing", ["drop", "mask"])
def test_normalised_batches_have_mean_0_and_deviation_1_and_zeros_elsewhere(tiny_store, missing):
    batches = list(ecgfit.dataloader(tiny_store.path, batch=16, missing=missing))
    x = torch.cat([batch.waveforms for batch in batches])
    mask = torch.cat([batch.lead_mask for batch in batches])
    span = torch.cat([batch.valid_span for batch in batches])
    assert (x.dtype, x.shape[1:]) == (torch.float32, (8, 200))
    time = torch.arange(200)
    is_signal = (time >= span[:, :1]) & (time < span[:, 1:])
    is_measured = mask[:, :, None] & is_signal[:, None]
    assert (x[~is_measured] == 0).all()
    assert (~is_measured).any() == (missing == "mask")
    for lead in range(8):
        values = x[:, lead][is_measured[:, lead]].double()
        assert values.mean().item() == pytest.approx(0, abs=1e-4)
        assert values.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_raw_batches_are_the_store_s_values_and_stay_when_others_follow(tiny_store):
    batches = list(
        ecgfit.dataloader(tiny_store, "all", 4, normalise=False, covariates=["sex", "age"])
    )
    assert len(batches) > 4  # more than the loader has buffers
    for batch in batches:
        rows = batch.rows
        assert len(batch) == len(rows)
        np.testing.assert_array_equal(batch.waveforms, tiny_store.array("waveforms")[rows])
        np.testing.assert_array_equal(batch.label, tiny_store.array("label")[rows])
        np.testing.assert_array_equal(batch.patient, tiny_store.array("patient")[rows])
        expected = tiny_store.array("covariates")[rows][:, [1, 0]]
        np.testing.assert_array_equal(batch.covariates, expected)


def test_a_seed_shuffles_each_epoch_anew_and_repeatably(tiny_store):
    def epochs() -> list[list[int]]:
        loader = ecgfit.dataloader(tiny_store, batch=8, seed=3)
        return [[int(row) for batch in loader for row in batch.rows] for _ in range(2)]

    first, second = epochs()
    assert first != second
    assert sorted(first) == sorted(second)
    assert epochs() == [first, second]
    loader = ecgfit.dataloader(tiny_store, batch=8, seed=3)
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert len(list(loader)) == len(loader)


def test_arguments_of_dataloader_are_checked(tiny_store):
    for arguments, message in (
        ({"split": "dev"}, "must be one of train, val, test, all"),
        ({"missing": "keep"}, r"missing \(=keep\) must be drop or mask"),
        ({"batch": 0}, r"batch \(=0\) must be at least 1"),
        ({"covariates": ["bmi"]}, "has no covariate bmi"),
    ):
        with pytest.raises(InputError, match=message):
            ecgfit.dataloader(tiny_store, **arguments)


def test_config_of_a_run_is_made_from_its_settings(run):
    assert make_config(run.config.model_dump(), "again") == run.config
