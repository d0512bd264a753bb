"""Write a cohort: manifest, status of every patient, task and report, all of them or none."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ecgprep.cohorts.carried import task_file, task_path
from ecgprep.cohorts.task import TASK_MARK
from ecgprep.errors import InputError
from ecgprep.files.atomic import PRIVATE, write_together
from ecgprep.files.output import check_output, is_stream

if TYPE_CHECKING:
    import pandas as pd

    from ecgprep.cohorts.run import CohortResult

_MANIFEST_MARK = rb"\Apatient_id,path_xml,label,age_years,sex,(day_of_ecg|lvef),"
_STATUS_MARK = rb"\Apatient_id,status,(baseline_lvef|n_ecgs),"

REPORT_MARK = b'<meta name="generator" content="ecgprep cohort">'
"""Every report of a cohort holds this, so that a file is recognised as one."""


def output_paths(out: Path, inputs: Iterable[Path], overwrite: bool) -> dict[str, Path]:
    """Return where the manifest, the status file and the task go, by kind, after checking each.

    Raises:
        InputError: if nothing can be written there.
        TargetExists: for a file that is not ours, or inside a store.
    """
    if out.suffix.lower() != ".csv":
        raise InputError("The output must be a file that ends in .csv, such as cohort.csv.")
    if is_stream(out):
        raise InputError("The output must be a file, as others are named after it.")
    named = {
        "manifest": (out, _MANIFEST_MARK),
        "status": (out.with_name(f"{out.stem}.status.csv"), _STATUS_MARK),
        "task": (task_path(out), TASK_MARK),
        "report": (out.with_name(f"{out.stem}.report.html"), REPORT_MARK),
    }
    given = list(inputs)
    return {
        kind: check_output(path, [mark], given, overwrite) for kind, (path, mark) in named.items()
    }


def write_cohort(result: CohortResult, paths: dict[str, Path], report: bytes | None = None) -> None:
    """Write the files of a cohort, readable by their owner only. Raises NoSpace."""
    contents = {
        paths["manifest"]: csv_bytes(result.manifest),
        paths["status"]: csv_bytes(result.status),
        paths["task"]: task_file(result.task, result.rows_sha256),
    }
    if report is not None:
        contents[paths["report"]] = report
    write_together(contents, PRIVATE)


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """Write a frame as CSV in UTF-8: 62.0 as 62, missing values as empty fields."""
    text = io.StringIO(newline="")
    frame.to_csv(text, index=False, lineterminator="\n", float_format="%.10g")
    return text.getvalue().encode()
