"""Lead names and the algebra of the limb leads.

The eight stored leads are the independent ones of a 12-lead ECG. By Einthoven's and Goldberger's
definitions the six limb leads have two degrees of freedom, so any two of them determine the others:

    III = II - I     aVR = -(I + II) / 2     aVL = I - II / 2     aVF = II - I / 2
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The stored leads, in the order of every array. A store repeats them in `lead_names`."""

TWELVE_LEADS = (*LEADS[:2], "III", "aVR", "aVL", "aVF", *LEADS[2:])
"""The twelve leads of a standard ECG, in the order in which carts print them."""

LIMB_LEADS: dict[str, tuple[float, float]] = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVF": (-0.5, 1.0),
    "aVL": (1.0, -0.5),
    "aVR": (-0.5, -0.5),
}
"""Each limb lead as (a, b) of a*I + b*II, in the order in which they are preferred as sources."""

_POSTERIOR_AND_RIGHT = ("V7", "V8", "V9", "V1R", "V2R", "V3R", "V4R", "V5R", "V6R", "V7R")
_BY_UPPER = {name.upper(): name for name in (*TWELVE_LEADS, *_POSTERIOR_AND_RIGHT)}


def canonical_lead(name: str) -> str | None:
    """Return the usual spelling (`AVR` -> `aVR`), or None for a name that is no standard lead."""
    return _BY_UPPER.get(name.strip().upper())


def derive_limb_lead(
    lead: str, sources: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64] | None:
    """Compute I or II from the first two limb leads in `sources`.

    `sources` must hold only leads that are present, finite and not flat: a dead electrode would
    make a lead that is plausible and wrong. Returns None when there are fewer than two limb leads.
    """
    pair = [name for name in LIMB_LEADS if name in sources][:2]
    if len(pair) < 2:
        return None
    # Solve x = a*I + b*II, y = c*I + d*II by Cramer's rule.
    first, second = pair
    a, b = LIMB_LEADS[first]
    c, d = LIMB_LEADS[second]
    x, y = sources[first], sources[second]
    determinant = a * d - b * c
    if lead == "I":
        return (d * x - b * y) / determinant
    return (a * y - c * x) / determinant
