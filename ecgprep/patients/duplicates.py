"""Find recordings that are in a cohort twice: byte-identical ones, and ones exported again.

A near duplicate may come in another dialect, sampling rate, gain step or filter, or be cut
elsewhere. Near duplicates are found in two steps. A fingerprint of each recording, its lead-by-lead
cross-spectra in four bands from 3 to 20 Hz, hardly depends on gain, rate, filters or on where the
ten seconds begin: pairs with similar fingerprints (cosine about the mean of all) are candidates.
Each candidate is then decided by the largest correlation of the two signals, 3 to 20 Hz, over lags
of up to 2.5 s, taken over the common leads and the seconds that overlap. On 1,987 public
recordings, exported again at 250 Hz in steps of 4.88 µV after a 0.5-40 Hz filter and cut up to 2 s
elsewhere, duplicates reach 0.970 to 1; the highest value of any two other recordings is 0.91.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

FINGERPRINT_VERSION = 1

_EDGES_HZ = (3.0, 5.0, 8.0, 12.0, 20.0)
"""Edges of the four bands."""

_N_LEADS = 8

FINGERPRINT_SIZE = _N_LEADS * _N_LEADS * (len(_EDGES_HZ) - 1)

SIMILAR = 0.92
"""Cosine of two fingerprints from which their recordings are compared.

0.5 in 10,000 pairs reach it, and 99.5 % of duplicates.
"""

VERY_SIMILAR = 0.98
"""The same for pairs with fewer than MIN_COMMON_LEADS, whose fingerprints say little."""

MIN_COMMON_LEADS = 3

FEW_LEADS_ROWS = 5_000
"""Above so many recordings, pairs with fewer than MIN_COMMON_LEADS are not compared."""

_MIN_ROWS_FOR_MEAN = 100
"""With fewer recordings, duplicates make up much of the mean, so it rules out no pair."""

SAME = 0.97
"""Correlation from which two recordings are the same one."""

_WORTH_REFINING = 0.75
"""Correlation in steps of 20 ms from which steps of 4 ms are tried.

Half a step costs a duplicate at most 0.15.
"""

MAX_LAG_S = 2.5

MIN_OVERLAP_S = 4.0
"""Required overlap, after half a second is cut from both ends of each recording."""

_MIN_OVERLAP_SHARE = 0.8
"""Required overlap of short recordings, as a share of the shorter one."""

_EDGE_S = 0.5

_RATE_HZ = 50

_FINER = 5
"""Steps of 4 ms in one of 20 ms."""

_BLOCK = 2048
"""Fingerprints multiplied with as many others in one go."""

Bins = NDArray[np.complex64]
"""A spectrum: leads x frequencies."""

Node = TypeVar("Node", int, tuple[str, str])

_UPPER, _STRICT = np.triu_indices(_N_LEADS), np.triu_indices(_N_LEADS, 1)


def fingerprint(bins: Bins, per_hz: float) -> NDArray[np.int8]:
    """Reduce a spectrum (8, bins) with `per_hz` bins a hertz to FINGERPRINT_SIZE numbers.

    The largest is ±127; all are zero without a signal.
    """
    parts = []
    for low, high in itertools.pairwise(_EDGES_HZ):
        band = bins[:, round(low * per_hz) : round(high * per_hz)]
        cross = band @ band.conj().T
        parts += [cross.real[_UPPER], cross.imag[_STRICT]]
    values = np.concatenate(parts)
    # Without the root, the tallest lead would outweigh all others.
    values = np.sign(values) * np.sqrt(np.abs(values))
    largest = max(float(np.abs(values).max()), 1e-9)
    return np.rint(127 * values / largest).astype(np.int8)


def similar_pairs(
    fingerprints: NDArray[np.int8], masks: NDArray[np.bool_], rows: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Yield pairs of `rows` (first < second) with similar fingerprints in their common leads.

    `masks` (N, 8) says which leads are present. Every pair is compared, in blocks of fast products.
    Pairs with few common leads must be more alike, and are left out in large cohorts.
    """
    rows_by_mask: dict[bytes, list[int]] = defaultdict(list)
    for row in rows.tolist():
        rows_by_mask[masks[row].tobytes()].append(row)
    groups = [
        (np.frombuffer(mask, np.bool_), np.array(members))
        for mask, members in sorted(rows_by_mask.items())
    ]
    for (mask, members), (other_mask, others) in itertools.combinations_with_replacement(groups, 2):
        common = mask & other_mask
        limit = _similarity_limit(int(common.sum()), len(rows))
        if limit is not None:
            yield from _alike(fingerprints[:, _columns(common)], members, others, limit)


def _similarity_limit(n_common_leads: int, n_rows: int) -> float | None:
    """Return the cosine from which a pair is a candidate; None if it is not compared at all."""
    few_leads = n_common_leads < MIN_COMMON_LEADS
    if n_common_leads == 0 or (few_leads and n_rows > FEW_LEADS_ROWS):
        return None
    if n_rows < _MIN_ROWS_FOR_MEAN:
        return -1.0
    return VERY_SIMILAR if few_leads else SIMILAR


def _columns(leads: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Say which numbers of a fingerprint are about these leads alone."""
    both = leads[:, None] & leads[None, :]
    return np.tile(np.concatenate([both[_UPPER], both[_STRICT]]), len(_EDGES_HZ) - 1)


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to length 1."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(lengths, 1e-12))


def _blocks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[first : first + _BLOCK] for first in range(0, len(rows), _BLOCK)]


def _alike(
    fingerprints: NDArray[np.int8],
    members: NDArray[np.int64],
    others: NDArray[np.int64],
    limit: float,
) -> Iterator[tuple[int, int]]:
    """Yield pairs of `members` and `others` with a cosine about the mean of at least `limit`.

    If `others` is `members`, each pair of them is compared once.
    """

    def unit(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return _unit(fingerprints[rows].astype(np.float32))

    among_themselves = members is others
    all_blocks = _blocks(members) + ([] if among_themselves else _blocks(others))
    total = np.sum([unit(rows).sum(axis=0, dtype=np.float64) for rows in all_blocks], axis=0)
    n_rows = sum(len(rows) for rows in all_blocks)
    centre = (total / n_rows).astype(np.float32)
    for k, here in enumerate(_blocks(members)):
        left = _unit(unit(here) - centre)
        for there in _blocks(others)[k if among_themselves else 0 :]:
            cosine = left @ _unit(unit(there) - centre).T
            first, second = np.nonzero(cosine >= limit)
            for i, j in zip(here[first].tolist(), there[second].tolist(), strict=True):
                if i < j or (i != j and not among_themselves):
                    yield min(i, j), max(i, j)


class Track:
    """A recording in the band 3 to 20 Hz at 50 Hz, ready to be compared.

    `bins` (8, n) has `per_hz` bins a hertz and begins with the first sample of signal, which lasts
    `seconds`; `mask` (8,) says which leads are present.
    """

    __slots__ = ("conjugate", "mask", "span", "squares", "total", "transform")

    def __init__(self, bins: Bins, per_hz: float, mask: NDArray[np.bool_], seconds: float) -> None:
        band = np.zeros((_N_LEADS, round(_RATE_HZ / 2 * per_hz) + 1), np.complex64)
        low, high = round(_EDGES_HZ[0] * per_hz), round(_EDGES_HZ[-1] * per_hz)
        band[:, low:high] = bins[:, low:high]
        x = np.fft.irfft(band, axis=1).astype(np.float32)
        n = x.shape[1]
        # The ends ring from filtering, and each cut rings differently: they are left out.
        first, last = round(_EDGE_S * _RATE_HZ), round((seconds - _EDGE_S) * _RATE_HZ)
        self.span = first, min(n, max(first, last))
        x[:, : self.span[0]] = 0
        x[:, self.span[1] :] = 0
        self.mask = mask
        self.transform = np.fft.rfft(x, _padded(n), axis=1)
        self.conjugate = self.transform.conj()
        self.squares = x * x
        self.total = self._running(self.squares)

    @staticmethod
    def _running(squares: NDArray[np.float32]) -> NDArray[np.float64]:
        energy = np.cumsum(squares.sum(axis=0, dtype=np.float64))
        return np.concatenate([[0.0], energy])

    def energy(self, leads: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the running energy (samples + 1,) of some leads; missing leads add nothing."""
        if leads[self.mask].all():
            return self.total
        return self._running(self.squares[leads])


def _padded(n: int) -> int:
    """Return a power of two with room for n samples and the largest lag."""
    return int(2 ** np.ceil(np.log2(n + MAX_LAG_S * _RATE_HZ + 1)))


def correlation(a: Track, b: Track) -> float:
    """Return the largest correlation of two recordings over lags of up to 2.5 s in steps of 4 ms.

    It is 0 without common leads or without enough overlap.
    """
    common = a.mask & b.mask
    lags, start, end = _usable_lags(a, b)
    if not common.any() or not lags.size:
        return 0.0
    n = _padded(a.total.shape[0] - 1)
    energy_a, energy_b = a.energy(common), b.energy(common)
    overlap_a = energy_a[end] - energy_a[start]
    overlap_b = energy_b[end + lags] - energy_b[start + lags]
    size = np.maximum(np.sqrt(overlap_a * overlap_b), 1e-9)
    cross = np.einsum("ij,ij->j", a.conjugate[common], b.transform[common])
    coarse = float((np.fft.irfft(cross, n)[lags] / size).max())
    if coarse < _WORTH_REFINING:
        return coarse
    fine = np.fft.irfft(cross, n * _FINER) * _FINER
    around = np.arange(-(_FINER // 2), _FINER // 2 + 1)
    tops = fine[(lags[:, None] * _FINER + around) % (n * _FINER)].max(axis=1)
    return float((tops / size).max())


def _usable_lags(
    a: Track, b: Track
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the lags with enough overlap, and where the overlap of each starts and ends in `a`."""
    reach = int(MAX_LAG_S * _RATE_HZ)
    lags = np.arange(-reach, reach + 1)
    start = np.maximum(a.span[0], b.span[0] - lags)
    end = np.minimum(a.span[1], b.span[1] - lags)
    shorter = min(a.span[1] - a.span[0], b.span[1] - b.span[0])
    needed = min(MIN_OVERLAP_S * _RATE_HZ, _MIN_OVERLAP_SHARE * shorter)
    usable = end - start >= max(needed, 1)
    return lags[usable], start[usable], end[usable]


Load = Callable[[int], tuple[Bins, float, NDArray[np.bool_], float]]
"""Row -> the arguments of `Track`."""


def near_duplicates(
    fingerprints: NDArray[np.int8], masks: NDArray[np.bool_], rows: NDArray[np.int64], load: Load
) -> list[list[int]]:
    """Group `rows` that hold the same recording; groups of one are left out.

    Groups, and the rows in each, are in ascending order.
    """

    @lru_cache(maxsize=4096)
    def track(row: int) -> Track:
        return Track(*load(row))

    pairs = [
        (i, j)
        for i, j in similar_pairs(fingerprints, masks, rows)
        if correlation(track(i), track(j)) >= SAME
    ]
    return join_pairs(pairs)


def join_pairs(pairs: Iterable[tuple[Node, Node]]) -> list[list[Node]]:
    """Join pairs that share a member into groups, ordered by their first members (union-find)."""
    parent: dict[Node, Node] = {}

    def find(node: Node) -> Node:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for i, j in pairs:
        parent[find(j)] = find(i)
    groups: dict[Node, list[Node]] = defaultdict(list)
    for node in sorted(parent):
        groups[find(node)].append(node)
    return list(groups.values())


def exact_duplicates(
    rows: NDArray[np.int64], keys: list[NDArray[Any]], read: Callable[[int], bytes]
) -> list[list[int]]:
    """Group `rows` whose waveforms are equal to the byte; groups of one are left out.

    Only rows with equal `keys` (arrays by row: checksum, moments, …) are read and compared.
    """
    candidates: dict[bytes, list[int]] = defaultdict(list)
    for row in rows.tolist():
        key = b"".join(array[row].tobytes() for array in keys)
        candidates[key].append(row)
    identical: dict[bytes, list[int]] = defaultdict(list)
    for alike in candidates.values():
        if len(alike) > 1:
            for row in alike:
                identical[read(row)].append(row)
    return [group for group in identical.values() if len(group) > 1]
