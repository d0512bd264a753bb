"""Mortara / Welch Allyn / Hillrom ELI Link `ECG` (ELI 230, 250, 280 and others).

No specification is public. The table is what BRAVEHEART, EDFbrowser, ecgdatakit and ecg2dcm agree
on, which were written for real exports.

    element                  meaning                      required  accepted
    CHANNEL                  one lead of the rhythm       yes       at least one
      @NAME                  name                         yes       standard names, any case
      @UNITS_PER_MV          counts of 1 mV               yes       above 0
      @SAMPLE_FREQ           rate, Hz                     yes       the same for all leads
      @BITS                  bits of a sample             no        16
      @FORMAT                kind of number               no        SIGNED
      @ENCODING              how DATA is written          no        BASE64
      @DURATION              samples, or milliseconds     no        what was found
      @OFFSET                unknown                      no        0
      @DATA, or the text     samples                      no        little-endian signed 16-bit

µV = count x 1000 / UNITS_PER_MV. A lead without samples is a missing lead. Any namespace will do.
An OFFSET other than 0 is refused: BRAVEHEART adds it to the counts, the others ignore it, and no
known export has one. TYPICAL_CYCLE holds mean beats and is never read.
"""

from __future__ import annotations

import numpy as np

from ecgprep.errors import RecordError, describe
from ecgprep.header import Header
from ecgprep.leads import canonical_lead
from ecgprep.readers.fields import (
    Microvolts,
    collect_leads,
    count,
    decode_base64,
    is_blank,
    number,
    positive,
    same_count,
)
from ecgprep.readers.header_fields import (
    age_years,
    all_at,
    child,
    identifier,
    iso_date,
    measurement,
    measurements,
    sex_of,
    stated_age,
    timestamp,
)
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "mortara"
FORMAT = {"BITS": "16", "FORMAT": "SIGNED", "ENCODING": "BASE64"}


def read(root: Element) -> Recording:
    """Read the rhythm. Raises RecordError for anything that the table above does not allow."""
    channels = root.findall("{*}CHANNEL")
    if not channels and root.find("{*}TYPICAL_CYCLE") is None:
        raise RecordError(
            "unknown_format",
            "the root element is ECG, but without CHANNEL it is no Mortara ELI Link file",
        )
    if not channels:
        raise RecordError(
            "no_rhythm", "CHANNEL: none found (typical cycles are not read in its place)"
        )
    labelled = [(channel.get("NAME"), channel) for channel in channels]
    leads = collect_leads(labelled, _lead_uv)
    # A channel that is no standard lead, such as respiration, may have a rate of its own.
    stored = [channel for name, channel in labelled if canonical_lead(name or "")]
    rate_hz = _rate_hz(stored or channels)
    return Recording(leads.uv, rate_hz, DIALECT, unknown_leads=leads.unknown, notes=leads.notes)


def _rate_hz(channels: list[Element]) -> float:
    rates_hz = {number(c.get("SAMPLE_FREQ"), "SAMPLE_FREQ", "bad_rate") for c in channels}
    if len(rates_hz) > 1:
        raise RecordError(
            "bad_rate", f"the leads have {len(rates_hz)} different rates; one is allowed"
        )
    return rates_hz.pop()


def _lead_uv(channel: Element, name: str) -> Microvolts:
    """Decode one lead: Base64 -> [low byte, high byte] per sample -> counts -> µV."""
    text = channel.get("DATA") or channel.text
    if is_blank(text):
        return np.empty(0)
    _check_format(channel, name)
    data = decode_base64(text, f"lead {name}: DATA")
    if len(data) % 2:
        raise RecordError(
            "bad_waveform",
            f"lead {name}: DATA holds {len(data)} bytes, not a whole number of 16-bit samples",
        )
    counts = np.frombuffer(data, "<i2").astype(np.float64)
    _check_duration(channel, name, len(counts))
    per_mv = positive(channel.get("UNITS_PER_MV"), f"lead {name}: UNITS_PER_MV", "bad_units")
    return counts * (1000 / per_mv)


def _check_format(channel: Element, name: str) -> None:
    for attribute, only in FORMAT.items():
        found = (channel.get(attribute) or "").strip()
        if found and found.upper() != only:
            raise RecordError(
                "bad_waveform", f"lead {name}: {attribute} must be {only}; found {describe(found)}"
            )
    offset = (channel.get("OFFSET") or "").strip() or "0"
    if number(offset, f"lead {name}: OFFSET", "bad_units"):
        raise RecordError(
            "bad_units",
            f"lead {name}: OFFSET must be 0; what another one means has never been verified",
        )


def _check_duration(channel: Element, name: str, n_samples: int) -> None:
    """Compare with DURATION: a number of samples, or of milliseconds as some writers have it."""
    duration = count(channel.get("DURATION"), f"lead {name}: DURATION")
    rate_hz = positive(channel.get("SAMPLE_FREQ"), "SAMPLE_FREQ", "bad_rate")
    milliseconds = 1000 * n_samples / rate_hz  # infinite for a rate next to 0
    if duration is None or abs(duration - milliseconds) > 0.5:
        same_count(n_samples, duration, f"lead {name}, samples")


CYCLE_NAMES = ("PR_DURATION", "QRS_DURATION", "QT", "QTC", "P_AXIS", "QRS_AXIS", "T_AXIS")
"""In the order of MEASUREMENTS, behind the rate."""
PATIENT_ID, AGE, SEX, BIRTH = "2", "3", "4", "16"
"""IDs of demographic fields, whose labels are in the language of the cart."""


def read_header(root: Element) -> Header:
    """Read who, when and what the cart measured; never raises.

    element                                  meaning           unit, or accepted
    @ACQUISITION_TIME_XML                    day and time      YYYY-MM-DDTHH:MM:SS
    @ACQUISITION_TIME                        the same          YYYYMMDDHHMMSS
    @AGE, @AGE_UNITS                         age               years, months, weeks, days, hours
    @VENT_RATE                               rate              bpm
    SUBJECT@ID, or @LOCAL_ID                 patient
      @GENDER                                sex               MALE, FEMALE
      @DOB_XML, or @DOB                      age               YYYY-MM-DD, YYYYMMDD
    DEMOGRAPHIC_FIELDS/DEMOGRAPHIC_FIELD     as above, where SUBJECT does not say it
      @ID                                    what it is        2 patient, 3 age, 4 sex, 16 birth
      @VALUE, @UNITS                         its value
    TYPICAL_CYCLE                            of the mean beat
      @PR_DURATION, @QRS_DURATION, @QT       intervals         ms
      @QTB                                   QTc (Bazett)      ms
      @QTC                                   QTc, if not above ms; the correction is unknown
      @P_AXIS, @QRS_AXIS, @T_AXIS            axes              degrees
    """
    cycle = _attributes(child(root, "TYPICAL_CYCLE"))
    if measurement("qtc_ms", cycle.get("QTB")) is not None:
        cycle["QTC"] = cycle["QTB"]  # how the QTC itself was corrected is unknown
    subject = _attributes(child(root, "SUBJECT"))
    fields = _demographic_fields(root)
    acquired_at = timestamp(root.get("ACQUISITION_TIME_XML"))
    acquired_at = acquired_at or timestamp(root.get("ACQUISITION_TIME"))
    stated = stated_age(root.get("AGE"), root.get("AGE_UNITS"))
    if stated is None:
        stated = stated_age(fields.get(AGE), fields.get(f"{AGE} units"))
    births = (subject.get("DOB_XML"), subject.get("DOB"), fields.get(BIRTH))
    ids = (subject.get("ID"), subject.get("LOCAL_ID"), fields.get(PATIENT_ID))
    return Header(
        patient_id=next(filter(None, map(identifier, ids)), ""),
        acquired_at=acquired_at,
        age_years=age_years(stated, next(filter(None, map(iso_date, births)), ""), acquired_at),
        sex=sex_of(subject.get("GENDER")) or sex_of(fields.get(SEX)),
        **measurements([root.get("VENT_RATE"), *map(cycle.get, CYCLE_NAMES)]),
    )


def _attributes(element: Element | None) -> dict[str, str]:
    return {} if element is None else {str(k): str(v) for k, v in element.attrib.items()}


def _demographic_fields(root: Element) -> dict[str, str]:
    """Return ID -> value, and `ID units` -> unit, of the fields that the cart was set up with."""
    values: dict[str, str] = {}
    for field in all_at([root], "DEMOGRAPHIC_FIELDS", "DEMOGRAPHIC_FIELD"):
        key = (field.get("ID") or "").strip()
        values.setdefault(key, field.get("VALUE") or "")
        values.setdefault(f"{key} units", field.get("UNITS") or "")
    return values
