"""Outputs that a user names: nothing that is not ours is replaced, and what cannot be written to is told before the work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ecgprep.cli import cli
from ecgprep.errors import InputError, TargetExists
from ecgprep.files.output import check_folder, check_output, refuse_inside_store, write_output

OURS = b"made by us"


def test_what_is_ours_or_empty_is_replaced_and_nothing_else(tmp_path):
    for content in (b"", b"x" * 70_000 + OURS, OURS + b"x" * 200_000, b"x" * 200_000 + OURS):
        (tmp_path / "a").write_bytes(content)
        assert check_output(tmp_path / "a", [OURS]) == tmp_path / "a"
    for content in (b"\n", b"x" * 100_000 + OURS + b"x" * 100_000, OURS[:-1]):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(TargetExists, match="--overwrite"):
            check_output(tmp_path / "a", [b"other", OURS])
        assert check_output(tmp_path / "a", [OURS], overwrite=True) == tmp_path / "a"


def test_an_input_is_never_replaced_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "in").write_bytes(OURS)
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "hard").hardlink_to(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    for name in ("in", "./in", "../" + tmp_path.name + "/in", "link", "hard"):
        with pytest.raises(InputError, match="one of the inputs"):
            check_output(Path(name), [OURS], [tmp_path / "in"], overwrite=True)


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


def test_a_redirected_standard_output_keeps_what_was_written_before(tmp_path):
    code = "from pathlib import Path; from ecgprep.files.output import *; write_output(check_output(Path('/dev/stdout'), []), b'again\\n')"
    for how in (">", ">>"):
        (tmp_path / "all").write_text("before\n" if how == ">>" else "")
        subprocess.run(
            [
                "sh",
                "-c",
                f'{{ {sys.executable} -c "{code}"; {sys.executable} -c "{code}"; }} {how} {tmp_path / "all"}',
            ],
            check=True,
        )
        assert (tmp_path / "all").read_text() == ("before\n" if how == ">>" else "") + "again\n" * 2
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


def test_places_that_cannot_be_written_to(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "absent/a", "folder does not exist"),
        (tmp_path / "loop", "link to itself"),
        (Path("-"), "must be a file"),
    ):
        with pytest.raises(InputError, match=message):
            check_output(path, [OURS])
    refuse_inside_store(tmp_path / "loop/deeper")  # who writes there says that it is a loop
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InputError, match="not a folder that can be written to"):
        check_folder(tmp_path / "file" / "below")
    check_folder(tmp_path / "new/below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_told_before_the_work(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written to"):
            check_output(tmp_path / "a", [OURS])
        with pytest.raises(InputError, match="cannot be written to"):
            check_folder(tmp_path / "a")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_a_picture_is_drawn_again_over_its_own_kind_only(corpus, tmp_path, kind):
    file, picture = (
        next((corpus / "xml").rglob("*.xml"), None) or next(corpus.rglob("*.xml")),
        tmp_path / f"p.{kind}",
    )
    for _ in range(2):
        assert CliRunner().invoke(cli, ["read", str(file), "--plot", str(picture)]).exit_code == 0
    picture.write_bytes(b"a picture of mine")
    refused = CliRunner().invoke(cli, ["read", str(file), "--plot", str(picture)])
    assert isinstance(refused.exception, TargetExists)
    assert picture.read_bytes() == b"a picture of mine"
    assert (
        CliRunner()
        .invoke(cli, ["read", str(file), "--plot", str(picture), "--overwrite"])
        .exit_code
        == 0
    )


def test_the_report_of_a_store_does_not_replace_the_manifest(store, tmp_path):
    (tmp_path / "manifest.csv").write_text("patient_id,path_xml,label\n")
    words = [sys.executable, "-m", "ecgprep.cli", "report", store.path, "--ecgs", "0", "-o"]
    done = subprocess.run(
        [*words, tmp_path / "manifest.csv"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7
    assert "Traceback" not in done.stderr
    assert (tmp_path / "manifest.csv").read_text() == "patient_id,path_xml,label\n"
    for _ in range(2):
        assert (
            subprocess.run(
                [*words, tmp_path / "r.html"], capture_output=True, check=False
            ).returncode
            == 0
        )


def test_nothing_is_made_inside_a_store(store, tmp_path):
    """Its content hash is over every file: a store that was built into another would damage it."""
    runner, inside, before = CliRunner(), store.path / "inner.zarr", sorted(store.path.rglob("*"))
    assert (
        runner.invoke(
            cli, ["synth", str(tmp_path / "s"), "--patients", "20", "--seed", "1"]
        ).exit_code
        == 0
    )
    manifest = str(tmp_path / "s/manifest.csv")
    for words in (
        ["build", manifest, str(inside)],
        ["build", manifest, str(inside / "deeper/b.zarr"), "--registry", str(tmp_path / "r.csv")],
        ["build", manifest, str(tmp_path / "b.zarr"), "--registry", str(store.path / "r.csv")],
        ["plan", manifest, str(inside)],
        ["synth", str(inside), "--patients", "3"],
        ["synth", str(store.path), "--patients", "3"],
        ["pack", str(store.path), str(inside)],
        ["report", str(store.path), "-o", str(store.path / "r.html")],
        [
            "read",
            str(next((tmp_path / "s/xml").rglob("*.xml"))),
            "--plot",
            str(store.path / "p.png"),
        ],
    ):
        found = runner.invoke(cli, words)
        assert isinstance(found.exception, TargetExists), (words, found.output)
        assert "inside a store" in str(found.exception)
    assert sorted(store.path.rglob("*")) == before
    assert not (tmp_path / "b.zarr").exists()
