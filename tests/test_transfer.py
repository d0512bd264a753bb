"""Transfer does what it says to every tensor, and to no other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ecgfit.models.factory import build_model
from ecgfit.training.ema import Ema
from ecgfit.training.transfer import freeze_backbone, load_matching, parameter_groups, train_mode

X, TABULAR, LABEL = (
    torch.randn(4, 8, 500, generator=torch.Generator().manual_seed(0)),
    torch.ones(4, 4),
    torch.tensor([0, 1, 0, 1]),
)


def step(model, optimizer, tabular=None):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(X, tabular), LABEL).backward()
    optimizer.step()


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model, before):
    return {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }


class TestLoadMatching:
    def test_same_network_is_loaded_whole(self):
        source, model = build_model("resnet1d", 8, 0), build_model("resnet1d", 8, 1)
        result = load_matching(model, source.state_dict())
        assert result == (list(model.state_dict()), [], [])
        assert not changed(model, source.state_dict())

    def test_other_leads_skip_what_works_on_leads_alone(self):
        source, model = build_model("resnet1d", 9, 0), build_model("resnet1d", 8, 1)
        own = copied(model)
        result = load_matching(model, source.state_dict())
        norm = [
            f"stem.per_lead.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")
        ]
        untouched = [
            "stem.per_lead.0.weight",
            *norm,
            "stem.per_lead.1.num_batches_tracked",
            "stem.mix.0.weight",
        ]
        assert result.untouched == untouched
        assert ("stem.per_lead.0.weight", "(72, 1, 9) there, (64, 1, 9) here") in result.skipped
        assert [name for name, _ in result.skipped] == untouched
        assert (
            changed(model, source.state_dict() | {name: own[name] for name in untouched}) == set()
        )

    def test_an_encoder_moves_into_late_fusion_and_its_head_does_not(self):
        source, model = build_model("resnet1d", 8, 0), build_model("resnet1d", 8, 1, n_tabular=2)
        result = load_matching(model, source.state_dict())
        assert result.skipped == [("head.1.weight", "(2, 128) there, (2, 144) here")]
        assert [name for name in result.untouched if "branch" not in name] == ["ecg.head.1.weight"]
        assert torch.equal(model.ecg.stem.mix[0].weight, source.stem.mix[0].weight)
        back = build_model("resnet1d", 8, 2)
        assert ("branch.layers.0.weight", "not in the model") in load_matching(
            back, model.state_dict()
        ).skipped
        assert torch.equal(back.stem.mix[0].weight, source.stem.mix[0].weight)

    def test_a_batch_norm_is_loaded_as_a_whole_or_not_at_all(self):
        state = build_model("resnet1d", 8, 0).state_dict()
        del state["stem.mix.1.running_mean"]
        model = build_model("resnet1d", 8, 1)
        before = copied(model)
        result = load_matching(model, state)
        names = [
            f"stem.mix.1.{name}"
            for name in ("weight", "bias", "running_var", "num_batches_tracked")
        ]
        assert result.skipped == [
            (name, "another tensor of its BatchNorm does not fit") for name in names
        ]
        assert set(result.untouched) == {*names, "stem.mix.1.running_mean"}
        assert not changed(model, before) & set(result.untouched)

    def test_another_network_is_refused(self):
        model = build_model("resnet1d", 8, 0)
        before = copied(model)
        with pytest.raises(ValueError, match="None of the 2 tensors fits"):
            load_matching(model, nn.Linear(3, 2).state_dict())
        assert not changed(model, before)


@pytest.mark.parametrize(
    ("name", "n_tabular"),
    [("resnet1d", 0), ("xresnet1d18", 0), ("inception1d", 0), ("resnet1d", 2)],
)
def test_frozen_backbone_changes_in_no_parameter_and_no_statistic(name, n_tabular):
    model = build_model(name, 8, 0, n_tabular)
    freeze_backbone(model)
    train_mode(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, 0.1))
    before = copied(model)
    for _ in range(2):
        step(model, optimizer, TABULAR if n_tabular else None)
    trained = {name for name, _ in model.named_parameters() if "head" in name or "branch" in name}
    assert changed(model, before) >= trained
    assert all("head" in name or "branch" in name for name in changed(model, before))


def test_frozen_parts_drop_nothing_and_the_head_does():
    model = build_model("resnet1d", 8, 0, n_tabular=2)
    freeze_backbone(model)
    train_mode(model)
    dropping = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Dropout) and module.training
    }
    assert dropping == {"ecg.head.0", "branch.layers.2"}


def test_train_mode_of_a_free_model_is_train():
    model = build_model("resnet1d", 8, 0).eval()
    train_mode(model)
    assert all(module.training for module in model.modules())


class TestParameterGroups:
    def test_without_layer_decay_it_is_one_group_of_all_parameters_in_order(self):
        for n_tabular in (0, 2):
            model = build_model("resnet1d", 8, 0, n_tabular)
            (group,) = parameter_groups(model, 0.001, 0.05)
            assert {key: group[key] for key in ("lr", "weight_decay", "lr_factor")} == {
                "lr": 0.001,
                "weight_decay": 0.05,
                "lr_factor": 1.0,
            }
            assert list(map(id, group["params"])) == list(map(id, model.parameters()))

    def test_learning_rates_fall_from_the_head_down(self):
        model = build_model("resnet1d", 8, 0)
        groups = parameter_groups(model, 0.01, 0.1, layer_decay=0.5)
        assert [group["lr"] for group in groups] == [0.01 / 16, 0.01 / 8, 0.01 / 4, 0.01 / 2, 0.01]
        assert [group["lr_factor"] for group in groups] == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
        assert groups[0]["params"][0] is model.stem.per_lead[0].weight
        assert groups[-1]["params"][0] is model.head[1].weight

    def test_vectors_are_not_decayed_on_request(self):
        model = build_model("xresnet1d18", 8, 0)
        groups = parameter_groups(model, 0.01, 0.1, decay_norm_and_bias=False)
        assert [
            (group["weight_decay"], {parameter.ndim > 1 for parameter in group["params"]})
            for group in groups
        ] == [(0.1, {True}), (0.0, {False})]
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))

    def test_frozen_parameters_are_left_out_but_count_as_depth(self):
        model = build_model("resnet1d", 8, 0)
        model.stem.requires_grad_(False)
        assert [group["lr_factor"] for group in parameter_groups(model, 1.0, 0.0, 0.5)] == [
            1 / 8,
            1 / 4,
            1 / 2,
            1,
        ]
        model.requires_grad_(False)
        with pytest.raises(ValueError, match="Every parameter is frozen"):
            parameter_groups(model, 1.0, 0.0)

    def test_the_factor_survives_the_optimizer_and_its_checkpoint(self):
        optimizers = [
            torch.optim.AdamW(parameter_groups(build_model("resnet1d", 8, 0), 0.01, 0.1, factor))
            for factor in (0.5, 0.9)
        ]
        optimizers[1].load_state_dict(optimizers[0].state_dict())
        assert [group["lr_factor"] for group in optimizers[1].param_groups] == [
            1 / 16,
            1 / 8,
            1 / 4,
            1 / 2,
            1,
        ]


class TestEma:
    def test_average_is_the_formula(self):
        model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
        weights, expected = [1.0, 3.0, -2.0, 5.0, 0.5], 1.0
        nn.init.constant_(model[0].weight, weights[0])
        ema = Ema(model, decay=0.25)
        for t, weight in enumerate(weights[1:]):
            nn.init.constant_(model[0].weight, weight)
            model[1].running_mean.fill_(weight)
            model[1].num_batches_tracked += 1
            ema.update(model)
            decay = min(0.25, (1 + t) / (10 + t))
            expected = decay * expected + (1 - decay) * weight
        average = ema.averaged_state()
        assert average["0.weight"].item() == pytest.approx(expected, rel=1e-6)
        mean = 0.1 * 0 + 0.9 * 3
        for decay, weight in ((2 / 11, -2), (3 / 12, 5), (0.25, 0.5)):
            mean = decay * mean + (1 - decay) * weight
        assert average["1.running_mean"].item() == pytest.approx(mean, rel=1e-6)
        assert average["1.num_batches_tracked"] == 4

    def test_resumed_average_is_the_uninterrupted_one_to_the_bit(self):
        model = build_model("resnet1d", 8, 0)
        optimizer, ema = torch.optim.AdamW(model.parameters(), lr=0.01), Ema(model, 0.9)
        for i in range(4):
            step(model, optimizer)
            ema.update(model)
            if i == 1:
                saved, states = copy.deepcopy(ema.state_dict()), []
            if i > 1:
                states.append(copy.deepcopy(model))
        resumed = Ema(build_model("resnet1d", 8, 5), 0.9)
        resumed.load_state_dict(saved)
        for state in states:
            resumed.update(state)
        expected = ema.averaged_state()
        assert all(
            torch.equal(tensor, expected[name]) for name, tensor in resumed.averaged_state().items()
        )

    def test_average_touches_the_model_only_when_asked(self):
        model = build_model("resnet1d", 8, 0)
        ema, before = Ema(model, 0.9), copied(model)
        with torch.no_grad():
            model.stem.mix[0].weight.add_(1)
        ema.update(model)
        assert changed(model, before) == {"stem.mix.0.weight"}
        ema.copy_to(model)
        assert torch.allclose(
            model.stem.mix[0].weight, before["stem.mix.0.weight"] + 0.9, atol=1e-5
        )
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_what_cannot_be_an_average_is_refused(self):
        model = build_model("resnet1d", 8, 0)
        for decay in (-0.1, 1.0, float("nan")):
            with pytest.raises(ValueError, match="must be at least 0 and below 1"):
                Ema(model, decay)
        with pytest.raises(KeyError, match="another model"):
            Ema(model, 0.9).load_state_dict(Ema(build_model("resnet1d", 9, 0), 0.9).state_dict())
