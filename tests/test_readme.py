"""The commands of the README work as they are printed, on an export of a simulated hospital."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ecgprep

ROOT = Path(__file__).parent.parent
SECTION = (ROOT / "README.md").read_text().split("## On your own data")[1].split("\n## ")[0]
COMMANDS = re.findall(r"^ {4}(ecg(?:prep|fit) .*)$", SECTION, re.MULTILINE)
ADD_THE_LABEL = re.search(
    r"^```python\n(.*?)^```$",
    (ROOT / "docs" / "howto" / "index-exports.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


@pytest.fixture
def hospital(tmp_path, monkeypatch) -> Path:
    """Folders `export` and `new`, and outcomes by patient; the current folder."""
    ecgprep.simulate(tmp_path / "corpus", patients=50, seed=2)
    shutil.move(tmp_path / "corpus" / "xml", tmp_path / "export")
    (tmp_path / "new").mkdir()
    (tmp_path / "export" / "cut.xml").write_text("<RestingECG>")
    with (tmp_path / "corpus" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shutil.copy(tmp_path / "export" / Path(rows[0]["path_xml"]).name, tmp_path / "new")
    labels = {row["patient_id"]: row["label"] for row in rows}
    lines = [f"{patient},{label}" for patient, label in labels.items()]
    (tmp_path / "outcomes.csv").write_text("\n".join(["patient_id,label", *lines]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_five_commands_begin_with_index():
    names = [" ".join(command.split()[:2]) for command in COMMANDS]
    programs = ["ecgprep index", "ecgprep build", "ecgfit train", "ecgfit eval", "ecgfit predict"]
    assert names == programs


@pytest.mark.full
def test_the_commands_work_as_printed(hospital, capfd):
    for command in COMMANDS:
        line = command + " --epochs 1" if " train " in command else command
        run(line.replace("new/*.xml", next((hospital / "new").iterdir()).as_posix()))
        if " index " in command:
            exec(compile(ADD_THE_LABEL[1], "index-exports.md", "exec"), {})  # noqa: S102 - our page
            assert capfd.readouterr().out.startswith("0 of ")
    with (hospital / "new.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok"]


def run(line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
