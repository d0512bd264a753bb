"""Augmentation: shapes and padding stay, leads stay together, numbers come from the draws alone."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ecgfit.data.augment import (
    AUGMENTATIONS,
    LEAD_DROP,
    MAX_SHIFT_SAMPLES,
    NOISE_STARTS,
    Draws,
    draw,
    noise,
)
from ecgfit.data.model_input import ModelInput
from ecgfit.data.statistics import CovariateStats, NormStats, SeenRange

SPAN = (20, 480)
ABSENT = 3


def model_input(mean: float = 0.0, std: float = 1000.0) -> ModelInput:
    """Leads of equal mean and deviation in µV; the ninth channel tells what is signal."""
    seen = SeenRange((500.0,), ((0.0, 1.0),) * 8, 100, 8, ())
    return ModelInput(
        NormStats((mean,) * 8, (std,) * 8, 1, CovariateStats(), seen), "mask"
    ).requires_grad_(False)


def batch(
    n: int = 64, n_samples: int = 500, span: tuple[int, int] = SPAN
) -> tuple[Tensor, Tensor, Tensor]:
    """Waveforms, of which one lead is absent, lead mask and span."""
    mask = torch.ones(n, 8, dtype=torch.bool)
    mask[:, ABSENT] = False
    waveforms = torch.randint(
        -3000,
        3000,
        (n, 8, n_samples),
        dtype=torch.int16,
        generator=torch.Generator().manual_seed(0),
    )
    waveforms *= mask[:, :, None]
    waveforms[:, :, : span[0]] = waveforms[:, :, span[1] :] = 0
    return waveforms, mask, torch.tensor([span] * n, dtype=torch.int32)


def draws(seed: int = 1, total: int = 64, first: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), total, first)


def augmented(
    names: str | tuple[str, ...],
    inputs: tuple[Tensor, Tensor, Tensor],
    numbers: Draws | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the leads and the ninth channel."""
    names = (names,) if isinstance(names, str) else names
    numbers = numbers or draws(total=len(inputs[0]))
    drawn = draw(names, numbers, inputs[0].shape)
    x, _ = model_input()(*inputs, None, drawn)
    return x[:, :8], x[:, 8]


def test_noise_is_between_one_and_three_percent_and_only_where_there_is_signal():
    inputs = batch(n_samples=5000, span=(20, 4980))
    (x, _), (y, signal) = augmented((), inputs), augmented("noise", inputs)
    noise = y - x
    sigma = noise[:, [0, 1, 2, 4, 5, 6, 7], 20:4980].flatten(1).std(dim=1)
    assert 0.0097 < sigma.min() < 0.012
    assert 0.028 < sigma.max() < 0.0303
    assert not noise[:, ABSENT].any()
    assert not noise[:, :, :20].any()
    assert not noise[:, :, 4980:].any()
    assert (signal[:, 20:4980] == 7 / 8).all()


def test_noise_is_normal_white_and_another_for_each_lead():
    inputs = batch(n=200, n_samples=2000, span=(0, 2000))
    drawn = draw(("noise",), draws(total=200), inputs[0].shape)
    found = noise(drawn, 2000).double().numpy()
    assert stats.kstest(found.ravel()[::10], "norm").pvalue > 0.001
    following = (found[..., 1:] * found[..., :-1]).mean(axis=2)
    assert abs(following.mean()) < 4 / np.sqrt(found.size)
    between = np.array([np.corrcoef(record)[np.triu_indices(8, 1)] for record in found])
    assert np.abs(between).max() < 6 / np.sqrt(2000)
    # Of 1,600: two leads in a thousand share a start by chance.
    assert len(drawn["noise_start"].unique()) > 1500
    every = draws(total=4096).integers(0, NOISE_STARTS - 1, 4096, 64)
    assert 0 <= every.min() < 200
    assert NOISE_STARTS - 200 < every.max() < NOISE_STARTS
    assert len(drawn["normal"].unfold(0, 2000, 1)) == NOISE_STARTS


def test_scale_is_one_factor_per_record_within_ten_percent():
    inputs = batch()
    (x, _), (y, _) = augmented((), inputs), augmented("scale", inputs)
    factor = torch.where(x == 0, torch.nan, y / x).flatten(1)
    low, high = np.nanmin(factor, axis=1), np.nanmax(factor, axis=1)
    np.testing.assert_allclose(low, high, rtol=1e-5)
    assert 0.9 <= low.min() < 0.92
    assert 1.08 < high.max() <= 1.1001


def test_shift_moves_all_leads_and_the_padding_together():
    inputs = batch(span=(5, 500))  # near both ends, so that some of it is moved out
    (x, signal), (y, moved) = augmented((), inputs), augmented("shift", inputs)
    seen = set()
    for i in range(len(x)):
        possible = range(-MAX_SHIFT_SAMPLES, MAX_SHIFT_SAMPLES + 1)
        by = next(k for k in possible if torch.equal(shifted(x[i], k), y[i]))
        assert torch.equal(shifted(signal[i][None], by)[0], moved[i])
        seen.add(by)
    assert min(seen) < -7
    assert max(seen) > 7


def shifted(x: Tensor, by: int) -> Tensor:
    out = torch.zeros_like(x)
    out[:, max(0, by) : x.shape[1] + min(0, by)] = x[:, max(0, -by) : x.shape[1] - max(0, by)]
    return out


def test_leadmask_takes_whole_leads_away_one_in_ten():
    inputs = batch(n=500)
    (x, _), (y, signal) = augmented((), inputs), augmented("leadmask", inputs)
    gone = ~y.any(dim=2)
    assert torch.equal(y, torch.where(gone[:, :, None], 0, x))
    assert torch.equal(signal[:, 100], (~gone).float().mean(dim=1))
    others = gone[:, [0, 1, 2, 4, 5, 6, 7]]
    assert others.float().mean().item() == pytest.approx(LEAD_DROP, abs=0.02)
    assert others.any(dim=0).all()


def test_noise_does_not_wake_a_lead_that_was_taken_away():
    y, signal = augmented(("leadmask", "noise"), batch())
    silent = ~y.any(dim=2)
    assert torch.equal(signal[:, 100], (~silent).float().mean(dim=1))
    assert silent[:, [0, 1, 2, 4, 5, 6, 7]].any()


def test_all_together_are_the_formula():
    """Against the same in numpy, a record at a time: shift, z-score, scale, noise, then masks."""
    waveforms, mask, span = batch(n=16)
    drawn = draw(tuple(AUGMENTATIONS), draws(total=16), waveforms.shape)
    x, _ = model_input(mean=40.0, std=700.0)(waveforms, mask, span, None, drawn)
    for i in range(16):
        by = int(drawn["shift"][i])
        rolled = np.roll(waveforms[i].double().numpy(), by, axis=1)
        table = drawn["normal"].double().numpy()
        stretches = np.stack([table[start : start + 500] for start in drawn["noise_start"][i]])
        expected = (rolled - 40) / 700 * float(drawn["scale"][i])
        expected += float(drawn["noise"][i]) * stretches
        expected[:, : SPAN[0] + by] = expected[:, SPAN[1] + by :] = 0
        expected[~(mask[i] & drawn["leadmask"][i]).numpy()] = 0
        np.testing.assert_allclose(x[i, :8].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "names", [(), ("noise",), ("noise", "scale", "shift"), tuple(AUGMENTATIONS)]
)
def test_augmented_batch_is_a_function_of_the_draws(names):
    inputs = batch()
    before = inputs[0].clone()
    one, other = augmented(names, inputs), augmented(names, inputs)
    assert torch.equal(one[0], other[0])
    assert one[0].shape == inputs[0].shape
    assert torch.equal(augmented(names, inputs, draws(2))[0], one[0]) == (not names)
    assert torch.equal(inputs[0], before)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shares_of_a_batch_get_the_numbers_of_the_whole(name):
    inputs = batch(n=7)
    whole = augmented(name, inputs, draws(total=7))
    for part in (slice(0, 3), slice(3, 7)):
        share = augmented(
            name, tuple(tensor[part] for tensor in inputs), draws(total=7, first=part.start)
        )
        assert torch.equal(share[0], whole[0][part])
        assert torch.equal(share[1], whole[1][part])


def test_the_input_is_one_graph_whatever_was_drawn():
    """Nothing in it needs Python or waits for a value: torch.compile refuses graph breaks here."""
    inputs = batch(n=4)
    whole = torch.compile(model_input(), fullgraph=True, backend="aot_eager")
    for seed in (1, 2):
        drawn = draw(tuple(AUGMENTATIONS), draws(seed, total=4), inputs[0].shape)
        assert torch.equal(whole(*inputs, None, drawn)[0], model_input()(*inputs, None, drawn)[0])


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch.compile
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"
)
def test_the_compiled_input_equals_the_eager_one():
    compiled = torch.compile(model_input(), fullgraph=True)
    for n in (32, 32, 5):
        inputs = batch(n=n)
        drawn = draw(tuple(AUGMENTATIONS), draws(n, total=n), inputs[0].shape)
        torch.testing.assert_close(
            compiled(*inputs, None, drawn)[0],
            model_input()(*inputs, None, drawn)[0],
            rtol=1e-6,
            atol=1e-6,
        )
