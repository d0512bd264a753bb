"""The task that a manifest carries: a side file that holds for exactly the rows it was written for.

NAME.task.yaml lies beside NAME.csv. It notes a hash of the manifest's rows (patient, file name and
label, in any order), so a manifest whose rows or labels were edited afterwards carries no task,
while further columns, another order or another folder change nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from ecgprep import __version__
from ecgprep.cohorts.task import RECORDED, Task, make_task
from ecgprep.errors import InputError
from ecgprep.files.atomic import PRIVATE, write_file
from ecgprep.files.strict_yaml import read_yaml

if TYPE_CHECKING:
    from pandas import DataFrame

    from ecgprep.patients.manifest import Manifest

log = logging.getLogger(__name__)

_HEAD = """\
# The task of a cohort by ecgprep, with every default. It belongs to the manifest beside it:
# `ecgprep build` notes it in the store, as long as the manifest's rows and labels are these.
"""

_ROWS = "rows_sha256"


def task_path(manifest: Path) -> Path:
    """Return where the task of a manifest lies: that of `m.csv` is `m.task.yaml`."""
    return manifest.with_name(f"{manifest.stem}.task.yaml")


def rows_sha256(patients: Iterable[str], paths: Iterable[str], labels: Iterable[object]) -> str:
    """Hash the rows of a manifest, whatever their order; a label that is not known is "" or -1."""
    rows = zip(patients, paths, labels, strict=True)
    lines = sorted(
        f"{patient}\0{PurePath(path).name}\0{_label(label)}" for patient, path, label in rows
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _label(label: object) -> str:
    return str(label) if str(label) in ("0", "1") else ""


def task_file(task: Task, rows_hash: str) -> bytes:
    """Return the content of a task's side file."""
    recorded = {_ROWS: rows_hash, "ecgprep": __version__}
    return (_HEAD + task.to_yaml(recorded)).encode()


def keep_task_of(frame: DataFrame, manifest: Path) -> None:
    """Write beside a manifest the task that its DataFrame carries, and delete that of an older."""
    text = frame.attrs.get("task_file")
    path = task_path(manifest)
    if isinstance(text, str):
        write_file(path, text.encode(), PRIVATE)
    else:
        path.unlink(missing_ok=True)


def carried_task(manifest: Manifest) -> str | None:
    """Return the canonical text of the task that a manifest carries, or None.

    A task of other rows or labels is not carried, and that is logged. Raises InputError for a side
    file that is not a task.
    """
    path = task_path(manifest.path)
    if not path.exists():
        return None
    values = read_yaml(path, "Task")
    task = make_task(values, f"Task {path.name}")
    recorded = values.get(RECORDED)
    if not isinstance(recorded, dict) or _ROWS not in recorded:
        raise InputError(
            f"Task {path.name} lies beside the manifest and was not written by `ecgprep cohort`. "
            "Give it another name, as a store would take it for the manifest's own."
        )
    found = rows_sha256(manifest.patient_id, manifest.path_xml, manifest.label.tolist())
    if recorded[_ROWS] == found:
        return task.canonical_text
    log.warning(
        "%s was written for other rows or labels than those of %s, so the store does not note it. "
        "To keep the task, build from what `ecgprep cohort` wrote",
        path.name,
        manifest.path.name,
    )
    return None
