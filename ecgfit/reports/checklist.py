"""TRIPOD+AI (BMJ 2024;385:e078378): which items a run can answer, where, and a sentence to start from; the rest is the authors'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ecgfit.config import TrainConfig
from ecgfit.metrics.thresholds import parse_rule

AUTHORS, REST = "To be written by the authors.", "The rest is to be written by the authors."


ANSWERED, PARTLY, OPEN = "answered", "partly", "authors"


RULES = {
    "youden": "the threshold with the largest sensitivity + specificity − 1 (Youden)",
    "f1": "the threshold with the largest F1 score",
    "sensitivity": "the highest threshold with a sensitivity of at least {}",
    "specificity": "the lowest threshold with a specificity of at least {}",
    "npv": "the highest threshold with a negative predictive value of at least {}",
    "net-benefit": "the threshold with the largest net benefit at a risk of {}",
    "fixed": "the threshold {}, fixed in advance",
}


SPLIT_NAMES = {
    "scored": "scored (not for development)",
    "train": "train",
    "val": "validation",
    "test": "test",
    "oof": "out-of-fold",
    "all": "all rows",
    "folds": "cross-validated",
}


AGGREGATIONS = {"none": "recordings one by one"}


OF_FOLDS = (
    "In the results out of fold each patient has the calibration and threshold of the model that did not see them, which the fold that selected "
    "it has chosen. For the mean model, which is for new patients: "
)


@dataclass(frozen=True)
class Item:
    """One item of the checklist."""

    number: str
    asks: str
    status: str
    where: str
    text: str


@dataclass(frozen=True)
class Facts:
    """What the sentences are made of."""

    config: TrainConfig
    recorded: dict[str, Any]
    threshold: dict[str, Any]
    calibration: dict[str, Any]
    seen: str
    split: str
    summary: str
    n_members: int
    has_store: bool
    has_lead_removal: bool
    externals: int
    n_unsearched: int
    """Of the external stores, the reported one included, those in which nobody looked for recordings that trained the run."""
    groupings: tuple[str, ...]
    """Groupings of which two groups or more have metrics."""
    aggregation: str
    records: dict[str, str]
    """How many recordings trained and selected the model, as text."""
    of_folds: bool
    """The results are out of fold, each patient's at their own model's calibration and threshold."""

    @property
    def n_external(self) -> int:
        """How many external stores are shown, the reported one included."""
        return self.externals + self.split.startswith("external")


def rule_in_words(rule: str) -> str:
    """Say how a threshold was chosen."""
    name, _, value = rule.partition("=")
    return RULES.get(name, rule).format(value)


def is_fixed(rule: str) -> bool:
    """Say whether a threshold was given, and not chosen on data."""
    return parse_rule(rule)[0] == "fixed"


def split_name(name: str) -> str:
    """Return a split's name for readers."""
    rows, _, how = name.removeprefix("external_").partition("_")
    whole = f"external {rows}" if name.startswith("external_") else SPLIT_NAMES.get(rows, rows)
    return whole + (f", {AGGREGATIONS.get(how, f'{how} of recordings')}" if how else "")


def class_weights_in_words(facts: Facts) -> str:
    """Say how imbalance was dealt with, and what repaired the probabilities."""
    weights, setting = facts.recorded.get("class_weights"), facts.config.class_weights
    used = (
        " and ".join(f"{weight:.3g}" for weight in weights)
        if isinstance(weights, list | tuple)
        else "none"
    )
    if setting == "none":
        first = "The classes were not weighted and not resampled."
    elif setting == "auto":
        of = " of the first fold" if facts.config.folds and facts.config.fold < 0 else ""
        first = f"The loss weighed the classes inversely to their share of the train recordings (class weights auto: {used} for label 0 and 1{of})."
    else:
        first = f"The loss weighed label 0 and 1 by {used}, as set."
    return f"{first} {calibration_in_words(facts)}"


def calibration_in_words(facts: Facts) -> str:
    """Say how logits became probabilities."""
    method, on = (
        facts.calibration["method"],
        split_name(str(facts.threshold.get("chosen_on", "val"))),
    )
    names = {"platt": "Platt scaling", "temperature": "temperature scaling"}
    if method == "none":
        return "Probabilities were not recalibrated."
    own, note = OF_FOLDS if facts.of_folds else "", facts.calibration.get("note")
    but = f" ({note})" if note else ""
    return f"{own}Probabilities were recalibrated by {names.get(method, method)} fitted on the {on} predictions{but}, and never again."


def missing_in_words(facts: Facts) -> str:
    """Say what happens to recordings that lack leads."""
    if facts.config.tabular_only:
        left_out = facts.config.missing == "drop"
        return "The model does not see the ECG. Recordings that lack leads were " + (
            "left out, so that it is judged on the patients of a model that does."
            if left_out
            else "kept."
        )
    if facts.config.missing == "drop":
        return (
            "Recordings that lack any of the eight leads were left out; at use they are predicted with a warning and take no part in their "
            "patient's result."
        )
    return "Recordings that lack leads were kept: a missing lead is zero and marked as missing in a channel of the input."


def threshold_in_words(facts: Facts) -> str:
    """Say which threshold is used and where it comes from."""
    low, high = facts.threshold.get("ci95") or (0, 0)
    width = (
        f" (95 % interval of the choice {low:.4f} to {high:.4f})"
        if low < high and not is_fixed(facts.config.threshold)
        else ""
    )
    chosen = f"{facts.threshold['value']:.4f}{width}: {rule_in_words(facts.config.threshold)}"
    if not is_fixed(facts.config.threshold):
        chosen += f", chosen on the {split_name(str(facts.threshold.get('chosen_on', 'val')))} predictions and never again"
    return chosen + (
        " (that of the mean model; the results out of fold use each model's own)"
        if facts.of_folds
        else ""
    )


def external_in_words(facts: Facts) -> str:
    """Say how many external stores there are, and in how many nobody looked for recordings that trained the run."""
    n, unsearched = facts.n_external, facts.n_unsearched
    stores = "1 external store" if n == 1 else f"{n} external stores"
    whether = (
        " (not searched for recordings that trained the run)"
        if n == 1
        else f" ({unsearched} not searched for recordings that trained the run)"
    )
    return stores + (whether if unsearched else "")


def training_in_words(facts: Facts) -> str:
    """Describe optimiser, schedule, augmentation and choice of the epoch."""
    c = facts.config
    ema = f", weights averaged with decay {c.ema:g}" if c.ema else ""
    start = (
        " Weights were initialised from other weights (init_from), what fitted them."
        if c.init_from
        else ""
    )
    frozen = " Only the head was trained." if c.freeze == "backbone" else ""
    augmentation = "" if c.tabular_only else f"; augmentation: {', '.join(c.aug) or 'none'}"
    smoothing = f" with label smoothing {c.label_smoothing:g}" if c.label_smoothing else ""
    return (
        f"Loss {c.loss}{smoothing}, {c.optimizer} with learning rate {c.lr:g} and weight decay {c.weight_decay:g}, schedule {c.scheduler}, "
        f"batches of {c.batch}, at most {c.epochs} epochs{ema}{augmentation}. The epoch with the best validation "
        f"{c.val_metric.upper()} was kept; training was to end after {c.early_stop} epochs without a better one.{start}{frozen}"
    )


def model_in_words(facts: Facts) -> str:
    """Describe the network and its size."""
    c, size = facts.config, facts.recorded.get("model") or {}
    inputs = (
        "covariates alone"
        if c.tabular_only
        else "the ECG" + (" and covariates, joined at the head" if c.tabular else "")
    )
    members = f"; the mean logit of {facts.n_members} such models" if facts.n_members > 1 else ""
    arguments = ", ".join(f"{key} {value:g}" for key, value in c.model_args.items())
    name = (
        "a multilayer perceptron"
        if c.tabular_only
        else c.model + (f" ({arguments})" if arguments else "")
    )
    macs = (
        f", {size['macs'] / 1e6:,.1f} million multiply-adds a recording"
        if "macs" in size and not c.tabular_only
        else ""
    )
    trained = " that were trained" if c.freeze == "backbone" else ""
    parameters = f", {size['parameters']:,} parameters{trained}" if "parameters" in size else ""
    return f"{name} on {inputs}{parameters}{macs}{members}"


def checklist(facts: Facts) -> list[Item]:
    """Return the 27 items in order; those with parts a line each."""
    return [*_methods(facts), *_open_science(), *_results(facts)]


def _methods(facts: Facts) -> list[Item]:
    c, store = facts.config, facts.recorded["store"]
    how = (
        f"cross-validation by patient in {c.folds} folds within train and validation"
        if c.folds
        else "the store's frozen split by patient"
    )
    per = (
        "recording"
        if facts.aggregation == "none"
        else f"patient ({facts.aggregation} of the logits of a patient's recordings)"
    )
    score_intervals = (
        "" if facts.aggregation == "none" else ", and score intervals where no resample differs"
    )
    table = "Table 1" if facts.has_store else "Table 1 with --store; ecgprep report"
    return [
        Item("1–4", "Title, abstract, background, objectives", OPEN, "", AUTHORS),
        Item("5a", "Sources of data", OPEN, "", AUTHORS),
        Item(
            "5b",
            "Dates, follow-up",
            PARTLY,
            "the store's covariates, if dates were among them",
            f"A store holds no dates. {AUTHORS}",
        ),
        Item("6a", "Setting, centres", OPEN, "", AUTHORS),
        Item(
            "6b",
            "Eligibility",
            PARTLY,
            "ecgprep report: flow",
            f"Recordings that could not be used are counted by reason. {missing_in_words(facts)} {REST}",
        ),
        Item("6c", "Treatments received", OPEN, "", AUTHORS),
        Item(
            "7",
            "Data preparation",
            ANSWERED,
            "Settings; ecgprep report: quality",
            "The model sees covariates alone."
            if c.tabular_only
            else f"Eight leads at {store['sample_rate_hz']:g} Hz, {store['n_samples']} samples, in µV; each lead was standardised with mean and "
            "deviation of the train recordings only.",
        ),
        Item("8a–c", "Outcome: definition, time horizon, who assessed it", OPEN, "", AUTHORS),
        Item(
            "9a–c",
            "Predictors: choice, definition, assessors",
            PARTLY,
            "Model card: inputs",
            f"The inputs: {inputs_in_words(facts)}. {REST}",
        ),
        Item(
            "10",
            "Sample size",
            PARTLY,
            "Results; training",
            f"Recordings used: {records_in_words(facts)}. The reasoning is to be written by the authors.",
        ),
        Item(
            "11",
            "Missing data",
            PARTLY,
            table,
            missing_in_words(facts)
            + (" Missing covariates: the train median with an indicator." if c.tabular else "")
            + f" {REST}",
        ),
        Item(
            "12a",
            "How data were divided",
            PARTLY,
            table,
            f"Data were divided by {how}; no patient is on two sides. ecgfit used the test split for no choice; whether its results "
            "led to any is for the authors to say.",
        ),
        Item(
            "12b",
            "How predictors were handled",
            ANSWERED,
            "Settings",
            _handling_in_words(c),
        ),
        Item(
            "12c",
            "Model, building steps, tuning",
            PARTLY,
            "Settings; training",
            f"The model is {model_in_words(facts)}. {training_in_words(facts)} Why this one, and what else was tried, is to be written by the "
            "authors.",
        ),
        Item(
            "12d",
            "Heterogeneity",
            PARTLY if facts.groupings or facts.externals else OPEN,
            "Subgroups" if facts.groupings else "",
            f"{_compared(facts.groupings)} By centre where centres are a covariate or an external store. {REST}",
        ),
        Item(
            "12e",
            "Measures and plots",
            ANSWERED,
            "Results",
            "AUROC, AUPRC, calibration (slope, intercept, curve), Brier score, decision curve and measures at the threshold; 95 % intervals by "
            f"bootstrap over patients{score_intervals}. The unit is the {per}.",
        ),
        Item(
            "12f",
            "Updating of the model after its evaluation",
            OPEN,
            "",
            f"None by ecgfit. {calibration_in_words(facts)} {AUTHORS}",
        ),
        Item(
            "12g",
            "How predictions were calculated",
            ANSWERED,
            "Model card: use",
            "ecgfit eval, with the run's own statistics, calibration and threshold.",
        ),
        Item(
            "13",
            "Class imbalance",
            ANSWERED,
            "Settings; calibration",
            class_weights_in_words(facts),
        ),
        _fairness(facts),
        Item(
            "15",
            "Output and thresholds",
            PARTLY,
            "Summary",
            f"A probability, and a class at the threshold {threshold_in_words(facts)}. {REST}",
        ),
        Item(
            "16",
            "Differences between development and evaluation data",
            PARTLY if facts.has_store or facts.externals else OPEN,
            table,
            f"Evaluated on the {split_name(facts.split)} data"
            + (
                f" and {external_in_words(facts)}"
                if facts.externals
                else ""
                if facts.split.startswith("external")
                else "; no external test"
            )
            + (
                ", which are the patients of development, each judged by a model that did not see them"
                if facts.of_folds
                else ""
            )
            + f". {REST}",
        ),
        Item("17", "Ethical approval", OPEN, "", AUTHORS),
    ]


def _handling_in_words(config: TrainConfig) -> str:
    leads = (
        "" if config.tabular_only else "Leads standardised with the train recordings' statistics. "
    )
    return (leads + ("Covariates by train median and scale." if config.tabular else "")).strip()


def _compared(groupings: Sequence[str]) -> str:
    names = ", ".join(name.replace("_", " ") for name in groupings)
    return (
        f"Results stand side by the groups of {names}."
        if names
        else "No two groups held enough patients to be compared."
    )


def _fairness(facts: Facts) -> Item:
    covariates = [name for name in facts.groupings if name not in ("leads", "source_rate")]
    if not covariates:
        return Item(
            "14",
            "Fairness",
            OPEN,
            "",
            f"No groups of patients were compared: none was given as a covariate, or too few are in them. {AUTHORS}",
        )
    return Item("14", "Fairness", PARTLY, "Subgroups", f"{_compared(covariates)} {REST}")


def _open_science() -> list[Item]:
    return [
        Item("18a–d", "Funding, conflicts of interest, protocol, registration", OPEN, "", AUTHORS),
        Item(
            "18e",
            "Data sharing",
            PARTLY,
            "Model card: training data",
            f"The store is identified by its content_sha256. {REST}",
        ),
        Item(
            "18f",
            "Code sharing",
            PARTLY,
            "Model card: versions",
            f"ecgprep and ecgfit, Apache-2.0; config.yaml repeats the run. {REST}",
        ),
        Item("19", "Patient and public involvement", OPEN, "", AUTHORS),
    ]


def _results(facts: Facts) -> list[Item]:
    table = "Table 1" if facts.has_store else "Table 1 with --store"
    status = PARTLY if facts.has_store else OPEN
    external = (
        "The external sections show the model elsewhere."
        if facts.n_external
        else "No external test yet: ecgfit eval --external."
    )
    method = facts.calibration["method"]
    removal = (
        " The figure on leads shows what a missing lead costs."
        if facts.has_lead_removal
        else " ecgfit eval --each-lead measures what a missing lead costs."
    )
    return [
        Item(
            "20a",
            "Flow of participants",
            PARTLY,
            "ecgprep report: flow",
            "Draw the diagram from the store's report; follow-up is to be written by the authors.",
        ),
        Item(
            "20b",
            "Characteristics",
            status,
            table,
            f"Patients, recordings, positives and the store's covariates of each split. {REST}",
        ),
        Item(
            "20c",
            "Comparison of development with evaluation data",
            status,
            table,
            f"The splits of the store stand side by side. {REST}",
        ),
        Item(
            "21",
            "Participants and events in each analysis",
            PARTLY,
            "Results",
            f"Recordings used in development: {records_in_words(facts)}. {facts.summary}",
        ),
        Item(
            "22",
            "The full model",
            ANSWERED,
            "the run folder",
            "Weights, statistics, calibration, threshold and settings lie in the run folder, and can be applied by others.",
        ),
        Item(
            "23a",
            "Performance with intervals, subgroups",
            ANSWERED if facts.groupings else PARTLY,
            "Results; Subgroups" if facts.groupings else "Results",
            f"Measures have 95 % intervals where they are defined. {_compared(facts.groupings)}",
        ),
        Item("23b", "Heterogeneity of performance", PARTLY, "Subgroups", external),
        Item(
            "24",
            "Results of updating after the evaluation",
            OPEN,
            "",
            "None by ecgfit."
            + (
                ""
                if method == "none"
                else " Calibration before and after the recalibration that belongs to development is shown."
            )
            + f" {AUTHORS}",
        ),
        Item("25", "Interpretation", OPEN, "", AUTHORS),
        Item(
            "26",
            "Limitations",
            PARTLY,
            "Model card: limitations",
            f"What the run knows is listed there. {REST}",
        ),
        Item(
            "27a",
            "Poor-quality or unavailable input",
            ANSWERED,
            "Model card: limitations",
            f"{missing_in_words(facts)} ecgfit predict warns where input is unlike the training data.{'' if facts.config.tabular_only else removal}",
        ),
        Item("27b–c", "Interaction and expertise needed; next steps", OPEN, "", AUTHORS),
    ]


def inputs_in_words(facts: Facts) -> str:
    """Name what the model takes."""
    store, c = facts.recorded["store"], facts.config
    seconds = store["n_samples"] / store["sample_rate_hz"]
    ecg = f"eight leads (I, II, V1 to V6) of {seconds:g} s at {store['sample_rate_hz']:g} Hz, in µV"
    covariates = ", ".join(c.tabular)
    return (
        covariates if c.tabular_only else ecg + (f"; covariates {covariates}" if covariates else "")
    )


def records_in_words(facts: Facts) -> str:
    """Return how many recordings trained and selected the model."""
    return (
        ", ".join(f"{n} {split_name(name)}" for name, n in facts.records.items()) or "not recorded"
    )
