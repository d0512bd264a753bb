"""The one door for XML. Every attack ends in a named reason, cheaply; every honest encoding is read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from ecgprep.errors import RecordError
from ecgprep.readers.xml import MAX_FILE_BYTES, parse_xml, read_regular

DOCTYPE = b'<!DOCTYPE RestingECG SYSTEM "restecg.dtd">'
LAUGHS = b"".join(b'<!ENTITY e%d "%s">' % (i, b"&e%d;" % (i - 1) * 10) for i in range(1, 10))

ATTACKS = {
    "entity": b'<!DOCTYPE r [<!ENTITY a "b">]><r>&a;</r>',
    "entity_unused": b'<!DOCTYPE r [<!ENTITY a "b">]><r/>',
    "external_entity_file": b'<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]><r>&a;</r>',
    "external_entity_http": b'<!DOCTYPE r [<!ENTITY a SYSTEM "http://127.0.0.1:9/x">]><r>&a;</r>',
    "parameter_entity": b'<!DOCTYPE r [<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;]><r/>',
    "billion_laughs": b'<!DOCTYPE r [<!ENTITY e0 "ha">' + LAUGHS + b"]><r>&e9;</r>",
    "quadratic": b'<!DOCTYPE r [<!ENTITY a "'
    + b"x" * 100_000
    + b'">]><r>'
    + b"&a;" * 100_000
    + b"</r>",
    "attlist": b'<!DOCTYPE r [<!ATTLIST r x CDATA "injected">]><r/>',
    "attlist_bomb": b"<!DOCTYPE r [<!ATTLIST e "
    + b" ".join(b'a%d CDATA "x"' % i for i in range(1000))
    + b">]><r>"
    + b"<e/>" * 20_000
    + b"</r>",
    "empty_internal_subset": b"<!DOCTYPE r []><r/>",
    "undefined_entity_external_dtd": DOCTYPE + b"<RestingECG>&nobody;</RestingECG>",
    "two_doctypes": DOCTYPE + DOCTYPE + b"<r/>",
    "doctype_after_root": b"<r/>" + DOCTYPE,
    "depth_million": b"<a>" * 1_000_000 + b"</a>" * 1_000_000,
    "ten_million_elements": b"<r>" + b"<a/>" * 7_000_000 + b"</r>",
    "million_attributes": b"<r " + b" ".join(b'a%d=""' % i for i in range(1_000_000)) + b"/>",
    "huge_text": b"<r>" + b"x" * 20_000_000 + b"</r>",
    "unclosed_comment": b"<!--" + b"x" * 1_000_000,
    "million_comments_unclosed": b"<!-- -->\n" * 1_000_000 + b"<!--",
    "utf7": b'<?xml version="1.0" encoding="UTF-7"?><r>+ADw-script+AD4-</r>',
    "nul": b"<r>\0</r>",
    "leading_nul": b"\0<r/>",
    "trailing_nul": b"<r/>\0",
    "empty": b"",
    "blank": b" \n\t",
    "text": b"patient,age\n1,2\n",
    "latin1_declared_utf8": '<?xml version="1.0" encoding="UTF-8"?><r>é</r>'.encode("latin-1"),
    "odd_utf16": b"\xff\xfe<\0r\0/\0>",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_ends_in_not_xml(name):
    with pytest.raises(RecordError) as caught:
        parse_xml(ATTACKS[name])
    assert caught.value.reason == "not_xml"
    assert "passwd" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "attlist_bomb",
        "billion_laughs",
        "quadratic",
        "depth_million",
        "ten_million_elements",
        "million_attributes",
        "huge_text",
    ],
)
def test_attack_costs_neither_memory_nor_time(name, tmp_path):
    (tmp_path / "attack.xml").write_bytes(ATTACKS[name])
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); resource.setrlimit(resource.RLIMIT_CPU, (5, 5))\n"
        "from ecgprep.readers import read_recording\nfrom ecgprep.errors import RecordError\n"
        "try: read_recording(sys.argv[1])\nexcept RecordError as error: print(error.reason)"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "attack.xml"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("not_xml\n", 0), done.stderr[-500:]


def test_huge_comment_is_harmless():
    assert parse_xml(b"<!--" + b"x" * 20_000_000 + b"--><r/>").tag == "r"


def test_xinclude_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    root = parse_xml(
        f'<r xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="{tmp_path}/secret" parse="text"/></r>'.encode()
    )
    assert "secret" not in "".join(root.itertext())


def test_external_dtd_is_never_fetched():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.dtd"
        assert parse_xml(f'<!DOCTYPE r PUBLIC "-//X//EN" "{url}"><r/>'.encode()).tag == "r"
        with pytest.raises(TimeoutError):
            server.accept()


HONEST = "<?xml version='1.0' encoding='{}'?>\n<!-- by Müller -->\n<!DOCTYPE r SYSTEM 'x.dtd'>\n<r>µ Müller</r>"


@pytest.mark.parametrize(
    ("declared", "codec"),
    [
        ("UTF-8", "utf-8"),
        ("UTF-8", "utf-8-sig"),
        ("ISO-8859-1", "latin-1"),
        ("ISO8859-1", "latin-1"),
        ("windows-1252", "cp1252"),
        ("UTF-16", "utf-16"),
        ("UTF-16", "utf-16-le"),
        ("UTF-16", "utf-16-be"),
        ("UTF-16", "utf-8"),
    ],
)
def test_encoding_is_read(declared, codec):
    assert parse_xml(HONEST.format(declared).encode(codec)).text == "µ Müller"


@pytest.mark.parametrize(
    ("declared", "codec", "text"),
    [("GB18030", "gb18030", "心电图"), ("Shift_JIS", "cp932", "心電図")],
)
def test_multibyte_encoding_is_read(declared, codec, text):
    assert (
        parse_xml(f'<?xml version="1.0" encoding="{declared}"?><r>{text}</r>'.encode(codec)).text
        == text
    )


@pytest.mark.parametrize("before", [b"?", b"\n\n ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
def test_what_real_sites_put_before_the_declaration_is_skipped(before):
    assert (
        parse_xml(before + b'<?xml version = "1.0" encoding="windows-1252"?>\r\n<r>\xe9</r>').text
        == "é"
    )


def test_regular_file_is_read_whole(tmp_path):
    (tmp_path / "a.xml").write_bytes(b"<r/>")
    assert read_regular(tmp_path / "a.xml", tmp_path) == b"<r/>"


def make_odd_files(folder):
    (folder / "regular").write_bytes(b"<r/>")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(folder / "regular")
    os.mkfifo(folder / "fifo")
    with (folder / "big").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "file_missing"),
        ("regular/below", "file_missing"),
        ("nul\0name", "file_missing"),
        ("x" * 300, "file_unreadable"),
        ("folder", "not_regular"),
        ("link", "not_regular"),
        ("fifo", "not_regular"),
        ("socket", "not_regular"),
        ("/dev/zero", "not_regular"),
        ("big", "file_too_large"),
    ],
)
def test_odd_file_has_a_named_reason_without_its_path(tmp_path, name, reason):
    make_odd_files(tmp_path)
    with pytest.raises(RecordError) as caught:
        read_regular(tmp_path / name)
    assert caught.value.reason == reason
    assert str(tmp_path) not in str(caught.value)


def test_folder_that_is_a_symlink_out_of_the_root_is_refused(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.xml").write_bytes(b"<r/>")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "way").symlink_to(tmp_path / "outside")
    with pytest.raises(RecordError, match="leads out of the root"):
        read_regular(tmp_path / "root" / "way" / "a.xml", tmp_path / "root")
