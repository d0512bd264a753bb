"""What every reader returns: one rhythm recording in µV at its own sampling rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError

RATE_LIMITS_HZ = (50.0, 10_000.0)
"""A resting ECG outside these is a unit error; real carts write 100 to 2000 Hz."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One rhythm recording as the file stores it.

    `leads_uv` maps canonical lead names to float64 arrays of equal length in µV; `rate_hz` is the file's own rate; `lead_off` names
    leads whose electrode was off by the cart's own word. Raises RecordError `bad_rate` for a rate that no ECG has, `bad_waveform` for
    no lead, an empty lead or unequal lengths.
    """

    leads_uv: dict[str, NDArray[np.float64]]
    rate_hz: float
    dialect: str
    lead_off: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        low, high = RATE_LIMITS_HZ
        if not low <= self.rate_hz <= high:  # also refuses NaN
            raise RecordError(
                "bad_rate",
                f"sampling rate is {self.rate_hz:g} Hz; {low:g} to {high:g} Hz is allowed",
            )
        if not self.leads_uv:
            raise RecordError(
                "bad_waveform", "the rhythm waveform holds no lead with a standard name"
            )
        lengths = {name: len(samples) for name, samples in self.leads_uv.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {n:,}" for name, n in lengths.items())
            raise RecordError("bad_waveform", f"leads have unequal numbers of samples: {found}")
        if not self.n_samples:
            raise RecordError("bad_waveform", "the leads hold no samples")

    @property
    def n_samples(self) -> int:
        """Samples per lead."""
        return len(next(iter(self.leads_uv.values())))

    @property
    def duration_s(self) -> float:
        """Length of the recording in seconds."""
        return self.n_samples / self.rate_hz
