"""Write 12-lead signals as Philips XML, with the format's own compression: an encoder of XLI, independent of the reader's decoder."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from ecgprep.leads import TWELVE_LEADS

UV_PER_COUNT = 5


PULSE_COUNTS = 200
"""1 mV."""


Signal = NDArray[np.int64]


def philips(
    uv: Signal,
    rate_hz: int,
    code: str,
    version: str = "1.04",
    pulse: bool = True,
    compressed: bool = True,
) -> bytes:
    """Philips SierraECG 1.03 (UTF-8) or PhilipsECG 1.04, 1.04.01, 1.04.02 (UTF-16), twelve leads in counts of 5 µV.

    With `pulse`, an eleventh second follows that holds zeros and a 1 mV calibration pulse, as carts write it.
    """
    counts = np.rint(uv / UV_PER_COUNT).astype(np.int64)
    limb = {name: k for k, name in enumerate(TWELVE_LEADS)}
    one, two = counts[limb["I"]], counts[limb["II"]]
    three = two - one
    for name, lead in {
        "III": three,
        "aVR": -((one + two) // 2),
        "aVL": (one - three) // 2,
        "aVF": (two + three) // 2,
    }.items():
        counts[limb[name]] = lead + (
            np.arange(len(one)) % 7 == 0
        )  # real files differ from the definition by a count here and there
    if pulse:
        tail = np.zeros((len(counts), rate_hz), np.int64)
        tail[:, int(0.7 * rate_hz) : int(0.9 * rate_hz)] = PULSE_COUNTS
        counts = np.hstack([counts, tail])
    data = _compress(counts) if compressed else counts.astype("<i2").tobytes()
    return _document(
        base64.encodebytes(data).decode(),
        counts.shape[1],
        rate_hz,
        escape(code),
        version,
        compressed,
    )


def _document(
    text: str, n_samples: int, rate_hz: int, code: str, version: str, compressed: bool
) -> bytes:
    duration = round(1000 * n_samples / rate_hz)
    old = version == "1.03"
    if old:
        flag = 'compressflag="True" compressmethod="XLI"' if compressed else 'compressflag="False"'
        attributes = (
            f'{flag} dataencoding="Base64" durationperchannel="{duration}" nbitspersample="16"'
        )
        signal = f"<signalresolution>{UV_PER_COUNT}</signalresolution><leadset>STD-12</leadset>"
    else:
        attributes = (
            f'dataencoding="Base64"{" compression=" + chr(34) + "XLI" + chr(34) if compressed else ""} numberofleads="12" '
            f'leadlabels="{" ".join(TWELVE_LEADS)}" durationperchannel="{duration}" samplespersecond="{rate_hz}" '
            f'resolution="{UV_PER_COUNT:.2f}" signaloffset="0" signalsigned="True" bitspersample="16"'
        )
        signal = (
            f"<resolution>{UV_PER_COUNT}</resolution><acquisitiontype>10-WIRE</acquisitiontype>"
        )
    encoding, kind = ("UTF-8", "SierraECG") if old else ("UTF-16", "PhilipsECG")
    document = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n<restingecgdata xmlns="http://www3.medical.philips.com">\n'
        f"<documentinfo><documenttype>{kind}</documenttype><documentversion>{version}</documentversion></documentinfo>\n"
        f"<dataacquisition><signalcharacteristics><samplingrate>{rate_hz}</samplingrate>{signal}</signalcharacteristics></dataacquisition>\n"
        f"<patient><generalpatientdata><patientid>{code}</patientid><name><lastname>Müller {code}</lastname></name></generalpatientdata></patient>\n"
        f"<waveforms><parsedwaveforms {attributes}>\n{text}</parsedwaveforms>\n"
        '<repbeats samplespersec="500" resolution="5"><repbeat leadname="I"><waveform duration="1200">AAAA</waveform></repbeat></repbeats>'
        "</waveforms>\n</restingecgdata>\n"
    )
    return document.encode(encoding)


def _compress(counts: Signal) -> bytes:
    """Return sixteen chunks: the twelve leads, limb leads as remainders, and four of zeros that nobody declared."""
    one, two, three, avr, avl, avf = counts[:6]
    stored = counts.copy()
    stored[2] = two - one - three
    stored[3] = -((one + two) // 2) - avr
    stored[4] = (one - three) // 2 - avl
    stored[5] = (two + three) // 2 - avf
    return b"".join(_chunk(lead) for lead in [*stored, *np.zeros((4, counts.shape[1]), np.int64)])


def _chunk(x: Signal) -> bytes:
    """Encode one lead: second differences, split into high and low bytes, LZW with 10-bit codes."""
    w = np.zeros(len(x), np.int64)
    w[:2] = x[:2]
    # x_n = 2 x_(n-1) - x_(n-2) - d_n, with d_2 = start and d_n = w_(n-1) - 64: so w_(n-1) follows from x_n, and w_1 is x_1 itself.
    d = 2 * x[1:-1] - x[:-2] - x[2:]
    start = int(d[0].astype(np.int16))  # everything is modulo 2^16
    w[2:-1] = d[1:] + 64
    words = w.astype(np.int16).view(np.uint16)
    payload = _lzw(
        (words >> 8).astype(np.uint8).tobytes() + (words & 255).astype(np.uint8).tobytes()
    )
    return struct.pack("<IHh", len(payload), 1, start) + payload


def _lzw(data: bytes, last_code: int = 1022) -> bytes:
    """Compress with fixed 10-bit codes, most significant bit first, into a table that is never emptied."""
    table = {bytes((i,)): i for i in range(256)}
    codes: list[int] = []
    current = b""
    for byte in data:
        longer = current + bytes((byte,))
        if longer in table:
            current = longer
            continue
        codes.append(table[current])
        if len(table) <= last_code:
            table[longer] = len(table)
        current = longer[-1:]
    codes.append(table[current])
    bits = "".join(f"{code:010b}" for code in codes)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


VERSIONS: Sequence[str] = ("1.03", "1.04", "1.04.01", "1.04.02")
