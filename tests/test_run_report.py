"""The report of a run: its numbers are the run's, small counts stay hidden, files cannot inject."""

from __future__ import annotations

import json
import re
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import build, changed_store, copy_run
from pages import CHROMIUM, assert_chromium_renders, assert_whole_and_refers_to_nothing

from ecgfit.cli import cli
from ecgfit.evaluation.evaluate import evaluate_run
from ecgfit.inference.predictions import Predictions
from ecgfit.metrics.definitions import METRICS
from ecgfit.metrics.paired import paired_difference
from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.html import (
    other_externals,
    report_content,
    setting_in_words,
    shown_splits,
    write_run_report,
)
from ecgfit.reports.sections import confusion_table, evaluation_sections
from ecgfit.reports.training_curves import training_figures
from ecgfit.reports.wording import between, number
from ecgfit.run import RunFolder
from ecgprep.building.plan import BuildSettings
from ecgprep.conform import Conformity
from ecgprep.errors import StoreError
from ecgprep.patients.registry import SplitPlan
from ecgprep.reports.disclosure import CountFormatter
from ecgprep.store.reader import Store

HOSTILE = '<img src=x onerror=alert(1)>$x_{1}$"&'
SECTIONS = (
    "summary results figures confusion calibration subgroups leads training table1 mistakes tripod "
    "card settings"
)
EXACT, HIDING = CountFormatter(exact=True), CountFormatter(exact=False)


def add_lead_removal(run: RunFolder) -> None:
    """Put what `--each-lead` computes into the metrics, from few replicates and two leads."""
    patients = Predictions.load(run.path / "predictions_test.csv").by_patient()
    probability = EvaluatedSplit.load(run, "test").probability
    compared = paired_difference(patients.label, probability, probability**2, 0.5, 0.5, 0, 20)
    removal = dict.fromkeys(("I", "V6"), compared["metrics"])
    change_metrics(run, lead_removal=removal)


def change_metrics(run: RunFolder, **changes: object) -> None:
    """Write other metrics of the test split into a run."""
    metrics = run.read_json("metrics_test.json") | changes
    (run.path / "metrics_test.json").write_text(json.dumps(metrics))


@pytest.fixture(scope="module")
def run(ensemble_run, tmp_path_factory) -> RunFolder:
    """The ensemble with lead removal; read-only for tests."""
    copy = copy_run(ensemble_run, tmp_path_factory.mktemp("report") / "r")
    add_lead_removal(copy)
    return copy


@pytest.fixture(scope="module")
def other_store(corpus, tmp_path_factory) -> Store:
    """A store that the run can take, but did not train on."""
    target = tmp_path_factory.mktemp("other") / "other.zarr"
    settings = BuildSettings(
        Conformity(100, 200), duplicates="exact", plan=SplitPlan(ratios=(40, 20, 40))
    )
    return build(corpus / "manifest.csv", target, settings, covariates=("age", "sex"))


@pytest.fixture
def copied(run, tmp_path) -> RunFolder:
    return copy_run(run, tmp_path / "r")


@pytest.fixture(scope="module")
def content(run, tiny_store) -> dict:
    return report_content(run, tiny_store)


@pytest.fixture(scope="module")
def page(run, tiny_store, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page") / "r.html"
    write_run_report(run, out, tiny_store)
    return out


def test_every_section_is_there(page):
    text = page.read_text()
    assert not [name for name in SECTIONS.split() if f'id="{name}"' not in text]
    targets = re.findall(r'<a href="#([\w-]+)"', text)
    assert targets
    assert not [name for name in targets if f'id="{name}"' not in text]
    for figure in (
        "ROC curve",
        "Precision and recall",
        "Calibration before",
        "Calibration after",
        "Decision curve",
        "Probabilities of each class",
        "Training, member 0",
        "Training, member 1",
    ):
        assert f"<b>{figure}.</b>" in text
        assert f'aria-label="{figure}. ' in text


def test_numbers_are_those_of_the_metrics(run, content, page):
    metrics = run.read_json("metrics_test.json")
    assert content["metrics"]["columns"] == ["validation", "test"]
    rows = {row["label"]: row for row in content["metrics"]["rows"]}
    assert len(rows) == len(METRICS) + 3  # DeLong and the two of the baseline
    text = page.read_text()
    for name in METRICS:
        entry = metrics["metrics"][name]
        assert f"<td>{number(entry['value'])} <span" in text
        assert between(entry) in text
    for name in ("auroc", "auprc", "sensitivity", "specificity", "npv"):
        assert number(metrics["metrics"][name]["value"]) in content["summary"]
    assert f"{metrics['threshold']:.4f}" in content["summary"]
    assert number(metrics["delong"]["auroc"]) == rows["AUROC, DeLong"]["cells"][1]["value"]


def test_exact_counts_are_those_of_the_confusion(run):
    confusion = run.read_json("metrics_test.json")["confusion"]
    rows = confusion_table(confusion, EXACT)
    shown = [int(row[key]) for row in rows for key in ("called_positive", "called_negative")]
    assert shown == [confusion[key] for key in ("tp", "fn", "fp", "tn")]
    assert report_content(run, exact=True)["main"]["confusion"] == rows


def test_page_is_whole_private_and_refers_to_nothing(page):
    text = page.read_text()
    assert_whole_and_refers_to_nothing(re.sub(r"<(\w+)([^<>]*)/>", r"<\1\2></\1>", text))
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert str(page.parent.parent) not in text  # no path of this machine


def test_names_from_files_are_escaped_once(copied, tmp_path):
    """The builder refuses such names, but a run may come from elsewhere."""
    group = copied.read_json("metrics_test.json")["subgroups"]["sex"]["1"]
    change_metrics(copied, subgroups={HOSTILE: {HOSTILE: group}})
    copied.recorded["store"]["name"] = copied.recorded["device"] = HOSTILE
    write_run_report(copied, tmp_path / "h.html")
    text = (tmp_path / "h.html").read_text()
    assert HOSTILE not in text
    assert "<img" not in text
    assert "&amp;lt;" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;$x_{1}$") >= 4


def test_no_small_count_is_shown(content):
    table = [cell for row in content["table1"]["rows"] for cell in row["cells"]]
    assert not [cell for cell in table if re.match(r"[1-9]( \(|$)", cell)]
    assert "<10" in table
    for row in content["main"]["confusion"]:
        for key in ("called_positive", "called_negative", "total"):
            assert not re.fullmatch(r"[1-9]", row[key])
    subgroups = content["main"]["subgroups"]
    for row in subgroups["rows"]:
        assert not re.fullmatch(r"[1-9]", row["n"])
        assert bool(row["cells"]) == (row["why"] == "")
    assert subgroups["n_withheld"] > 0
    assert "not shown: small numbers" in subgroups["svg"]


def test_groups_that_are_large_enough_have_their_metrics_in_plot_and_table(copied):
    metrics = copied.read_json("metrics_test.json")["metrics"]
    shown = {"n": 1030, "n_positive": 15, "n_negative": 1015, "suppressed": None}
    withheld = dict.fromkeys(("n", "n_positive", "n_negative")) | {"suppressed": "few"}
    groups = {"0": shown | {"metrics": metrics}, "1": withheld | {"metrics": None}}
    change_metrics(copied, subgroups={"source_rate": groups})
    sections = evaluation_sections(EvaluatedSplit.load(copied, "test"), HIDING)["subgroups"]
    first, second = sections["rows"]
    assert (first["grouping"], first["n"], first["positive"]) == ("source rate", "1,030", "15")
    assert first["cells"][0]["value"] == number(metrics["auroc"]["value"])
    assert (second["n"], second["cells"], second["why"]) == ("–", [], "few")
    assert sections["n_withheld"] == 1
    assert "1,030 (15)" in sections["svg"]


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        ((5, 40, 2, 30), ["<10", "<10", "<10", "–", "–", "–"]),
        ((50, 4, 30, 3), ["–", "–", "–", "<10", "<10", "<10"]),
    ],
)
def test_a_small_class_is_not_the_rest_of_what_is_shown(run, cells, shown):
    """The number of patients is shown, so that of the other class must not follow from it."""
    confusion = dict(zip(("tp", "fp", "fn", "tn"), cells, strict=True))
    rows = confusion_table(confusion, HIDING)
    keys = ("called_positive", "called_negative", "total")
    assert [row[key] for row in rows for key in keys] == shown


def test_settings_are_written_as_a_person_would(content):
    words = [setting_in_words(value) for value in (True, None, {}, {"width": 2}, (), (1, 2), 0.5)]
    assert words == ["yes", "", "default", "width=2", "none", "1, 2", "0.5"]
    assert content["settings"]["seeds"] == "0, 1"


def test_a_store_of_one_class_has_a_report(copied, tiny_store, tmp_path):
    label = np.zeros(len(tiny_store), np.int8)
    one_class = changed_store(tiny_store, tmp_path / "s.zarr", label=label)
    evaluate_run(copied, one_class, "test")
    write_run_report(copied, tmp_path / "o.html")
    page = (tmp_path / "o.html").read_text()
    assert "All patients are of one class: there is no ROC curve" in page
    assert "<b>ROC curve.</b>" not in page
    assert "<b>Probabilities of each class.</b>" in page
    assert "the AUROC is undefined" in page


def test_rows_that_trained_are_shown_only_where_asked_for(copied, tiny_store):
    evaluate_run(copied, tiny_store, "train")
    on_test = shown_splits(copied, EvaluatedSplit.load(copied, "test"))
    assert [column.name for column in on_test] == ["val", "test"]
    content = report_content(copied, split="train")
    assert content["metrics"]["columns"] == ["validation", "test", "train"]
    assert content["better_than_elsewhere"] == ["validation", "train"]


def test_damaged_curves_cost_their_figure_only(copied):
    (copied.path / "members/1/curves.csv").write_text("epoch\n")
    first, second = training_figures(copied)
    assert first.svg
    assert second.svg == ""
    assert second.caption == "curves.csv is missing or damaged: there is nothing to draw."


def test_the_epoch_that_was_kept_is_named(run):
    captions = [figure.caption for figure in training_figures(run)]
    for caption, member in zip(captions, run.members, strict=True):
        lines = (member.path / "curves.csv").read_text().splitlines()
        names = lines[0].split(",")
        rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
        best = max(rows, key=lambda row: float(row["val_auprc"]))
        assert f"Epoch {best['epoch']} of {len(rows)} was kept" in caption


def test_another_store_is_refused(run, store):
    with pytest.raises(StoreError, match="another store"):
        report_content(run, store)


def test_an_external_test_has_its_section(copied, other_store, tmp_path):
    evaluate_run(copied, other_store, "all", external=True)
    write_run_report(copied, tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert f'id="external1">External {other_store.content_sha256[:12]}<' in text
    assert 'id="external1-figures"' in text
    assert 'id="table1"' not in text
    assert "No external test" not in text
    assert "nobody checked whether these recordings trained the run" in text
    # Once in item 16, and twice in the model card.
    unsearched = "1 external store (not searched for recordings that trained the run)"
    assert text.count(unsearched) == 3


def test_an_external_store_is_shown_once_whatever_the_aggregation(copied, other_store):
    for how in (None, "none"):
        evaluate_run(copied, other_store, "all", external=True, aggregate=how)
    main = EvaluatedSplit.load(copied, "test")
    name = f"external_{other_store.content_sha256[:12]}"
    assert [external.name for external in other_externals(copied, main)] == [name]
    assert other_externals(copied, EvaluatedSplit.load(copied, name)) == []


def test_another_aggregation_is_shown_as_what_it_is(copied, tiny_store):
    evaluate_run(copied, tiny_store, "test", aggregate="none")
    content = report_content(copied, split="test_none")
    assert content["metrics"]["columns"] == ["validation", "test", "test, recordings one by one"]
    assert content["main"]["unit"] == "recordings"
    chosen = "chosen with aggregate=mean, and are used with none as they are"
    assert any(chosen in line for line in content["warnings"])
    on_test = shown_splits(copied, EvaluatedSplit.load(copied, "test"))
    assert [column.name for column in on_test] == ["val", "test"]


def test_command_writes_the_page_and_says_what_it_holds(run, tiny_store, tmp_path):
    words = ["report", str(run.path), "-o", str(tmp_path / "o.html"), "--store"]
    done = CliRunner().invoke(cli, [*words, str(tiny_store.path)])
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'o.html'}: one file, opens offline." in done.stdout
    assert "It shows ECGs: treat it as health data." in done.stdout
    assert (tmp_path / "o.html").is_file()


def test_command_without_the_extra_says_what_to_install(run, tmp_path, monkeypatch, capsys):
    from ecgfit.cli import main

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["ecgfit", "report", str(run.path), "-o", "o.html"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert "pip install 'ecgprep-ecgfit[report]'" in message
    assert "Traceback" not in message
    assert not (tmp_path / "o.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.full
def test_chromium_renders_it_without_error_or_request(page, tmp_path):
    assert "<img" not in assert_chromium_renders(page, tmp_path, height=6000)
