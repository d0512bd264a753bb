"""The arrays of a store as pandas DataFrames, for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import STATUSES
from ecgprep.leads import LEADS
from ecgprep.store.format import LABEL_UNKNOWN, PATIENT_NONE, SPLIT_NONE, SPLITS

if TYPE_CHECKING:
    from pandas import DataFrame


def rows_table(
    arrays: Mapping[str, NDArray[Any]],
    covariate_names: Sequence[str],
    quality_flags: Sequence[str],
    moments: bool,
) -> DataFrame:
    """Return the small arrays (N, …) as a DataFrame with one line per row.

    Its columns: `Store.table`. Raises ValueError for codes of status or split that the format does
    not define.
    """
    import pandas as pd

    label, patient = arrays["label"], arrays["patient"]
    span, mask = arrays["valid_span"], arrays["lead_mask"]
    columns: dict[str, Any] = {
        "status": pd.Categorical.from_codes(_codes("status", arrays, STATUSES), STATUSES),
        "split": pd.Categorical.from_codes(_codes("split", arrays, SPLITS), SPLITS),
        "label": pd.arrays.IntegerArray(label.astype(np.int8), label == LABEL_UNKNOWN),
        "patient": pd.arrays.IntegerArray(patient.astype(np.int32), patient == PATIENT_NONE),
        "rate_hz": arrays["rate_hz"],
        "first_sample": span[:, 0],
        "end_sample": span[:, 1],
    }
    for k, lead in enumerate(LEADS):
        columns[f"has_{lead}"] = mask[:, k]
    columns["quality"] = _quality_texts(arrays["quality"], quality_flags)
    columns["crc32c"] = arrays["crc32c"]
    if moments:
        for k, lead in enumerate(LEADS):
            columns[f"sum_uv_{lead}"] = arrays["moments"][:, k, 0]
            columns[f"sum_squares_uv2_{lead}"] = arrays["moments"][:, k, 1]
    covariates = {}
    for k, name in enumerate(covariate_names):
        column = f"covariate_{name}" if name in columns else name
        covariates[column] = arrays["covariates"][:, k]
    return pd.DataFrame(columns | covariates, index=pd.RangeIndex(len(label), name="row"))


def _codes(
    name: str, arrays: Mapping[str, NDArray[Any]], meanings: Sequence[str]
) -> NDArray[np.int64]:
    codes = arrays[name].astype(np.int64)
    if codes.max() >= len(meanings) or codes.min() < SPLIT_NONE:
        raise ValueError(f"{name} holds a value that format 1 does not define")
    return codes


def _quality_texts(quality: NDArray[np.uint32], flags: Sequence[str]) -> NDArray[np.object_]:
    """Spell out the flags of each row, (N, 8) -> (N,). Few patterns occur, so each is done once."""
    patterns, place = np.unique(quality, axis=0, return_inverse=True)
    texts = np.array([_quality_text(pattern, flags) for pattern in patterns.tolist()], object)
    return texts[place.ravel()]


def _quality_text(pattern: Sequence[int], flags: Sequence[str]) -> str:
    parts = []
    for lead, bits in zip(LEADS, pattern, strict=True):
        names = [name for k, name in enumerate(flags) if bits >> k & 1]
        if names:
            parts.append(f"{lead}: {', '.join(names)}")
    return "; ".join(parts)


def waveform_frame(
    uv: NDArray[np.int16],
    lead_mask: NDArray[np.bool_],
    valid_span: tuple[int, int],
    sample_rate_hz: float,
) -> DataFrame:
    """Return a waveform (8, L) in µV as a DataFrame in mV: leads x seconds.

    What is no signal is NaN.
    """
    import pandas as pd

    mv = uv / 1000
    first, last = valid_span
    mv[~lead_mask] = np.nan
    mv[:, :first] = np.nan
    mv[:, last:] = np.nan
    seconds = np.arange(uv.shape[1]) / sample_rate_hz
    return pd.DataFrame(
        mv, index=pd.Index(LEADS, name="lead"), columns=pd.Index(seconds, name="seconds")
    )
