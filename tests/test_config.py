"""Config: every wrong key and value is named; numbers written as YAML writes them are read."""

from __future__ import annotations

import os
import re

import click
import pytest

from ecgfit.cli import training_options
from ecgfit.config import TrainConfig, make_config, parse_settings, read_config
from ecgfit.run_files import save_config
from ecgprep.errors import InputError


def config_of(tmp_path, text, **overrides):
    (tmp_path / "c.yaml").write_text(text)
    return read_config(tmp_path / "c.yaml", overrides)


def test_defaults_are_those_of_the_help_text():
    text = {
        option.name: re.search(r"\[default: (.*)\]", option.help or "")
        for option in training_options(click.Command("x")).params
    }
    said = {name: found[1] for name, found in text.items() if found}
    assert said.keys() >= {
        "lr",
        "weight_decay",
        "epochs",
        "ema",
        "scheduler",
        "calibration",
        "threshold",
    }
    for name, value in said.items():
        default = getattr(TrainConfig(), name)
        in_words = {
            "tabular": "none",
            "model_args": "the network's own",
            "aug": "all four",
            "threads": "all cores",
        }
        assert value == in_words.get(name) or default == type(default)(
            float(value) if isinstance(default, float) else value
        )
    assert TrainConfig().aug == ("noise", "scale", "shift", "leadmask")


def test_number_that_yaml_reads_as_text_is_a_number(tmp_path):
    assert config_of(tmp_path, "lr: 1e-4\nepochs: '7'\n").lr == 1e-4


def test_options_win_over_the_file(tmp_path):
    config = config_of(tmp_path, "lr: 0.1\nepochs: 5\n", lr="0.2", epochs=None)
    assert (config.lr, config.epochs) == (0.2, 5)


@pytest.mark.parametrize("value", ["1.0,2.2", "1.0 2.2", [1, 2.2], ["1", "2.2"]])
def test_two_class_weights(value):
    assert make_config({"class_weights": value}, "x").class_weights == (1.0, 2.2)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("none", ()), ("noise", ("noise",)), ("scale, shift", ("scale", "shift")), ([], ())],
)
def test_augmentations(value, expected):
    assert make_config({"aug": value}, "x").aug == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "learning_rate: 1\n",
            "learning_rate: unknown key; allowed are model, model_args, tabular",
        ),
        ("lr: fast\n", "lr: must be a number \\(found fast\\)\\.$"),
        ("lr: 0\n", "lr: input should be greater than 0 \\(found 0\\)"),
        ("lr: .nan\n", "lr: input should be"),
        ("seed: no\n", "seed: .*must be a number, not yes or no"),
        ("epochs: 1.5\n", "epochs: must be a whole number \\(found 1.5\\)\\.$"),
        ("loss: focal\n", "loss: input should be 'ce' or 'bce'"),
        ("aug: noise,flip\n", "aug: input should be 'noise', 'scale', 'shift' or 'leadmask'"),
        ("class_weights: 1\n", "class_weights"),
        (
            "class_weights: a,b\n",
            r": class_weights: must be auto, none, or two positive numbers for label 0 and 1, such as 1.0,2.2\.$",
        ),
        ("class_weights: [1, -1]\n", "class_weights"),
        ("model: lstm\n", "model: input should be 'resnet1d'"),
        ("model_args: width=a\n", "model_args: must give each name a number"),
        ("model_args: width\n", "model_args: must look like width=2,depth=2"),
        (
            "model_args: width=1,width=2\n",
            "model_args: must look like width=2,depth=2, each name once",
        ),
        ("model_args: {width: 9}\n", "model_args: resnet1d does not take `width`"),
        ("model_args: {heads: 2}\n", "model_args: resnet1d does not take `heads`.*Allowed: "),
        ("model_args: {width: yes}\n", "model_args: must be a number, not yes or no"),
        ("threshold: best\n", "threshold: rule .=best. must be youden, f1, sensitivity=X"),
        (
            "threshold: sensitivity=2\n",
            r"threshold: rule \(=sensitivity=2\) must be .* as in sensitivity=0.90\.$",
        ),
        (
            "calibration: isotonic\n",
            "calibration: input should be 'none', 'temperature' or 'platt'",
        ),
        ("aggregate: median\n", "aggregate: input should be"),
        ("aug: noise,noise\n", "aug: names one twice"),
        ("tabular: age,sex,age\n", "tabular: names one twice"),
        ("seeds: [1]\n", "seeds: give two or more different seeds"),
        ("seeds: 1,1\n", "seeds: give two or more different seeds"),
        ("seeds: 1,x\n", "seeds: must be a whole number \\(found x\\)\\.$"),
        (
            "seeds: a,b\n",
            "Config .*: seeds: must be a whole number \\(found a\\); seeds: must be a whole number \\(found b\\)\\.$",
        ),
        ("folds: 2\n", "folds: at least 3"),
        ("folds: 5\nseeds: 0,1\n", "folds: .*not together with seeds"),
        ("folds: 5\nfold: 5\n", "folds: .*fold below folds"),
        ("fold: 1\n", "fold: needs folds, .*--folds 5 --fold 0"),
        ("tabular_only: true\n", "tabular_only: needs tabular"),
        ("ema: 1\n", "ema: input should be less than 1"),
        ("label_smoothing: 1\n", "label_smoothing: input should be less than 1"),
        ("layer_decay: 0\n", "layer_decay: input should be greater than 0"),
        ("freeze: all\n", "freeze: input should be 'none' or 'backbone'"),
        ("lr: 1\nlr: 2\n", "line .* key given twice: lr"),
        ("lr: [\n", "is not valid YAML"),
        ("- lr\n", "must be a mapping"),
        ("1: 2\n", "must be a mapping"),
        ("lr: !!python/object/apply:os.system [true]\n", "is not valid YAML"),
        ("x: " + "[" * 5000, "is not valid YAML"),
    ],
)
def test_fault_is_named(tmp_path, text, expected):
    with pytest.raises(InputError, match=expected):
        config_of(tmp_path, text)


def test_all_faults_are_reported_together(tmp_path):
    with pytest.raises(InputError, match=r"loss.*batch|batch.*loss"):
        config_of(tmp_path, "loss: x\nbatch: 0\n")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="absent.yaml cannot be read"):
        read_config(tmp_path / "absent.yaml", {})


def test_settings_are_read_as_yaml_and_by_the_fields_own_types():
    values = parse_settings(
        (
            "lr=1e-4",
            "seeds=[0, 1]",
            "tabular=age,sex",
            "model_args={width: 2}",
            "tabular_only=false",
            "threshold=npv=0.99",
            "aug=",
        )
    )
    config = make_config(values, "x")
    assert (config.lr, config.seeds, config.tabular, config.model_args, config.threshold) == (
        1e-4,
        (0, 1),
        ("age", "sex"),
        {"width": 2.0},
        "npv=0.99",
    )
    assert config.aug == ()


@pytest.mark.parametrize("items", [("lr",), ("=1",), ("lr=1", "lr=2")])
def test_setting_that_is_none_is_refused(items):
    with pytest.raises(InputError, match="--set takes key=value"):
        parse_settings(items)


@pytest.mark.parametrize(
    "item", ["lr=[", "lr=!!python/object/apply:os.system [true]", "lr={a: 1, a: 2}"]
)
def test_setting_that_is_no_yaml_names_its_key(item):
    with pytest.raises(InputError, match="--set lr: the value is not valid YAML"):
        parse_settings((item,))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "seeds": "0,3",
            "model_args": "width=0.5,dropout=0.2",
            "tabular": "age,sex",
            "class_weights": "1,2.2",
        },
        {
            "folds": 5,
            "fold": 2,
            "threshold": "sensitivity=0.90",
            "aug": "none",
            "class_weights": "none",
            "init_from": "runs/001",
        },
    ],
)
def test_config_survives_the_file(tmp_path, values):
    config = make_config(values, "x")
    save_config(tmp_path, config, {"store": {"content_sha256": "x"}})
    assert read_config(tmp_path / "config.yaml", {}) == config


def test_members_differ_in_seed_or_fold_only():
    seeds = make_config({"seeds": "4,7", "lr": 0.1}, "x").member_configs()
    assert {name: (member.seed, member.seeds, member.lr) for name, member in seeds.items()} == {
        "4": (4, (), 0.1),
        "7": (7, (), 0.1),
    }
    folds = make_config({"folds": 3, "seed": 5}, "x").member_configs()
    assert {name: (member.fold, member.folds, member.seed) for name, member in folds.items()} == {
        str(k): (k, 3, 5) for k in range(3)
    }
    assert make_config({"folds": 3, "fold": 1}, "x").member_configs() == {}
    assert all(not member.member_configs() for member in (*seeds.values(), *folds.values()))


@pytest.mark.parametrize(("cores", "here", "expected"), [(8, None, 8), (8, "4", 2), (2, "4", 1)])
def test_threads_are_the_cores_that_this_process_may_use(monkeypatch, cores, here, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if here:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    assert make_config({}, "test").threads == expected
