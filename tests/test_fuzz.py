"""Fuzz each dialect's reader for two minutes, where atheris is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from vendor_files import WRITERS

FUZZER = Path(__file__).parent / "fuzz" / "fuzz_readers.py"
SECONDS = 120


@pytest.mark.full
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed: nothing fuzzed"
)
@pytest.mark.parametrize("dialect", WRITERS)
def test_two_minutes_of_fuzzing_crash_no_reader(dialect, tmp_path):
    done = subprocess.run(
        [sys.executable, FUZZER, dialect, str(SECONDS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(tmp_path.glob("crash-*"))
