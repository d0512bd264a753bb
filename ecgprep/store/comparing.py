"""Whether two stores hold the same, whichever versions built them."""

from __future__ import annotations

from ecgprep.store.format import ARRAYS
from ecgprep.store.reader import Store

_NOT_COMPARED = {"software", "content_sha256"}
"""Versions are not content, and the hash of a store covers them."""


def differences(one: Store, other: Store) -> list[str]:
    """Name the attributes and arrays in which two stores differ, bit by bit; empty if in none.

    Every byte of both is read. The versions that built them (`software`) are not compared.
    """
    attributes = sorted(one.attributes.keys() - _NOT_COMPARED)
    found = [name for name in attributes if one.attributes[name] != other.attributes[name]]
    changed = {
        name.split("/")[0]
        for name in one.file_hashes.keys() | other.file_hashes.keys()
        if one.file_hashes.get(name) != other.file_hashes.get(name)
    }
    return found + [name for name in ARRAYS if name in changed]
