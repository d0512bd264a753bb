"""Rules that choose an operating point on validation, and how uncertain that choice is.

Candidates lie midway between neighbouring distinct probabilities, so that rounding does not decide
a probability next to the cut. The lowest candidate lies midway between 0 and the lowest probability
and calls everyone positive. The highest lies midway between the highest probability and 1 and
calls nobody positive; only some rules may choose it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgfit.metrics.bootstrap import (
    N_BOOTSTRAP,
    PERCENTILES_95,
    bootstrap_weights,
    describe_bootstrap,
)
from ecgfit.metrics.definitions import (
    Booleans,
    Floats,
    Ints,
    check_labels_and_probabilities,
)
from ecgfit.metrics.results import ThresholdChoice

ALLOWED = (
    "youden, f1, sensitivity=X, specificity=X, npv=X, net-benefit=P or fixed=X with 0 < X < 1, "
    "as in sensitivity=0.90"
)

WITHOUT_VALUE = ("youden", "f1")
WITH_VALUE = ("sensitivity", "specificity", "npv", "net-benefit", "fixed")


def parse_rule(text: str) -> tuple[str, float | None]:
    """Split `sensitivity=0.90` into name and value; the value is None for `youden` and `f1`.

    Raises ValueError that names what is allowed.
    """
    name, equals, number = text.strip().partition("=")
    if name in WITHOUT_VALUE and not equals:
        return name, None
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if name not in WITH_VALUE or not 0 < value < 1:
        raise ValueError(f"rule (={text}) must be {ALLOWED}.")
    return name, value


def choose_threshold(label: Ints, probability: Floats, rule: str) -> float:
    """Choose the operating point: `probability >= threshold` is called positive.

    `label` and `probability` are (n,). The rules are

    - `youden`: the highest sensitivity + specificity - 1,
    - `f1`: the highest F1 score,
    - `net-benefit=P`: the highest net benefit when harm is weighed at risk P,
    - `sensitivity=X`: the highest threshold with sensitivity >= X,
    - `specificity=X`: the lowest threshold with specificity >= X,
    - `npv=X`: the highest threshold with a negative predictive value >= X,
    - `fixed=X`: X itself.

    The first three take the highest of equal candidates. `specificity`, `npv` and `net-benefit` may
    call nobody positive. Raises ValueError for an unknown rule, and where no threshold satisfies
    the rule.
    """
    name, value = parse_rule(rule)
    check_labels_and_probabilities(label, probability)
    if name == "fixed" and value is not None:
        return value
    once = np.ones((1, len(label)))
    threshold = _choose(label, probability, name, value, once)[0]
    if np.isnan(threshold):
        raise ValueError(_why_unsatisfied(label, probability, rule))
    return float(threshold)


def threshold_with_interval(
    label: Ints,
    probability: Floats,
    rule: str,
    seed: int,
    n_bootstrap: int = N_BOOTSTRAP,
    cluster: Ints | None = None,
) -> ThresholdChoice:
    """Return the chosen threshold and its 95 % percentile interval.

    The rule is applied anew in every resample of patients. Replicates in which no threshold
    satisfies it are left out and counted. Raises ValueError as `choose_threshold` does.
    """
    name, value = parse_rule(rule)
    chosen = choose_threshold(label, probability, rule)
    interval: list[float] | None = [chosen, chosen]
    n_undefined = 0
    if name != "fixed":
        weights = bootstrap_weights(len(label), seed, n_bootstrap, cluster)
        blocks = [_choose(label, probability, name, value, weight) for weight in weights]
        replicates = np.concatenate(blocks)
        defined = replicates[~np.isnan(replicates)]
        n_undefined = len(replicates) - len(defined)
        interval = np.quantile(defined, PERCENTILES_95).tolist() if defined.size else None
    return {
        "rule": rule,
        "value": chosen,
        "ci95": interval,
        "n_undefined_replicates": n_undefined,
        "note": _note(probability >= chosen),
        "bootstrap": describe_bootstrap(seed, n_bootstrap),
    }


def _note(call: Booleans) -> str | None:
    """Say so where the threshold calls everyone or nobody positive."""
    if call.all():
        return "this threshold calls everyone positive"
    if not call.any():
        return "this threshold calls nobody positive"
    return None


def _choose(
    label: Ints, probability: Floats, name: str, value: float | None, weight: Floats
) -> Floats:
    """Return the threshold for each row of `weight` (R, n), NaN where none satisfies the rule."""
    score, tp, fp, present = _cumulative_counts(label, probability, weight)
    if name in ("sensitivity", "specificity", "npv"):
        satisfied = _satisfied(name, tp, fp, value or 0)
        # Cuts call more and more patients positive: thresholds descend.
        best = _last(satisfied) if name == "specificity" else np.argmax(satisfied, axis=1)
        defined = satisfied.any(axis=1)
    else:
        merit = _merit(name, tp, fp, value or 0)
        best = np.argmax(merit, axis=1)
        defined = ~np.isnan(merit).any(axis=1)
    return np.where(defined, _cut(score, present, best), np.nan)


def _cumulative_counts(
    label: Ints, probability: Floats, weight: Floats
) -> tuple[Floats, Floats, Floats, Booleans]:
    """Return score (m,), tp and fp (R, m + 1) and present (R, m).

    `score` are the distinct probabilities, descending; `tp` and `fp` count after calling the first
    0, 1, .. m of them positive; `present` says which of them any drawn patient has.
    """
    order = np.argsort(-probability, kind="stable")
    score = probability[order]
    first_of_ties = np.flatnonzero(np.r_[True, np.diff(score) != 0])
    ordered_weight, truth = weight[:, order], label[order] == 1
    positive = np.add.reduceat(ordered_weight * truth, first_of_ties, axis=1)
    negative = np.add.reduceat(ordered_weight * ~truth, first_of_ties, axis=1)
    nobody = np.zeros((len(weight), 1))
    tp = np.concatenate([nobody, np.cumsum(positive, axis=1)], axis=1)
    fp = np.concatenate([nobody, np.cumsum(negative, axis=1)], axis=1)
    return score[first_of_ties], tp, fp, positive + negative > 0


def _merit(name: str, tp: Floats, fp: Floats, value: float) -> Floats:
    """Return what to maximise for each cut (R, m + 1), NaN where it is undefined."""
    if name == "net-benefit":
        return np.round(tp * (1 - value) - fp * value, 9)  # rounded, so that equal ones tie
    n_positive, n_negative = tp[:, -1:], fp[:, -1:]
    if name == "youden":
        # Multiplied by both class sizes: whole numbers, so that ties are exact.
        defined = (n_positive > 0) & (n_negative > 0)
        merit = np.where(defined, tp * n_negative - fp * n_positive, np.nan)
    else:
        f1 = 2 * tp / np.maximum(tp + fp + n_positive, 1)
        merit = np.where(n_positive > 0, f1, np.nan)
    # The first cut calls nobody positive: youden and f1 never choose it.
    never = np.where(np.isnan(merit[:, :1]), np.nan, -np.inf)
    return np.concatenate([never, merit[:, 1:]], axis=1)


def _satisfied(name: str, tp: Floats, fp: Floats, value: float) -> Booleans:
    """Say for each cut (R, m + 1) whether the named proportion is at least `value`."""
    fn, tn = tp[:, -1:] - tp, fp[:, -1:] - fp
    numerator, others = {
        "sensitivity": (tp, fn),
        "specificity": (tn, fp),
        "npv": (tn, fn),
    }[name]
    denominator = numerator + others
    reached = numerator / np.maximum(denominator, 1) >= value
    return np.asarray((denominator > 0) & reached)


def _last(flags: Booleans) -> NDArray[np.intp]:
    return np.asarray(flags.shape[1] - 1 - np.argmax(flags[:, ::-1], axis=1))


def _cut(score: Floats, present: Booleans, best: NDArray[np.intp]) -> Floats:
    """Return the threshold of cut `best` (R,): midway between its neighbours among `present`.

    `present` (R, m) are the probabilities of the drawn patients.
    """
    called = np.arange(len(score)) < best[:, None]
    above, below = present & called, present & ~called
    # No threshold up to 1 is above a probability of exactly 1.
    nobody = 1.0 if score[0] < 1 else np.nextafter(1.0, 2)
    upper = np.where(above.any(axis=1), score[_last(above)], nobody)
    lower = np.where(below.any(axis=1), score[np.argmax(below, axis=1)], 0.0)
    middle = (upper + lower) / 2
    # Two neighbouring floating-point numbers have no middle: it is rounded to one of them.
    return np.asarray(np.where(middle > lower, middle, upper))


def _why_unsatisfied(label: Ints, probability: Floats, rule: str) -> str:
    name, _ = parse_rule(rule)
    if name == "npv":
        best = _best_npv(label, probability)
        return (
            f"rule (={rule}): the best negative predictive value on these patients is {best:.4f}. "
            "Ask for less, or use sensitivity=X."
        )
    needs = "positive patients"
    if name == "youden":
        needs = "both classes"
    elif name == "specificity":
        needs = "negative patients"
    return f"rule (={rule}) needs {needs} in the data it is chosen on."


def _best_npv(label: Ints, probability: Floats) -> float:
    _, tp, fp, _ = _cumulative_counts(label, probability, np.ones((1, len(label))))
    fn, tn = tp[0, -1] - tp[0, :-1], fp[0, -1] - fp[0, :-1]
    return float((tn / (tn + fn)).max())
