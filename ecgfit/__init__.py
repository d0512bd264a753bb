"""ecgfit: train, evaluate and apply a 1D-CNN on a store that ecgprep built.

    run = ecgfit.train("cohort.zarr", "runs/a", epochs=30, tabular=["age", "sex"])
    ecgfit.evaluate(run, "cohort.zarr")
    run.metrics("test"), run.predictions("test"), run.history
    ecgfit.load_run("runs/a").predict(["new/1.xml", "new/2.xml"])

The functions are those of `ecgfit.api`. They are imported when they are first used, so importing
ecgfit takes no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecgprep import __version__

if TYPE_CHECKING:
    from ecgfit.api import (
        Run,
        check,
        compare,
        dataloader,
        decide,
        evaluate,
        explain,
        export,
        load_run,
        newest_run,
        predict,
        report,
        train,
    )
    from ecgfit.config import TrainConfig
    from ecgfit.data.named_batches import ECGBatch
    from ecgprep.errors import EcgError, InputError, StoreError, TargetExists

__all__ = [
    "ECGBatch",
    "EcgError",
    "InputError",
    "Run",
    "StoreError",
    "TargetExists",
    "TrainConfig",
    "__version__",
    "check",
    "compare",
    "dataloader",
    "decide",
    "evaluate",
    "explain",
    "export",
    "load_run",
    "newest_run",
    "predict",
    "report",
    "train",
]

_ELSEWHERE = {
    "ECGBatch": "ecgfit.data.named_batches",
    "EcgError": "ecgprep.errors",
    "InputError": "ecgprep.errors",
    "StoreError": "ecgprep.errors",
    "TargetExists": "ecgprep.errors",
    "TrainConfig": "ecgfit.config",
}
"""Modules of the names that are not in `ecgfit.api`."""


def __getattr__(name: str) -> Any:
    """Import a name of the API when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        if name not in _ELSEWHERE:
            import_module("ecgfit.config")  # needs the extra, which ecgfit.api imports only later
        module = import_module(_ELSEWHERE.get(name, "ecgfit.api"))
    except ModuleNotFoundError as error:
        from ecgprep.errors import EcgError, missing_extra

        if (error.name or "").split(".")[0] in ("ecgfit", "ecgprep"):
            raise
        raise EcgError(missing_extra(error.name or "another package", "fit")) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    """List the API along with what is imported already."""
    return sorted({*globals(), *__all__})
