"""Paths of another system are read, and many missing files give one message that helps."""

from __future__ import annotations

import pytest
from helpers import command, write_manifest, write_recordings

import ecgprep
from ecgprep.errors import InputError, TooManyRejects
from ecgprep.patients.manifest import read_manifest
from ecgprep.patients.vendor_paths import MissingFiles, where


@pytest.fixture
def export(tmp_path):
    """A folder `export/Raw` with `SECRET/1.xml`."""
    folder = tmp_path / "export" / "Raw" / "SECRET"
    folder.mkdir(parents=True)
    (folder / "1.xml").write_text("<r/>")
    return tmp_path / "export"


def test_backslashes_become_slashes_unless_a_file_is_named_so(tmp_path):
    (tmp_path / "xml\\2.xml").write_text("<r/>")
    rows = [("P1", "xml\\1.xml", 0), ("P2", "xml\\2.xml", 1), ("P3", "a/3.xml", 1)]
    found = read_manifest(write_manifest(tmp_path / "m.csv", rows))
    assert found.path_xml == ["xml/1.xml", "xml\\2.xml", "a/3.xml"]
    assert found.warnings == (
        "1 path with backslashes: no file has such a name, so they were read as slashes",
    )


def test_backslashes_do_not_lead_out_of_the_root(tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", [("P1", "x\\..\\..\\a.xml", 0)])
    with pytest.raises(InputError, match="leads out of the root"):
        read_manifest(manifest)


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("export/Raw", "SECRET/2.xml", "Of the 2 parts of the first missing path, 1 exist"),
        ("export", "raw/SECRET/1.xml", "none exist there. The next part is there in another case"),
        ("export/Raw", "SECRET/1.XML", "1 exist there. The next part is there in another case"),
        ("export", "SECRET/1.xml", "in one of the folders there: name that one with --root"),
        ("export/Raw", "export/Raw/SECRET/1.xml", "from a parent folder on: use --root {tmp}."),
        ("export", "C:/export/SECRET/1.xml", "begin with a drive of Windows"),
        ("absent", "SECRET/1.xml", "The root folder {tmp}/absent does not exist"),
        ("export", "file:/export/SECRET/1.xml", "They are URLs: write plain paths"),
        ("export/Raw", "SECRE%54/1.xml", "They exist once %20 and the like are decoded"),
        ("export", "b/1.xml", "Name the folder that they are relative to with --root"),
    ],
)
def test_a_missing_file_says_what_would_help_and_not_its_path(export, root, path, expected):
    message = where(export.parent / root, path)
    assert expected.format(tmp=export.parent) in message
    assert "SECRET" not in message


@pytest.mark.parametrize(
    ("n_there", "n", "is_said"),
    [(0, 8, True), (3, 8, True), (4, 8, False), (45, 50, True), (46, 51, False), (8, 8, False)],
)
def test_only_many_missing_files_are_spoken_of(tmp_path, n_there, n, is_said):
    for i in range(n_there):
        (tmp_path / f"{i}.xml").touch()
    found = MissingFiles.among(tmp_path, [f"{i}.xml" for i in range(n)])
    assert (found and found[:2]) == ((n - n_there, n) if is_said else None)


def test_a_build_without_any_file_ends_before_it_reads(tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", [(f"P{i}", f"a/{i}.xml", 0) for i in range(9)])
    ended = command("build", manifest, tmp_path / "s.zarr")
    assert ended.returncode == 3
    assert "9 files of the manifest were looked for, and all of them are missing" in ended.stderr
    assert "--root" in ended.stderr
    assert not list(tmp_path.glob("*zarr*"))


@pytest.mark.parametrize(("n_there", "n_missing"), [(3, 6), (12, 5)])
def test_many_files_missing_is_said_before_and_after(tmp_path, caplog, n_there, n_missing):
    manifest = write_recordings(tmp_path / "c", n_there)
    with manifest.open("a") as file:
        file.writelines(f"Q{i},no/{i}.xml,0,50,1\n" for i in range(n_missing))
    expected = rf"file_missing {n_missing}.*Of the 2 parts of the first"
    with pytest.raises(TooManyRejects, match=expected):
        ecgprep.build(manifest, tmp_path / "s.zarr", hz=100, length=1000)
    assert f"were looked for, and {n_missing} of them are missing" in caplog.text


def test_symlinks_inside_the_root_are_followed_if_asked(tmp_path):
    manifest = write_recordings(tmp_path / "c", 12)
    xml = tmp_path / "c" / "xml"
    (tmp_path / "c" / "store").mkdir()
    for path in sorted(xml.iterdir()):
        target = path.rename(tmp_path / "c" / "store" / path.name)
        path.symlink_to(target)
    options = {"hz": 100, "length": 1000, "duplicates": "exact", "allow_missing_class": True}
    with pytest.raises(TooManyRejects, match="not_regular 12"):
        ecgprep.build(manifest, tmp_path / "s.zarr", **options)
    rejects = (tmp_path / "s.zarr.rejects.csv").read_text()
    assert "follows it within the root folder with --follow-symlinks" in rejects
    built = ecgprep.build(manifest, tmp_path / "s.zarr", follow_symlinks=True, **options)
    assert built.attributes["settings"]["follow_symlinks"] is True
    assert len(built) == 12
    again = ecgprep.build(manifest, tmp_path / "s.zarr", follow_symlinks=True, **options)
    assert again.content_sha256 == built.content_sha256
    (tmp_path / "c" / "store" / "0.xml").touch()  # the target counts, not the link
    with pytest.raises(ecgprep.TargetExists, match="1 source file has changed"):
        ecgprep.build(manifest, tmp_path / "s.zarr", follow_symlinks=True, **options)


def test_a_symlink_out_of_the_root_is_never_followed(tmp_path):
    manifest = write_recordings(tmp_path / "c", 12)
    path = tmp_path / "c" / "xml" / "0.xml"
    path.symlink_to(path.rename(tmp_path / "outside.xml"))
    store = ecgprep.build(
        manifest,
        tmp_path / "s.zarr",
        follow_symlinks=True,
        hz=100,
        length=1000,
        max_rejected=0.1,
        allow_missing_class=True,
    )
    assert store.path.exists()
    rejects = (tmp_path / "s.zarr.rejects.csv").read_text()
    assert "not_regular,a symlink leads out of the root folder" in rejects
