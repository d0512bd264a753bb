"""What the results hold, key by key: the dictionaries that commands print and run folders keep.

docs/metrics.md explains the numbers. A value that is undefined is None, and `reason` says why.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class MetricValue(TypedDict):
    """One metric with its 95 % interval; both None where the metric is undefined."""

    value: float | None
    ci95: list[float] | None
    n_undefined_replicates: NotRequired[int]
    """Bootstrap replicates in which the metric was undefined; they are left out of the interval."""
    reason: NotRequired[str]
    """Why the metric is undefined, or why the interval is not a bootstrap interval."""


class Confusion(TypedDict):
    """Entries (patients or recordings) by true label and call."""

    tp: int
    fp: int
    fn: int
    tn: int


class BootstrapSettings(TypedDict):
    """How the intervals were made: what was resampled, how often, with which seed."""

    unit: str
    n: int
    seed: int
    interval: str


class DelongAuroc(TypedDict):
    """The AUROC by DeLong's method; None where patients have several entries."""

    auroc: float | None
    standard_error: float | None
    ci95: list[float] | None
    interval: NotRequired[str]
    reason: NotRequired[str]


class Metrics(TypedDict):
    """Every metric of one set of labels and probabilities."""

    n_patients: int
    n_positive: int
    n_items: int
    """Entries: as many as patients, or the recordings where these are judged one by one."""
    n_positive_items: int
    prevalence: float
    threshold: float | None
    """None where each entry has its own threshold, as out of fold."""
    confusion: Confusion
    metrics: dict[str, MetricValue]
    """By name, in the order of `definitions.METRICS`."""
    delong: DelongAuroc
    bootstrap: BootstrapSettings


class Subgroup(TypedDict):
    """One group of a grouping; counts and metrics are None where they are withheld."""

    n: int | None
    n_positive: int | None
    n_negative: int | None
    suppressed: str | None
    """Why the group is withheld; None where it is shown."""
    metrics: dict[str, MetricValue] | None


class Excluded(TypedDict):
    """What `missing=drop` left out of a split."""

    reason: str
    n_records: int
    n_positive_records: int
    n_patients: int
    """Patients who have no recording left."""
    n_positive: int


class External(TypedDict):
    """The store of an external test."""

    store: str
    content_sha256: str
    rows: str
    shared_recordings: int | None
    """Recordings that also trained the run: 0, or None where nobody looked."""


class LeadShare(TypedDict):
    """The share of recordings that have a lead."""

    train: float
    here: float


class LeadShift(TypedDict):
    """How the leads of recordings differ from those of the train recordings."""

    n_records: int
    unseen: list[str]
    """Leads that are here, and that no train recording has: the model does not get them."""
    n_records_masked: int
    """Recordings with such a lead."""
    differing: dict[str, LeadShare]
    """Leads whose share differs relevantly from that in training."""


class SplitMetrics(Metrics):
    """The content of metrics_<split>.json."""

    split: str
    note: str | None
    level: str
    """`patient` or `recording`: what one entry is."""
    aggregation: str
    n_records: int
    n_positive_records: int
    n_mixed_patients: int
    """Patients with recordings of both labels."""
    excluded: Excluded | None
    calibration: dict[str, Any]
    before_calibration: dict[str, float | None]
    reliability_curve: dict[str, Any]
    reliability_curve_before: dict[str, Any]
    decision_curve: dict[str, list[float]]
    subgroups: dict[str, dict[str, Subgroup]]
    count_baseline: NotRequired[dict[str, MetricValue]]
    """AUROC and AUPRC of the number of recordings alone; for patients only."""
    lead_shift: NotRequired[LeadShift]
    """Only where the leads differ from those of the train recordings."""
    outdated: NotRequired[str]
    """Only where the run has decided again since (`ecgfit decide`)."""
    external: NotRequired[External]
    lead_removal: NotRequired[dict[str, dict[str, MetricDifference]]]
    """By lead: what happens when it is missing."""
    folds: NotRequired[dict[str, Any]]
    """Results of each fold of a cross-validation, with mean and standard deviation."""


class ThresholdChoice(TypedDict):
    """A threshold chosen by a rule, and how much that choice varies between resamples."""

    rule: str
    value: float
    ci95: list[float] | None
    n_undefined_replicates: int
    note: str | None
    """Says so where the threshold calls everyone or nobody positive."""
    bootstrap: BootstrapSettings


class OperatingPoint(ThresholdChoice):
    """The content of threshold.json."""

    chosen_on: str
    n_patients: int
    n_positive: int
    level: str
    aggregation: str


class Decided(OperatingPoint):
    """The content of threshold.json after `ecgfit decide`."""

    calibration: dict[str, Any]
    """The calibration that the threshold goes with: it counts, not calibration.json."""
    earlier: list[dict[str, Any]]
    """The decisions before, the oldest first, each with its calibration; no dates."""


class MetricDifference(TypedDict):
    """One metric of two models, and b minus a with interval and two-sided p."""

    value_a: float | None
    value_b: float | None
    difference: float | None
    ci95: list[float] | None
    p: float | None
    n_undefined_replicates: NotRequired[int]
    reason: NotRequired[str]


class DelongTest(TypedDict):
    """The difference of two AUROCs by DeLong's method; None where it is undefined."""

    difference: float | None
    standard_error: float | None
    p: float | None


class PairedDifference(TypedDict):
    """Two models compared on the same entries."""

    metrics: dict[str, MetricDifference]
    delong: DelongTest
    bootstrap: BootstrapSettings


class Comparison(TypedDict):
    """Runs compared with the first of them."""

    runs: list[str]
    split: str
    n_patients: int
    against_first: dict[str, PairedDifference]
    """By path of the run."""
