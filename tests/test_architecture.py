"""The floors of the code: imports go down only. Change the table first."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "ecgprep": 0,
    "ecgprep.errors": 0,
    "ecgprep.leads": 0,
    "ecgprep.counts": 0,
    "ecgprep.mapping": 0,
    "ecgprep.durable": 1,
    "ecgprep.output": 2,
    "ecgprep.store": 2,
    "ecgprep.recording": 2,
    "ecgprep.xmldoor": 2,
    "ecgprep.readers.fields": 3,
    "ecgprep.manifest": 3,
    "ecgprep.conform": 3,
    "ecgprep.splits": 3,
    "ecgprep.verify": 3,
    "ecgprep.summary": 3,
    "ecgprep.readers.muse": 4,
    "ecgprep.readers.aecg": 4,
    "ecgprep.readers.cardiosoft": 4,
    "ecgprep.readers.xli": 3,
    "ecgprep.readers.philips": 4,
    "ecgprep.readers.schiller": 4,
    "ecgprep.readers.sapphire": 4,
    "ecgprep.readers": 5,
    "ecgprep.plot": 6,
    "ecgprep.preview": 6,
    "ecgprep.copies": 0,
    "ecgprep.quality": 4,
    "ecgprep.parts": 6,
    "ecgprep.engines": 7,
    "ecgprep.plan": 7,
    "ecgprep.rows": 7,
    "ecgprep.build": 8,
    "ecgprep.archive": 3,
    "ecgprep.origin": 3,
    "ecgprep.doctor": 3,
    "ecgprep.report": 9,
    "ecgprep.console": 9,
    "ecgprep.cli": 11,
    "ecgprep.synth.simulator": 0,
    "ecgprep.synth.philips": 1,
    "ecgprep.synth.vendors": 2,
    "ecgprep.synth": 3,
    "ecgfit": 0,
    "ecgfit.delong": 0,
    "ecgfit.metrics": 0,
    "ecgfit.thresholds": 1,
    "ecgfit.curves": 1,
    "ecgfit.compare": 1,
    "ecgfit.calibration": 1,
    "ecgfit.augment": 0,
    "ecgfit.beats": 0,
    "ecgfit.device": 0,
    "ecgfit.distributed": 0,
    "ecgfit.losses": 0,
    "ecgfit.models.network": 0,
    "ecgfit.models.resnet1d": 0,
    "ecgfit.models.xresnet1d": 0,
    "ecgfit.models.inception1d": 0,
    "ecgfit.models.tabular": 0,
    "ecgfit.models": 1,
    "ecgfit.transfer": 2,
    "ecgfit.config": 2,
    "ecgfit.data": 3,
    "ecgfit.loader": 4,
    "ecgfit.resident": 5,
    "ecgfit.run": 4,
    "ecgfit.comparison": 6,
    "ecgfit.predict": 5,
    "ecgfit.export": 6,
    "ecgfit.trainer": 7,
    "ecgfit.figures": 6,
    "ecgfit.checklist": 6,
    "ecgfit.evaluate": 8,
    "ecgfit.explain": 9,
    "ecgfit.apply": 8,
    "ecgfit.train": 9,
    "ecgfit.report": 9,
    "ecgfit.cli": 10,
}
ECGFIT_MAY_USE = {
    "ecgprep",
    "ecgprep.store",
    "ecgprep.errors",
    "ecgprep.leads",
    "ecgprep.counts",
    "ecgprep.durable",
    "ecgprep.console",
    "ecgprep.output",
    "ecgprep.plot",
}
FOR_PREDICTION = {"ecgprep.readers", "ecgprep.conform", "ecgprep.manifest"}
XML_PARSERS = {"xml", "lxml", "defusedxml", "xmltodict", "html"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in FLOORS else node.module for alias in node.names}
    return found


SOURCES = sorted(path for package in ("ecgprep", "ecgfit") for path in (ROOT / package).rglob("*.py"))


def test_the_table_names_every_module():
    assert {module_name(path) for path in SOURCES} == set(FLOORS)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_down_only(path):
    name = module_name(path)
    upward = {other for other in imports(path) if other in FLOORS and other != name and other.split(".")[0] == name.split(".")[0]}
    upward = {other for other in upward if FLOORS[other] >= FLOORS[name] and FLOORS[other] > 0}
    assert not upward


@pytest.mark.parametrize("path", [path for path in SOURCES if "ecgfit" in path.parts], ids=module_name)
def test_ecgfit_uses_only_the_contract_of_ecgprep(path):
    allowed = ECGFIT_MAY_USE | FOR_PREDICTION if module_name(path) == "ecgfit.apply" else ECGFIT_MAY_USE
    assert {other for other in imports(path) if other.startswith("ecgprep")} <= allowed


@pytest.mark.parametrize("path", [path for path in SOURCES if "ecgprep" in path.parts], ids=module_name)
def test_ecgprep_knows_neither_torch_nor_ecgfit(path):
    assert not {other.split(".")[0] for other in imports(path)} & {"torch", "ecgfit", "sklearn", "pandas"}


def test_one_module_imports_an_xml_parser():
    users = {module_name(path) for path in SOURCES if {other.split(".")[0] for other in imports(path)} & XML_PARSERS}
    assert users == {"ecgprep.xmldoor", "ecgprep.synth.vendors", "ecgprep.synth.philips"}  # the others escape text with html.escape and parse nothing


@pytest.mark.parametrize("command", ["ecgprep", "ecgfit"])
def test_help_loads_nothing_heavy(command):
    code = f"import sys, {command}.cli; print([m for m in ('torch', 'numpy', 'scipy', 'zarr', 'lxml', 'pydantic', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_torch_load_is_called_in_one_place_and_never_without_weights_only():
    calls = [line for path in SOURCES for line in path.read_text().splitlines() if "torch.load(" in line]
    assert len(calls) == 1
    assert "weights_only=True" in calls[0]
