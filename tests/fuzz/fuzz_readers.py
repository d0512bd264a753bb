"""Coverage-guided fuzzing of one dialect's reader with atheris (pip install atheris; Python 3.11 to 3.13):

    python tests/fuzz/fuzz_readers.py muse 600

runs for 600 seconds from a valid file of that dialect and what was found before (tests/fuzz/corpus/). Anything but a Recording or a
RecordError is a crash, written as crash-* into the working folder; put its bytes into corpus/ once it is mended, where
tests/test_fuzz_corpus.py replays them for ever.
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
    from ecgprep.readers import read_bytes

import numpy as np

from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import VENDORS, full_disclosure

CORPUS = Path(__file__).parent / "corpus"
TOKENS = [
    b"0",
    b"-1",
    b"1",
    b"nan",
    b"inf",
    b"1e308",
    b"9" * 30,
    b"",
    b" ",
    b"AAAA",
    b"uV",
    b"mV",
    b"RHYTHM",
    b"True",
    b"32768",
    b"-",
    b"=",
    b"1 2",
    b"1,2",
]
TOKENS += [
    "\u00b5V".encode(),
    b"\xff",
    b"<x/>",
    b"&lt;",
    b"&#0;",
    b"<![CDATA[1]]>",
    b"<!-- -->",
    b"500",
    b"1.5",
    b"1_0",
    b"0x10",
    b"XLI",
    b"Plain",
]
_FIELD = re.compile(rb'(?<=>)[^<]*(?=<)|(?<=")[^"<>]*(?=")')
_TAG = re.compile(rb"<[^<>]*>")


def read_one(data: bytes) -> None:
    """The target: nothing but RecordError may come out."""
    with contextlib.suppress(RecordError):
        conform(read_bytes(data), Conformity())


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Replace a text or an attribute, drop or double a tag, or leave it to libFuzzer: XML hides most bit flips from the reader."""
    choice = random.Random(seed)  # noqa: S311 - no secret
    pattern, kind = choice.choice(
        [(_FIELD, "token"), (_FIELD, "bytes"), (_TAG, "drop"), (_TAG, "double"), (None, "any")]
    )
    places = [match.span() for match in pattern.finditer(data)] if pattern else []
    if not places:
        return bytes(atheris.Mutate(data, max_size))
    start, end = choice.choice(places)
    middle = data[start:end]
    changed = {
        "token": lambda: choice.choice(TOKENS),
        "bytes": lambda: bytes(atheris.Mutate(middle, len(middle) + 64)),
        "drop": lambda: b"",
        "double": lambda: middle + middle,
    }[kind]()
    return (data[:start] + changed + data[end:])[:max_size]


def seed_file(dialect: str) -> bytes:
    """A valid file of 5 s at 100 Hz, small so that many are tried."""
    generator = np.random.default_rng(0)
    uv = simulate(Heart.draw(generator, 0), 100, generator)[:, :500]
    return {**VENDORS, "full_disclosure": full_disclosure}[dialect](uv, 100, "X")


def main() -> None:
    """Fuzz one dialect for a number of seconds; inputs that reach new code are kept in the third argument, if given."""
    dialect, seconds, *keep = sys.argv[1:]
    CORPUS.mkdir(exist_ok=True)
    with contextlib.nullcontext(keep[0]) if keep else tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "seed.xml").write_bytes(seed_file(dialect))
        arguments = [
            sys.argv[0],
            f"-max_total_time={seconds}",
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-max_len=60000",
            folder,
            str(CORPUS),
        ]
        atheris.Setup(arguments, read_one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
