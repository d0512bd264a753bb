"""Files that a user names with -o: where they go is checked before any work is done, and nothing that is not ours is replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ecgprep.errors import InputError, TargetExists
from ecgprep.files.atomic import write_file

STDOUT = Path("-")
"""What commands that print to standard output take for it."""


_PATTERN = "(Of a pattern such as *.xml right after -o the first file is the output.)"


_RECORDED = b"\nrecorded:\n"
"""What stands in the config.yaml of a run of ecgfit."""


_NAMES_OF_RUNS = re.compile(
    r"(config|norm_stats|calibration|threshold|curves)\.\w+|metrics_.*\.json|predictions_(train|val|test|all|oof|external_.*)\.csv|events\.out\..*"
)


_FOLDERS_OF_RUNS = ("checkpoints", "members", "explain")


_LOOKED_AT = 2**16
"""Bytes at a file's beginning and at its end in which the marks of our files stand."""


def check_output(
    path: Path, marks: Iterable[bytes], inputs: Iterable[Path] = (), overwrite: bool = False
) -> Path:
    """Return where to write what is to go to `path`, links followed.

    A file that is there already is replaced where it is empty or matches one of `marks`, regular expressions of what the same command has
    written, or with `overwrite`; one of `inputs` never: a shell's `-o *.xml` names an ECG. Nothing is written into a store, whose every file
    counts; into the folder of a run only what is new, or ours, and by no name that is the run's. A pipe or a device is written into. No
    message holds the name, which may be a patient's. Raises InputError for a place that cannot be written to, TargetExists for one inside a
    store and for a file that is not ours.
    """
    if is_stream(path):
        return path
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # so do Python 3.11 and 3.12 with a link to itself
        target = path
    if path == STDOUT:
        raise InputError(
            "The output (=-) must be a file: this result is not for a terminal. Name one, or write to /dev/stdout."
        )
    _check_place(target, inputs)
    in_run = _check_run(target)
    if target.exists() and not _is_ours(target, marks):
        if in_run:
            raise TargetExists(
                "The output exists in a run's folder, where --overwrite replaces nothing. Delete it, or name another file."
            )
        if not overwrite:
            raise TargetExists(
                f"The output exists, and is not what this command writes. Name another file, or say --overwrite to replace it. {_PATTERN}"
            )
    return target


def _check_place(target: Path, inputs: Iterable[Path]) -> None:
    """Refuse a place that is no file's, that is an input's or a store's, or that cannot be written to. Raises InputError, TargetExists."""
    if target.is_symlink():
        raise InputError("The output is a link to itself. Name another file.")
    if target.is_dir():
        raise InputError("The output is a folder. Name a file.")
    if not target.parent.is_dir():
        raise InputError("The output's folder does not exist. Make it first, or write elsewhere.")
    if any(
        target == given.resolve() or (target.exists() and given.exists() and target.samefile(given))
        for given in inputs
    ):
        raise InputError(
            f"The output is one of the inputs, and would replace it. Name another file. {_PATTERN}"
        )
    refuse_inside_store(target)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(
            "The output's folder cannot be written to. Write elsewhere, or see to its permissions."
        )


def refuse_inside_store(path: Path) -> None:
    """Refuse an output, a file or a folder, that lies in a Zarr store, whichever. Raises TargetExists."""
    real = Path(
        os.path.realpath(path)
    )  # Path.resolve raises on a link to itself, which others report
    if any((folder / "zarr.json").is_file() for folder in real.parents):
        raise TargetExists(
            "The output lies inside a store, which holds its own files only. Write elsewhere."
        )


def _check_run(target: Path) -> bool:
    """Say whether a file lies right in the folder of a run; refuse it by a name, or in a folder, of the run's own. Raises InputError."""
    run = next((folder for folder in target.parents if _is_run(folder)), None)
    inside = target.relative_to(run) if run is not None else Path()
    if len(inside.parts) > 1 and inside.parts[0] in _FOLDERS_OF_RUNS:
        raise InputError(
            "The output lies in a folder of a run that holds the run's own files. Write elsewhere."
        )
    if len(inside.parts) == 1 and _NAMES_OF_RUNS.fullmatch(target.name):
        raise InputError(
            "The output has the name of one of a run's own files. Name another file, or write elsewhere."
        )
    return len(inside.parts) == 1


def _is_run(folder: Path) -> bool:
    """Say whether a folder is that of a run of ecgfit, and not only one with a copy of its settings."""
    if not any((folder / name).is_dir() for name in ("checkpoints", "members")):
        return False
    try:
        return _RECORDED in b"\n" + (folder / "config.yaml").read_bytes()
    except OSError:
        return False


def check_folder(path: Path) -> None:
    """Refuse a folder, there already or to be made, in which nothing can be written. Raises InputError."""
    there = next(
        folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists()
    )
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"{path} is not a folder that can be written to. Name another, see to its permissions, or work on a copy."
        )


def is_stream(path: Path) -> bool:
    """Say whether there is a pipe or device at `path`, which is written into and not replaced."""
    of_system = str(path).startswith(
        ("/dev/", "/proc/")
    )  # /dev/stdout is a file where the shell redirects it: to be written into all the same
    return path.exists() and not path.is_dir() and (of_system or not path.is_file())


def write_output(path: Path, data: bytes | memoryview, mode: int = 0o666) -> None:
    """Write to what `check_output` returned: a file whole or not at all, a pipe or device as it takes it. Raises NoSpace."""
    if is_stream(path):
        with open(
            os.open(path, os.O_WRONLY | os.O_APPEND), "wb"
        ) as stream:  # a redirected file keeps what was written before
            stream.write(data)
    else:
        write_file(path, data, mode)


def _is_ours(path: Path, marks: Iterable[bytes]) -> bool:
    with path.open("rb") as file:
        looked_at = file.read(_LOOKED_AT)
        file.seek(max(0, path.stat().st_size - _LOOKED_AT))
        looked_at += file.read()
    return not looked_at or any(re.search(mark, looked_at, re.DOTALL) for mark in marks)
