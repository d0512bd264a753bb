"""The default network has the size that its page promises."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ecgfit.models import MODELS, build_model, count_macs, count_parameters


@pytest.mark.parametrize("n_channels", [8, 9])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_two_per_recording_for_any_length(name, n_channels):
    model = build_model(name, n_channels, seed=0).eval()
    for n_samples in (1000, 2500, 4998, 5000):
        assert model(torch.zeros(2, n_channels, n_samples)).shape == (2, 2)


def test_default_is_small_enough_for_two_cores():
    model = build_model("resnet1d", 8, seed=0)
    assert count_parameters(model) <= 1_000_000
    assert count_macs(model, 8, 5000) <= 120_000_000


def test_macs_are_counted_as_by_hand():
    model = nn.Sequential(nn.Conv1d(8, 16, 5, 2, 2), nn.Flatten(), nn.Linear(16 * 50, 2))
    assert count_macs(model, 8, 100) == 50 * 16 * 8 * 5 + 16 * 50 * 2


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_global_state():
    before = torch.get_rng_state()
    one, same, other = (build_model("resnet1d", 8, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
