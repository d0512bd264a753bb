"""The task that labelled a run's store, as the run recorded it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ecgfit.run import RunFolder, remedy_for
from ecgfit.run_files import CONFIG
from ecgprep.errors import InputError, StoreError

if TYPE_CHECKING:
    from ecgprep.cohorts.task import Task


def recorded_task(run: RunFolder) -> Task | None:
    """Return the task of the store that the run was trained on, None if the store has none.

    Raises StoreError where the run's record of it is damaged.
    """
    from ecgprep.cohorts.task import make_task

    text = run.recorded["store"].get("task")
    if text is None:
        return None
    try:
        return make_task(json.loads(text), "Task")
    except (InputError, RecursionError, TypeError, ValueError):
        raise StoreError(
            f"{run.path}: damaged: {CONFIG} has no readable task. {remedy_for(CONFIG)}"
        ) from None
