"""Find the vendor files below the folders that a user names.

No message names a file or a folder: in exports, names are often those of patients. What is left out
is counted.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

from ecgprep.errors import InputError

_KNOWN_ENDINGS = frozenset(
    ".xml .zip .gz .tar .7z .rar .pdf .dcm .scp .ecg .hea .dat .mat .txt .csv .json .png".split()
)
"""Endings that a message may name. Others may hold anything, even a name."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class FoundFile(NamedTuple):
    """A file by its path in the table, with the size and the time (ns) that it has; else -1."""

    path: str
    size: int
    mtime_ns: int


@dataclass
class LeftOut:
    """What a walk met and did not yield.

    `endings` counts files whose name does not match; `names` files whose path no manifest can hold.
    """

    endings: Counter[str] = field(default_factory=Counter)
    links: int = 0
    stores: int = 0
    names: int = 0
    folders: int = 0

    @property
    def not_matched(self) -> int:
        """Files whose name does not match."""
        return self.endings.total()


@dataclass(frozen=True)
class Places:
    """Where to look, and what paths are relative to; all folders are absolute, links resolved.

    `files` were named one by one. With `base` of "/", paths stay absolute. `needed_root` is the
    `--root` that a build needs; None when the table lies in `base`.
    """

    base: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    needed_root: str | None

    def shown(self, path: str) -> str:
        """Return a path as the table has it."""
        return path if self.base == os.sep else path[len(self.base) + 1 :]


def locate(exports: Sequence[Path], root: Path | None, table: Path | None) -> Places:
    """Resolve what the user named, and decide what paths are relative to.

    That is `root`; else the folder of the table, if it holds every export; else nothing.

    Raises:
        InputError: for a `root` that does not exist, and for an export that does not or lies
            outside it. It is named by its position, as its name may be a patient's.
    """
    real = [os.path.realpath(export) for export in exports]
    missing = [str(i) for i, path in enumerate(real, 1) if not os.path.lexists(path)]
    if missing:
        raise InputError(
            f"EXPORT number {', '.join(missing)} of {len(real)} does not exist. "
            "Give folders, or vendor files."
        )
    home = None if table is None else os.path.realpath(table.parent)
    common = _common_folder(real)
    if root is not None:
        base = os.path.realpath(root)
        if not Path(base).is_dir():
            raise InputError("The folder that --root names does not exist. Correct it.")
        outside = [str(i) for i, path in enumerate(real, 1) if not is_inside(path, base)]
        if outside:
            raise InputError(
                f"EXPORT number {', '.join(outside)} of {len(real)} lies outside --root. "
                "Name a root that holds every export, or none."
            )
        needed = None if base == home else base
    elif home is not None and is_inside(common, home):
        base, needed = home, None
    else:
        base, needed = os.sep, common
    folders = {path for path in real if Path(path).is_dir()}
    outermost = [
        path for path in folders if not any(is_inside(path, other) for other in folders - {path})
    ]
    return Places(base, tuple(sorted(outermost)), tuple(sorted(set(real) - folders)), needed)


def _common_folder(paths: Sequence[str]) -> str:
    return os.path.commonpath(
        [path if Path(path).is_dir() else os.path.dirname(path) for path in paths]
    )


def is_inside(path: str, folder: str) -> bool:
    """Say whether a resolved path is a resolved folder or lies below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


class Walk:
    """Find files below `places` whose name matches `glob`; upper and lower case are the same.

    Iterate once; then `left_out` says what was met besides, and `n_linked` how many of the files
    are symlinks. Symlinks are counted, and with `follow_symlinks` those to folders and files inside
    the base are followed, so that each real folder and file is found once. Stores are not entered.
    `ignored` names files to pass over in silence, such as the table itself.
    """

    def __init__(
        self,
        places: Places,
        glob: str,
        follow_symlinks: bool = False,
        ignored: Collection[str] = (),
    ) -> None:
        self.left_out = LeftOut()
        self.n_linked = 0
        self._places = places
        self._matches = re.compile(fnmatch.translate(glob.lower())).match
        self._follow_symlinks = follow_symlinks
        self._passed_over = {*places.files, *ignored}
        self._links: list[str] = []
        self._file_links: list[str] = []
        self._walked = set(places.folders)

    def __iter__(self) -> Iterator[FoundFile]:
        """Yield the files, in no particular order."""
        for path in self._places.files:
            yield from self._found(path)
        for folder in self._places.folders:
            yield from self._walk(folder, folder)
        while self._links:  # after all else, and in order: what is found is always the same
            links, self._links = sorted(self._links), []
            for link in links:
                yield from self._follow(link)
        for link in sorted(self._file_links):
            yield from self._follow_to_file(link)

    def _follow(self, link: str) -> Iterator[FoundFile]:
        """Walk the folder behind a link, unless it was walked or lies outside the base."""
        real = os.path.realpath(link)
        is_known = any(is_inside(real, folder) for folder in self._walked)
        if is_known or not Path(real).is_dir() or not is_inside(real, self._places.base):
            self.left_out.links += 1
            return
        walked_before = self._walked.copy()
        self._walked.add(real)
        yield from self._walk(link, real, walked_before)

    def _follow_to_file(self, link: str) -> Iterator[FoundFile]:
        """Yield the file behind a link, unless it is found otherwise or lies outside the base."""
        real = os.path.realpath(link)
        is_there = Path(real).is_file() and is_inside(real, self._places.base)
        is_walked = any(is_inside(real, folder) for folder in self._walked)
        is_known = is_walked and self._is_wanted(PurePath(real).name)
        if not is_there or is_known or real in self._passed_over:
            self.left_out.links += 1
            return
        self._passed_over.add(real)
        self.n_linked += 1
        yield from self._found(link, os.stat)

    def _is_wanted(self, name: str) -> bool:
        """Say whether a file of this name is one to read; `._x.xml` is what macOS leaves."""
        return not name.startswith("._") and self._matches(name.lower()) is not None

    def _walk(self, top: str, real_top: str, walked: Collection[str] = ()) -> Iterator[FoundFile]:
        """Walk a folder, and none of `walked` again; `real_top` is its path without links."""
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            if walked and real_top + folder[len(top) :] in walked:
                continue
            try:
                if Path(folder, "zarr.json").exists():
                    self.left_out.stores += 1
                    continue
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        else:
                            yield from self._met(entry)
            except OSError:  # its text would name the folder
                self.left_out.folders += 1

    def _met(self, entry: os.DirEntry[str]) -> Iterator[FoundFile]:
        """Yield a file if it is one to read, and count it if not."""
        if entry.path in self._passed_over:
            return
        if entry.is_symlink():
            is_folder = os.path.isdir(entry.path)  # noqa: PTH112 - never raises
            if self._follow_symlinks and is_folder:
                self._links.append(entry.path)
            elif self._follow_symlinks and self._is_wanted(entry.name):
                self._file_links.append(entry.path)
            else:
                self.left_out.links += 1
        elif not self._is_wanted(entry.name):
            ending = PurePath(entry.name.lower()).suffix
            self.left_out.endings[ending if ending in _KNOWN_ENDINGS else "other"] += 1
        else:
            yield from self._found(entry.path, lambda _: entry.stat(follow_symlinks=False))

    def _found(
        self, path: str, stat_of: Callable[[str], os.stat_result] = os.lstat
    ) -> Iterator[FoundFile]:
        """Yield a file with its stamp; one that is gone already has none."""
        shown = self._places.shown(path)
        if not _fits_a_manifest(shown):
            self.left_out.names += 1
            return
        try:
            status = stat_of(path)
        except OSError:
            yield FoundFile(shown, -1, -1)
        else:
            yield FoundFile(shown, status.st_size, status.st_mtime_ns)


def _fits_a_manifest(path: str) -> bool:
    """Say whether a CSV file in UTF-8 can hold a path, and give it back as it is."""
    if path != path.strip() or _CONTROL.search(path):
        return False
    try:
        path.encode()
    except UnicodeEncodeError:  # a name that is not UTF-8 arrives with surrogates
        return False
    return True
