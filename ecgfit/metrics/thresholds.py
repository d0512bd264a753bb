"""Rules that choose an operating point on validation, and how uncertain that choice is.

Candidates lie midway between neighbouring distinct probabilities, so that a probability next to the cut is not decided by rounding. The lowest
lies midway between the lowest probability and 0 and calls everyone positive; the highest, where a rule may call nobody positive, midway
between the highest probability and 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgfit.metrics.bootstrap import N_BOOTSTRAP, bootstrap_weights, describe_bootstrap
from ecgfit.metrics.definitions import Floats, Ints, check

ALLOWED = "youden, f1, sensitivity=X, specificity=X, npv=X, net-benefit=P or fixed=X with 0 < X < 1, as in sensitivity=0.90"


WITHOUT_VALUE = ("youden", "f1")


WITH_VALUE = ("sensitivity", "specificity", "npv", "net-benefit", "fixed")


def parse_rule(text: str) -> tuple[str, float | None]:
    """Split `sensitivity=0.90` into name and value, None for `youden` and `f1`. Raises ValueError that names what is allowed."""
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
    """Choose the operating point; `label` and `probability` are (n,), and `probability >= threshold` is called positive.

    `youden` maximises sensitivity + specificity - 1, `f1` the F1 score, `net-benefit=P` the net benefit when harm is weighed at risk P; of
    equal candidates the highest is taken. `sensitivity=X` is the highest threshold with sensitivity >= X, `specificity=X` the lowest with
    specificity >= X, `npv=X` the highest with a negative predictive value >= X, `fixed=X` X itself. `specificity`, `npv` and `net-benefit` may
    call nobody positive. Raises ValueError for an unknown rule, and where no threshold answers it.
    """
    name, value = parse_rule(rule)
    check(label, probability)
    if name == "fixed":
        return float(value or 0)
    threshold = _choose(label, probability, name, value, np.ones((1, len(label))))[0]
    if np.isnan(threshold):
        raise ValueError(_unanswered(label, probability, rule))
    return float(threshold)


def threshold_with_interval(
    label: Ints,
    probability: Floats,
    rule: str,
    seed: int,
    n_bootstrap: int = N_BOOTSTRAP,
    cluster: Ints | None = None,
) -> dict[str, Any]:
    """Return the chosen threshold and its 95 % percentile interval: the rule applied anew in every resample of patients.

    Replicates that no threshold answers are left out and counted. Raises ValueError as `choose_threshold`.
    """
    name, value = parse_rule(rule)
    chosen = choose_threshold(label, probability, rule)
    result: dict[str, Any] = {
        "rule": rule,
        "value": chosen,
        "ci95": [chosen, chosen],
        "n_undefined_replicates": 0,
    }
    if name != "fixed":
        draws = bootstrap_weights(len(label), seed, n_bootstrap, cluster)
        replicates = np.concatenate(
            [_choose(label, probability, name, value, weight) for weight in draws]
        )
        defined = replicates[~np.isnan(replicates)]
        interval = (
            [float(edge) for edge in np.quantile(defined, [0.025, 0.975])] if defined.size else None
        )
        result |= {"ci95": interval, "n_undefined_replicates": len(replicates) - len(defined)}
    calls = probability >= chosen
    note = (
        None
        if 0 < calls.sum() < len(calls)
        else f"this threshold calls {'everyone' if calls.all() else 'nobody'} positive"
    )
    return result | {"note": note, "bootstrap": describe_bootstrap(seed, n_bootstrap)}


def _choose(
    label: Ints, probability: Floats, name: str, value: float | None, weight: Floats
) -> Floats:
    """Return the threshold for each row of `weight` (R, n), NaN where none answers the rule: as if the drawn patients were listed."""
    score, tp, fp, present = _cumulative(label, probability, weight)
    if name in WITHOUT_VALUE:
        merit = _merit(name, tp, fp)
    elif name == "net-benefit":
        merit = np.round(
            tp * (1 - (value or 0)) - fp * (value or 0), 9
        )  # rounded, so that equal ones tie
    else:
        reached = _reached(name, tp, fp, value or 0)
        best = _last(reached) if name == "specificity" else np.argmax(reached, axis=1)
        return np.where(reached.any(axis=1), _cut(score, present, best), np.nan)
    return np.where(
        np.isnan(merit).any(axis=1), np.nan, _cut(score, present, np.argmax(merit, axis=1))
    )


def _cumulative(
    label: Ints, probability: Floats, weight: Floats
) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Return the distinct probabilities (m,), descending, and after calling the first 0, 1, .. m of them positive: tp and fp (R, m + 1).

    The last is which of them any drawn patient has (R, m).
    """
    order = np.argsort(-probability, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(probability[order]) != 0])
    w, truth = weight[:, order], label[order] == 1
    positive, negative = (
        np.add.reduceat(w * truth, first, axis=1),
        np.add.reduceat(w * ~truth, first, axis=1),
    )
    nobody = np.zeros((len(weight), 1))
    tp, fp = (
        np.concatenate([nobody, np.cumsum(part, axis=1)], axis=1) for part in (positive, negative)
    )
    return probability[order][first], tp, fp, positive + negative > 0


def _merit(name: str, tp: Floats, fp: Floats) -> Floats:
    """Return what to maximise, NaN where undefined. The first candidate, calling nobody positive, is never chosen."""
    n_positive, n_negative = tp[:, -1:], fp[:, -1:]
    if name == "youden":
        merit = (
            tp * n_negative - fp * n_positive
        )  # times both class sizes: whole numbers, so that ties are exact
        merit = np.where((n_positive > 0) & (n_negative > 0), merit, np.nan)
    else:
        merit = np.where(n_positive > 0, 2 * tp / np.maximum(tp + fp + n_positive, 1), np.nan)
    return np.concatenate([np.where(np.isnan(merit[:, :1]), np.nan, -np.inf), merit[:, 1:]], axis=1)


def _reached(name: str, tp: Floats, fp: Floats, value: float) -> NDArray[np.bool_]:
    n_positive, n_negative = tp[:, -1:], fp[:, -1:]
    tn, fn = n_negative - fp, n_positive - tp
    top, bottom = {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "npv": (tn, tn + fn),
    }[name]
    return np.asarray((bottom > 0) & (top / np.maximum(bottom, 1) >= value))


def _last(flags: NDArray[np.bool_]) -> NDArray[np.intp]:
    return np.asarray(flags.shape[1] - 1 - np.argmax(flags[:, ::-1], axis=1))


def _cut(score: Floats, present: NDArray[np.bool_], best: NDArray[np.intp]) -> Floats:
    """Return the point midway between the neighbours of cut `best` (R,), among the probabilities that were drawn: `present` (R, m)."""
    called = np.arange(len(score)) < best[:, None]
    before, after = present & called, present & ~called
    nobody = (
        1.0 if score[0] < 1 else np.nextafter(1.0, 2)
    )  # a probability of exactly 1 is below no threshold up to 1
    upper = np.where(before.any(axis=1), score[_last(before)], nobody)
    lower = np.where(after.any(axis=1), score[np.argmax(after, axis=1)], 0.0)
    middle = (upper + lower) / 2
    return np.asarray(
        np.where(middle > lower, middle, upper)
    )  # of two neighbouring floating-point numbers the middle is one of them


def _unanswered(label: Ints, probability: Floats, rule: str) -> str:
    name, _ = parse_rule(rule)
    if name != "npv":
        needs = {"youden": "both classes", "specificity": "negative patients"}.get(
            name, "positive patients"
        )
        return f"rule (={rule}) needs {needs} in the data it is chosen on."
    _, tp, fp, _ = _cumulative(label, probability, np.ones((1, len(label))))
    tn, fn = fp[0, -1] - fp[0, :-1], tp[0, -1] - tp[0, :-1]
    best = float((tn / (tn + fn)).max())
    return f"rule (={rule}): the best negative predictive value on these patients is {best:.4f}. Ask for less, or use sensitivity=X."
