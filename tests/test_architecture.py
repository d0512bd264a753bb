"""The floors of the code: imports between folders go down only. Change the table first."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = (
    "ecgprep.errors ecgprep.leads ecgprep.options ecgprep.ranking",
    "ecgprep.files ecgprep.header ecgprep.recording ecgprep.sex_code ecgprep.study ecgprep.workers",
    "ecgprep.drawing ecgprep.readers ecgprep.simulation ecgprep.store",
    "ecgprep.conform ecgprep.machine ecgprep.patients ecgprep.cohorts",
    "ecgprep.quality",
    "ecgprep.reports",
    "ecgprep.indexing",
    "ecgprep.building",
    "ecgprep.api",
    "ecgprep.console ecgprep.cli",
    "ecgfit.compute ecgfit.metrics ecgfit.models",
    "ecgfit.config ecgfit.data",
    "ecgfit.run_files ecgfit.checkpoint ecgfit.run",
    "ecgfit.inference",
    "ecgfit.evaluation ecgfit.explaining",
    "ecgfit.reports ecgfit.training",
    "ecgfit.api",
    "ecgfit.options ecgfit.tables ecgfit.cli",
)
"""Rooms, a folder or a single module each, from the ground up.

A room imports from floors below its own, and on its own floor from rooms that stand before it.
"""
ECGFIT_MAY_USE = {
    "ecgprep",
    "ecgprep.cohorts",
    "ecgprep.console",
    "ecgprep.drawing",
    "ecgprep.errors",
    "ecgprep.files",
    "ecgprep.leads",
    "ecgprep.ranking",
    "ecgprep.reports",
    "ecgprep.sex_code",
    "ecgprep.store",
}
FOR_PREDICTION = {
    "ecgprep.conform",
    "ecgprep.header",
    "ecgprep.patients",
    "ecgprep.quality",
    "ecgprep.readers",
}
XML_PARSERS = {"xml", "lxml", "defusedxml", "xmltodict", "html"}
SOURCES = sorted(p for package in ("ecgprep", "ecgfit") for p in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FACES = {"ecgprep", "ecgfit", "ecgprep.__main__", "ecgfit.__main__"}
"""They lie beside the floors: they name the API for editors, and import it only when it is used."""
MODULES = {module_name(path): path for path in SOURCES}


def room(module: str) -> str:
    """Return the folder of a module, or the module itself where it lies beside the folders."""
    return ".".join(module.split(".")[:2])


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Return what is left when modules that import nothing of the rest are removed, repeatedly."""
    left = {name: set(others) - {name} for name, others in arrows.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_every_room_has_a_floor():
    listed = [name for floor in FLOORS for name in floor.split()]
    assert len(listed) == len(set(listed))
    assert {room(name) for name in MODULES} - FACES == set(listed)


def test_imports_between_rooms_go_down():
    place = {name: i for i, name in enumerate(" ".join(FLOORS).split())}
    upward = []
    for module, path in MODULES.items():
        for other in imports(path) & MODULES.keys():
            here, there = room(module), room(other)
            if here in place and there in place and here != there and place[there] > place[here]:
                upward.append(f"{module} imports {other}")
    assert not upward


def test_no_modules_import_each_other_in_a_circle():
    arrows = defaultdict(set)
    for module, path in MODULES.items():
        arrows[module] = imports(path) & (MODULES.keys() - FACES)
    assert not circles(arrows)


def test_no_room_bears_the_name_of_a_command():
    """A sub-package of that name would take the place of the function of the API once imported."""
    from ecgfit.cli import cli as ecgfit
    from ecgprep.cli import cli as ecgprep

    for package, group in (("ecgprep", ecgprep), ("ecgfit", ecgfit)):
        assert not {f"{package}.{command}" for command in group.commands} & {
            room(m) for m in MODULES
        }


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if "ecgfit" in path.parts], ids=module_name
)
def test_ecgfit_uses_only_the_contract_of_ecgprep(path):
    predicts = room(module_name(path)) == "ecgfit.inference"
    allowed = ECGFIT_MAY_USE | FOR_PREDICTION if predicts else ECGFIT_MAY_USE
    assert {room(other) for other in imports(path) if other.startswith("ecgprep")} <= allowed


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if "ecgprep" in path.parts], ids=module_name
)
def test_ecgprep_knows_neither_torch_nor_ecgfit(path):
    assert not {other.split(".")[0] for other in imports(path)} & {"torch", "ecgfit", "sklearn"}


def test_one_module_imports_an_xml_parser():
    """The simulators escape text with html.escape and parse nothing."""
    users = {
        module
        for module, path in MODULES.items()
        if {other.split(".")[0] for other in imports(path)} & XML_PARSERS
    }
    simulators = {f"ecgprep.simulation.{name}" for name in ("vendors", "philips", "mortara")}
    assert users == {"ecgprep.readers.xml", *simulators}


HEAVY = ("torch", "numpy", "scipy", "zarr", "lxml", "pydantic", "rich", "pandas")


@pytest.mark.parametrize("module", ["ecgprep.cli", "ecgfit.cli", "ecgprep", "ecgfit"])
def test_help_and_import_load_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_torch_load_is_called_in_one_place_and_never_without_weights_only():
    calls = [
        line for path in SOURCES for line in path.read_text().splitlines() if "torch.load(" in line
    ]
    assert len(calls) == 1
    assert "weights_only=True" in calls[0]


PAGE = (ROOT / "docs" / "architecture.md").read_text()


def rows_of(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading of docs/architecture.md."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def quoted(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


@pytest.mark.parametrize("package", ["ecgprep", "ecgfit"])
def test_the_page_draws_the_imports_as_they_are(package):
    arrows = defaultdict(set)
    for module, path in MODULES.items():
        arrows[room(module)] |= {room(other) for other in imports(path) & MODULES.keys()}
    drawn = {}
    for name, _, *columns in rows_of(f"Rooms of {package}"):
        own = {f"{package}.{other}" for other in quoted(columns[0])}
        others = {f"ecgprep.{other}" for other in quoted(columns[-1])} if columns[1:] else set()
        drawn[f"{package}.{name.strip('`')}"] = own | others
    listed = [name for name in " ".join(FLOORS).split() if name.startswith(f"{package}.")]
    assert list(drawn) == listed
    for name, others in drawn.items():
        assert others == arrows[name] - FACES - {name}, name


def test_the_page_says_what_every_package_is_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]
    names = {re.split(r"[<>=\[ ;]", name)[0].lower() for name in wanted} - {project["name"]}
    rows = rows_of("Packages: what each does here, and why not another")
    assert {quoted(row[0]).pop() for row in rows} == names
    assert all(cell for row in rows for cell in row)
