"""The model card."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ecgfit.reports.checklist import (
    Facts,
    calibration_in_words,
    class_weights_in_words,
    external_in_words,
    inputs_in_words,
    missing_in_words,
    model_in_words,
    records_in_words,
    split_name,
    threshold_in_words,
    training_in_words,
)
from ecgfit.reports.evaluation import Evaluation
from ecgfit.run import Run
from ecgfit.run_files import THRESHOLD
from ecgprep.reports.disclosure import CountFormatter
from ecgprep.store.reader import Store


def _facts(
    run: Run,
    main: Evaluation,
    show: CountFormatter,
    store: Store | None,
    externals: Sequence[Evaluation],
) -> Facts:
    n, positive = main.metrics["n_patients"], main.metrics["n_positive"]
    classes = show.parts({"positive": positive, "negative": n - positive})
    return Facts(
        config=run.config,
        recorded=run.recorded,
        threshold=run.read_json(THRESHOLD),
        calibration=run.calibration.to_json(),
        seen=_seen(run),
        split=main.name,
        summary=f"Evaluated on the {split_name(main.name)} data: {show(n)} patients, {classes['positive']} positive.",
        n_members=len(run.members),
        has_store=store is not None,
        has_lead_removal="lead_removal" in main.metrics,
        externals=len(externals),
        n_unsearched=sum(
            evaluation.metrics.get("external", {}).get("shared_recordings", 0) is None
            for evaluation in [*externals, main]
        ),
        groupings=tuple(
            name
            for name, groups in main.metrics["subgroups"].items()
            if sum(group["metrics"] is not None for group in groups.values()) > 1
        ),
        aggregation=main.metrics["aggregation"],
        records={name: show(n) for name, n in (run.recorded.get("records") or {}).items()},
        of_folds=main.metrics["threshold"] is None,
    )


def _seen(run: Run) -> str:
    """Say what all members' train recordings were like, without a patient's own values: rates, leads and length only."""
    seen = [member.stats.seen for member in run.members]
    rates = ", ".join(
        f"{value:g}" for value in sorted({value for own in seen for value in own.rates_hz})
    )
    seconds = min(own.shortest_samples for own in seen) / run.recorded["store"]["sample_rate_hz"]
    return f"source rates {rates} Hz; at least {min(own.fewest_leads for own in seen)} leads; at least {seconds:g} s of signal"


def _card(run: Run, facts: Facts) -> list[tuple[str, str]]:
    """Return the model card, a term and a text each."""
    store, versions = run.recorded["store"], run.recorded.get("versions") or {}
    folder = run.path.resolve().name
    external = (
        f"{external_in_words(facts)}, shown in this report."
        if facts.n_external
        else "No external test: results elsewhere are unknown."
    )
    return [
        (
            "Intended use",
            "Research on ECGs. Not a medical device; not for decisions about patients.",
        ),
        ("Inputs", inputs_in_words(facts) + "."),
        (
            "Output",
            ("A" if facts.calibration["method"] == "none" else "A calibrated")
            + f" probability of label 1 and, at the threshold {facts.threshold['value']:.4f}, a class. {calibration_in_words(facts)}",
        ),
        (
            "Training data",
            f"Store {store['name']}, content_sha256 {store['content_sha256']}. Recordings: {records_in_words(facts)}. Train recordings: "
            f"{facts.seen}.",
        ),
        ("Architecture", model_in_words(facts) + "."),
        (
            "Training",
            f"{training_in_words(facts)} {class_weights_in_words(facts)} Seed {', '.join(map(str, run.config.seeds)) or run.config.seed}.",
        ),
        ("Threshold", threshold_in_words(facts) + "."),
        ("Evaluation", f"{facts.summary} {external}"),
        (
            "Limitations",
            f"{missing_in_words(facts)} Input unlike the training data ({facts.seen}) is warned of, and its probability is not to be trusted. "
            f"{external}",
        ),
        (
            "Versions",
            ", ".join(f"{name} {version}" for name, version in versions.items())
            + f"; device {run.recorded.get('device', 'not recorded')}.",
        ),
        ("How to apply", f"ecgfit predict --run {shlex.quote(folder)} FILES -o predictions.csv"),
    ]


def _plain(value: Any) -> str:
    """Return a setting as a person would write it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "default"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
