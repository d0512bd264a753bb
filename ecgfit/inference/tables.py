"""Write tables of predictions as CSV or JSON; docs/predict.md lists the columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgprep.files.atomic import PRIVATE
from ecgprep.files.output import write_output

if TYPE_CHECKING:
    import pandas as pd

MARKS = (
    rb"\Afile,status,message(,patient)?,probability,positive"
    rb"(,patient_probability,patient_positive)?,missing_leads,warnings\n",
    rb"\Arow,patient(,patient_id,path_xml,line)?(,split,label)?(,status,message)?"
    rb",probability,positive(,patient_probability,patient_positive)?,missing_leads,warnings\n",
    rb'\A\[\n  \{\n    "(file|row)": .*\n    "missing_leads": "',
)
"""Every file that `write_predictions` wrote matches one of these patterns.

A CSV is recognised by its whole header, as a user may have added columns; JSON by its beginning.
"""


def write_predictions(table: pd.DataFrame, path: Path | None, as_json: bool = False) -> None:
    """Write a table as CSV or JSON to a file, or to standard output without one.

    Only its owner may read the file, as file names may name patients. File names are written byte
    for byte, whatever their encoding. JSON escapes those that are not UTF-8 as Python's
    surrogates.
    """
    if as_json:
        text = json.dumps(records(table), indent=2) + "\n"
    else:
        text = table.to_csv(index=False, float_format="%.9g", lineterminator="\n")
    content = text.encode("utf-8", "surrogateescape")
    if path is None:
        click.echo(content, nl=False)
    else:
        write_output(path, content, PRIVATE)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries, None where there is no value."""
    cells = table.astype(object)
    rows: list[dict[str, Any]] = cells.where(cells.notna(), None).to_dict("records")
    return rows
