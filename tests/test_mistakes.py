"""The worst mistakes are the most confident ones, each of another patient."""

from __future__ import annotations

import pytest

from ecgfit.reports.evaluated_split import EvaluatedSplit
from ecgfit.reports.mistakes import N_MISTAKES, Mistake, draw_mistakes, worst_mistakes
from ecgprep.store.reader import Store


@pytest.fixture(scope="module")
def evaluated(trained_run) -> EvaluatedSplit:
    return EvaluatedSplit.load(trained_run, "val")


@pytest.fixture(scope="module")
def every(evaluated) -> list[Mistake]:
    return worst_mistakes(evaluated, n=1000)


def test_they_are_the_false_calls_the_most_confident_first(trained_run, evaluated, every):
    positives = [one.probability for one in every if one.kind == "false positive"]
    negatives = [one.probability for one in every if one.kind == "false negative"]
    assert positives == sorted(positives, reverse=True)
    assert negatives == sorted(negatives)
    assert all(p >= trained_run.threshold for p in positives)
    assert all(p < trained_run.threshold for p in negatives)
    confusion = evaluated.metrics["confusion"]
    assert (len(positives), len(negatives)) == (confusion["fp"], confusion["fn"])
    assert every


def test_each_is_of_another_patient_and_shows_the_recording_that_misled_most(evaluated, every):
    records = evaluated.records
    patient_of = dict(zip(records.rows.tolist(), records.patient.tolist(), strict=True))
    assert len({patient_of[one.row] for one in every}) == len(every)
    probability, _ = records.probability_and_threshold(
        evaluated.run.calibration, evaluated.run.threshold
    )
    for one in every:
        own = probability[records.patient == patient_of[one.row]]
        worst = own.max() if one.kind == "false positive" else own.min()
        assert one.probability_of_recording == pytest.approx(worst)
        assert one.n_recordings == len(own)


def test_they_are_drawn_with_row_and_probability(evaluated, every, tiny_store: Store):
    drawn = draw_mistakes(evaluated, tiny_store)
    assert 0 < len(drawn) <= 2 * N_MISTAKES
    first = worst_mistakes(evaluated)[0]
    assert drawn[0].title == first.kind.capitalize()
    start = f"Store row {first.row}, probability {first.probability:.3f}"
    assert drawn[0].caption.startswith(start)
    assert drawn[0].svg.startswith("<svg")
