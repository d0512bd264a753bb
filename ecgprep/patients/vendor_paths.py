"""The paths of a manifest: those of another system, and what to say when many files are missing.

Paths may name people. Messages name the root folder, which the user gave, and never a path.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

_SAMPLE = 100
"""Paths that are looked for, evenly spread over a manifest, before anything is read."""

_ENOUGH, _MANY = 5, 0.1
"""Missing files, and their share, from which on one message speaks of all."""

_MAX_ENTRIES = 100_000
"""Folder entries that are looked through for a hint."""

_DRIVE = re.compile(r"[A-Za-z]:")


def with_slashes(root: Path, path: str) -> str:
    r"""Return `xml\1.xml` as `xml/1.xml`, unless the root has a file of the first name."""
    if "\\" not in path or os.path.lexists(root / path):
        return path
    return path.replace("\\", "/")


class MissingFiles(NamedTuple):
    """How many of the files that were looked for are missing, and the first of them."""

    n_missing: int
    n_sought: int
    first: str

    @classmethod
    def among(cls, root: Path, paths: Sequence[str]) -> MissingFiles | None:
        """Look for a sample of files; None unless a tenth, and at least five, are missing."""
        sample = paths[:: max(1, len(paths) // _SAMPLE)]
        missing = [path for path in sample if not os.path.lexists(root / path)]
        if len(missing) < _ENOUGH or len(missing) < _MANY * len(sample):
            return None
        return cls(len(missing), len(sample), missing[0])

    def describe(self, root: Path) -> str:
        """Say how many are missing, where they were looked for, and what would help."""
        sought = f"{self.n_sought:,} files of the manifest were looked for"
        n_missing = "all" if self.n_missing == self.n_sought else f"{self.n_missing:,}"
        return f"{sought}, and {n_missing} of them are missing. {where(root, self.first)}"


def where(root: Path, path: str) -> str:
    """Say where a missing file was looked for, how far its path exists, and what would help."""
    if not root.is_dir():
        return f"The root folder {root} does not exist. Give the folder of the paths with --root."
    parts = PurePosixPath(path).parts
    n_there = _n_existing(root, parts)
    return (
        f"Paths are relative to {root}. Of the {len(parts)} parts of the first missing path, "
        f"{n_there or 'none'} exist there. {_advice(root, parts, n_there)}"
    )


def _n_existing(root: Path, parts: Sequence[str]) -> int:
    """Count the leading parts of a path that exist below the root."""
    for n in range(len(parts) - 1, 0, -1):
        if os.path.lexists(root.joinpath(*parts[:n])):
            return n
    return 0


def _advice(root: Path, parts: Sequence[str], n_there: int) -> str:
    """Say what would make the first missing path one of a file."""
    path = Path(*parts)
    for parent in islice(root.parents, 3):
        if (parent / path).exists():
            return f"They exist from a parent folder on: use --root {parent}."
    if any((folder / path).exists() for folder in _folders(root)):
        return "They exist in one of the folders there: name that one with --root."
    if parts[0].lower() == "file:":
        return "They are URLs: write plain paths, without `file://`."
    if (root / unquote(str(path))).exists():
        return "They exist once %20 and the like are decoded: correct the manifest to that."
    if _DRIVE.match(parts[0]):
        return "They begin with a drive of Windows: remove it, and name the folder with --root."
    if _has_other_spelling(root.joinpath(*parts[:n_there]), parts[n_there]):
        return "The next part is there in another case or Unicode form: correct the manifest to it."
    return "Name the folder that they are relative to with --root, or correct the manifest."


def _folders(root: Path) -> list[Path]:
    return [root / entry.name for entry in _entries(root) if entry.is_dir()]


def _has_other_spelling(folder: Path, name: str) -> bool:
    return any(_caseless(entry.name) == _caseless(name) for entry in _entries(folder))


def _caseless(name: str) -> str:
    """Return a file's name without case, composed: macOS writes letters and accents apart."""
    return unicodedata.normalize("NFC", name.casefold())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return entries of a folder; none where it cannot be read, for then there is no hint."""
    try:
        with os.scandir(folder) as entries:
            return list(islice(entries, _MAX_ENTRIES))
    except OSError:
        return []
