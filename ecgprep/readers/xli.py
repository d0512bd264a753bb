"""XLI, the compression of Philips ECG files: LZW with fixed 10-bit codes over second differences.

    chunk:    [size u32 LE][u16, 1 in every file][start i16 LE][size bytes of codes, 10 bits each, most significant bit first]
    decoded:  [high bytes of all w][low bytes of all w], w signed 16 bit
    samples:  x0 = w0, x1 = w1, x_n = 2 x_(n-1) - x_(n-2) - d_n  with  d_2 = start, d_n = w_(n-1) - 64;  all modulo 2^16

There are always 16 chunks; those beyond the declared leads are zeros or uninitialised memory and must not be decoded. A chunk can expand
600 times, so decoding stops at the number of bytes that the leads must have.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError

_HEADER = struct.Struct("<IHh")
_N_BYTES = 256
_LAST_CODE = 1022
"""The table holds codes up to here; 1023 never stands for a string."""


def decode_chunks(data: bytes, n_chunks: int, n_samples: int) -> list[NDArray[np.int64]]:
    """Decode the first `n_chunks` chunks into `n_samples` counts each.

    Raises RecordError `bad_waveform` when a chunk is missing, longer than the data, not decodable or of another length.
    """
    leads, at = [], 0
    for k in range(n_chunks):
        if at + _HEADER.size > len(data):
            raise RecordError(
                "bad_waveform", f"compressed data end before lead {k + 1} of {n_chunks}"
            )
        size, _, start = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        if size > len(data) - at:
            raise RecordError(
                "bad_waveform",
                f"lead {k + 1}: the file declares {size:,} compressed bytes but {len(data) - at:,} are left",
            )
        leads.append(_integrate(_expand(data[at : at + size], 2 * n_samples, k + 1), start))
        at += size
    return leads


def _codes(data: bytes) -> list[int]:
    """Unpack 10-bit codes: five bytes are four codes; a rest too short for a code is padding."""
    padded = np.frombuffer(data + bytes(-len(data) % 5), np.uint8).reshape(-1, 5).astype(np.uint16)
    a, b, c, d, e = padded.T
    quads = np.stack(
        [a << 2 | b >> 6, (b & 63) << 4 | c >> 4, (c & 15) << 6 | d >> 2, (d & 3) << 8 | e], axis=1
    )
    codes: list[int] = quads.ravel()[: len(data) * 8 // 10].tolist()
    return codes


def _expand(data: bytes, n_bytes: int, lead: int) -> bytes:
    """Undo LZW until `n_bytes` are there; what follows is padding. Raises RecordError for a code that means nothing or too few bytes."""
    codes = _codes(
        data[: n_bytes * 10 // 8 + 5]
    )  # every code stands for a byte or more: no bomb gets further than this
    pieces, table = _grow(codes[: _LAST_CODE + 2 - _N_BYTES])
    if (
        len(table) > _LAST_CODE
    ):  # the table is full, so the rest are plain look-ups of shared strings
        table.append(b"")  # code 1023: may stand in the padding only
        pieces += map(table.__getitem__, codes[len(pieces) :])
    ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)))
    used = int(np.searchsorted(ends, n_bytes)) + 1
    if used > len(pieces):
        raise RecordError(
            "bad_waveform",
            f"lead {lead}: compressed data hold {int(ends[-1]) if len(ends) else 0:,} bytes instead of {n_bytes:,}",
        )
    if not all(pieces[:used]):
        raise RecordError(
            "bad_waveform", f"lead {lead}: compressed data hold a code that means nothing"
        )
    return b"".join(pieces[:used])[:n_bytes]


def _grow(codes: list[int]) -> tuple[list[bytes], list[bytes]]:
    """Decode the first codes, each of which but the first adds a string to the table: the string before and its own first byte.

    Ends at a code that means nothing: it is padding where enough was decoded before, which the caller counts.
    """
    table = [bytes((i,)) for i in range(_N_BYTES)]
    pieces: list[bytes] = []
    previous = b""
    for code in codes:
        if code < len(table):
            piece = table[code]
        elif previous and code == len(table):
            piece = previous + previous[:1]
        else:
            break
        if previous:
            table.append(previous + piece[:1])
        pieces.append(piece)
        previous = piece
    return pieces, table


def _integrate(expanded: bytes, start: int) -> NDArray[np.int64]:
    """Sum the second differences up, twice, and wrap to 16 bits as the C code of the format does."""
    n = len(expanded) // 2
    halves = np.frombuffer(expanded, np.uint8).astype(np.int64)
    w = (halves[:n] << 8 | halves[n:]).astype(np.int16).astype(np.int64)
    x = w.copy()
    if n > 2:
        d = np.concatenate([[start], w[2:-1] - 64])
        slope = (w[1] - w[0]) - np.cumsum(d)
        x[2:] = w[1] + np.cumsum(slope)
    return x.astype(np.int16).astype(np.int64)
