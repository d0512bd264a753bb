"""Every network has its published size, and keeps the calls that training relies on."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ecgfit.models.arguments import MODEL_ARGS, MODEL_NAMES, check_model_args
from ecgfit.models.factory import MODELS, build_model, count_macs, count_parameters
from ecgfit.models.network import BatchNorm, Dropout, GroupMean, PointwiseConv
from ecgfit.models.resnet1d import MovingAverage, PerLeadConv, Stem
from ecgfit.models.tabular import LateFusion, TabularBranch

sys.path.append(str(Path(__file__).parent.parent / "bench"))

from plain_layers import plain

SECOND_LOGIT = 129
"""Parameters of the second logit, 128 weights and a bias: published sizes have one output."""


@pytest.fixture(autouse=True, scope="module")
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_channels", [8, 9])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_two_per_recording_for_any_length(name, n_channels):
    model = build_model(name, n_channels, seed=0, model_args={"width": 0.25}).eval()
    for n_samples in (1000, 2500, 4998, 4999, 5000):
        x = torch.zeros(2, n_channels, n_samples)
        assert model(x).shape == model(x, None).shape == (2, 2)
    assert model.features(x).shape == (2, model.n_features)


def test_default_is_small_enough_for_two_cores():
    model = build_model("resnet1d", 8, seed=0)
    assert count_parameters(model) <= 1_000_000
    assert count_macs(model, 8, 5000) <= 120_000_000


@pytest.mark.parametrize(
    ("name", "millions", "giga_macs"),
    [
        ("xresnet1d18", "0.364", "0.23"),
        ("xresnet1d34", "0.694", "0.39"),
        ("xresnet1d50", "0.953", "0.52"),
        ("xresnet1d101", "1.871", "0.81"),
        ("inception1d", "0.506", "2.35"),
    ],
)
def test_published_networks_have_their_published_size(name, millions, giga_macs):
    """Computed from the published code, for 8 leads of 5,000 samples and one output.

    The code is that of github.com/helme/ecg_ptbxl_benchmarking.
    """
    model = build_model(name, 8, seed=0)
    assert f"{(count_parameters(model) - SECOND_LOGIT) / 1e6:.3f}" == millions
    assert f"{count_macs(model, 8, 5000) / 1e9:.2f}" == giga_macs


def test_macs_are_counted_as_by_hand():
    model = nn.Sequential(nn.Conv1d(8, 16, 5, 2, 2, groups=4), nn.Flatten(), nn.Linear(16 * 50, 2))
    assert count_macs(model, 8, 100) == 50 * 16 * 2 * 5 + 16 * 50 * 2


def test_macs_of_covariates_count_too_and_no_mode_is_changed():
    alone, both = (build_model("resnet1d", 8, 0, n_tabular).train() for n_tabular in (0, 3))
    both.ecg.stem.eval()
    assert count_macs(both, 8, 5000, 3) - count_macs(alone, 8, 5000) == 6 * 16 + 16 * 16 + 16 * 2
    assert both.branch.training
    assert both.ecg.blocks[0].dropout.training
    assert not any(module.training for module in both.ecg.stem.modules())


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_global_state():
    before = torch.get_rng_state()
    for settings in (
        {"name": "resnet1d"},
        {"name": "xresnet1d18", "n_tabular": 2},
        {"name": "resnet1d", "n_tabular": 2, "ecg": False},
    ):
        one, same, other = (
            build_model(n_channels=8, seed=seed, **settings).state_dict() for seed in (1, 1, 2)
        )
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert any(not torch.equal(one[key], other[key]) for key in one)


def test_encoder_starts_the_same_with_and_without_covariates():
    alone, both = (build_model("resnet1d", 8, 0, n_tabular).state_dict() for n_tabular in (0, 2))
    encoder = [name for name in alone if not name.startswith("head")]
    assert all(torch.equal(alone[name], both[f"ecg.{name}"]) for name in encoder)


@pytest.mark.parametrize(
    "settings",
    [{}, {"n_tabular": 2}, {"n_tabular": 2, "ecg": False}],
    ids=["ecg", "both", "tabular"],
)
@pytest.mark.parametrize("name", MODELS)
def test_depth_groups_hold_every_parameter_once(name, settings):
    model = build_model(name, 8, 0, **settings)
    grouped = [
        parameter
        for group in model.depth_groups()
        for module in group
        for parameter in module.parameters()
    ]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
    last = {
        id(parameter) for module in model.depth_groups()[-1] for parameter in module.parameters()
    }
    assert {id(parameter) for name, parameter in model.named_parameters() if "head" in name} <= last


@pytest.mark.parametrize(
    "settings",
    [{}, {"n_tabular": 2}, {"n_tabular": 2, "ecg": False}],
    ids=["ecg", "both", "tabular"],
)
@pytest.mark.parametrize("name", ["resnet1d", "xresnet1d18", "inception1d"])
def test_logits_are_float32_under_autocast_and_finer_than_bfloat16(name, settings):
    model = build_model(name, 8, 0, **settings).eval()
    x, tabular = torch.randn(2, 8, 1000), torch.randn(2, 4) if settings else None
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x, tabular)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_filters_per_lead_are_a_grouped_convolution():
    grouped = torch.nn.Conv1d(8, 64, 9, padding=4, groups=8, bias=False)
    dense = PerLeadConv(8, 8, 9)
    dense.load_state_dict(grouped.state_dict())
    x = torch.randn(2, 8, 100)
    assert torch.allclose(dense(x), grouped(x), atol=1e-6)
    dense(x).square().sum().backward()
    grouped(x).square().sum().backward()
    assert torch.allclose(dense.weight.grad, grouped.weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("n_samples", [5000, 4996, 1203])
@pytest.mark.parametrize("n_channels", [8, 9])
def test_default_network_is_the_one_of_plain_layers(n_channels, n_samples, training):
    """Logits, every gradient, that of the input too, and running statistics after three steps."""
    fast = build_model("resnet1d", n_channels, 0, model_args={"dropout": 0}).train(training)
    fast.head[0].p = 0
    slow = plain(fast)
    assert not {type(module) for module in slow.modules()} & {
        BatchNorm,
        GroupMean,
        MovingAverage,
        PerLeadConv,
        PointwiseConv,
    }
    for step in range(3):
        made = (
            torch.randn(4, n_channels, n_samples, generator=torch.Generator().manual_seed(step))
            + 0.5
        )
        x, same = made.clone().requires_grad_(), made.clone().requires_grad_()
        logits, expected = fast(x), slow(same)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        for model, output in ((fast, logits), (slow, expected)):
            model.zero_grad()
            F.cross_entropy(output, torch.tensor([0, 1, 0, 1])).backward()
        for found, wanted in (
            (x.grad, same.grad),
            *((p.grad, q.grad) for p, q in zip(fast.parameters(), slow.parameters(), strict=True)),
        ):
            torch.testing.assert_close(
                found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())
            )
    for (name, found), wanted in zip(fast.named_buffers(), slow.buffers(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["xresnet1d18", "xresnet1d50", "inception1d"])
def test_published_networks_are_those_of_plain_layers(name):
    fast = build_model(name, 8, 0, model_args={"width": 0.25, "dropout": 0})
    slow = plain(fast)
    assert not {type(module) for module in slow.modules()} & {BatchNorm, GroupMean}
    x = torch.randn(8, 8, 1003, generator=torch.Generator().manual_seed(0))
    for model in (fast.train(), slow.train()):
        F.cross_entropy(model(x), torch.arange(8) % 2).backward()
    for found, wanted in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(
            found.grad, wanted.grad, rtol=2e-3, atol=1e-3 * float(wanted.grad.abs().max()) + 1e-6
        )
    torch.testing.assert_close(fast.eval()(x), slow.eval()(x), rtol=1e-4, atol=1e-5)


def test_one_value_is_refused_as_by_pytorch():
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        BatchNorm(5)(torch.zeros(1, 5))


def test_batch_norm_is_that_of_pytorch_far_from_zero_and_of_rows_too():
    generator = torch.Generator().manual_seed(0)
    for x in (
        torch.randn(6, 5, 300, generator=generator) * 0.5 + 20,
        torch.randn(32, 5, generator=generator) * 3 - 7,
    ):
        layer, reference = BatchNorm(5), nn.BatchNorm1d(5).double()
        torch.testing.assert_close(layer(x).double(), reference(x.double()), rtol=1e-3, atol=1e-3)
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(
                getattr(layer, name).double(), getattr(reference, name), rtol=1e-3, atol=1e-6
            )
        assert layer.num_batches_tracked == 1


def test_dropout_drops_its_share_and_keeps_the_mean_and_repeats():
    layer, x = Dropout(0.3), torch.ones(100, 33, 100)
    torch.manual_seed(0)
    y = layer(x)
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=0.003)
    assert y.mean().item() == pytest.approx(1, abs=0.005)
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert not torch.equal(layer(x), y)
    torch.manual_seed(0)
    assert torch.equal(layer(x), y)
    assert torch.equal(layer.eval()(x), x)


def test_the_stem_takes_drift_off_and_leaves_beats():
    stem, t = Stem(8, 32).eval(), torch.arange(5000) / 500

    def left(x):
        decimated = stem.decimate(x[None, None].float())
        middle = slice(100, -100)
        return (decimated - stem.smooth(stem.smooth(decimated)))[..., middle].std() / decimated[
            ..., middle
        ].std()

    assert left(torch.sin(2 * torch.pi * 0.2 * t)) < 0.06
    assert left(torch.sin(2 * torch.pi * 0.94 * t)) == pytest.approx(0.707, abs=0.03)
    assert left(torch.sin(2 * torch.pi * 8 * t)) == pytest.approx(1, abs=0.02)
    shifted = stem(torch.randn(1, 8, 5000)[:, :, :1].expand(-1, -1, 5000))
    assert torch.allclose(shifted, stem(torch.zeros(1, 8, 5000)), atol=1e-5)  # a constant is drift


def test_the_mask_channel_passes_the_stem_as_it_is():
    stem = Stem(9, 32).eval()
    x = torch.zeros(2, 9, 1000)
    x[1, 8] = 1
    assert not torch.allclose(*stem(x))


def test_gradients_of_fusion_reach_both_branches():
    model = build_model("resnet1d", 8, 0, n_tabular=2)
    model(torch.randn(2, 8, 1000), torch.randn(2, 4)).square().sum().backward()
    for name in ("ecg.stem.per_lead.0.weight", "ecg.head.1.weight", "branch.layers.0.weight"):
        assert model.get_parameter(name).grad.abs().sum() > 0


def test_logits_of_fusion_are_the_head_on_features_and_branch():
    model = build_model("resnet1d", 8, 0, n_tabular=2).eval()
    x, tabular = torch.randn(2, 8, 1000), torch.randn(2, 4)
    joined = torch.cat([model.ecg.features(x), model.branch(tabular)], dim=1)
    assert torch.equal(model(x, tabular), model.ecg.head(joined))


def test_tabular_network_ignores_the_waveform():
    model = build_model("resnet1d", 8, 0, n_tabular=2, ecg=False).eval()
    tabular = torch.randn(2, 4)
    assert torch.equal(model(torch.randn(2, 8, 1000), tabular), model(None, tabular))


def test_a_head_that_does_not_fit_is_refused():
    with pytest.raises(
        ValueError, match=r"`n_extra` \(=8\) of the ECG network must be `n_out` \(=16\)"
    ):
        LateFusion(MODELS["resnet1d"](8, 8), TabularBranch(2))
    with pytest.raises(ValueError, match="`extra` has 4 features; the head was built for 0"):
        build_model("resnet1d", 8, 0)(torch.zeros(1, 8, 1000), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="needs covariates"):
        build_model("resnet1d", 8, 0, ecg=False)


@pytest.mark.parametrize("name", MODELS)
def test_every_argument_works_at_both_ends_and_changes_the_network(name):
    default = build_model(name, 8, 0)
    for key, arg in MODEL_ARGS[name].items():
        build_model(name, 8, 0, model_args={key: arg.lowest})(torch.randn(2, 8, 500))
        largest = build_model(name, 8, 0, model_args={key: arg.highest})
        assert str(largest) != str(default), key


@pytest.mark.parametrize("name", ["resnet1d", "xresnet1d50", "inception1d"])
def test_defaults_given_by_hand_change_nothing(name):
    given = build_model(
        name, 8, 0, model_args={key: arg.default for key, arg in MODEL_ARGS[name].items()}
    ).state_dict()
    assert all(
        torch.equal(tensor, given[key])
        for key, tensor in build_model(name, 8, 0).state_dict().items()
    )


def test_arguments_that_a_network_does_not_take_are_all_named_with_what_it_takes():
    given = {"depth": 9, "kernel": 8, "width": float("nan"), "dropout": True, "heads": 2}
    with pytest.raises(ValueError, match="resnet1d does not take") as error:
        check_model_args("resnet1d", given)
    for words in (
        "`depth` (=9)",
        "`kernel` (=8)",
        "`width` (=nan)",
        "`dropout` (=True)",
        "`heads` (=2)",
        "kernel 3 to 31 in steps of 2, default 7",
    ):
        assert words in str(error.value)
    with pytest.raises(ValueError, match="xresnet1d50 does not take `depth`"):
        build_model("xresnet1d50", 8, 0, model_args={"depth": 2})
    with pytest.raises(ValueError, match="`kernel` .*'7'"):
        check_model_args("resnet1d", {"kernel": "7"})
    assert check_model_args("resnet1d", {"kernel": 9.0, "width": 2}) == {"kernel": 9, "width": 2.0}


def test_the_names_without_torch_are_those_of_the_networks():
    assert tuple(MODELS) == MODEL_NAMES == tuple(MODEL_ARGS)


def test_a_config_is_checked_without_torch():
    code = "import ecgfit.config, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("offset", [10, 1e3, 1e6])
def test_statistics_hold_where_the_mean_is_far_from_zero(offset):
    """There the squares cancel, and PyTorch's own sums are taken."""
    x = torch.randn(16, 5, 100, generator=torch.Generator().manual_seed(0)) + offset
    layer, reference = BatchNorm(5), nn.BatchNorm1d(5)
    torch.testing.assert_close(layer(x), reference(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.running_var, reference.running_var, rtol=1e-4, atol=0)
    assert BatchNorm(5).double()(x.double()).dtype == torch.float64


def test_gradients_pass_where_the_mean_is_far_from_zero():
    """A constant channel, such as a filter of the mask channel, must not cut off what is below."""
    below, layer = nn.Conv1d(1, 2, 1), BatchNorm(2)
    reference = nn.BatchNorm1d(2)
    x = torch.randn(4, 1, 50, generator=torch.Generator().manual_seed(0)) * 1e-3 + 5
    weight = torch.randn(4, 2, 50, generator=torch.Generator().manual_seed(1))
    found, wanted = (
        torch.autograd.grad((norm(below(x)) * weight).sum(), below.weight)[0]
        for norm in (layer, reference)
    )
    assert wanted.abs().min() > 0
    torch.testing.assert_close(found, wanted)


class Called(TorchDispatchMode):
    """Notes the operations that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*arguments, **(settings or {}))


NATIVE = {"convolution", "avg_pool2d", "native_batch_norm"}


@pytest.mark.parametrize("n", [1000, 1001, 61])
@pytest.mark.parametrize(
    "layer",
    [
        PerLeadConv(8, 8, 9),
        PointwiseConv(8, 32),
        GroupMean(2, rest=True),
        GroupMean(5, rest=False),
        MovingAverage(61),
        BatchNorm(8),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_elsewhere_than_on_a_cpu_are_single_native_operations(layer, n):
    """What is quick on a CPU would be many small kernels on a GPU.

    Tensors without values, on `meta`, take the same way as those on a GPU.
    """
    here = layer(torch.randn(2, 8, n)).shape
    elsewhere, x = copy.deepcopy(layer).to("meta"), torch.empty(2, 8, n, device="meta")
    with Called() as called:
        assert elsewhere(x).shape == here
    assert len(NATIVE & set(called.names)) == 1
    assert not {"bmm", "stack", "cat", "slice"} & set(called.names)
