"""The table as a pandas DataFrame. pandas takes 0.4 s to import, and commands do without it."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

import pandas as pd

from ecgprep.indexing.fields import COLUMNS, NUMBERS

if TYPE_CHECKING:
    from ecgprep.indexing.summary import IndexSummary


def read_frame(table: Path | IO[bytes], summary: IndexSummary) -> pd.DataFrame:
    """Read a table that was just written: numbers as float64, all else as text.

    An id such as 00123 or NA stays what it is, and a text that is absent is empty.
    """
    frame = pd.read_csv(
        table,
        dtype={name: "float64" if name in NUMBERS else str for name in COLUMNS},
        keep_default_na=False,
        na_values={name: [""] for name in NUMBERS},
        encoding="utf-8",
    )
    frame.attrs["summary"] = summary
    return frame
