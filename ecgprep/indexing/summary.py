"""What an index found, as counts and in words. No id, path or date below a month is in it."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path
from typing import TypedDict

from ecgprep.errors import InputError
from ecgprep.header import COVARIATES
from ecgprep.indexing.known import KnownFiles
from ecgprep.indexing.walk import Walk

_LEFT_OUT = {
    "not_matched": "files that do not match --glob",
    "links": "symlinks",
    "stores": "stores",
    "unusable_names": "files whose name a manifest cannot hold (rename them)",
    "unreadable_folders": "folders that cannot be read",
}

_COHORT = "cohort"

_SUGGESTED = ("age_years", "sex", "heart_rate_bpm", "qrs_ms", "qtc_ms")
"""Covariates that the next command has, where most files have a value. The rest say much the same.
"""

_NO_BREAK = "\u00a0"


class IndexSummary(TypedDict):
    """What an index found, ready for JSON.

    `linked_files` are those of the files that are symlinks. `read_now` counts the files that were
    not known from an earlier run. `patients` are distinct ids. `months` are the first and the last
    in which a file was acquired. `filled` says how many files have a value, by column. `left_out`
    counts what was met and is not in the table. `root` is the `--root` that a build needs.
    """

    files: int
    linked_files: int
    read_now: int
    status: dict[str, int]
    dialects: dict[str, int]
    patients: int
    months: tuple[str, str] | None
    filled: dict[str, int]
    left_out: dict[str, int]
    root: str | None


def summarise(
    known: KnownFiles, n_files: int, read_now: int, walk: Walk, root: str | None
) -> IndexSummary:
    """Count what is in the table, and what is not."""
    left_out = walk.left_out
    return IndexSummary(
        files=n_files,
        linked_files=walk.n_linked,
        read_now=read_now,
        status=known.count("status"),
        dialects=known.count("dialect"),
        patients=known.n_distinct("patient_id"),
        months=known.months(),
        filled=known.filled(("patient_id", "acquired_at", *COVARIATES)),
        left_out={
            "not_matched": left_out.not_matched,
            "links": left_out.links,
            "stores": left_out.stores,
            "unusable_names": left_out.names,
            "unreadable_folders": left_out.folders,
        },
        root=root,
    )


def describe_index(table: Path, summary: IndexSummary) -> str:
    """Put a summary into words, and say how to go on."""
    filled, months = summary["filled"], summary["months"]
    lines = [
        f"{table}: {_n_files(summary['files'])}, {summary['read_now']:,} of them read now "
        "(private: it identifies patients)",
        _wrapped(f"status: {_listed(summary['status'])}"),
        _wrapped(f"dialects: {_listed(summary['dialects']) or 'none'}"),
        f"patients: {summary['patients']:,}; acquired: {' to '.join(months or ('not said',))}",
        _wrapped(f"files with a value: {_listed(filled)}"),
    ]
    left_out = {_LEFT_OUT[name]: n for name, n in summary["left_out"].items() if n}
    if left_out:
        lines.append(_wrapped(f"not in the table: {_listed(left_out)}"))
    lines.append(_next_step(table, summary))
    return "\n".join(lines)


def _next_step(table: Path, summary: IndexSummary) -> str:
    """Say what to do with the table, and which command then builds a store of it."""
    name = _COHORT if table.name != f"{_COHORT}.csv" else f"{_COHORT}-labelled"
    manifest, store = table.with_name(f"{name}.csv"), table.with_name(f"{name}.zarr")
    n_nameless = summary["files"] - summary["filled"]["patient_id"]
    nameless = f" leave out the rows without a patient id ({n_nameless:,})," if n_nameless else ""
    command = ["ecgprep", "build", str(manifest), str(store)]
    covariates = [name for name in _SUGGESTED if 2 * summary["filled"][name] > summary["files"]]
    if covariates:
        command += ["--covariates", ",".join(covariates)]
    if summary["root"]:
        command += ["--root", summary["root"]]
    if summary["linked_files"]:
        command.append("--follow-symlinks")
    return (
        f"next: add a column `label`,{nameless} save as {manifest} "
        "(or let `ecgprep cohort` make it), then run\n"
        f"  {shlex.join(command)}"
    )


def _n_files(n: int) -> str:
    return "1 file" if n == 1 else f"{n:,} files"


def _wrapped(line: str) -> str:
    """Break a line at blanks, but not between a name and its count."""
    wrapped = textwrap.fill(line, 90, subsequent_indent="  ", break_on_hyphens=False)
    return wrapped.replace(_NO_BREAK, " ")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}{_NO_BREAK}{n:,}" for name, n in counts.items())


def check_index(summary: IndexSummary) -> None:
    """Refuse a table that is written but not what the user can go on with.

    Raises:
        InputError: if folders could not be read, or if no file can be used.
    """
    n_folders = summary["left_out"]["unreadable_folders"]
    if n_folders:
        raise InputError(
            f"{n_folders:,} of the folders cannot be read, so the table lacks their files. Find "
            "them with `find EXPORT -type d ! -readable`, change their permissions and run again."
        )
    if not summary["status"].get("ok"):
        raise InputError(
            f"None of the {summary['files']:,} files can be used; the table's columns status and "
            "message say why. `ecgprep read FILE` shows one."
        )
