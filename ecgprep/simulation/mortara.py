"""Write Mortara ELI Link files as the open readers of them describe the format."""

from __future__ import annotations

import base64
from html import escape

import numpy as np
from numpy.typing import NDArray

from ecgprep.header import Header
from ecgprep.leads import TWELVE_LEADS
from ecgprep.simulation.headers import EXAMPLE, acquired, measured_texts, year_of_birth

COUNTS_PER_MV = 400

Signal = NDArray[np.int64]


def mortara(uv: Signal, rate_hz: int, code: str, header: Header = EXAMPLE) -> bytes:
    """Write Mortara ELI Link: counts of 2.5 µV in Base64, all in attributes, UTF-8.

    The typical cycle comes first; a reader must not take it.
    """
    counts = np.rint(uv * (COUNTS_PER_MV / 1000)).astype("<i2")
    at, born = acquired(header), year_of_birth(header)
    code = escape(code)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<ECG ACQUISITION_TIME="{at:%Y%m%d%H%M%S}" ACQUISITION_TIME_XML="{header.acquired_at}" '
        f'AGE="{header.age_years:g}" AGE_UNITS="YEARS" VENT_RATE="{header.heart_rate_bpm:g}">\n'
        '<SOURCE TYPE="ELI" MANUFACTURER="Mortara Instrument, Inc." MODEL="ELI 280"/>\n'
        f'<SUBJECT LAST_NAME="Müller {code}" FIRST_NAME="Zoë" ID="{code}" '
        f'GENDER="{"FEMALE" if header.sex == "F" else "MALE"}" '
        f'DOB="{born}0101" DOB_XML="{born}-01-01"/>\n'
        f'<DEMOGRAPHIC_FIELDS><DEMOGRAPHIC_FIELD ID="2" LABEL="ID:" VALUE="{code}"/>'
        "</DEMOGRAPHIC_FIELDS>\n"
        f"{_typical_cycle(counts[:, : int(1.2 * rate_hz)], rate_hz, header)}"
        f"{''.join(_channel(*lead, rate_hz) for lead in zip(TWELVE_LEADS, counts, strict=True))}"
        "</ECG>\n"
    ).encode()


def _typical_cycle(counts: NDArray[np.int16], rate_hz: int, header: Header) -> str:
    m = measured_texts(header)
    beats = "".join(
        f'<TYPICAL_CYCLE_CHANNEL NAME="{lead}" DATA="{_base64(samples)}"/>\n'
        for lead, samples in zip(TWELVE_LEADS, counts, strict=True)
    )
    return (
        f"<TYPICAL_CYCLE {_format(counts.shape[1], rate_hz)} "
        f'PR_DURATION="{m["pr_ms"]}" QRS_DURATION="{m["qrs_ms"]}" QT="{m["qt_ms"]}" '
        f'QTC="{m["qtc_ms"]}" P_AXIS="{m["p_axis_deg"]}" QRS_AXIS="{m["qrs_axis_deg"]}" '
        f'T_AXIS="{m["t_axis_deg"]}">\n{beats}</TYPICAL_CYCLE>\n'
    )


def _channel(lead: str, samples: NDArray[np.int16], rate_hz: int) -> str:
    form = _format(len(samples), rate_hz)
    return f'<CHANNEL NAME="{lead}" OFFSET="0" {form} DATA="{_base64(samples)}"/>\n'


def _format(n_samples: int, rate_hz: int) -> str:
    return (
        f'BITS="16" FORMAT="SIGNED" UNITS_PER_MV="{COUNTS_PER_MV}" '
        f'DURATION="{n_samples}" SAMPLE_FREQ="{rate_hz}" ENCODING="BASE64"'
    )


def _base64(samples: NDArray[np.int16]) -> str:
    return base64.b64encode(samples.tobytes()).decode()
