"""Philips, Schiller, sapphire and CardioSoft's full disclosure: exact, or refused by name."""

from __future__ import annotations

import array
import base64
import re
import struct
import tracemalloc
from xml.etree import ElementTree  # noqa: TID251 - an independent parser

import numpy as np
import pytest
from vendor_files import assert_equals_reference, reason_of, replaced

from ecgprep.conform import Conformity, conform, without_calibration_pulse
from ecgprep.errors import RecordError
from ecgprep.header import MEASUREMENTS
from ecgprep.leads import LEADS, TWELVE_LEADS
from ecgprep.readers import NOT_SUPPORTED, parse_file, read_bytes, read_recording
from ecgprep.readers.xli import decode_chunks
from ecgprep.simulation.philips import VERSIONS, compress, lzw, philips
from ecgprep.simulation.vendors import (
    aecg,
    cardiosoft,
    full_disclosure,
    mortara,
    sapphire,
    schiller,
)

PHILIPS = [
    "sierra_129DYPRG.XML",
    "sierra_repbeats_example.xml",
    "sierra_3191723_ZZDEMOPTONLY_1-04_orig.xml",
    "tbj128_ecg-example.xml",
    "sierra_2020-5-18_15-48-11.xml",
]


@pytest.mark.parametrize("name", PHILIPS)
def test_philips_equals_the_reference_in_all_twelve_leads(samples, name):
    assert_equals_reference(samples, f"philips/{name}")


@pytest.mark.parametrize("name", PHILIPS)
def test_philips_calibration_pulse_is_cut(samples, name):
    recording = read_recording(samples / "data/xml/philips" / name)
    cut = without_calibration_pulse(recording)
    assert (recording.n_samples, cut.n_samples) == (5500, 5000)
    row = conform(recording, Conformity())
    np.testing.assert_array_equal(row.waveform[0], np.rint(recording.leads_uv["I"][:5000]))


def test_philips_of_another_product_is_refused_by_name(samples):
    with pytest.raises(RecordError, match=r"SierraECG 1\.03, PhilipsECG 1\.04") as caught:
        read_recording(samples / "data/xml/philips/sierra_invalid-doc-type.xml")
    assert caught.value.reason == "unknown_format"


def test_philips_of_a_version_never_verified_is_read_by_its_structure_and_said(samples):
    """The file is `sierra_repbeats_example.xml` with 1.05 for its version."""
    folder = samples / "data/xml/philips"
    found = read_recording(folder / "sierra_invalid-doc-version.xml")
    expected = read_recording(folder / "sierra_repbeats_example.xml")
    assert found.notes[0].startswith("version 1.05 is none of those that were verified")
    assert not expected.notes
    for lead, samples_uv in expected.leads_uv.items():
        np.testing.assert_array_equal(found.leads_uv[lead], samples_uv)


def test_philips_version_that_is_free_text_is_not_repeated(uv):
    data = replaced(as_utf8(philips(uv, 500, "X")), ">1.04<", ">Jane Roe<")
    (note,) = read_bytes(data).notes
    assert "Jane" not in note
    assert note.startswith("its version is none of those that were verified")


def test_philips_of_another_structure_is_refused_with_its_version(uv):
    data = replaced(as_utf8(philips(uv, 500, "X")), ">1.04<", ">2.0<")
    data = replaced(data, "parsedwaveforms", "waveformset", count=0)
    with pytest.raises(RecordError, match=r"version 2\.0 is none of those") as caught:
        read_bytes(data)
    assert caught.value.reason == "no_rhythm"


def test_philips_values_that_disagree_are_both_named(uv):
    data = replaced(
        as_utf8(philips(uv, 500, "X")), 'samplespersecond="500"', 'samplespersecond="1"'
    )
    with pytest.raises(RecordError, match="1 in parsedwaveforms and 500 in dataacquisition"):
        read_bytes(data)
    data = replaced(as_utf8(philips(uv, 500, "X")), 'resolution="5.00"', 'resolution="2.5"')
    with pytest.raises(RecordError, match=r"2\.5 in parsedwaveforms and 5 in dataacquisition"):
        read_bytes(data)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("version", VERSIONS)
def test_philips_versions_are_read(uv, version, compressed):
    recording = read_bytes(philips(uv, 500, "X", version=version, compressed=compressed))
    assert recording.n_samples == 5500
    for lead in ("I", "II", "V1", "V6"):
        assert np.abs(recording.leads_uv[lead][:5000] - uv[TWELVE_LEADS.index(lead)]).max() <= 2.5
    plain = read_bytes(philips(uv, 500, "X", version=version))
    np.testing.assert_array_equal(plain.leads_uv["aVL"], recording.leads_uv["aVL"])


def test_philips_of_ten_seconds_without_pulse_is_left_alone(uv):
    recording = read_bytes(philips(uv, 500, "X", pulse=False))
    assert without_calibration_pulse(recording) is recording
    long = read_bytes(philips(np.hstack([uv, uv]), 500, "X", pulse=False))
    assert without_calibration_pulse(long).n_samples == 10_000


def as_utf8(data: bytes) -> bytes:
    """Return the file as some exporters write it: declared as UTF-16, in UTF-8 bytes."""
    return data.decode("utf-16").encode()


def test_philips_utf8_bytes_declared_utf16_are_read(uv):
    data = philips(uv, 500, "X")
    assert b'encoding="UTF-16"' in as_utf8(data)
    found, expected = read_bytes(as_utf8(data)), read_bytes(data)
    np.testing.assert_array_equal(found.leads_uv["V2"], expected.leads_uv["V2"])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("PhilipsECG", "MortaraECG", "unknown_format"),
        (">1.04<", "><", "unknown_format"),
        ("<parsedwaveforms.*</parsedwaveforms>", "", "no_rhythm"),
        ('samplespersecond="500"', 'samplespersecond="1000"', "bad_rate"),
        ('resolution="5.00"', 'resolution="2.5"', "bad_units"),
        ('resolution="5.00"', 'resolution="x"', "bad_units"),
        ('compression="XLI"', 'compression="ZIP"', "bad_waveform"),
        ('dataencoding="Base64"', 'dataencoding="Hex"', "bad_waveform"),
        ('bitspersample="16"', 'bitspersample="14"', "bad_waveform"),
        ('signalsigned="True"', 'signalsigned="False"', "bad_waveform"),
        ('numberofleads="12"', 'numberofleads="15"', "bad_waveform"),
        ('leadlabels="I II', 'leadlabels="I I', "bad_waveform"),
        ('durationperchannel="11000"', 'durationperchannel="12000"', "bad_waveform"),
        ('durationperchannel="11000"', 'durationperchannel="1e12"', "bad_waveform"),
        ('durationperchannel="11000"', 'durationperchannel="0"', "bad_waveform"),
        ('bitspersample="16">\n[^<]{80}', 'bitspersample="16">', "bad_waveform"),
        ('bitspersample="16">[^<]*', 'bitspersample="16">AAAA', "bad_waveform"),
    ],
)
def test_philips_with_one_fault(uv, old, new, reason):
    assert reason_of(replaced(as_utf8(philips(uv, 500, "X")), old, new)) == reason


def test_philips_plain_numbers_offset_and_resolution(uv):
    data = as_utf8(philips(uv, 500, "X", pulse=False, compressed=False))
    counts = np.rint(uv / 5).astype(int)
    numbers = " ".join(map(str, counts.ravel()))
    plain = rf'dataencoding="Plain"\1>{numbers}'
    data = replaced(data, 'dataencoding="Base64"(.*?)>[^<]*', plain)
    data = replaced(data, 'signaloffset="0"', 'signaloffset="10"')
    np.testing.assert_array_equal(read_bytes(data).leads_uv["V6"], (counts[11] - 10) * 5.0)


def test_undeclared_chunks_are_never_decoded(uv):
    counts = np.rint(uv / 5).astype(np.int64)
    good = compress(counts)
    end_of_declared = 0
    for _ in range(12):
        (size,) = struct.unpack_from("<I", good, end_of_declared)
        end_of_declared += 8 + size
    garbage = good[:end_of_declared] + b"\xff" * 400
    found, expected = decode_chunks(garbage, 12, 5000), decode_chunks(good, 12, 5000)
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))


def test_xli_wraps_like_the_c_code_and_round_trips():
    generator = np.random.default_rng(0)
    x = generator.integers(-32768, 32767, (12, 700))
    x[2:6] = 0
    decoded = decode_chunks(compress(x), 12, 700)
    for k in (0, 1, 6, 11):
        np.testing.assert_array_equal(decoded[k], x[k])


def test_xli_bomb_stops_at_the_expected_bytes():
    """Codes that stand for 3 MB: decoding ends soon after the 10,000 bytes the lead must have."""
    payload = lzw(bytes(3_000_000))
    assert len(payload) < 12_000
    tracemalloc.start()
    try:
        decode_chunks(struct.pack("<IHh", len(payload), 1, 0) + payload, 1, 5000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 7, struct.pack("<IHh", 10**9, 1, 0), struct.pack("<IHh", 4, 1, 0) + b"\xff" * 4],
)
def test_xli_that_is_cut_or_nonsense_is_refused(data):
    with pytest.raises(RecordError) as caught:
        decode_chunks(data, 1, 100)
    assert caught.value.reason == "bad_waveform"


def test_base64_bomb_is_refused(uv):
    bomb = base64.b64encode(bytes(6_000_000)).decode()
    data = as_utf8(philips(uv, 500, "X"))
    data = replaced(data, 'bitspersample="16">[^<]*', f'bitspersample="16">{bomb}')
    assert reason_of(data) == "bad_waveform"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("ECG_RHYTHMS", "ECG_AVERAGES", "no_rhythm"),
        ("ECG_AVERAGES", "ECG_RHYTHMS", "bad_waveform"),
        ("(ECG_RHYTHMS.*?)<exponent>1", r"\1<exponent>3", "bad_rate"),
        ("(ECG_RHYTHMS.*?)<value>500", r"\1<value>", "bad_rate"),
        ("(ECG_RHYTHMS.*?)<units>UV", r"\1<units>", "bad_units"),
        ("(ECG_RHYTHMS.*?)<unitperbit>1.0", r"\1<unitperbit>0", "bad_units"),
        ("(ECG_RHYTHMS.*?)<samplecount>5000", r"\1<samplecount>4998", "bad_waveform"),
        ("(ECG_RHYTHMS.*?)COMMASEPARATE", r"\1BASE64", "bad_waveform"),
        ("(ECG_RHYTHMS.*?)<name>II<", r"\1<name>I<", "bad_waveform"),
    ],
)
def test_schiller_with_one_fault(uv, old, new, reason):
    assert reason_of(replaced(schiller(uv, 500, "X"), old, new)) == reason


def test_schiller_type_may_be_an_attribute_and_4998_samples_are_padded(uv):
    data = schiller(uv[:, :4998], 500, "X")
    data = replaced(data, r"<wavedata><type>(\w+)</type>", r'<wavedata type="\1">', count=0)
    assert conform(read_bytes(data), Conformity()).valid_span == (1, 4999)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<wav>.*</wav>", "", "no_rhythm"),
        ('(<wav>.*?)U="uV"', r"\1U='count'", "bad_units"),
        ('(<wav>.*?) S="4.88"', r"\1", "bad_units"),
        ("(<wav>.*?)<sampleRate[^>]*>", r"\1", "bad_rate"),
        ('(<wav>.*?)asizeVT="5000"', r'\1asizeVT="4999"', "bad_waveform"),
        ('(<wav>.*?)lead="II" label="II"', r'\1lead="I" label="I"', "bad_waveform"),
        ('(<wav>.*?) V="-?\\d+ ', r'\1 V="x ', "bad_waveform"),
    ],
)
def test_sapphire_with_one_fault(uv, old, new, reason):
    assert reason_of(replaced(sapphire(uv, 500, "X"), old, new)) == reason


def test_sapphire_sentinel_is_missing_and_masks_its_lead(uv):
    data = replaced(sapphire(uv, 500, "X"), '(<wav>.*?lead="V2".*?V=")-?\\d+ ', r"\1-32768 ")
    recording = read_bytes(data)
    assert np.isnan(recording.leads_uv["V2"]).sum() == 1
    row = conform(recording, Conformity())
    assert row.lead_mask.tolist() == [lead != "V2" for lead in LEADS]


def test_gain_that_overflows_is_no_warning_and_no_signal(uv):
    recording = read_bytes(replaced(sapphire(uv, 500, "X"), '(<wav>.*?) S="4.88"', r'\1 S="1e308"'))
    with pytest.raises(RecordError) as caught:
        conform(recording, Conformity())
    assert caught.value.reason in ("leads_missing", "out_of_range")


@pytest.mark.parametrize("rate_hz", [100, 500])
def test_full_disclosure_is_blocks_of_one_second_by_lead(uv, rate_hz):
    recording = read_bytes(full_disclosure(uv, rate_hz, "X"))
    for lead, samples_uv in recording.leads_uv.items():
        assert np.abs(samples_uv - uv[TWELVE_LEADS.index(lead)]).max() <= 2.5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<NumberOfChannels>12", "<NumberOfChannels>11"),
        ("<LeadOrder>I,II", "<LeadOrder>I,I"),
        (",V6<", "<"),
        (r"<FullDisclosureData>\s*-?\d+,", "<FullDisclosureData>"),
        (r"<LeadOrder>[^<]*</LeadOrder>", ""),
        (r'(Rate units="Hz">)500', r"\g<1>499"),
    ],
)
def test_full_disclosure_that_does_not_add_up_is_refused(uv, old, new):
    assert reason_of(replaced(full_disclosure(uv, 500, "X"), old, new)) == "bad_waveform"


def test_cardiosoft_nested_strip_and_numbered_limb_leads(uv):
    nested = r"<StripData><Strip>\1</Strip></StripData>"
    data = replaced(cardiosoft(uv, 500, "X"), "<StripData>(.*)</StripData>", nested)
    data = data.replace(b'lead="II"', b'lead="2"').replace(b'lead="III"', b'lead="3"')
    assert set(read_bytes(data).leads_uv) == set(TWELVE_LEADS)


def test_cardiosoft_strip_wins_over_full_disclosure(uv):
    two_seconds = full_disclosure(uv[:, :1000], 500, "X")
    disclosure = re.search(b"<FullDisclosure>.*</FullDisclosure>", two_seconds, re.DOTALL)[0]
    end = b"</CardiologyXML>"
    data = cardiosoft(uv, 500, "X").replace(end, disclosure + end)
    assert read_bytes(data).n_samples == 5000


@pytest.mark.parametrize("rate_hz", [250, 500, 1000])
def test_mortara_is_counts_by_the_units_per_mv_of_each_lead(uv, rate_hz):
    data = mortara(uv, rate_hz, "X")
    data = replaced(data, '("V2" [^>]*UNITS_PER_MV=)"400"', r'\1"200"')
    recording = read_bytes(data)
    assert (recording.rate_hz, set(recording.leads_uv)) == (rate_hz, set(TWELVE_LEADS))
    tree = ElementTree.fromstring(data)  # noqa: S314 - our own file
    for channel in tree.findall("CHANNEL"):
        counts = array.array("h", base64.b64decode(channel.get("DATA")))
        expected = np.array(counts) / float(channel.get("UNITS_PER_MV")) * 1000
        np.testing.assert_allclose(recording.leads_uv[channel.get("NAME")], expected, rtol=1e-12)


def test_mortara_equals_ecgdatakit_and_ecg2dcm(uv, tmp_path):
    ecgdatakit = pytest.importorskip("ecgdatakit")
    ecg2dcm = pytest.importorskip("ecg2dcm.adapters.mortara")
    path = tmp_path / "a.xml"
    path.write_bytes(mortara(uv, 500, "X"))
    found = read_recording(path).leads_uv
    for lead in ecgdatakit.FileParser().parse(path).leads:  # in mV
        np.testing.assert_allclose(1000 * np.asarray(lead.samples), found[lead.label], atol=1e-9)
    (rhythm,) = (w for w in ecg2dcm.parse(str(path)).waveforms if w.label == "Rhythm")
    for name, counts in rhythm.leads.items():
        np.testing.assert_allclose(counts * rhythm.units_per_bit, found[name], atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<CHANNEL [^>]*>", "", "no_rhythm"),
        ('(<CHANNEL [^>]*)UNITS_PER_MV="400"', r"\1", "bad_units"),
        ('(<CHANNEL [^>]*)UNITS_PER_MV="400"', r'\1UNITS_PER_MV="0"', "bad_units"),
        ('(<CHANNEL [^>]*)OFFSET="0"', r'\1OFFSET="12"', "bad_units"),
        ('(<CHANNEL [^>]*)SAMPLE_FREQ="500"', r'\1SAMPLE_FREQ="1000"', "bad_rate"),
        ('(<CHANNEL [^>]*)SAMPLE_FREQ="500"', r"\1", "bad_rate"),
        ('(<CHANNEL [^>]*)SAMPLE_FREQ="500"', r'\1SAMPLE_FREQ="1e-308"', "bad_rate"),
        ('(<CHANNEL [^>]*)BITS="16"', r'\1BITS="32"', "bad_waveform"),
        ('(<CHANNEL [^>]*)FORMAT="SIGNED"', r'\1FORMAT="UNSIGNED"', "bad_waveform"),
        ('(<CHANNEL [^>]*)ENCODING="BASE64"', r'\1ENCODING="HEX"', "bad_waveform"),
        ('(<CHANNEL [^>]*)DURATION="5000"', r'\1DURATION="4999"', "bad_waveform"),
        ('(<CHANNEL [^>]*)DATA="....', r'\1DATA="', "bad_waveform"),
        ('(<CHANNEL [^>]*)NAME="II"', r'\1NAME="I"', "bad_waveform"),
    ],
)
def test_mortara_with_one_fault(uv, old, new, reason):
    n = 0 if not new else 1
    assert reason_of(replaced(mortara(uv, 500, "X"), old, new, count=n)) == reason


def test_other_file_whose_root_is_ecg_is_of_an_unknown_format():
    with pytest.raises(RecordError, match="no Mortara ELI Link") as caught:
        read_bytes(b"<ECG><LEAD NAME='I'/></ECG>")
    assert caught.value.reason == "unknown_format"


def test_mortara_variants_are_read(uv):
    """Without what other readers take for granted, in milliseconds, as text, in a namespace."""
    data = mortara(uv, 500, "X")
    expected = read_bytes(data).leads_uv
    for old, new in (
        ('DURATION="5000"', 'DURATION="10000"'),
        ('DURATION="5000"', ""),
        ('OFFSET="0"', ""),
        ('(<CHANNEL [^>]*)BITS="16" FORMAT="SIGNED" ([^>]*)ENCODING="BASE64"', r"\1\2"),
        ("<ECG ", '<ECG xmlns="urn:eli-link" '),
        ('(<CHANNEL [^>]*) DATA="([^"]*)"/>', r"\1>\2</CHANNEL>"),
        ("</ECG>", '<CHANNEL NAME="RESP" SAMPLE_FREQ="50" DATA="?"/></ECG>'),
    ):
        found = read_bytes(replaced(data, old, new, count=0)).leads_uv
        for lead, values in expected.items():
            np.testing.assert_array_equal(found[lead], values)


def test_mortara_header_from_demographic_fields():
    """Their ids are those that ecgdatakit reads; the labels are in the language of the cart."""
    fields = "".join(
        f'<DEMOGRAPHIC_FIELD ID="{key}" LABEL="?" VALUE="{value}" UNITS="{unit}"/>'
        for key, value, unit in (("2", " B8 ", ""), ("3", "18", "MONTHS"), ("4", "M", ""))
    )
    header = parse_file(
        '<ECG ACQUISITION_TIME="20010203040506" VENT_RATE="0"><SUBJECT ID="" LOCAL_ID=""/>'
        f"<DEMOGRAPHIC_FIELDS>{fields}</DEMOGRAPHIC_FIELDS></ECG>".encode()
    ).header()
    assert (header.patient_id, header.acquired_at) == ("B8", "2001-02-03T04:05:06")
    assert (header.age_years, header.sex) == (1.5, "M")
    assert [getattr(header, name) for name in MEASUREMENTS] == [None] * 8


@pytest.mark.parametrize(
    ("attributes", "qtc_ms"),
    [
        ('QTB="469" QTF="464" QTC="463"', 469),
        ('QTF="464" QTC="463"', 463),
        ('QTF="464"', None),
        ('QTB="0" QTC="463"', 463),
    ],
)
def test_mortara_qtc_is_bazetts_or_the_one_without_a_formula(attributes, qtc_ms):
    header = parse_file(f"<ECG><TYPICAL_CYCLE {attributes}/></ECG>".encode()).header()
    assert header.qtc_ms == qtc_ms


@pytest.mark.parametrize(
    ("root", "named"),
    [("VendorECG", "VendorECG"), ("a" * 60, "60 letters"), ("Größe", "5 letters")],
)
def test_message_about_an_unknown_root_names_it_where_it_is_plain(root, named):
    with pytest.raises(RecordError, match=f"found {named}$") as caught:
        read_bytes(f"<{root}/>".encode())
    assert caught.value.reason == "unknown_format"


@pytest.mark.parametrize("root", NOT_SUPPORTED)
def test_known_but_unsupported_format_is_refused_by_name(root):
    with pytest.raises(RecordError, match=re.escape(NOT_SUPPORTED[root])) as caught:
        read_bytes(f"<{root}/>".encode())
    assert caught.value.reason == "unknown_format"


def test_megacare_is_refused_by_name(uv):
    with pytest.raises(RecordError, match="MegaCare") as caught:
        read_bytes(aecg(uv, 500, "X").replace(b'"RHYTHM"', b'"ECG_RHYTHM_WAVEFORMS"'))
    assert caught.value.reason == "unknown_format"
