"""What a reader sees in one file, and what `conform` would make of it: the content of `ecgprep read`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ecgprep.conform import Conformity, Row, conform, without_calibration_pulse
from ecgprep.errors import RecordError
from ecgprep.leads import LEADS
from ecgprep.readers import read_recording
from ecgprep.recording import Recording


def preview(path: Path, target: Conformity) -> tuple[dict[str, Any], Recording | None, Row | None]:
    """Read and conform one file; return what there is to say, the recording and the row, or None where it was refused."""
    try:
        recording = read_recording(path)
    except RecordError as error:
        return (
            {"refused": {"by": "reader", "reason": error.reason, "message": error.message}},
            None,
            None,
        )
    seen = {
        "dialect": recording.dialect,
        "rate_hz": recording.rate_hz,
        "n_samples": recording.n_samples,
        "duration_s": recording.duration_s,
        "unit": "µV",
        "leads": {name: _range(samples) for name, samples in recording.leads_uv.items()},
    }
    try:
        row = conform(recording, target)
    except RecordError as error:
        return (
            seen | {"refused": {"by": "conform", "reason": error.reason, "message": error.message}},
            recording,
            None,
        )
    return seen | {"conform": _steps(recording, row, target)}, recording, row


def _range(samples: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float | int | None]:
    finite = samples[np.isfinite(samples)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
    return {"min_uv": low, "max_uv": high, "n_missing": int(samples.size - finite.size)}


def _steps(recording: Recording, row: Row, target: Conformity) -> dict[str, Any]:
    """Say which of conform's steps change this recording."""
    cut = without_calibration_pulse(recording)
    resampled = round(cut.n_samples * target.rate_hz / cut.rate_hz)
    present = [lead for lead, there in zip(LEADS, row.lead_mask, strict=True) if there]
    return {
        "calibration_pulse_cut": cut.n_samples < recording.n_samples,
        "resampled_to_hz": target.rate_hz if cut.rate_hz != target.rate_hz else None,
        "cropped_samples": max(0, resampled - target.n_samples),
        "padded_samples": target.n_samples - (row.valid_span[1] - row.valid_span[0]),
        "leads_derived": [lead for lead in present if lead not in recording.leads_uv],
        "leads_masked": [lead for lead in LEADS if lead not in present],
        "valid_span": list(row.valid_span),
    }
