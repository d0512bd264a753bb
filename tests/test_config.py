"""Settings: each wrong key and value is named, and numbers are read however YAML writes them."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from ecgfit.api import settings_of
from ecgfit.config import TrainConfig, make_config, parse_settings, read_settings
from ecgfit.options import TrainingCommand, setting_options
from ecgfit.run_files import save_config
from ecgprep.errors import InputError


def config_of(tmp_path, text, **settings):
    (tmp_path / "c.yaml").write_text(text)
    return settings_of(tmp_path / "c.yaml", settings)


def test_every_setting_is_an_option_with_its_meaning_and_default():
    options = {option.name: option for option in setting_options()}
    assert list(options) == list(TrainConfig.model_fields)
    for name, field in TrainConfig.model_fields.items():
        assert field.description
        assert options[name].help.startswith(field.description)
        assert options[name].opts == [f"--{name.replace('_', '-')}"]
    for name, option in options.items():
        if name != "tabular_only":
            assert "[default: " in option.help


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("lr", "0.003"),
        ("epochs", "40"),
        ("ema", "0.995"),
        ("label_smoothing", "0"),
        ("scheduler", "cosine"),
        ("threshold", "youden"),
        ("aug", "all four"),
        ("tabular", "none"),
        ("model_args", "the network's own"),
        ("threads", "all cores"),
    ],
)
def test_help_says_the_default(name, default):
    [option] = [option for option in setting_options() if option.name == name]
    assert option.help.endswith(f"  [default: {default}]")


def test_all_four_augmentations_are_the_default():
    assert TrainConfig().aug == ("noise", "scale", "shift", "leadmask")


def test_help_is_readable_at_80_columns():
    command = TrainingCommand("train", params=[])
    lines = command.get_help(click.Context(command, max_content_width=80)).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert any("--class-weights" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--class-weights", "1.0", "2.2", "--lr", "1"], "1.0,2.2"),
        (["--class-weights", "1.0,2.2"], "1.0,2.2"),
        (["--lr", "1", "--class-weights", "none"], "none"),
        (["--class-weights", "1.0"], "1.0"),
        ([], None),
    ],
)
def test_class_weights_are_one_word_or_two(words, expected):
    context = TrainingCommand("train", params=[]).make_context("train", words)
    assert context.params["class_weights"] == expected


def test_reading_settings_imports_no_torch(tmp_path):
    (tmp_path / "c.yaml").write_text("lr: 0.1\nmodel_args: {width: 2}\n")
    code = (
        "import sys; from pathlib import Path; import ecgfit.config as c;"
        "c.make_config(c.read_settings(Path('c.yaml')), 'c.yaml'); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "False\n"


def test_number_that_yaml_reads_as_text_is_a_number(tmp_path):
    config = config_of(tmp_path, "lr: 1e-4\nepochs: '7'\n")
    assert (config.lr, config.epochs) == (1e-4, 7)


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


def test_weights_to_start_from_may_be_a_path(tmp_path):
    assert make_config({"init_from": tmp_path / "r"}, "x").init_from == str(tmp_path / "r")


NO_CLASS_WEIGHTS = (
    r"class_weights: must be auto, none, or two positive numbers for label 0 and 1, such as "
    r"1\.0,2\.2\.$"
)
FAULTS = {
    "learning_rate: 1\n": "learning_rate: unknown key; allowed are model, model_args, tabular",
    "lr: fast\n": r"lr: must be a number \(found fast\)\.$",
    "lr: 0\n": r"lr: input should be greater than 0 \(found 0\)",
    "lr: .nan\n": r"lr: input should be greater than 0 \(found nan\)",
    "seed: no\n": "seed: .*must be a number, not yes or no",
    "epochs: 1.5\n": r"epochs: must be a whole number \(found 1.5\)\.$",
    "loss: focal\n": "loss: input should be 'ce' or 'bce'",
    "aug: noise,flip\n": "aug: input should be 'noise', 'scale', 'shift' or 'leadmask'",
    "class_weights: 1\n": NO_CLASS_WEIGHTS,
    "class_weights: a,b\n": NO_CLASS_WEIGHTS,
    "class_weights: [1, -1]\n": NO_CLASS_WEIGHTS,
    "model: lstm\n": "model: input should be 'resnet1d'",
    "model_args: width=a\n": "model_args: must give each name a number",
    "model_args: width\n": "model_args: must look like width=2,depth=2",
    "model_args: width=1,width=2\n": "model_args: must look like width=2,depth=2, each name once",
    "model_args: {width: 9}\n": "model_args: resnet1d does not take `width`",
    "model_args: {heads: 2}\n": "model_args: resnet1d does not take `heads`.*Allowed: ",
    "model_args: {width: yes}\n": "model_args: must be a number, not yes or no",
    "threshold: best\n": "threshold: rule .=best. must be youden, f1, sensitivity=X",
    "threshold: sensitivity=2\n": (
        r"threshold: rule \(=sensitivity=2\) must be .* as in sensitivity=0.90\.$"
    ),
    "calibration: isotonic\n": "calibration: input should be 'none', 'temperature' or 'platt'",
    "aggregate: median\n": "aggregate: input should be 'mean', 'max', 'first', 'last' or 'none'",
    "aug: noise,noise\n": "aug: a name is given twice; give each once",
    "tabular: age,sex,age\n": "tabular: a name is given twice; give each once",
    "seeds: [1]\n": "seeds: give two or more different seeds",
    "seeds: 1,1\n": "seeds: give two or more different seeds",
    "seeds: 1,x\n": r"seeds: must be a whole number \(found x\)\.$",
    "seeds: a,b\n": (
        r"Config .*: seeds: must be a whole number \(found a\); "
        r"seeds: must be a whole number \(found b\)\.$"
    ),
    "folds: 2\n": "folds: at least 3",
    "folds: 5\nseeds: 0,1\n": "folds: cannot be used together with seeds",
    "folds: 5\nfold: 5\n": "folds: fold counts from 0, so it must be below folds",
    "fold: 1\n": "fold: needs folds, .*--folds 5 --fold 0",
    "tabular_only: true\n": "tabular_only: needs tabular",
    "ema: 1\n": "ema: input should be less than 1",
    "label_smoothing: 1\n": "label_smoothing: input should be less than 1",
    "layer_decay: 0\n": "layer_decay: input should be greater than 0",
    "freeze: all\n": "freeze: input should be 'none' or 'backbone'",
    "lr: 1\nlr: 2\n": "line .* key given twice: lr",
    "lr: [\n": "is not valid YAML",
    "- lr\n": "must be a mapping",
    "1: 2\n": "must be a mapping",
    "lr: !!python/object/apply:os.system [true]\n": "is not valid YAML",
    "x: " + "[" * 5000: "is not valid YAML",
}


@pytest.mark.parametrize("text", FAULTS, ids=lambda text: text[:30])
def test_fault_is_named(tmp_path, text):
    with pytest.raises(InputError, match=FAULTS[text]):
        config_of(tmp_path, text)


def test_all_faults_are_reported_together(tmp_path):
    with pytest.raises(InputError, match=r"loss.*batch|batch.*loss"):
        config_of(tmp_path, "loss: x\nbatch: 0\n")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"Config absent\.yaml cannot be read"):
        read_settings(tmp_path / "absent.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(InputError, match=r"Config pipe\.yaml is not a regular file"):
        read_settings(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * 100_001)
    with pytest.raises(InputError, match=r"Config large\.yaml is larger than 100,000 bytes"):
        read_settings(tmp_path / "large.yaml")


def test_settings_are_read_as_yaml_and_by_the_fields_own_types():
    items = (
        "lr=1e-4",
        "seeds=[0, 1]",
        "tabular=age,sex",
        "model_args={width: 2}",
        "tabular_only=false",
        "threshold=npv=0.99",
        "aug=",
    )
    config = make_config(parse_settings(items), "x")
    assert (config.lr, config.seeds, config.tabular) == (1e-4, (0, 1), ("age", "sex"))
    assert (config.model_args, config.threshold, config.aug) == ({"width": 2.0}, "npv=0.99", ())


@pytest.mark.parametrize("items", [("lr",), ("=1",), ("lr=1", "lr=2")])
def test_item_that_is_no_setting_is_refused(items):
    with pytest.raises(InputError, match="--set takes key=value"):
        parse_settings(items)


@pytest.mark.parametrize(
    "item", ["lr=[", "lr=!!python/object/apply:os.system [true]", "lr={a: 1, a: 2}"]
)
def test_item_that_is_no_yaml_names_its_key(item):
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
    assert settings_of(tmp_path / "config.yaml", {}) == config


def test_members_differ_only_in_seed_or_fold():
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


@pytest.mark.parametrize(
    ("cores", "processes", "expected"), [(8, None, 8), (8, "4", 2), (2, "4", 1)]
)
def test_threads_are_the_cores_that_this_process_may_use(monkeypatch, cores, processes, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert make_config({}, "test").threads == expected
