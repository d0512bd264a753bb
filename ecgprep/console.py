"""Shared by both commands: options made from the API, the log, progress, exit codes."""

from __future__ import annotations

import ast
import contextlib
import errno
import inspect
import logging
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

import click

from ecgprep.errors import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EcgError,
    InputError,
    NoSpace,
    RecordError,
)
from ecgprep.options import CHOICES, FRACTIONS, LIMITS

LOGGERS = ("ecgprep", "ecgfit")
"""The libraries log under these names; a command shows what they say on stderr."""

_VERBOSITY = "ecgprep.console.verbosity"
"""The key in a click context under which `verbosity_options` leave the level to show."""

_PATH_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ELOOP,
    errno.EEXIST,
}
"""Errors of the system that mean a path the user gave cannot be used."""


class _ChecksRepeats(click.Command):
    """Refuse an option that is given twice, instead of letting the last one win silently."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        times = Counter(
            parameter
            for parameter in given
            if isinstance(parameter, click.Option)
            and not parameter.multiple
            and not parameter.count
        )
        repeated = [max(option.opts, key=len) for option, n in times.items() if n > 1]
        if repeated and not ctx.resilient_parsing:
            names = ", ".join(repeated)
            raise click.UsageError(f"{names}: given more than once. Give an option only once.", ctx)
        return super().parse_args(ctx, args)


class Command(_ChecksRepeats):
    """A command that refuses repeated options and shows on stderr what the libraries log."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with its log shown."""
        with shown_log(ctx.meta.get(_VERBOSITY, logging.INFO)):
            return super().invoke(ctx)


class Group(_ChecksRepeats, click.Group):
    """A group of `Command`s that refuses repeated options itself."""

    command_class = Command


def verbosity_options(command: Any) -> Any:
    """Give a command the options `-q/--quiet` and `-v/--verbose`.

    The command's function receives no argument for them: `Command` sets the level of the log, and
    `progress_bar` and `status_lines` show nothing when the user asked for quiet.
    """

    def remember(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
        def callback(ctx: click.Context, _: click.Parameter, is_given: bool) -> None:
            if not is_given:
                return
            if ctx.meta.get(_VERBOSITY, level) != level:
                raise click.UsageError("--quiet and --verbose exclude each other: give one.", ctx)
            ctx.meta[_VERBOSITY] = level

        return callback

    quiet = click.option(
        "--quiet",
        "-q",
        is_flag=True,
        expose_value=False,
        callback=remember(logging.WARNING),
        help="Show only warnings and errors, no progress.",
    )
    verbose = click.option(
        "--verbose",
        "-v",
        is_flag=True,
        expose_value=False,
        callback=remember(logging.DEBUG),
        help="Show each step as well.",
    )
    return quiet(verbose(command))


def is_quiet() -> bool:
    """Say whether the command that runs now was given `--quiet`."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and ctx.meta.get(_VERBOSITY, logging.INFO) >= logging.WARNING


class _StderrHandler(logging.Handler):
    """Write records to stderr: notes as they are, warnings and errors behind their level."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        prefix = f"{record.levelname.capitalize()}: " if record.levelno >= logging.WARNING else ""
        click.echo(f"{prefix}{record.getMessage()}", err=True)


@contextlib.contextmanager
def shown_log(level: int) -> Iterator[None]:
    """Show what the libraries log from `level` on, while the context lasts."""
    handler = _StderrHandler(level)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels_before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level_before in zip(loggers, levels_before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level_before)


class Names(click.ParamType):  # type: ignore[type-arg]
    """A comma-separated list; with `choices`, each entry is one of them, or the list is `all`."""

    name = "names"

    def __init__(self, choices: tuple[str, ...] = ()) -> None:
        self.choices = choices

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split the text at commas."""
        if isinstance(value, tuple):
            return value
        stripped = (name.strip() for name in value.split(","))
        names = tuple(dict.fromkeys(name for name in stripped if name))
        unknown = [name for name in names if name not in self.choices]
        if self.choices and unknown and names != ("all",):
            self.fail(
                f"{', '.join(unknown)}: allowed are all, {', '.join(self.choices)}", param, ctx
            )
        return names


def api_option(function: Callable[..., Any], name: str, *flags: str) -> Callable[[Any], Any]:
    """Return the option for a parameter of an API function; `flags` replace its own name.

    The default is that of the function's signature, the help is in its docstring under
    `Args:`, and the allowed values are in `ecgprep.options` or the annotation, a Literal. So each
    option is written down once.
    """
    return click.option(
        *(flags or (f"--{name.replace('_', '-')}",)),
        name,
        help=_option_help(function, name),
        **_option_settings(name, inspect.signature(function).parameters[name]),
    )


def api_options(function: Callable[..., Any], *names: str) -> Callable[[Any], Any]:
    """Return a decorator that adds an `api_option` for each name."""

    def decorate(command: Any) -> Any:
        for name in reversed(names):
            command = api_option(function, name)(command)
        return command

    return decorate


def _option_help(function: Callable[..., Any], name: str) -> str:
    """Return what a docstring says of a parameter, with others named as options: `--split`."""
    documented = documented_arguments(function)
    names = "|".join(documented)
    return re.sub(
        rf"`({names})`",
        lambda found: f"--{found.group(1).replace('_', '-')}",
        documented[name],
    )


def _option_settings(name: str, parameter: inspect.Parameter) -> dict[str, Any]:
    """Choose the settings of a click option by its default in Python."""
    default = parameter.default
    if isinstance(default, bool):
        return {"is_flag": True}
    if isinstance(default, tuple):
        return {"default": "", "type": Names(CHOICES.get(name, ()))}
    if "Path" in str(parameter.annotation):
        path = click.Path(path_type=Path, readable=name != "out")  # what is written need not be
        return {"type": path, "required": default is parameter.empty}
    if name in CHOICES:
        return {"default": default, "show_default": True, "type": click.Choice(CHOICES[name])}
    if "Path" in str(parameter.annotation):
        path = click.Path(path_type=Path, readable=name != "out")  # what is written need not be
        return {"type": path, "required": default is parameter.empty}
    if name in LIMITS and default is parameter.empty:
        return {"required": True, "type": _number_type(name)}
    if name in LIMITS:
        shown = default is not None
        return {"default": default, "show_default": shown, "type": _number_type(name)}
    settings = {"default": default, "show_default": default is not None}
    choices = _literal_choices(str(parameter.annotation))
    return settings | {"type": click.Choice(choices)} if choices else settings


def _literal_choices(annotation: str) -> tuple[str, ...]:
    """Return the values of a Literal in an annotation, which is kept as text."""
    found = re.search(r"Literal(\[[^]]+\])", annotation)
    return tuple(ast.literal_eval(found.group(1))) if found else ()


def _number_type(name: str) -> click.ParamType:  # type: ignore[type-arg]
    low, high = LIMITS[name]
    if name in FRACTIONS:
        return click.FloatRange(low, high)
    return click.IntRange(int(low), None if high is None else int(high))


def documented_arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Return what the section `Args:` of a docstring in Google style says of each parameter."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    if section is None:
        return {}
    entries = re.split(r"^    (?:\*\*)?(?=\w+: )", section.group(1), flags=re.MULTILINE)
    pairs = (entry.split(": ", 1) for entry in entries if entry.strip())
    return {name: " ".join(description.split()) for name, description in pairs}


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace an existing output even if this command did not write it.",
)


def output_option(
    help_text: str, required: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option `-o`: the file that a command writes, to be checked by `check_output`."""
    path = click.Path(path_type=Path, readable=False)
    return click.option("--output", "--out", "-o", type=path, required=required, help=help_text)


def run_command(command: click.Command, *args: Any, **kwargs: Any) -> NoReturn:
    """Run a click command and end the process.

    A failure is one line on stderr and the exit code of its kind. Our own bugs keep their
    traceback.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        result = command.main(*args, **{**kwargs, "standalone_mode": False})
        sys.stdout.flush()
        sys.exit(result if isinstance(result, int) else 0)
    except (EcgError, RecordError) as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output went away, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail_for_system_error(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "Interrupted. No half-written file is left. To continue a build or an index, run it "
            "again; to continue a training run, add --resume.",
            err=True,
        )
        sys.exit(EXIT_INTERRUPTED)
    except RuntimeError as error:  # click.Abort, above, is one, too
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's; ecgprep does not import torch
            raise
        _fail(
            "the GPU ran out of memory. Use a smaller --batch, --resident off, "
            "or the CPU (CUDA_VISIBLE_DEVICES=).",
            InputError.exit_code,
        )


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(exit_code)


def _fail_for_system_error(error: OSError) -> NoReturn:
    """End the process for what a user can mend, and raise the error again if it is ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        _fail("the disk is full. Free some space, or write elsewhere.", NoSpace.exit_code)
    if error.errno not in _PATH_ERRORS:
        raise error
    # The name is that of a manifest, store, run or output, never that of a vendor file: a vendor
    # file that cannot be read becomes a status of its row.
    name, reason = error.filename or "a file", os.strerror(error.errno)
    _fail(f"{name}: {reason}. Check the path and its permissions.", InputError.exit_code)


def _terminate(*_: object) -> NoReturn:
    """Let SIGTERM end the program through its `finally` clauses."""
    sys.exit(EXIT_TERMINATED)


class ProgressUpdate(Protocol):
    """What `progress_bar` yields: called with the work done, all work, and rejected items."""

    def __call__(self, done: int, total: int, rejected: int = 0) -> None:
        """Show how far the work is."""


@contextlib.contextmanager
def progress_bar(verb: str) -> Iterator[ProgressUpdate]:
    """Yield a function that shows progress on stderr, with the rate and the time left.

    A terminal shows a bar; a log file gets a line a minute; `--quiet` shows nothing.
    """
    if is_quiet():
        yield _show_nothing
        return

    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _minute_lines(verb)
        return

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(verb),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(verb, total=None, note="")

        def update(done: int, total: int, rejected: int = 0) -> None:
            note = f"{bar.tasks[0].speed or 0:,.0f}/s"
            if rejected:
                note += f", {rejected:,} rejected"
            bar.update(task, completed=done, total=total, note=note)

        yield update


def _show_nothing(done: int, total: int, rejected: int = 0) -> None:
    """Take progress and show nothing."""


def _minute_lines(verb: str, every_s: float = 60.0) -> ProgressUpdate:
    """Return an `update` that prints a line to stderr at most every `every_s` seconds."""
    begun = last = time.monotonic()
    first: int | None = None

    def update(done: int, total: int, rejected: int = 0) -> None:
        nonlocal last, first
        now = time.monotonic()
        if first is None:
            first = done  # what an earlier build has done says nothing about the rate
        if now - last < every_s:
            return
        last = now
        rate = (done - first) / (now - begun)
        line = f"{verb}: {done:,} of {total:,}, {rate:,.0f}/s, {rejected:,} rejected"
        if rate:
            line += f", {(total - done) / rate / 60:,.0f} min left"
        click.echo(line, err=True)

    return update


@contextlib.contextmanager
def status_lines(verb: str) -> Iterator[Callable[[str], None]]:
    """Yield `say(line)`, which prints to stderr; on a terminal, `verb` spins below the lines.

    `--quiet` shows nothing.
    """
    if is_quiet():
        yield lambda _: None
        return

    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status(verb):
        yield lambda line: console.print(line, markup=False, soft_wrap=True)
