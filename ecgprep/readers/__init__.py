"""Vendor ECG XML in, `Recording` and `Header` out. A new dialect is a new file and one line here.

Every dialect has two functions: `read(root) -> Recording` for the rhythm, and `read_header(root) ->
Header` for the patient, the time and the cart's measurements. The local name of the root element
chooses the dialect, never the file's extension. `read` never guesses a unit, a lead or a rate: it
raises RecordError with a named reason. `read_header` never raises: what it cannot use, it leaves
out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecgprep.errors import RecordError, describe
from ecgprep.header import Header
from ecgprep.readers import aecg, cardiosoft, mortara, muse, philips, sapphire, schiller
from ecgprep.readers.xml import Element, local_name, parse_document, read_regular
from ecgprep.recording import Recording


class Dialect(NamedTuple):
    """A vendor's format: its name in stores and tables, and its two readers."""

    name: str
    read: Callable[[Element], Recording]
    read_header: Callable[[Element], Header]


DIALECTS: dict[str, Dialect] = {
    "RestingECG": Dialect(muse.DIALECT, muse.read, muse.read_header),
    "AnnotatedECG": Dialect(aecg.DIALECT, aecg.read, aecg.read_header),
    "CardiologyXML": Dialect(cardiosoft.DIALECT, cardiosoft.read, cardiosoft.read_header),
    "restingecgdata": Dialect(philips.DIALECT, philips.read, philips.read_header),
    "sapphire": Dialect(sapphire.DIALECT, sapphire.read, sapphire.read_header),
    "com.xiriuz.sema.xml.schillerEDI.SchillerEDI": Dialect(
        schiller.DIALECT, schiller.read, schiller.read_header
    ),
    "ECG": Dialect(mortara.DIALECT, mortara.read, mortara.read_header),
}
"""Root element (local name) -> dialect."""

NOT_SUPPORTED = {
    "EliEcg": "Mortara ELI 380",
    "zqecg": "Zoncare",
    "HativECG": "VUNO HATIV",
    "ClinicalDocument": "HL7 CDA, in which Nihon Kohden wraps MFER",
}
"""Formats known by name but not read: no public file shows what their numbers mean."""

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,40}", re.ASCII)


@dataclass(frozen=True, eq=False)
class VendorFile:
    """A parsed vendor file, from which the rhythm and the header are read.

    `notes` says what had to be repaired before it could be parsed.
    """

    root: Element
    dialect: Dialect
    notes: tuple[str, ...] = ()

    def recording(self) -> Recording:
        """Read the rhythm. Raises RecordError with a named reason."""
        # An absurd gain makes infinities, which `conform` masks.
        with np.errstate(over="ignore", invalid="ignore"):
            recording = self.dialect.read(self.root)
        if not self.notes:
            return recording
        return replace(recording, notes=(*self.notes, *recording.notes))

    def header(self) -> Header:
        """Read who, when and what the cart measured. It identifies a patient."""
        return self.dialect.read_header(self.root)


def parse_file(data: bytes) -> VendorFile:
    """Parse one vendor file that is already in memory.

    Raises RecordError `not_xml` or `unknown_format`.
    """
    root, notes = parse_document(data)
    name = local_name(root)
    if name in NOT_SUPPORTED:
        raise RecordError(
            "unknown_format",
            f"{NOT_SUPPORTED[name]} (root element {name}) is not supported: "
            "its units have never been verified",
        )
    if name not in DIALECTS:
        supported = ", ".join(DIALECTS)
        found = name if _PLAIN_NAME.fullmatch(name) else describe(name)
        raise RecordError(
            "unknown_format", f"the root element is none of {supported}; found {found}"
        )
    return VendorFile(root, DIALECTS[name], notes)


def open_file(
    path: str | os.PathLike[str], root: Path | None = None, follow_symlinks: bool = False
) -> VendorFile:
    """Read and parse one vendor file. With `root`, its folder must lie inside that one.

    With `follow_symlinks` as well, a symlink to a file inside the root is read.

    Raises RecordError when the file is missing, not regular, not XML or of an unknown format.
    """
    return parse_file(read_regular(path, root, follow_symlinks))


def read_bytes(data: bytes) -> Recording:
    """Read one vendor file that is already in memory. Raises RecordError with a named reason."""
    return parse_file(data).recording()


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """Read the rhythm recording of one vendor ECG XML file, in µV at the file's own rate.

    Raises RecordError when the file is missing, not regular, not XML, of an unknown format or
    refused. Its `reason` is one of STATUSES; its message holds no identifying value.
    """
    return open_file(path).recording()
