"""Files that a user names with -o.

Where they go is checked before any work is done, and no file that is not ours is replaced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ecgprep.errors import InputError, TargetExists
from ecgprep.files.atomic import write_file

STDOUT = Path("-")
"""Names of standard output, for commands that can print to it."""

_PATTERN_HINT = "(If a pattern such as *.xml follows -o, its first file is taken as the output.)"

_RECORDED = b"\nrecorded:\n"
"""What the config.yaml of a run of ecgfit holds."""

_FOLDERS_OF_EVERY_RUN = ("checkpoints", "members")
"""A run folder holds at least one of these; a folder with only a copy of config.yaml does not."""

_RESERVED_FOLDERS = (*_FOLDERS_OF_EVERY_RUN, "explain")
_RESERVED_FILES = re.compile(
    r"(config|norm_stats|calibration|threshold|curves)\.\w+|metrics_.*\.json|events\.out\..*"
    r"|predictions_(train|val|test|all|oof|external_.*)\.csv"
)
"""Names in a run folder that only the run itself may use.

They stand here, and not where ecgfit writes them, as no command of either package may take them.
"""

_SEARCHED_BYTES = 2**16
"""How much of a file's beginning and of its end is searched for the marks of our files."""


def check_output(
    path: Path,
    marks: Iterable[bytes],
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
) -> Path:
    """Return where to write what is meant for `path`, with links resolved.

    An existing file is replaced if it is empty, if it matches one of `marks` (regular expressions
    that recognise the command's own results), or with `overwrite`. One of `inputs` is never
    replaced: a shell expands `-o *.xml` to the name of an ECG. Nothing is written into a store,
    whose content hash covers every file. In the folder of a run, only new files and results of
    ours are written, and never under a name of the run's own. Pipes and devices are written to.

    Messages do not repeat the name, which may be a patient's. Raises InputError for a place that
    cannot be written to; TargetExists inside a store and for a file that is not ours.
    """
    if is_stream(path):
        return path
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # Python 3.11 and 3.12 raise for a link to itself
        target = path
    if path == STDOUT:
        raise InputError(
            "The output (=-) must be a file: this result is not meant for a terminal. "
            "Name a file, or write to /dev/stdout."
        )
    _check_place(target, inputs)
    in_run = _check_run(target)
    if not target.exists() or _is_ours(target, marks):
        return target
    if in_run:
        raise TargetExists(
            "The output exists and belongs to the folder of a run, where --overwrite replaces "
            "nothing. Delete the file, or name another one."
        )
    if not overwrite:
        raise TargetExists(
            "The output exists and was not written by this command. Name another file, or add "
            f"--overwrite to replace it. {_PATTERN_HINT}"
        )
    return target


def _check_place(target: Path, inputs: Iterable[Path]) -> None:
    """Refuse a place that is not a file's, or is an input's or a store's, or is not writable.

    Raises InputError, TargetExists.
    """
    if target.is_symlink():
        raise InputError("The output is a link to itself. Name another file.")
    if target.is_dir():
        raise InputError("The output is a folder. Name a file.")
    if not target.parent.is_dir():
        raise InputError("The output's folder does not exist. Create it, or write elsewhere.")
    if any(_is_same_file(target, given) for given in inputs):
        raise InputError(
            "The output is one of the inputs and would replace it. Name another file. "
            + _PATTERN_HINT
        )
    refuse_inside_store(target)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(
            "The output's folder cannot be written to. Write elsewhere, or change its permissions."
        )


def _is_same_file(target: Path, given: Path) -> bool:
    """Return whether two paths lead to one file, also through links."""
    if target == given.resolve():
        return True
    return target.exists() and given.exists() and target.samefile(given)


def refuse_inside_store(path: Path) -> None:
    """Refuse a file or folder that lies inside any Zarr store. Raises TargetExists."""
    # Path.resolve would raise on a link to itself, which the caller reports in its own words.
    real = Path(os.path.realpath(path))
    if any((folder / "zarr.json").is_file() for folder in real.parents):
        raise TargetExists(
            "The output lies inside a store, which may hold nothing but its own files. "
            "Write elsewhere."
        )


def _check_run(target: Path) -> bool:
    """Return whether a file lies directly in the folder of a run.

    Raises InputError for a name, or a folder, that is reserved for the run itself.
    """
    run = next((folder for folder in target.parents if _is_run(folder)), None)
    if run is None:
        return False
    inside = target.relative_to(run).parts
    is_direct = len(inside) == 1
    if not is_direct and inside[0] in _RESERVED_FOLDERS:
        raise InputError(
            "The output lies in a folder that is reserved for a run's own files. Write elsewhere."
        )
    if is_direct and _RESERVED_FILES.fullmatch(target.name):
        raise InputError(
            "The output has a name that is reserved for a run's own files. "
            "Name another file, or write elsewhere."
        )
    return is_direct


def _is_run(folder: Path) -> bool:
    """Return whether this is the folder of a run of ecgfit."""
    if not any((folder / name).is_dir() for name in _FOLDERS_OF_EVERY_RUN):
        return False
    try:
        return _RECORDED in b"\n" + (folder / "config.yaml").read_bytes()
    except OSError:
        return False


def check_folder(path: Path) -> None:
    """Refuse an existing or future folder that cannot be written to. Raises InputError."""
    candidates = (path.absolute(), *path.absolute().parents)
    existing = next(folder for folder in candidates if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"{path} is not a folder that can be written to. "
            "Name another one, change its permissions, or work on a copy."
        )


def is_stream(path: Path) -> bool:
    """Return whether `path` is a pipe or a device, which is written to and never replaced."""
    if not path.exists() or path.is_dir():
        return False
    # A shell can redirect /dev/stdout to a regular file, which must not be replaced either.
    return str(path).startswith(("/dev/", "/proc/")) or not path.is_file()


def write_output(path: Path, data: bytes | memoryview, mode: int = 0o666) -> None:
    """Write to the path that `check_output` returned. Raises NoSpace.

    A file is written whole or not at all; a pipe or a device takes the bytes as they come.
    """
    if not is_stream(path):
        write_file(path, data, mode)
        return
    # O_APPEND: a file that standard output is redirected to keeps what it already holds.
    with open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as stream:
        stream.write(data)


def _is_ours(path: Path, marks: Iterable[bytes]) -> bool:
    with path.open("rb") as file:
        searched = file.read(_SEARCHED_BYTES)
        file.seek(max(0, path.stat().st_size - _SEARCHED_BYTES))
        searched += file.read()
    return not searched or any(re.search(mark, searched, re.DOTALL) for mark in marks)
