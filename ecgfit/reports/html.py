"""The report of a run: one HTML file that opens offline. Needs jinja2 and matplotlib (`report`).

It shows what readers of a paper ask for (TRIPOD+AI; Van Calster et al. 2025): discrimination,
calibration, net benefit and the probabilities of each class, with intervals and in subgroups; what
was chosen on which data; and the mistakes themselves. Every number is from the metrics_*.json of
the run, and curves are drawn from its predictions_*.csv. Counts from 1 to 9 are shown as "<10"
unless the exact ones are asked for. With ECGs of the store in it the file is health data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecgfit.reports.checklist import checklist
from ecgfit.reports.evaluated_split import EvaluatedSplit, is_outdated
from ecgfit.reports.facts import gather_facts
from ecgfit.reports.metric_tables import fold_table, metric_table
from ecgfit.reports.mistakes import draw_mistakes
from ecgfit.reports.model_card import model_card
from ecgfit.reports.prose import TEMPLATES
from ecgfit.reports.sections import evaluation_sections
from ecgfit.reports.summary import find_warnings, summarise
from ecgfit.reports.table_one import table_one
from ecgfit.reports.training_curves import training_figures
from ecgfit.run import RunFolder
from ecgprep.reports.disclosure import CountFormatter
from ecgprep.reports.page import write_page
from ecgprep.store.reader import Store
from ecgprep.store.row_ids import read_row_ids

MARK = b'<meta name="generator" content="ecgfit report">'
"""Every report of a run holds this, so that a file is recognised as one."""

_SHOWN_BESIDE = ("oof", "val", "test")
"""Splits whose metrics are shown beside those of the split that is reported. Rows that trained the
model are shown only where they are asked for."""

_FLATTERING = ("train", "val", "all")
"""Splits that look better than others: their rows trained the model or decided about it."""


def write_run_report(
    run: RunFolder,
    out: Path,
    store: Store | None = None,
    split: str = "test",
    exact: bool = False,
    ids: bool = False,
) -> None:
    """Write the report of a run to `out`, readable by its owner only.

    With the run's own `store` it has Table 1 and the worst mistakes, drawn as ECGs; with `ids`
    these name patient and file. Raises InputError where the split has not been evaluated or nothing
    says whose the rows are, StoreError for another store than the run's, and ImportError without
    the extra `report`.
    """
    import jinja2 as _jinja2  # noqa: F401 - a missing extra is noticed before the work
    import matplotlib as _matplotlib  # noqa: F401

    write_page(out, TEMPLATES / "report.html.jinja", report_content(run, store, split, exact, ids))


def report_content(
    run: RunFolder,
    store: Store | None = None,
    split: str = "test",
    exact: bool = False,
    ids: bool = False,
) -> dict[str, Any]:
    """Collect everything that the report shows.

    Counts are text already, so that the template cannot show a small one by mistake. Raises as
    `write_run_report` does.
    """
    if store is not None:
        run.check_store(store)
    show = CountFormatter(exact)
    main = EvaluatedSplit.load(run, split)
    externals = other_externals(run, main)
    columns = shown_splits(run, main)
    facts = gather_facts(run, main, show, store, externals)
    flattering = [column.title for column in columns if column.name in _FLATTERING]
    settings = run.shown_settings()
    mistakes, table1 = [], None
    if store is not None:
        whose = read_row_ids(store) if ids else None
        mistakes, table1 = draw_mistakes(main, store, whose), table_one(store, run, show)
    return {
        "name": run.path.resolve().name,
        "recorded": run.recorded,
        "hidden": not exact,
        "summary": summarise(main, show),
        "warnings": find_warnings(main),
        "metrics": metric_table(columns),
        "better_than_elsewhere": flattering,
        "folds": fold_table(columns),
        "main": evaluation_sections(main, show),
        "externals": [_external_section(external, show) for external in externals],
        "training": training_figures(run),
        "mistakes": mistakes,
        "table1": table1,
        "checklist": checklist(facts),
        "card": model_card(facts),
        "settings": {key: setting_in_words(value) for key, value in settings.items()},
        "has_store": store is not None,
    }


def shown_splits(run: RunFolder, main: EvaluatedSplit) -> list[EvaluatedSplit]:
    """Return the splits of the table of metrics, the reported one among them or last.

    Those that were not evaluated since the run decided again are left out.
    """
    columns = []
    for name in _SHOWN_BESIDE:
        if name == main.name:
            columns.append(main)
        elif _is_evaluated(run, f"metrics_{name}.json"):
            columns.append(EvaluatedSplit.load(run, name))
    if main.name not in _SHOWN_BESIDE:
        columns.append(main)
    return columns


def _is_evaluated(run: RunFolder, name: str) -> bool:
    return (run.path / name).is_file() and not is_outdated(run.read_json(name))


def other_externals(run: RunFolder, main: EvaluatedSplit) -> list[EvaluatedSplit]:
    """Return the external stores beside the reported split, with the run's own aggregation only."""
    found = []
    for path in sorted(run.path.glob("metrics_external_*.json")):
        name = path.stem.removeprefix("metrics_")
        has_other_aggregation = name.count("_") > 1
        if name != main.name and not has_other_aggregation:
            found.append(EvaluatedSplit.load(run, name))
    return found


def _external_section(external: EvaluatedSplit, show: CountFormatter) -> dict[str, Any]:
    """Return everything that the report shows of an external store."""
    texts = {"summary": summarise(external, show), "warnings": find_warnings(external)}
    return evaluation_sections(external, show) | texts


def setting_in_words(value: Any) -> str:
    """Return a setting as a person would write it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        pairs = [f"{key}={item}" for key, item in value.items()]
        return ", ".join(pairs) or "default"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "none"
    return str(value)
