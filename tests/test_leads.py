"""Lead names, and which leads of a file must be whole."""

from __future__ import annotations

import base64
import re
import struct

import numpy as np
import pytest
from vendor_files import reason_of, replaced

from ecgprep.conform import Conformity, conform
from ecgprep.errors import RecordError
from ecgprep.leads import LEADS, TWELVE_LEADS, canonical_lead
from ecgprep.readers import read_bytes
from ecgprep.simulation.philips import philips
from ecgprep.simulation.vendors import aecg, cardiosoft, full_disclosure, muse, sapphire, schiller


@pytest.mark.parametrize("pattern", ["%s", " %s ", "Lead %s", "LEAD_%s", "ECG %s", "lead%s"])
@pytest.mark.parametrize("lead", [*TWELVE_LEADS, "V3R", "V7"])
def test_common_spellings_of_a_name_are_known(lead, pattern):
    for name in (lead, lead.upper(), lead.lower()):
        assert canonical_lead(pattern % name) == lead


@pytest.mark.parametrize("prefix", ["MDC_ECG_LEAD_", "MDC_ECG_ELEC_POTL_", "NOM_ECG_LEAD_"])
def test_codes_of_the_standards_are_known(prefix):
    """ISO/IEEE 11073-10101 writes AVR; files write aVR, too."""
    for lead in (*TWELVE_LEADS, "V3R", "V9"):
        assert canonical_lead(f"{prefix}{lead.upper()}") == lead
        assert canonical_lead(f"{prefix}{lead}") == lead


def test_chest_leads_have_the_names_of_the_iec_and_of_japan_too():
    for n in range(1, 7):
        assert canonical_lead(f"C{n}") == canonical_lead(f"c{n}") == f"V{n}"
    assert canonical_lead("C4R") == canonical_lead("rV4") == canonical_lead("RV4") == "V4R"


@pytest.mark.parametrize(
    "name",
    [
        *["-aVR", "aVR-", "MDC_ECG_LEAD_AVRneg", "MDC_ECG_LEAD_dI", "VR", "VL", "VF", "D1", "DI"],
        *["X", "Y", "Z", "CC5", "CM5", "MCL1", "A1", "V0", "V10", "C10", "IIII", "I II", "V1V2"],
        *["", "1", "Lead 1", "LEAD_", "MDC_ECG_", "MDC_ECG_LEAD_", "MDC_ECG_LEAD_LEAD_I"],
    ],
)
def test_name_with_another_meaning_or_none_is_unknown(name):
    assert canonical_lead(name) is None


def as_utf8(data: bytes) -> bytes:
    return data.decode("utf-16").encode()


WRITTEN = {
    "muse": (lambda uv: muse(uv, 500, "X"), "<LeadID>{}<"),
    "aecg": (lambda uv: aecg(uv, 500, "X"), '"MDC_ECG_LEAD_{}"'),
    "cardiosoft": (lambda uv: cardiosoft(uv, 500, "X"), 'lead="{}"'),
    "full_disclosure": (lambda uv: full_disclosure(uv, 500, "X"), ",{},"),
    "philips": (lambda uv: as_utf8(philips(uv, 500, "X", compressed=False)), " {} "),
    "schiller": (lambda uv: schiller(uv, 500, "X"), "<name>{}<"),
    "sapphire": (lambda uv: sapphire(uv, 500, "X"), 'lead="{}"'),
}
"""Dialect -> its writer, and how its files name a lead."""


def renamed(uv: np.ndarray, dialect: str, name: str) -> bytes:
    """Write a file that calls V2 by another name."""
    write, pattern = WRITTEN[dialect]
    new = pattern.replace("MDC_ECG_LEAD_", "").format(name)
    return replaced(write(uv), pattern.format("V2"), new, count=0)


@pytest.mark.parametrize("dialect", WRITTEN)
def test_iec_name_is_known_in_every_dialect(uv, dialect):
    recording = read_bytes(renamed(uv, dialect, "C2"))
    assert np.abs(recording.leads_uv["V2"][:5000] - uv[7]).max() <= 2.5
    assert recording.unknown_leads == ()


@pytest.mark.parametrize("dialect", WRITTEN)
def test_unknown_name_is_said_in_every_dialect(uv, dialect):
    recording = read_bytes(renamed(uv, dialect, "CM5"))
    assert "V2" not in recording.leads_uv
    assert recording.unknown_leads == ("CM5",)
    assert recording.notes == ("1 lead with an unknown name is left out: CM5",)
    mask = conform(recording, Conformity()).lead_mask
    assert mask.tolist() == [lead != "V2" for lead in LEADS]


def test_name_that_may_be_free_text_is_described(uv):
    recording = read_bytes(renamed(uv, "cardiosoft", "Jane Roe"))
    assert recording.unknown_leads == ("a name of 8 characters",)


def test_file_without_a_known_lead_says_which_names_it_has(uv):
    data = re.sub(rb"MDC_ECG_LEAD_\w+", b"MDC_ECG_LEAD_X", aecg(uv, 500, "X", leads=("I", "II")))
    with pytest.raises(RecordError, match="2 leads with unknown names .* MDC_ECG_LEAD_X") as caught:
        read_bytes(data)
    assert caught.value.reason == "bad_waveform"


def test_too_few_leads_because_of_a_name_says_so(uv):
    with pytest.raises(RecordError, match="1 lead with an unknown name is left out: CM5") as caught:
        conform(read_bytes(renamed(uv, "aecg", "CM5")), Conformity(min_leads=8))
    assert caught.value.reason == "leads_missing"


def emptied_muse(data: bytes, lead: str) -> bytes:
    """Take the samples of one lead out of the rhythm, and leave its counts and checksum."""
    median, rhythm = data.split(b"Rhythm")
    pattern = f"(<LeadID>{lead}<(?:(?!</LeadData>).)*<WaveFormData>)[^<]*"
    return median + b"Rhythm" + replaced(rhythm, pattern, r"\1")


def digits_of(lead: str) -> str:
    return rf"(_{lead}\"(?:(?!<digits>).)*<digits>)[^<]*"


EMPTIED = {
    "muse": lambda uv, lead: emptied_muse(muse(uv, 500, "X", leads=TWELVE_LEADS), lead),
    "aecg": lambda uv, lead: replaced(aecg(uv, 500, "X"), digits_of(lead.upper()), r"\1"),
    "cardiosoft": lambda uv, lead: replaced(
        cardiosoft(uv, 500, "X"), f'(<StripData>.*lead="{lead}">)[^<]*', r"\1\n"
    ),
    "schiller": lambda uv, lead: replaced(
        schiller(uv, 500, "X"), f"(ECG_RHYTHMS.*<name>{lead.upper()}<.*?<data>)[^<]*", r"\1"
    ),
    "sapphire": lambda uv, lead: replaced(
        sapphire(uv, 500, "X"), f'(<wav>.*lead="{lead}".*? V=")[^"]*', r"\1"
    ),
}
"""Dialect -> a file whose one lead has no samples."""


@pytest.mark.parametrize("dialect", EMPTIED)
@pytest.mark.parametrize("lead", ["aVF", "V2", "I"])
def test_lead_without_samples_is_a_missing_lead(uv, dialect, lead):
    recording = read_bytes(EMPTIED[dialect](uv, lead))
    assert set(recording.leads_uv) == set(TWELVE_LEADS) - {lead}
    assert recording.notes == (f"lead {lead} is empty and left out",)
    row = conform(recording, Conformity())
    assert row.lead_mask.tolist() == [name != "V2" or lead != "V2" for name in LEADS]
    assert np.abs(row.waveform[0] - uv[0]).max() <= 7  # I is derived where it is missing


def test_recording_whose_leads_are_all_empty_is_refused(uv):
    data = replaced(aecg(uv, 500, "X"), "<digits>[^<]*", "<digits>", count=0)
    with pytest.raises(RecordError, match="the leads hold no samples") as caught:
        read_bytes(data)
    assert caught.value.reason == "bad_waveform"


FAULTS = {
    "length": ("<digits>-?[0-9]+ ", "<digits>", "bad_waveform"),
    "samples": ("<digits>", "<digits>x ", "bad_waveform"),
    "unit": ('(<scale value="1" unit=")uV', r"\1furlong", "bad_units"),
    "scale": ('<scale value="1"', '<scale value="0"', "bad_units"),
}
"""What may be wrong with one lead of an aECG: pattern, replacement, reason."""


def faulty_aecg(data: bytes, lead: str, fault: str) -> bytes:
    """Break one thing of one lead."""
    start = data.index(f'_{lead.upper()}"'.encode())
    old, new, _ = FAULTS[fault]
    return data[:start] + replaced(data[start:], old, new)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_a_lead_that_no_store_keeps_leaves_it_out(uv, fault):
    recording = read_bytes(faulty_aecg(aecg(uv, 500, "X"), "aVF", fault))
    assert set(recording.leads_uv) == set(TWELVE_LEADS) - {"aVF"}
    (note,) = recording.notes
    assert note.startswith("lead aVF is left out (lead aVF")
    row = conform(recording, Conformity())
    np.testing.assert_array_equal(row.waveform[1], uv[1])


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_a_stored_lead_is_a_refusal(uv, fault):
    assert reason_of(faulty_aecg(aecg(uv, 500, "X"), "V2", fault)) == FAULTS[fault][2]


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_the_only_source_of_a_stored_lead_is_a_refusal(uv, fault):
    data = aecg(uv, 500, "X", leads=("II", "III", "V1"))
    assert reason_of(faulty_aecg(data, "III", fault)) == FAULTS[fault][2]


def test_fault_of_one_of_several_sources_leaves_it_out(uv):
    data = faulty_aecg(aecg(uv, 500, "X", leads=("II", "III", "aVF", "V1")), "III", "unit")
    row = conform(read_bytes(data), Conformity())
    assert np.abs(row.waveform[0] - uv[0]).max() <= 2  # from II and aVF


def with_muse_lead(data: bytes, change: tuple[str, str], name: str) -> bytes:
    """Add a copy of V1 under another name, with one change, to a MUSE rhythm."""
    start = data.rindex(b"<LeadData>", 0, data.rindex(b"<LeadID>V1<"))
    end = data.index(b"</LeadData>", start) + len(b"</LeadData>")
    lead = replaced(data[start:end], "<LeadID>V1<", f"<LeadID>{name}<")
    return replaced(data[:end] + replaced(lead, *change) + data[end:], "Leads>8<", "Leads>9<", 0)


MUSE_FAULTS = {
    "checksum": (r"CRC32>\d+", "CRC32>1"),
    "start": ("TimeOffset>0", "TimeOffset>250"),
    "base64": ("<WaveFormData>\n...", "<WaveFormData>\n!!!"),
    "twice": ("(<LeadSampleSize>2<.*?>)", r"\1<LeadSampleSize>4</LeadSampleSize>"),
    "size": ("SampleSize>2", "SampleSize>4"),
}


@pytest.mark.parametrize("fault", MUSE_FAULTS)
def test_fault_of_an_extra_muse_lead_leaves_it_out(uv, fault):
    data = with_muse_lead(muse(uv, 500, "X"), MUSE_FAULTS[fault], "V3R")
    recording = read_bytes(data)
    assert set(recording.leads_uv) == set(LEADS)
    assert recording.notes[0].startswith("lead V3R is left out (lead V3R")


@pytest.mark.parametrize("name", ["V1", "C1"])
def test_stored_lead_that_comes_twice_is_refused(uv, name):
    data = with_muse_lead(muse(uv, 500, "X"), ("CRC32", "CRC32"), name)
    with pytest.raises(RecordError, match="lead V1 is stored twice"):
        read_bytes(data)


def test_empty_copy_of_a_lead_does_not_count(uv):
    empty = ("<WaveFormData>.*?</WaveFormData>", "<WaveFormData/>")
    recording = read_bytes(with_muse_lead(muse(uv, 500, "X"), empty, "V1"))
    assert recording.notes == ()
    assert np.abs(recording.leads_uv["V1"] - uv[6]).max() <= 2.44


def test_extra_lead_that_comes_twice_is_left_out(uv):
    data = with_muse_lead(muse(uv, 500, "X"), ("CRC32", "CRC32"), "V3R")
    data = with_muse_lead(data.replace(b"Leads>9<", b"Leads>8<"), ("CRC32", "CRC32"), "V3R")
    data = data.replace(b"Leads>9<", b"Leads>10<")
    recording = read_bytes(data)
    assert recording.notes == ("lead V3R is left out (lead V3R is stored twice)",)


def test_number_of_leads_still_counts_the_empty_ones(uv):
    empty = ("<WaveFormData>.*?</WaveFormData>", "<WaveFormData/>")
    data = with_muse_lead(muse(uv, 500, "X"), empty, "V3R")
    assert read_bytes(data).notes == ("lead V3R is empty and left out",)
    assert reason_of(data.replace(b"Leads>9<", b"Leads>8<")) == "bad_waveform"


def test_damaged_chunk_of_a_philips_lead_that_no_store_keeps_leaves_it_out(uv):
    """Without its chunk III is not known, and neither are aVL and aVF, which rest on it."""
    whole = read_bytes(philips(uv, 500, "X"))
    text = philips(uv, 500, "X").decode("utf-16").encode()
    encoded = re.search(rb'bitspersample="16">([^<]*)', text)[1]
    data = bytearray(base64.b64decode(encoded))
    place = 0
    for _ in range(2):
        place += 8 + struct.unpack_from("<I", data, place)[0]
    (size,) = struct.unpack_from("<I", data, place)
    data[place + 8 : place + 8 + size] = b"\xff" * size
    recording = read_bytes(text.replace(encoded, base64.b64encode(bytes(data))))
    assert set(recording.leads_uv) == {*LEADS, "aVR"}
    assert len(recording.notes) == 3
    for lead in (*LEADS, "aVR"):
        np.testing.assert_array_equal(recording.leads_uv[lead], whole.leads_uv[lead])


def test_muse_flags_of_the_cart_are_kept_per_lead(uv):
    data = replaced(
        muse(uv, 500, "X"), "(<LeadID>V2</LeadID>)", r"\1<BaselineSway>TRUE</BaselineSway>", 0
    )
    data = replaced(
        data,
        "(<LeadID>V3</LeadID>)",
        r"\1<BaselineSway>FALSE</BaselineSway><LeadOff>TRUE</LeadOff>",
        0,
    )
    recording = read_bytes(data)
    assert recording.baseline_sway == {"V2"}
    assert recording.lead_off == {"V3"}
