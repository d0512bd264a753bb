"""Write 12-lead signals as Philips XML with the format's own compression.

The encoder of XLI here is independent of the reader's decoder.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from ecgprep.header import Header
from ecgprep.leads import TWELVE_LEADS
from ecgprep.simulation.headers import EXAMPLE, acquired, measured_texts, year_of_birth

VERSIONS = ("1.03", "1.04", "1.04.01", "1.04.02")
"""Versions of the format that `philips` writes."""

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
    header: Header = EXAMPLE,
) -> bytes:
    """Write SierraECG 1.03 (UTF-8) or PhilipsECG 1.04, 1.04.01, 1.04.02 (UTF-16).

    `uv` is (12, n) µV in the order of TWELVE_LEADS; a count is 5 µV. With `pulse`, an eleventh
    second follows as carts write it: zeros and a 1 mV calibration pulse.
    """
    counts = _with_vendor_limb_leads(np.rint(uv / UV_PER_COUNT).astype(np.int64))
    if pulse:
        tail = np.zeros((len(counts), rate_hz), np.int64)
        tail[:, int(0.7 * rate_hz) : int(0.9 * rate_hz)] = PULSE_COUNTS
        counts = np.hstack([counts, tail])
    data = compress(counts) if compressed else counts.astype("<i2").tobytes()
    duration_ms = round(1000 * counts.shape[1] / rate_hz)
    if version == "1.03":
        layout = _layout_1_03(duration_ms, compressed, header)
    else:
        layout = _layout_1_04(duration_ms, rate_hz, compressed, header)
    encoded = base64.encodebytes(data).decode()
    document = _document(layout, version, rate_hz, escape(code), encoded, header)
    return document.encode(layout.encoding)


def _with_vendor_limb_leads(counts: Signal) -> Signal:
    """Derive the other limb leads from I and II by the vendor's floors.

    Real files differ from that definition by a count here and there, and so do these.
    """
    one, two = counts[0], counts[1]
    three = two - one
    derived = [three, -((one + two) // 2), (one - three) // 2, (two + three) // 2]
    a_count_off = np.arange(len(one)) % 7 == 0
    return np.vstack([one, two, np.stack(derived) + a_count_off, counts[6:]])


@dataclass(frozen=True)
class _Layout:
    """How a version of the format says what its data are."""

    encoding: str
    product: str
    signal: str
    """Elements of signalcharacteristics."""
    attributes: str
    """Attributes of parsedwaveforms."""
    age: str
    """Elements of age."""
    measurements: str
    """The cart's, and the interpretation with them, which may be edited."""


def _layout_1_03(duration_ms: int, compressed: bool, header: Header) -> _Layout:
    m = measured_texts(header)
    if compressed:
        compression = 'compressflag="True" compressmethod="XLI"'
    else:
        compression = 'compressflag="False"'
    return _Layout(
        encoding="UTF-8",
        product="SierraECG",
        signal=f"<signalresolution>{UV_PER_COUNT}</signalresolution><leadset>STD-12</leadset>",
        attributes=f'{compression} dataencoding="Base64" '
        f'durationperchannel="{duration_ms}" nbitspersample="16"',
        age=f"<years>{header.age_years:g}</years>",
        measurements="<interpretations><interpretation><interpretationmeasurements>"
        f"<heartrate>{m['heart_rate_bpm']}</heartrate><meanprint>{m['pr_ms']}</meanprint>"
        f"<meanqrsdur>{m['qrs_ms']}</meanqrsdur><meanqtint>{m['qt_ms']}</meanqtint>"
        f"<meanqtc>{m['qtc_ms']}</meanqtc>{_axes(m)}"
        "</interpretationmeasurements></interpretation></interpretations>\n",
    )


def _axes(texts: dict[str, str]) -> str:
    return (
        f"<pfrontaxis>{texts['p_axis_deg']}</pfrontaxis>"
        f"<qrsfrontaxis>{texts['qrs_axis_deg']}</qrsfrontaxis>"
        f"<tfrontaxis>{texts['t_axis_deg']}</tfrontaxis>"
    )


def _layout_1_04(duration_ms: int, rate_hz: int, compressed: bool, header: Header) -> _Layout:
    m = measured_texts(header)
    compression = ' compression="XLI"' if compressed else ""
    return _Layout(
        encoding="UTF-16",
        product="PhilipsECG",
        signal=f"<resolution>{UV_PER_COUNT}</resolution><acquisitiontype>10-WIRE</acquisitiontype>",
        attributes=f'dataencoding="Base64"{compression} numberofleads="12" '
        f'leadlabels="{" ".join(TWELVE_LEADS)}" '
        f'durationperchannel="{duration_ms}" samplespersecond="{rate_hz}" '
        f'resolution="{UV_PER_COUNT:.2f}" signaloffset="0" signalsigned="True" bitspersample="16"',
        age=f"<dateofbirth>{year_of_birth(header)}-01-01</dateofbirth>",
        measurements="<internalmeasurements><crossleadmeasurements>"
        "<meanventrate>99</meanventrate><meanqtc>444</meanqtc>"  # as before an edit
        "</crossleadmeasurements></internalmeasurements>\n"
        '<interpretations><interpretation><globalmeasurements editedflag="True">'
        f"<heartrate>{m['heart_rate_bpm']}</heartrate><print>{m['pr_ms']}</print>"
        f"<qrsdur>{m['qrs_ms']}</qrsdur><qtint>{m['qt_ms']}</qtint>"
        f"<qtcb>{m['qtc_ms']}</qtcb>{_axes(m)}"
        "</globalmeasurements></interpretation></interpretations>\n",
    )


def _document(
    layout: _Layout, version: str, rate_hz: int, code: str, data: str, header: Header
) -> str:
    at = acquired(header)
    return (
        f'<?xml version="1.0" encoding="{layout.encoding}"?>\n'
        '<restingecgdata xmlns="http://www3.medical.philips.com">\n'
        f"<documentinfo><documenttype>{layout.product}</documenttype>"
        f"<documentversion>{version}</documentversion></documentinfo>\n"
        f'<dataacquisition date="{at:%Y-%m-%d}" time="{at:%H:%M:%S}"><signalcharacteristics>'
        f"<samplingrate>{rate_hz}</samplingrate>{layout.signal}"
        "</signalcharacteristics></dataacquisition>\n"
        f"<patient><generalpatientdata><patientid>{code}</patientid>"
        f"<name><lastname>Müller {code}</lastname></name><age>{layout.age}</age>"
        f"<sex>{'Female' if header.sex == 'F' else 'Male'}</sex></generalpatientdata></patient>\n"
        f"{layout.measurements}"
        f"<waveforms><parsedwaveforms {layout.attributes}>\n{data}</parsedwaveforms>\n"
        '<repbeats samplespersec="500" resolution="5"><repbeat leadname="I">'
        '<waveform duration="1200">AAAA</waveform></repbeat></repbeats>'
        "</waveforms>\n</restingecgdata>\n"
    )


def compress(counts: Signal) -> bytes:
    """Return sixteen XLI chunks of (12, n) counts, limb leads as remainders.

    The last four are zeros that no label declares, as in real files.
    """
    one, two, three, avr, avl, avf = counts[:6]
    stored = counts.copy()
    stored[2] = two - one - three
    stored[3] = -((one + two) // 2) - avr
    stored[4] = (one - three) // 2 - avl
    stored[5] = (two + three) // 2 - avf
    undeclared = np.zeros((4, counts.shape[1]), np.int64)
    return b"".join(_chunk(lead) for lead in np.vstack([stored, undeclared]))


def _chunk(x: Signal) -> bytes:
    """Encode one lead: second differences, split into high and low bytes, LZW in 10-bit codes.

    The format defines x_n = 2 x_(n-1) - x_(n-2) - d_n with d_2 = start and d_n = w_(n-1) - 64, so
    w_(n-1) follows from x_n, and w_1 is x_1 itself. Everything is modulo 2^16.
    """
    d = 2 * x[1:-1] - x[:-2] - x[2:]
    start = int(d[0].astype(np.int16))
    w = np.zeros(len(x), np.int64)
    w[:2] = x[:2]
    w[2:-1] = d[1:] + 64
    words = w.astype(np.int16).view(np.uint16)
    high, low = (words >> 8).astype(np.uint8), (words & 255).astype(np.uint8)
    payload = lzw(high.tobytes() + low.tobytes())
    return struct.pack("<IHh", len(payload), 1, start) + payload


def lzw(data: bytes, last_code: int = 1022) -> bytes:
    """Compress with 10-bit codes, most significant bit first. The table is never emptied."""
    table = {bytes((byte,)): byte for byte in range(256)}
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
