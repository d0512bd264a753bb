"""The documents say what the code does: tables, commands, options, exit codes, links."""

from __future__ import annotations

import csv
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import ecgprep
from ecgprep import errors
from ecgprep.simulation.corpus import write_corpus
from ecgprep.store.format import ARRAYS, QUALITY_FLAGS, Layout

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FORMAT = (ROOT / "docs" / "store-format.md").read_text()
STATUSES, FLAGS = FORMAT.split("## Quality flags")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "manifests" / "README.md",
        ROOT / "tests" / "golden" / "README.md",
    ]
)
PROGRAMS = ("ecgprep", "ecgfit")


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(program: str) -> dict[str, click.Command]:
    """Return the commands of `ecgprep` or `ecgfit` by name."""
    found: dict[str, click.Command] = importlib.import_module(f"{program}.cli").cli.commands
    return found


def prose(text: str) -> str:
    """Return Markdown without its code blocks."""
    without_fences = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$", "", without_fences, flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the site and code forges make them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(re.sub(r"[-\s]+", "-", words).strip("-"))
    return found


def test_store_table_is_the_format():
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (\w+) \|", FORMAT, re.MULTILINE))
    assert rows == {name: spec.dtype for name, spec in ARRAYS.items()}
    shapes = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", FORMAT, re.MULTILINE))
    sizes = {"N": 3, "L": 50, "K": 2, "8": 8, "2": 2}
    layout = Layout(3, 50, 2)
    for name in ARRAYS:
        documented = tuple(sizes[axis.strip()] for axis in shapes[name].split(","))
        assert documented == layout.shape(name)


def test_status_table_is_the_list():
    listed = re.findall(r"^\| (\d+) \| `(\w+)` \|", STATUSES, re.MULTILINE)
    assert listed == [(str(code), name) for code, name in enumerate(errors.STATUSES)]


def test_quality_table_is_the_list():
    listed = re.findall(r"^\| (\d+) \| `(\w+)` \|", FLAGS, re.MULTILINE)
    assert listed == [(str(bit), name) for bit, name in enumerate(QUALITY_FLAGS)]


def test_exit_code_table_lists_the_codes_of_the_errors():
    page = (ROOT / "docs" / "errors.md").read_text()
    listed = re.findall(r"^\| (\d+) \|", page, re.MULTILINE)
    kinds = errors.EcgError.__subclasses__()
    fixed = {
        errors.EXIT_OK,
        errors.EXIT_BUG,
        errors.EXIT_USAGE,
        errors.EXIT_INTERRUPTED,
        errors.EXIT_TERMINATED,
    }
    assert len(kinds) >= 5
    assert {int(code) for code in listed} == fixed | {kind.exit_code for kind in kinds}
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_make_targets_of_a_page_exist(path):
    makefile = (ROOT / "Makefile").read_text()
    text = path.read_text()
    named = re.findall(r"`make ([a-z.][a-z-]+)", text)
    named += re.findall(r"^    make ([a-z.][a-z-]+)", text, re.MULTILINE)
    missing = [name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)]
    assert not missing


@pytest.mark.parametrize("page", ["README.md", "docs/commands.md"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_page_names_every_command(page, program):
    named = set(re.findall(rf"`{program} ([\w-]+)`", (ROOT / page).read_text()))
    assert named == set(commands(program))


def shell_lines(text: str) -> Iterator[tuple[str, str, set[str]]]:
    """Yield program, command and options of each command line shown in a page."""
    joined = text.replace("\\\n", " ")
    for line in re.findall(r"^ {4,}(ecg(?:prep|fit) .+)$", joined, re.MULTILINE):
        words = line.split(" #")[0].split()
        options = {word.split("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
        yield words[0], words[1], options


def known_options(command: click.Command) -> set[str]:
    """Return the options of a command, including those it makes only when it is asked."""
    parameters = command.get_params(click.Context(command))
    return {option for parameter in parameters for option in parameter.opts}


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_command_lines_of_a_page_use_commands_and_options_that_exist(path):
    for program, name, used in shell_lines(path.read_text()):
        assert used <= known_options(commands(program)[name]), f"{program} {name}"


def test_command_lines_are_found():
    """Guard of the test above: it must not pass because it finds nothing."""
    found = [line for path in PAGES for line in shell_lines(path.read_text())]
    assert len(found) > 40
    assert ("ecgfit", "eval", {"--store", "--run", "--each-lead"}) in found


@pytest.mark.parametrize("path", PAGES, ids=page_name)
@pytest.mark.parametrize("program", PROGRAMS)
def test_python_names_of_a_page_are_public(path, program):
    package = importlib.import_module(program)
    code = "\n".join(re.findall(r"^ {4,}.*$", path.read_text(), re.MULTILINE))
    assert set(re.findall(rf"\b{program}\.(\w+)\(", code)) <= set(package.__all__)


def test_demo_manifest_is_what_synth_writes(tmp_path):
    """A larger corpus starts with the smaller one, so a few patients are enough."""
    write_corpus(tmp_path, patients=10, seed=1, prevalence=0.25)
    with (tmp_path / "manifest.csv").open() as small:
        expected = list(csv.reader(small))
    with (ROOT / "manifests" / "demo.csv").open() as demo:
        assert list(csv.reader(demo))[: len(expected)] == expected


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_every_link_of_a_page_leads_somewhere(path):
    for link in re.findall(r"\]\(([^)]+)\)", prose(path.read_text())):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        root_document = {"contributing.md": "CONTRIBUTING.md"}.get(target.name)
        assert target.exists(), link
        if anchor:
            shown = ROOT / root_document if root_document else target
            assert anchor in anchors(shown), link


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_lines_outside_tables_have_at_most_100_columns(path):
    lines = path.read_text().splitlines()
    references = lines.index("## References") if "## References" in lines else len(lines)
    long = [line for line in lines[:references] if len(line) > 100 and line.lstrip()[:1] != "|"]
    assert not long


def test_readme_is_one_page():
    assert len(README.splitlines()) <= 120


def test_result_of_the_readme_names_its_command():
    result = README.split("## A result on real recordings")[1].split("## ")[0]
    for word in ("bench/ptbxl.py", "make benchmark", "AUROC", "AUPRC", "minutes", "cores"):
        assert word in result


def test_every_page_is_in_the_index_of_the_site():
    index = (ROOT / "docs" / "index.md").read_text()
    linked = set(re.findall(r"\]\(([^)#]+\.md)\)", index))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert linked == pages - {"index.md"}


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_extras_of_a_page_exist(path):
    known = set(PYPROJECT["project"]["optional-dependencies"])
    for extras in re.findall(r"'\.\[([a-z,]+)\]'", path.read_text()):
        assert set(extras.split(",")) <= known


def test_citation_has_the_version_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (\S+)$", citation, re.MULTILINE)[1] == ecgprep.__version__


def test_every_dependency_is_pinned():
    """Except those of `bench`, which only compares with other packages."""
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        if extra not in ("bench", "all"):
            wanted += requirements
    names = {re.match(r"[\w-]+", item)[0].lower() for item in wanted}
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    assert names <= pinned
