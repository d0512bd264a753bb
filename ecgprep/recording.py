"""What every reader returns: one rhythm recording in µV at its own sampling rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError
from ecgprep.leads import unknown_leads_note

RATE_LIMITS_HZ = (50.0, 10_000.0)
"""A rate outside these is a unit error: real carts write 100 to 2000 Hz."""

MAX_SECONDS = 3600
"""An exercise test takes half an hour; this is no format for Holter recordings."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One rhythm recording as the file stores it.

    `leads_uv` maps canonical lead names to float64 arrays of equal length in µV. `rate_hz` is the
    file's own rate. `lead_off` names the leads whose electrode was off according to the cart, and
    `baseline_sway` those whose baseline swayed. `unknown_leads` holds the names of stored leads
    that are no standard ones, as `leads.shown_name` gives them; they are not read. `notes` says
    what a reader had to do that a user should know of, such as a repair of the text; no note holds
    a value of the file.

    Raises RecordError: `bad_rate` for a rate that no ECG has; `bad_waveform` when there is no lead,
    when the leads are empty, or when their lengths differ; `file_too_large` beyond an hour.
    """

    leads_uv: dict[str, NDArray[np.float64]]
    rate_hz: float
    dialect: str
    lead_off: frozenset[str] = frozenset()
    baseline_sway: frozenset[str] = frozenset()
    unknown_leads: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        low, high = RATE_LIMITS_HZ
        if not low <= self.rate_hz <= high:  # NaN is refused, too
            raise RecordError(
                "bad_rate",
                f"the sampling rate is {self.rate_hz:g} Hz; {low:g} to {high:g} Hz is allowed",
            )
        if not self.leads_uv:
            unknown = self.unknown_leads
            more = f"; {unknown_leads_note(unknown)}" if unknown else ""
            raise RecordError(
                "bad_waveform", f"the rhythm waveform holds no lead with a standard name{more}"
            )
        lengths = {name: len(samples) for name, samples in self.leads_uv.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {n:,}" for name, n in lengths.items())
            raise RecordError("bad_waveform", f"the leads differ in number of samples: {found}")
        if not self.n_samples:
            raise RecordError("bad_waveform", "the leads hold no samples")
        if self.duration_s > MAX_SECONDS:
            raise RecordError(
                "file_too_large",
                f"{self.duration_s:,.0f} s of signal; at most an hour ({MAX_SECONDS:,} s) is read",
            )

    def __repr__(self) -> str:
        n_leads = len(self.leads_uv)
        signal = f"{n_leads} leads x {self.n_samples:,} samples at {self.rate_hz:g} Hz"
        return f"Recording({self.dialect}: {signal})"

    @property
    def n_samples(self) -> int:
        """Samples per lead."""
        return len(next(iter(self.leads_uv.values())))

    @property
    def duration_s(self) -> float:
        """Length of the recording in seconds."""
        return self.n_samples / self.rate_hz
