"""What other programs like to find in a store, beside what its format demands.

The coordinate `lead` lets xarray select leads by name, and Zarr's consolidated metadata let it open
the store in one read. Both only repeat what the store says elsewhere: they take no part in
`content_sha256`, and a store without them is as good.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from ecgprep.files.atomic import canonical_json
from ecgprep.leads import LEADS
from ecgprep.store.format import CONSOLIDATED, Layout

_LEAD_METADATA = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [len(LEADS)],
    "data_type": "string",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [len(LEADS)]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": "",
    "codecs": [{"name": "vlen-utf8", "configuration": {}}],
    "attributes": {},
    "dimension_names": ["lead"],
    "storage_transformers": [],
}


def _vlen_utf8(texts: tuple[str, ...]) -> bytes:
    """Encode texts as Zarr's codec vlen-utf8: their number, then length and bytes of each."""
    parts = [struct.pack("<I", len(texts))]
    for text in texts:
        encoded = text.encode()
        parts += [struct.pack("<I", len(encoded)), encoded]
    return b"".join(parts)


LEAD_FILES = {
    "lead/zarr.json": canonical_json(_LEAD_METADATA, indent=2),
    "lead/c/0": _vlen_utf8(tuple(LEADS)),
}
"""The files of the coordinate `lead`, relative to the store."""


def consolidated_metadata(layout: Layout, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what the root says of the arrays `names` and of `lead`, as zarr-python writes it."""
    metadata = {name: layout.metadata(name) for name in names} | {"lead": _LEAD_METADATA}
    return _inline(metadata)


def _inline(metadata: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "inline", "must_understand": False, "metadata": metadata}


def addition_faults(store: Path, root: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """Compare what was added to a store with what the store itself says."""
    faults = []
    has_lead = (store / "lead").exists()
    if has_lead and not all(_holds(store / name, data) for name, data in LEAD_FILES.items()):
        faults.append("the coordinate lead does not name the leads")
    if CONSOLIDATED in root:
        present = (*names, "lead") if has_lead else names
        own = {name: json.loads((store / name / "zarr.json").read_bytes()) for name in present}
        if root[CONSOLIDATED] != _inline(own):
            faults.append("the consolidated metadata differ from those of the arrays")
    return faults


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def is_plainly_written(data: bytes, root: dict[str, Any]) -> bool:
    """Say whether a root `zarr.json` has the bytes that we write, or those of zarr-python.

    zarr-python rewrites the file when it consolidates: in an order of its own, without a line feed.
    """
    if data == canonical_json(root, indent=2):
        return True
    is_sorted = list(root) == sorted(root)
    return CONSOLIDATED in root and not is_sorted and data == json.dumps(root, indent=2).encode()
