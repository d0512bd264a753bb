"""Lead names and the algebra of the limb leads.

The eight stored leads are the independent ones of a 12-lead ECG. By Einthoven's and Goldberger's
definitions the six limb leads have two degrees of freedom, so any two of them determine the others:

    III = II - I     aVR = -(I + II) / 2     aVL = I - II / 2     aVF = II - I / 2
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import describe

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

_POSTERIOR = ("V7", "V8", "V9")
_RIGHT = tuple(f"V{n}R" for n in range(1, 10))
_SPELLINGS = {
    **{name.upper(): name for name in (*TWELVE_LEADS, *_POSTERIOR, *_RIGHT)},
    **{f"C{n}": f"V{n}" for n in range(1, 10)},
    **{f"C{n}R": f"V{n}R" for n in range(1, 10)},
    **{f"RV{n}": f"V{n}R" for n in range(1, 10)},
}
"""Known names in upper case. The chest leads are V1 to V9 (AHA) or C1 to C9 (IEC 60601-2-25)."""

_CODE = re.compile(r"(?:(?:MDC|NOM)_ECG_(?:LEAD|ELEC_POTL)_|(?:ECG[ _])?LEAD[ _-]?|ECG[ _])(.*)")
"""A code of ISO/IEEE 11073-10101 or of its forerunner ENV 13734, or a name such as `Lead I`."""
_HARMLESS = re.compile(r"[A-Za-z0-9_.+-]{1,24}")
_MAX_SHOWN = 12
"""Unknown names in one message."""


@functools.lru_cache(maxsize=1024)
def canonical_lead(name: str) -> str | None:
    """Return the usual spelling (`MDC_ECG_LEAD_AVR` -> `aVR`), or None for an unknown name.

    Unknown on purpose are `-aVR` and `AVRneg` (turned round), `VR`, `VL`, `VF` (not augmented),
    `D1` (Nehb's D, too), and codes such as `MDC_ECG_LEAD_dI` (computed from other electrodes).
    """
    upper = name.strip().upper()
    known = _SPELLINGS.get(upper)
    if known is None and (code := _CODE.fullmatch(upper)):
        known = _SPELLINGS.get(code[1].strip())
    return known


def shown_name(name: str | None) -> str:
    """Return an unknown lead name for a message, or describe one that may be free text."""
    stripped = (name or "").strip()
    if not stripped:
        return "no name"
    return stripped if _HARMLESS.fullmatch(stripped) else f"a name of {describe(name)}"


def unknown_leads_note(names: Sequence[str]) -> str:
    """Say which leads are left out because nobody knows where their electrodes were.

    `names` are as `shown_name` gives them.
    """
    shown = ", ".join(names[:_MAX_SHOWN])
    n_more = len(names) - _MAX_SHOWN
    more = f" and {n_more} more" if n_more > 0 else ""
    if len(names) == 1:
        return f"1 lead with an unknown name is left out: {shown}"
    return f"{len(names)} leads with unknown names are left out: {shown}{more}"


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
