"""The store: its format, how it is read, verified, archived and summarised."""

from __future__ import annotations

from pathlib import Path

from ecgprep.store.opening import looks_like_store
from ecgprep.store.reader import Store

__all__ = ["Store", "looks_like_store", "open_store"]


def open_store(path: str | Path) -> Store:
    """Open a finished store read-only; the same as `Store(path)`. Raises StoreError."""
    return Store(path)
