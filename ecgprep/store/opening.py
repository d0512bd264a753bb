"""What is checked when a store is opened. Opening trusts nothing.

Metadata must be exactly what format versions 1 and 2 write, and every file must have exactly its
size, before anything is mapped: reading past the end of a mapped file kills the process with
SIGBUS.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from ecgprep.errors import InputError, StoreError
from ecgprep.files.atomic import canonical_json
from ecgprep.leads import LEADS
from ecgprep.sex_code import SexCode
from ecgprep.store.format import (
    ARRAYS,
    ATTRIBUTES,
    FORMAT_VERSION,
    QUALITY_FLAGS,
    SETTINGS,
    VERSION_WITH_TASK,
    Layout,
    format_version,
    quality_attributes,
)

_METADATA_LIMIT_BYTES = 1_000_000

_MAX_SIZE = 2**28
"""No axis of a store is as long as this."""

_MAX_SHOWN = 3
"""Bad files named in a message; the rest are counted."""

_MAX_TASK = 20_000

_TASK = re.compile(r"(?:[ -.0-\[\]-~]| / )*")
"""Printable ASCII, slashes only for division: no path, and no character that JSON must escape."""

SITE = "site"
"""The covariate of a merged store that says which of its stores a row is from, from 0."""

SITE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,19}")

_VERSION = re.compile(r"[0-9A-Za-z.+_-]{1,40}")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a small JSON object of any origin; `what` names it in messages.

    Raises StoreError for anything else, such as a FIFO, a device or JSON that is not an object.
    """
    try:
        if not path.is_file() or path.stat().st_size > _METADATA_LIMIT_BYTES:
            raise StoreError(
                f"{what} is not a regular file of at most {_METADATA_LIMIT_BYTES} bytes. "
                "Build the store again."
            )
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{what} is not readable JSON ({type(error).__name__}). "
            "The store is damaged: build it again."
        ) from None
    if not isinstance(value, dict):
        raise StoreError(f"{what} is not a JSON object. The store is damaged: build it again.")
    return value


def looks_like_store(path: Path) -> bool:
    """Return whether a folder is a store of ours, intact or not, which may be replaced.

    A packed store may not be replaced: it could be the only copy.
    """
    try:
        attributes = read_json(path / "zarr.json", path.name).get("attributes")
        if _is_packed(path):
            return False
    except StoreError:
        return False
    marks = {"format_version", "lead_names", "content_sha256"}
    return isinstance(attributes, dict) and marks <= attributes.keys()


def _is_packed(path: Path) -> bool:
    metadata = path / "waveforms" / "zarr.json"
    return metadata.is_file() and len(read_json(metadata, path.name).get("codecs", [])) > 1


def read_root(store: Path) -> dict[str, Any]:
    """Read and check the group's own `zarr.json`: kind, version and the allowed attributes.

    Raises StoreError.
    """
    if not (store / "zarr.json").exists():
        raise StoreError(
            f"{store}: {_describe_missing(store)}. "
            f"`ecgprep build MANIFEST {shlex.quote(str(store))}` makes one."
        )
    root = read_json(store / "zarr.json", f"{store}: zarr.json")
    attributes = root.get("attributes")
    is_group = root.get("zarr_format") == 3 and root.get("node_type") == "group"
    if not is_group or not isinstance(attributes, dict):
        raise StoreError(
            f"{store}: not a Zarr v3 group with attributes, so not an ecgprep store. "
            "`ecgprep build` makes one."
        )
    _check_version(store, attributes.get("format_version"))
    if set(attributes) != ATTRIBUTES:
        differing = ", ".join(sorted(set(attributes) ^ ATTRIBUTES))
        raise StoreError(
            f"{store}: attributes are not those of format 1 (missing or unknown: "
            f"{differing:.200}). Build the store again."
        )
    if not _are_plain(attributes):
        raise StoreError(
            f"{store}: sample_rate_hz, settings or software are not those of format 1. "
            "Build the store again."
        )
    return root


def _describe_missing(store: Path) -> str:
    if not store.exists():
        return "does not exist"
    if store.is_dir():
        return "is a folder without zarr.json, so not a finished store"
    return "is a file, so not a store"


def _check_version(store: Path, version: Any) -> None:
    if type(version) is int and version in (FORMAT_VERSION, VERSION_WITH_TASK):
        return
    is_newer = isinstance(version, int) and version > VERSION_WITH_TASK
    advice = "Update ecgprep." if is_newer else "Build the store again with this ecgprep."
    raise StoreError(
        f"{store}: the store's format version is {version!r:.20}; this ecgprep reads versions "
        f"{FORMAT_VERSION} and {VERSION_WITH_TASK}. {advice}"
    )


def _are_plain(attributes: dict[str, Any]) -> bool:
    """Return whether the attributes with values of many kinds hold nothing unexpected."""
    rate, settings = attributes["sample_rate_hz"], attributes["settings"]
    software = attributes["software"]
    if type(rate) not in (int, float) or not 0 < rate < 1e6:
        return False
    if not isinstance(settings, dict) or not settings.keys() <= SETTINGS:
        return False
    if attributes["format_version"] != format_version(settings) or not _is_task(settings):
        return False
    names = attributes["covariate_names"]
    if not isinstance(names, list) or not _are_sex_codes(settings.get("sex_code", {}), names):
        return False
    if not _are_sites(settings.get("sites", []), names):
        return False
    allowed = settings.get("allow_covariate", [])
    if not isinstance(allowed, list) or not all(name in names for name in allowed):
        return False
    return isinstance(software, dict) and all(map(_is_version, software.values()))


def _are_sex_codes(codes: Any, covariate_names: list[Any]) -> bool:
    """Return whether `codes` is {covariate: code}, each code as `SexCode` writes it."""
    if not isinstance(codes, dict):
        return False
    try:
        written = {name: str(SexCode.parse(str(code))) for name, code in codes.items()}
    except InputError:
        return False
    return codes == written and all(name in covariate_names for name in codes)


def _is_task(settings: dict[str, Any]) -> bool:
    """Return whether the settings hold no task, or canonical JSON of plain words and numbers."""
    if "task" not in settings:
        return True
    text = settings["task"]
    if not isinstance(text, str) or len(text) > _MAX_TASK or not _TASK.fullmatch(text):
        return False
    try:
        value = json.loads(text)
        return isinstance(value, dict) and canonical_json(value).decode() == text
    except (ValueError, RecursionError):
        return False


def _are_sites(sites: Any, covariate_names: list[Any]) -> bool:
    """Return whether `sites` are short plain names, which the covariate `site` numbers."""
    if not isinstance(sites, list):
        return False
    are_plain = all(isinstance(name, str) and SITE_NAME.fullmatch(name) for name in sites)
    return are_plain and (not sites or SITE in covariate_names)


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and _VERSION.fullmatch(value) is not None


def check_arrays(store: Path, attributes: dict[str, Any]) -> Layout:
    """Compare each array's metadata with the one layout that format 1 allows, and return it.

    Raises StoreError.
    """
    layout = _read_layout(store, attributes)
    if attributes["lead_names"] != list(LEADS):
        raise StoreError(
            f"{store}: lead_names are not {', '.join(LEADS)} in this order. Build the store again."
        )
    for name in ARRAYS:
        found = read_json(store / name / "zarr.json", f"{store}: {name}/zarr.json")
        expected = layout.metadata(name)
        if name == "waveforms" and found.get("codecs") != expected["codecs"]:
            raise StoreError(
                f"{store}: is packed, or has other codecs than format 1. "
                f"`ecgprep unpack {store} NEW.zarr` restores a packed store."
            )
        if name == "quality":
            expected["attributes"] = quality_attributes(count_quality_flags(found))
        keys = sorted(expected.keys() | found.keys())
        differing = [key for key in keys if found.get(key) != expected.get(key)]
        if differing:
            raise StoreError(
                f"{store}: {name}/zarr.json differs from format 1 in "
                f"{', '.join(differing):.200}. Build the store again."
            )
    return layout


def _read_layout(store: Path, attributes: dict[str, Any]) -> Layout:
    names, n_samples = attributes["covariate_names"], attributes["n_samples"]
    metadata = read_json(store / "waveforms" / "zarr.json", f"{store}: waveforms/zarr.json")
    shape = metadata.get("shape")
    is_shape = (
        isinstance(shape, list)
        and len(shape) == 3
        and all(type(size) is int and 0 < size < _MAX_SIZE for size in shape)
        and shape[1:] == [len(LEADS), n_samples]
    )
    if not is_shape or not isinstance(names, list):
        raise StoreError(
            f"{store}: the shape of waveforms is not (records, 8, {n_samples!r:.20}). "
            "Build the store again."
        )
    return Layout(metadata["shape"][0], metadata["shape"][2], len(names))


def count_quality_flags(metadata: dict[str, Any]) -> int:
    """Count the flags a store was built with: earlier versions knew fewer, or none."""
    attributes = metadata.get("attributes")
    masks = attributes.get("flag_masks") if isinstance(attributes, dict) else None
    if not isinstance(masks, list):
        return len(QUALITY_FLAGS)
    return min(len(masks), len(QUALITY_FLAGS))


def check_sizes(store: Path, layout: Layout) -> None:
    """Refuse missing, short or long chunk files. Raises StoreError that counts all of them."""
    bad = []
    for name, size in layout.files():
        path = store / name
        if size is None or (path.is_file() and path.stat().st_size == size):
            continue
        found = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
        bad.append(f"{name} ({found}, must be {size} bytes)")
    if bad:
        n_more = len(bad) - _MAX_SHOWN
        more = f" and {n_more} more" if n_more > 0 else ""
        raise StoreError(
            f"{store}: damaged: {', '.join(bad[:_MAX_SHOWN])}{more}. Build the store again."
        )
