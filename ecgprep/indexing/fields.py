"""What the table says of one file, as text.

A file that a default build would refuse has the status and the message that it would get there.
What its header says is kept wherever the XML can be parsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ecgprep.conform import Conformity, kept_leads
from ecgprep.errors import RecordError
from ecgprep.header import MEASUREMENTS
from ecgprep.readers import open_file
from ecgprep.store.format import MAX_ABS_UV
from ecgprep.workers import READER_DIED, READER_OUT_OF_MEMORY

COLUMNS = (
    "path_xml",
    "patient_id",
    "acquired_at",
    "age_years",
    "sex",
    "dialect",
    "rate_hz",
    "n_leads",
    "leads_usable",
    "seconds",
    *MEASUREMENTS,
    "status",
    "message",
)
"""The columns of the table, in order."""

NUMBERS = ("age_years", "rate_hz", "n_leads", "leads_usable", "seconds", *MEASUREMENTS)
"""The columns that hold numbers. All others hold text."""

TARGET = Conformity()
"""What a build asks of a recording, unless it is told otherwise."""

FileFields = tuple[str, ...]
"""The columns of one file from patient_id on."""


class Batch(NamedTuple):
    """Files to read in one go: `paths` as the table has them, relative to `base`.

    With `follow_symlinks`, those to files inside `base` are read.
    """

    base: str
    paths: Sequence[str]
    follow_symlinks: bool = False


Values = dict[str, str | float | None]
"""Column -> what is known of a file so far."""


def read_batch(batch: Batch) -> list[FileFields]:
    """Read every file of a batch. Raises only what is our bug."""
    root = Path(batch.base) if batch.follow_symlinks else None
    return [read_fields(Path(batch.base, path), root) for path in batch.paths]


def read_fields(path: Path, root: Path | None = None) -> FileFields:
    """Read one file; whatever is wrong with it is in its status and message.

    With `root`, a symlink to a file inside it is read, as a build does with --follow-symlinks.
    """
    values: Values = {}
    try:
        notes = _fill(values, path, root)
    except RecordError as error:
        return _as_text(values, error.reason, error.message)
    except MemoryError:
        return _as_text(values, "reader_crashed", READER_OUT_OF_MEMORY)
    except Exception as error:  # our bug: say which file without naming it
        error.add_note(f"while reading a file of {path.lstat().st_size:,} bytes")
        raise
    return _as_text(values, "ok", "; ".join(notes))


def _fill(values: Values, path: Path, root: Path | None) -> list[str]:
    """Fill in what the file says, and return what a user should know of it.

    Raises RecordError as a default build would.
    """
    file = open_file(path, root, follow_symlinks=root is not None)
    values["dialect"] = file.dialect.name
    values |= vars(file.header())  # its fields have the names of columns
    recording = file.recording()
    values["rate_hz"] = recording.rate_hz
    values["n_leads"] = len(recording.leads_uv)
    values["seconds"] = recording.duration_s
    kept = kept_leads(recording, TARGET)
    values["leads_usable"] = kept.n
    notes = list(recording.notes)
    if kept.out_of_range:
        leads = ", ".join(kept.out_of_range)
        notes.append(f"masked for samples beyond ±{MAX_ABS_UV / 1000} mV: {leads}")
    return notes


def died() -> FileFields:
    """Return the fields of a file that killed the process that read it."""
    return _as_text({}, "reader_crashed", READER_DIED)


def _as_text(values: Values, status: str, message: str = "") -> FileFields:
    """Return the columns from patient_id on; what is not known is empty."""
    of_file = [_text(values.get(name)) for name in COLUMNS[1:-2]]
    return (*of_file, status, message)


def _text(value: str | float | None) -> str:
    """Write a number without needless decimals; -0 is 0, and None is empty."""
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value + 0.0:.10g}"
