"""The command line's options for training, made from the fields of `TrainConfig`.

Name, meaning, default and choices are written there and nowhere else. The fields are read when a
command that takes them is parsed or explained: importing this module loads no pydantic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from ecgprep.console import Command, Group
from ecgprep.errors import EcgError, missing_extra

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

EXTRA_FIT = {"pandas", "pydantic", "sklearn", "tensorboard", "torch", "yaml"}
"""Modules that the extra `fit` brings."""

WIDEST_METAVAR = 50
"""Longer lists of choices go into the help text, where they are wrapped at 80 columns."""


@contextmanager
def naming_extra_fit() -> Iterator[None]:
    """Turn the lack of a package of the extra `fit` into an EcgError that says how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in EXTRA_FIT:
            raise
        raise EcgError(missing_extra("PyTorch, scikit-learn and others", "fit")) from error


class FitCommand(Command):
    """A command of ecgfit."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; say which extra is missing if one is."""
        with naming_extra_fit():
            return super().invoke(ctx)


class FitGroup(Group):
    """A group of `FitCommand`s."""

    command_class = FitCommand


class TrainingCommand(FitCommand):
    """A command that takes every setting of `TrainConfig` as an option.

    An option that is not given is None and leaves the setting as it is. `--class-weights` takes
    `1.0 2.2` as well as `1.0,2.2`, `auto` and `none`.
    """

    _has_settings = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters, then an option for each setting."""
        if not self._has_settings:
            with naming_extra_fit():
                self.params = [*self.params, *setting_options()]
            self._has_settings = True
        return super().get_params(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Join the two numbers of `--class-weights`."""
        return super().parse_args(ctx, _with_joined_weights(args))


def _with_joined_weights(args: list[str]) -> list[str]:
    if "--class-weights" not in args:
        return args
    first = args.index("--class-weights") + 1
    numbers = args[first : first + 2]
    if len(numbers) < 2 or not all(_is_number(text) for text in numbers):
        return args
    return [*args[:first], ",".join(numbers), *args[first + 2 :]]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def setting_options() -> list[click.Option]:
    """Return an option for each field of `TrainConfig`, in their order."""
    from ecgfit.config import TrainConfig

    return [_option(name, field) for name, field in TrainConfig.model_fields.items()]


def _option(name: str, field: FieldInfo) -> click.Option:
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        return click.Option([flag], is_flag=True, default=None, help=field.description)
    choices = _choices(field.annotation)
    metavar = f"[{'|'.join(choices)}]"
    description = field.description
    if not choices:
        names: dict[Any, str] = {int: "INTEGER", float: "NUMBER"}
        metavar = names.get(field.annotation, "TEXT")
    elif len(metavar) > WIDEST_METAVAR:
        metavar = "NAME"
        description = f"{description} One of {', '.join(choices)}."
    # The value stays text: TrainConfig checks it, and names every faulty one at once.
    help_text = f"{description}  [default: {_shown_default(field)}]"
    return click.Option([flag], metavar=metavar, help=help_text)


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the values that a field may take, where these can be listed."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _shown_default(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "default_shown" in extra:
        return str(extra["default_shown"])
    default = field.default
    return f"{default:g}" if isinstance(default, float) else str(default)


def run_options(command: Any) -> Any:
    """Add the options besides the settings that both `ecgfit train` and ecg_train.py take."""
    add_set = click.option(
        "--set",
        "items",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any setting of config.yaml; wins over the file, loses to the options.",
    )
    add_resume = click.option(
        "--resume", is_flag=True, help="Continue an interrupted run, to the bit."
    )
    add_overwrite = click.option(
        "--overwrite", is_flag=True, help="Delete the run of this name first."
    )
    return add_set(add_resume(add_overwrite(command)))
