"""Replays what the fuzzer found (tests/fuzz/corpus/), in seconds and without the fuzzer."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from ecgprep.conform import Conformity, conform
from ecgprep.errors import RecordError
from ecgprep.readers import read_bytes

CORPUS = sorted((Path(__file__).parent / "fuzz" / "corpus").glob("*.xml"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_found_input_gives_a_recording_or_a_named_reason(path):
    with contextlib.suppress(RecordError):
        conform(read_bytes(path.read_bytes()), Conformity())


def test_corpus_is_there():
    assert CORPUS
