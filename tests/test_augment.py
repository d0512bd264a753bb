"""Augmentation: shapes and padding stay, leads stay together, and numbers come from the draws alone, whoever takes which part of them."""

from __future__ import annotations

import pytest
import torch

from ecgfit.augment import AUGMENTATIONS, LEAD_DROP, MAX_SHIFT_SAMPLES, Draws, augment, leadmask, noise, scale, shift


def batch(n: int = 64, n_samples: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    valid = torch.zeros(n, 8, n_samples, dtype=torch.bool)
    valid[:, :, 20:-20] = True
    valid[:, 3] = False
    return torch.randn(n, 8, n_samples, generator=torch.Generator().manual_seed(0)) * valid, valid


def draws(seed: int = 1, total: int = 64, first: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), total, first)


def test_noise_is_between_one_and_three_percent_and_only_where_there_is_signal():
    x, valid = batch(n_samples=5000)
    y, still = noise(x, valid, draws())
    sigma = torch.stack([(y - x)[i][valid[i]].std() for i in range(len(x))])
    assert 0.0097 < sigma.min() < 0.012
    assert 0.028 < sigma.max() < 0.0303
    assert not (y - x)[~valid].any()
    assert still is valid


def test_scale_is_one_factor_per_record_within_ten_percent():
    x, valid = batch()
    y, _ = scale(x, valid, draws())
    factor = (y[valid] / x[valid]).reshape(len(x), -1)
    assert torch.allclose(factor, factor[:, :1], rtol=1e-4)
    assert 0.9 <= factor.min() < 0.92
    assert 1.08 < factor.max() <= 1.1001


def test_shift_moves_all_leads_together_with_zero_fill():
    x, valid = batch()
    y, still = shift(x, valid, draws())
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


@pytest.mark.parametrize("names", [(), ("noise",), ("noise", "scale", "shift"), tuple(AUGMENTATIONS)])
def test_augment_is_a_function_of_the_draws(names):
    x, valid = batch()
    one, other = augment(x, valid, names, draws()), augment(x, valid, names, draws())
    assert torch.equal(one[0], other[0])
    assert one[0].shape == x.shape
    assert torch.equal(augment(x, valid, names, draws(2))[0], one[0]) == (not names)
    assert not one[0][~one[1]].any()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shares_of_a_batch_get_the_numbers_of_the_whole(name):
    x, valid = batch(n=7, n_samples=200)
    whole = AUGMENTATIONS[name](x, valid, draws(total=7))
    for part in (slice(0, 3), slice(3, 7)):
        share = AUGMENTATIONS[name](x[part], valid[part], draws(total=7, first=part.start))
        assert torch.equal(share[0], whole[0][part])
        assert torch.equal(share[1], whole[1][part])


def test_leadmask_takes_whole_leads_away_one_in_ten():
    x, valid = batch(n=500, n_samples=50)
    y, still = leadmask(x, valid, draws(total=500))
    gone = ~still.any(dim=2)
    assert torch.equal(y, torch.where(gone[:, :, None], 0, x))
    assert torch.equal(still, valid & ~gone[:, :, None])
    others = gone[:, [0, 1, 2, 4, 5, 6, 7]]
    assert others.float().mean().item() == pytest.approx(LEAD_DROP, abs=0.02)
    assert others.any(dim=0).all()


def test_noise_does_not_wake_a_lead_that_was_taken_away():
    x, valid = batch(n=64, n_samples=50)
    y, still = augment(x, valid, ("leadmask", "noise"), draws())
    assert not y[~still].any()
    assert (valid & ~still).any()
