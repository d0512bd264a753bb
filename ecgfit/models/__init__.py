"""The networks, by name.

Importing this package loads no torch: whatever needs it is imported when it is first used, so that
`ecgfit.models.arguments` can check settings in a fraction of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecgfit.models.arguments import MODEL_ARGS, MODEL_NAMES, ModelName, check_model_args

if TYPE_CHECKING:
    from ecgfit.models.factory import Network, build_model, count_macs, count_parameters

__all__ = [
    "MODEL_ARGS",
    "MODEL_NAMES",
    "ModelName",
    "Network",
    "build_model",
    "check_model_args",
    "count_macs",
    "count_parameters",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name in __all__:
        from ecgfit.models import factory

        return getattr(factory, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
