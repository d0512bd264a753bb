"""Philips `restingecgdata`: SierraECG 1.03, PhilipsECG 1.04, 1.04.01, 1.04.02 (PageWriter, TraceMaster, IntelliSpace).

    element (any namespace, or none)                         meaning                  required    accepted
    documentinfo/documenttype, documentversion               version                  yes         the four above; others refused by name
    waveforms/parsedwaveforms                                the rhythm               yes         exactly one (repbeats are mean beats: never read)
      @dataencoding                                                                   no          Base64 (default), Plain
      @compressflag + @compressmethod, or @compression       compression              no          XLI, or none
      @leadlabels, @numberofleads                            leads, in order          1.04+       standard names; the count found
      @durationperchannel                                    ms of each lead          yes         what the data hold
      @samplespersecond                                      rate, Hz                 no          as below, if both are given
      @resolution                                            µV of a count            no          as below, if both are given
      @signaloffset, @signalsigned, @bitspersample (@nbitspersample)                  no          a number; True; 16
    dataacquisition/signalcharacteristics
      samplingrate                                           rate, Hz                 if not above
      resolution, signalresolution                           µV of a count            if not above
      leadset, acquisitiontype                               leads of 1.03            1.03        STD-12

µV = (count - signaloffset) x resolution. With XLI, limb leads beyond I and II are stored as what their definition leaves over (c):
III = II - I - c, aVR = -c - floor((I + II) / 2), aVL = floor((I - III) / 2) - c, aVF = floor((II + III) / 2) - c.

The recording is returned whole. The 1 mV calibration pulse that most files carry after 10 s is cut by `conform`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgprep.errors import RecordError, describe
from ecgprep.leads import LEADS, canonical_lead
from ecgprep.readers.fields import (
    MAX_SAMPLES,
    collect_leads,
    decode_base64,
    number,
    parse_numbers,
    same_count,
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
STANDARD_12 = (*LEADS[:2], "III", "aVR", "aVL", "aVF", *LEADS[2:])
MAX_LEADS = 16


def read(root: Element) -> Recording:
    """Read the rhythm. Raises RecordError with a named reason for anything the table above does not allow."""
    _check_version(root)
    found = [w for w in root.findall("{*}waveforms/{*}parsedwaveforms") if (w.text or "").strip()]
    if not found:
        raise RecordError(
            "no_rhythm",
            "no parsedwaveforms with data (representative beats are not read in its place)",
        )
    if len(found) > 1:
        raise RecordError(
            "bad_waveform", f"{len(found)} parsedwaveforms; which one is meant is not said"
        )
    waveforms = found[0]
    signal = root.find("{*}dataacquisition/{*}signalcharacteristics")
    rate_hz = _agreed(
        waveforms.get("samplespersecond"),
        _text(signal, "samplingrate"),
        "sampling rate",
        "bad_rate",
    )
    resolution = _agreed(
        waveforms.get("resolution"),
        _text(signal, "resolution", "signalresolution"),
        "resolution",
        "bad_units",
    )
    labels = _labels(waveforms, signal)
    _check_samples(waveforms)
    seconds = (
        number(waveforms.get("durationperchannel"), "durationperchannel", "bad_waveform") / 1000
    )
    n_samples = round(seconds * rate_hz) if 0 < seconds * rate_hz <= MAX_SAMPLES else 0
    if not n_samples:
        raise RecordError(
            "bad_waveform",
            f"durationperchannel and rate give no number of samples from 1 to {MAX_SAMPLES:,}",
        )
    counts = _counts(waveforms, len(labels), n_samples)
    if _compression(waveforms):
        _rebuild_limb_leads(labels, counts)
    offset = number(
        waveforms.get("signaloffset") or _text(signal, "signaloffset") or "0",
        "signaloffset",
        "bad_waveform",
    )
    leads = collect_leads(
        zip(labels, counts, strict=True),
        lambda values, _: np.asarray((values - offset) * resolution, np.float64),
    )
    return Recording(leads, rate_hz, DIALECT)


def _text(parent: Element | None, *tags: str) -> str | None:
    """Return the text of the first of `tags` that is there and not empty."""
    for tag in tags if parent is not None else ():
        if text := (parent.findtext(f"{{*}}{tag}") or "").strip():  # type: ignore[union-attr]
            return text
    return None


def _check_version(root: Element) -> None:
    kind, version = (
        _text(root.find("{*}documentinfo"), tag) for tag in ("documenttype", "documentversion")
    )
    if ((kind or "").lower(), version) not in VERSIONS:
        raise RecordError(
            "unknown_format",
            "a Philips file whose type and version are none of SierraECG 1.03, PhilipsECG 1.04, 1.04.01, 1.04.02",
        )


def _agreed(one: str | None, other: str | None, what: str, reason: str) -> float:
    """Read a positive number that may stand in two places; they must agree."""
    values = {
        number(text, what, reason) for text in (one, other) if text is not None and text.strip()
    }
    if len(values) != 1 or min(values) <= 0:
        found = (
            "two different values"
            if len(values) > 1
            else "nothing"
            if not values
            else "a value that is not above 0"
        )
        raise RecordError(reason, f"{what} must be one number above 0; found {found}")
    return values.pop()


def _labels(waveforms: Element, signal: Element | None) -> list[str]:
    """Return the lead names in the order of the data; version 1.03 says only that they are the standard twelve."""
    stated = waveforms.get("leadlabels")
    if stated is None:
        kind = _text(signal, "leadset", "acquisitiontype")
        if kind != "STD-12":
            raise RecordError(
                "bad_waveform",
                f"leads are neither named nor the standard twelve (STD-12); found {describe(kind)}",
            )
        stated = " ".join(STANDARD_12)
    labels: list[str] = stated.replace(",", " ").split()
    declared = waveforms.get("numberofleads")
    if declared is not None:
        same_count(len(labels), int(number(declared, "numberofleads", "bad_waveform")), "leads")
    if not 1 <= len(labels) <= MAX_LEADS:
        raise RecordError("bad_waveform", f"{len(labels)} leads; 1 to {MAX_LEADS} are read")
    return labels


def _check_samples(waveforms: Element) -> None:
    bits = waveforms.get("bitspersample") or waveforms.get("nbitspersample") or "16"
    if bits.strip() != "16" or (waveforms.get("signalsigned") or "True").strip().lower() != "true":
        raise RecordError(
            "bad_waveform", "samples are not signed 16-bit numbers; no other kind is read"
        )


def _compression(waveforms: Element) -> bool:
    """Say whether the data are XLI; any other compression is refused."""
    method = waveforms.get("compression")
    if method is None and (waveforms.get("compressflag") or "").strip().lower() == "true":
        method = waveforms.get("compressmethod") or "?"
    kind = (method or "").strip().upper()
    if kind not in ("", "XLI", "NONE", "UNCOMPRESSED"):
        raise RecordError(
            "bad_waveform", f"compression must be XLI or none; found {describe(method)}"
        )
    return kind == "XLI"


def _counts(waveforms: Element, n_leads: int, n_samples: int) -> list[NDArray[np.int64]]:
    """Return `n_leads` arrays of `n_samples` counts; the data run lead after lead."""
    encoding = (waveforms.get("dataencoding") or "Base64").strip().lower()
    if encoding == "plain" and not _compression(waveforms):
        values = parse_numbers((waveforms.text or "").replace(",", " "), " ", "parsedwaveforms")
        same_count(len(values), n_leads * n_samples, "samples of all leads")
        return list(values.reshape(n_leads, n_samples))  # type: ignore[arg-type]
    if encoding != "base64":
        raise RecordError(
            "bad_waveform", f"dataencoding must be Base64 or Plain; found {describe(encoding)}"
        )
    data = decode_base64(waveforms.text, "parsedwaveforms")
    if _compression(waveforms):
        return decode_chunks(data, n_leads, n_samples)
    same_count(len(data), 2 * n_leads * n_samples, "bytes of all leads")
    return list(np.frombuffer(data, "<i2").astype(np.int64).reshape(n_leads, n_samples))


def _rebuild_limb_leads(labels: list[str], counts: list[NDArray[np.int64]]) -> None:
    """Turn the stored remainders of III, aVR, aVL and aVF into the leads, in place."""
    place = {canonical_lead(label): k for k, label in enumerate(labels)}
    derived = [name for name in ("III", "aVR", "aVL", "aVF") if name in place]
    if derived and not {"I", "II"} <= place.keys():
        raise RecordError(
            "bad_waveform",
            f"{', '.join(derived)} are stored as remainders, but lead I or II is not there",
        )
    if derived:
        one, two = counts[place["I"]], counts[place["II"]]
        three = two - one - counts[place["III"]] if "III" in place else two - one
        whole = {"III": lambda c: two - one - c, "aVR": lambda c: -c - (one + two) // 2}
        whole |= {"aVL": lambda c: (one - three) // 2 - c, "aVF": lambda c: (two + three) // 2 - c}
        for name in derived:
            counts[place[name]] = whole[name](counts[place[name]])
