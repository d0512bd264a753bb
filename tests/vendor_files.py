"""Helpers for tests about vendor files: break one thing, compare with arrays of other readers."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from ecgprep.conform import Conformity, conform
from ecgprep.errors import RecordError
from ecgprep.header import MEASUREMENTS, Header
from ecgprep.readers import parse_file, read_bytes, read_recording
from ecgprep.readers.header_fields import RANGES
from ecgprep.simulation.vendors import VENDORS, full_disclosure

WRITERS = {**VENDORS, "full_disclosure": full_disclosure}
"""Every writer of the simulation: the dialects, and CardioSoft without a strip."""


def reason_of(data: bytes) -> str:
    """Return the reason for which a file is refused; fail when it is read."""
    with pytest.raises(RecordError) as caught:
        read_bytes(data)
    return caught.value.reason


def reason_of_reading(data: bytes) -> str:
    """Read and conform a file; return `ok` or the reason for which it is refused.

    Any exception but RecordError is a fault of a reader and fails the test, and so is any at all
    from its header.
    """
    try:
        file = parse_file(data)
    except RecordError as error:
        return error.reason
    assert_plausible(file.header())
    try:
        conform(file.recording(), Conformity())
    except RecordError as error:
        return error.reason
    return "ok"


def assert_plausible(header: Header) -> None:
    """Check what holds of every header, whatever the file was."""
    assert header.sex in ("", "F", "M")
    assert header.patient_id == header.patient_id.strip()
    assert header.age_years is None or 0 <= header.age_years <= 130
    if header.acquired_at:
        assert 1900 <= datetime.fromisoformat(header.acquired_at).year <= 2100
    for name in MEASUREMENTS:
        value = getattr(header, name)
        low, high = RANGES[name]
        assert value is None or low <= value <= high


def replaced(data: bytes, old: str, new: str, count: int = 1) -> bytes:
    """Replace a pattern in a valid file, and make sure that it was there."""
    changed, n = re.subn(old.encode(), new.encode(), data, count=count, flags=re.DOTALL)
    assert n
    return changed


def assert_equals_reference(samples: Path, file: str) -> None:
    """Compare a real file with the arrays on which independent readers agree."""
    folder = samples / "data" / "xml"
    recording = read_recording(folder / file)
    with np.load(folder / "reference_uv.npz") as reference:
        keys = [key for key in reference if key.startswith(f"{file}::")]
        expected = {key.split("::")[1]: reference[key] for key in keys}
    assert set(recording.leads_uv) == set(expected)
    for lead, uv in expected.items():
        np.testing.assert_allclose(recording.leads_uv[lead], uv, rtol=0, atol=1e-3)
