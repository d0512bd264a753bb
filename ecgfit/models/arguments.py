"""The networks' names and the arguments that each takes, without importing torch.

Importing torch takes seconds; checking a config file or printing a help text should not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

ModelName = Literal[
    "resnet1d", "xresnet1d18", "xresnet1d34", "xresnet1d50", "xresnet1d101", "inception1d"
]
MODEL_NAMES: tuple[ModelName, ...] = get_args(ModelName)


@dataclass(frozen=True)
class ModelArgument:
    """One argument of a network: its default and the values it accepts."""

    default: float
    lowest: float
    highest: float
    step: int | None
    """Whole numbers from `lowest` to `highest` in this step; None accepts any number between."""
    meaning: str

    def accepts(self, value: object) -> bool:
        """Return whether `value` is a number in the range and on a step."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.lowest <= value <= self.highest:
            return False
        return self.step is None or (value - self.lowest) % self.step == 0

    def __str__(self) -> str:
        steps = "" if self.step in (None, 1) else f" in steps of {self.step}"
        allowed = f"{self.lowest:g} to {self.highest:g}{steps}"
        return f"{allowed}, default {self.default:g}: {self.meaning}"


_WIDTH = ModelArgument(
    default=1,
    lowest=0.25,
    highest=4,
    step=None,
    meaning="factor on the channels of every convolution, rounded to multiples of 8",
)
_HEAD_DROPOUT = ModelArgument(
    default=0.5,
    lowest=0,
    highest=0.9,
    step=None,
    meaning="before the last layer; half of it before the layer above",
)
_RESNET = {
    "width": _WIDTH,
    "depth": ModelArgument(
        default=1,
        lowest=1,
        highest=4,
        step=1,
        meaning="blocks of each stage; the first halves the rate",
    ),
    "kernel": ModelArgument(
        default=7,
        lowest=3,
        highest=31,
        step=2,
        meaning="samples of the blocks' convolutions",
    ),
    "dropout": ModelArgument(
        default=0.1,
        lowest=0,
        highest=0.9,
        step=None,
        meaning="between the convolutions of a block",
    ),
}
_XRESNET = {
    "width": _WIDTH,
    "kernel": ModelArgument(
        default=5,
        lowest=3,
        highest=31,
        step=2,
        meaning="samples of the convolutions in stem and blocks",
    ),
    "dropout": _HEAD_DROPOUT,
}
"""No depth: the name states it."""
_INCEPTION = {
    "width": _WIDTH,
    "depth": ModelArgument(
        default=6,
        lowest=3,
        highest=12,
        step=3,
        meaning="inception modules; every third closes a shortcut",
    ),
    "kernel": ModelArgument(
        default=39,
        lowest=9,
        highest=99,
        step=2,
        meaning=(
            "samples of the longest kernel; the others are a half and a quarter of it, made odd"
        ),
    ),
    "dropout": _HEAD_DROPOUT,
}
MODEL_ARGS: dict[ModelName, dict[str, ModelArgument]] = {
    "resnet1d": _RESNET,
    "xresnet1d18": _XRESNET,
    "xresnet1d34": _XRESNET,
    "xresnet1d50": _XRESNET,
    "xresnet1d101": _XRESNET,
    "inception1d": _INCEPTION,
}
"""Each network's arguments by name."""


def check_model_args(model: str, args: Mapping[str, float]) -> dict[str, float]:
    """Return the arguments with whole numbers as int.

    Raises KeyError for an unknown network, and ValueError naming every argument or value that the
    network does not take, with what it takes.
    """
    allowed = {str(name): arguments for name, arguments in MODEL_ARGS.items()}[model]
    faults = [
        f"`{key}` (={value!r})"
        for key, value in args.items()
        if key not in allowed or not allowed[key].accepts(value)
    ]
    if faults:
        choices = "; ".join(f"{key} {argument}" for key, argument in allowed.items())
        raise ValueError(f"{model} does not take {', '.join(faults)}. Allowed: {choices}.")
    checked: dict[str, float] = {}
    for key, value in args.items():
        is_whole = allowed[key].step is not None
        checked[key] = int(value) if is_whole else float(value)
    return checked
