"""Every hyper-parameter of a run, checked: unknown keys, wrong types and values out of range are refused by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ecgfit.metrics.thresholds import parse_rule
from ecgfit.models.arguments import check_model_args
from ecgprep.errors import InputError

RECORDED = "recorded"
"""Key of a run's config.yaml under which the program notes store, versions and device; ignored when the file is used again."""
MAX_CONFIG_BYTES = 100_000


def usable_cores() -> int:
    """Return the cores that this process may use: those that a scheduler left it, shared with the other processes of torchrun here."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    here = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, cores // max(1, int(here) if here.isdecimal() else 1))


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


def _model_args(value: Any) -> Any:
    """Accept `width=2,depth=2` as well as a mapping."""
    if isinstance(value, str):
        pairs = [
            item.split("=", 1)
            for item in value.replace(" ", ",").split(",")
            if item not in ("", "none")
        ]
        if any(len(pair) != 2 for pair in pairs) or len({pair[0] for pair in pairs}) < len(pairs):
            raise ValueError("must look like width=2,depth=2, each name once")
        try:
            return {name.strip(): float(number) for name, number in pairs}
        except ValueError:
            raise ValueError("must give each name a number, as in width=2,depth=2") from None
    return {} if value is None else value


def _rule(value: Any) -> Any:
    parse_rule(str(value))  # raises ValueError that says what is allowed
    return value


Integer = Annotated[int, BeforeValidator(_not_bool)]
Number = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Positive = Annotated[float, BeforeValidator(_not_bool), Field(gt=0, allow_inf_nan=False)]


class TrainConfig(BaseModel):
    """The settings of one training run; defaults are those of `ecgfit train`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal[
        "resnet1d", "xresnet1d18", "xresnet1d34", "xresnet1d50", "xresnet1d101", "inception1d"
    ] = "resnet1d"
    model_args: Annotated[dict[str, Number], BeforeValidator(_model_args)] = {}
    """Size of the network: width, depth, kernel, dropout; which of them, and in which range, depends on the network."""
    tabular: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    """Covariates of the store that join the ECG by late fusion."""
    tabular_only: bool = False
    """Leave the ECG out: the model that the covariates alone allow."""
    init_from: str = ""
    """A run or a file of weights to start from; what fits is loaded."""
    freeze: Literal["none", "backbone"] = "none"
    """`backbone` trains the head only; without init_from that is the linear probe on a random encoder."""
    batch: Annotated[Integer, Field(ge=2, le=65536)] = 32
    epochs: Annotated[Integer, Field(ge=1)] = 40
    loss: Literal["ce", "bce"] = "ce"
    """`ce` is cross-entropy on both logits, `bce` binary cross-entropy on their difference."""
    class_weights: Annotated[
        Literal["auto", "none"] | tuple[Positive, Positive], BeforeValidator(_weights)
    ] = "auto"
    """Weights of label 0 and 1 in the loss; `auto` makes both classes of the train split weigh the same."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    optimizer: Literal["adamw"] = "adamw"
    lr: Positive = 3e-3
    weight_decay: Annotated[Number, Field(ge=0)] = 0.05
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate for each block further from the head."""
    scheduler: Literal["plateau", "cosine"] = "cosine"
    ema: Annotated[Number, Field(ge=0, lt=1)] = 0.995
    """Decay of the moving average of the weights, which is what is validated and kept; 0 = the weights themselves."""
    aug: Annotated[
        tuple[Literal["noise", "scale", "shift", "leadmask"], ...], BeforeValidator(_names)
    ] = ("noise", "scale", "shift", "leadmask")
    val_metric: Literal["auprc", "auroc"] = "auprc"
    early_stop: Annotated[Integer, Field(ge=1)] = 12
    """Epochs without a better validation metric after which training ends."""
    missing: Literal["drop", "mask"] = "drop"
    aggregate: Literal["mean", "max", "first", "last", "none"] = "mean"
    """How the logits of a patient's recordings become the patient's; `none` leaves recordings."""
    calibration: Literal["none", "temperature", "platt"] = "platt"
    """From logits to probabilities: fitted on validation when training ends."""
    threshold: Annotated[str, BeforeValidator(_rule)] = "youden"
    """Rule for the operating point, chosen on validation when training ends."""
    seed: Annotated[Integer, Field(ge=0, lt=2**31)] = 0
    seeds: Annotated[
        tuple[Annotated[Integer, Field(ge=0, lt=2**31)], ...], BeforeValidator(_names)
    ] = ()
    """Train a member with each seed; the run is their mean logit."""
    folds: Annotated[Integer, Field(ge=0, le=100)] = 0
    """Cross-validation by patient within train and validation; 0 = the store's own splits."""
    fold: Annotated[Integer, Field(ge=-1, le=99)] = -1
    """One fold alone, as a member of `folds` is trained."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: Literal["auto", "on", "off"] = "auto"
    """bfloat16 autocast; `auto` means on a GPU that has it."""
    resident: Literal["auto", "on", "off"] = "auto"
    """Keep the train recordings on the device; `auto` means on a GPU that has room for them in half of its free memory."""
    deterministic: Literal["on", "off"] = "on"
    """`off` lets a GPU take its fastest kernels in training: a repeated run then differs in the last bits, and so in everything after."""
    compile: Literal["off", "on"] = "off"
    """torch.compile of the input's kernel and the network in training; needs a C++ compiler, and on a GPU Triton."""
    threads: Annotated[Integer, Field(ge=1, le=1024)] = Field(default_factory=usable_cores)
    """CPU threads of a process: part of what fixes a result to the bit."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        try:
            check_model_args(self.model, self.model_args)
        except ValueError as error:
            raise ValueError(f"model_args: {error}") from None
        for name in ("tabular", "aug"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}: names one twice; each once")
        if len(set(self.seeds)) != len(self.seeds) or len(self.seeds) == 1:
            raise ValueError("seeds: give two or more different seeds, or use seed")
        if self.folds and (self.folds < 3 or self.seeds or self.fold >= self.folds):
            raise ValueError(
                "folds: at least 3 (one is scored, one selects, the rest trains), not together with seeds, and fold below folds"
            )
        if self.fold >= 0 and not self.folds:
            raise ValueError("fold: needs folds, of how many it is one, such as --folds 5 --fold 0")
        if self.tabular_only and not self.tabular:
            raise ValueError("tabular_only: needs tabular, the names of covariates")
        return self

    def member_configs(self) -> dict[str, TrainConfig]:
        """Return the configs of an ensemble's members by the name of their folder; empty for a single run."""
        if self.seeds:
            return {
                str(seed): self.model_copy(update={"seed": seed, "seeds": ()})
                for seed in self.seeds
            }
        if self.folds and self.fold < 0:
            return {str(fold): self.model_copy(update={"fold": fold}) for fold in range(self.folds)}
        return {}


class _StrictLoader(yaml.SafeLoader):
    """YAML without doubled keys, of which the last would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if doubled := {str(key) for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(
                None, None, f"key given twice: {', '.join(sorted(doubled))}", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_config(path: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """Combine a YAML file (or nothing) with overrides, which win. Raises InputError naming every key that is wrong."""
    values = {} if path is None else _read_yaml(path)
    values.pop(RECORDED, None)
    return make_config(
        values | {key: value for key, value in overrides.items() if value is not None},
        path.name if path else "options",
    )


def parse_settings(items: tuple[str, ...]) -> dict[str, Any]:
    """Read `key=value` items, values as YAML. Raises InputError for what is not one."""
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key or key in values:
            raise InputError(
                "--set takes key=value, each key once, such as --set label_smoothing=0.1."
            )
        try:
            values[key] = yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader
        except (yaml.YAMLError, ValueError, RecursionError):
            raise InputError(f"--set {key[:40]}: the value is not valid YAML.") from None
        if isinstance(
            values[key], str | None
        ):  # YAML reads 1e-4 as text; the fields' own types decide
            values[key] = text
    return values


def make_config(values: dict[str, Any], where: str) -> TrainConfig:
    """Check values. Raises InputError naming every key that is wrong."""
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        faults = "; ".join(dict.fromkeys(_fault(item) for item in error.errors(include_url=False)))
        raise InputError(f"Config ({where}): {faults}.") from None


_MUST_BE = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
}


def _fault(item: Any) -> str:
    if not item["loc"]:
        return str(item["msg"]).removeprefix("Value error, ").removesuffix(".")
    key = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        return f"{key[:40]}: unknown key; allowed are {', '.join(TrainConfig.model_fields)}"
    if key == "class_weights":
        return "class_weights: must be auto, none, or two positive numbers for label 0 and 1, such as 1.0,2.2"
    value = item["input"]
    found = (
        f" (found {str(value)[:40]})"
        if isinstance(value, str | int | float) and key != "init_from"
        else ""
    )
    if item["type"] in _MUST_BE:
        return f"{key}: must be {_MUST_BE[item['type']]}{found}"
    message = item["msg"].removeprefix("Value error, ").removesuffix(".")
    return (
        f"{key}: {message[:1].lower()}{message[1:]}{'' if item['type'] == 'value_error' else found}"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > MAX_CONFIG_BYTES):
            raise InputError(
                f"Config {path.name} is not a regular file of at most {MAX_CONFIG_BYTES:,} bytes."
            )
        data = path.read_bytes()
        if len(data) > MAX_CONFIG_BYTES:
            raise InputError(f"Config {path.name} is larger than {MAX_CONFIG_BYTES:,} bytes.")
        values = yaml.load(data, _StrictLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise InputError(
            f"Config {path.name} cannot be read ({os.strerror(error.errno or 0)})."
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        detail = getattr(error, "problem", None) or type(error).__name__
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"Config {path.name}{line} is not valid YAML: {detail}.") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"Config {path.name} must be a mapping of settings, such as `lr: 0.001`.")
    return values
