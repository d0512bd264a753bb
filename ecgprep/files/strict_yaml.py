"""YAML that people write by hand: a safe loader that refuses what would be lost silently."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from ecgprep.errors import InputError

MAX_YAML_BYTES = 100_000
"""A larger file is no settings that a person wrote."""


class StrictLoader(yaml.SafeLoader):
    """YAML that refuses a repeated key, where the last would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping. Raises ConstructorError for a repeated key."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = {str(key) for key in keys if keys.count(key) > 1}
        if repeated:
            names = ", ".join(sorted(repeated))
            raise yaml.constructor.ConstructorError(
                None, None, f"key given twice: {names}", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str) -> Any:
    """Read a small YAML file; `what` names its kind in messages, such as "Config".

    Raises InputError that names the line of what is not YAML.
    """
    return parse_yaml(_read_file(path, what), f"{what} {path.name}")


def parse_yaml(data: bytes, where: str) -> Any:
    """Parse YAML; `where` opens the message. Raises InputError that names the line."""
    try:
        return yaml.load(data, StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        detail = getattr(error, "problem", None) or type(error).__name__
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{where}{line} is not valid YAML: {detail}.") from None


def _read_file(path: Path, what: str) -> bytes:
    too_large = f"{what} {path.name} is larger than {MAX_YAML_BYTES:,} bytes."
    try:
        if path.exists() and not path.is_file():  # reading a FIFO would wait for ever
            raise InputError(f"{what} {path.name} is not a regular file.")
        if path.exists() and path.stat().st_size > MAX_YAML_BYTES:
            raise InputError(too_large)
        data = path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise InputError(f"{what} {path.name} cannot be read ({reason}).") from None
    if len(data) > MAX_YAML_BYTES:
        raise InputError(too_large)
    return data
