"""Schiller SEMA `com.xiriuz.sema.xml.schillerEDI.SchillerEDI`.

    element                              meaning                required  accepted
    eventdata/event/wavedata             waveforms of one kind  yes       exactly one of ECG_RHYTHMS
      type (child or attribute)          kind                   yes       ECG_RHYTHMS
      resolution/samplerate/value        rate, Hz               yes       a number
      resolution/samplerate/exponent                            no        1 or 0
      resolution/yres/unitperbit, units  amplitude of a count   yes       above 0; NV, UV, MV
      channel/name                       lead                   yes       standard names, any case
      channel/datastype                  encoding               no        COMMASEPARATE
      channel/samplecount                samples                no        the count found
      channel/data                       samples                no        integers, comma-separated

µV = count x unitperbit x unit. A lead without samples is a missing lead. Wavedata of type
ECG_AVERAGES are mean beats and are never read. `exponent` is 1 in the only vendor file that is
public. What another value would mean is not known, so it is refused.
"""

from __future__ import annotations

from ecgprep.errors import RecordError, describe
from ecgprep.header import Header
from ecgprep.readers.fields import (
    Microvolts,
    check_count,
    collect_leads,
    count,
    exactly_one,
    number,
    parse_numbers,
    positive,
    text_of,
    unit_factor,
)
from ecgprep.readers.header_fields import (
    age_years,
    all_at,
    child,
    clock_time,
    first_at,
    identifier,
    iso_date,
    measurements,
    moment,
    sex_of,
    texts_of,
)
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "schiller"
UV_PER_UNIT = {"NV": 1e-3, "UV": 1.0, "MV": 1e3}


def read(root: Element) -> Recording:
    """Read the rhythm. Raises RecordError for anything that the table above does not allow."""
    wavedata = _rhythm(root)
    rate_hz = _rate_hz(wavedata)
    uv_per_count = _uv_per_count(wavedata)

    def lead_uv(channel: Element, name: str) -> Microvolts:
        return _counts(channel, name) * uv_per_count

    channels = wavedata.findall("{*}channel")
    # The name of the channel itself: annotations below it have names, too.
    labelled = [(text_of(channel, "{*}name"), channel) for channel in channels]
    leads = collect_leads(labelled, lead_uv)
    return Recording(leads.uv, rate_hz, DIALECT, unknown_leads=leads.unknown, notes=leads.notes)


def _rhythm(root: Element) -> Element:
    rhythms = []
    for wavedata in root.findall("{*}eventdata/{*}event/{*}wavedata"):
        kind = wavedata.get("type") or text_of(wavedata, "{*}type") or ""
        if kind.strip().upper() == "ECG_RHYTHMS":
            rhythms.append(wavedata)
    return exactly_one(rhythms, "wavedata of type ECG_RHYTHMS", "averages")


def _rate_hz(wavedata: Element) -> float:
    rate = wavedata.find("{*}resolution/{*}samplerate")
    if rate is None:
        raise RecordError("bad_rate", "samplerate is missing; it must be given")
    exponent = count(text_of(rate, "{*}exponent"), "samplerate/exponent")
    if exponent not in (None, 0, 1):
        raise RecordError("bad_rate", "samplerate/exponent must be 0 or 1")
    return number(text_of(rate, "{*}value"), "samplerate/value", "bad_rate")


def _uv_per_count(wavedata: Element) -> float:
    scale = wavedata.find("{*}resolution/{*}yres")
    if scale is None:
        raise RecordError("bad_units", "yres is missing; it must be given")
    unit = (text_of(scale, "{*}units") or "").upper()
    uv = unit_factor(unit, UV_PER_UNIT, "yres/units", "bad_units")
    return positive(text_of(scale, "{*}unitperbit"), "yres/unitperbit", "bad_units") * uv


def _counts(channel: Element, name: str) -> Microvolts:
    encoding = text_of(channel, "{*}datastype")
    if encoding is not None and encoding.upper() != "COMMASEPARATE":
        raise RecordError(
            "bad_waveform",
            f"lead {name}: datastype must be COMMASEPARATE; found {describe(encoding)}",
        )
    counts = parse_numbers(channel.findtext("{*}data"), ",", f"lead {name}")
    if not len(counts):
        return counts
    declared = text_of(channel, "{*}samplecount")
    check_count(len(counts), declared, "samplecount", f"lead {name}, samples")
    return counts


MEASUREMENT_NAMES = ("HR", "PQ", "QRS", "QT", "QTC", "AXIS_P", "AXIS_QRS", "AXIS_T")
"""In the order of MEASUREMENTS."""


def read_header(root: Element) -> Header:
    """Read who, when and what the cart measured; never raises.

        element                                meaning          unit, or accepted
        patdata/id                             patient
          birthdate                            age              YYYYMMDD
          gender                               sex              MALE, FEMALE
        examdescript/startdatetime/date, time  day and time     YYYYMMDD, HHMMSS
        eventdata/event/annotation_global      a measurement
          name                                 what it is       HR; PQ, QRS, QT, QTC; AXIS_P,
                                                                AXIS_QRS, AXIS_T
          value                                its value        bpm; ms; degrees; `-` is none

    The elements are those that the readers of CVRG and ecg2dcm name. AXIS_T follows AXIS_P.
    """
    patient = texts_of(child(root, "patdata"), ("id", "birthdate", "gender"))
    start = texts_of(first_at(root, "examdescript", "startdatetime"), ("date", "time"))
    acquired_at = moment(iso_date(start.get("date")), clock_time(start.get("time")))
    values: dict[str, str] = {}
    for annotation in all_at([root], "eventdata", "event", "annotation_global"):
        names, texts = all_at([annotation], "name"), all_at([annotation], "value")
        if len(names) == len(texts):
            for name, text in zip(names, texts, strict=True):
                values.setdefault((name.text or "").strip().upper(), text.text or "")
    return Header(
        patient_id=identifier(patient.get("id")),
        acquired_at=acquired_at,
        age_years=age_years(None, iso_date(patient.get("birthdate")), acquired_at),
        sex=sex_of(patient.get("gender")),
        **measurements(map(values.get, MEASUREMENT_NAMES)),
    )
