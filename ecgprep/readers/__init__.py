"""Vendor ECG XML in, `Recording` out. A new dialect is one new file and one line in READERS.

Every reader is a function `read(root) -> Recording`. The local name of the root element chooses it,
never the file's extension. A reader never guesses a unit, a lead or a rate: it raises RecordError
with a named reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ecgprep.errors import RecordError
from ecgprep.readers import aecg, cardiosoft, muse, philips, sapphire, schiller
from ecgprep.readers.xml import Element, local_name, parse_xml, read_regular
from ecgprep.recording import Recording

READERS: dict[str, Callable[[Element], Recording]] = {
    "RestingECG": muse.read,
    "AnnotatedECG": aecg.read,
    "CardiologyXML": cardiosoft.read,
    "restingecgdata": philips.read,
    "sapphire": sapphire.read,
    "com.xiriuz.sema.xml.schillerEDI.SchillerEDI": schiller.read,
}
"""Root element (local name) -> reader."""

NOT_SUPPORTED = {
    "ECG": "Mortara / Welch Allyn ELI Link",
    "EliEcg": "Mortara ELI 380",
    "zqecg": "Zoncare",
}
"""Formats known by name but not read: no public file shows what their numbers mean."""


def read_bytes(data: bytes) -> Recording:
    """Read one vendor file that is already in memory. Raises RecordError with a named reason."""
    root = parse_xml(data)
    name = local_name(root)
    if name in NOT_SUPPORTED:
        raise RecordError(
            "unknown_format",
            f"{NOT_SUPPORTED[name]} (root element {name}) is not supported: "
            "its units have never been verified",
        )
    if name not in READERS:
        supported = ", ".join(READERS)
        raise RecordError("unknown_format", f"the root element is none of {supported}")
    # An absurd gain makes infinities, which `conform` masks.
    with np.errstate(over="ignore", invalid="ignore"):
        return READERS[name](root)


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """Read the rhythm recording of one vendor ECG XML file, in µV at the file's own rate.

    Raises RecordError when the file is missing, not regular, not XML, of an unknown format or
    refused. Its `reason` is one of STATUSES; its message holds no identifying value.
    """
    return read_bytes(read_regular(Path(path)))
