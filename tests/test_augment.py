"""Augmentation: shapes and padding stay, leads stay together, and numbers come from the generator alone."""

from __future__ import annotations

import pytest
import torch

from ecgfit.augment import MAX_SHIFT_SAMPLES, augment, noise, scale, shift


def batch(n: int = 64, n_samples: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    valid = torch.zeros(n, 8, n_samples, dtype=torch.bool)
    valid[:, :, 20:-20] = True
    valid[:, 3] = False
    return torch.randn(n, 8, n_samples, generator=torch.Generator().manual_seed(0)) * valid, valid


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_is_between_one_and_three_percent_and_only_where_there_is_signal():
    x, valid = batch(n_samples=5000)
    y, still = noise(x, valid, generator())
    sigma = torch.stack([(y - x)[i][valid[i]].std() for i in range(len(x))])
    assert 0.0097 < sigma.min() < 0.012
    assert 0.028 < sigma.max() < 0.0303
    assert not (y - x)[~valid].any()
    assert still is valid


def test_scale_is_one_factor_per_record_within_ten_percent():
    x, valid = batch()
    y, _ = scale(x, valid, generator())
    factor = (y[valid] / x[valid]).reshape(len(x), -1)
    assert torch.allclose(factor, factor[:, :1], rtol=1e-4)
    assert 0.9 <= factor.min() < 0.92
    assert 1.08 < factor.max() <= 1.1001


def test_shift_moves_all_leads_together_with_zero_fill():
    x, valid = batch()
    y, still = shift(x, valid, generator())
    seen = set()
    for i in range(len(x)):
        by = next(k for k in range(-MAX_SHIFT_SAMPLES, MAX_SHIFT_SAMPLES + 1) if torch.equal(shifted(x[i], k), y[i]))
        assert torch.equal(shifted(valid[i], by), still[i])
        seen.add(by)
    assert min(seen) < -7
    assert max(seen) > 7


def shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    out = torch.zeros_like(x)
    out[:, max(0, by) : x.shape[1] + min(0, by)] = x[:, max(0, -by) : x.shape[1] - max(0, by)]
    return out


@pytest.mark.parametrize("names", [(), ("noise",), ("noise", "scale", "shift")])
def test_augment_is_a_function_of_the_generator(names):
    x, valid = batch()
    one, other = augment(x, valid, names, generator()), augment(x, valid, names, generator())
    assert torch.equal(one[0], other[0])
    assert one[0].shape == x.shape
    assert torch.equal(augment(x, valid, names, generator(2))[0], one[0]) == (not names)
    assert not one[0][~one[1]].any()
