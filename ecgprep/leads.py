"""Lead names and the algebra of the limb leads.

The eight stored leads are the independent ones of a 12-lead ECG. By Einthoven's and Goldberger's definitions the six limb
leads have two degrees of freedom, so any two of them determine the others:

    III = II - I     aVR = -(I + II) / 2     aVL = I - II / 2     aVF = II - I / 2
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The stored leads, in the order of every array. Written once, here; a store repeats it in its attribute `lead_names`."""

LIMB_LEADS: dict[str, tuple[float, float]] = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVF": (-0.5, 1.0),
    "aVL": (1.0, -0.5),
    "aVR": (-0.5, -0.5),
}
"""Each limb lead as (a, b) of a*I + b*II, in the order in which they are preferred as sources."""

_KNOWN = (
    *LIMB_LEADS,
    *LEADS[2:],
    "V7",
    "V8",
    "V9",
    "V1R",
    "V2R",
    "V3R",
    "V4R",
    "V5R",
    "V6R",
    "V7R",
)
_BY_UPPER = {name.upper(): name for name in _KNOWN}


def canonical_lead(name: str) -> str | None:
    """Return the usual spelling (`AVR` -> `aVR`), or None for a name that is not a standard lead."""
    return _BY_UPPER.get(name.strip().upper())


def derive_limb_lead(
    lead: str, sources: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64] | None:
    """Compute I or II from the first two limb leads in `sources`, or return None when fewer than two are there.

    `sources` must hold only leads that are present, finite and not flat: a dead electrode would make a plausible wrong lead.
    """
    pair = [name for name in LIMB_LEADS if name in sources][:2]
    if len(pair) < 2:
        return None
    (a, b), (c, d) = (LIMB_LEADS[name] for name in pair)
    x, y = (sources[name] for name in pair)
    determinant = a * d - b * c
    return (d * x - b * y) / determinant if lead == "I" else (a * y - c * x) / determinant
