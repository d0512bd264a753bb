"""Config: every wrong key and value is named; numbers written as YAML writes them are read."""

from __future__ import annotations

import pytest

from ecgfit.config import TrainConfig, make_config, read_config
from ecgprep.errors import InputError


def config_of(tmp_path, text, **overrides):
    (tmp_path / "c.yaml").write_text(text)
    return read_config(tmp_path / "c.yaml", overrides)


def test_defaults_are_those_of_the_help_text():
    config = TrainConfig()
    assert (config.batch, config.epochs, config.lr, config.weight_decay, config.early_stop) == (32, 60, 1e-3, 1e-4, 12)
    assert (config.loss, config.class_weights, config.scheduler, config.aug) == ("ce", "auto", "plateau", ("noise", "scale", "shift", "leadmask"))


def test_number_that_yaml_reads_as_text_is_a_number(tmp_path):
    assert config_of(tmp_path, "lr: 1e-4\nepochs: '7'\n").lr == 1e-4


def test_options_win_over_the_file(tmp_path):
    config = config_of(tmp_path, "lr: 0.1\nepochs: 5\n", lr="0.2", epochs=None)
    assert (config.lr, config.epochs) == (0.2, 5)


@pytest.mark.parametrize("value", ["1.0,2.2", "1.0 2.2", [1, 2.2], ["1", "2.2"]])
def test_two_class_weights(value):
    assert make_config({"class_weights": value}, "x").class_weights == (1.0, 2.2)


@pytest.mark.parametrize(("value", "expected"), [("none", ()), ("noise", ("noise",)), ("scale, shift", ("scale", "shift")), ([], ())])
def test_augmentations(value, expected):
    assert make_config({"aug": value}, "x").aug == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate: 1\n", "learning_rate: unknown key; allowed are model, model_args, tabular"),
        ("lr: fast\n", "lr: input should be a valid number"),
        ("lr: 0\n", "lr: input should be greater than 0"),
        ("lr: .nan\n", "lr: input should be"),
        ("seed: no\n", "seed: .*must be a number, not yes or no"),
        ("epochs: 1.5\n", "epochs: input should be a valid integer"),
        ("loss: focal\n", "loss: input should be 'ce' or 'bce'"),
        ("aug: noise,flip\n", "aug: input should be 'noise', 'scale', 'shift' or 'leadmask'"),
        ("class_weights: 1\n", "class_weights"),
        ("class_weights: [1, -1]\n", "class_weights"),
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
