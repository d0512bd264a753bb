"""A folder that is complete or absent: made under another name, then renamed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from ecgprep.errors import TargetExists
from ecgprep.files.atomic import fsync_dir, naming_full_disk, publish_dir
from ecgprep.files.lock import locked


@contextlib.contextmanager
def publishing(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that gets this name on success and is deleted on failure."""
    if out.exists() or out.is_symlink():
        raise TargetExists(f"{out} exists. Choose another name.")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.making")
    with locked(out, wait=False), naming_full_disk(out.parent):
        shutil.rmtree(unfinished, ignore_errors=True)  # left behind by a killed process
        try:
            unfinished.mkdir()
            yield unfinished
            folders = [path for path in unfinished.rglob("*") if path.is_dir()]
            for folder in [unfinished, *folders]:
                fsync_dir(folder)
            publish_dir(unfinished, out, replace=False)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
