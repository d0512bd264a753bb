"""ecgprep: vendor ECG XML files and a manifest in, one de-identified Zarr store out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "EcgError",
    "InputError",
    "NoSpace",
    "RecordError",
    "Recording",
    "Store",
    "StoreError",
    "TargetExists",
    "TooManyRejects",
    "Verification",
    "__version__",
    "build",
    "build_part",
    "cohort",
    "derive",
    "describe_machine",
    "finalise",
    "index",
    "inspect",
    "merge",
    "open_store",
    "pack",
    "plan",
    "plot",
    "preview",
    "read_recording",
    "report",
    "rows",
    "sample_size",
    "simulate",
    "unpack",
    "verify",
    "write_index",
    "write_rows",
]

if TYPE_CHECKING:
    from ecgprep.api import (
        build,
        build_part,
        cohort,
        derive,
        describe_machine,
        finalise,
        index,
        inspect,
        merge,
        open_store,
        pack,
        plan,
        plot,
        preview,
        report,
        rows,
        sample_size,
        simulate,
        unpack,
        verify,
        write_index,
        write_rows,
    )
    from ecgprep.errors import (
        EcgError,
        InputError,
        NoSpace,
        RecordError,
        StoreError,
        TargetExists,
        TooManyRejects,
    )
    from ecgprep.readers import read_recording
    from ecgprep.recording import Recording
    from ecgprep.store.reader import Store
    from ecgprep.store.verify import Verification

_ERRORS = "EcgError InputError NoSpace RecordError StoreError TargetExists TooManyRejects".split()
_HOMES = dict.fromkeys(_ERRORS, "ecgprep.errors") | {
    "Recording": "ecgprep.recording",
    "Store": "ecgprep.store.reader",
    "Verification": "ecgprep.store.verify",
    "read_recording": "ecgprep.readers",
}
"""Where a public name is defined; all others are in `ecgprep.api`."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import ecgprep` itself loads nothing heavy."""
    if name not in __all__:
        raise AttributeError(f"module 'ecgprep' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "ecgprep.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
