"""A damaged text costs a note and no sample; a damaged number or waveform costs the file."""

from __future__ import annotations

import itertools
import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_xml import ATTACKS, EXPENSIVE
from vendor_files import WRITERS, reason_of_reading

from ecgprep.errors import RecordError
from ecgprep.readers import parse_file
from ecgprep.readers.repair import MAX_REPAIRS
from ecgprep.readers.xml import parse_document, parse_xml
from ecgprep.simulation.simulator import Heart, simulate

UTF8 = b'<?xml version="1.0" encoding="UTF-8"?>'
GENERATOR = np.random.default_rng(0)
UV = simulate(Heart.draw(GENERATOR, 0), 100, GENERATOR)[:, :200]
NAME = "QJZ"
FILES = {name: write(UV, 100, NAME) for name, write in WRITERS.items()}
AS_UTF8 = {
    name: data.decode("utf-16").encode() if data.startswith(b"\xff\xfe") else data
    for name, data in FILES.items()
}
"""The same files, so that one byte can be put in anywhere."""
INTACT = {name: parse_file(data).recording() for name, data in AS_UTF8.items()}

REPAIRED = {
    "one Latin-1 byte": (UTF8 + b"<r>M\xfcller</r>", "Müller", "1 byte that is not UTF-8"),
    "no declaration": (b"<r>M\xfcller</r>", "Müller", "1 byte that is not UTF-8"),
    "beside UTF-8": (UTF8 + "<r>µ".encode() + b"\xfc\x80</r>", "µü€", "2 bytes that are"),
    "attribute": (b"<r>x<b a='\xe9'/></r>", "x", "1 byte"),
    "hole of Windows-1252": (b"<r>\x81\xa0</r>", "\ufffd\ufffd", "2 bytes"),
    "declared ASCII": (
        b"<?xml version='1.0' encoding='us-ascii'?><r>\xe9</r>",
        "é",
        "1 byte that is not ASCII",
    ),
    "declared GBK": (
        b"<?xml version='1.0' encoding='gbk'?><r>\xd0\xc4\xff</r>",
        "心ÿ",
        "1 byte that is not GB18030",
    ),
    "unknown encoding": (
        "<?xml version='1.0' encoding='x-hospital'?><r>é</r>".encode(),
        "é",
        "encoding is unknown",
    ),
    "NUL at the end": (b"<r>x</r>\0\0\0", "x", "3 NUL or Ctrl-Z"),
    "Ctrl-Z at the end": (b"<r>x</r>\r\n\x1a", "x", "1 NUL or Ctrl-Z"),
    "NUL after UTF-16": ("<r>x</r>\0\0".encode("utf-16"), "x", "2 NUL or Ctrl-Z"),
    "Ctrl-Z after UTF-16": ("<r>xx</r>".encode("utf-16") + b"\x1a", "xx", ""),
    "half a pair in UTF-16": (
        "<r>M\ud83dx</r>".encode("utf-16", "surrogatepass"),
        "M\ufffdx",
        "1 half character",
    ),
    "control character": (b"<r>a\x0bb\x00</r>", "a\ufffdb\ufffd", "2 control characters"),
    "not a character": ("<r>\ufffe\uffff</r>".encode(), "\ufffd\ufffd", "2 control"),
    "reference": (b"<r>&#11;&#x0B;&#0;&#x1f;</r>", "\ufffd" * 4, "4 references to a"),
    "pair of surrogates": (b"<r>&#xD83D;&#56832;&#xffff;</r>", "\ufffd" * 3, "3 references"),
    "bare ampersand": (b"<r>R & D &amp; &#65;&lt;</r>", "R & D & A<", "1 bare ampersand"),
    "in an attribute": (b"<r a='R&D'>x</r>", "x", "1 bare ampersand"),
    "HTML entity": (b"<r>&nbsp;&uuml;</r>", "&nbsp;&uuml;", "2 bare ampersands"),
    "section": (b"<r>\x0b<![CDATA[R & D &#11;]]></r>", "\ufffdR & D &#11;", "1 control"),
    "comment": (b"<!-- R & D --><r>&<!-- & --></r>", "&", "1 bare ampersand"),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_damaged_text_is_repaired_and_said(name):
    data, text, note = REPAIRED[name]
    with pytest.raises(RecordError):
        parse_xml(data)
    root, notes = parse_document(data)
    assert "".join(root.itertext()) == text
    assert len(notes) == 1
    assert note in notes[0]
    assert notes[0].startswith("repaired: ")


def test_unknown_encoding_may_hold_bytes_that_are_not_utf8():
    root, notes = parse_document(b"<?xml version='1.0' encoding='ANSI'?><r>\xe9</r>")
    assert root.text == "é"
    assert len(notes) == 2


def test_every_reference_to_a_forbidden_character_is_known():
    """Against the definition of Char in XML 1.0, section 2.2."""
    for code in (*range(40), 0xD7FF, 0xD800, 0xDABC, 0xDFFF, 0xE000, *range(0xFFF0, 0x10001)):
        is_char = code in (9, 10, 13) or 32 <= code < 0xD800 or 0xE000 <= code < 0xFFFE
        is_char = is_char or code >= 0x10000
        for reference in (f"&#{code};", f"&#x{code:x};", f"&#x00{code:X};", f"&#00{code};"):
            root, notes = parse_document(f"<r>{reference}</r>".encode())
            assert (root.text, bool(notes)) == (chr(code) if is_char else "\ufffd", not is_char)
    for code in range(0xD800, 0xE000):
        assert parse_document(f"<r>&#{code};</r>".encode())[0].text == "\ufffd"


def test_several_kinds_are_repaired_together():
    data = b"<?xml version='1.0' encoding='x'?><r>\xc3\xa9 & \x01&#2;</r>\0"
    root, notes = parse_document(data)
    assert root.text == "é & \ufffd\ufffd"
    assert len(notes) == 5


def test_intact_document_is_not_touched():
    assert parse_document("<r>µ &amp; &#xFFFD;</r>".encode())[1] == ()


NOT_REPAIRED = {
    "cut off": b"<r><a>M\xfcller</a>",
    "cut off and padded": b"<r><a>x</a>\0\0\0\0",
    "reference beyond Unicode": b"<r>&#x110000;</r>",
    "refused encoding": b"<?xml version='1.0' encoding='UTF-7'?><r>+ADw- & \x0b</r>",
    "half a character of UTF-16": b"\xff\xfe<\0r\0/\0>",
    "tag": b"<r><a\x0b>1</a\x0b></r>",
    "tag of Latin-1": b"<r><Gr\xf6\xdfe>1</Gr\xf6\xdfe></r>",
    "namespace": b"<r xmlns='\xe9'/>",
    "attribute's name": b"<r \x0b='1'/>",
    "bare <": b"<r>PR < 200 & QRS</r>",
    "no end of a reference": b"<r>&#65</r><",
    "too many bytes": b"<r>" + b"\xff" * (MAX_REPAIRS + 1) + b"</r>",
    "too many control characters": b"<r>" + b"\x01" * (MAX_REPAIRS + 1) + b"</r>",
    "too many ampersands": b"<r>" + b"& " * (MAX_REPAIRS + 1) + b"</r>",
    "two roots": b"<r/>\0<r/>",
}


@pytest.mark.parametrize("name", NOT_REPAIRED)
def test_anything_else_stays_refused_for_its_first_reason(name):
    data = NOT_REPAIRED[name]
    with pytest.raises(RecordError) as strict:
        parse_xml(data)
    with pytest.raises(RecordError) as caught:
        parse_document(data)
    assert str(caught.value) == str(strict.value)


HARMLESS = {"undefined_entity_external_dtd", "trailing_nul", "latin1_declared_utf8"}
"""Attacks of the strict table that are damaged texts: what they hold is read as the text it is."""


SLOW = {*EXPENSIVE, "million_comments_unclosed"}


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in SLOW])
def test_repair_makes_no_attack_parse(name):
    if name in HARMLESS:
        assert parse_document(ATTACKS[name])[1]
        return
    for damage in (b"", b"\x1a", b"<!-- \xff -->"):
        with pytest.raises(RecordError):
            parse_document(ATTACKS[name] + damage)


DAMAGE = [b"\xe9", b"\xa0", b"\x85", b"\xb2", b"\x0b", b"\x1c", b"\0", b"&", b"&#11;", b"&nbsp;"]


def assert_same_or_refused(name: str, data: bytes) -> None:
    """A file that is read has the rate and the leads of the intact one, or fewer of these."""
    intact = INTACT[name]
    try:
        found = parse_file(data).recording()
    except RecordError:
        return
    assert found.rate_hz == intact.rate_hz
    for lead, values in found.leads_uv.items():
        np.testing.assert_array_equal(values, intact.leads_uv[lead])


@pytest.mark.parametrize("name", AS_UTF8)
@given(place=st.floats(0, 1), damage=st.sampled_from(DAMAGE), replace=st.booleans())
@settings(max_examples=60, deadline=None)
def test_damage_anywhere_never_changes_the_waveform(name, place, damage, replace):
    data = AS_UTF8[name]
    at = int(place * (len(data) - 1))
    assert_same_or_refused(name, data[:at] + damage + data[at + replace :])


@pytest.mark.parametrize("name", AS_UTF8)
def test_damage_in_any_field_never_changes_the_waveform(name):
    """At the start, in the middle and at the end of every text and attribute value."""
    data, cycle = AS_UTF8[name], itertools.cycle(DAMAGE)
    for field in re.finditer(rb'>([^<>]*[^<>\s][^<>]*)<|[\w:]+="([^"<>]*)"', data):
        start, end = field.span(field.lastindex)
        for at, damage in zip((start, (start + end) // 2, end), cycle, strict=False):
            assert_same_or_refused(name, data[:at] + damage + data[at:])


@pytest.mark.parametrize("name", AS_UTF8)
def test_damaged_name_costs_no_sample(name):
    damaged = AS_UTF8[name].replace(NAME.encode(), b"\x0bX & \xff")
    found = parse_file(damaged + b"\0")
    assert found.notes
    assert found.recording().notes == found.notes
    assert_same_or_refused(name, damaged)
    assert reason_of_reading(damaged) == reason_of_reading(FILES[name])


HOSTILE = {
    "bytes": b"<r>" + b"\xff" * 31_000_000,
    "ampersands": b"<r>" + b"&" * 31_000_000,
    "references": b"<r>" + b"&#11;" * 6_000_000,
    "open references": b"<r>" + b"&#1" * 10_000_000,
    "zeros": b"<r>&#" + b"0" * 31_000_000,
    "comments": b"<r>&" + b"<!--" * 7_500_000,
    "closed comments": b"<r>&" + b"<!---->" * 4_400_000,
    "sections": b"<r>&" + b"<![CDATA[" * 3_400_000,
    "instructions": b"<r>&" + b"<?" * 15_000_000,
    "nulls": b"<r/>" + b"\0" * 31_000_000,
    "unknown encoding": b"<?xml version='1.0' encoding='x'?><r>" + b"\xc3\xa9" * 15_000_000,
}


@pytest.mark.full
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_of_the_largest_size_is_dealt_with_in_seconds(name):
    """Quadratic time would take hours."""
    start = time.process_time()
    if name == "nulls":
        parse_document(HOSTILE[name])
    else:
        with pytest.raises(RecordError):
            parse_document(HOSTILE[name])
    assert time.process_time() - start < 30
