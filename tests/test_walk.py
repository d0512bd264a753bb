"""Finding files: links, names, folders that lie in each other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ecgprep.errors import InputError
from ecgprep.indexing.walk import LeftOut, Walk, locate


@pytest.fixture
def root(tmp_path) -> Path:
    """Two exports, `x` with a file and a subfolder, `y` beside it, and a folder outside."""
    for name in ("root/x/1.xml", "root/x/sub/2.xml", "root/y/3.xml", "outside/4.xml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "root"


def found(root: Path, *exports: str, follow: bool = True) -> tuple[list[str], LeftOut]:
    places = locate([root / name for name in exports], root, None)
    walk = Walk(places, "*.xml", follow)
    paths = sorted(file.path for file in walk)
    assert len(paths) == len(set(paths))
    return paths, walk.left_out


def test_links_are_counted_and_not_followed(root):
    (root / "x" / "link").symlink_to(root / "y")
    (root / "x" / "link.xml").symlink_to(root / "y" / "3.xml")
    paths, left_out = found(root, "x", follow=False)
    assert (paths, left_out.links) == (["x/1.xml", "x/sub/2.xml"], 2)


def test_a_link_to_a_folder_inside_the_root_is_followed(root):
    (root / "x" / "link").symlink_to(root / "y")
    (root / "x" / "a.xml").symlink_to(root / "y" / "3.xml")
    paths, left_out = found(root, "x")
    assert (paths, left_out.links) == (["x/1.xml", "x/link/3.xml", "x/sub/2.xml"], 1)


def test_a_link_to_a_file_inside_the_root_is_followed_once(root):
    (root / "y" / "blob").touch()
    (root / "x" / "a.xml").symlink_to(root / "y" / "3.xml")
    (root / "x" / "b.xml").symlink_to("a.xml")
    (root / "x" / "c.XML").symlink_to(root / "y" / "blob")
    (root / "x" / "d.txt").symlink_to(root / "y" / "blob")
    paths, left_out = found(root, "x")
    assert (paths, left_out.links) == (["x/1.xml", "x/a.xml", "x/c.XML", "x/sub/2.xml"], 2)
    paths, left_out = found(root, "x", "y")
    assert (paths, left_out.links) == (["x/1.xml", "x/c.XML", "x/sub/2.xml", "y/3.xml"], 3)


@pytest.mark.parametrize("target", ["../outside/4.xml", "nowhere", "x/link.xml", "x/1.xml"])
def test_a_link_to_a_file_elsewhere_or_to_one_that_is_found_is_counted(root, target):
    (root / "x" / "link.xml").symlink_to(root / target)
    paths, left_out = found(root, "x")
    assert (paths, left_out.links) == (["x/1.xml", "x/sub/2.xml"], 1)


@pytest.mark.parametrize("target", ["../outside", "nowhere", "x", ".", "x/sub", "x/link"])
def test_a_link_elsewhere_or_to_what_is_walked_anyway_is_not_followed(root, target):
    (root / "x" / "link").symlink_to(root / target)
    paths, left_out = found(root, "x", "y")
    expected = ["x/1.xml", "x/sub/2.xml", "y/3.xml"]
    assert (paths, left_out.links) == (expected, 0 if target == "." else 1)


def test_links_in_a_circle_end(root):
    (root / "x" / "to y").symlink_to(root / "y")
    (root / "y" / "to x").symlink_to(root / "x")
    (root / "y" / "to y").symlink_to(root / "y")
    (root / "y" / "to root").symlink_to(root)
    paths, _ = found(root, "x")
    assert paths == ["x/1.xml", "x/sub/2.xml", "x/to y/3.xml"]


def test_two_links_to_folders_in_each_other_give_each_file_once(root):
    (root / "y" / "deep").mkdir()
    (root / "y" / "deep" / "5.xml").touch()
    (root / "x" / "a").symlink_to(root / "y" / "deep")
    (root / "x" / "b").symlink_to(root / "y")
    paths, _ = found(root, "x")
    assert paths == ["x/1.xml", "x/a/5.xml", "x/b/3.xml", "x/sub/2.xml"]


def test_an_export_that_is_a_link_is_where_it_leads(root):
    (root / "link").symlink_to(root / "y")
    assert found(root, "link")[0] == ["y/3.xml"]


@pytest.mark.parametrize("name", [b"\xff.xml", b"a\nb.xml", b" a.xml", b"a\x7f.XML"])
def test_a_name_that_no_manifest_can_hold_is_counted(root, name):
    (Path(os.fsdecode(os.fsencode(root) + b"/" + name))).touch()
    paths, left_out = found(root, ".")
    assert (len(paths), left_out.names) == (3, 1)


def test_a_pipe_is_found_and_never_opened(root):
    os.mkfifo(root / "x" / "pipe.xml")
    assert "x/pipe.xml" in found(root, "x")[0]


def test_other_endings_are_named_only_if_they_are_known(root):
    for name in ("a.pdf", "b.PDF", "c.Mueller", "Mueller", "._1.xml"):
        (root / "x" / name).touch()
    _, left_out = found(root, "x")
    assert left_out.endings == {".pdf": 2, "other": 2, ".xml": 1}


def test_no_message_names_a_folder(root, tmp_path):
    with pytest.raises(InputError) as caught:
        locate([tmp_path / "outside", root / "absent"], root, None)
    assert "absent" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        locate([tmp_path / "outside"], root, None)
    assert "/" not in str(caught.value)
