"""Vendor ECG XML in, `Recording` out. A new dialect is one new file and one line in READERS.

Every reader is a function `read(root) -> Recording`, chosen by the local name of the root element, never by the file's
extension. No reader guesses a unit, a lead or a rate: it raises RecordError with a named reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ecgprep.errors import RecordError
from ecgprep.readers import aecg, cardiosoft, muse
from ecgprep.recording import Recording
from ecgprep.xmldoor import Element, local_name, parse_xml, read_regular

READERS: dict[str, Callable[[Element], Recording]] = {
    "RestingECG": muse.read,
    "AnnotatedECG": aecg.read,
    "CardiologyXML": cardiosoft.read,
}
"""Root element (local name) -> reader."""


def read_bytes(data: bytes) -> Recording:
    """Read one vendor file that is already in memory. Raises RecordError with a named reason."""
    root = parse_xml(data)
    reader = READERS.get(local_name(root))
    if reader is None:
        raise RecordError("unknown_format", f"the root element is none of {', '.join(READERS)}")
    return reader(root)


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """Read one vendor ECG XML file.

    Returns the rhythm recording in µV at the file's own rate. Raises RecordError, whose `reason` is one of STATUSES and whose
    message holds no identifying value, when the file is missing, not regular, not XML, of an unknown format or refused.
    """
    return read_bytes(read_regular(Path(path)))
