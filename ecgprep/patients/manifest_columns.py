"""Under which names a manifest has its three columns, and which names others use for them."""

from __future__ import annotations

from typing import NamedTuple

from ecgprep.errors import InputError
from ecgprep.files.csv_header import Naming
from ecgprep.patients.identifiers import clean_id

_LIKELY = (
    frozenset({"patient", "patientnr", "patientno", "pid", "id", "mrn"}),
    frozenset({"path", "file", "filename", "filepath", "xml", "xmlpath", "xmlfile"}),
    frozenset({"labels", "outcome", "target", "class"}),
)

OPTIONS = ("--patient-column", "--path-column", "--label-column")


class ManifestColumns(NamedTuple):
    """The names of the columns with the patient's id, the file and the label."""

    patient: str = "patient_id"
    path: str = "path_xml"
    label: str = "label"

    def checked(self) -> ManifestColumns:
        """Return names as `clean_id` gives them. Raises InputError where two are the same."""
        names = ManifestColumns(*(clean_id(name) for name in self))
        if "" in names or len(set(names)) < len(names):
            raise InputError(
                f"{', '.join(OPTIONS)} (={', '.join(names)}) must name three different columns."
            )
        return names

    @property
    def naming(self) -> dict[str, Naming]:
        """What `check_header` says where a column is missing."""
        options = zip(self, OPTIONS, _LIKELY, strict=True)
        return {name: Naming(option, likely) for name, option, likely in options}


DEFAULT_COLUMNS = ManifestColumns()
