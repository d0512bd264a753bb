"""The documents say what the code does: file tree, store table, statuses, make targets, exit codes."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from ecgprep import errors
from ecgprep.simulation.corpus import write_corpus
from ecgprep.store.format import ARRAYS, QUALITY_FLAGS, Layout

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FORMAT = (ROOT / "docs" / "store-format.md").read_text()
STATUSES, FLAGS = FORMAT.split("## Quality flags")


@pytest.mark.parametrize("text", [README, FORMAT], ids=["README", "store-format"])
def test_store_table_is_the_format(text):
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (\w+) \|", text, re.MULTILINE))
    assert rows == {name: spec.dtype for name, spec in ARRAYS.items()}
    shapes = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.MULTILINE))
    sizes = {"N": 3, "L": 50, "K": 2, "8": 8, "2": 2}
    for name in ARRAYS:
        assert tuple(sizes[axis.strip()] for axis in shapes[name].split(",")) == Layout(
            3, 50, 2
        ).shape(name)


def test_status_table_is_the_list():
    assert re.findall(r"^\| (\d+) \| `(\w+)` \|", STATUSES, re.MULTILINE) == [
        (str(i), name) for i, name in enumerate(errors.STATUSES)
    ]


def test_quality_table_is_the_list():
    assert re.findall(r"^\| (\d+) \| `(\w+)` \|", FLAGS, re.MULTILINE) == [
        (str(i), name) for i, name in enumerate(QUALITY_FLAGS)
    ]


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z][a-z-]+)", README)) - {"it", "them"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_exit_codes_of_the_readme_are_those_of_the_errors():
    listed = re.search(r"Exit codes: (.*?)\.\n", README, re.DOTALL)[1]
    kinds = (
        errors.InputError,
        errors.StoreError,
        errors.TooManyRejects,
        errors.NoSpace,
        errors.TargetExists,
    )
    codes = {0, 1, 2, 130, 143} | {kind.exit_code for kind in kinds}
    assert {int(code) for code in re.findall(r"\d+", listed)} == codes


def test_demo_manifest_is_what_synth_writes(tmp_path):
    """The whole corpus takes seconds; its first patients are enough, since a larger corpus starts with the smaller one."""
    write_corpus(tmp_path, patients=10, seed=1, prevalence=0.25)
    with (
        (tmp_path / "manifest.csv").open() as small,
        (ROOT / "manifests" / "demo.csv").open() as demo,
    ):
        rows = list(csv.reader(small))
        assert list(csv.reader(demo))[: len(rows)] == rows


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_result_of_the_readme_names_its_command():
    result = README.split("## A result on real recordings")[1].split("## ")[0]
    for word in ("bench/ptbxl.py", "AUROC", "AUPRC", "minutes", "cores"):
        assert word in result
