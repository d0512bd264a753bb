"""Whatever is done to a valid file, reading it gives a Recording or a RecordError, never another exception."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree  # noqa: TID251 - to change files, not to read them

from ecgprep.conform import Conformity, conform
from ecgprep.errors import RecordError
from ecgprep.readers import read_bytes
from ecgprep.simulation.simulator import Heart, simulate
from ecgprep.simulation.vendors import VENDORS, full_disclosure

_GENERATOR = np.random.default_rng(0)
_UV = simulate(Heart.draw(_GENERATOR, 0), 100, _GENERATOR)
FILES = {
    name: write(_UV, 100, "X")
    for name, write in {**VENDORS, "full_disclosure": full_disclosure}.items()
}
TEXTS = [
    "",
    " ",
    "0",
    "-1",
    "1",
    "nan",
    "inf",
    "1e308",
    "1e-308",
    "9" * 30,
    "x",
    "0x1",
    "1_0",
    "\u0661",
    "500",
    "12",
    "I",
    "-",
    "1,2",
    "1 2",
    "AAAA",
]
TEXTS += [
    "AA==",
    "=",
    "uV",
    "mV",
    "RHYTHM",
    "Rhythm",
    "True",
    "4.88",
    "32768",
    "-32768",
    "1.5",
    "99999999999999999999 1",
]


def survives(data: bytes) -> None:
    with contextlib.suppress(RecordError):
        conform(read_bytes(data), Conformity())


def mutate(data: bytes, draw) -> bytes:
    """Drop, double, move, retype or rename one element, or change one attribute."""
    root = etree.fromstring(data)
    elements = [element for element in root.iter() if element is not root]
    if not elements:
        return data
    element = elements[draw(st.integers(0, len(elements) - 1))]
    parent = element.getparent()
    kind = draw(st.sampled_from(["drop", "double", "move", "text", "rename", "attribute", "empty"]))
    if kind == "drop":
        parent.remove(element)
    elif kind == "double":
        parent.append(etree.fromstring(etree.tostring(element)))
    elif kind == "move":
        elements[draw(st.integers(0, len(elements) - 1))].addprevious(etree.Element("x"))
        parent.insert(0, element)
    elif kind == "text":
        element.text = draw(st.sampled_from(TEXTS))
    elif kind == "rename":
        element.tag = draw(st.sampled_from([other.tag for other in elements]))
    elif kind == "attribute" and element.attrib:
        element.set(draw(st.sampled_from(sorted(element.attrib))), draw(st.sampled_from(TEXTS)))
    else:
        element.text = None
    return etree.tostring(root)


@pytest.mark.parametrize("name", FILES)
@given(data=st.data(), n=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_changed_structure(name, data, n):
    changed = FILES[name]
    for _ in range(n):
        changed = mutate(changed, data.draw)
    survives(changed)


@pytest.mark.parametrize("name", FILES)
@given(
    positions=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=20),
    cut=st.floats(0.2, 1.5),
)
@settings(max_examples=60, deadline=None)
def test_changed_bytes(name, positions, cut):
    changed = bytearray(FILES[name])
    for place, byte in positions:
        changed[int(place * (len(changed) - 1))] = byte
    survives(bytes(changed[: int(cut * len(changed))]))


@pytest.mark.full
@pytest.mark.parametrize("name", FILES)
@given(data=st.data(), n=st.integers(1, 8))
@settings(max_examples=3000, deadline=None)
def test_changed_structure_at_length(name, data, n):
    changed = FILES[name]
    for _ in range(n):
        changed = mutate(changed, data.draw)
    survives(changed)
