"""`import ecgprep`: the functions of the commands, for Python."""

from __future__ import annotations

import asyncio
import inspect
import logging
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import files_of, statuses, write_recordings

import ecgprep
from ecgprep import api
from ecgprep.cli import cli
from ecgprep.options import CHOICES
from ecgprep.reports.preview import ConformSteps, FilePreview
from ecgprep.simulation.vendors import VENDORS
from ecgprep.store.summary import StoreSummary

SMALL = {"hz": 100, "length": 1000}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Recordings of 20 patients; read-only for tests."""
    return write_recordings(tmp_path_factory.mktemp("api") / "c", 20).parent


@pytest.fixture(scope="module")
def store(corpus, tmp_path_factory) -> ecgprep.Store:
    """The store of `corpus`; read-only for tests."""
    folder = tmp_path_factory.mktemp("store")
    registry = folder / "r.csv"
    return ecgprep.build(corpus / "manifest.csv", folder / "s.zarr", registry=registry, **SMALL)


def test_every_public_name_exists_and_has_a_docstring():
    assert dir(ecgprep) == sorted(ecgprep.__all__)
    for name in set(ecgprep.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(ecgprep, name)), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ecgprep' has no attribute 'biuld'"):
        ecgprep.biuld  # noqa: B018


def test_no_module_takes_the_place_of_a_function():
    code = """
        import importlib, pkgutil, ecgprep
        names = [m.name for m in pkgutil.iter_modules(ecgprep.__path__) if m.name != "__main__"]
        for name in names:
            importlib.import_module(f"ecgprep.{name}")
        print(set(names) & set(ecgprep.__all__))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_an_option_of_a_command_has_the_default_of_its_function():
    given = cli.commands["build"].make_context("build", ["m.csv", "s.zarr"]).params
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(api.build).parameters.items()
        if name not in ("manifest", "store", "progress")
    }
    assert {name: given[name] for name in defaults} == defaults
    assert CHOICES["dialects"] == tuple(VENDORS)


def test_build_returns_the_store_and_reports_progress(corpus, tmp_path):
    calls = []
    store = ecgprep.build(
        str(corpus / "manifest.csv"),
        str(tmp_path / "s.zarr"),
        registry=tmp_path / "r.csv",
        covariates=["age", "sex"],
        progress=lambda *counts: calls.append(counts),
        **SMALL,
    )
    assert (len(store), store.covariate_names) == (20, ["age", "sex"])
    assert calls == [(0, 20, 0), (20, 20, 0)]


def test_build_leaves_a_store_that_is_up_to_date(corpus, store, caplog, capfd):
    before = files_of(store.path.parent)
    registry = store.path.with_name("r.csv")
    with caplog.at_level(logging.INFO, "ecgprep"):
        again = ecgprep.build(corpus / "manifest.csv", store.path, registry=registry, **SMALL)
    assert again.content_sha256 == store.content_sha256
    assert files_of(store.path.parent) == before
    assert caplog.messages == [f"{store.path} is up to date; nothing to do."]
    assert capfd.readouterr() == ("", "")
    with pytest.raises(
        ecgprep.TargetExists, match=r"is stale: the settings differ \(.+, now .+\)\. Use --replace"
    ):
        ecgprep.build(corpus / "manifest.csv", store.path, registry=registry, hz=100, length=500)


def test_a_data_frame_gives_the_store_of_its_csv(corpus, store, tmp_path):
    frame = pd.read_csv(corpus / "manifest.csv", dtype={"patient_id": str})
    built = ecgprep.build(frame, tmp_path / "s.zarr", root=corpus, **SMALL)
    assert files_of(built.path) == files_of(store.path)
    kept = tmp_path / "s.zarr.manifest.csv"
    assert kept.stat().st_mode & 0o777 == 0o600
    before = (built.path / "zarr.json").stat().st_ino
    again = ecgprep.build(frame, tmp_path / "s.zarr", root=corpus, **SMALL)
    assert (again.path / "zarr.json").stat().st_ino == before
    with pytest.raises(ecgprep.TargetExists, match="is stale: the manifest has changed"):
        ecgprep.build(frame[:-1], tmp_path / "s.zarr", root=corpus, **SMALL)


def test_paths_of_a_data_frame_are_relative_to_the_current_folder(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(corpus)
    frame = pd.read_csv("manifest.csv")
    assert statuses(ecgprep.build(frame, tmp_path / "s.zarr", **SMALL)) == ["ok"] * 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hz": 10}, "hz (=10) must be a whole number, from 50 to 2,000."),
        ({"min_seconds": -1}, "min_seconds (=-1) must be a number, at least 0."),
        ({"jobs": "2"}, "jobs (='2') must be a whole number, from 1 to 256."),
        ({"length": 500.5}, "length (=500.5) must be a whole number, from 100 to 1,000,000."),
        ({"duplicates": "some"}, "duplicates (=some) must be near or exact."),
        ({"extend": True, "replace": True}, "use one of them."),
    ],
)
def test_options_are_checked_as_those_of_the_command_are(corpus, tmp_path, options, message):
    with pytest.raises(ecgprep.InputError) as caught:
        ecgprep.build(corpus / "manifest.csv", tmp_path / "s.zarr", **options)
    assert str(caught.value).endswith(message)
    assert not (tmp_path / "s.zarr").exists()


def test_parts_are_planned_built_and_finalised(corpus, store, tmp_path):
    planned = ecgprep.plan(
        corpus / "manifest.csv", tmp_path / "p.zarr", registry=tmp_path / "r.csv", **SMALL
    )
    assert len(planned.parts()) == 1
    assert ecgprep.build_part(tmp_path / "p.zarr", 1, 1) == (1, 1)
    built = ecgprep.finalise(tmp_path / "p.zarr")
    assert files_of(built.path) == files_of(store.path)
    with pytest.raises(TypeError, match=r"plan\(\) has no option jobs"):
        ecgprep.plan(corpus / "manifest.csv", tmp_path / "q.zarr", jobs=2)
    with pytest.raises(ecgprep.InputError, match=r"part \(=2\) must be from 1 to 1"):
        ecgprep.build_part(tmp_path / "p.zarr", 2, 1)


def test_a_store_is_inspected_verified_reported_and_packed(store, tmp_path):
    assert ecgprep.inspect(store) == ecgprep.inspect(str(store.path))
    assert ecgprep.inspect(store).keys() == StoreSummary.__annotations__.keys()
    assert ecgprep.verify(store).intact
    written = ecgprep.report(store, tmp_path / "report.html", ecgs=0)
    assert written.read_text().startswith("<!doctype html>")
    packed = ecgprep.pack(store, tmp_path / "p.zarr")
    restored = ecgprep.unpack(packed, tmp_path / "u.zarr")
    assert files_of(restored.path) == files_of(store.path)
    assert ecgprep.open_store(restored.path).content_sha256 == store.content_sha256


def test_a_damaged_row_is_in_the_verification(store, tmp_path):
    copy = Path(shutil.copytree(store.path, tmp_path / "copy.zarr"))
    chunk = copy / "waveforms/c/0/0/0"
    data = bytearray(chunk.read_bytes())
    data[3 * 16_000] ^= 1
    chunk.write_bytes(data)
    found = ecgprep.verify(copy)
    assert (found.intact, found.bad_rows) == (False, (3,))


ABSENT = {"refused", "lead_off", "baseline_sway", "unknown_leads", "notes", "quality"}
"""Keys of a preview that say something only about some files."""


def test_a_file_is_previewed_and_read(corpus, tmp_path):
    path = corpus / "xml" / "0.xml"
    content = ecgprep.preview(path, plot=tmp_path / "0.png")
    assert (content["dialect"], content["rate_hz"]) == ("muse", 100)
    assert content.keys() == FilePreview.__annotations__.keys() - ABSENT
    assert content["conform"].keys() == ConformSteps.__annotations__.keys()
    assert (tmp_path / "0.png").read_bytes().startswith(b"\x89PNG")
    recording = ecgprep.read_recording(path)
    assert isinstance(recording, ecgprep.Recording)
    assert recording.n_samples == content["n_samples"]
    assert ecgprep.preview(tmp_path / "absent.xml")["refused"]["reason"] == "file_missing"
    with pytest.raises(ecgprep.RecordError):
        ecgprep.read_recording(tmp_path / "absent.xml")


def test_a_corpus_is_simulated_and_the_machine_described(tmp_path):
    corpus = ecgprep.simulate(tmp_path / "c", patients=3, dialects="all")
    assert corpus.manifest == tmp_path / "c" / "manifest.csv"
    assert corpus.n_files == len(list((tmp_path / "c" / "xml").iterdir()))
    with pytest.raises(ecgprep.InputError, match=r"dialects \(=ecg\) must be muse, aecg, .* or"):
        ecgprep.simulate(tmp_path / "d", patients=3, dialects=["muse", "ecg"])
    assert "numpy" in ecgprep.describe_machine(tmp_path)


def test_a_patient_who_looks_like_another_is_a_warning(corpus, tmp_path, caplog):
    manifest = (corpus / "manifest.csv").read_text()
    (tmp_path / "m.csv").write_text(manifest + "p1,xml/absent.xml,0,50,1\n")
    ecgprep.build(tmp_path / "m.csv", tmp_path / "s.zarr", root=corpus, **SMALL, max_rejected=0.1)
    assert ["differ only by case" in message for message in caplog.messages] == [True]
    assert {record.name for record in caplog.records} == {"ecgprep.api"}


def test_build_works_while_an_event_loop_runs(corpus, store, tmp_path):
    """As in a notebook."""

    async def cell() -> ecgprep.Store:
        return ecgprep.build(
            corpus / "manifest.csv", tmp_path / "s.zarr", registry=tmp_path / "r.csv", **SMALL
        )

    assert files_of(asyncio.run(cell()).path) == files_of(store.path)


def test_processes_start_where_main_is_no_file(corpus, store, tmp_path):
    """A notebook's `__main__` has no file that a new process could import."""
    code = f"""
        import asyncio, ecgprep
        async def cell():
            return ecgprep.build(
                "manifest.csv", {str(tmp_path / "s.zarr")!r}, registry={str(tmp_path / "r.csv")!r},
                hz=100, length=1000, jobs=2,
            )
        print(asyncio.run(cell()).content_sha256)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=corpus,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{store.content_sha256}\n", "")


def test_a_script_that_guards_nothing_is_told_how(corpus, tmp_path):
    """Each process imports the script, which would start processes again."""
    (tmp_path / "script.py").write_text(
        f"import ecgprep\necgprep.build({str(corpus / 'manifest.csv')!r}, 's.zarr', jobs=2)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'call ecgprep below `if __name__ == "__main__":`' in done.stderr
    assert not (tmp_path / "s.zarr").exists()


def test_samples_of_a_row_are_those_of_its_file(corpus, store):
    recording = ecgprep.read_recording(corpus / "xml" / "7.xml")
    row = store.gather(np.array([7]), np.empty((1, 8, 1000), "<i2"))[0]
    np.testing.assert_array_equal(row[0], np.rint(recording.leads_uv["I"]))
