"""What both commands share: options given twice, `--quiet`, `--verbose`, and progress."""

from __future__ import annotations

import logging

import click
import pytest
from click.testing import CliRunner

from ecgprep import console
from ecgprep.errors import missing_extra


@click.group(cls=console.Group)
def cli():
    """Commands to test with."""


@cli.command()
@click.option("--hz", "-z", type=int)
@click.option("--set", "settings", multiple=True)
@click.option("--replace", is_flag=True)
@console.verbosity_options
def work(hz, settings, replace):
    """Log at each level and show progress."""
    log = logging.getLogger("ecgprep.somewhere")
    log.warning("a file is odd")
    log.info("done")
    log.debug("step 1")
    with console.status_lines("working") as say:
        say("busy")


def run(*arguments: str):
    return CliRunner().invoke(cli, ["work", *arguments])


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ([], ["Warning: a file is odd", "done", "busy"]),
        (["--quiet"], ["Warning: a file is odd"]),
        (["-q"], ["Warning: a file is odd"]),
        (["--verbose"], ["Warning: a file is odd", "done", "step 1", "busy"]),
        (["-v"], ["Warning: a file is odd", "done", "step 1", "busy"]),
    ],
)
def test_verbosity_decides_what_stderr_shows(options, lines):
    result = run(*options)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines() == lines


def test_quiet_and_verbose_exclude_each_other():
    result = run("-q", "-v")
    assert result.exit_code == 2
    assert "--quiet and --verbose exclude each other: give one." in result.stderr


def test_a_command_leaves_no_handler_behind():
    logger = logging.getLogger("ecgprep")
    before = (list(logger.handlers), logger.level)
    run("-v")
    assert (list(logger.handlers), logger.level) == before


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--hz", "100", "--hz", "200"], "--hz"),
        (["-z", "100", "--hz=100"], "--hz"),
        (["--replace", "--replace"], "--replace"),
        (["-vv"], "--verbose"),
    ],
)
def test_an_option_given_twice_is_a_usage_error(arguments, name):
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"Error: {name}: given more than once. Give an option only once." in result.stderr


def test_an_option_that_is_a_list_may_be_given_often():
    assert run("--set", "a=1", "--set", "b=2").exit_code == 0


def test_a_group_refuses_its_own_options_given_twice():
    @click.group(cls=console.Group)
    @click.option("--site")
    def group(site):
        pass

    group.add_command(work)
    result = CliRunner().invoke(group, ["--site", "a", "--site", "b", "work"])
    assert result.exit_code == 2
    assert "--site: given more than once" in result.stderr


def test_a_missing_extra_is_named_with_both_ways_to_install_it():
    assert missing_extra("jinja2 and matplotlib", "report") == (
        "This needs jinja2 and matplotlib. Run: pip install 'ecgprep-ecgfit[report]', "
        "or in a clone of the project: pip install -e '.[report]'."
    )


def test_a_log_file_gets_a_line_a_minute(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 61.0, 62.0, 122.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress_bar("Reading") as update:
        update(1000, 50_000, 1)  # from an earlier build
        update(7000, 50_000, 3)
        update(7100, 50_000, 3)
        update(13_200, 50_000, 4)
    assert capsys.readouterr().err.splitlines() == [
        "Reading: 7,000 of 50,000, 98/s, 3 rejected, 7 min left",
        "Reading: 13,200 of 50,000, 100/s, 4 rejected, 6 min left",
    ]
