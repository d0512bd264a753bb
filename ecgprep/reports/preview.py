"""Show what a reader finds in one file, and what `conform` would make of it (`ecgprep read`)."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from ecgprep.conform import Conformity, Row, conform, without_calibration_pulse
from ecgprep.errors import RecordError
from ecgprep.header import MEASUREMENTS, Header
from ecgprep.leads import LEADS
from ecgprep.patients.covariates import AGE_LIMIT
from ecgprep.quality import flags_in_words, flags_of_row
from ecgprep.readers import open_file
from ecgprep.recording import Recording


class Refusal(TypedDict):
    """Why a file cannot be used."""

    by: str
    """`reader` or `conform`: the step that refused it."""
    reason: str
    """The status that its row would get."""
    message: str


class LeadRange(TypedDict):
    """The values of one lead in µV; None where none is known."""

    min_uv: float | None
    max_uv: float | None
    n_missing: int


class ConformSteps(TypedDict):
    """What conforming would change."""

    calibration_pulse_cut: bool
    resampled_to_hz: int | None
    cropped_samples: int
    padded_samples: int
    leads_derived: list[str]
    leads_masked: list[str]
    leads_out_of_range: list[str]
    """The masked leads that leave ±32.767 mV."""
    valid_span: list[int]


class HeaderPreview(TypedDict):
    """What the header of a file says, without what identifies the patient; None for nothing."""

    has_patient_id: bool
    has_acquired_at: bool
    age_years: float | None
    """90 for all who are older."""
    sex: str
    """F, M or empty."""
    measurements: dict[str, float | None]


class FilePreview(TypedDict):
    """What a reader sees in a file. Without `dialect` and the like, the reader refused it.

    `lead_off`, `baseline_sway`, `unknown_leads`, `notes` and `quality` are only there if they say
    something.
    """

    header: NotRequired[HeaderPreview]
    dialect: NotRequired[str]
    rate_hz: NotRequired[float]
    n_samples: NotRequired[int]
    duration_s: NotRequired[float]
    unit: NotRequired[str]
    leads: NotRequired[dict[str, LeadRange]]
    lead_off: NotRequired[list[str]]
    baseline_sway: NotRequired[list[str]]
    unknown_leads: NotRequired[list[str]]
    notes: NotRequired[list[str]]
    conform: NotRequired[ConformSteps]
    quality: NotRequired[list[str]]
    """The quality flags that the row would have, and where; only if there are some."""
    refused: NotRequired[Refusal]


def preview(path: Path, target: Conformity) -> tuple[FilePreview, Recording | None, Row | None]:
    """Read and conform one file.

    Return what there is to say, the recording, and the row; None stands for what was refused.
    """
    seen: FilePreview = {}
    try:
        file = open_file(path)
        seen["header"] = _without_identity(file.header())
        recording = file.recording()
    except RecordError as error:
        seen["refused"] = _refusal("reader", error)
        return seen, None, None
    seen.update(_signal(recording))
    try:
        row = conform(recording, target)
    except RecordError as error:
        seen["refused"] = _refusal("conform", error)
        return seen, recording, None
    seen["conform"] = _steps(recording, row, target)
    flags = flags_in_words(flags_of_row(recording, row, target.rate_hz))
    if flags:
        seen["quality"] = flags
    return seen, recording, row


def _without_identity(header: Header) -> HeaderPreview:
    """Say of the patient and the time only whether the file has them."""
    age = header.age_years
    return {
        "has_patient_id": bool(header.patient_id),
        "has_acquired_at": bool(header.acquired_at),
        "age_years": None if age is None else min(age, float(AGE_LIMIT)),
        "sex": header.sex,
        "measurements": {name: getattr(header, name) for name in MEASUREMENTS},
    }


def _signal(recording: Recording) -> FilePreview:
    """Describe what was recorded."""
    seen: FilePreview = {
        "dialect": recording.dialect,
        "rate_hz": recording.rate_hz,
        "n_samples": recording.n_samples,
        "duration_s": recording.duration_s,
        "unit": "µV",
        "leads": {name: _range(samples) for name, samples in recording.leads_uv.items()},
    }
    if recording.lead_off:
        seen["lead_off"] = sorted(recording.lead_off)
    if recording.baseline_sway:
        seen["baseline_sway"] = sorted(recording.baseline_sway)
    if recording.unknown_leads:
        seen["unknown_leads"] = list(recording.unknown_leads)
    if recording.notes:
        seen["notes"] = list(recording.notes)
    return seen


def _refusal(by: str, error: RecordError) -> Refusal:
    """Say which step refused the file, and why."""
    return {"by": by, "reason": error.reason, "message": error.message}


def _range(samples_uv: NDArray[np.float64]) -> LeadRange:
    """Return the least and the greatest value of a lead, and how many are missing."""
    finite = samples_uv[np.isfinite(samples_uv)]
    low = float(finite.min()) if finite.size else None
    high = float(finite.max()) if finite.size else None
    return {"min_uv": low, "max_uv": high, "n_missing": int(samples_uv.size - finite.size)}


def _steps(recording: Recording, row: Row, target: Conformity) -> ConformSteps:
    """Say which steps of `conform` change this recording."""
    cut = without_calibration_pulse(recording)
    needs_resampling = cut.rate_hz != target.rate_hz
    n_resampled = round(cut.n_samples * target.rate_hz / cut.rate_hz)
    n_valid = row.valid_span[1] - row.valid_span[0]
    present = [lead for lead, there in zip(LEADS, row.lead_mask, strict=True) if there]
    return {
        "calibration_pulse_cut": cut.n_samples < recording.n_samples,
        "resampled_to_hz": target.rate_hz if needs_resampling else None,
        "cropped_samples": max(0, n_resampled - target.n_samples),
        "padded_samples": target.n_samples - n_valid,
        "leads_derived": [lead for lead in present if lead not in recording.leads_uv],
        "leads_masked": [lead for lead in LEADS if lead not in present],
        "leads_out_of_range": [lead for lead in LEADS if lead in row.out_of_range],
        "valid_span": list(row.valid_span),
    }
