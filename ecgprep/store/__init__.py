"""The store: its format, how it is read, verified and archived."""

from ecgprep.store.reader import Store, looks_like_store

__all__ = ["Store", "looks_like_store"]
