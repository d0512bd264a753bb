"""A wheel of the repository is complete: it works from another folder, without the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRAIN = "train --store corpus.zarr --outdir run --epochs 1 --threads 1 --device cpu"

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree, built without the network."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    out = tmp_path_factory.mktemp("wheel")
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", *offline, "--wheel-dir", out, ROOT],
        check=True,
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a fresh environment that holds the wheel.

    A .pth file lends it the packages of this environment. Paths named in a .pth file are not
    searched for further .pth files, so an editable installation of the repository stays out.
    """
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def run(bin_folder: Path, program: str, arguments: str, cwd: Path) -> str:
    """Run a command of the fresh environment in another folder and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [bin_folder / program, *arguments.split()],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_types_templates_and_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [
        path.relative_to(ROOT).as_posix()
        for package in ("ecgprep", "ecgfit")
        for pattern in ("*.py", "*.jinja", "*.css", "py.typed")
        for path in (ROOT / package).rglob(pattern)
    ]
    assert {"ecgprep/py.typed", "ecgfit/py.typed"} <= set(sources)
    assert set(sources) <= names
    outside = {name for name in names if not name.startswith(("ecgprep", "ecgfit"))}
    assert not outside
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_wheel_is_what_is_imported(bin_folder, tmp_path):
    script = tmp_path / "where.py"
    script.write_text("import ecgfit, ecgprep\nprint(ecgprep.__file__, ecgfit.__file__)\n")
    found = run(bin_folder, "python", "where.py", tmp_path).split()
    assert [Path(name).is_relative_to(bin_folder.parent) for name in found] == [True, True]


def test_installed_wheel_builds_trains_and_reports_in_another_folder(bin_folder, tmp_path):
    run(bin_folder, "ecgprep", "synth corpus --patients 40 --prevalence 0.4", tmp_path)
    build = "build corpus/manifest.csv corpus.zarr --hz 100 --length 1000"
    assert "rows" in run(bin_folder, "ecgprep", build, tmp_path)
    assert "auroc" in run(bin_folder, "ecgfit", TRAIN, tmp_path)
    assert "test:" in run(bin_folder, "ecgfit", "eval --store corpus.zarr --run run", tmp_path)
    run(bin_folder, "ecgprep", "report corpus.zarr", tmp_path)
    run(bin_folder, "ecgfit", "report run --store corpus.zarr", tmp_path)
    assert (tmp_path / "corpus.zarr.report.html").stat().st_size > 10_000
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
