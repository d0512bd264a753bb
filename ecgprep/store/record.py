"""The private build record beside a store: what it was built from."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np


def private_path(store: Path, kind: str) -> Path:
    """Where the private side lies: `kind` is `rejects.csv` or `build.json`."""
    return store.with_name(f"{store.name}.{kind}")


_BUILD_RECORD_FORMAT = 3


def read_build_record(store: Path, kind: str = "build.json") -> dict[str, Any] | None:
    """Read the private record of a build, or None where it is missing or damaged."""
    try:
        record: dict[str, Any] = json.loads(private_path(store, kind).read_bytes())
        record["sources"] = np.frombuffer(
            base64.b64decode(record["sources"], validate=True), "<i8"
        ).reshape(-1, 2)
        needed = {
            "content_sha256",
            "manifest_sha256",
            "registry",
            "registry_sha256",
            "rows_sha256",
            "tested_sha256",
            "dialects",
            "copies",
        }
        return (
            record if record["format"] == _BUILD_RECORD_FORMAT and needed <= record.keys() else None
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
