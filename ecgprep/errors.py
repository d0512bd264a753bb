"""Exceptions, exit codes and the list of statuses: what can go wrong, by name.

    Exception
    ├── EcgError(message)              one line for the user; the command ends with `exit_code`
    │   ├── InputError           3     manifest, registry, config, or a single file, refused
    │   ├── StoreError           4     store or run missing, damaged or incompatible
    │   ├── TooManyRejects       5     more rows rejected than --max-rejected allows
    │   ├── NoSpace              6     the disk is full, or would be
    │   └── TargetExists         7     the output exists and may not be overwritten
    └── RecordError(reason, message)   one recording is bad: a status in the store, never the end of a build

No message ever holds a value of an identifying field (patient id, path, label text): messages name lines, columns and reasons.
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
"""Why a row is unusable; 0 is `ok`. A code is a position here, part of the store format: this list only grows."""

STATUS_CODE = {name: code for code, name in enumerate(STATUSES)}


class EcgError(Exception):
    """Base of every failure that is not ours: one message saying where, what was found, what is allowed, what to do."""

    exit_code = EXIT_BUG


class InputError(EcgError):
    """The manifest, the registry, the config or a single file given by hand is refused."""

    exit_code = 3


class StoreError(EcgError):
    """A store or a run folder is missing, damaged, of another version, or not the one that is needed."""

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
    """One recording cannot be used; `reason` is the status its row gets."""

    exit_code = InputError.exit_code

    def __init__(self, reason: str, message: str) -> None:
        if reason not in STATUS_CODE:
            raise ValueError(f"reason (={reason}) must be one of STATUSES")
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(
        self,
    ) -> tuple[type[RecordError], tuple[str, str]]:  # so that it crosses process borders whole
        return type(self), (self.reason, self.message)


def describe(text: str | None) -> str:
    """Say what kind of text was found without repeating it: fields of manifests and vendor files may identify people."""
    if text is None:
        return "nothing"
    stripped = text.strip()
    if not stripped:
        return "an empty value"
    kind = "digits" if stripped.isdigit() else "letters" if stripped.isalpha() else "characters"
    return f"{len(stripped)} {kind}"
