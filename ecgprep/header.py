"""What a vendor file says beside the waveform: who, when, and what the cart measured.

A header identifies a patient. `ecgprep index` writes it to a private table, and nothing else of it
leaves the reader but age, sex and measurements, which a user may ask for as covariates.
"""

from __future__ import annotations

from dataclasses import dataclass

MEASUREMENTS = (
    "heart_rate_bpm",
    "pr_ms",
    "qrs_ms",
    "qt_ms",
    "qtc_ms",
    "p_axis_deg",
    "qrs_axis_deg",
    "t_axis_deg",
)
"""The cart's measurements, in the order of every table."""

COVARIATES = ("age_years", "sex", *MEASUREMENTS)
"""Fields of a header that may serve as covariates."""


@dataclass(frozen=True, repr=False)
class Header:
    """The header of one file. What the file does not say, or says unusably, is "" or None.

    `patient_id` is the file's own, trimmed. `acquired_at` is ISO 8601 as the file says it
    (2019-03-04T08:15:00, or 2019-03-04 without a time); a zone is only there if the file has one.
    `sex` is F or M. `age_years` is the stated age, or completed years from birth to acquisition.
    """

    patient_id: str = ""
    acquired_at: str = ""
    age_years: float | None = None
    sex: str = ""
    heart_rate_bpm: float | None = None
    pr_ms: float | None = None
    qrs_ms: float | None = None
    qt_ms: float | None = None
    qtc_ms: float | None = None
    p_axis_deg: float | None = None
    qrs_axis_deg: float | None = None
    t_axis_deg: float | None = None

    def __repr__(self) -> str:
        """Name the fields that are known and no value: headers end up in tracebacks and logs."""
        known = [name for name, value in vars(self).items() if value not in (None, "")]
        return f"Header({', '.join(known)})"
