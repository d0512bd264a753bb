"""The report of a finished run: one HTML file that opens offline. Needs jinja2 and matplotlib (extra `report`).

What a reader of the paper asks for (TRIPOD+AI; Van Calster 2025): discrimination, calibration, net benefit and the probabilities of each class,
with intervals and in subgroups, what was chosen on which data, and the mistakes themselves. Every number is that of the run's metrics_*.json;
curves are drawn from its predictions_*.csv. Counts from 1 to 9 are shown as "<10" unless asked for exactly, and with the store's ECGs in it the
file is health data.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.inference.predictions import UNCALIBRATED
from ecgfit.metrics.curves import pr_curve, probability_histogram, roc_curve
from ecgfit.metrics.definitions import METRICS
from ecgfit.reports import figures
from ecgfit.reports.checklist import (
    checklist,
    is_fixed,
    rule_in_words,
    split_name,
)
from ecgfit.reports.evaluation import (
    FEW,
    N_MISTAKES,
    Evaluation,
    _percent,
    _with_interval,
    between,
    called_at,
    excluded_in_words,
    interval_or_reason,
    number,
)
from ecgfit.reports.figures import ForestRow
from ecgfit.reports.model_card import _card, _facts, _plain
from ecgfit.reports.table_one import table_one
from ecgfit.run import Run
from ecgfit.run_files import CURVES, THRESHOLD
from ecgprep.files.atomic import PRIVATE
from ecgprep.files.output import write_output
from ecgprep.leads import LEADS
from ecgprep.reports.disclosure import HIDDEN, Counts
from ecgprep.store.reader import Store

MARK = b'<meta name="generator" content="ecgfit report">'
"""What every report holds."""


_COLUMNS = ("oof", "val", "test")
"""Evaluations that stand beside the one that is reported; those of rows that trained the model only where asked for."""


NAMES = {
    "auroc": ("AUROC", "1 is best, 0.5 chance"),
    "auprc": ("AUPRC", "1 is best, the prevalence chance"),
    "brier": ("Brier score", "0 is best"),
    "calibration_slope": ("Calibration slope", "1 is ideal; below: too extreme"),
    "calibration_intercept": ("Calibration intercept", "0 is ideal; below: too high"),
    "observed_expected": ("Observed / expected", "1 is ideal"),
    "ece": ("Expected calibration error", "0 is best"),
    "sensitivity": ("Sensitivity", "of the positive, called positive"),
    "specificity": ("Specificity", "of the negative, called negative"),
    "ppv": ("PPV", "of those called positive, positive"),
    "npv": ("NPV", "of those called negative, negative"),
    "net_benefit": ("Net benefit", "at the threshold as risk"),
    "ruled_out": ("Ruled out", "share called negative"),
    "accuracy": ("Accuracy", "share called right"),
    "f1": ("F1", "neglects true negatives"),
}
"""Name and reading of each metric; docs/metrics.md has the formulas."""


def write_run_report(
    run: Run, out: Path, store: Store | None = None, split: str = "test", exact: bool = False
) -> None:
    """Write the report of a run to `out`, readable by its owner only.

    Raises InputError where the split has not been evaluated, StoreError for another store than the run's, ImportError without the extra.
    """
    import jinja2
    import matplotlib as _  # noqa: F401 - said before the work, not amid it

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        (Path(__file__).parent / "report.html.jinja").read_text("utf-8")
    )
    write_output(out, template.render(report_content(run, store, split, exact)).encode(), PRIVATE)


def report_content(
    run: Run, store: Store | None = None, split: str = "test", exact: bool = False
) -> dict[str, Any]:
    """Collect everything the report shows; counts are text, so that the template cannot show a small one by mistake."""
    if store is not None:
        run.check_store(store)
    show = Counts(exact)
    main = Evaluation.load(run, split)
    others = sorted(
        path.stem.removeprefix("metrics_") for path in run.path.glob("metrics_external_*.json")
    )
    externals = [
        Evaluation.load(run, name) for name in others if name.count("_") == 1 and name != main.name
    ]  # once for each store
    names = [name for name in _COLUMNS if (run.path / f"metrics_{name}.json").is_file()]
    columns = [main if name == split else Evaluation.load(run, name) for name in names] + [main] * (
        split not in names
    )
    facts = _facts(run, main, show, store, externals)
    return {
        "name": run.path.resolve().name,
        "recorded": run.recorded,
        "hidden": not exact,
        "summary": _summary(run, main, show),
        "warnings": _warnings(run, main),
        "metrics": metric_table(columns),
        "better_than_elsewhere": [
            split_name(column.name) for column in columns if column.name in ("train", "val", "all")
        ],
        "folds": _folds(columns),
        "main": _sections(run, main, show),
        "externals": [
            _sections(run, external, show)
            | {"summary": _summary(run, external, show), "warnings": _warnings(run, external)}
            for external in externals
        ],
        "training": _training(run),
        "mistakes": [] if store is None else _mistakes(run, store, main),
        "table1": None if store is None else table_one(store, run, show),
        "checklist": checklist(facts),
        "card": _card(run, facts),
        "settings": {key: _plain(value) for key, value in run.shown_settings().items()},
        "has_store": store is not None,
    }


def _summary(run: Run, evaluation: Evaluation, show: Counts) -> str:
    """Say the main results in a paragraph."""
    m = evaluation.metrics
    n, positive = m["n_patients"], m["n_positive"]
    classes = show.parts({"positive": positive, "negative": n - positive})
    chance = (
        "the prevalence"
        if show.hides(positive) or show.hides(n - positive)
        else f"the prevalence, {m['prevalence']:.3f}"
    )
    on = (
        split_name(str(run.read_json(THRESHOLD).get("chosen_on", "val")))
        if m["threshold"] is not None
        else "validation"
    )
    chosen = "" if is_fixed(run.config.threshold) else f", chosen on the {on} data"
    unit, of_whom = "patients", f"{show(n)} patients, {classes['positive']} of them positive"
    if m["level"] == "recording":
        unit, of_whom = (
            "recordings",
            f"{show(m['n_items'])} recordings of {show(n)} patients, {classes['positive']} of whom have a positive one",
        )
    said = {name: _with_interval(m["metrics"][name]) for name in METRICS}
    text = (
        f"In the {split_name(evaluation.name)} data ({of_whom}), the AUROC is "
        f"{said['auroc']} and the AUPRC {said['auprc']}; a model that knows nothing would reach 0.5 and {chance}. At the threshold "
        f"{called_at(m)} ({rule_in_words(run.config.threshold)}{chosen}), sensitivity is {said['sensitivity']}, "
        f"specificity {said['specificity']} and the negative predictive value {said['npv']}; {_percent(evaluation.value('ruled_out'))} of the "
        f"{unit} are called negative. The calibration slope is {said['calibration_slope']} (ideal: 1) and the intercept "
        f"{said['calibration_intercept']} (ideal: 0)."
    )
    baseline = m.get("count_baseline", {}).get("auroc", {})
    if baseline.get("value") is not None:
        text += f" The mere number of a patient's recordings reaches an AUROC of {_with_interval(baseline)}."
    if left_out := excluded_in_words(m.get("excluded"), show):
        text += f" {left_out}"
    return text + " Intervals are 95 %, by bootstrap over patients."


def _warnings(run: Run, main: Evaluation) -> list[str]:
    m, found = main.metrics, []
    data = f"{split_name(main.name).capitalize()} data"
    if min(m["n_positive"], m["n_patients"] - m["n_positive"]) < FEW:
        found.append(
            f"Fewer than {FEW} patients of one class in the {split_name(main.name)} data: every number here is uncertain, and intervals are "
            "somewhat too short."
        )
    if m.get("external", {"shared_recordings": 0})["shared_recordings"] is None:
        found.append(
            f"{data}: whether these recordings trained the run was not looked at; `ecgfit eval --trained-on STORE` does."
        )
    if m["note"]:
        found.append(f"{data}: {m['note']}.")
    chosen = run.read_json(THRESHOLD)
    if chosen.get("note"):
        found.append(f"Threshold: {chosen['note']}")
    found += _chosen_on_few(run, main, chosen)
    if m["calibration"].get("note"):
        found.append(f"Calibration: {m['calibration']['note']}")
    if m.get("n_mixed_patients"):
        found.append(
            "Some patients have recordings of both labels; where patients are the unit they count as positive."
        )
    return found


def _chosen_on_few(run: Run, main: Evaluation, chosen: dict[str, Any]) -> list[str]:
    """Say what was decided by few patients of a class: by validation, or in cross-validation by each selecting fold and by all out of fold."""
    of_calibration = [] if run.calibration.method == "none" else ["calibration"]
    operating = [*of_calibration, *([] if is_fixed(run.config.threshold) else ["threshold"])]
    on = f"{split_name(str(chosen.get('chosen_on', 'val')))} data"
    if not run.config.folds or run.config.fold >= 0:
        by = {on: (["epoch", *operating], [chosen])}
    else:
        selecting = [member.read_json(THRESHOLD) for member in run.members]
        of_each = ["epoch", *(operating if main.metrics["threshold"] is None else [])]
        by = {
            "folds that selected, of one at least": (of_each, selecting),
            on: (operating if main.metrics["threshold"] is not None else [], [chosen]),
        }
    return [
        f"Fewer than {FEW} patients of one class in the {data}, which decided {', '.join(decided)}: with others that might have been quite different."
        for data, (decided, by_whom) in by.items()
        if decided
        and any(
            "n_positive" in own
            and min(own["n_positive"], own["n_patients"] - own["n_positive"]) < FEW
            for own in by_whom
        )
    ]


def metric_table(columns: Sequence[Evaluation]) -> dict[str, Any]:
    """Return every metric of every evaluated split, DeLong's interval and the baseline of counts."""
    rows = []
    for name in METRICS:
        cells = [column.metrics["metrics"][name] for column in columns]
        rows.append(
            _table_row(*NAMES[name], [(cell["value"], interval_or_reason(cell)) for cell in cells])
        )
        if name == "auroc":
            delong = [column.metrics["delong"] for column in columns]
            rows.append(
                _table_row(
                    "AUROC, DeLong",
                    "without resampling, as a check",
                    [(cell["auroc"], between(cell)) for cell in delong],
                )
            )
    for name in ("auroc", "auprc"):
        cells = [
            column.metrics.get("count_baseline", {}).get(name, {"value": None, "ci95": None})
            for column in columns
        ]
        rows.append(
            _table_row(
                f"Number of recordings alone, {NAMES[name][0]}",
                "a known shortcut",
                [(cell["value"], interval_or_reason(cell)) for cell in cells],
            )
        )
    return {"columns": [split_name(column.name) for column in columns], "rows": rows}


def _folds(columns: Sequence[Evaluation]) -> dict[str, Any] | None:
    """Return AUROC and AUPRC of each fold's model on the patients that it did not see, and their mean and deviation."""
    found = next((column.metrics["folds"] for column in columns if "folds" in column.metrics), None)
    if found is None:
        return None
    rows = [
        {"fold": name, **{key: number(own[key]) for key in ("auroc", "auprc", "threshold")}}
        for name, own in found["each"].items()
    ]
    return {
        "rows": rows,
        **{
            key: f"{number(found[key]['mean'])} (SD {number(found[key]['sd'])})"
            for key in ("auroc", "auprc")
        },
    }


def _table_row(
    label: str, reading: str, cells: Sequence[tuple[float | None, str]]
) -> dict[str, Any]:
    return {
        "label": label,
        "reading": reading,
        "cells": [{"value": number(value), "ci": ci} for value, ci in cells],
    }


def _sections(run: Run, evaluation: Evaluation, show: Counts) -> dict[str, Any]:
    """Return figures and tables of one evaluation."""
    m = evaluation.metrics
    probability = evaluation.probability(run)
    before = UNCALIBRATED.apply(evaluation.uncalibrated(run).logit_difference())
    return {
        "name": split_name(evaluation.name),
        "figures": _figures(evaluation, probability, before),
        "one_class": len(np.unique(evaluation.items.label)) == 1,
        "confusion": _confusion(m, show),
        "unit": "recordings" if m["level"] == "recording" else "patients",
        "before": _before_after(m) if evaluation.recalibrated else [],
        "threshold": called_at(m),
        "subgroups": _subgroups(evaluation),
        "leads": _leads(m.get("lead_removal")),
        "table": metric_table([evaluation]),
    }


def _figures(
    evaluation: Evaluation, probability: NDArray[np.float64], before: NDArray[np.float64]
) -> list[dict[str, str]]:
    m, label = evaluation.metrics, evaluation.items.label
    histogram = probability_histogram(label, probability)
    sensitivity, specificity, ppv = (
        evaluation.value(name) for name in ("sensitivity", "specificity", "ppv")
    )
    auroc, auprc = (_with_interval(m["metrics"][name]) for name in ("auroc", "auprc"))
    called = (
        "the threshold in use"
        if m["threshold"] is not None
        else "each fold's own threshold, for the patients of that fold"
    )
    before_it = []
    if evaluation.recalibrated:
        text = (
            "Before calibration: the share of positives among those given a probability. Below the diagonal, probabilities are too high. Under it, "
            "how the probabilities of each class lie."
        )
        before_it = [
            (
                "Calibration before",
                text,
                figures.calibration(
                    m["reliability_curve_before"], probability_histogram(label, before)
                ),
            )
        ]
    both_classes = [
        (
            "ROC curve",
            f"Area {auroc}. The dot is {called}.",
            figures.roc(roc_curve(label, probability), sensitivity, specificity),
        ),
        (
            "Precision and recall",
            f"Area {auprc} (average precision). The dashed line is the prevalence: what chance would reach.",
            figures.precision_recall(
                pr_curve(label, probability), m["prevalence"], sensitivity, ppv
            ),
        ),
    ]
    shown = [
        *(both_classes if len(np.unique(label)) == 2 else []),
        *before_it,
        (
            "Calibration after" if before_it else "Calibration",
            (
                "After calibration, which is what the model gives out."
                if before_it
                else "Of what the model gives out."
            )
            + " The smooth curve is local regression; dots are tenths of the data with "
            "95 % intervals.",
            figures.calibration(m["reliability_curve"], histogram),
        ),
        (
            "Decision curve",
            "Net benefit: true positives less false positives, weighed by the risk at which one would act. A useful model lies above both "
            "treating all and treating none.",
            figures.decision(m["decision_curve"], m["threshold"]),
        ),
        (
            "Probabilities of each class",
            "Probabilities of the positive (up) and the negative (down), each as shares of their class."
            + (
                " Right of the dashed line is called positive."
                if m["threshold"] is not None
                else ""
            ),
            figures.histograms(histogram, m["threshold"]),
        ),
    ]
    return [{"title": title, "caption": caption, "svg": svg} for title, caption, svg in shown]


def _confusion(m: dict[str, Any], show: Counts) -> list[dict[str, str]]:
    """Return both classes with their calls; the two cells of a class, and the two classes, hide one another, since their sums are known."""
    rows, c = [], m["confusion"]
    totals = show.parts({"positive": c["tp"] + c["fn"], "negative": c["fp"] + c["tn"]})
    for name, called, other in (("positive", "tp", "fn"), ("negative", "fp", "tn")):
        texts = (
            show.parts({key: c[key] for key in (called, other)})
            if totals[name] != HIDDEN
            else {called: HIDDEN, other: HIDDEN}
        )
        right = "tp" if name == "positive" else "tn"
        rows.append(
            {
                "name": name,
                "called_positive": texts[called],
                "called_negative": texts[other],
                "total": totals[name],
                "right": right,
            }
        )
    return rows


def _before_after(m: dict[str, Any]) -> list[dict[str, str]]:
    names = ("brier", "calibration_slope", "calibration_intercept", "observed_expected", "ece")
    return [
        {
            "label": NAMES[key][0],
            "before": number(m["before_calibration"].get(key)),
            "after": number(m["metrics"][key]["value"]),
        }
        for key in names
    ]


def _subgroups(evaluation: Evaluation) -> dict[str, Any]:
    """Return a forest plot and a table; groups that the metrics withhold stay withheld, whatever else is shown."""
    plot, table = [], []
    for grouping, groups in evaluation.metrics["subgroups"].items():
        title = grouping.replace("_", " ")
        plot.append(ForestRow(title, heading=True))
        for group, entry in groups.items():
            n, positive = _withheld(entry["n"]), _withheld(entry["n_positive"])
            row: dict[str, Any] = {
                "grouping": title,
                "group": group,
                "n": n,
                "positive": positive,
                "why": entry["suppressed"] or "",
                "cells": [],
            }
            metrics = entry["metrics"]
            if metrics is None:
                plot.append(ForestRow(group, f"{n} ({positive})", note="not shown: small numbers"))
            else:
                auroc = metrics["auroc"]
                counts, note = (
                    f"{n} ({positive})",
                    "" if auroc["value"] is not None else "undefined",
                )
                plot.append(
                    ForestRow(
                        group,
                        counts,
                        auroc["value"],
                        tuple(auroc["ci95"]) if auroc["ci95"] else None,
                        note,
                    )
                )
                row["cells"] = [
                    {"value": number(metrics[key]["value"]), "ci": interval_or_reason(metrics[key])}
                    for key in ("auroc", "sensitivity", "specificity", "npv")
                ]
            table.append(row)
    svg = (
        figures.forest(
            plot, evaluation.value("auroc"), "AUROC; the dashed line is that of all", (-0.02, 1.02)
        )
        if plot
        else ""
    )
    return {"svg": svg, "rows": table, "n_withheld": sum(bool(row["why"]) for row in table)}


def _withheld(value: int | str | None) -> str:
    return HIDDEN if value is None else f"{value:,}" if isinstance(value, int) else value


def _leads(removal: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what taking away each lead does to AUROC, as a plot and a table."""
    if not removal:
        return None
    plot, table = [], []
    for lead, metrics in removal.items():
        entry = metrics["auroc"]
        plot.append(
            ForestRow(
                f"without {lead}",
                "",
                entry["difference"],
                tuple(entry["ci95"]) if entry["ci95"] else None,
            )
        )
        table.append(
            {
                "lead": lead,
                "auroc": number(entry["value_b"]),
                "difference": number(entry["difference"]),
                "ci": interval_or_reason(entry),
            }
        )
    return {
        "svg": figures.forest(
            plot, 0.0, "difference in AUROC; left of 0: worse without the lead", counts=False
        ),
        "rows": table,
    }


def _training(run: Run) -> list[dict[str, str]]:
    """Draw the curves of each member, with the first epoch of the best validation metric, which is the one that is kept."""
    shown = []
    for member in run.members:
        title = f"Training, member {member.path.name}" if len(run.members) > 1 else "Training"
        rows = _curves(member.path / CURVES)
        if rows is None:
            shown.append(
                {
                    "title": title,
                    "caption": f"{CURVES} is missing or damaged: there is nothing to draw.",
                    "svg": "",
                }
            )
            continue
        best = max(rows, key=lambda row: row[f"val_{member.config.val_metric}"])
        epoch = int(best["epoch"])
        caption = (
            f"Epoch {epoch} of {len(rows)} was kept, with the best validation {member.config.val_metric.upper()}: AUROC {best['val_auroc']:.3f}, "
            f"AUPRC {best['val_auprc']:.3f}."
        )
        shown.append({"title": title, "caption": caption, "svg": figures.training(rows, epoch)})
    return shown


def _curves(path: Path) -> list[dict[str, float]] | None:
    """Return the rows of curves.csv, None where it is not that."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
            ]
        if not rows or not rows[0].keys() >= {
            "epoch",
            "train_loss",
            "val_loss",
            "val_auroc",
            "val_auprc",
        }:
            raise ValueError
    except (OSError, ValueError, TypeError, AttributeError, csv.Error):
        return None
    return rows


def worst_mistakes(run: Run, evaluation: Evaluation, n: int = N_MISTAKES) -> list[dict[str, Any]]:
    """Return the most confident false positives and false negatives, of different patients: row, kind, and the probabilities.

    Of a patient's recordings the one that misled most is named.
    """
    items, records = evaluation.items, evaluation.records
    (probability, threshold), (each, _) = (
        part.probability_and_threshold(run.calibration, run.threshold) for part in (items, records)
    )
    found = []
    for kind, label, sign in (("false positive", 0, -1.0), ("false negative", 1, 1.0)):
        wrong = np.flatnonzero(
            (items.label == label) & ((probability >= threshold) == (label == 0))
        )
        wrong = wrong[np.argsort(sign * probability[wrong], kind="stable")]
        _, first = np.unique(items.patient[wrong], return_index=True)
        for at in wrong[np.sort(first)[:n]].tolist():
            own = np.flatnonzero(records.patient == items.patient[at])
            if evaluation.metrics["level"] == "recording":
                own = own[records.rows[own] == items.rows[at]]
            worst = own[np.argmin(sign * each[own])]
            found.append(
                {
                    "kind": kind,
                    "row": int(records.rows[worst]),
                    "probability": float(probability[at]),
                    "of_recording": float(each[worst]),
                    "n": len(own),
                }
            )
    return found


def _mistakes(run: Run, store: Store, main: Evaluation) -> list[dict[str, str]]:
    shown = []
    for mistake in worst_mistakes(run, main):
        row = mistake["row"]
        waveform = store.gather(np.array([row]), np.empty((1, len(LEADS), store.n_samples), "<i2"))[
            0
        ]
        several = (
            f"; one of {mistake['n']} recordings, this one alone {mistake['of_recording']:.3f}"
            if mistake["n"] > 1
            else ""
        )
        text = f"store row {row}, probability {mistake['probability']:.3f}{several}"
        shown.append(
            {
                "kind": mistake["kind"],
                "text": text,
                "svg": figures.ecg(waveform, store.array("lead_mask")[row], store.sample_rate_hz),
            }
        )
    return shown
