"""What both commands share: how a command ends, and how progress is shown."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from ecgprep.errors import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EcgError,
    InputError,
    NoSpace,
    RecordError,
)

_USERS_PATHS = {
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

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace an output that exists and is not what this command writes.",
)


def output_option(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option -o: the file that a command writes, to be looked at by `check_output`."""
    return click.option(
        "--output", "--out", "-o", type=click.Path(path_type=Path, readable=False), help=help_text
    )


def run_command(command: click.Command, *args: Any, **kwargs: Any) -> NoReturn:
    """Run a click command and end the process: failures are one line on stderr and the exit code of their kind, our own bugs
    keep their traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        result = command.main(*args, **{**kwargs, "standalone_mode": False})
        sys.stdout.flush()
        sys.exit(result if isinstance(result, int) else 0)
    except (EcgError, RecordError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output went away, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            click.echo("Error: the disk is full. Free some space, or write elsewhere.", err=True)
            sys.exit(NoSpace.exit_code)
        if error.errno not in _USERS_PATHS:
            raise
        # Vendor files never get here (a bad one is a status), so the name is that of a manifest, store, run or output.
        click.echo(
            f"Error: {error.filename or 'a file'}: {os.strerror(error.errno)}. Check the path and its permissions.",
            err=True,
        )
        sys.exit(InputError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "Interrupted. No half-written file was left. A build goes on when it is run again, an unfinished run with --resume.",
            err=True,
        )
        sys.exit(EXIT_INTERRUPTED)
    except RuntimeError as error:  # click.Abort, above, is one, too
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, which this package does without
            raise
        click.echo(
            "Error: the GPU has not enough memory. Use a smaller --batch, --resident off, or the CPU (CUDA_VISIBLE_DEVICES=).",
            err=True,
        )
        sys.exit(InputError.exit_code)


def _terminate(*_: object) -> NoReturn:
    """SIGTERM ends the program through its `finally` clauses."""
    sys.exit(EXIT_TERMINATED)


@contextlib.contextmanager
def progress_bar(verb: str) -> Iterator[Any]:
    """Yield `update(done, total, rejected=0)`, shown on stderr with rate and time left: a bar on a terminal, in a log file a line a minute."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _minute_lines(verb)
        return
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
            note = f"{bar.tasks[0].speed or 0:,.0f}/s" + (
                f", {rejected:,} rejected" if rejected else ""
            )
            bar.update(task, completed=done, total=total, note=note)

        yield update


def _minute_lines(verb: str, every_s: float = 60.0) -> Callable[..., None]:
    """Return an `update` that prints a line to stderr when a minute has passed since the last one."""
    begun = last = time.monotonic()
    first: int | None = None

    def update(done: int, total: int, rejected: int = 0) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = (
            done if first is None else first
        )  # what an earlier build has done says nothing of the rate
        if now - last < every_s:
            return
        last, rate = now, (done - first) / (now - begun)
        left = f", {(total - done) / rate / 60:,.0f} min left" if rate else ""
        click.echo(
            f"{verb}: {done:,} of {total:,}, {rate:,.0f}/s, {rejected:,} rejected{left}", err=True
        )

    return update


@contextlib.contextmanager
def status_lines(verb: str) -> Iterator[Any]:
    """Yield `say(line)`, which prints to stderr; on a terminal the last line shows what is going on now."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status(verb):
        yield lambda line: console.print(line, markup=False, soft_wrap=True)
