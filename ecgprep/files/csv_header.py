"""The header of a CSV file that a user wrote by hand or exported: all its faults in one message."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ecgprep.errors import InputError

_MAX_NAMES = 12
"""Column names listed in a message; the rest are counted."""


class Naming(NamedTuple):
    """How a column of another name is given: the option, and names that are likely meant."""

    option: str
    likely: frozenset[str]


def check_header(
    header: Sequence[str],
    needed: Sequence[str],
    where: str,
    more_faults: Iterable[str] = (),
    naming: Mapping[str, Naming] | None = None,
    hint: str = "",
) -> None:
    """Refuse a header that lacks one of the `needed` columns or has it more than once.

    `where` opens the message; `more_faults` are faults that the caller found in the header;
    `naming` says how some of `needed` are given under other names; `hint` says so for all of them
    in a sentence. Raises InputError with all faults. The columns found are named only if the first
    of `needed` is among them: a file without a header begins with values, which may identify
    someone.
    """
    faults = []
    missing = [name for name in needed if name not in header]
    if missing:
        faults.append(f"column missing: {', '.join(missing)}")
    repeated = [name for name in needed if header.count(name) > 1]
    if repeated:
        faults.append(f"column given twice: {', '.join(repeated)}")
    faults += more_faults
    if not faults:
        return
    raise InputError(
        f"{where}: {'; '.join(faults)}. Needed once each: {', '.join(needed)}; other columns may "
        f"follow. The file has {_found(header, needed)}.{_separator_hint(header)}"
        f"{_naming_hint(header, missing, naming or {})}{f' {hint}' if missing and hint else ''}"
    )


def _naming_hint(
    header: Sequence[str], missing: Sequence[str], naming: Mapping[str, Naming]
) -> str:
    """Point to columns whose names say the same as those that are missing.

    Only such a name is repeated: it consists of letters that we know.
    """
    meant, options = [], []
    for name in missing:
        option, likely = naming.get(name, Naming("", frozenset()))
        found = [other for other in header if _bare(other) in likely | {_bare(name)}]
        if found:
            meant.append(f"{option} {shlex.quote(found[0])}".lstrip())
        elif option:
            options.append(option)
    hint = f" Did you mean {', '.join(meant)}?" if meant else ""
    if options:
        hint += f" A column of another name is given with {', '.join(options)}."
    return hint


def _bare(name: str) -> str:
    """Return a column's name without case, blanks, underscores and the like."""
    return re.sub(r"[\W_]", "", name).casefold()


def _found(header: Sequence[str], needed: Sequence[str]) -> str:
    if not header:
        return "no line"
    if needed[0] not in header:
        noun = "column" if len(header) == 1 else "columns"
        return f"{len(header)} {noun}"
    listed = ", ".join(header[:_MAX_NAMES])
    n_more = len(header) - _MAX_NAMES
    more = f" and {n_more} more" if n_more > 0 else ""
    return f"these columns: {listed}{more}"


def _separator_hint(header: Sequence[str]) -> str:
    if len(header) == 1 and re.search(r"[;\t|:]", header[0]):
        return " Fields must be separated by commas, semicolons or tabs."
    return ""
