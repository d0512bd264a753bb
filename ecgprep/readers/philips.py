"""Philips `restingecgdata` (PageWriter, TraceMaster, IntelliSpace); any namespace, or none.

Versions: SierraECG 1.03, PhilipsECG 1.04, 1.04.01 and 1.04.02.

    element                                  meaning               required      accepted
    documentinfo/documenttype                product               yes           those above
    documentinfo/documentversion             version               yes           those above; any
                                                                                 other is noted
    waveforms/parsedwaveforms                the rhythm            yes           one with data
      @dataencoding                                                no            Base64 or Plain
      @compressflag and @compressmethod      compression in 1.03   no            XLI, or none
      @compression                           compression           no            XLI, or none
      @leadlabels                            leads, in order       1.04+         standard names
      @numberofleads                         count of leads        no            the count found
      @durationperchannel                    ms of each lead       yes           what the data hold
      @samplespersecond                      rate, Hz              here or       one value
      @resolution                            µV of a count         below         one value
      @signaloffset                          counts at 0 µV        no            a number
      @signalsigned                                                no            True
      @bitspersample, @nbitspersample                              no            16
    dataacquisition/signalcharacteristics
      samplingrate                           rate, Hz              if not above  the value above
      resolution, signalresolution           µV of a count         if not above  the value above
      leadset, acquisitiontype               leads of 1.03         1.03          STD-12

µV = (count - signaloffset) x resolution. Representative beats (repbeats) are never read.

With XLI, limb leads other than I and II are stored as what their definition leaves over (c):

    III = II - I - c                       aVL = floor((I - III) / 2) - c
    aVR = -c - floor((I + II) / 2)         aVF = floor((II + III) / 2) - c

The recording is returned whole. `conform` cuts the 1 mV calibration pulse that most files carry
after 10 s.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError, describe
from ecgprep.header import Header
from ecgprep.leads import LEADS, TWELVE_LEADS, canonical_lead
from ecgprep.readers.fields import (
    MAX_SAMPLES,
    Microvolts,
    collect_leads,
    decode_base64,
    exactly_one,
    number,
    parse_numbers,
    same_count,
)
from ecgprep.readers.header_fields import (
    age_years,
    child,
    clock_time,
    first_at,
    identifier,
    iso_date,
    measurements,
    moment,
    sex_of,
    stated_age,
    texts_of,
)
from ecgprep.readers.xli import decode_chunks
from ecgprep.readers.xml import Element
from ecgprep.recording import Recording

DIALECT = "philips"
VERSIONS = {
    ("sierraecg", "1.03"),
    ("philipsecg", "1.04"),
    ("philipsecg", "1.04.01"),
    ("philipsecg", "1.04.02"),
}
MAX_LEADS = 16
"""XLI always stores 16 chunks."""

VERIFIED = "SierraECG 1.03, PhilipsECG 1.04, 1.04.01, 1.04.02"
_PLAIN_VERSION = re.compile(r"[0-9.]{1,12}")

Counts = list[NDArray[np.int64] | None]
"""One array of counts per lead, in the order of the file's labels; None is damaged."""


def read(root: Element) -> Recording:
    """Read the rhythm. Raises RecordError for anything that the table above does not allow.

    A version that was never verified is read when it has the structure of those that were; the
    notes of the recording say so, or else the message.
    """
    note = _version_note(root)
    if note is None:
        return _read_rhythm(root)
    try:
        recording = _read_rhythm(root)
    except RecordError as error:
        raise RecordError(error.reason, f"{error.message}; {note}") from None
    return replace(recording, notes=(note, *recording.notes))


def _read_rhythm(root: Element) -> Recording:
    waveforms = _rhythm(root)
    signal = root.find("{*}dataacquisition/{*}signalcharacteristics")
    rate_hz = _agreed(
        waveforms.get("samplespersecond"),
        _text(signal, "samplingrate"),
        "sampling rate",
        "bad_rate",
    )
    uv_per_count = _agreed(
        waveforms.get("resolution"),
        _text(signal, "resolution", "signalresolution"),
        "resolution",
        "bad_units",
    )
    labels = _labels(waveforms, signal)
    _check_sample_format(waveforms)
    counts = _counts(waveforms, labels, _n_samples(waveforms, rate_hz))
    if _is_xli(waveforms):
        _rebuild_limb_leads(labels, counts)
    offset_text = waveforms.get("signaloffset") or _text(signal, "signaloffset") or "0"
    offset = number(offset_text, "signaloffset", "bad_waveform")

    def lead_uv(lead_counts: NDArray[np.int64] | None, name: str) -> Microvolts:
        if lead_counts is None:
            raise RecordError("bad_waveform", f"lead {name}: the compressed data are damaged")
        return np.asarray((lead_counts - offset) * uv_per_count, np.float64)

    leads = collect_leads(zip(labels, counts, strict=True), lead_uv)
    return Recording(leads.uv, rate_hz, DIALECT, unknown_leads=leads.unknown, notes=leads.notes)


def _version_note(root: Element) -> str | None:
    """Return None for a verified version, and what to say of another one of these products.

    Raises `unknown_format` for another product, and for a file without a version.
    """
    info = root.find("{*}documentinfo")
    product = (_text(info, "documenttype") or "").lower()
    version = _text(info, "documentversion")
    if (product, version) in VERSIONS:
        return None
    if version is None or product not in {known for known, _ in VERSIONS}:
        raise RecordError(
            "unknown_format",
            f"a Philips file whose type and version are none of {VERIFIED}",
        )
    shown = f"version {version}" if _PLAIN_VERSION.fullmatch(version) else "its version"
    return f"{shown} is none of those that were verified ({VERIFIED})"


def _rhythm(root: Element) -> Element:
    found = root.findall("{*}waveforms/{*}parsedwaveforms")
    with_data = [waveforms for waveforms in found if (waveforms.text or "").strip()]
    return exactly_one(with_data, "parsedwaveforms with data", "representative beats")


def _text(parent: Element | None, *tags: str) -> str | None:
    """Return the text of the first of `tags` that is there and not empty."""
    if parent is None:
        return None
    for tag in tags:
        text = (parent.findtext(f"{{*}}{tag}") or "").strip()
        if text:
            return text
    return None


def _agreed(of_waveforms: str | None, of_signal: str | None, what: str, reason: str) -> float:
    """Read a number above 0 that may be given in two places, which must agree."""
    places = {"parsedwaveforms": of_waveforms, "dataacquisition": of_signal}
    values = {
        place: number(text, what, reason) for place, text in places.items() if (text or "").strip()
    }
    distinct = set(values.values())
    if len(distinct) == 1 and min(distinct) > 0:
        return distinct.pop()
    found = " and ".join(f"{value:g} in {place}" for place, value in values.items()) or "nothing"
    raise RecordError(reason, f"{what} must be one number above 0; found {found}")


def _labels(waveforms: Element, signal: Element | None) -> list[str]:
    """Return the lead names in the order of the data.

    Version 1.03 only says that they are the standard twelve.
    """
    stated = waveforms.get("leadlabels")
    if stated is None:
        kind = _text(signal, "leadset", "acquisitiontype")
        if kind != "STD-12":
            raise RecordError(
                "bad_waveform",
                f"leads are neither named nor the standard twelve (STD-12); found {describe(kind)}",
            )
        stated = " ".join(TWELVE_LEADS)
    separator = "," if "," in stated else None  # None: any white space
    labels: list[str] = [label for label in stated.split(separator) if label.strip()]
    declared = waveforms.get("numberofleads")
    if declared is not None:
        same_count(len(labels), int(number(declared, "numberofleads", "bad_waveform")), "leads")
    if not 1 <= len(labels) <= MAX_LEADS:
        raise RecordError("bad_waveform", f"{len(labels)} leads; 1 to {MAX_LEADS} are read")
    return labels


def _check_sample_format(waveforms: Element) -> None:
    bits = waveforms.get("bitspersample") or waveforms.get("nbitspersample") or "16"
    signed = waveforms.get("signalsigned") or "True"
    if bits.strip() != "16" or signed.strip().lower() != "true":
        raise RecordError(
            "bad_waveform", "samples are not signed 16-bit numbers; no other kind is read"
        )


def _n_samples(waveforms: Element, rate_hz: float) -> int:
    """Compute the samples of each lead from its duration; the data must hold as many."""
    milliseconds = number(waveforms.get("durationperchannel"), "durationperchannel", "bad_waveform")
    exact = milliseconds / 1000 * rate_hz
    n_samples = round(exact) if 0 < exact <= MAX_SAMPLES else 0
    if not n_samples:
        raise RecordError(
            "bad_waveform",
            f"durationperchannel and rate give no number of samples from 1 to {MAX_SAMPLES:,}",
        )
    return n_samples


def _is_xli(waveforms: Element) -> bool:
    """Say whether the data are XLI. Raises RecordError for any other compression."""
    method = waveforms.get("compression")
    is_flagged = (waveforms.get("compressflag") or "").strip().lower() == "true"
    if method is None and is_flagged:
        method = waveforms.get("compressmethod") or "?"
    kind = (method or "").strip().upper()
    if kind not in ("", "XLI", "NONE", "UNCOMPRESSED"):
        raise RecordError(
            "bad_waveform", f"compression must be XLI or none; found {describe(method)}"
        )
    return kind == "XLI"


def _counts(waveforms: Element, labels: list[str], n_samples: int) -> Counts:
    """Decode an array of `n_samples` counts for each label; the data hold lead after lead."""
    n_leads = len(labels)
    encoding = (waveforms.get("dataencoding") or "Base64").strip().lower()
    is_xli = _is_xli(waveforms)
    if encoding == "plain" and not is_xli:
        return _plain_counts(waveforms.text or "", n_leads, n_samples)
    if encoding != "base64":
        raise RecordError(
            "bad_waveform", f"dataencoding must be Base64 or Plain; found {describe(encoding)}"
        )
    data = decode_base64(waveforms.text, "parsedwaveforms")
    if is_xli:
        optional = [k for k, label in enumerate(labels) if canonical_lead(label) not in LEADS]
        return decode_chunks(data, n_leads, n_samples, optional)
    # [low byte, high byte] of sample 0 of lead 0, of sample 1, … then lead 1
    same_count(len(data), 2 * n_leads * n_samples, "bytes of all leads")
    counts = np.frombuffer(data, "<i2").astype(np.int64)
    return list(counts.reshape(n_leads, n_samples))


def _plain_counts(text: str, n_leads: int, n_samples: int) -> Counts:
    counts = parse_numbers(text.replace(",", " "), " ", "parsedwaveforms", n_leads)
    same_count(len(counts), n_leads * n_samples, "samples of all leads")
    return list(counts.reshape(n_leads, n_samples))  # type: ignore[arg-type]  # may be decimals


def _rebuild_limb_leads(labels: list[str], counts: Counts) -> None:
    """Turn the stored remainders of III, aVR, aVL and aVF into the leads, in place."""
    place = {canonical_lead(label): k for k, label in enumerate(labels)}
    derived = [name for name in ("III", "aVR", "aVL", "aVF") if name in place]
    if not derived:
        return
    if "I" not in place or "II" not in place:
        raise RecordError(
            "bad_waveform",
            f"{', '.join(derived)} are stored as remainders, but lead I or II is not there",
        )
    one, two = counts[place["I"]], counts[place["II"]]
    assert one is not None  # a lead that is needed is decoded or refused
    assert two is not None
    three: NDArray[np.int64] | None = two - one
    if "III" in place:
        three = _less(three, counts[place["III"]])
        counts[place["III"]] = three
    if "aVR" in place:
        counts[place["aVR"]] = _less(-((one + two) // 2), counts[place["aVR"]])
    if "aVL" in place:
        goldberger = None if three is None else (one - three) // 2
        counts[place["aVL"]] = _less(goldberger, counts[place["aVL"]])
    if "aVF" in place:
        goldberger = None if three is None else (two + three) // 2
        counts[place["aVF"]] = _less(goldberger, counts[place["aVF"]])


def _less(
    defined: NDArray[np.int64] | None, remainder: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    """Take the stored remainder from what the definition gives; None where either is damaged."""
    return None if defined is None or remainder is None else defined - remainder


MEASURED_IN = (
    ("interpretations", "interpretation", "globalmeasurements"),
    ("interpretations", "interpretation", "interpretationmeasurements"),
    ("internalmeasurements", "crossleadmeasurements"),
    ("measurements", "globalmeasurements"),
)
"""Where measurements stand: first what a reader of the ECG may have edited, then the cart's."""

MEASUREMENT_TAGS = (
    ("heartrate", "meanventrate"),
    ("print", "meanprint"),
    ("qrsdur", "meanqrsdur"),
    ("qtint", "meanqtint"),
    ("qtcb", "meanqtc"),
    ("pfrontaxis",),
    ("qrsfrontaxis",),
    ("tfrontaxis",),
)
"""In the order of MEASUREMENTS: the names of one measurement."""

EVERY_MEASUREMENT_TAG = tuple(tag for tags in MEASUREMENT_TAGS for tag in tags)
AGE_TAGS = ("years", "months", "weeks", "days", "hours")


def read_header(root: Element) -> Header:
    """Read who, when and what the cart measured; never raises.

        element                              meaning            unit, or accepted
        patient/generalpatientdata
          patientid, or MRN                  patient            `---` is none
          age/years, months, weeks, days,    age                the unit is the name
            hours
          age/dateofbirth, or dateofbirth    age, if not above  YYYY-MM-DD
          sex                                sex                Male, Female
        dataacquisition@date, @time          day and time       YYYY-MM-DD, HH:MM:SS
        interpretation/globalmeasurements    1.04, may be edited
        interpretation/                      1.03, may be edited
          interpretationmeasurements
        internalmeasurements/                1.04, the cart's
          crossleadmeasurements
        measurements/globalmeasurements      1.03, the cart's
          heartrate, or meanventrate         rate               bpm
          print, or meanprint                PR                 ms
          qrsdur, or meanqrsdur              QRS                ms
          qtint, or meanqtint                QT                 ms
          qtcb, or meanqtc                   QTc (Bazett)       ms
          pfrontaxis, qrsfrontaxis,          axes               degrees; `Failed` and
            tfrontaxis                                          `Indeterminate` are none

    The first place that names a measurement decides, even where it is empty: who removes a wrong PR
    does not want the cart's back. age@defaultage is a setting of the cart, not the patient's age.
    """
    patient = first_at(root, "patient", "generalpatientdata")
    texts = texts_of(patient, ("patientid", "MRN", "sex", "dateofbirth"))
    acquisition = child(root, "dataacquisition")
    acquired_at = ""
    if acquisition is not None:
        acquired_at = moment(iso_date(acquisition.get("date")), clock_time(acquisition.get("time")))
    age = texts_of(child(patient, "age"), (*AGE_TAGS, "dateofbirth"))
    stated = [stated_age(age.get(unit), unit) for unit in AGE_TAGS]
    born = iso_date(age.get("dateofbirth") or texts.get("dateofbirth"))
    return Header(
        patient_id=identifier(texts.get("patientid")) or identifier(texts.get("MRN")),
        acquired_at=acquired_at,
        age_years=age_years(_first_above_0(stated), born, acquired_at),
        sex=sex_of(texts.get("sex")),
        **measurements(_measured_texts(root)),
    )


def _first_above_0(ages: list[float | None]) -> float | None:
    """Return the first age above 0, or 0 where an age is stated, or None: 0 years, 5 months."""
    return next((age for age in ages if age), 0.0 if 0.0 in ages else None)


def _measured_texts(root: Element) -> list[str | None]:
    """Return the text of each measurement from the first place that names it."""
    places = [texts_of(first_at(root, *path), EVERY_MEASUREMENT_TAG) for path in MEASURED_IN]
    return [
        next((place[tag] for place in places for tag in tags if tag in place), None)
        for tags in MEASUREMENT_TAGS
    ]
