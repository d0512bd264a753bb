"""Readers: exact against arrays on which independent readers agree; one fault, one named reason."""

from __future__ import annotations

import re
import zlib

import numpy as np
import pytest
from vendor_files import WRITERS, assert_equals_reference, reason_of, replaced

from ecgprep.conform import without_calibration_pulse
from ecgprep.errors import RecordError
from ecgprep.leads import TWELVE_LEADS
from ecgprep.readers import read_bytes, read_recording
from ecgprep.readers.fields import parse_numbers
from ecgprep.simulation.vendors import VENDORS, aecg, cardiosoft, muse

TOLERANCE_UV = {
    "muse": 4.88 / 2,
    "aecg": 0.0,
    "cardiosoft": 2.5,
    "philips": 2.5,
    "schiller": 0.0,
    "sapphire": 4.88 / 2,
    "mortara": 2.5 / 2,
}
"""Half a count of what the simulation writes."""
REBUILT_BY_PHILIPS = ("III", "aVR", "aVL", "aVF")
"""From counts of 5 µV by the vendor's floors: within 15 µV."""


@pytest.mark.parametrize(
    "name",
    [
        "muse_ecg1",
        "muse_ecg2",
        "muse_ecg3",
        "guangxi_teaching_sinus_rhythm",
        "synthetic_muse_crc_zero",
    ],
)
def test_muse_equals_the_reference(samples, name):
    assert_equals_reference(samples, f"muse/{name}.xml")


@pytest.mark.parametrize(
    "name",
    [
        "fda_Example_aECG",
        "fda_subject1_0",
        "fda_minimum_aecg",
        "cvrg_hl7aecg-Example2",
        "liryc_hl7aecg_example",
    ],
)
def test_aecg_equals_the_reference(samples, name):
    assert_equals_reference(samples, f"hl7aecg/{name}.xml")


def test_aecg_without_series_is_no_rhythm(samples):
    with pytest.raises(RecordError) as caught:
        read_recording(samples / "data" / "xml" / "hl7aecg" / "fda_empty.xml")
    assert caught.value.reason == "no_rhythm"


@pytest.mark.parametrize("rate_hz", [250, 500])
@pytest.mark.parametrize("dialect", VENDORS)
def test_what_is_written_is_read(uv, dialect, rate_hz):
    n_samples = 10 * rate_hz
    uv = uv[:, :n_samples]
    recording = without_calibration_pulse(read_bytes(VENDORS[dialect](uv, rate_hz, "X")))
    assert recording.dialect == dialect
    assert recording.rate_hz == rate_hz
    assert recording.n_samples == n_samples
    for lead, samples_uv in recording.leads_uv.items():
        is_rebuilt = dialect == "philips" and lead in REBUILT_BY_PHILIPS
        limit = 15 if is_rebuilt else TOLERANCE_UV[dialect] + 1e-9
        assert np.abs(samples_uv - uv[TWELVE_LEADS.index(lead)]).max() <= limit


def rhythm_only(data: bytes) -> bytes:
    """Drop the median waveform, so that the first match of a pattern lies in the rhythm."""
    return replaced(data, r"<Waveform>\n<WaveformType>Median.*?</Waveform>\n", "")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<WaveformType>Rhythm", "<WaveformType>Median", "no_rhythm"),
        ("MICROVOLTS", "COUNTS", "bad_units"),
        ("<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>", "", "bad_units"),
        ("<LeadAmplitudeUnitsPerBit>4.88", "<LeadAmplitudeUnitsPerBit>0", "bad_units"),
        ("<LeadAmplitudeUnitsPerBit>4.88", "<LeadAmplitudeUnitsPerBit>nan", "bad_units"),
        ("<LeadAmplitudeUnitsPerBit>4.88", "<LeadAmplitudeUnitsPerBit>4,88", "bad_units"),
        ("<SampleBase>500", "<SampleBase>", "bad_rate"),
        ("<SampleBase>500", "<SampleBase>0", "bad_rate"),
        ("<SampleBase>500", "<SampleBase>inf", "bad_rate"),
        ("<SampleExponent>0", "<SampleExponent>3", "bad_rate"),
        ("<NumberofLeads>8", "<NumberofLeads>12", "bad_waveform"),
        ("<LeadSampleCountTotal>5000", "<LeadSampleCountTotal>4999", "bad_waveform"),
        ("<LeadByteCountTotal>10000", "<LeadByteCountTotal>9998", "bad_waveform"),
        ("<LeadSampleSize>2", "<LeadSampleSize>4", "bad_waveform"),
        ("<LeadTimeOffset>0", "<LeadTimeOffset>250", "bad_waveform"),
        ("<LeadID>II<", "<LeadID>I<", "bad_waveform"),
        ("CONTINUOUS_SAMPLES", "MEAN_BEATS", "bad_waveform"),
        ("<WaveFormData>\n....", "<WaveFormData>\n!!!!", "bad_waveform"),
        ("<WaveFormData>.*?</WaveFormData>", "<WaveFormData>AAAA</WaveFormData>", "bad_waveform"),
        (r"<LeadDataCRC32>\d+", "<LeadDataCRC32>1", "bad_checksum"),
        (r"<LeadDataCRC32>\d+", "<LeadDataCRC32>x", "bad_checksum"),
        (
            "<LeadSampleSize>2</LeadSampleSize>",
            "<LeadSampleSize>2</LeadSampleSize><LeadSampleSize>4</LeadSampleSize>",
            "bad_waveform",
        ),
    ],
)
def test_muse_with_one_fault(uv, old, new, reason):
    assert reason_of(replaced(rhythm_only(muse(uv, 500, "X")), old, new)) == reason


def test_muse_gain_unit_and_baseline_are_per_lead(uv):
    data = replaced(rhythm_only(muse(uv, 500, "X")), "PerBit>4.88", "PerBit>0.00244")
    data = replaced(data, "MICROVOLTS", "MILLIVOLTS")
    data = replaced(data, "<FirstSampleBaseline>0", "<FirstSampleBaseline>100")
    plain, changed = (read_bytes(d).leads_uv for d in (muse(uv, 500, "X"), data))
    np.testing.assert_allclose(changed["I"], (plain["I"] / 4.88 - 100) * 2.44, atol=1e-9)
    np.testing.assert_array_equal(changed["II"], plain["II"])


@pytest.mark.parametrize("n_leads", [1, 8, 11, 12])
def test_muse_reads_any_number_of_leads(uv, n_leads):
    data = muse(uv, 500, "X", leads=TWELVE_LEADS[:n_leads]).replace(
        b"<LeadID>aVR<", b"<LeadID>V3R<"
    )
    recording = read_bytes(data)
    assert len(recording.leads_uv) == n_leads
    assert ("V3R" in recording.leads_uv) == (n_leads > 3)


def test_muse_reads_the_rhythm_by_type_wherever_it_stands(uv):
    data = muse(uv, 500, "X")
    median, rhythm = re.findall(rb"<Waveform>.*?</Waveform>\n", data, re.DOTALL)
    assert read_bytes(data.replace(median + rhythm, rhythm + median)).n_samples == 5000


def test_muse_checksum_zero_means_not_set(uv):
    data = replaced(muse(uv, 500, "X"), r"<LeadDataCRC32>\d+", "<LeadDataCRC32>0", count=0)
    assert read_bytes(data).n_samples == 5000


def test_muse_checksum_may_be_signed(uv):
    data = muse(uv, 500, "X")
    crcs = [int(text) for text in re.findall(rb"<LeadDataCRC32>(\d+)", data)]
    assert max(crcs) > 2**31
    for crc in crcs:
        signed = crc - 2**32 if crc >= 2**31 else crc
        data = data.replace(b"<LeadDataCRC32>%d<" % crc, b"<LeadDataCRC32>%d<" % signed)
    assert read_bytes(data).n_samples == 5000


def test_muse_checksum_is_zlib_crc32_of_the_bytes(uv):
    counts = np.rint(uv[0] / 4.88).astype("<i2")
    assert b"<LeadDataCRC32>%d<" % zlib.crc32(counts.tobytes()) in muse(uv, 500, "X")


@pytest.mark.parametrize("exponent", [-1, 1])
def test_muse_rate_takes_its_exponent(uv, exponent):
    data = replaced(
        rhythm_only(muse(uv, 500, "X")), "<SampleExponent>0", f"<SampleExponent>{exponent}"
    )
    assert read_bytes(data).rate_hz == pytest.approx(500 * 10.0**exponent)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"RHYTHM"', '"REPRESENTATIVE_BEAT"', "no_rhythm"),
        ('increment value="0.002" unit="s"', 'increment value="0.002" unit="h"', "bad_rate"),
        ('increment value="0.002" unit="s"', 'increment value="0" unit="s"', "bad_rate"),
        ('increment value="0.002"', 'increment value="2E-999999"', "bad_rate"),
        ('increment value="0.002"', 'increment value="1E+999999"', "bad_rate"),
        ('"TIME_ABSOLUTE"', '"TIME_UNKNOWN"', "bad_rate"),
        ('<scale value="1" unit="uV"/>', "", "bad_units"),
        ('<scale value="1" unit="uV"/>', '<scale value="1" unit="mmHg"/>', "bad_units"),
        ('<scale value="1" unit="uV"/>', '<scale value="0" unit="uV"/>', "bad_units"),
        ('<origin value="0" unit="uV"/>', '<origin value="x" unit="uV"/>', "bad_units"),
        ('MDC_ECG_LEAD_II<|MDC_ECG_LEAD_II(?=")', "MDC_ECG_LEAD_I", "bad_waveform"),
        (r"<digits>(\S+) ", "<digits>", "bad_waveform"),
        (r"<digits>(\S+) ", r"<digits>x ", "bad_waveform"),
        ("<digits>.*?</digits>", "<digits>1</digits>", "bad_waveform"),
        ("(?<=[0-9])</digits>", " -</digits>", "bad_waveform"),
    ],
)
def test_aecg_with_one_fault(uv, old, new, reason):
    assert reason_of(replaced(aecg(uv, 500, "X"), old, new)) == reason


@pytest.mark.parametrize(
    "text", ["1,-,3", "1 - 3", "1,2,-", "- 1", "1 -\n3", "--1", "+", "1,+,2", "+-1", "-x", "1e-"]
)
@pytest.mark.parametrize("separator", [",", " "])
def test_sign_without_a_number_is_no_number(text, separator):
    with pytest.raises(RecordError):
        parse_numbers(text, separator, "lead I")


@pytest.mark.parametrize(
    ("text", "values"), [("1 -2 +3", [1, -2, 3]), ("-.5 1e-3 -0", [-0.5, 0.001, 0]), ("-1", [-1])]
)
def test_signs_of_numbers_are_read(text, values):
    assert parse_numbers(text, " ", "lead I").tolist() == values


@pytest.mark.parametrize(
    ("unit", "factor"), [("nV", 1e-3), ("uV", 1), ("µV", 1), ("μV", 1), ("mV", 1e3), ("V", 1e6)]
)
def test_aecg_origin_and_scale_have_units_of_their_own(uv, unit, factor):
    data = aecg(uv, 500, "X")
    data = replaced(data, 'origin value="0" unit="uV"', 'origin value="0.5" unit="mV"')
    data = replaced(data, 'scale value="1" unit="uV"', f'scale value="2.5" unit="{unit}"')
    found = read_bytes(data).leads_uv["I"]
    np.testing.assert_allclose(found, 500 + uv[0] * 2.5 * factor, rtol=1e-12)


@pytest.mark.parametrize(
    ("value", "unit"),
    [("0.002", "s"), ("2", "ms"), ("2000", "us"), ("2.0E-3", "s"), ("2000", "µs")],
)
def test_aecg_time_step_has_a_unit(uv, value, unit):
    data = replaced(aecg(uv, 500, "X"), 'value="0.002" unit="s"', f'value="{value}" unit="{unit}"')
    assert read_bytes(data).rate_hz == 500.0


@pytest.mark.parametrize("namespace", [' xmlns="urn:hl7-org:v3"', ' xmlns="urn:hl7-org:v2"', ""])
def test_aecg_namespace_does_not_matter(uv, namespace):
    data = replaced(aecg(uv, 500, "X"), ' xmlns="urn:hl7-org:v3"', namespace)
    assert read_bytes(data).n_samples == 5000


def test_aecg_relative_time_is_a_rhythm_too_and_white_space_is_free(uv):
    data = aecg(uv, 500, "X").replace(b"TIME_ABSOLUTE", b"TIME_RELATIVE")
    data = replaced(data, " 1 ", "\n\t1\r\n ", count=0)
    np.testing.assert_array_equal(read_bytes(data).leads_uv["V6"], uv[11])


def test_aecg_decimal_digits_are_read(uv):
    data = replaced(aecg(uv, 500, "X"), r"<digits>(\S+) ", r"<digits>\1.25 ")
    assert read_bytes(data).leads_uv["I"][0] == uv[0, 0] + np.copysign(0.25, uv[0, 0])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<StripData>.*</StripData>", "", "no_rhythm"),
        ('<SampleRate units="Hz"', '<SampleRate units="kHz"', "bad_rate"),
        ("uVperLsb", "nVperLsb", "bad_units"),
        ('uVperLsb">5', 'uVperLsb">-5', "bad_units"),
        ("<ChannelSampleCountTotal>5000", "<ChannelSampleCountTotal>4999", "bad_waveform"),
        ("<NumberOfLeads>12", "<NumberOfLeads>8", "bad_waveform"),
        ('lead="II"', 'lead="I"', "bad_waveform"),
        (r",(-?\d+)\n</WaveformData>", "\n</WaveformData>", "bad_waveform"),
        (r",(-?\d+)\n</WaveformData>", ",INV\n</WaveformData>", "bad_waveform"),
    ],
)
def test_cardiosoft_with_one_fault(uv, old, new, reason):
    """What comes before the strip holds median samples with the same elements; those stay."""
    head, strip = cardiosoft(uv, 500, "X").split(b"<StripData>")
    assert reason_of(head + replaced(b"<StripData>" + strip, old, new)) == reason


def test_unknown_root_is_refused_by_name():
    assert reason_of(b"<Prescription/>") == "unknown_format"


def test_messages_hold_no_value_of_the_file(uv):
    data = replaced(rhythm_only(muse(uv, 500, "X")), "MICROVOLTS", "SECRET")
    with pytest.raises(RecordError) as caught:
        read_bytes(data)
    assert "SECRET" not in str(caught.value)


RHYTHMS = [
    ("muse", "<Waveform>\n<WaveformType>Rhythm.*</Waveform>\n", "median beats"),
    ("aecg", "<component><series>.*</series></component>", "representative beats"),
    ("cardiosoft", "<StripData>.*</StripData>", "median samples"),
    ("full_disclosure", "<FullDisclosure>.*</FullDisclosure>", "median samples"),
    ("philips", "<parsedwaveforms.*</parsedwaveforms>", "representative beats"),
    ("schiller", "<wavedata><type>ECG_RHYTHMS.*</wavedata>\n\n", "averages"),
    ("sapphire", "<wav>.*</wav>", "median templates"),
]
"""Dialect, the part of a file that holds the rhythm, the mean beats that stand beside it."""


def file_with_rhythm(dialect: str, uv: np.ndarray) -> bytes:
    """Return a file of 2 s in bytes that patterns match, so without UTF-16."""
    data = WRITERS[dialect](uv[:, :1000], 500, "X")
    return data.decode("utf-16").encode() if dialect == "philips" else data


@pytest.mark.parametrize(("dialect", "rhythm", "mean_beats"), RHYTHMS)
def test_mean_beats_are_never_read_as_the_rhythm(uv, dialect, rhythm, mean_beats):
    without = replaced(file_with_rhythm(dialect, uv), rhythm, "")
    refusal = f": none found \\({mean_beats} are not read in its place\\)$"
    with pytest.raises(RecordError, match=refusal) as caught:
        read_bytes(without)
    assert caught.value.reason == "no_rhythm"


@pytest.mark.parametrize(("dialect", "rhythm", "mean_beats"), RHYTHMS)
def test_two_rhythms_are_refused_since_nothing_says_which_is_meant(uv, dialect, rhythm, mean_beats):
    twice = replaced(file_with_rhythm(dialect, uv), f"({rhythm})", r"\1\1")
    with pytest.raises(RecordError, match=": 2 found; exactly one is allowed$") as caught:
        read_bytes(twice)
    assert caught.value.reason == "bad_waveform"
