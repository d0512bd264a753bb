"""The private build record beside a store: what the store was built from."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUILD_RECORD_FORMAT = 3

_NEEDED = {
    "content_sha256",
    "manifest_sha256",
    "registry",
    "registry_sha256",
    "rows_sha256",
    "tested_sha256",
    "dialects",
    "copies",
}


def private_path(store: Path, kind: str) -> Path:
    """Return the path of a private file of a store: `kind` is `rejects.csv` or `build.json`."""
    return store.with_name(f"{store.name}.{kind}")


def read_build_record(store: Path, kind: str = "build.json") -> dict[str, Any] | None:
    """Read the private record of a build, or None where it is missing or damaged.

    `sources` comes as an int64 array (N, 2), a stamp of each file.
    """
    try:
        record: dict[str, Any] = json.loads(private_path(store, kind).read_bytes())
        if record["format"] != BUILD_RECORD_FORMAT or not record.keys() >= _NEEDED:
            return None
        record["sources"] = _decode_sources(record["sources"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return record


def _decode_sources(text: str) -> NDArray[np.int64]:
    """Decode base64 of little-endian int64 pairs."""
    return np.frombuffer(base64.b64decode(text, validate=True), "<i8").reshape(-1, 2)
