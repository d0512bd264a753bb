"""Whose the rows of a store are: kept in the private build record, and used where asked for."""

from __future__ import annotations

import csv
import json
import shutil
import stat
from pathlib import Path

import pytest
from helpers import command, silent, statuses

import ecgfit
import ecgprep
from ecgfit.inference.files import predict_store
from ecgfit.inference.tables import MARKS, write_predictions
from ecgprep.errors import InputError, TargetExists
from ecgprep.files.output import check_output
from ecgprep.store.format import SPLITS
from ecgprep.store.reader import Store
from ecgprep.store.record import private_path


@pytest.fixture(scope="module")
def lines(corpus) -> list[dict[str, str]]:
    """The rows of the manifest of `corpus`, read by another reader."""
    with (corpus / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def copied(tiny_store, tmp_path) -> Store:
    """A copy of `tiny_store` with its record, which a test may damage."""
    target = Path(shutil.copytree(tiny_store.path, tmp_path / "c.zarr"))
    shutil.copy(private_path(tiny_store.path, "build.json"), private_path(target, "build.json"))
    return Store(target)


def test_every_row_names_its_line_of_the_manifest(tiny_store, lines, tmp_path):
    table = ecgprep.rows(tiny_store, tmp_path / "rows.csv")
    assert list(table) == ["row", "patient_id", "path_xml", "line", "status", "split"]
    assert table["row"].tolist() == list(range(len(lines)))
    assert table["patient_id"].tolist() == [row["patient_id"] for row in lines]
    assert table["path_xml"].tolist() == [row["path_xml"] for row in lines]
    assert table["line"].tolist() == list(range(2, len(lines) + 2))
    assert table["status"].tolist() == statuses(tiny_store)
    assert table["split"].tolist() == [
        "" if code < 0 else SPLITS[code] for code in tiny_store.array("split").tolist()
    ]
    assert stat.S_IMODE((tmp_path / "rows.csv").stat().st_mode) == 0o600


def test_command_prints_or_writes_the_same_table(tiny_store, tmp_path):
    printed = command("rows", tiny_store.path)
    written = command("rows", tiny_store.path, "-o", tmp_path / "rows.csv")
    assert (printed.returncode, written.returncode) == (0, 0)
    assert (tmp_path / "rows.csv").read_text() == printed.stdout
    assert command("rows", tiny_store.path, "-o", tmp_path / "rows.csv").returncode == 0
    (tmp_path / "mine.csv").write_text("row,mine\n")
    refused = command("rows", tiny_store.path, "-o", tmp_path / "mine.csv")
    assert refused.returncode == TargetExists.exit_code


def lose(record: Path) -> None:
    record.unlink()


def edit(record: Path, **values: object) -> None:
    record.write_text(json.dumps(json.loads(record.read_bytes()) | values))


FAULTS = {
    "is missing or damaged": lose,
    "belongs to another store": lambda record: edit(record, content_sha256="0"),
    "an earlier version of ecgprep wrote it": lambda record: edit(record, ids=None),
    "does not say whose": lambda record: edit(
        record, ids=dict.fromkeys(("patient_id", "path_xml", "line"), "eJwzBAAAMgAy")
    ),
}


@pytest.mark.parametrize("why", FAULTS)
def test_without_a_record_of_its_own_a_store_does_not_say_whose_its_rows_are(copied, why):
    FAULTS[why](private_path(copied.path, "build.json"))
    with pytest.raises(InputError, match=why):
        ecgprep.rows(copied)


def test_ids_are_no_part_of_the_store(tiny_store, lines):
    patients = {row["patient_id"].encode() for row in lines}
    for path in tiny_store.path.rglob("*.json"):
        assert not any(patient in path.read_bytes() for patient in patients)


def test_predictions_name_patient_split_and_label(trained_run, tiny_store, lines, tmp_path):
    said: list[str] = []
    table = predict_store(trained_run, tiny_store, "all", ids=True, say=said.append)
    of_row = [lines[row] for row in table["row"]]
    assert table["patient_id"].tolist() == [row["patient_id"] for row in of_row]
    assert table["path_xml"].tolist() == [row["path_xml"] for row in of_row]
    assert table["line"].tolist() == [row + 2 for row in table["row"]]
    assert table["label"].tolist() == [int(row["label"]) for row in of_row]
    counts = table["split"].value_counts()
    assert set(counts.index) == set(SPLITS)
    (line,) = said
    assert line.startswith(
        f"{counts['train']} train and {counts['val']} val rows are among the {len(table)} predicted"
    )
    out = tmp_path / "p.csv"
    write_predictions(table, out)
    assert check_output(out, MARKS) == out.resolve()  # recognised as ours


def test_nothing_is_said_of_rows_that_training_did_not_see(trained_run, tiny_store, copied):
    said: list[str] = []
    table = predict_store(trained_run, tiny_store, "test", say=said.append)
    assert not said
    assert "patient_id" not in table
    assert set(table["split"]) == {"test"}


def test_ids_of_files_are_refused(trained_run):
    with pytest.raises(InputError, match="ids goes with a store"):
        ecgfit.predict(trained_run, ["a.xml"], ids=True)


def test_reports_name_patients_only_when_asked(trained_run, tiny_store, lines, tmp_path):
    patients = {row["patient_id"] for row in lines}
    for name, write in {
        "store": lambda out, ids: ecgprep.report(tiny_store, out, ecgs=3, ids=ids),
        "run": lambda out, ids: ecgfit.report(trained_run, out, store=tiny_store, ids=ids),
    }.items():
        plain = write(tmp_path / f"{name}.html", False).read_text()
        named = write(tmp_path / f"{name}.ids.html", True).read_text()
        assert not any(f"patient {patient}, " in plain for patient in patients)
        assert any(f"patient {patient}, xml/" in named for patient in patients)
    with pytest.raises(InputError, match="ids goes with store"):
        ecgfit.report(trained_run, tmp_path / "x.html", ids=True)


def test_a_store_without_record_is_predicted_without_ids(trained_run, copied):
    lose(private_path(copied.path, "build.json"))
    assert len(predict_store(trained_run, copied, "test", say=silent))
    with pytest.raises(InputError, match="Put it back"):
        predict_store(trained_run, copied, "test", ids=True, say=silent)
