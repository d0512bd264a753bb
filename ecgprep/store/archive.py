"""Pack a store for the archive or the road, and restore it: the same Zarr group with `zstd` on the waveforms, a third of the size.

A packed store is a Zarr v3 group that any Zarr reader opens; only its waveform chunks differ from the store's, and they cannot be mapped.
Unpacking restores the store to the byte, and proves it by the content hash.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ecgprep.errors import StoreError, TargetExists
from ecgprep.files.atomic import (
    canonical_json,
    fsync_dir,
    naming_full_disk,
    publish_dir,
    write_file,
)
from ecgprep.files.lock import locked
from ecgprep.files.output import refuse_inside_store
from ecgprep.store.format import Layout
from ecgprep.store.reader import Store

CODECS = ("zstd",)


_LEVEL = 3
"""Higher levels take ten times as long for a tenth less."""


_MAX_PACKED_CHUNK = 64_000_000


Progress = Callable[[int, int], None]


def _codec(name: str) -> dict[str, Any]:
    if name not in CODECS:
        raise ValueError(f"codec (={name}) must be one of {', '.join(CODECS)}")
    return {"name": name, "configuration": {"level": _LEVEL, "checksum": True}}


def _metadata(layout: Layout, codec: str) -> dict[str, Any]:
    """The `waveforms/zarr.json` of a packed store."""
    metadata = layout.metadata("waveforms")
    return metadata | {"codecs": [*metadata["codecs"], _codec(codec)]}


def pack(path: Path, out: Path, codec: str = "zstd", progress: Progress | None = None) -> None:
    """Write a packed copy of an intact store. Raises StoreError, TargetExists, NoSpace."""
    from numcodecs.zstd import Zstd

    refuse_inside_store(out)

    store = Store(path)
    if store.computed_sha256() != store.content_sha256:
        raise StoreError(
            f"{path} is damaged: its files do not match content_sha256. `ecgprep verify {path}` says where."
        )
    zstd = Zstd(level=_LEVEL, checksum=True)
    with _making(out) as made:
        chunks = set(store.layout.chunk_files("waveforms"))
        names = ["zarr.json", *(name for name, _ in store.layout.files())]
        for k, name in enumerate(names):
            data = (path / name).read_bytes()
            if name == "waveforms/zarr.json":
                data = canonical_json(_metadata(store.layout, codec), indent=2)
            _write(made / name, zstd.encode(data) if name in chunks else data)
            if progress:
                progress(k + 1, len(names))


def unpack(path: Path, out: Path, progress: Progress | None = None) -> Store:
    """Restore the store that was packed, to the byte. Raises StoreError when the copy is damaged or no packed store."""
    from numcodecs.zstd import Zstd

    refuse_inside_store(out)

    layout = _packed_layout(path)
    size = layout.chunk_bytes("waveforms")
    with _making(out) as made:
        chunks = set(layout.chunk_files("waveforms"))
        names = ["zarr.json", *(name for name, _ in layout.files())]
        for k, name in enumerate(names):
            data: Any = _read(path, name)
            if name == "waveforms/zarr.json":
                data = canonical_json(layout.metadata("waveforms"), indent=2)
            if name in chunks:
                chunk = bytearray(size)
                try:
                    Zstd().decode(
                        data, chunk
                    )  # never writes beyond the chunk, whatever the frame declares
                except (RuntimeError, ValueError):
                    raise StoreError(
                        f"{path}: damaged: {name} cannot be decompressed. Fetch the packed store again."
                    ) from None
                data = chunk
            _write(made / name, data)
            if progress:
                progress(k + 1, len(names))
        store = Store(made)
        if store.computed_sha256() != store.content_sha256:
            raise StoreError(
                f"{path} is damaged: what it holds does not match its content_sha256. Fetch the packed store again."
            )
    return Store(out)


def _packed_layout(path: Path) -> Layout:
    """Read the sizes of a packed store and check that its waveforms are packed as `pack` does it."""
    try:
        root = json.loads(_read(path, "zarr.json"))
        found = json.loads(_read(path, "waveforms/zarr.json"))
        shape, names = found["shape"], root["attributes"]["covariate_names"]
        layout = Layout(int(shape[0]), int(shape[2]), len(names))
        packed = (
            any(found == _metadata(layout, codec) for codec in CODECS)
            and 0 < layout.n_records < 2**28
            and 0 < layout.n_samples < 2**24
        )
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        packed = False
    if not packed:
        raise StoreError(f"{path} is no packed store. `ecgprep pack STORE OUT.zarr` makes one.")
    return layout


def _read(path: Path, name: str) -> bytes:
    try:
        if not (path / name).is_file() or (path / name).stat().st_size > _MAX_PACKED_CHUNK:
            raise StoreError(
                f"{path}: {name} is missing or not a file of a packed store. Fetch the packed store again."
            )
        return (path / name).read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: {name} cannot be read ({error.strerror}).") from None


def _write(path: Path, data: bytes | bytearray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, memoryview(data))


@contextlib.contextmanager
def _making(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that gets its name when all went well, and is gone when not."""
    if out.exists() or out.is_symlink():
        raise TargetExists(f"{out} exists. Give another name.")
    out.parent.mkdir(parents=True, exist_ok=True)
    made = out.with_name(f".{out.name}.making")
    with locked(out, wait=False), naming_full_disk(out.parent):
        shutil.rmtree(made, ignore_errors=True)  # what a killed process has left
        try:
            made.mkdir()
            yield made
            for folder in [made, *(path for path in made.rglob("*") if path.is_dir())]:
                fsync_dir(folder)
            publish_dir(made, out, replace=False)
        finally:
            shutil.rmtree(made, ignore_errors=True)
