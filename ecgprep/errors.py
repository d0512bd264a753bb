"""Exceptions, exit codes and row statuses: everything that can go wrong, by name.

    Exception
    ├── EcgError(message)              one message; the command ends with its `exit_code`
    │   ├── InputError           3     a manifest, registry, config or file is refused
    │   ├── StoreError           4     a store or run is missing, damaged or incompatible
    │   ├── TooManyRejects       5     more rows were rejected than --max-rejected allows
    │   ├── NoSpace              6     the disk is full, or would be
    │   └── TargetExists         7     the output exists and may not be overwritten
    └── RecordError(reason, message)   one recording is bad: its row gets a status

No message holds the value of an identifying field (patient id, path, label text). Messages name
lines, columns and reasons.
"""

from __future__ import annotations

EXIT_OK, EXIT_BUG, EXIT_USAGE = 0, 1, 2
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143

STATUSES = (
    "ok",
    "file_missing",
    "not_regular",
    "file_unreadable",
    "file_too_large",
    "not_xml",
    "unknown_format",
    "no_rhythm",
    "bad_waveform",
    "bad_checksum",
    "bad_units",
    "bad_rate",
    "too_short",
    "leads_missing",
    "flat",
    "out_of_range",
    "reader_crashed",
    "duplicate",
    "conflict",
    "quality",
)
"""Why a row is unusable; 0 is `ok`.

A status code is a position in this list and part of the store format, so the list only grows.
"""

RETRIED = ("file_unreadable", "reader_crashed")
"""Statuses that may be the machine's fault: a file with one is read again by the next run."""

STATUS_CODE = {name: code for code, name in enumerate(STATUSES)}
"""Status -> its code in a store."""


class EcgError(Exception):
    """A failure that the user can mend. The message says where, what was found and what to do."""

    exit_code = EXIT_BUG


class InputError(EcgError):
    """A manifest, registry, config or single file is refused."""

    exit_code = 3


class StoreError(EcgError):
    """A store or run folder is missing, damaged, of another version, or the wrong one."""

    exit_code = 4


class TooManyRejects(EcgError):
    """More rows were rejected than allowed; nothing was published."""

    exit_code = 5


class NoSpace(EcgError):
    """The disk is full; nothing was published."""

    exit_code = 6


class TargetExists(EcgError):
    """The output exists and may not be overwritten."""

    exit_code = 7


class RecordError(Exception):
    """One recording cannot be used; `reason` is the status that its row gets.

    Raises ValueError for a reason that is not one of STATUSES.
    """

    exit_code = InputError.exit_code

    def __init__(self, reason: str, message: str) -> None:
        if reason not in STATUS_CODE:
            raise ValueError(f"reason (={reason}) must be one of STATUSES")
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[RecordError], tuple[str, str]]:
        # Pickling would pass the message alone, and worker processes send these to their parent.
        return type(self), (self.reason, self.message)


def describe(text: str | None) -> str:
    """Describe a text without repeating it, such as "5 digits" or "an empty value".

    Fields of manifests and vendor files may identify people, so no message quotes them.
    """
    if text is None:
        return "nothing"
    stripped = text.strip()
    if not stripped:
        return "an empty value"
    if stripped.isdigit():
        kind = "digits"
    elif stripped.isalpha():
        kind = "letters"
    else:
        kind = "characters"
    return f"{len(stripped)} {kind}"


def missing_extra(package: str, extra: str) -> str:
    """Say which packages are missing and how to install the extra that brings them.

    `package` names one package or lists several. The second command is for a clone of the project,
    where nothing need come from a package index under our name.
    """
    return (
        f"This needs {package}. Run: pip install 'ecgprep-ecgfit[{extra}]', "
        f"or in a clone of the project: pip install -e '.[{extra}]'."
    )
