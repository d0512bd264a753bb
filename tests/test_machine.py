"""`ecgprep doctor` says what matters on this machine, and nothing that names it or its user."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from types import SimpleNamespace

import pytest

from ecgprep import machine


def test_versions_are_those_that_are_installed(tmp_path):
    found = machine.examine(tmp_path)
    for name in ("numpy", "scipy", "lxml", "zarr", "pandas", "torch", "scikit-learn"):
        assert found[name] == importlib.metadata.version(name)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["libxml2"])


def test_package_that_is_missing_is_not_installed(tmp_path, monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    found = machine.examine(tmp_path)
    assert found["torch"] == "not installed"


def test_room_is_counted_in_recordings_of_80_kb(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=8_000_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    found = machine.examine(tmp_path)
    assert found["free space"] == "8.0 GB: room for 100,000 recordings of 10 s"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_limits_of_the_process_are_in_words(tmp_path):
    found = machine.examine(tmp_path)
    assert re.fullmatch(r"unlimited|[\d,]+ files", found["open files"])
    assert re.fullmatch(r"unlimited|[\d,]+ MB", found["memory limit"])
    assert 1 <= found["processors"] <= os.cpu_count()


def test_nothing_names_the_machine_its_user_or_the_folder(tmp_path, monkeypatch):
    for function in ("platform.node", "socket.gethostname", "getpass.getuser"):
        monkeypatch.setattr(function, lambda: "TOKEN")
    for variable in ("USER", "LOGNAME", "HOME", "HOSTNAME"):
        monkeypatch.setenv(variable, "TOKEN")
    folder = tmp_path / "TOKEN"
    folder.mkdir()
    assert "TOKEN" not in str(machine.examine(folder))
