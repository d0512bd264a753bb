"""Every encoding that Python knows: read, when the bytes are in it, and refused where unsafe."""

from __future__ import annotations

import encodings
import pkgutil

import numpy as np
import pytest

from ecgprep.errors import RecordError
from ecgprep.readers import parse_file
from ecgprep.readers.encoding import codec_of, to_utf8
from ecgprep.readers.xml import parse_xml
from ecgprep.simulation.vendors import muse

REFUSED = {
    *("cp037", "cp273", "cp424", "cp500", "cp875", "cp1026", "cp1140"),  # EBCDIC
    *("utf_7", "idna", "punycode", "unicode_escape", "raw_unicode_escape"),
    *("charmap", "undefined"),
    *("base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec"),
    "zlib_codec",
}
NO_CODECS = {"aliases", "_win_cp_codecs", "mbcs", "oem"}
"""Modules of Python that hold none, or none but on Windows."""
NAMES = sorted({module.name for module in pkgutil.iter_modules(encodings.__path__)} - NO_CODECS)
WIDE = {name for name in NAMES if name.startswith(("utf_16", "utf_32"))}
READ = [name for name in NAMES if name not in REFUSED]
LETTERS = "éřжאعกあ中한"


def declared(name: str, text: str = "ECG 1,-2") -> str:
    return f"<?xml version='1.0' encoding='{name}'?>\n<r a='1'>{text}</r>"


@pytest.mark.parametrize("name", READ)
def test_ascii_content_is_read_under_any_declared_encoding(name):
    for spelling in (name, name.replace("_", "-").upper()):
        root = parse_xml(declared(spelling).encode("ascii"))
        assert (root.text, root.get("a")) == ("ECG 1,-2", "1")


@pytest.mark.parametrize("name", [name for name in READ if name not in WIDE])
def test_letters_are_read_in_any_declared_encoding(name):
    letters = "".join(c for c in LETTERS if c.encode(name, "ignore").decode(name, "ignore") == c)
    before, after = declared(name, "|").encode("ascii").split(b"|")
    found = parse_xml(before + letters.encode(name) + after).text or ""
    assert found.strip("\ufeff") == letters  # utf_8_sig writes a mark


def test_most_encodings_were_tried_with_letters():
    tried = [name for name in READ if LETTERS.encode(name, "ignore").decode(name, "ignore")]
    assert len(tried) > 80


@pytest.mark.parametrize("name", sorted(REFUSED & set(NAMES)))
def test_encoding_in_which_ascii_means_something_else_is_refused(name):
    with pytest.raises(RecordError) as caught:
        parse_file(declared(name).encode("ascii"))
    assert caught.value.reason == "not_xml"


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("wide", ["utf-32", "utf-32-le", "utf-32-be"])
def test_wide_encodings_are_recognised_by_their_bytes(codec, wide):
    for name in (codec, wide):
        assert parse_xml(declared("UTF-16", "é中").encode(name)).text == "é中"


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("GB2312", "gb18030"),
        ("GBK", "gb18030"),
        ("Shift_JIS", "cp932"),
        ("windows-31j", "cp932"),
        ("EUC-KR", "cp949"),
        ("ks_c_5601-1987", "cp949"),
        ("Windows-1250", "cp1250"),
        ("windows-874", "cp874"),
        ("ISO-8859-2", "iso8859-2"),
        ("x-sjis", "cp932"),
        ("x-gbk", "gb18030"),
        ("x-windows-949", "cp949"),
        ("x-mac-roman", "mac-roman"),
        ("latin1", "iso8859-1"),
        ("UTF-16", "utf-8"),
        ("utf8", "utf-8"),
    ],
)
def test_names_in_use_are_known(name, codec):
    assert codec_of(name).name == codec


def test_escape_sequences_are_decoded_before_anything_is_parsed():
    """In ISO-2022 and HZ, the bytes of `<` may be half a character."""
    text = "\u3c21 心電図"
    for name in ("iso2022_jp", "hz"):
        kept = "".join(c for c in text if c.encode(name, "ignore"))
        assert parse_xml(declared(name, kept).encode(name)).text == kept


def test_bytes_that_are_not_in_the_declared_encoding_are_refused_without_quoting_them():
    data = declared("EUC-KR").replace("ECG", "\xff\xff").encode("latin-1")
    with pytest.raises(RecordError, match="the bytes are not cp949"):
        to_utf8(data)


@pytest.mark.parametrize("name", ["EUC-KR", "windows-1250", "Big5", "koi8-r", "ISO-2022-JP"])
def test_waveform_is_the_same_under_any_encoding(uv, name):
    data = muse(uv[:, :500], 500, "X").replace("é".encode("latin-1"), b"e")
    expected = parse_file(data).recording()
    found = parse_file(data.replace(b"ISO-8859-1", name.encode()))
    assert found.notes == ()
    for lead, values in found.recording().leads_uv.items():
        np.testing.assert_array_equal(values, expected.leads_uv[lead])
