"""Coverage-guided fuzzing of one dialect's reader with atheris.

    pip install atheris    # Python 3.11 to 3.13
    python tests/fuzz/fuzz_readers.py muse 600 [FOUND]

runs for 600 seconds, starting from a valid file of that dialect and from tests/fuzz/corpus/. Inputs
that reach new code are kept in the folder FOUND, if given. Anything but a Recording or a
RecordError is a crash, written as crash-* into the working folder. Once it is mended, put its bytes
into corpus/ as DIALECT_REASON.xml; tests/test_fuzz_corpus.py replays them from then on.
"""

from __future__ import annotations

import contextlib
import random
import re
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=[
        "ecgprep.readers.xml",
        "ecgprep.readers",
        "ecgprep.conform",
        "ecgprep.recording",
        "ecgprep.leads",
    ]
):
    from ecgprep.conform import Conformity, conform
    from ecgprep.errors import RecordError
    from ecgprep.readers import parse_file

import numpy as np

from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import VENDORS, full_disclosure

CORPUS = Path(__file__).parent / "corpus"
NUMBERS = b"0 -1 1 500 32768 1.5 nan inf 1e308 1_0 0x10 - 1,2".split()
WORDS = "= I C1 aVF -aVR MDC_ECG_ELEC_POTL_V1 AAAA uV mV µV RHYTHM True XLI Plain".encode().split()
MARKUP = [b"<x/>", b"&lt;", b"&#0;", b"<![CDATA[1]]>", b"<!-- -->"]
DAMAGE = [b"\xff", b"\xa0", b"\x0b", b"\0", b"&", b"&#11;", b"&nbsp;"]
TOKENS = [b"", b" ", b"1 2", b"9" * 30, *NUMBERS, *WORDS, *MARKUP, *DAMAGE]
CODECS = b"UTF-8 EUC-KR windows-1250 ISO-2022-JP hz UTF-7 UTF-16 cp037 x-none".split()
_DECLARED = re.compile(rb'(?<=encoding=")[^"]*(?=")')
_FIELD = re.compile(rb'(?<=>)[^<]*(?=<)|(?<=")[^"<>]*(?=")')
_TAG = re.compile(rb"<[^<>]*>")


def read_one(data: bytes) -> None:
    """Read one input; nothing but RecordError may come out, and nothing at all of a header."""
    with contextlib.suppress(RecordError):
        file = parse_file(data)
        try:
            file.header()
        except RecordError as error:
            raise AssertionError("a header was refused") from error
        conform(file.recording(), Conformity())


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change a text, an attribute or a tag, or leave the change to libFuzzer.

    The well-formedness of XML hides most bit flips from the readers.
    """
    choice = random.Random(seed)  # noqa: S311 - no secret
    kinds = [
        (_FIELD, "token"),
        (_FIELD, "bytes"),
        (_FIELD, "damage"),
        (_DECLARED, "codec"),
        (_TAG, "drop"),
        (_TAG, "double"),
        (None, "any"),
    ]
    pattern, kind = choice.choice(kinds)
    places = [match.span() for match in pattern.finditer(data)] if pattern else []
    if not places:
        return bytes(atheris.Mutate(data, max_size))
    start, end = choice.choice(places)
    found = data[start:end]
    if kind == "token":
        changed = choice.choice(TOKENS)
    elif kind == "damage":
        at = choice.randint(0, len(found))
        changed = found[:at] + choice.choice(DAMAGE) + found[at:]
    elif kind == "codec":
        changed = choice.choice(CODECS)
    elif kind == "bytes":
        changed = bytes(atheris.Mutate(found, len(found) + 64))
    elif kind == "drop":
        changed = b""
    else:
        changed = found + found
    return (data[:start] + changed + data[end:])[:max_size]


def seed_file(dialect: str) -> bytes:
    """Return a valid file of 5 s at 100 Hz, small so that many are tried."""
    generator = np.random.default_rng(0)
    uv = simulate(Heart.draw(generator, 0), 100, generator)[:, :500]
    return {**VENDORS, "full_disclosure": full_disclosure}[dialect](uv, 100, "X")


def main() -> None:
    """Fuzz one dialect for a number of seconds."""
    dialect, seconds, *found = sys.argv[1:]
    CORPUS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = found[0] if found else temporary
        (Path(folder) / "seed.xml").write_bytes(seed_file(dialect))
        limits = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=60000"]
        arguments = [sys.argv[0], f"-max_total_time={seconds}", *limits, folder, str(CORPUS)]
        atheris.Setup(arguments, read_one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
