"""Every hyper-parameter of a run: its name, default, meaning and the values it may take.

This is the one place for a setting. The command line makes its options from these fields, and
config.yaml stores them in this order. A wrong value, an unknown key or a wrong type is refused by
name. Importing this module loads no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ecgfit.models.arguments import ModelName, check_model_args
from ecgprep.errors import InputError
from ecgprep.files.strict_yaml import StrictLoader, read_yaml

RECORDED = "recorded"
"""Key of config.yaml under which a run notes its store, versions and device.

It is ignored when the file is used again.
"""


def usable_cores() -> int:
    """Return the cores that this process may use.

    A scheduler may leave it only some, and the processes of torchrun on this machine share those.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    n_local = os.environ.get("LOCAL_WORLD_SIZE", "1")
    n_processes = int(n_local) if n_local.isdecimal() else 1
    return max(1, cores // max(1, n_processes))


def _not_bool(value: Any) -> Any:
    """Refuse what YAML reads `no` and `on` as: they would pass for 0 and 1."""
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
    if value is None:
        return ()
    if not isinstance(value, str):
        return value
    names = [name.strip() for name in value.split(",")]
    return tuple(name for name in names if name not in ("", "none"))


def _model_args(value: Any) -> Any:
    """Accept `width=2,depth=2` as well as a mapping."""
    if value is None:
        return {}
    if not isinstance(value, str):
        return value
    items = [item for item in value.replace(" ", ",").split(",") if item not in ("", "none")]
    arguments: dict[str, float] = {}
    for item in items:
        name, equals, number = item.partition("=")
        if not equals or name in arguments:
            raise ValueError("must look like width=2,depth=2, each name once")
        try:
            arguments[name] = float(number)
        except ValueError:
            raise ValueError("must give each name a number, as in width=2,depth=2") from None
    return arguments


def _rule(value: Any) -> Any:
    from ecgfit.metrics.thresholds import parse_rule  # imports numpy: help texts do without

    parse_rule(str(value))  # raises ValueError that says what is allowed
    return value


def _path_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


Integer = Annotated[int, BeforeValidator(_not_bool)]
Number = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Positive = Annotated[float, BeforeValidator(_not_bool), Field(gt=0, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Seed = Annotated[Integer, Field(ge=0, lt=2**31)]
ModelArgs = Annotated[dict[str, Number], BeforeValidator(_model_args)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
ClassWeights = Annotated[
    Literal["auto", "none"] | tuple[Positive, Positive], BeforeValidator(_weights)
]
Augmentation = Literal["noise", "scale", "shift", "leadmask"]
Augmentations = Annotated[tuple[Augmentation, ...], BeforeValidator(_names)]


def _described(text: str, default: Any, shown: str | None = None) -> Any:
    """Return a field with its meaning and default; `shown` replaces the default in help texts."""
    if shown is None:
        return Field(default, description=text)
    return Field(default, description=text, json_schema_extra={"default_shown": shown})


class TrainConfig(BaseModel):
    """The settings of one training run. The defaults are those of `ecgfit train`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelName = _described("The network.", "resnet1d")
    model_args: ModelArgs = _described(
        "Size of the network: any of width=, depth=, kernel=, dropout=, separated by commas. The "
        "network decides which of them it takes, and in which range.",
        {},
        "the network's own",
    )
    tabular: Names = _described(
        "Covariates of the store that join the ECG by late fusion, such as age,sex.", (), "none"
    )
    tabular_only: bool = _described(
        "Leave the ECG out: shows what the covariates alone can do.", False
    )
    init_from: Annotated[str, BeforeValidator(_path_text)] = _described(
        "Run folder or file of weights to start from. What fits is loaded, the rest is listed.",
        "",
        "random weights",
    )
    freeze: Literal["none", "backbone"] = _described(
        "backbone: train only the head. Without --init-from this is a linear probe on a random "
        "encoder.",
        "none",
    )
    batch: Annotated[Integer, Field(ge=2, le=65536)] = _described(
        "Recordings in a batch, over all processes.", 32
    )
    epochs: Annotated[Integer, Field(ge=1)] = _described("Epochs at most.", 40)
    loss: Literal["ce", "bce"] = _described(
        "ce: cross-entropy on both logits; bce: binary cross-entropy on their difference.", "ce"
    )
    class_weights: ClassWeights = _described(
        'Weights of label 0 and 1 in the loss: "W0 W1", W0,W1 or none; auto gives both classes of '
        "the train split the same total weight.",
        "auto",
    )
    label_smoothing: Share = _described("How far labels move towards one half in the loss.", 0.0)
    optimizer: Literal["adamw"] = _described("How gradients become steps.", "adamw")
    lr: Positive = _described("Learning rate.", 3e-3)
    weight_decay: Annotated[Number, Field(ge=0)] = _described("Weight decay of AdamW.", 0.05)
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = _described(
        "Factor on the learning rate for each block further from the head.", 1.0
    )
    scheduler: Literal["plateau", "cosine"] = _described(
        "How the learning rate falls: when validation stops improving, or along a cosine.",
        "cosine",
    )
    ema: Share = _described(
        "Decay of the moving average of the weights, which is validated and kept. 0: keep the "
        "weights themselves.",
        0.995,
    )
    aug: Augmentations = _described(
        "Any of noise,scale,shift,leadmask, or none.",
        ("noise", "scale", "shift", "leadmask"),
        "all four",
    )
    val_metric: Literal["auprc", "auroc"] = _described(
        "Validation metric that selects the epoch.", "auprc"
    )
    early_stop: Annotated[Integer, Field(ge=1)] = _described(
        "Epochs without a better validation metric before training ends.", 12
    )
    missing: Literal["drop", "mask"] = _described(
        "drop: leave out recordings with a missing lead; mask: keep them and add a mask channel.",
        "drop",
    )
    aggregate: Literal["mean", "max", "first", "last", "none"] = _described(
        "How the logits of a patient's recordings become the patient's; none: judge recordings.",
        "mean",
    )
    calibration: Literal["none", "temperature", "platt"] = _described(
        "From logits to probabilities: fitted on validation when training ends.", "platt"
    )
    threshold: Annotated[str, BeforeValidator(_rule)] = _described(
        "How validation chooses the operating point: youden, f1, sensitivity=0.90, "
        "specificity=0.90, npv=0.99, net-benefit=0.05, fixed=0.3.",
        "youden",
    )
    seed: Seed = _described("Seed of everything random in the run.", 0)
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_names)] = _described(
        "Train a member with each seed, such as 0,1,2. The run is their mean logit.", (), "none"
    )
    folds: Annotated[Integer, Field(ge=0, le=100)] = _described(
        "Cross-validation by patient within train and val, such as 5. Its models are one run. "
        "0: use the store's own splits.",
        0,
    )
    fold: Annotated[Integer, Field(ge=-1, le=99)] = _described(
        "Train only this fold, counted from 0, as on a cluster.", -1, "all of them"
    )
    device: Literal["auto", "cpu", "cuda"] = _described("Where to train.", "auto")
    amp: Literal["auto", "on", "off"] = _described(
        "bfloat16 autocast. auto: on a GPU or CPU that computes bfloat16 in hardware.", "auto"
    )
    resident: Literal["auto", "on", "off"] = _described(
        "Keep the train recordings on the device. auto: on a GPU that has room for them in half "
        "of its free memory.",
        "auto",
    )
    deterministic: Literal["on", "off"] = _described(
        "off: let a GPU take its fastest kernels. A repeated run then differs in the last bits, "
        "and so in everything after.",
        "on",
    )
    compile: Literal["off", "on"] = _described(
        "torch.compile in training. The first steps are slow; needs a C++ compiler, and Triton on "
        "a GPU.",
        "off",
    )
    threads: Annotated[Integer, Field(ge=1, le=1024)] = Field(
        default_factory=usable_cores,
        description="CPU threads of a process. Part of what fixes a result to the bit.",
        json_schema_extra={"default_shown": "all cores"},
    )

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        try:
            check_model_args(self.model, self.model_args)
        except ValueError as error:
            raise ValueError(f"model_args: {error}") from None
        for name in ("tabular", "aug"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: a name is given twice; give each once")
        if len(self.seeds) == 1 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: give two or more different seeds, or use seed")
        self._check_folds()
        if self.tabular_only and not self.tabular:
            raise ValueError("tabular_only: needs tabular, the names of covariates")
        return self

    def _check_folds(self) -> None:
        if self.folds and self.folds < 3:
            raise ValueError("folds: at least 3: one is scored, one selects, the rest trains")
        if self.folds and self.seeds:
            raise ValueError("folds: cannot be used together with seeds")
        if self.folds and self.fold >= self.folds:
            raise ValueError("folds: fold counts from 0, so it must be below folds")
        if self.fold >= 0 and not self.folds:
            raise ValueError("fold: needs folds, their number, such as --folds 5 --fold 0")

    def member_configs(self) -> dict[str, TrainConfig]:
        """Return the configs of an ensemble's members by folder name; empty for a single run."""
        if self.seeds:
            return {str(seed): self._member(seed=seed, seeds=()) for seed in self.seeds}
        if self.folds and self.fold < 0:
            return {str(fold): self._member(fold=fold) for fold in range(self.folds)}
        return {}

    def _member(self, **changes: Any) -> TrainConfig:
        return self.model_copy(update=changes)


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings that a YAML file gives, unchecked. Raises InputError."""
    values = read_yaml(path, "Config")
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"Config {path.name} must be a mapping of settings, such as `lr: 0.001`.")
    values.pop(RECORDED, None)
    return values


def parse_settings(items: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` items, values as YAML. Raises InputError naming an item that is wrong."""
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key or key in values:
            raise InputError(
                "--set takes key=value, each key once, such as --set label_smoothing=0.1."
            )
        try:
            value = yaml.load(text, StrictLoader)  # noqa: S506 - a SafeLoader
        except (yaml.YAMLError, ValueError, RecursionError):
            raise InputError(f"--set {key[:40]}: the value is not valid YAML.") from None
        # YAML reads 1e-4 as text; the fields' own types decide.
        values[key] = text if isinstance(value, str | None) else value
    return values


def make_config(values: Mapping[str, Any], where: str) -> TrainConfig:
    """Check values. Raises InputError, which says `where` and names every key that is wrong."""
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        faults = dict.fromkeys(_fault(item) for item in error.errors(include_url=False))
        raise InputError(f"Config ({where}): {'; '.join(faults)}.") from None


_MUST_BE = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
}
"""Wording for pydantic's types of errors."""


def _fault(item: Any) -> str:
    """Say what is wrong with one setting, and what was found where that cannot identify anyone."""
    message = str(item["msg"]).removeprefix("Value error, ").removesuffix(".")
    if not item["loc"]:
        return message
    key = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        return f"{key[:40]}: unknown key; allowed are {', '.join(TrainConfig.model_fields)}"
    if key == "class_weights":
        return (
            "class_weights: must be auto, none, or two positive numbers for label 0 and 1, "
            "such as 1.0,2.2"
        )
    value = item["input"]
    found = ""
    if isinstance(value, str | int | float) and key != "init_from":
        found = f" (found {str(value)[:40]})"
    if item["type"] in _MUST_BE:
        return f"{key}: must be {_MUST_BE[item['type']]}{found}"
    if item["type"] == "value_error":  # our own validators name what they found
        found = ""
    return f"{key}: {message[:1].lower()}{message[1:]}{found}"
