"""Whatever is done to a valid file, reading it gives a Recording or a RecordError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree  # noqa: TID251 - to change files, not to read them
from vendor_files import WRITERS, reason_of_reading

from ecgprep.errors import STATUSES
from ecgprep.leads import TWELVE_LEADS
from ecgprep.simulation.philips import philips
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import muse

GENERATOR = np.random.default_rng(0)
UV = simulate(Heart.draw(GENERATOR, 0), 100, GENERATOR)
FILES = {name: write(UV, 100, "X") for name, write in WRITERS.items()}
FILES["muse_12"] = muse(UV, 100, "X", leads=TWELVE_LEADS)
FILES["philips_plain"] = philips(UV, 100, "X", version="1.05", pulse=False, compressed=False)

NUMBERS = "0 -1 1 12 500 1.5 4.88 nan inf 1e308 1e-308 32768 -32768 0x1 1_0 \u0661 - 1,2".split()
WORDS = "x I C1 aVF -aVR MDC_ECG_ELEC_POTL_V1 uV mV RHYTHM Rhythm True AAAA AA== =".split()
OTHERS = ["", " ", "1 2", "9" * 30, "99999999999999999999 1"]
TEXTS = st.sampled_from([*NUMBERS, *WORDS, *OTHERS])

Draw = Callable[[st.SearchStrategy[Any]], Any]


def one_of(draw: Draw, elements: list[etree._Element]) -> etree._Element:
    return elements[draw(st.integers(0, len(elements) - 1))]


def drop(element: etree._Element, _elements: list[etree._Element], _draw: Draw) -> None:
    element.getparent().remove(element)


def double(element: etree._Element, _elements: list[etree._Element], _draw: Draw) -> None:
    copy = etree.fromstring(etree.tostring(element))
    element.getparent().append(copy)


def move(element: etree._Element, elements: list[etree._Element], draw: Draw) -> None:
    parent = element.getparent()
    one_of(draw, elements).addprevious(etree.Element("x"))
    parent.insert(0, element)


def retype(element: etree._Element, _elements: list[etree._Element], draw: Draw) -> None:
    element.text = draw(TEXTS)


def rename(element: etree._Element, elements: list[etree._Element], draw: Draw) -> None:
    element.tag = one_of(draw, elements).tag


def empty(element: etree._Element, _elements: list[etree._Element], _draw: Draw) -> None:
    element.text = None


def change_attribute(element: etree._Element, _elements: list[etree._Element], draw: Draw) -> None:
    if element.attrib:
        element.set(draw(st.sampled_from(sorted(element.attrib))), draw(TEXTS))


MUTATIONS = (drop, double, move, retype, rename, empty, change_attribute)


def mutated(data: bytes, draw: Draw) -> bytes:
    """Change one element of a file."""
    root = etree.fromstring(data)
    elements = [element for element in root.iter() if element is not root]
    if not elements:
        return data
    change = draw(st.sampled_from(MUTATIONS))
    change(one_of(draw, elements), elements, draw)
    return etree.tostring(root)


def assert_changed_structure_is_read_or_refused(name: str, draw: Draw, n_changes: int) -> None:
    changed = FILES[name]
    for _ in range(n_changes):
        changed = mutated(changed, draw)
    assert reason_of_reading(changed) in STATUSES


@pytest.mark.parametrize("name", FILES)
@given(data=st.data(), n=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_changed_structure_is_read_or_refused(name, data, n):
    assert_changed_structure_is_read_or_refused(name, data.draw, n)


@pytest.mark.full
@pytest.mark.parametrize("name", FILES)
@given(data=st.data(), n=st.integers(1, 8))
@settings(max_examples=3000, deadline=None)
def test_structure_changed_at_length_is_read_or_refused(name, data, n):
    assert_changed_structure_is_read_or_refused(name, data.draw, n)


@pytest.mark.parametrize("name", FILES)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=20),
    kept=st.floats(0.2, 1.5),
)
@settings(max_examples=60, deadline=None)
def test_changed_bytes_are_read_or_refused(name, changes, kept):
    changed = bytearray(FILES[name])
    for place, byte in changes:
        changed[int(place * (len(changed) - 1))] = byte
    cut = bytes(changed[: int(kept * len(changed))])
    assert reason_of_reading(cut) in STATUSES
