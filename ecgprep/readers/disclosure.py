"""The layout of CardioSoft's FullDisclosureData, which the file does not state.

Files and descriptions know two, here for leads A and B at a rate of r:

    blocks of one second   A0 A1 … A(r-1)  B0 B1 … B(r-1)  Ar A(r+1) …   the last may be shorter
    interleaved            A0 B0  A1 B1  A2 B2 …

The wrong one gives noise, so the signal decides, twice. By Einthoven's and Goldberger's definitions
any two limb leads determine the others, which holds in the right layout only. And an ECG is smooth:
its samples differ less from their neighbours in the right layout. Where the two disagree or say
nothing, the file is refused.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError
from ecgprep.leads import LIMB_LEADS, canonical_lead, derive_limb_lead

_MAX_LIMB_ERROR = 0.3
"""Largest rms error of limb leads against each other, in units of their own rms. In 488 public
recordings at 500 and 250 Hz it is below 0.1 in the right layout and above 0.7 in the wrong one."""
_MIN_CONTRAST = 1.25
"""How much rougher the other layout must be where limb leads cannot tell. In the same recordings
it is at least 1.4."""
_LOOKED_AT_S = 600
"""An hour of twelve leads would take a gigabyte for the comparison."""


def separate_leads(
    counts: NDArray[np.float64], labels: list[str], rate_hz: float
) -> NDArray[np.float64]:
    """Return the samples of each label, (labels, samples), from the counts in the file's order.

    Raises RecordError `bad_waveform` when there is not an equal number of samples for each label,
    or when neither layout looks like an ECG, or both do.
    """
    n_leads, n_per_second = len(labels), int(rate_hz)
    if not len(counts):
        raise RecordError("bad_waveform", "FullDisclosureData holds no samples")
    if n_per_second != rate_hz or len(counts) % n_leads:
        raise RecordError(
            "bad_waveform",
            f"{len(counts):,} samples cannot be shared out among {n_leads} leads at {rate_hz:g} Hz",
        )
    in_blocks = _from_blocks(counts, n_leads, min(n_per_second, len(counts)))
    interleaved = counts.reshape(-1, n_leads).T
    if np.array_equal(in_blocks, interleaved):
        return in_blocks  # every lead is constant, or there is one lead, or one sample of each
    n_looked_at = _LOOKED_AT_S * n_per_second
    layouts = [layout[:, :n_looked_at] for layout in (in_blocks, interleaved)]
    return in_blocks if _is_first_right(layouts, labels) else interleaved


def _from_blocks(
    counts: NDArray[np.float64], n_leads: int, n_per_second: int
) -> NDArray[np.float64]:
    """Join the blocks of each lead. Of the last, shorter second every lead has an equal share."""
    n_whole = len(counts) // (n_leads * n_per_second) * n_leads * n_per_second
    seconds = counts[:n_whole].reshape(-1, n_leads, n_per_second).transpose(1, 0, 2)
    joined = seconds.reshape(n_leads, -1)
    if n_whole == len(counts):
        return joined
    return np.hstack([joined, counts[n_whole:].reshape(n_leads, -1)])


def _is_first_right(layouts: list[NDArray[np.float64]], labels: list[str]) -> bool:
    """Say whether the first of two layouts is the ECG.

    Raises RecordError `bad_waveform` when that is unclear.
    """
    errors = [_limb_error(layout, labels) for layout in layouts]
    roughness = [_roughness(layout) for layout in layouts]
    fits = [error is not None and error <= _MAX_LIMB_ERROR for error in errors]
    is_first_smoother = roughness[0] < roughness[1]
    contrast = max(roughness) / max(min(roughness), 1e-9)
    if None in errors or fits == [True, True]:
        is_clear = contrast >= _MIN_CONTRAST
    else:
        is_clear = fits == [is_first_smoother, not is_first_smoother]
    if not is_clear:
        raise RecordError(
            "bad_waveform",
            "the layout of FullDisclosureData is unclear: neither blocks of one second nor "
            "interleaved samples give limb leads that agree (II = I + III) and a smooth signal",
        )
    return is_first_smoother


def _limb_error(layout: NDArray[np.float64], labels: list[str]) -> float | None:
    """Return the rms by which limb leads differ from what two of them imply, per their own rms.

    None stands for fewer than three limb leads, which imply nothing about each other. Every fifth
    sample is enough.
    """
    names = [canonical_lead(label) for label in labels]
    limbs = {name: layout[names.index(name), ::5] for name in LIMB_LEADS if name in names}
    if len(limbs) < 3:
        return None
    one, two = derive_limb_lead("I", limbs), derive_limb_lead("II", limbs)
    assert one is not None  # any two limb leads determine them
    assert two is not None
    implied = list(limbs)[2:]
    stored = np.stack([limbs[name] for name in implied])
    weights = np.array([LIMB_LEADS[name] for name in implied])
    error = stored - weights @ np.stack([one, two])
    return float(_rms(error) / max(_rms(np.stack(list(limbs.values()))), 1e-9))


def _rms(signal: NDArray[np.float64]) -> float:
    """Return the root mean square about each row's mean, over all rows."""
    return float(np.sqrt(np.mean(np.var(signal, axis=1))))


def _roughness(layout: NDArray[np.float64]) -> float:
    """Return the mean step between neighbouring samples of a lead, in counts."""
    return float(np.mean(np.abs(np.diff(layout, axis=1))))
