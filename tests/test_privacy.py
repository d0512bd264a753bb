"""What identifies a person goes nowhere.

A token is put into every text, attribute, name and column; then all that is written is searched.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numcodecs
import numpy as np
import pytest
from helpers import command

from ecgprep.header import Header
from ecgprep.readers import parse_file, read_bytes
from ecgprep.simulation.headers import EXAMPLE
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import VENDORS
from ecgprep.store.archive import pack

TOKEN = "ZQ{:05d}QZ"  # noqa: S105 - a mark to search for
PRIVATE = ("m.csv", "m.registry.csv", "ecg.csv", "ecg.csv.known")


def poison(data: bytes, first: int) -> bytes:
    """Put a token into every text and attribute that a reader does not need.

    A text that the reader does need is put back.
    """
    codec = codec_of(data)
    text = data.decode(codec)
    patterns = (r">([^<>]*[^<>\s][^<>]*)<", r'[\w:]+="([^"<>]*)"')
    places = [match.span(1) for pattern in patterns for match in re.finditer(pattern, text)]
    count = 0
    for start, end in sorted(places, reverse=True):
        if end - start > 400:
            continue
        token = TOKEN.format(first + count)
        candidate = text[:start] + token + text[end:]
        with contextlib.suppress(Exception):
            read_bytes(candidate.encode(codec))
            text, count = candidate, count + 1
    assert count > 3, "no field to poison was found"
    if "<PatientDemographics>" in text:  # an element that our file lacks but an export has
        name = TOKEN.format(first + 9000)
        text = text.replace("</", f"<PatientLastName>{name}</PatientLastName></", 1)
    return text.encode(codec)


def codec_of(data: bytes) -> str:
    return "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Recordings of every dialect, good and broken, full of tokens.

    Ids, file names and a column that is not used are tokens, too.
    """
    folder = tmp_path_factory.mktemp("privacy")
    lines = ["patient_id,path_xml,label,referrer"]

    def add_row(k: int, label: int) -> str:
        name = f"{TOKEN.format(100 + k)}.xml"
        lines.append(f"{TOKEN.format(200 + k)},{name},{label},{TOKEN.format(400 + k)}")
        return name

    for k, write in enumerate(VENDORS.values()):
        for i in range(3):
            generator = np.random.default_rng(10 * k + i)
            data = write(simulate(Heart.draw(generator, i % 2), 100, generator), 100, "X")
            poisoned = poison(data, 10_000 * (k + 1) + 100 * i)
            is_cut_off = i == 2
            name = add_row(10 * k + i, i % 2)
            (folder / name).write_bytes(poisoned[: len(data) // 2] if is_cut_off else poisoned)
    add_row(99, 0)  # a file that does not exist
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def run(cohort, monkeypatch):
    """Run the command `ecgprep` in the cohort's folder, in this process."""
    monkeypatch.chdir(cohort)
    return command


def assert_clean(content: bytes, where: str) -> None:
    for view in (content, content.replace(b"\0", b"")):
        assert not re.search(rb"ZQ\d{5}QZ", view), f"a token is in {where}"


def test_no_token_is_in_anything_that_is_written(run, cohort):
    build = ["build", "m.csv"]
    loose = ["--max-rejected", "0.9", "--allow-missing-class"]
    strict = ["--max-rejected", "0.0", "--allow-missing-class", "--registry", "t.registry.csv"]
    outputs = [
        run(*build, "s.zarr", *loose, "--jobs", "2", "--verbose"),
        run(*build, "t.zarr", *strict),
        run(*build, "u.zarr", "--covariates", "referrer"),
        run("inspect", "s.zarr", "--json"),
        run("verify", "s.zarr"),
        run("report", "s.zarr", "--exact-counts"),
        run("doctor"),
        run("index", ".", "-o", "ecg.csv", "--jobs", "2", "--verbose"),
        run("index", ".", "-o", "ecg.csv", "--json"),
        run("index", TOKEN.format(1), "-o", "other.csv"),
        run("index", ".", "-o", "other.csv", "--glob", f"*.{TOKEN.format(100)}"),
    ]
    assert [done.returncode for done in outputs] == [0, 5, 3, 0, 0, 0, 0, 0, 0, 3, 3]
    pack(cohort / "s.zarr", cohort / "p.zarr")
    for done in outputs:
        assert_clean((done.stdout + done.stderr).encode(), "what a command printed")
    for path in sorted(cohort.rglob("*")):
        inner = path.relative_to(cohort).as_posix()
        if inner.startswith("ZQ") or inner in (*PRIVATE, "t.registry.csv"):
            continue
        assert_clean(inner.encode(), "a file's name")
        if path.is_file():
            assert_clean(path.read_bytes(), inner)
    for chunk in (cohort / "p.zarr" / "waveforms").rglob("0"):
        if chunk.is_file():
            assert_clean(bytes(numcodecs.Zstd().decode(chunk.read_bytes())), "a decompressed chunk")


IDENTITY = Header(
    patient_id=TOKEN.format(1),
    acquired_at="1987-06-05T04:03:02",
    age_years=94.0,
    sex="M",
    heart_rate_bpm=72.0,
)
DATES = re.compile(r"1987-06-05|06-05-1987|19870605|1893|04:03:02|040302|94(\.0)?[,;\s]")
"""How the dialects write the time of acquisition, the year of birth and the age."""


@pytest.mark.parametrize("dialect", VENDORS)
def test_read_and_reprs_hold_no_identity(tmp_path, monkeypatch, dialect):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    header = replace(EXAMPLE, **{name: v for name, v in vars(IDENTITY).items() if v})
    uv = np.clip(simulate(Heart.draw(generator, 0), 100, generator), -900, 900)
    data = VENDORS[dialect](uv, 100, header.patient_id, header=header)
    (tmp_path / "a.xml").write_bytes(data)
    file = parse_file(data)
    assert (file.header().patient_id, file.header().age_years) == (header.patient_id, 94)
    said = [command("read", "a.xml").stdout, command("read", "a.xml", "--json").stdout]
    assert json.loads(said[1])[0]["header"] | {"measurements": None} == {
        "has_patient_id": True,
        "has_acquired_at": True,
        "age_years": 90,
        "sex": "M",
        "measurements": None,
    }
    for text in (*said, repr(file), repr(file.header()), repr(file.recording())):
        assert_clean(text.encode(), "what was said")
        assert not DATES.search(text)


def test_private_side_is_readable_by_its_owner_only(run, cohort):
    loose = ["--max-rejected", "0.9", "--allow-missing-class"]
    run("build", "m.csv", "s.zarr", *loose)
    run("report", "s.zarr")
    run("plan", "m.csv", "v.zarr", *loose)
    run("part", "v.zarr", "--part", "1/1")
    assert (cohort / ".v.zarr.building").stat().st_mode & 0o777 == 0o700
    private = [
        "m.registry.csv",
        "s.zarr.rejects.csv",
        "s.zarr.build.json",
        "s.zarr.report.html",
        ".v.zarr.building/plan.json",
        ".v.zarr.building/parts/0000000.part",
    ]
    assert {name: (cohort / name).stat().st_mode & 0o777 for name in private} == dict.fromkeys(
        private, 0o600
    )


@pytest.mark.parametrize("dialect", VENDORS)
def test_an_error_message_repeats_nothing_of_the_file(tmp_path, dialect):
    """With every text replaced in turn, also those that a reader needs."""
    generator = np.random.default_rng(0)
    data = VENDORS[dialect](simulate(Heart.draw(generator, 0), 100, generator), 100, "X")
    codec = codec_of(data)
    text = data.decode(codec)
    texts = re.finditer(r'>([^<>]*[^<>\s][^<>]*)<|[\w:]+="([^"<>]*)"', text)
    refused = 0
    for start, end in [match.span(match.lastindex) for match in texts]:
        try:
            read_bytes((text[:start] + TOKEN.format(1) + text[end:]).encode(codec))
        except Exception as error:
            refused += 1
            notes = getattr(error, "__notes__", "")
            assert_clean(f"{error!r} {notes}".encode(), "a message")
    assert refused > 5
