"""XLI, the compression of Philips ECG files: LZW with fixed 10-bit codes of second differences.

    chunk:    [size u32 LE][u16, 1 in every file][start i16 LE][size bytes of codes]
    codes:    10 bits each, most significant bit first
    decoded:  [high bytes of all w][low bytes of all w], w signed 16-bit
    samples:  x0 = w0,  x1 = w1,  x_n = 2 x_(n-1) - x_(n-2) - d_n
              with d_2 = start and d_n = w_(n-1) - 64, all modulo 2^16

There are always 16 chunks. Those beyond the declared leads are zeros or uninitialised memory and
must not be decoded. A chunk can expand 600 times, so decoding stops at the number of bytes that the
leads must have.
"""

from __future__ import annotations

import struct
from collections.abc import Container

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError

_HEADER = struct.Struct("<IHh")
_CODE_BITS = 10
_N_LITERALS = 256
"""Codes below stand for one byte each; the codes above are added while decoding."""
_LAST_CODE = 1022
"""The table ends here; 1023 never stands for a string."""
_MEANINGLESS = b""
"""What code 1023 decodes to: an empty string. It may occur in the padding only."""


def decode_chunks(
    data: bytes, n_chunks: int, n_samples: int, optional: Container[int] = ()
) -> list[NDArray[np.int64] | None]:
    """Decode the first `n_chunks` chunks into `n_samples` counts each.

    A chunk whose index is `optional` and that cannot be decoded is None. Raises RecordError
    `bad_waveform` when a chunk is missing, longer than the data, not decodable or too short for its
    samples.
    """
    leads: list[NDArray[np.int64] | None] = []
    position = 0
    for lead in range(1, n_chunks + 1):
        if position + _HEADER.size > len(data):
            raise RecordError(
                "bad_waveform", f"the compressed data end before lead {lead} of {n_chunks}"
            )
        size, _, start = _HEADER.unpack_from(data, position)
        position += _HEADER.size
        n_left = len(data) - position
        if size > n_left:
            raise RecordError(
                "bad_waveform",
                f"lead {lead}: the file declares {size:,} compressed bytes "
                f"but only {n_left:,} are left",
            )
        try:
            expanded = _expand(data[position : position + size], 2 * n_samples, lead)
            leads.append(_integrate(expanded, start))
        except RecordError:
            if lead - 1 not in optional:
                raise
            leads.append(None)
        position += size
    return leads


def _expand(data: bytes, n_bytes: int, lead: int) -> bytes:
    """Undo LZW until `n_bytes` are there; what follows is padding.

    Raises RecordError when there are fewer bytes or a code among them means nothing.
    """
    # Every code stands for at least one byte, so no more codes than bytes are ever unpacked.
    codes = _unpack_codes(data[: n_bytes * _CODE_BITS // 8 + 5])
    strings, table = _decode_growing(codes[: _LAST_CODE + 2 - _N_LITERALS])
    table_is_full = len(table) > _LAST_CODE
    if table_is_full:  # so all further codes are plain look-ups of shared strings
        table.append(_MEANINGLESS)
        strings += map(table.__getitem__, codes[len(strings) :])
    lengths = np.fromiter(map(len, strings), np.int64, len(strings))
    ends = np.cumsum(lengths)
    n_used = int(np.searchsorted(ends, n_bytes)) + 1
    if n_used > len(strings):
        n_found = int(lengths.sum())
        raise RecordError(
            "bad_waveform",
            f"lead {lead}: the compressed data hold {n_found:,} bytes instead of {n_bytes:,}",
        )
    if not lengths[:n_used].all():
        raise RecordError(
            "bad_waveform", f"lead {lead}: the compressed data hold a code that means nothing"
        )
    return b"".join(strings[:n_used])[:n_bytes]


def _unpack_codes(data: bytes) -> list[int]:
    """Unpack 10-bit codes: five bytes are four codes; a rest too short for a code is padding."""
    padded = np.frombuffer(data + bytes(-len(data) % 5), np.uint8).reshape(-1, 5)
    b0, b1, b2, b3, b4 = padded.astype(np.uint16).T
    # aaaaaaaa aabbbbbb bbbbcccc ccccccdd dddddddd
    quads = np.stack(
        [
            b0 << 2 | b1 >> 6,
            (b1 & 63) << 4 | b2 >> 4,
            (b2 & 15) << 6 | b3 >> 2,
            (b3 & 3) << 8 | b4,
        ],
        axis=1,
    )
    n_codes = len(data) * 8 // _CODE_BITS
    codes: list[int] = quads.ravel()[:n_codes].tolist()
    return codes


def _decode_growing(codes: list[int]) -> tuple[list[bytes], list[bytes]]:
    """Decode the codes that add to the table, and return (their strings, the table).

    Every code but the first adds one string: the string before it, and its own first byte. Decoding
    ends at a code that means nothing. That is padding where enough was decoded before; the caller
    counts.
    """
    table = [bytes((byte,)) for byte in range(_N_LITERALS)]
    strings: list[bytes] = []
    previous = b""
    for code in codes:
        if code < len(table):
            string = table[code]
        elif previous and code == len(table):  # the string that this very code adds
            string = previous + previous[:1]
        else:
            break
        if previous:
            table.append(previous + string[:1])
        strings.append(string)
        previous = string
    return strings, table


def _integrate(expanded: bytes, start: int) -> NDArray[np.int64]:
    """Sum the second differences twice and wrap to 16 bits, as the C code of the format does."""
    n = len(expanded) // 2
    halves = np.frombuffer(expanded, np.uint8).astype(np.int64)
    high, low = halves[:n], halves[n:]
    w = (high << 8 | low).astype(np.int16).astype(np.int64)
    x = w.copy()
    if n > 2:
        d = np.concatenate([[start], w[2:-1] - 64])
        slope = (w[1] - w[0]) - np.cumsum(d)
        x[2:] = w[1] + np.cumsum(slope)
    return x.astype(np.int16).astype(np.int64)
