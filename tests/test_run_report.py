"""The report of a run: its numbers are the run's, small counts stay hidden, files cannot inject, a browser shows it without error or request."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import build, changed_store
from test_report import CHROMIUM, Links

from ecgfit.config import make_config
from ecgfit.data.rows import select_rows
from ecgfit.evaluation.evaluate import evaluate_run
from ecgfit.evaluation.split_metrics import evaluate_predictions
from ecgfit.inference.predictions import Predictions
from ecgfit.metrics.curves import probability_histogram
from ecgfit.metrics.definitions import METRICS
from ecgfit.metrics.paired import paired_difference
from ecgfit.reports.evaluation import Evaluation, between, interval_or_reason, number
from ecgfit.reports.figures import ForestRow, forest, histograms
from ecgfit.reports.html import (
    _confusion,
    _summary,
    report_content,
    worst_mistakes,
    write_run_report,
)
from ecgfit.reports.table_one import table_one
from ecgfit.run import Run
from ecgfit.tables import interval_text
from ecgfit.training.runner import train
from ecgprep.building.plan import BuildSettings
from ecgprep.errors import InputError, StoreError
from ecgprep.patients.registry import SplitPlan
from ecgprep.reports.disclosure import Counts
from ecgprep.store.reader import Store

HOSTILE = '<img src=x onerror=alert(1)>$x_{1}$"&'
SECTIONS = (
    "summary",
    "results",
    "figures",
    "confusion",
    "calibration",
    "subgroups",
    "leads",
    "training",
    "table1",
    "mistakes",
    "tripod",
    "card",
    "settings",
)


def silent(line: str) -> None:
    del line


@pytest.fixture(scope="module")
def own_store(corpus, tmp_path_factory) -> Store:
    """A store with a larger test split than is usual, so that not every group is too small to be shown."""
    target = tmp_path_factory.mktemp("own") / "s.zarr"
    return build(
        corpus / "manifest.csv",
        target,
        BuildSettings(plan=SplitPlan(ratios=(40, 20, 40))),
        covariates=("age", "sex"),
    )


@pytest.fixture(scope="module")
def run(own_store, tmp_path_factory) -> Run:
    """An ensemble of two tiny models, evaluated on test; read-only for tests."""
    settings = {
        "epochs": 2,
        "batch": 16,
        "threads": 2,
        "seeds": (0, 1),
        "model_args": "width=2,depth=1",
        "tabular": ("age",),
    }
    trained = train(
        make_config(settings, "test"), own_store, tmp_path_factory.mktemp("run") / "r", say=silent
    )
    evaluate_run(trained, own_store, "test")
    add_lead_removal(trained)
    return trained


def add_lead_removal(run: Run) -> None:
    """Put what `--each-lead` computes into the metrics, from few replicates: the true thing takes long and is tested with the evaluation."""
    patients = Predictions.load(run.path / "predictions_test.csv").by_patient()
    probability = run.calibration.apply(patients.logit_difference())
    removal = {
        lead: paired_difference(patients.label, probability, probability**2, 0.5, 0.5, 0, 20)[
            "metrics"
        ]
        for lead in ("I", "V6")
    }
    metrics = run.read_json("metrics_test.json") | {"lead_removal": removal}
    (run.path / "metrics_test.json").write_text(json.dumps(metrics))


@pytest.fixture(scope="module")
def page(run, own_store, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page") / "r.html"
    write_run_report(run, out, own_store)
    return out


@pytest.fixture
def copied(run, tmp_path) -> Run:
    return Run(Path(shutil.copytree(run.path, tmp_path / "r")))


def test_every_section_is_there(page):
    text = page.read_text()
    assert not [name for name in SECTIONS if f'id="{name}"' not in text]
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
    ):
        assert f"<b>{figure}.</b>" in text
    assert [text.count(f"Training, member {k}.") for k in (0, 1)] == [
        2,
        2,
    ]  # the caption, and the text for those who cannot see it


def test_numbers_are_those_of_the_metrics(run, page):
    metrics = json.loads((run.path / "metrics_test.json").read_bytes())
    content = report_content(run)
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
    exact = report_content(run, exact=True)["main"]["confusion"]
    shown = [int(row[key]) for row in exact for key in ("called_positive", "called_negative")]
    assert shown == [metrics["confusion"][key] for key in ("tp", "fn", "fp", "tn")]


def test_page_is_whole_and_refers_to_nothing(page):
    parser, text = Links(), page.read_text()
    parser.feed(
        re.sub(r"<(\w+)([^<>]*)/>", r"<\1\2></\1>", text)
    )  # SVG's empty elements, which the class does not know
    assert parser.open == []
    assert parser.scripts == 0
    assert not [link for link in parser.links if link != "data:," and not link.startswith("#")]
    assert "http" not in text.replace("http-equiv", "")
    assert not re.search(r"<[^>]+\ssrc=|url\((?!#)|@import", text.replace("img-src", ""))
    assert page.stat().st_mode & 0o077 == 0
    assert str(page.parent.parent) not in text  # no path of this machine


def test_names_from_files_are_escaped(copied, tmp_path):
    """The builder refuses such names, but a run may come from elsewhere."""
    metrics = copied.read_json("metrics_test.json")
    metrics["subgroups"] = {HOSTILE: dict.fromkeys([HOSTILE], metrics["subgroups"]["sex"]["1"])}
    (copied.path / "metrics_test.json").write_text(json.dumps(metrics))
    copied.recorded["store"]["name"] = copied.recorded["device"] = HOSTILE
    write_run_report(copied, tmp_path / "h.html")
    text = (tmp_path / "h.html").read_text()
    assert HOSTILE not in text
    assert "<img" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;$x_{1}$") >= 4
    assert "&lt;b&gt;$_{" in forest([ForestRow("<b>$_{", "1", 0.5, (0.4, 0.6))], None, "x")


def test_no_small_count_is_shown(run, own_store):
    """Of test patients fewer than 10 are positive in some groups; neither they nor what would give them away is shown."""
    content = report_content(run, own_store)
    table = [cell for row in content["table1"]["rows"] for cell in row["cells"]]
    assert not [cell for cell in table if re.match(r"[1-9]( \(|$)", cell)]
    confusion = [
        row[key]
        for row in content["main"]["confusion"]
        for key in ("called_positive", "called_negative", "total")
    ]
    assert not [cell for cell in confusion if re.fullmatch(r"[1-9]", cell)]
    for row in content["main"]["subgroups"]["rows"]:
        assert not re.fullmatch(r"[1-9]", row["n"])
        assert bool(row["cells"]) == (row["why"] == "")
    assert content["main"]["subgroups"]["n_withheld"] > 0
    assert "not shown: small numbers" in content["main"]["subgroups"]["svg"]


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        ((5, 40, 2, 30), ["<10", "<10", "<10", "–", "–", "–"]),
        ((50, 4, 30, 3), ["–", "–", "–", "<10", "<10", "<10"]),
    ],
)
def test_a_small_class_is_not_the_rest_of_what_is_shown(run, cells, shown):
    """The number of patients is shown, so that of the other class must not be: neither as a total, nor as a sum, nor in a sentence."""
    confusion = dict(zip(("tp", "fp", "fn", "tn"), cells, strict=True))
    rows = _confusion({"confusion": confusion}, Counts(exact=False))
    assert [
        row[key] for row in rows for key in ("called_positive", "called_negative", "total")
    ] == shown
    main = Evaluation.load(run, "test")
    main.metrics.update(n_patients=sum(cells), n_positive=cells[0] + cells[2])
    text = _summary(run, main, Counts(exact=False))
    assert f"({sum(cells)} patients, {shown[2]} of them positive)" in text


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ({"a": 3, "b": 97}, ["<10", "–"]),
        ({"a": 3, "b": 40, "c": 57}, ["<10", "–", "57"]),
        ({"a": 3, "b": 4, "c": 57}, ["<10", "<10", "57"]),
        ({"a": 0, "b": 1234}, ["0", "1,234"]),
        ({"a": 9, "b": 9, "c": 57}, ["<10", "<10", "–"]),
        ({"a": 3, "b": 10}, ["–", "–"]),
    ],
)
def test_what_would_give_a_small_count_away_is_withheld(counts, shown):
    assert list(Counts(exact=False).parts(counts).values()) == shown
    assert list(Counts(exact=True).parts(counts).values()) == [f"{n:,}" for n in counts.values()]


def test_table_one_is_that_of_the_store(run, own_store):
    rows = {
        row["label"]: row["cells"] for row in table_one(own_store, run, Counts(exact=True))["rows"]
    }
    split, patient, label = (
        np.array(own_store.array(name)) for name in ("split", "patient", "label")
    )
    whole = np.array(own_store.array("lead_mask")).all(axis=1)  # the run leaves the others out
    used = [(split == k) & (patient >= 0) & (label >= 0) & whole for k in range(3)]
    assert rows["Patients"] == [f"{len(set(patient[own])):,}" for own in used]
    assert rows["Recordings"] == [f"{own.sum():,}" for own in used]
    assert [cell.split(" ")[0] for cell in rows["Positive recordings, n (%)"]] == [
        str((label[own] == 1).sum()) for own in used
    ]
    first = [np.unique(np.where(own, patient, -1), return_index=True)[1][1:] for own in used]
    age = [np.array(own_store.array("covariates"))[own, 0] for own in first]
    assert [cell.split(" ")[0] for cell in rows["age, median [quartiles]"]] == [
        f"{np.nanmedian(own):g}" for own in age
    ]


def test_worst_mistakes_are_the_most_confident_ones_of_different_patients(run):
    found = worst_mistakes(run, Evaluation.load(run, "test"), n=1000)
    threshold = run.threshold
    positives = [one["probability"] for one in found if one["kind"] == "false positive"]
    negatives = [one["probability"] for one in found if one["kind"] == "false negative"]
    assert positives == sorted(positives, reverse=True)
    assert negatives == sorted(negatives)
    assert all(p >= threshold for p in positives)
    assert all(p < threshold for p in negatives)
    cells = run.read_json("metrics_test.json")["confusion"]
    assert (len(positives), len(negatives)) == (cells["fp"], cells["fn"])
    patient = dict(
        zip(
            *(
                Predictions.load(run.path / "predictions_test.csv").__dict__[key].tolist()
                for key in ("rows", "patient")
            ),
            strict=True,
        )
    )
    assert len({patient[one["row"]] for one in found}) == len(found)


def test_the_checklist_says_what_was_done(run):
    items = {item.number: item for item in report_content(run)["checklist"]}
    assert "class weights auto" in items["13"].text
    assert "Platt scaling fitted on the validation predictions" in items["13"].text
    assert "Youden" in items["15"].text
    assert items["17"].text == "To be written by the authors."
    assert {number for number, item in items.items() if item.status == "answered"} == {
        "7",
        "12b",
        "12e",
        "12g",
        "13",
        "22",
        "27a",
    }  # 23a: no two groups are large enough


def trained_with(own_store, target: Path, **settings: object) -> Run:
    config = make_config(
        {"epochs": 1, "batch": 16, "threads": 2, "model_args": "width=0.25"} | settings, "test"
    )
    trained = train(config, own_store, target, say=silent)
    if not config.folds:
        evaluate_run(trained, own_store, "test")
    return trained


def test_what_was_not_done_is_not_claimed(own_store, tmp_path):
    plain = trained_with(
        own_store,
        tmp_path / "plain",
        calibration="none",
        threshold="fixed=0.3",
        tabular=("age",),
        tabular_only=True,
    )
    write_run_report(plain, tmp_path / "plain.html", own_store)
    page = (tmp_path / "plain.html").read_text()
    for claim in (
        "A calibrated probability",
        "Calibration before",
        "After calibration",
        "augmentation:",
        "was standardised",
        "Leads standardised",
    ):
        assert claim not in page, claim
    assert "(the threshold 0.3, fixed in advance), sensitivity" in page
    assert "fixed in advance, chosen" not in page
    items = {item.number: item.text for item in report_content(plain)["checklist"]}
    assert items["7"] == "The model sees covariates alone."
    assert items["11"].startswith(
        "The model does not see the ECG. Recordings that lack leads were left out"
    )
    assert "lead" not in items["27a"].replace("Recordings that lack leads were left out", "")
    assert items["12b"] == "Covariates by train median and scale."
    with pytest.raises(InputError, match="no lead to take away"):
        evaluate_run(plain, own_store, "test", each_lead=True)
    assert "before and after" not in items["24"]
    assert not any("decided epoch," in line for line in report_content(plain)["warnings"])
    assert "multiply-adds" not in items["12c"]


def test_what_folds_are_judged_by_is_said(own_store, tmp_path):
    content = report_content(trained_with(own_store, tmp_path / "f", folds=3), split="oof")
    assert "each fold's own threshold" in content["main"]["figures"][0]["caption"]
    items = {item.number: item.text for item in content["checklist"]}
    assert "each judged by a model that did not see them" in items["16"]
    assert "of the first fold" in items["13"]
    few = [line for line in content["warnings"] if "decided" in line]
    assert few == [
        line
        for line in few
        if "folds that selected, of one at least, which decided epoch, calibration, threshold"
        in line
    ]
    assert len(few) == 1
    evaluate_run(Run(tmp_path / "f"), own_store, "test")
    (on_folds,) = (
        line for line in report_content(Run(tmp_path / "f"))["warnings"] if "decided epoch" in line
    )
    assert "folds that selected, of one at least, which decided epoch: with" in on_folds
    one = report_content(trained_with(own_store, tmp_path / "one", folds=3, fold=0), split="oof")
    assert (
        "scored (not for development)"
        in {item.number: item.text for item in one["checklist"]}["10"]
    )


def test_an_interval_without_width_is_not_shown_as_one(run):
    """Recordings judged one by one have no score interval: what no resample changes is said, not printed as an interval."""
    entry = {
        "value": 1.0,
        "ci95": [1.0, 1.0],
        "n_undefined_replicates": 0,
        "reason": "no true interval: every resample gives the same",
    }
    assert between(entry) == ""
    assert interval_or_reason(entry) == interval_text(entry) == entry["reason"]
    assert interval_text({"ci95": [-0.01, 0.02]}, "+") == "-0.010 to +0.020"
    items = {item.number: item.text for item in report_content(run)["checklist"]}
    assert "and score intervals where no resample differs" in items["12e"]
    shown = [
        forest([ForestRow("all", "", 0.5, interval)], 0.5, "AUROC")
        for interval in ((0.5, 0.5), (0.4, 0.6))
    ]
    assert ["0.500 (" in svg for svg in shown] == [False, True]


def test_score_intervals_are_not_claimed_of_recordings(own_store, tmp_path):
    one_by_one = report_content(trained_with(own_store, tmp_path / "r", aggregate="none"))
    text = next(item.text for item in one_by_one["checklist"] if item.number == "12e")
    assert "bootstrap over patients. The unit is the recording" in text


def test_calibration_that_was_fitted_otherwise_is_said(copied):
    calibration = copied.read_json("calibration.json") | {
        "note": "slope 1 is kept, only the intercept is fitted"
    }
    (copied.path / "calibration.json").write_text(json.dumps(calibration))
    assert (
        "only the intercept is fitted"
        in {item.number: item.text for item in report_content(copied)["checklist"]}["13"]
    )


def test_a_store_of_one_class_has_a_report(copied, own_store, tmp_path):
    one_class = changed_store(
        own_store, tmp_path / "s.zarr", label=np.zeros(len(own_store.array("label")), np.int8)
    )
    rows = select_rows(one_class, "test", "drop")
    predictions = Predictions.load(copied.path / "predictions_test.csv")
    assert predictions.rows.tolist() == rows.tolist()
    predictions = replace(predictions, label=np.zeros(len(rows), np.int64))
    predictions.save(copied.path / "predictions_test.csv", copied.calibration)
    metrics = evaluate_predictions(
        predictions, "test", one_class, copied.calibration, copied.threshold, "mean", 0
    )
    (copied.path / "metrics_test.json").write_text(json.dumps(metrics))
    write_run_report(copied, tmp_path / "o.html")
    page = (tmp_path / "o.html").read_text()
    assert "All patients are of one class: there is no ROC curve" in page
    assert "<b>ROC curve.</b>" not in page
    assert "<b>Probabilities of each class.</b>" in page
    assert "the AUROC is undefined" in page


def test_recordings_left_out_do_not_follow_from_the_recordings_used(own_store, copied, tmp_path):
    """How few lack a lead must not be the difference of two numbers of the report: it has no total."""
    mask = np.array(own_store.array("lead_mask"))
    trained = np.flatnonzero(own_store.array("split") == 0)
    mask[trained[:3], 0] = False
    lacking = changed_store(own_store, tmp_path / "s.zarr", lead_mask=mask)
    used = f"{len(trained) - 3:,}"
    config = copied.path / "config.yaml"
    config.write_text(config.read_text().replace(f"train: {len(trained)}\n", f"train: {used}\n"))
    content = report_content(Run(copied.path), store=lacking)
    rows = {row["label"]: row["cells"] for row in content["table1"]["rows"]}
    assert rows["Recordings"][0] == used
    assert rows["Left out: recordings that lack a lead"] == ["<10", "0", "<10"]
    assert "all eight" not in rows
    assert f"used: {used} train" in next(
        item.text for item in content["checklist"] if item.number == "10"
    )
    texts = (
        [cell for cells in rows.values() for cell in cells]
        + [item.text for item in content["checklist"]]
        + [text for _, text in content["card"]]
    )
    assert not any(re.search(rf"\b{len(trained)}\b", text) for text in texts)
    exact = {
        row["label"]: row["cells"]
        for row in table_one(lacking, Run(copied.path), Counts(exact=True))["rows"]
    }
    assert exact["Left out: recordings that lack a lead"] == ["3", "0", "1"]


def test_what_chose_on_few_patients_and_what_was_left_out_is_said(copied):
    chosen = copied.read_json("threshold.json")
    assert chosen["n_patients"] == copied.read_json("metrics_val.json")["n_patients"]
    metrics = copied.read_json("metrics_test.json")
    nothing = {
        "reason": "a lead is missing",
        "n_records": 0,
        "n_positive_records": 0,
        "n_patients": 0,
        "n_positive": 0,
    }
    (copied.path / "metrics_test.json").write_text(json.dumps(metrics | {"excluded": nothing}))
    assert "Left out" not in report_content(copied)["summary"]
    out = nothing | {"n_records": 34, "n_positive_records": 5, "n_patients": 3, "n_positive": 1}
    (copied.path / "metrics_test.json").write_text(json.dumps(metrics | {"excluded": out}))
    for n_positive in (19, 20):
        (copied.path / "threshold.json").write_text(
            json.dumps(chosen | {"n_patients": 100, "n_positive": n_positive})
        )
        content = report_content(Run(copied.path))
        assert any(
            "validation data, which decided epoch, calibration, threshold: with others" in line
            for line in content["warnings"]
        ) == (n_positive < 20)
    assert (
        "Left out were 34 recordings (a lead is missing); <10 patients have no other recording"
        in content["summary"]
    )
    low, high = chosen["ci95"]
    assert (
        f"(95 % interval of the choice {low:.4f} to {high:.4f})"
        in dict(content["card"])["Threshold"]
    )


def test_rows_that_trained_are_shown_only_where_asked_for(copied, own_store):
    evaluate_run(copied, own_store, "train")
    content = report_content(copied)
    assert content["metrics"]["columns"] == ["validation", "test"]
    assert content["better_than_elsewhere"] == ["validation"]
    assert report_content(copied, split="train")["better_than_elsewhere"] == ["validation", "train"]


def test_groups_that_were_not_compared_are_not_claimed(copied):
    metrics = copied.read_json("metrics_test.json")
    shown = {
        "n": 30,
        "n_positive": 15,
        "n_negative": 15,
        "suppressed": None,
        "metrics": metrics["metrics"],
    }
    withheld = {
        "n": 12,
        "n_positive": None,
        "n_negative": None,
        "suppressed": "few",
        "metrics": None,
    }
    for sex, status in (
        ({"0": shown, "1": shown}, "partly"),
        ({"0": withheld, "1": shown}, "authors"),
        ({}, "authors"),
    ):
        metrics["subgroups"] = {"sex": sex, "source_rate": {"500 Hz": shown}}
        (copied.path / "metrics_test.json").write_text(json.dumps(metrics))
        items = {item.number: item for item in report_content(copied)["checklist"]}
        assert (items["14"].status, items["12d"].status) == (status, status)
        assert ("sex" in items["14"].text) == (status == "partly")
        assert items["23a"].status == ("answered" if status == "partly" else "partly")


def test_damaged_curves_cost_their_figure_only(copied):
    (copied.path / "members/1/curves.csv").write_text("epoch\n")
    first, second = report_content(copied)["training"]
    assert first["svg"]
    assert (second["svg"], second["caption"]) == (
        "",
        "curves.csv is missing or damaged: there is nothing to draw.",
    )


def test_a_model_card_of_folds_describes_all_of_them(own_store, tmp_path):
    run = trained_with(own_store, tmp_path / "f", folds=3)
    for k, (rate, leads, samples) in enumerate(
        ((250.0, 8, 4000), (500.0, 6, 5000), (1000.0, 8, 3000))
    ):
        seen = replace(
            run.members[k].stats.seen,
            rates_hz=(rate,),
            fewest_leads=leads,
            shortest_samples=samples,
        )
        run.members[k].stats = replace(run.members[k].stats, seen=seen)
    card = dict(report_content(run, split="oof")["card"])
    assert (
        "source rates 250, 500, 1000 Hz; at least 6 leads; at least 6 s of signal"
        in card["Training data"]
    )


def test_without_an_evaluation_it_says_what_to_do(copied):
    (copied.path / "metrics_test.json").unlink()
    with pytest.raises(
        InputError,
        match=r"no metrics_test\.json \(evaluated so far: val\)\. Run `ecgfit eval --store STORE",
    ):
        report_content(copied)
    content = report_content(copied, split="val")
    assert any("were chosen on these patients" in line for line in content["warnings"])


def test_metrics_and_predictions_of_different_evaluations_are_refused(copied):
    lines = (copied.path / "predictions_test.csv").read_text().splitlines()
    (copied.path / "predictions_test.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match="not of one evaluation"):
        report_content(copied)


def test_another_store_is_refused(run, store):
    with pytest.raises(StoreError, match="another store"):
        report_content(run, store)


def test_an_external_test_has_its_section(copied, store, tmp_path):
    evaluate_run(copied, store, "all", external=True)
    write_run_report(copied, tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert f'id="external1">External {store.content_sha256[:12]}<' in text
    assert 'id="external1-figures"' in text
    assert 'id="table1"' not in text
    assert "No external test" not in text
    assert "whether these recordings trained the run was not looked at" in text
    assert (
        text.count("1 external store (not searched for recordings that trained the run)") == 3
    )  # item 16, and two of the model card
    alone = report_content(copied, split=f"external_{store.content_sha256[:12]}")
    assert alone["externals"] == []
    assert (
        "and 1 external store" not in {item.number: item.text for item in alone["checklist"]}["16"]
    )


def test_another_aggregation_is_shown_as_what_it_is(copied, own_store, store, tmp_path):
    evaluate_run(copied, own_store, "test", aggregate="none")
    content = report_content(copied, split="test_none")
    assert content["metrics"]["columns"][-1] == "test, recordings one by one"
    assert any(
        "chosen with aggregate=mean, and are used with none as they are" in line
        for line in content["warnings"]
    )
    assert "The unit is the recording" in next(
        item.text for item in content["checklist"] if item.number == "12e"
    )
    assert [
        column for column in report_content(copied)["metrics"]["columns"] if "one by one" in column
    ] == []


def test_an_external_store_is_one_whatever_the_aggregation(copied, store, tmp_path):
    for how in (None, "none", "max"):
        evaluate_run(copied, store, "all", external=True, aggregate=how)
    assert len(report_content(copied)["externals"]) == 1


def test_a_figure_is_the_same_bytes_again():
    label, probability = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.4, 0.6])
    drawn = [histograms(probability_histogram(label, probability), 0.5) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith("<svg viewBox=")
    assert not re.search(r"xmlns|metadata|<!--|<style|xlink", drawn[0])


def test_command(copied, own_store, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ecgfit.cli",
            "report",
            str(copied.path),
            "-o",
            str(tmp_path / "o.html"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'o.html'}: one file, opens offline.")
    assert "treat" not in done.stdout
    hidden = "import sys; sys.modules['matplotlib'] = None; import ecgfit.cli; ecgfit.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", hidden, "report", str(copied.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'ecgprep-ecgfit[report]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.full
def test_chromium_renders_it_without_error_or_request(page, tmp_path):
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ]
    command += [
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
    ]
    shot, log = tmp_path / "shot.png", tmp_path / "net.json"
    done = subprocess.run(
        [
            *command,
            f"--log-net-log={log}",
            "--window-size=1120,6000",
            f"--screenshot={shot}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    assert shot.stat().st_size > 100_000
    asked = set(re.findall(r'"url":"([^"]+)"', log.read_text()))
    assert not [
        url
        for url in asked
        if str(page.name) not in url
        and not re.match(r"(data|chrome|about|https?://[\w.-]*(google|gvt1)\b)", url)
    ]
    dom = subprocess.run(
        [*command, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    ).stdout
    assert dom.count("<figure") == page.read_text().count("<figure")
    assert "<img" not in dom
