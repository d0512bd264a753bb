"""The commands: what they print, where, and with which exit code."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import command, write_recordings

from ecgprep.console import documented_arguments

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "ecgprep": {
        "build",
        "doctor",
        "finalise",
        "inspect",
        "pack",
        "part",
        "plan",
        "read",
        "report",
        "synth",
        "unpack",
        "verify",
    },
    "ecgfit": {"train", "eval"},
}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the command `ecgprep` in the test's folder, in this process."""
    monkeypatch.chdir(tmp_path)
    return command


def test_build_inspect_verify(run, corpus, tmp_path):
    store = tmp_path / "s.zarr"
    build = ["build", corpus / "manifest.csv", store, "--registry", tmp_path / "r.csv"]
    built = run(*build, "--covariates", "age,sex", "--json")
    assert built.returncode == 0, built.stderr
    summary = json.loads(built.stdout)
    assert summary["status"] == {"ok": summary["rows"]}
    assert summary["unchanged"] is False
    inspected = json.loads(run("inspect", store, "--json").stdout)
    assert {key: summary[key] for key in inspected} == inspected
    assert sum(split["patients"] for split in inspected["splits"].values()) == 60
    assert run("verify", store).stdout == f"{store} is intact.\n"
    again = run(*build, "--covariates", "age,sex", "--json")
    assert json.loads(again.stdout)["unchanged"] is True
    assert again.stderr == f"{store} is up to date; nothing to do.\n"
    assert run(*build, "--covariates", "age,sex", "--json", "--quiet").stderr == ""
    stale = run(*build)
    assert (stale.returncode, stale.stdout) == (7, "")
    assert "is stale: the settings differ (covariates: ['age', 'sex'], now []). Use" in stale.stderr


def test_inspect_for_people_shows_the_same_numbers(run, store):
    text = run("inspect", store.path).stdout
    assert f"status: ok {len(store)}" in text
    assert store.content_sha256 in text


def test_verify_of_a_damaged_store_exits_with_4_and_names_the_row(run, store, tmp_path):
    copy = Path(shutil.copytree(store.path, tmp_path / "copy.zarr"))
    chunk = copy / "waveforms/c/0/0/0"
    data = bytearray(chunk.read_bytes())
    data[5 * 80_000] ^= 1
    chunk.write_bytes(data)
    done = run("verify", copy, "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["bad_rows"] == [5]
    assert "wrong in row 5" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["build", "absent.csv", "s.zarr"], 3, "does not exist"),
        (["inspect", "absent.zarr"], 4, "`ecgprep build MANIFEST absent.zarr` makes one"),
        (["verify", "absent.zarr"], 4, "does not exist"),
        (["inspect", "a_file"], 4, "is a file, so not a store"),
        (["synth", "a_file"], 3, "Not a directory"),
        (["synth", "a_file/c"], 3, "Not a directory"),
        (["build", "good.csv", "a_file/s.zarr"], 3, "File exists"),
        (["build", "good.csv", "a_file"], 4, "is a file, so not a store"),
        (["build", "m.csv", "s.zarr", "--split", "70/20"], 3, "add up to 100"),
        (["build", "m.csv", "s.zarr", "--hz", "fast"], 2, "--hz"),
        (["build", "m.csv"], 2, "STORE"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_mistakes_of_the_user_end_in_a_message_and_a_code(run, tmp_path, arguments, code, message):
    (tmp_path / "a_file").write_text("x")
    (tmp_path / "good.csv").write_text("patient_id,path_xml,label\nP1,a.xml,0\n")
    done = run(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""


def test_too_many_rejects_exit_with_5(run, tmp_path):
    (tmp_path / "m.csv").write_text("patient_id,path_xml,label\nP1,absent.xml,0\n")
    assert run("build", "m.csv", "s.zarr").returncode == 5


def help_of(package: str, *names: str) -> str:
    """Return the help of a command, at 80 columns."""
    group = importlib.import_module(f"{package}.cli").cli
    result = CliRunner(env={"COLUMNS": "80"}).invoke(group, [*names, "--help"])
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("package", COMMANDS)
def test_every_command_has_help_with_an_example(package):
    commands = help_of(package).split("Commands:")[1].splitlines()
    names = {line.split()[0] for line in commands if re.match(r"  \w", line)}
    assert not [line for line in commands if line.endswith("...")]
    assert names >= COMMANDS[package]
    documents = "".join(path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    for name in names:
        text = help_of(package, name)
        assert "Example: " in text
        assert max(map(len, text.splitlines())) <= 80
        assert f"{package} {name}" in documents


@pytest.mark.parametrize("package", COMMANDS)
def test_every_parameter_is_documented(package):
    """The options of the commands take their help from there."""
    public = importlib.import_module(package).__all__
    functions = inspect.getmembers(importlib.import_module(f"{package}.api"), inspect.isfunction)
    for name, function in functions:
        parameters = set(inspect.signature(function).parameters)
        if name in public and len(parameters) > 1:
            assert set(documented_arguments(function)) == parameters, name


@pytest.mark.parametrize(
    ("package", "name", "usage"),
    [
        ("ecgprep", "build", "[OPTIONS] MANIFEST STORE"),
        ("ecgfit", "eval", "[OPTIONS]"),
        ("ecgfit", "explain", "[OPTIONS] RUN"),
    ],
)
def test_help_of_the_module_loads_nothing_heavy(package, name, usage):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", package, name, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"Usage: python -m {package} {name} {usage}\n" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    heavy = {"numpy", "scipy", "lxml", "rich", "zarr", "pandas", "pydantic", "torch", "yaml"}
    assert not imported & heavy


def test_an_option_given_twice_is_a_usage_error(run):
    done = run("build", "m.csv", "s.zarr", "--hz", "100", "--hz", "500")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: --hz: given more than once. Give an option only once." in done.stderr


@pytest.mark.parametrize("manifest", ["my cohort.csv", "site  b/m.csv", "m.csv"])
def test_make_prep_takes_any_manifest(run, tmp_path, manifest):
    """The commands that make would run, and then one of them."""
    path = Path(manifest)
    write_recordings(tmp_path / path.parent / "c", 6).rename(tmp_path / path)
    (tmp_path / path.parent / "c" / "xml").rename(tmp_path / path.parent / "xml")
    made = subprocess.run(
        ["make", "--dry-run", "prep", f"MANIFEST={manifest}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in made.stdout.splitlines() if "ecgprep build" in line]
    program, *arguments = shlex.split(line)
    store, root = str(path.with_suffix(".zarr")), "site  b/" if "/" in manifest else "./"
    assert program == ".venv/bin/ecgprep"
    assert arguments == ["build", manifest, store, "--root", root]
    options = ["--hz", "100", "--length", "1000", "--allow-missing-class"]
    assert run(*arguments, *options).returncode == 0
    assert (tmp_path / store / "zarr.json").exists()


def test_output_into_a_closed_pipe_is_no_error(store):
    inspect = f"{sys.executable} -m ecgprep inspect {store.path} --json"
    line = f"{inspect} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_message_of_a_build_repeats_an_identifier(run, tmp_path, uv):
    from ecgprep.simulation.vendors import muse

    (tmp_path / "SECRETFILE.xml").write_bytes(
        muse(uv, 500, "SECRETID").replace(b"MICROVOLTS", b"SECRETUNIT")
    )
    (tmp_path / "SECRETTEXT.xml").write_bytes(b"<SECRETROOT>SECRET")
    rows = "SECRETA,SECRETFILE.xml,0\nSECRETB,SECRETTEXT.xml,1\nSECRETC,SECRETABSENT.xml,0\n"
    (tmp_path / "m.csv").write_text("patient_id,path_xml,label\n" + rows)
    done = run("build", "m.csv", "s.zarr")
    assert done.returncode == 5
    assert "SECRET" not in done.stdout + done.stderr + (tmp_path / "s.zarr.rejects.csv").read_text()


def test_read_shows_what_a_reader_sees(run, tmp_path, uv):
    from ecgprep.simulation.vendors import aecg, philips

    (tmp_path / "p.xml").write_bytes(philips(uv, 500, "X"))
    (tmp_path / "a.xml").write_bytes(aecg(uv[:, :2000], 250, "X", leads=("II", "III", "V1")))
    done = run("read", "p.xml", "a.xml", "--json")
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout)
    assert (
        one["dialect"],
        one["rate_hz"],
        one["n_samples"],
        one["conform"]["calibration_pulse_cut"],
    ) == ("philips", 500, 5500, True)
    assert two["conform"]["resampled_to_hz"] == 500
    assert two["conform"]["leads_derived"] == ["I"]
    assert two["conform"]["leads_masked"] == ["V2", "V3", "V4", "V5", "V6"]
    assert two["conform"]["padded_samples"] == 1000
    assert two["leads"]["II"]["max_uv"] == uv[1, :2000].max()
    drawn = run("read", "p.xml", "--plot", "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "philips: 5,500 samples at 500 Hz" in drawn.stdout


def test_read_says_why_a_file_is_refused(run, tmp_path, uv):
    from ecgprep.simulation.vendors import muse

    (tmp_path / "short.xml").write_bytes(muse(uv[:, :1000], 500, "X"))
    (tmp_path / "text.xml").write_bytes(b"text")
    done = run("read", "short.xml", "text.xml", "absent.xml")
    assert done.returncode == 3
    assert "refused by the conform: too_short" in done.stdout
    assert "refused by the reader: not_xml" in done.stdout
    assert "refused by the reader: file_missing" in done.stdout
    assert run("read", "a.xml", "b.xml", "--plot", "x.png").returncode == 2


def test_synth_writes_every_dialect(run, tmp_path):
    assert run("synth", "c", "--patients", "30", "--dialects", "all").returncode == 0
    built = run("build", "c/manifest.csv", "s.zarr", "--json")
    assert json.loads(built.stdout)["status"] == {"ok": json.loads(built.stdout)["rows"]}
    record = json.loads((tmp_path / "s.zarr.build.json").read_bytes())
    assert set(record["dialects"]) == {
        "muse",
        "aecg",
        "cardiosoft",
        "philips",
        "schiller",
        "sapphire",
        "mortara",
    }
    refused = run("synth", "d", "--dialects", "muse,ecg")
    assert (refused.returncode, "allowed are all, muse" in refused.stderr) == (2, True)


def test_read_says_which_leads_are_out_of_range(run, tmp_path, uv):
    from ecgprep.simulation.vendors import aecg

    spiked = uv.copy()
    spiked[8, 2000:2010] = 160_000
    (tmp_path / "a.xml").write_bytes(aecg(spiked, 500, "X"))
    (seen,) = json.loads(run("read", "a.xml", "--json").stdout)
    assert seen["conform"]["leads_masked"] == seen["conform"]["leads_out_of_range"] == ["V3"]
    assert "leads out of range: ['V3']" in run("read", "a.xml").stdout
