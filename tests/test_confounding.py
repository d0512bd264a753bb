"""The confounding probe, against cohorts whose answer is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ecgprep.patients.confounding import probe_confounding


def fake_store(label, rate, mask=None, patient=None):
    n = len(label)
    arrays = {
        "label": np.asarray(label, np.int8),
        "patient": np.asarray(np.arange(n) if patient is None else patient, np.int32),
        "rate_hz": np.asarray(rate, np.float32),
        "lead_mask": np.ones((n, 8), bool) if mask is None else mask,
        "valid_span": np.tile(np.array([0, 5000], np.int32), (n, 1)),
    }

    class Fake(SimpleNamespace):
        def __len__(self):
            return n

        def array(self, name):
            return arrays[name]

    return Fake(n_samples=5000, attributes={"settings": {}})


def test_labels_that_do_not_depend_on_the_origin_give_one_half():
    generator = np.random.default_rng(1)
    label = generator.random(4000) < 0.1
    store = fake_store(label, generator.choice([250, 500, 1000], 4000))
    probe = probe_confounding(store, list(generator.choice(["muse", "aecg"], 4000)))
    assert probe.n == 4000
    assert all(abs(value - 0.5) < 0.05 for value in probe.auroc.values())
    assert probe.warning is None


def test_a_rate_that_follows_the_label_is_found_and_named():
    generator = np.random.default_rng(2)
    label = generator.random(1000) < 0.2
    rate = np.where(label ^ (generator.random(1000) < 0.1), 250, 500)
    probe = probe_confounding(fake_store(label, rate))
    assert probe.auroc["rate"] == pytest.approx(0.9, abs=0.03)
    assert probe.auroc["leads"] == 0.5
    assert "AUROC of 0.9" in probe.warning


def test_leads_that_follow_the_label_are_found():
    label = np.arange(200) % 2
    mask = np.ones((200, 8), bool)
    mask[label == 1, 3] = False
    assert probe_confounding(fake_store(label, np.full(200, 500), mask)).auroc["leads"] == 1.0


def test_a_patient_is_never_on_both_sides():
    """An origin of its own for every patient predicts nothing about other patients."""
    patient = np.repeat(np.arange(100), 10)
    label = patient % 2
    probe = probe_confounding(fake_store(label, 500 + patient, patient=patient))
    assert probe.auroc["rate"] == pytest.approx(0.5, abs=0.05)


def test_too_few_patients_give_no_figure():
    assert probe_confounding(fake_store([1] * 4 + [0] * 50, [500] * 54)).auroc["all"] is None
    assert probe_confounding(fake_store([-1] * 10, [500] * 10)).auroc["all"] is None


def test_dialects_that_follow_the_label_are_found():
    label = np.arange(200) % 2
    store = fake_store(label, np.full(200, 500))
    dialects = [("muse", "aecg")[value] for value in label]
    assert probe_confounding(store, dialects).auroc["dialect"] == 1.0


def test_simulated_corpus_warns_of_nothing(tiny_store):
    assert probe_confounding(tiny_store).warning is None
