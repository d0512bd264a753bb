"""What a reader of ECGs would object to is said when a recording is predicted, or refuses it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from helpers import changed_store, command

import ecgfit
import ecgprep
from ecgfit.cli import cli
from ecgfit.inference.files import predict_files, predict_store
from ecgprep.errors import InputError
from ecgprep.quality import BIT, flags_in_words
from ecgprep.simulation.vendors import muse
from ecgprep.store.reader import Store


@pytest.fixture(scope="module")
def white_noise(tmp_path_factory) -> Path:
    """No ECG at all: 10 s of white noise of 200 µV rms in every lead."""
    path = tmp_path_factory.mktemp("noise") / "noise.xml"
    uv = np.rint(np.random.default_rng(0).normal(0, 200, (12, 1000))).astype(np.int64)
    path.write_bytes(muse(uv, 100, "P0"))
    return path


@pytest.fixture(scope="module")
def flagged_store(tiny_store, tmp_path_factory) -> Store:
    """`tiny_store` with known flags: every fifth row is noisy in II, every seventh lacks V1."""
    quality = np.zeros_like(tiny_store.array("quality")[:])
    quality[::5, 1] = BIT["noise"]
    quality[::7, 2] = BIT["lead_off"] | BIT["flat"]
    return changed_store(tiny_store, tmp_path_factory.mktemp("flagged") / "f.zarr", quality=quality)


def test_flags_are_put_into_words():
    flags = np.zeros(8, np.uint32)
    assert flags_in_words(flags) == []
    flags[:] = BIT["noise"]
    flags[[1, 3]] |= np.uint32(BIT["flat"])
    assert flags_in_words(flags) == ["flat in II, V2", "noise in all leads"]
    assert flags_in_words(flags, ["noise"]) == ["noise in all leads"]
    assert flags_in_words(flags, []) == []


def test_white_noise_is_warned_of_and_can_be_refused(trained_run, white_noise):
    warned = predict_files(trained_run, [white_noise])
    assert warned["status"].tolist() == ["ok"]
    assert "noise in all leads" in warned["warnings"][0]
    refused = predict_files(trained_run, [white_noise], refuse_quality=["flat", "noise"])
    assert refused["status"].tolist() == ["quality"]
    assert refused["message"].tolist() == ["noise in all leads (--refuse-quality)"]
    assert refused["probability"].isna().all()
    assert refused["positive"].isna().all()
    other = predict_files(trained_run, [white_noise], refuse_quality=["flat"])
    pd.testing.assert_frame_equal(other, warned)


def test_warnings_of_rows_are_the_flags_of_the_store(trained_run, flagged_store):
    """Against the text that `Store.table` makes of the same bits."""
    table = predict_store(trained_run, flagged_store)
    of_store = flagged_store.table()["quality"].loc[table["row"]]
    for warnings, text in zip(table["warnings"], of_store, strict=True):
        for lead_and_flags in filter(None, text.split("; ")):
            lead, flags = lead_and_flags.split(": ")
            for flag in flags.split(", "):
                assert f"{flag} in {lead}" in warnings.split("; ")
        assert ("noise" in warnings) == ("noise" in text)


def test_refused_rows_take_no_part_in_their_patients_result(trained_run, flagged_store):
    whole = predict_store(trained_run, flagged_store)
    table = predict_store(trained_run, flagged_store, refuse_quality=["noise"])
    columns = ["row", "patient", "split", "label", "status", "message", "probability", "positive"]
    assert list(table)[:8] == columns
    refused = table["row"] % 5 == 0
    assert set(table["status"][refused]) == {"quality"}
    assert set(table["message"][refused]) == {"noise in II (--refuse-quality)"}
    assert table["probability"].isna().tolist() == refused.tolist()
    assert set(table["status"][~refused]) == {"ok"}
    assert set(table["message"][~refused]) == {""}
    p = whole["probability"].to_numpy()
    calibration = trained_run.calibration
    logit = (np.log(p / (1 - p)) - calibration.intercept) / calibration.slope
    usable = whole.assign(logit=logit)[(~refused) & (whole["missing_leads"] == "")]
    means = calibration.apply(usable.groupby("patient")["logit"].mean())
    expected = dict(zip(usable.groupby("patient").groups, means, strict=True))
    for patient, found in zip(table["patient"], table["patient_probability"], strict=True):
        if patient in expected:
            assert found == pytest.approx(expected[patient], abs=1e-9)
        else:
            assert np.isnan(found)
    assert set(table["patient"]) > expected.keys()


def test_unknown_flags_are_refused(trained_run, tiny_store, white_noise, tmp_path):
    for how in ({"files": [white_noise]}, {"store": tiny_store}):
        with pytest.raises(InputError, match="--refuse-quality: unknown flag nosie; there are"):
            ecgfit.predict(trained_run, **how, refuse_quality="flat,nosie")


def test_flags_that_a_store_never_had_are_not_taken_for_absent(trained_run, tiny_store):
    old = Store(tiny_store.path)
    old.__class__ = type("Old", (Store,), {"quality_flags": ("flat",)})
    assert "status" in predict_store(trained_run, old, refuse_quality=["flat"])
    with pytest.raises(InputError, match="was built without the quality flags noise"):
        predict_store(trained_run, old, refuse_quality=["flat", "noise"])


def test_the_command_refuses_and_says_how_many(trained_run, white_noise, flagged_store, tmp_path):
    words = ["predict", "--run", trained_run.path, "--refuse-quality", "noise"]
    done = CliRunner().invoke(cli, [*map(str, words), str(white_noise)])
    assert done.exit_code == 3
    assert "1 of 1 files could not be used" in done.stderr
    output = tmp_path / "p.csv"
    words += ["--store", flagged_store.path, "-o", output]
    for _ in range(2):  # the second replaces what the first wrote
        done = CliRunner().invoke(cli, list(map(str, words)))
        assert done.exit_code == 3
    assert "rows could not be used" in done.stderr
    assert output.read_text().startswith(
        "row,patient,split,label,status,message,probability,positive,"
    )


def test_notes_of_the_reader_are_in_the_message(trained_run, white_noise, tmp_path):
    """A repair of the text, for instance."""
    damaged = tmp_path / "damaged.xml"
    damaged.write_bytes(white_noise.read_bytes() + b"\x00")
    (said,) = ecgprep.read_recording(damaged).notes
    assert predict_files(trained_run, [damaged])["message"].tolist() == [said]


def test_read_and_inspect_show_the_flags(white_noise, flagged_store):
    shown = command("read", white_noise)
    assert "quality: noise in all leads" in shown.stdout
    (content,) = json.loads(command("read", white_noise, "--json").stdout)
    assert "noise in all leads" in content["quality"]
    summary = json.loads(command("inspect", flagged_store.path, "--json").stdout)
    ok = flagged_store.array("status")[:] == 0
    assert summary["quality_flags"]["noise"] == ok[::5].sum()
    assert summary["quality_flags"]["flat"] == ok[::7].sum()
    assert summary["quality_flags"]["clipped"] == 0
    line = f"quality flags, in rows: flat {ok[::7].sum()}, lead_off {ok[::7].sum()}"
    assert line in command("inspect", flagged_store.path).stdout
