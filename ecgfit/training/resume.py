"""What a training that continues a run takes from the run itself: its settings and its store."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ecgfit.config import RECORDED, TrainConfig, make_config
from ecgfit.run_files import CONFIG, config_values, looks_like_run, origin_of
from ecgprep.errors import InputError, StoreError
from ecgprep.store.reader import Store

LOGGER = logging.getLogger(__name__)

PARENTS_SEARCHED = 3
"""How many folders above the run are searched for its store: runs/NAME lies two below a project."""


def resumed_config(outdir: Path, given: Mapping[str, Any], where: str) -> TrainConfig:
    """Return the run's own settings with those that are given; `where` names the latter's source.

    Training refuses the run if a given setting differs. A folder without a run gets the given
    settings and the defaults: training begins there. Raises InputError and StoreError.
    """
    if not looks_like_run(outdir):
        return make_config(given, where)
    values = config_values(outdir)
    values.pop(RECORDED)
    try:
        make_config(values, CONFIG)
    except InputError as error:
        raise StoreError(f"{outdir}: {error}") from None
    return make_config(values | dict(given), where)


def find_store(outdir: Path) -> Store:
    """Return the store that a run was trained on, found by its name and checked by its content.

    The run records both, but not the path, which can identify a person or a machine. The search
    covers the current folder, the folders above the run, and the folders directly inside them.
    Raises StoreError when the store is not there or there is no run.
    """
    if not looks_like_run(outdir):
        raise StoreError(
            f"There is no run to resume in {outdir}. Give --store (in Python: store) to begin one."
        )
    recorded = config_values(outdir)[RECORDED]["store"]
    name, content_sha256 = Path(str(recorded.get("name"))).name, recorded["content_sha256"]
    for path in _candidates(outdir, name):
        try:
            store = Store(path)
        except StoreError:  # damaged, or of another version: not the one that is searched for
            continue
        if store.has_content(*origin_of(recorded)):
            LOGGER.debug("the run's store was found: %s", path)
            return store
        LOGGER.debug("not the run's store, which has other content: %s", path)
    raise StoreError(
        f"The store of {outdir} was not found: {name}, content_sha256 {content_sha256[:12]}…. "
        "Give its path with --store (in Python: store)."
    )


def _candidates(outdir: Path, name: str) -> Iterator[Path]:
    """Yield the places where a store of this name lies, the nearest first."""
    folders = [Path(), *outdir.resolve().parents[:PARENTS_SEARCHED]]
    for folder in folders:
        if (folder / name).is_dir():
            yield folder / name
    for folder in folders:
        inside = folder.glob(f"*/{glob.escape(name)}")
        yield from sorted(path for path in inside if path.is_dir())
