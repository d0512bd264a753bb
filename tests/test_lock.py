"""Locks: one writer at a time, and no lock file is left behind."""

from __future__ import annotations

import errno
import fcntl
import threading
from pathlib import Path

import pytest

from ecgprep.errors import TargetExists
from ecgprep.files.lock import locked


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "s.zarr"


def test_a_second_writer_is_refused_and_no_lock_file_is_left(target):
    refused = pytest.raises(TargetExists, match=r"s\.zarr is being built by another process")
    with locked(target), refused, locked(target, wait=False):
        pass
    assert list(target.parent.iterdir()) == []
    with locked(target, wait=False):
        pass


def test_the_message_begins_with_what_is_busy(target):
    refused = pytest.raises(TargetExists, match="^the run is being trained by another process")
    with locked(target), refused, locked(target, wait=False, busy="the run is being trained"):
        pass


def test_the_last_of_those_who_share_a_lock_deletes_its_file(target):
    with locked(target, shared=True):
        with locked(target, wait=False, shared=True):
            pass
        assert [path.name for path in target.parent.iterdir()] == [".s.zarr.lock"]
        with pytest.raises(TargetExists), locked(target, wait=False):
            pass
    assert list(target.parent.iterdir()) == []


def test_a_writer_that_waited_holds_the_lock_that_later_ones_see(target):
    """The first holder deletes the file that the second one has opened and waits for."""
    waiting, holds, done = threading.Event(), threading.Event(), threading.Event()

    def wait_for_lock() -> None:
        waiting.set()
        with locked(target):
            holds.set()
            done.wait(20)

    thread = threading.Thread(target=wait_for_lock)
    with locked(target):
        thread.start()
        assert waiting.wait(20)
        assert not holds.is_set()
    assert holds.wait(20)
    with pytest.raises(TargetExists), locked(target, wait=False):
        pass
    done.set()
    thread.join(20)
    assert list(target.parent.iterdir()) == []


def test_a_lock_whose_file_was_deleted_meanwhile_is_taken_again(target, monkeypatch):
    lock_file = target.with_name(".s.zarr.lock")
    calls = []

    def flock(file, operation):
        calls.append(operation)
        if len(calls) == 1:
            lock_file.unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(target):
        assert len(calls) == 2
        assert lock_file.exists()


def test_where_the_file_system_cannot_lock_a_warning_is_issued(target, monkeypatch):
    def unsupported(file, operation):
        raise OSError(errno.ENOSYS, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    warned = pytest.warns(UserWarning, match=r"Do not start two programs that write s\.zarr")
    with warned, locked(target):
        assert target.with_name(".s.zarr.lock").exists()
    assert list(target.parent.iterdir()) == []
