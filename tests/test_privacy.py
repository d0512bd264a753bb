"""What identifies a person goes nowhere: a token in every text, attribute, name and column, and then a search of everything written."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import numcodecs
import numpy as np
import pytest
from conftest import write_manifest

from ecgprep.readers import read_bytes
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import VENDORS
from ecgprep.store.archive import pack

TOKEN = "ZQ{:05d}QZ"  # noqa: S105 - a mark to search for
PRIVATE = ("m.csv", "m.registry.csv")


def poison(data: bytes, first: int) -> bytes:
    """Put a token into every text and attribute that a reader does not need: one that it misses is put back."""
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1")
    places = [match.span(1) for match in re.finditer(r">([^<>]*[^<>\s][^<>]*)<", text)] + [
        match.span(1) for match in re.finditer(r'[\w:]+="([^"<>]*)"', text)
    ]
    count = 0
    for start, end in sorted(places, reverse=True):
        if end - start > 400:
            continue
        token = TOKEN.format(first + count)
        candidate = text[:start] + token + text[end:]
        with contextlib.suppress(Exception):
            read_bytes(
                candidate.encode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1")
            )
            text, count = candidate, count + 1
    assert count > 3, "no field to poison was found"
    # Texts that a file lacks but an export has: a token in a new element and a comment.
    text = (
        text.replace("</", f"<PatientLastName>{TOKEN.format(first + 9000)}</PatientLastName></", 1)
        if "<PatientDemographics>" in text
        else text
    )
    return text.encode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Recordings of every dialect, good and broken, full of tokens; ids, file names and an unused column are tokens, too."""
    folder = tmp_path_factory.mktemp("privacy")
    rows = []
    for k, (_dialect, write) in enumerate(VENDORS.items()):
        for i in range(3):
            generator = np.random.default_rng(10 * k + i)
            data = write(simulate(Heart.draw(generator, i % 2), 500, generator), 500, "X")
            data = (
                poison(data, 10_000 * (k + 1) + 100 * i)
                if i < 2
                else poison(data, 10_000 * (k + 1) + 200)[: len(data) // 2]
            )
            name = f"{TOKEN.format(100 + 10 * k + i)}.xml"
            (folder / name).write_bytes(data)
            rows.append((TOKEN.format(200 + 10 * k + i), name, i % 2))
    rows.append((TOKEN.format(300), f"{TOKEN.format(301)}.xml", 0))
    write_manifest(folder / "m.csv", rows)
    lines = (folder / "m.csv").read_text().splitlines()
    (folder / "m.csv").write_text(
        "\n".join(
            [
                lines[0] + ",referrer",
                *(f"{line},{TOKEN.format(400 + i)}" for i, line in enumerate(lines[1:])),
            ]
        )
        + "\n"
    )
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ecgprep.cli", *arguments],
        cwd=folder,
        capture_output=True,
        check=False,
    )


def assert_clean(content: bytes, where: str) -> None:
    for view in (content, content.replace(b"\0", b"")):
        assert not re.search(rb"ZQ\d{5}QZ", view), f"a token is in {where}"


def test_no_token_is_in_anything_that_is_written(cohort):
    outputs = [
        run(
            cohort,
            "build",
            "m.csv",
            "s.zarr",
            "--max-rejected",
            "0.9",
            "--allow-missing-class",
            "--jobs",
            "2",
        ),
        run(
            cohort,
            "build",
            "m.csv",
            "t.zarr",
            "--max-rejected",
            "0.0",
            "--allow-missing-class",
            "--registry",
            "t.registry.csv",
        ),
        run(cohort, "build", "m.csv", "u.zarr", "--covariates", "referrer"),
        run(cohort, "inspect", "s.zarr", "--json"),
        run(cohort, "verify", "s.zarr"),
        run(cohort, "report", "s.zarr", "--exact-counts"),
        run(cohort, "doctor"),
    ]
    assert [done.returncode for done in outputs] == [0, 5, 3, 0, 0, 0, 0]
    pack(cohort / "s.zarr", cohort / "p.zarr")
    for done in outputs:
        assert_clean(done.stdout + done.stderr, "what a command printed")
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


def test_private_side_is_readable_by_its_owner_only(cohort):
    run(cohort, "build", "m.csv", "s.zarr", "--max-rejected", "0.9", "--allow-missing-class")
    run(cohort, "report", "s.zarr")
    run(cohort, "plan", "m.csv", "v.zarr", "--max-rejected", "0.9", "--allow-missing-class")
    run(cohort, "part", "v.zarr", "--part", "1/1")
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
    """Every text replaced in turn, also those that a reader needs: the message of a refusal holds no token."""
    generator = np.random.default_rng(0)
    data = VENDORS[dialect](simulate(Heart.draw(generator, 0), 100, generator), 100, "X")
    codec = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
    text = data.decode(codec)
    places = [
        match.span(match.lastindex)
        for match in re.finditer(r'>([^<>]*[^<>\s][^<>]*)<|[\w:]+="([^"<>]*)"', text)
    ]
    refused = 0
    for start, end in places:
        try:
            read_bytes((text[:start] + TOKEN.format(1) + text[end:]).encode(codec))
        except Exception as error:
            refused += 1
            assert_clean(
                f"{error!r} {error.__notes__ if hasattr(error, '__notes__') else ''}".encode(),
                "a message",
            )
    assert refused > 5
