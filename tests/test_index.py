"""`ecgprep index`: a line a file, private, resumed, the same bytes however it was made."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import command
from test_build import Deadly

import ecgprep
import ecgprep.files.atomic
import ecgprep.indexing.fields
import ecgprep.indexing.run
from ecgprep.building.parts import read_one
from ecgprep.conform import Conformity
from ecgprep.errors import InputError, NoSpace, TargetExists
from ecgprep.header import Header
from ecgprep.indexing.fields import COLUMNS, TARGET, Batch, read_fields
from ecgprep.indexing.run import _read_isolated
from ecgprep.readers import Dialect, muse
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import VENDORS

N_FILES = len(VENDORS) + 4
"""Files of `template` that the usual glob finds."""

HEADER = Header(
    patient_id='00,12"3',
    acquired_at="2019-03-04T08:15:00",
    age_years=0.5,
    sex="F",
    heart_rate_bpm=61.0,
    qtc_ms=431.25,
    p_axis_deg=-0.0,
)


def ecg(i: int, dialect: str = "muse", rate_hz: int = 100) -> bytes:
    generator = np.random.default_rng(i)
    return VENDORS[dialect](
        simulate(Heart.draw(generator, i % 2), rate_hz, generator), rate_hz, "X"
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Every dialect, two folders deep, with a file of each kind that a build would refuse."""
    export = tmp_path_factory.mktemp("template") / "export"
    (export / "a" / "b").mkdir(parents=True)
    for i, dialect in enumerate(VENDORS):
        (export / "a" / "b" / f"{dialect}.xml").write_bytes(ecg(i, dialect))
    (export / "a.xml").write_bytes(ecg(10))
    (export / "é ü.XML").write_bytes(ecg(11, rate_hz=500))
    (export / "cut.xml").write_bytes(ecg(12)[:3000])
    (export / "text.xml").write_text("no XML")
    (export / "report.pdf").write_bytes(b"%PDF")
    (export / "._a.xml").write_bytes(b"left by another system")
    return export


@pytest.fixture
def folder(template, tmp_path, monkeypatch) -> Path:
    """A folder of one's own with the folder `export` in it; the current one."""
    shutil.copytree(template, tmp_path / "export")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def column(table: Path, name: str) -> list[str]:
    return [row[name] for row in rows(table)]


def test_a_line_a_file_sorted_by_the_bytes_of_its_path(folder):
    summary = ecgprep.write_index("export", "ecg.csv")
    paths = column(folder / "ecg.csv", "path_xml")
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.[xX][mM][lL]")]
    expected = sorted((f for f in files if "._" not in f), key=str.encode)
    assert paths == expected
    assert list(rows(folder / "ecg.csv")[0]) == list(COLUMNS)
    assert (summary["files"], summary["left_out"]["not_matched"]) == (len(expected), 2)
    assert summary["status"] == {"ok": len(VENDORS) + 2, "not_xml": 2}


def test_status_and_message_are_those_of_a_build(folder):
    ecgprep.write_index("export", "ecg.csv")
    for row in rows(folder / "ecg.csv"):
        built = read_one(folder, row["path_xml"], Conformity())
        assert row["status"] == built.status
        if built.row is None:
            assert (row["message"], row["leads_usable"]) == (built.message, "")
        else:
            assert row["leads_usable"] == str(built.row.lead_mask.sum())
            assert float(row["rate_hz"]) == built.row.rate_hz
            has_pulse = built.dialect == "philips"  # a file's length, with the pulse at its end
            assert (row["dialect"], row["seconds"]) == (built.dialect, "11" if has_pulse else "10")


def test_values_are_those_of_the_header_also_of_a_refused_recording(folder, monkeypatch):
    dialect = Dialect("muse", muse.read, lambda root: HEADER)
    monkeypatch.setitem(ecgprep.readers.DIALECTS, "RestingECG", dialect)
    (folder / "export/a.xml").write_bytes(
        ecg(0).replace(b"<WaveformType>Rhythm", b"<WaveformType>Median")
    )
    ecgprep.write_index("export/a.xml", "ecg.csv")
    (row,) = rows(folder / "ecg.csv")
    assert (row["status"], row["dialect"], row["n_leads"]) == ("no_rhythm", "muse", "")
    assert row["patient_id"] == HEADER.patient_id
    assert (row["age_years"], row["sex"], row["heart_rate_bpm"]) == ("0.5", "F", "61")
    assert (row["qtc_ms"], row["p_axis_deg"], row["pr_ms"]) == ("431.25", "0", "")
    assert row["acquired_at"] == HEADER.acquired_at


def test_repairs_and_unknown_leads_of_a_good_file_are_said_once(folder):
    data = ecg(10).replace(b"<LeadID>V6<", b"<LeadID>XYZ<")
    Path("export", "a.xml").write_bytes(data.replace(b"<PatientID>", b"<PatientID>\0"))
    ecgprep.write_index("export/a.xml", "ecg.csv")
    (row,) = rows(folder / "ecg.csv")
    assert (row["status"], row["n_leads"], row["leads_usable"]) == ("ok", "7", "7")
    repair, unknown = row["message"].split("; ")
    assert "control" in repair or "NUL" in repair
    assert unknown == "1 lead with an unknown name is left out: XYZ"


def test_a_lead_that_is_masked_as_out_of_range_is_said(folder, monkeypatch):
    def read(root):
        recording = muse.read(root)
        recording.leads_uv["V2"][100] = 39_000.0
        return recording

    monkeypatch.setitem(
        ecgprep.readers.DIALECTS, "RestingECG", Dialect("muse", read, muse.read_header)
    )
    ecgprep.write_index("export/a.xml", "ecg.csv")
    (row,) = rows(folder / "ecg.csv")
    assert (row["status"], row["leads_usable"]) == ("ok", "7")
    assert row["message"] == "masked for samples beyond ±32.767 mV: V2"


def test_a_frame_keeps_ids_as_text_and_numbers_as_numbers(folder, monkeypatch):
    ids = iter(["00123", "NA", "a\nb", "1e5"])
    monkeypatch.setitem(
        ecgprep.readers.DIALECTS,
        "RestingECG",
        Dialect("muse", muse.read, lambda root: Header(patient_id=next(ids), pr_ms=160.0)),
    )
    for i in range(4):
        shutil.copy(folder / "export/a.xml", folder / f"export/a/{i}.xml")
    paths = [f"export/a/{i}.xml" for i in range(4)]
    frame = ecgprep.index(paths)
    assert list(frame.columns) == list(COLUMNS)
    assert frame["patient_id"].tolist() == ["00123", "NA", "a\nb", "1e5"]
    assert frame["pr_ms"].tolist() == [160.0] * 4
    assert frame["qt_ms"].isna().all()
    assert frame["message"].tolist() == [""] * 4
    assert frame.attrs["summary"]["patients"] == 4
    assert not (folder / "ecg.csv").exists()


def test_a_frame_is_the_table_that_is_written(folder):
    written = ecgprep.index("export", "ecg.csv")
    held = ecgprep.index("export", root=folder)
    assert written.equals(held)
    assert written.attrs["summary"] | {"root": None} == held.attrs["summary"] | {"root": None}


def test_the_table_is_private_and_so_is_what_is_known(folder):
    before = os.umask(0)
    try:
        ecgprep.write_index("export", "ecg.csv")
    finally:
        os.umask(before)
    assert sorted(p.name for p in folder.iterdir()) == ["ecg.csv", "ecg.csv.known", "export"]
    for name in ("ecg.csv", "ecg.csv.known"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600


def test_the_bytes_are_the_same_whatever_the_number_of_processes(folder):
    ecgprep.write_index("export", "one.csv")
    ecgprep.write_index("export", "two.csv", jobs=2)
    assert (folder / "one.csv").read_bytes() == (folder / "two.csv").read_bytes()


def test_paths_are_relative_to_the_root_to_the_table_or_absolute(folder):
    (folder / "tables").mkdir()
    inside = ecgprep.write_index("export", "ecg.csv")
    assert inside["root"] is None
    given = ecgprep.write_index("export", "tables/ecg.csv", root="export")
    assert given["root"] == str(folder / "export")
    assert "a/b/muse.xml" in column(folder / "tables/ecg.csv", "path_xml")
    absolute = ecgprep.write_index(["export/a", "export/a.xml"], "tables/abs.csv")
    assert absolute["root"] == str(folder / "export")
    assert all(path.startswith("/") for path in column(folder / "tables/abs.csv", "path_xml"))


@pytest.mark.parametrize("table", ["ecg.csv", "tables/ecg.csv"])
def test_a_build_finds_every_file_with_the_root_that_the_summary_names(folder, table):
    (folder / "tables").mkdir()
    summary = ecgprep.write_index("export/a", table)
    import pandas as pd

    frame = pd.read_csv(table, dtype=str)
    frame["label"] = [str(i % 2) for i in range(len(frame))]
    frame["patient_id"] = [f"P{i}" for i in range(len(frame))]
    manifest = (folder / table).with_name("cohort.csv")
    frame.to_csv(manifest, index=False)
    store = ecgprep.build(manifest, "s.zarr", root=summary["root"], allow_missing_class=True)
    assert ecgprep.inspect(store)["status"] == {"ok": len(VENDORS)}


def test_overlapping_exports_give_every_file_once(folder):
    once = ecgprep.write_index("export", "one.csv")
    twice = ecgprep.write_index(["export/a", "export", "export/a.xml", "export/a"], "two.csv")
    assert once["files"] == twice["files"]
    assert (folder / "one.csv").read_bytes() == (folder / "two.csv").read_bytes()


def test_glob_matches_names_in_any_case_and_a_named_file_always(folder):
    assert ecgprep.write_index("export", "a.csv", glob="A.xml")["files"] == 1
    assert ecgprep.write_index("export", "b.csv", glob="*")["files"] == N_FILES + 1
    named = ecgprep.write_index("export/report.pdf", "c.csv")
    assert named["status"] == {"not_xml": 1}


def test_all_files_of_a_folder_do_not_include_the_table_itself(folder):
    for _ in range(2):
        summary = ecgprep.write_index(folder, "ecg.csv", glob="*")
        assert summary["files"] == N_FILES + 1


def test_stores_are_not_entered(folder):
    (folder / "export" / "s.zarr").mkdir()
    (folder / "export" / "s.zarr" / "zarr.json").write_text("{}")
    (folder / "export" / "s.zarr" / "x.xml").write_bytes(ecg(0))
    summary = ecgprep.write_index("export", "ecg.csv")
    assert summary["left_out"]["stores"] == 1
    assert "export/s.zarr/x.xml" not in column(folder / "ecg.csv", "path_xml")


def test_a_simulated_corpus_gives_what_was_written_into_its_files(tmp_path):
    ecgprep.simulate(tmp_path, patients=20, seed=3, dialects=["all"])
    ecgprep.write_index(tmp_path / "xml", tmp_path / "ecg.csv")
    found = {row["path_xml"]: row for row in rows(tmp_path / "ecg.csv")}
    written = rows(tmp_path / "headers.csv")
    assert len(found) == len(written) > 20
    for row in written:
        for name, value in row.items():
            assert as_number(found[row["path_xml"]][name]) == as_number(value), name


def as_number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def test_real_recordings_with_defects_have_the_status_that_is_expected(make_real_corpus):
    out = make_real_corpus("--task", "CD", "--limit", "20", "--defects")
    summary = ecgprep.write_index(out, out / "ecg.csv")
    found = {row["path_xml"]: row for row in rows(out / "ecg.csv")}
    for row in rows(out / "defects.csv"):
        if row["expected_status"] == "file_missing":
            assert row["path_xml"] not in found
        else:  # a conflict shows when rows are compared, which is the build's work
            expected = row["expected_status"].replace("conflict", "ok")
            assert found[row["path_xml"]]["status"] == expected
    assert summary["months"] == ("2019-03", "2019-03")
    dated = {row["acquired_at"] for row in found.values() if row["dialect"]}
    assert dated == {"2019-03-04T08:15:00"}
    ids = {
        row["patient_id"] for path, row in found.items() if row["dialect"] and "defect" not in path
    }
    assert all(name.startswith("PHI") for name in ids)


def test_real_files_have_the_status_of_a_build(samples, tmp_path):
    folder = samples / "data" / "xml"
    table = tmp_path / "ecg.csv"
    ecgprep.write_index(folder, table, root=folder)
    found = rows(table)
    assert len(found) > 10
    for row in found:
        built = read_one(folder, row["path_xml"], Conformity())
        assert (row["status"], row["dialect"] or "") == (
            built.status,
            built.dialect or row["dialect"],
        )


def test_a_linked_file_is_read_as_in_a_build(folder):
    (folder / "stock").mkdir()
    shutil.move("export/a.xml", "stock/a.xml")
    (folder / "export/a.xml").symlink_to("../stock/a.xml")
    left = ecgprep.write_index("export", "ecg.csv")
    assert (left["files"], left["linked_files"], left["left_out"]["links"]) == (N_FILES - 1, 0, 1)
    followed = ecgprep.write_index("export", "ecg.csv", follow_symlinks=True)
    assert (followed["files"], followed["linked_files"], followed["read_now"]) == (N_FILES, 1, 1)
    statuses = {row["path_xml"]: row["status"] for row in rows(folder / "ecg.csv")}
    built = read_one(folder, "export/a.xml", Conformity(), follow_symlinks=True)
    assert statuses["export/a.xml"] == built.status == "ok"
    (folder / "stock/a.xml").write_bytes(ecg(20))  # the link itself is as it was
    assert ecgprep.write_index("export", "ecg.csv", follow_symlinks=True)["read_now"] == 1


# --- What is known ---------------------------------------------------------------------------


@pytest.fixture
def read_files(monkeypatch) -> list[str]:
    """The names of the files that are read from now on."""
    read: list[str] = []

    def noted(path, root):
        read.append(path.name)
        return read_fields(path, root)

    monkeypatch.setattr(ecgprep.indexing.fields, "read_fields", noted)
    return read


def test_a_second_run_reads_only_what_is_new_or_changed(folder, read_files):
    ecgprep.write_index("export", "ecg.csv")
    read_files.clear()
    assert ecgprep.write_index("export", "ecg.csv")["read_now"] == 0
    assert not read_files
    (folder / "export/a.xml").write_bytes(ecg(20))
    os.utime(folder / "export/a/b/muse.xml", ns=(1, 1))
    (folder / "export/new.xml").write_bytes(ecg(21))
    (folder / "export/text.xml").unlink()
    assert ecgprep.write_index("export", "ecg.csv")["read_now"] == 3
    assert sorted(read_files) == ["a.xml", "muse.xml", "new.xml"]
    (folder / "fresh").mkdir()
    ecgprep.write_index("export", "fresh/ecg.csv", root=folder)
    assert (folder / "ecg.csv").read_bytes() == (folder / "fresh/ecg.csv").read_bytes()


@pytest.mark.parametrize("status", ["file_unreadable", "reader_crashed", "file_missing"])
def test_a_file_that_may_be_read_now_is_read_again(folder, read_files, monkeypatch, status):
    fields = ("",) * (len(COLUMNS) - 3) + (status, "once")
    with monkeypatch.context() as patch:
        patch.setattr(ecgprep.indexing.run, "read_batch", lambda b: [fields] * len(b.paths))
        ecgprep.write_index("export/a.xml", "ecg.csv")
    assert column(folder / "ecg.csv", "status") == [status]
    ecgprep.write_index("export/a.xml", "ecg.csv")
    assert column(folder / "ecg.csv", "status") == ["ok"]


def test_another_version_reads_every_file_again(folder, monkeypatch):
    ecgprep.write_index("export", "ecg.csv")
    monkeypatch.setattr("ecgprep.indexing.known.__version__", "0.0.0")
    summary = ecgprep.write_index("export", "ecg.csv")
    assert summary["read_now"] == summary["files"]


def test_a_table_that_was_deleted_comes_back_without_reading(folder, read_files):
    ecgprep.write_index("export", "ecg.csv")
    before = (folder / "ecg.csv").read_bytes()
    (folder / "ecg.csv").unlink()
    read_files.clear()
    ecgprep.write_index("export", "ecg.csv")
    assert ((folder / "ecg.csv").read_bytes(), read_files) == (before, [])


def test_what_is_known_and_damaged_is_made_again(folder):
    ecgprep.write_index("export", "ecg.csv")
    before = (folder / "ecg.csv").read_bytes()
    known = folder / "ecg.csv.known"
    known.write_bytes(known.read_bytes()[:100] + b"\xff" * 5000)
    ecgprep.write_index("export", "ecg.csv")
    assert (folder / "ecg.csv").read_bytes() == before


KILLED = """
import os, signal, sys
import ecgprep, ecgprep.indexing.run as run
read, left = run.read_batch, int(sys.argv[1])
def dying(batch):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    return read(batch)
run.read_batch, run._BATCH, run._COMMIT_EVERY_S = dying, 2, 0
ecgprep.write_index("export", "ecg.csv")
"""


@pytest.mark.parametrize("kind", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize("n_batches", [0, 3])
def test_a_stopped_run_continues_to_the_same_bytes(folder, kind, n_batches):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(n_batches), kind], capture_output=True, check=False
    )
    assert done.returncode in (-getattr(signal, kind), 1, 130), done.stderr
    assert not (folder / "ecg.csv").exists()
    assert (folder / "ecg.csv.known").stat().st_mode & 0o777 == 0o600
    summary = ecgprep.write_index("export", "ecg.csv")
    assert summary["read_now"] == summary["files"] - 2 * n_batches
    ecgprep.write_index("export", "whole.csv")
    assert (folder / "ecg.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    left = {path.name for path in folder.iterdir()} - {".ecg.csv.lock"}
    assert left == {"export", "ecg.csv", "ecg.csv.known", "whole.csv", "whole.csv.known"}


# --- What goes wrong -------------------------------------------------------------------------


def test_a_file_that_vanishes_before_it_is_read_has_a_row(folder, monkeypatch):
    def vanishing(batch):
        (folder / "export/a.xml").unlink(missing_ok=True)
        return ecgprep.indexing.fields.read_batch(batch)

    monkeypatch.setattr(ecgprep.indexing.run, "read_batch", vanishing)
    ecgprep.write_index("export", "ecg.csv")
    status = {row["path_xml"]: row["status"] for row in rows(folder / "ecg.csv")}
    assert status["export/a.xml"] == "file_missing"


def test_a_file_that_kills_its_reader_costs_its_row(folder):
    paths = [Deadly("export/a.xml"), "export/a/b/muse.xml"]
    results = list(_read_isolated([Batch(str(folder), paths)]))
    assert [rows[0][-2] for _, rows in results] == ["reader_crashed", "ok"]


def test_memory_that_runs_out_costs_the_row(folder, monkeypatch):
    def hungry(*_, **__):
        raise MemoryError

    monkeypatch.setattr(ecgprep.indexing.fields, "open_file", hungry)
    ecgprep.write_index("export/a.xml", "ecg.csv")
    assert column(folder / "ecg.csv", "status") == ["reader_crashed"]


def test_a_bug_keeps_what_was_read_and_names_no_file(folder, monkeypatch):
    def broken(recording, target):
        raise ZeroDivisionError

    monkeypatch.setattr(ecgprep.indexing.fields, "kept_leads", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        ecgprep.write_index("export/a.xml", "ecg.csv")
    (note,) = caught.value.__notes__
    assert note.startswith("while reading a file of ")
    assert not (folder / "ecg.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"exports": "absent"}, "EXPORT number 1 of 1 does not exist"),
        ({"exports": ["export", "absent", "lost"]}, "EXPORT number 2, 3 of 3 does not exist"),
        ({"exports": "export", "root": "export/a"}, "EXPORT number 1 of 1 lies outside --root"),
        ({"exports": "export", "root": "absent"}, "The folder that --root names does not exist"),
        ({"exports": "export", "glob": "*.dcm"}, f"Found: {N_FILES + 1} .xml, 1 .pdf."),
        ({"exports": []}, "must name at least one folder or file"),
        ({"exports": "export", "jobs": 0}, "jobs"),
    ],
)
def test_what_cannot_be_indexed_is_refused_and_nothing_is_left(folder, arguments, words):
    with pytest.raises(InputError) as caught:
        ecgprep.index(out="ecg.csv", **arguments)
    assert words in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["export"]


def test_a_folder_that_is_now_empty_keeps_the_table(folder):
    ecgprep.write_index("export", "ecg.csv")
    before = (folder / "ecg.csv").read_bytes()
    shutil.move("export", "elsewhere")
    (folder / "export").mkdir()
    with pytest.raises(InputError, match=r"Found: no file\. "):
        ecgprep.write_index("export", "ecg.csv")
    assert (folder / "ecg.csv").read_bytes() == before
    shutil.rmtree("export")
    shutil.move("elsewhere", "export")
    assert ecgprep.write_index("export", "ecg.csv")["read_now"] == 0


def test_a_table_with_a_column_of_ones_own_is_not_replaced(folder):
    frame = ecgprep.index("export", "ecg.csv")
    frame.assign(label=1).to_csv("ecg.csv", index=False)
    before = (folder / "ecg.csv").read_bytes()
    with pytest.raises(TargetExists, match="was not written by this command"):
        ecgprep.write_index("export", "ecg.csv")
    assert (folder / "ecg.csv").read_bytes() == before
    ecgprep.write_index("export", "ecg.csv", overwrite=True)
    assert "label" not in rows(folder / "ecg.csv")[0]


@pytest.mark.parametrize("name", ["ecg.csv.known"])
def test_a_file_of_another_that_has_the_name_of_ours_is_left_alone(folder, name):
    (folder / name).write_text("mine")
    with pytest.raises(TargetExists, match=r"\.known exists"):
        ecgprep.write_index("export", "ecg.csv")
    assert (folder / name).read_text() == "mine"


def test_nothing_is_written_into_a_store_or_to_a_pipe(folder):
    (folder / "s.zarr").mkdir()
    (folder / "s.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(TargetExists, match="lies inside a store"):
        ecgprep.write_index("export", "s.zarr/ecg.csv")
    with pytest.raises(InputError, match="must be a file"):
        ecgprep.write_index("export", "/dev/stdout")


def test_two_runs_do_not_write_one_table(folder):
    from ecgprep.files.lock import locked

    with locked(folder / "ecg.csv"), pytest.raises(TargetExists, match="being written"):
        ecgprep.write_index("export", "ecg.csv")


def test_a_full_disk_leaves_no_table_and_keeps_what_was_read(folder, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ecgprep.files.atomic.os, "fsync", full)
        with pytest.raises(NoSpace, match="is full"):
            ecgprep.write_index("export", "ecg.csv")
    assert sorted(path.name for path in folder.iterdir()) == ["ecg.csv.known", "export"]
    assert ecgprep.write_index("export", "ecg.csv")["read_now"] == 0


def test_a_disk_that_is_full_while_reading_is_named(folder, monkeypatch):
    """SQLite is told that its file may not grow, which is what it says of a full disk."""
    prepared = ecgprep.indexing.known._prepared

    def small(connection):
        connection = prepared(connection)
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    for i in range(200):
        (folder / f"export/{'long' * 30}{i}.xml").write_bytes(b"")
    monkeypatch.setattr(ecgprep.indexing.known, "_prepared", small)
    with pytest.raises(NoSpace, match="is full"):
        ecgprep.write_index("export", "ecg.csv")
    assert not (folder / "ecg.csv").exists()
    monkeypatch.undo()
    assert ecgprep.write_index(str(folder / "export"), folder / "ecg.csv")["files"] > 200


# --- The command -----------------------------------------------------------------------------


def test_the_command_says_what_it_found_and_how_to_go_on(folder):
    done = command("index", "export", "-o", "ecg.csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"ecg.csv: {N_FILES} files, {N_FILES} of them read now (private")
    assert f"status: ok {N_FILES - 2}, not_xml 2" in done.stdout
    assert "not in the table: files that do not match --glob 2" in done.stdout
    assert done.stdout.endswith(
        "\nnext: add a column `label`, leave out the rows without a patient id (2), save as "
        "cohort.csv (or let `ecgprep cohort` make it), then run\n"
        "  ecgprep build cohort.csv cohort.zarr "
        "--covariates age_years,sex,heart_rate_bpm,qrs_ms,qtc_ms\n"
    )
    counts = done.stdout.split("next:")[0]
    assert not re.search(r"(_bpm|_ms|_deg|sex)$", counts, re.MULTILINE)  # the count follows


def test_the_next_command_is_one_that_works(folder):
    """The table elsewhere, a name with a blank, a linked file, and covariates that few have."""
    import pandas as pd

    (folder / "my tables").mkdir()
    (folder / "stock").mkdir()
    shutil.move("export/a.xml", "stock/a.xml")
    (folder / "export/a.xml").symlink_to("../stock/a.xml")
    for i in range(20):  # files without measurements
        path = folder / f"export/{i}.xml"
        path.write_bytes(
            ecg(100 + i).replace(b"QRSDuration", b"Other").replace(b"VentricularRate", b"O")
        )
    done = command("index", "export", "-o", "my tables/ecg.csv", "--root", ".", "--follow-symlinks")
    frame = pd.read_csv("my tables/ecg.csv", dtype={"patient_id": str})
    frame = frame[frame["patient_id"].notna()]
    frame["patient_id"] = [f"P{i}" for i in range(len(frame))]
    frame["label"] = [i % 2 for i in range(len(frame))]
    frame.to_csv("my tables/cohort.csv", index=False)
    program, *arguments = shlex.split(done.stdout.splitlines()[-1])
    assert program == "ecgprep"
    assert "qrs_ms" not in " ".join(arguments)
    built = command(*arguments)
    assert built.returncode == 0, built.stderr
    assert f"status: ok {len(frame)}\n" in built.stdout


def test_a_table_named_cohort_is_not_what_the_next_step_overwrites(folder):
    done = command("index", "export/a.xml", "-o", "cohort.csv")
    assert "cohort.csv: 1 file, 1 of them read now" in done.stdout
    assert "save as cohort-labelled.csv (or let `ecgprep cohort` make it), then" in done.stdout


def test_the_command_gives_json(folder):
    (folder / "t").mkdir()
    done = command("index", "export", "-o", "t/ecg.csv", "--json", "--jobs", "1")
    found = json.loads(done.stdout)
    assert (found["table"], found["files"], found["root"]) == (
        "t/ecg.csv",
        N_FILES,
        f"{folder}/export",
    )
    assert found["status"] == {"ok": N_FILES - 2, "not_xml": 2}
    assert found["filled"].keys() >= {"patient_id", "qtc_ms"}
    assert set(found["dialects"]) == set(VENDORS)


def test_months_are_those_of_the_first_and_the_last_recording(folder, monkeypatch):
    days = iter(["2019-03-04T08:15:00", "", "2024-11-30", "2020-01-01T00:00:00+01:00"])
    monkeypatch.setitem(
        ecgprep.readers.DIALECTS,
        "RestingECG",
        Dialect("muse", muse.read, lambda root: Header(acquired_at=next(days))),
    )
    for i in range(4):
        shutil.copy(folder / "export/a.xml", folder / f"export/a/{i}.xml")
    summary = ecgprep.write_index([f"export/a/{i}.xml" for i in range(4)], "ecg.csv")
    assert summary["months"] == ("2019-03", "2024-11")
    assert summary["filled"]["acquired_at"] == 3


def test_the_command_fails_when_no_file_can_be_used_and_still_writes_the_table(folder):
    done = command("index", "export/text.xml", "export/cut.xml", "-o", "ecg.csv")
    assert done.returncode == 3
    assert "None of the 2 files can be used" in done.stderr
    assert column(folder / "ecg.csv", "status") == ["not_xml", "not_xml"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_said_at_the_end(folder):
    check_unreadable(folder, lambda path: path.chmod(0))


def test_a_folder_that_vanishes_is_said_at_the_end(folder, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("/b"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    check_unreadable(folder, lambda _: monkeypatch.setattr(os, "scandir", refusing))


def check_unreadable(folder, make_unreadable):
    make_unreadable(folder / "export/a/b")
    done = command("index", "export", "-o", "ecg.csv")
    assert done.returncode == 3
    assert "1 of the folders cannot be read, so the table lacks their files." in done.stderr
    assert "/b" not in done.stderr
    assert len(rows(folder / "ecg.csv")) == 4


def test_an_output_must_be_named(folder):
    done = command("index", "export")
    assert done.returncode == 2
    assert "--output" in done.stderr


def test_a_build_and_an_index_ask_the_same_of_a_recording():
    assert Conformity() == TARGET
    assert ecgprep.build.__kwdefaults__["min_seconds"] == TARGET.min_seconds
    assert ecgprep.build.__kwdefaults__["min_leads"] == TARGET.min_leads


@pytest.mark.full
def test_memory_is_flat(folder):
    """The files of 40 folders, each of 1,000: 40,000 lines take no more than a tenth of them."""
    script = (
        "import resource, sys, ecgprep, ecgprep.indexing.run as run\n"
        "fields = run.died()\n"
        "run.read_batch = lambda batch: [fields] * len(batch.paths)\n"
        "ecgprep.write_index(sys.argv[1], sys.argv[1] + '.csv')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks_kb = []
    for n_folders in (4, 40):
        export = folder / f"of {n_folders}"
        for i in range(n_folders):
            (export / str(i)).mkdir(parents=True)
            for j in range(1000):
                (export / str(i) / f"{j}.xml").touch()
        done = subprocess.run(
            [sys.executable, "-c", script, export], capture_output=True, check=True
        )
        peaks_kb.append(int(done.stdout))
    assert peaks_kb[1] - peaks_kb[0] < 4000
