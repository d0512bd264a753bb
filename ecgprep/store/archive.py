"""Pack a store for the archive or for sending, a third of the size, and restore it to the byte.

A packed store is a Zarr v3 group that any Zarr reader opens. Only its waveform chunks differ from
the store's: they are compressed with zstd, so they cannot be mapped. Unpacking restores the store
to the byte, and proves it by the content hash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ecgprep.errors import StoreError
from ecgprep.files.atomic import canonical_json, write_file
from ecgprep.files.output import refuse_inside_store
from ecgprep.files.publishing import publishing
from ecgprep.store.additions import LEAD_FILES
from ecgprep.store.format import CONSOLIDATED, Layout
from ecgprep.store.reader import Store

CODECS = ("zstd",)

_LEVEL = 3
"""Higher levels take ten times as long for a tenth less."""

_MAX_PACKED_CHUNK = 64_000_000

_MAX_RECORDS, _MAX_SAMPLES = 2**28, 2**24

_WAVEFORM_METADATA = "waveforms/zarr.json"

_FETCH_AGAIN = "Fetch the packed store again."

Progress = Callable[[int, int], None]
"""Called with the number of files done and of all."""


def pack(path: Path, out: Path, codec: str = "zstd", progress: Progress | None = None) -> None:
    """Write a packed copy of an intact store. Raises StoreError, TargetExists, NoSpace."""
    from numcodecs.zstd import Zstd

    refuse_inside_store(out)
    store = Store(path)
    if store.computed_sha256() != store.content_sha256:
        raise StoreError(
            f"{path} is damaged: its files do not match content_sha256. "
            f"`ecgprep verify {path}` lists the faults."
        )
    zstd = Zstd(level=_LEVEL, checksum=True)
    chunks = set(store.layout.chunk_files("waveforms"))

    def packed(name: str) -> bytes:
        if name == "zarr.json":
            metadata = _packed_metadata(store.layout, codec)
            return _with_waveforms((path / name).read_bytes(), metadata)
        if name == _WAVEFORM_METADATA:
            return canonical_json(_packed_metadata(store.layout, codec), indent=2)
        data = (path / name).read_bytes()
        return bytes(zstd.encode(data)) if name in chunks else data

    with publishing(out) as unfinished:
        _write_files(unfinished, _names(path, store.layout), packed, progress)


def unpack(path: Path, out: Path, progress: Progress | None = None) -> Store:
    """Restore a packed store to the byte.

    Raises StoreError when the copy is damaged or is not a packed store, TargetExists, NoSpace.
    """
    refuse_inside_store(out)
    layout = _read_packed_layout(path)
    chunks = set(layout.chunk_files("waveforms"))

    def unpacked(name: str) -> bytes | bytearray:
        if name == "zarr.json":
            return _with_waveforms(_read(path, name), layout.metadata("waveforms"))
        if name == _WAVEFORM_METADATA:
            return canonical_json(layout.metadata("waveforms"), indent=2)
        data = _read(path, name)
        return _decompress(data, layout, f"{path}: {name}") if name in chunks else data

    with publishing(out) as unfinished:
        _write_files(unfinished, _names(path, layout), unpacked, progress)
        store = Store(unfinished)
        if store.computed_sha256() != store.content_sha256:
            raise StoreError(
                f"{path} is damaged: its content does not match its content_sha256. {_FETCH_AGAIN}"
            )
    return Store(out)


def _write_files(
    folder: Path,
    names: Sequence[str],
    content: Callable[[str], bytes | bytearray],
    progress: Progress | None,
) -> None:
    """Write every file of a store, `content` of its name, below `folder`."""
    for k, name in enumerate(names):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, memoryview(content(name)))
        if progress:
            progress(k + 1, len(names))


def _names(source: Path, layout: Layout) -> list[str]:
    """Return the files of a store or a packed one: what it must hold, and what was added."""
    added = [name for name in LEAD_FILES if (source / name).is_file()]
    return ["zarr.json", *added, *(name for name, _ in layout.files())]


def _with_waveforms(root: bytes, metadata: dict[str, Any]) -> bytes:
    """Return a root `zarr.json` whose consolidated metadata, if any, describe the waveforms so."""
    content = json.loads(root)
    if CONSOLIDATED not in content:
        return root
    is_ours = root == canonical_json(content, indent=2)
    content[CONSOLIDATED]["metadata"]["waveforms"]["codecs"] = metadata["codecs"]
    # zarr-python has an order and an ending of its own: additions.py.
    return canonical_json(content, indent=2) if is_ours else json.dumps(content, indent=2).encode()


def _packed_metadata(layout: Layout, codec: str) -> dict[str, Any]:
    """Return the `waveforms/zarr.json` of a packed store."""
    if codec not in CODECS:
        raise ValueError(f"codec (={codec}) must be one of {', '.join(CODECS)}")
    metadata = layout.metadata("waveforms")
    compressor = {"name": codec, "configuration": {"level": _LEVEL, "checksum": True}}
    return metadata | {"codecs": [*metadata["codecs"], compressor]}


def _read_packed_layout(path: Path) -> Layout:
    """Read the sizes of a packed store, and check that its waveforms are packed as by `pack`."""
    try:
        root = json.loads(_read(path, "zarr.json"))
        metadata = json.loads(_read(path, _WAVEFORM_METADATA))
        shape, names = metadata["shape"], root["attributes"]["covariate_names"]
        layout = Layout(int(shape[0]), int(shape[2]), len(names))
        has_size = 0 < layout.n_records < _MAX_RECORDS and 0 < layout.n_samples < _MAX_SAMPLES
        if has_size and metadata in [_packed_metadata(layout, codec) for codec in CODECS]:
            return layout
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        pass
    raise StoreError(f"{path} is not a packed store. `ecgprep pack STORE OUT.zarr` makes one.")


def _read(path: Path, name: str) -> bytes:
    file = path / name
    try:
        if not file.is_file() or file.stat().st_size > _MAX_PACKED_CHUNK:
            raise StoreError(
                f"{path}: {name} is missing or is not a file of a packed store. {_FETCH_AGAIN}"
            )
        return file.read_bytes()
    except OSError as error:
        raise StoreError(
            f"{path}: {name} cannot be read ({error.strerror}). Check its permissions."
        ) from None


def _decompress(data: bytes, layout: Layout, where: str) -> bytearray:
    """Return one waveform chunk. Raises StoreError."""
    from numcodecs.zstd import Zstd

    chunk = bytearray(layout.chunk_bytes("waveforms"))
    try:
        # Nothing is written beyond the chunk, whatever size the frame declares.
        Zstd().decode(data, chunk)
    except (RuntimeError, ValueError):
        raise StoreError(f"{where} is damaged: it cannot be decompressed. {_FETCH_AGAIN}") from None
    return chunk
