"""What the model sees: the z-score, and exact zeros where nothing was measured."""

from __future__ import annotations

import torch

from ecgfit.data.model_input import ModelInput
from ecgfit.data.statistics import CovariateStats, NormStats, SeenRange


def inputs(n: int = 3, n_samples: int = 100) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    waveforms = torch.randint(
        -3000,
        3000,
        (n, 8, n_samples),
        dtype=torch.int16,
        generator=torch.Generator().manual_seed(0),
    )
    mask = torch.ones(n, 8, dtype=torch.bool)
    mask[1, 2] = False
    span = torch.tensor([[0, n_samples], [0, n_samples], [10, 90]], dtype=torch.int32)
    return waveforms, mask, span


def stats_of(mean: tuple[float, ...], std: tuple[float, ...]) -> NormStats:
    return NormStats(
        mean, std, 1, CovariateStats(), SeenRange((500.0,), ((0.0, 1.0),) * 8, 100, 8, ())
    )


def test_model_input_is_the_z_score_and_exactly_zero_elsewhere():
    waveforms, mask, span = inputs()
    x, tabular = ModelInput(stats_of(tuple(range(8)), tuple(range(100, 108))), "drop")(
        waveforms, mask, span
    )
    assert tabular is None
    expected = (waveforms.double() - torch.arange(8)[:, None]) / torch.arange(100, 108)[:, None]
    expected[1, 2] = 0
    expected[2, :, :10] = expected[2, :, 90:] = 0
    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-5)
    assert (x.dtype, x.shape) == (torch.float32, (3, 8, 100))
    assert not x[1, 2].any()
    assert not x[2, :, :10].any()


def test_ninth_channel_is_the_fraction_of_leads_that_is_signal():
    waveforms, mask, span = inputs()
    x, _ = ModelInput(stats_of((0.0,) * 8, (1.0,) * 8), "mask")(waveforms, mask, span)
    assert x.shape == (3, 9, 100)
    assert (x[0, 8] == 1).all()
    assert (x[1, 8] == 7 / 8).all()
    assert x[2, 8].tolist() == [0.0] * 10 + [1.0] * 80 + [0.0] * 10


def test_lead_that_no_train_row_has_stays_finite():
    waveforms, mask, span = inputs()
    assert torch.isfinite(
        ModelInput(stats_of((0.0,) * 8, (0.0,) * 8), "drop")(waveforms, mask, span)[0]
    ).all()
