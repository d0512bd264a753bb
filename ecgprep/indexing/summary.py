"""What an index found, as counts and in words. No id, path or date below a month is in it."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path
from typing import TypedDict

from ecgprep.errors import InputError
from ecgprep.header import COVARIATES
from ecgprep.indexing.known import KnownFiles
from ecgprep.indexing.walk import LeftOut

_LEFT_OUT = {
    "not_matched": "files that do not match --glob",
    "links": "symlinks",
    "stores": "stores",
    "unusable_names": "files whose name a manifest cannot hold (rename them)",
    "unreadable_folders": "folders that cannot be read",
}


class IndexSummary(TypedDict):
    """What an index found, ready for JSON.

    `read_now` counts the files that were not known from an earlier run. `patients` are distinct
    ids. `months` are the first and the last in which a file was acquired. `filled` says how many
    files have a value, by column. `left_out` counts what was met and is not in the table. `root` is
    the `--root` that a build needs.
    """

    files: int
    read_now: int
    status: dict[str, int]
    dialects: dict[str, int]
    patients: int
    months: tuple[str, str] | None
    filled: dict[str, int]
    left_out: dict[str, int]
    root: str | None


def summarise(
    known: KnownFiles, n_files: int, read_now: int, left_out: LeftOut, root: str | None
) -> IndexSummary:
    """Count what is in the table, and what is not."""
    return IndexSummary(
        files=n_files,
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
        f"{table}: {summary['files']:,} files, {summary['read_now']:,} of them read now "
        "(private: it identifies patients)",
        f"status: {_listed(summary['status'])}",
        f"dialects: {_listed(summary['dialects']) or 'none'}",
        f"patients: {summary['patients']:,}; acquired: {' to '.join(months or ('not said',))}",
        _wrapped(f"files with a value: {_listed(filled)}"),
    ]
    left_out = {_LEFT_OUT[name]: n for name, n in summary["left_out"].items() if n}
    if left_out:
        lines.append(f"not in the table: {_listed(left_out)}")
    root = f" --root {shlex.quote(summary['root'])}" if summary["root"] else ""
    lines.append(
        "next: add a column `label`, save the table as cohort.csv beside this one, then run\n"
        f"  ecgprep build cohort.csv cohort.zarr{root}"
    )
    return "\n".join(lines)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 90, subsequent_indent="  ", break_on_hyphens=False)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())


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
