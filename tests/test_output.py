"""Outputs that a user names: only our own files are replaced, and bad places are refused early."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ecgfit import run_files
from ecgprep.cli import cli
from ecgprep.errors import InputError, TargetExists
from ecgprep.files.output import (
    check_folder,
    check_output,
    refuse_inside_store,
    write_output,
)

OURS = b"made by us"


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 70_000 + OURS, OURS + b"x" * 200_000, b"x" * 200_000 + OURS],
    ids=["empty", "whole", "at the beginning", "at the end"],
)
def test_empty_files_and_our_own_are_replaced(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert check_output(tmp_path / "a", [OURS]) == tmp_path / "a"


@pytest.mark.parametrize(
    "content",
    [b"\n", b"x" * 100_000 + OURS + b"x" * 100_000, OURS[:-1]],
    ids=["a line", "a mark in the middle", "half a mark"],
)
def test_other_files_are_replaced_only_with_overwrite(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(TargetExists, match="--overwrite"):
        check_output(tmp_path / "a", [b"other", OURS])
    assert check_output(tmp_path / "a", [OURS], overwrite=True) == tmp_path / "a"


@pytest.mark.parametrize("name", ["in", "./in", "../{folder}/in", "link", "hard"])
def test_an_input_is_never_replaced_however_it_is_named(tmp_path, monkeypatch, name):
    (tmp_path / "in").write_bytes(OURS)
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "hard").hardlink_to(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    path = Path(name.format(folder=tmp_path.name))
    with pytest.raises(InputError, match="one of the inputs"):
        check_output(path, [OURS], [tmp_path / "in"], overwrite=True)


def test_links_are_followed_and_stay(tmp_path):
    (tmp_path / "link").symlink_to("target")
    target = check_output(tmp_path / "link", [OURS])
    write_output(target, OURS)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == OURS


def test_a_pipe_is_written_into(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    write_output(check_output(tmp_path / "pipe", [OURS]), b"x" * 100_000)
    assert reader.communicate(timeout=20)[0] == b"x" * 100_000
    assert (tmp_path / "pipe").is_fifo()
    assert check_output(Path("/dev/null"), [OURS]) == Path("/dev/null")


WRITE_TO_STDOUT = """
from pathlib import Path
from ecgprep.files.output import check_output, write_output
write_output(check_output(Path("/dev/stdout"), []), b"again\\n")
"""


@pytest.mark.parametrize(("how", "before"), [("w", ""), ("a", "before\n")])
def test_a_redirected_standard_output_keeps_what_was_written_before(tmp_path, how, before):
    (tmp_path / "all").write_text(before)
    with (tmp_path / "all").open(how) as redirected:
        for _ in range(2):
            subprocess.run([sys.executable, "-c", WRITE_TO_STDOUT], stdout=redirected, check=True)
    assert (tmp_path / "all").read_text() == before + "again\n" * 2
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is a folder"),
        ("absent/a", "folder does not exist"),
        ("loop", "link to itself"),
        ("-", "must be a file"),
    ],
)
def test_places_that_cannot_be_written_to(tmp_path, name, message):
    (tmp_path / "loop").symlink_to("loop")
    path = Path("-") if name == "-" else tmp_path / name
    with pytest.raises(InputError, match=message):
        check_output(path, [OURS])


def test_folders_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InputError, match="not a folder that can be written to"):
        check_folder(tmp_path / "file" / "below")
    check_folder(tmp_path / "new/below")
    (tmp_path / "loop").symlink_to("loop")
    refuse_inside_store(tmp_path / "loop/deeper")  # whoever writes there reports the loop


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused_early(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written to"):
            check_output(tmp_path / "a", [OURS])
        with pytest.raises(InputError, match="can be written to"):
            check_folder(tmp_path / "a")
    finally:
        tmp_path.chmod(0o700)


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A folder with the marks of a run."""
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/pictures").mkdir()
    (tmp_path / "run/config.yaml").write_text("lr: 1\nrecorded:\n  store: x\n")
    return tmp_path / "run"


NAMES_OF_A_RUN = [
    run_files.CONFIG,
    run_files.NORM_STATS,
    run_files.CALIBRATION,
    run_files.THRESHOLD,
    run_files.CURVES,
    run_files.EVENTS,
    run_files.BEST,
    run_files.LAST,
    f"{run_files.MEMBERS}/0/{run_files.CONFIG}",
    *run_files.EXPLANATIONS,
    "config.html",
    "metrics_test.json",
    "metrics_val_none.json",
    "metrics_external_0123456789ab.json",
    "predictions_test.csv",
    "predictions_oof.csv",
    "predictions_external_0123456789ab.csv",
    "checkpoints/mine.html",
    "members/mine/deeper.html",
    "explain/mine.html",
]
"""What a run writes, and what could be taken for it."""


@pytest.mark.parametrize("name", NAMES_OF_A_RUN)
def test_names_of_a_run_s_own_files_are_refused_in_its_folder(run_folder, name):
    (run_folder / name).parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError, match="reserved for a run's own files"):
        check_output(run_folder / name, [OURS], overwrite=True)


def test_every_file_that_training_and_evaluation_write_is_refused(trained_run):
    """All but its report, which `ecgfit report` writes through the same check."""
    written = [path for path in trained_run.path.rglob("*") if path.is_file()]
    assert len(written) >= 10
    for path in written:
        with pytest.raises(InputError, match="reserved for a run's own files"):
            check_output(path, [b"."], overwrite=True)


@pytest.mark.parametrize("name", ["metrics_test.json", "checkpoints/a.html", "explain/a.html"])
def test_the_report_of_a_store_takes_no_name_of_a_run_s_own_files(tiny_store, run_folder, name):
    (run_folder / name).parent.mkdir(exist_ok=True)
    before = sorted(run_folder.rglob("*"))
    done = invoke("report", tiny_store.path, "--ecgs", "0", "--overwrite", "-o", run_folder / name)
    assert isinstance(done.exception, InputError)
    assert "reserved for a run's own files" in str(done.exception)
    assert sorted(run_folder.rglob("*")) == before


def test_a_picture_takes_no_name_of_a_run_s_own_files(corpus, run_folder):
    before = sorted(run_folder.rglob("*"))
    for name in ("curves.png", "config.svg", "checkpoints/a.png"):
        done = invoke("read", next(corpus.rglob("*.xml")), "--plot", run_folder / name)
        assert isinstance(done.exception, InputError), name
        assert "reserved for a run's own files" in str(done.exception)
    assert sorted(run_folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["a.html", "pictures/metrics_new.json", "../metrics_new.json"])
def test_other_names_are_free_in_the_folder_of_a_run(run_folder, name):
    path = run_folder / name
    assert check_output(path, [OURS]) == path.resolve()


def test_a_file_in_the_folder_of_a_run_is_replaced_only_if_it_is_ours(run_folder):
    (run_folder / "ours").write_bytes(OURS)
    check_output(run_folder / "ours", [OURS])
    (run_folder / "notes.txt").write_bytes(b"mine")
    with pytest.raises(TargetExists, match="--overwrite replaces nothing"):
        check_output(run_folder / "notes.txt", [OURS], overwrite=True)


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_a_picture_replaces_only_its_own_kind(corpus, tmp_path, kind):
    ecg, picture = next(corpus.rglob("*.xml")), tmp_path / f"p.{kind}"
    for _ in range(2):
        assert invoke("read", ecg, "--plot", picture).exit_code == 0
    picture.write_bytes(b"a picture of mine")
    assert isinstance(invoke("read", ecg, "--plot", picture).exception, TargetExists)
    assert picture.read_bytes() == b"a picture of mine"


def test_a_picture_replaces_another_file_with_overwrite(corpus, tmp_path):
    ecg, picture = next(corpus.rglob("*.xml")), tmp_path / "p.png"
    picture.write_bytes(b"a picture of mine")
    assert invoke("read", ecg, "--plot", picture, "--overwrite").exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_report_of_a_store_does_not_replace_the_manifest(tiny_store, tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("patient_id,path_xml,label\n")
    report = ("report", tiny_store.path, "--ecgs", "0", "-o")
    assert isinstance(invoke(*report, manifest).exception, TargetExists)
    assert manifest.read_text() == "patient_id,path_xml,label\n"
    for _ in range(2):
        assert invoke(*report, tmp_path / "r.html").exit_code == 0


def test_nothing_is_made_inside_a_store(tiny_store, corpus, tmp_path):
    """The content hash covers every file: a store built into another one would damage it."""
    store = tiny_store.path
    inside, before = store / "inner.zarr", sorted(store.rglob("*"))
    manifest, ecg = corpus / "manifest.csv", next(corpus.rglob("*.xml"))
    new, registry = tmp_path / "b.zarr", tmp_path / "r.csv"
    for words in (
        ["build", manifest, inside],
        ["build", manifest, inside / "deeper/b.zarr", "--registry", registry],
        ["build", manifest, new, "--registry", store / "r.csv"],
        ["plan", manifest, inside],
        ["synth", inside, "--patients", "3"],
        ["synth", store, "--patients", "3"],
        ["pack", store, inside],
        ["report", store, "-o", store / "r.html"],
        ["read", ecg, "--plot", store / "p.png"],
    ):
        found = invoke(*words)
        assert isinstance(found.exception, TargetExists), (words, found.output)
        assert "inside a store" in str(found.exception)
    assert sorted(store.rglob("*")) == before
    assert not new.exists()
