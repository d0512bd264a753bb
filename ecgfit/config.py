"""Every hyper-parameter of a run, checked: unknown keys, wrong types and values out of range are refused by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ecgprep.errors import InputError

RECORDED = "recorded"
"""Key of a run's config.yaml under which the program notes store, versions and device; ignored when the file is used again."""
MAX_CONFIG_BYTES = 100_000


def _not_bool(value: Any) -> Any:
    """YAML reads `no` and `on` as booleans, which would pass for 0 and 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not yes or no")
    return value


def _weights(value: Any) -> Any:
    """Accept `1.0,2.2` and `1.0 2.2` as well as a list."""
    if isinstance(value, str) and value not in ("auto", "none"):
        return tuple(value.replace(",", " ").split())
    return "none" if value is None else value


def _names(value: Any) -> Any:
    """Accept `noise,scale` and `none` as well as a list."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip() not in ("", "none"))
    return () if value is None else value


Integer = Annotated[int, BeforeValidator(_not_bool)]
Number = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Positive = Annotated[float, BeforeValidator(_not_bool), Field(gt=0, allow_inf_nan=False)]


class TrainConfig(BaseModel):
    """The settings of one training run; defaults are those of `ecgfit train`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["resnet1d"] = "resnet1d"
    batch: Annotated[Integer, Field(ge=2, le=65536)] = 32
    epochs: Annotated[Integer, Field(ge=1)] = 60
    loss: Literal["ce", "bce"] = "ce"
    """`ce` is cross-entropy on both logits, `bce` binary cross-entropy on their difference."""
    class_weights: Annotated[Literal["auto", "none"] | tuple[Positive, Positive], BeforeValidator(_weights)] = "auto"
    """Weights of label 0 and 1 in the loss; `auto` makes both classes of the train split weigh the same."""
    optimizer: Literal["adamw"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: Annotated[Number, Field(ge=0)] = 1e-4
    scheduler: Literal["plateau", "cosine"] = "plateau"
    aug: Annotated[tuple[Literal["noise", "scale", "shift"], ...], BeforeValidator(_names)] = ("noise", "scale", "shift")
    val_metric: Literal["auprc", "auroc"] = "auprc"
    early_stop: Annotated[Integer, Field(ge=1)] = 12
    """Epochs without a better validation metric after which training ends."""
    missing: Literal["drop", "mask"] = "drop"
    threshold: Literal["youden", "f1"] = "youden"
    """Rule for the operating point, chosen on validation when training ends."""
    seed: Annotated[Integer, Field(ge=0, lt=2**31)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: Literal["auto", "on", "off"] = "auto"
    """bfloat16 autocast; `auto` means on a GPU only."""
    threads: Annotated[Integer, Field(ge=1, le=1024)] = Field(default_factory=lambda: os.cpu_count() or 1)
    """CPU threads: part of what fixes a result to the bit."""


class _StrictLoader(yaml.SafeLoader):
    """YAML without doubled keys, of which the last would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if doubled := {str(key) for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"key given twice: {', '.join(sorted(doubled))}", node.start_mark)
        return super().construct_mapping(node, deep)


def read_config(path: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """Combine a YAML file (or nothing) with overrides, which win. Raises InputError naming every key that is wrong."""
    values = {} if path is None else _read_yaml(path)
    values.pop(RECORDED, None)
    return make_config(values | {key: value for key, value in overrides.items() if value is not None}, path.name if path else "options")


def make_config(values: dict[str, Any], where: str) -> TrainConfig:
    """Check values. Raises InputError naming every key that is wrong."""
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        faults = "; ".join(_fault(item) for item in error.errors(include_url=False, include_input=False))
        raise InputError(f"Config ({where}): {faults}.") from None


def _fault(item: Any) -> str:
    key = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        return f"{key[:40]}: unknown key; allowed are {', '.join(TrainConfig.model_fields)}"
    return f"{key}: {item['msg'][:1].lower()}{item['msg'][1:]}"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > MAX_CONFIG_BYTES):
            raise InputError(f"Config {path.name} is not a regular file of at most {MAX_CONFIG_BYTES:,} bytes.")
        data = path.read_bytes()
        if len(data) > MAX_CONFIG_BYTES:
            raise InputError(f"Config {path.name} is larger than {MAX_CONFIG_BYTES:,} bytes.")
        values = yaml.load(data, _StrictLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise InputError(f"Config {path.name} cannot be read ({os.strerror(error.errno or 0)}).") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        detail = getattr(error, "problem", None) or type(error).__name__
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"Config {path.name}{line} is not valid YAML: {detail}.") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"Config {path.name} must be a mapping of settings, such as `lr: 0.001`.")
    return values
