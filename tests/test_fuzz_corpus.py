"""Replay what the fuzzer found (tests/fuzz/corpus/), in seconds and without the fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest
from vendor_files import reason_of_reading

CORPUS = sorted((Path(__file__).parent / "fuzz" / "corpus").glob("*.xml"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_found_input_still_has_the_outcome_in_its_name(path):
    """Files are named DIALECT_REASON.xml; `ok` is a recording."""
    assert path.stem.endswith(f"_{reason_of_reading(path.read_bytes())}")


def test_corpus_is_there():
    assert CORPUS
