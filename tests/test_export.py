"""A run as one file: the same probabilities in another program, and nothing of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from helpers import build, trained

import ecgfit.inference.export as export_module
from ecgfit.checkpoint import load_checkpoint, read_safetensors, weights_of
from ecgfit.cli import cli
from ecgfit.data.loader import make_loader
from ecgfit.data.model_input import ModelInput
from ecgfit.data.rows import select_rows
from ecgfit.data.statistics import NormStats
from ecgfit.inference.export import (
    StandaloneModel,
    derive_mask_and_span,
    differences_of,
    export_run,
    onnx_session,
    probes,
    to_onnx,
)
from ecgfit.inference.scorer import Ensemble, Scorer, load_ensemble, predict_rows
from ecgfit.metrics.calibration import Calibration
from ecgfit.models.factory import MODELS, build_model
from ecgfit.run import RunFolder
from ecgfit.run_files import BEST
from ecgprep.errors import EcgError, InputError, StoreError
from ecgprep.leads import LEADS

CALIBRATION = Calibration("platt", 1.7, -0.3)
NO_COVARIATES = np.empty(0, np.float32)
N_SAMPLES = 1003


@pytest.fixture(scope="module")
def exported(mask_run, tmp_path_factory) -> bytes:
    """`mask_run` as ONNX: two members with covariates and the mask channel."""
    path = tmp_path_factory.mktemp("exported") / "m.onnx"
    assert export_run(mask_run, path)["max_difference"] <= 1e-5
    return path.read_bytes()


def statistics(*covariates: str) -> NormStats:
    """Return statistics of train recordings with these covariates."""
    k = len(covariates)
    content = {
        "mean_uv": [20.0] * 8,
        "std_uv": [150.0] * 8,
        "n_train_records": 9,
        "leads": list(LEADS),
        "covariates": {
            "names": list(covariates),
            "median": [60.0, 1.0][:k],
            "scale": [15.0, 0.5][:k],
        },
        "seen": {
            "rates_hz": [500.0],
            "lead_sd_uv": [[1.0, 2.0]] * 8,
            "shortest_samples": 9,
            "fewest_leads": 8,
            "covariates": [[0.0, 9.0]] * k,
        },
    }
    return NormStats.from_json(content)


def enliven(model: torch.nn.Module, n_channels: int, n_covariates: int) -> torch.nn.Module:
    """Give every normalisation weights and the statistics of some input.

    Untrained blocks would only be their shortcuts.
    """
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.2, 0.2)
            norm.momentum = 1.0
        signal = torch.randn(16, n_channels, N_SAMPLES)
        covariates = torch.randn(16, 2 * n_covariates) if n_covariates else None
        model.train()(signal, covariates)
    return model.eval()


def untrained(stats: NormStats, missing: str, name: str, seed: int, **how: object) -> Scorer:
    model_input = ModelInput(stats, missing)
    n = len(stats.covariates.names)
    model = build_model(name, model_input.n_channels, seed, n, **how)
    return Scorer(model_input, enliven(model, model_input.n_channels, n))


def check_network(stats: NormStats, missing: str, name: str, **how: object) -> None:
    """Export an ensemble of untrained networks and compare it on every kind of row."""
    seeds = [0] if name.startswith("x") else [0, 1]
    scorers = [untrained(stats, missing, name, seed, **how) for seed in seeds]
    ensemble = Ensemble(scorers).eval().requires_grad_(False)
    model = StandaloneModel(ensemble, CALIBRATION).eval()
    proto = to_onnx(model, N_SAMPLES, len(stats.covariates.names))
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString()
    difference = differences_of(content, ensemble, CALIBRATION, N_SAMPLES, amp=False)
    allowed = 1e-4 if name == "xresnet1d101" else 1e-5  # rounding grows with 101 layers
    assert difference.max_difference <= allowed
    median = np.array(stats.covariates.median, np.float32)
    rows = probes(N_SAMPLES, median, np.array(stats.covariates.scale, np.float32))
    feed = {"waveforms": rows.waveforms}
    if len(median):
        feed["covariates"] = rows.covariates
    probability = onnx_session(content).run(["probability"], feed)[0]
    assert np.ptp(probability) > 1e-4  # it depends on the input


def test_a_network_exports():
    check_network(statistics(), "drop", "xresnet1d18", model_args={"width": 0.25})


@pytest.mark.full
def test_a_network_without_mask_channel_and_covariates_exports():
    check_network(statistics(), "drop", "inception1d", model_args={"width": 0.25, "depth": 3})


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_exports_with_covariates_and_mask_channel(name):
    check_network(statistics("age", "sex"), "mask", name, model_args={"width": 0.5})


def test_covariates_alone_export():
    check_network(statistics("age", "sex"), "drop", "resnet1d", ecg=False)


# What a store knows of a row is derived


def test_mask_and_span_are_those_of_the_store(store):
    rows = select_rows(store, "all", "mask")
    (batch,) = make_loader(store, rows, len(rows))
    lead_mask, valid_span = derive_mask_and_span(batch.waveforms)
    assert torch.equal(lead_mask, batch.lead_mask)
    assert not batch.lead_mask.all()
    agrees = (valid_span == batch.valid_span).all(dim=1)
    assert agrees.float().mean() > 0.99


def test_mask_and_span_of_every_kind_of_row():
    rows = probes(1000, NO_COVARIATES, NO_COVARIATES)
    lead_mask, valid_span = derive_mask_and_span(torch.from_numpy(rows.waveforms))
    assert valid_span.dtype == torch.int32
    assert valid_span.tolist() == rows.valid_span.tolist()
    assert lead_mask.tolist() == rows.lead_mask.tolist()


def test_a_constant_lead_is_missing():
    waveforms = torch.zeros(1, 8, 100, dtype=torch.int16)
    waveforms[:, 0, 10:90] = torch.arange(1, 81, dtype=torch.int16)
    waveforms[:, 1, 10:90] = 7
    assert derive_mask_and_span(waveforms)[0].tolist() == [[True] + [False] * 7]


# ONNX


@pytest.mark.parametrize("size", [1, 7])
def test_ensemble_gives_the_runs_probabilities_for_any_batch(mask_run, exported, tiny_store, size):
    lacking = np.flatnonzero(~tiny_store.array("lead_mask").all(axis=1))[:7]
    rows = np.union1d(select_rows(tiny_store, "all", "mask")[-35:], lacking)
    ensemble = load_ensemble(mask_run.members, "cpu")
    expected = predict_rows(ensemble, tiny_store, rows, ("age", "sex"), amp=False)
    session = onnx_session(exported)
    found = []
    for batch in make_loader(tiny_store, rows, size, covariates=("age", "sex")):
        feed = {"waveforms": batch.waveforms.numpy(), "covariates": batch.covariates.numpy()}
        found.append(session.run(["probability", "logits"], feed))
    probability, logits = (np.concatenate(part) for part in zip(*found, strict=True))
    assert probability.dtype == np.float32
    calibrated = mask_run.calibration.apply(expected.logit_difference())
    assert np.abs(probability - calibrated).max() <= 1e-5
    assert np.abs(logits - expected.logits).max() <= 1e-5


def test_padded_recordings_and_absent_covariates(mask_run, exported, tiny_store):
    rows = select_rows(tiny_store, "test", "drop")[:6]
    (batch,) = make_loader(tiny_store, rows, 6, covariates=("age", "sex"))
    x, span = batch.waveforms.clone(), batch.valid_span.clone()
    for i, (first, last) in enumerate([(28, 172), (0, 100), (99, 200)]):
        x[i, :, :first], x[i, :, last:] = 0, 0
        span[i] = torch.tensor([first, last])
    covariates = batch.covariates.clone()
    covariates[1], covariates[2, 0] = torch.nan, torch.nan
    with torch.inference_mode():
        ensemble = load_ensemble(mask_run.members, "cpu")
        logits = ensemble(x, batch.lead_mask, span, covariates).double().numpy()
    feed = {"waveforms": x.numpy(), "covariates": covariates.numpy()}
    found = onnx_session(exported).run(["probability"], feed)[0]
    expected = mask_run.calibration.apply(logits[:, 1] - logits[:, 0])
    assert np.abs(found - expected).max() <= 1e-5


def test_file_says_what_it_is(mask_run, exported):
    model = onnx.load_from_string(exported)
    assert [entry.version for entry in model.opset_import] == [export_module.OPSET]
    assert [value.name for value in model.graph.input] == ["waveforms", "covariates"]
    assert [value.name for value in model.graph.output] == ["probability", "logits"]
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["leads"] == "I,II,V1,V2,V3,V4,V5,V6"
    assert (said["sample_rate_hz"], said["samples"], said["unit"]) == ("100", "200", "µV")
    assert float(said["threshold"]) == mask_run.threshold
    assert said["threshold_rule"] == "youden"
    assert Calibration.from_json(json.loads(said["calibration"])) == mask_run.calibration
    assert (said["covariates"], said["probability_of"]) == ("age,sex", "1")
    assert said["store_content_sha256"] == mask_run.content_sha256
    assert "research" in said["intended_use"]


def test_file_tells_nothing_of_this_machine(mask_run, exported):
    model = onnx.load_from_string(exported)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    for path in (Path(__file__).parent.parent, mask_run.path, Path(torch.__file__).parent):
        assert str(path).encode() not in exported
    assert b".py" not in exported


def test_file_that_differs_from_the_run_is_not_written(mask_run, exported, tmp_path, monkeypatch):
    nan = export_module.Differences(float("nan"), None)
    monkeypatch.setattr(export_module, "differences_of", lambda *_, amp: nan)
    monkeypatch.setattr(export_module, "to_onnx", lambda *_: onnx.load_from_string(exported))
    with pytest.raises(StoreError, match="differs from the run by nan.* so it was not written"):
        export_run(mask_run, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_what_bfloat16_adds_is_said(mask_run, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "to_onnx", lambda *_: onnx.load_from_string(exported))
    run = RunFolder(mask_run.path)
    assert export_run(run, tmp_path / "m.onnx")["max_difference_bfloat16"] is None
    run.recorded["amp"] = True
    written = export_run(run, tmp_path / "m.onnx")
    assert written["max_difference"] <= 1e-5 < written["max_difference_bfloat16"] < 0.05


def test_a_difference_in_bfloat16_is_printed(mask_run, tmp_path, monkeypatch):
    found = export_module.Differences(1e-7, 0.02)
    monkeypatch.setattr(export_module, "onnx_bytes", lambda run: (b"x", found))
    done = invoke("export", mask_run.path, tmp_path / "m.onnx")
    assert "probabilities differ from the run's in float32 by at most 1e-07" in done.stdout
    assert (
        "computes in bfloat16 (amp), and its probabilities differ from the file's by up to 2e-02"
        in done.stdout
    )


def test_another_suffix_is_refused(mask_run, tmp_path):
    with pytest.raises(InputError, match=r"suffix \(=.pt\) must be .onnx or .safetensors"):
        export_run(mask_run, tmp_path / "m.pt")


def test_absent_packages_are_named_with_their_extra(mask_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for name, absent in (("m.onnx", "onnxscript"), ("m.safetensors", "safetensors")):
        with pytest.raises(EcgError, match=rf"^This needs {absent}\. Run: .*export"):
            export_run(mask_run, tmp_path / name)


# safetensors


def test_safetensors_hold_all_members_with_their_metadata(mask_run, tmp_path):
    from safetensors import safe_open

    path = tmp_path / "m.safetensors"
    assert export_run(mask_run, path)["max_difference"] is None
    first = load_checkpoint(mask_run.members[0].path / BEST)["model"]
    with safe_open(path, framework="pt") as file:
        said, names = file.metadata(), set(file.keys())
    assert names == {f"member.{member}.{key}" for member in (3, 4) for key in first}
    stats = json.loads(said["norm_stats"])
    assert set(stats) == {"3", "4"}
    assert "seen" not in stats["3"]  # the least and greatest value of a covariate is a patient's
    assert json.loads(said["config"])["tabular"] == ["age", "sex"]


def test_safetensors_are_the_same_again_and_give_the_first_member_back(mask_run, tmp_path):
    path, again = tmp_path / "m.safetensors", tmp_path / "again.safetensors"
    export_run(mask_run, path)
    export_run(mask_run, again)
    assert path.read_bytes() == again.read_bytes()
    first = load_checkpoint(mask_run.members[0].path / BEST)["model"]
    found = weights_of(path, "9")
    assert set(found) == set(first)
    assert all(torch.equal(found[key], first[key]) for key in first)


def test_safetensors_of_others_are_taken_as_they_are(tmp_path):
    from safetensors.torch import save_file

    save_file({"a.weight": torch.ones(2, 3)}, tmp_path / "other.safetensors")
    assert list(read_safetensors(tmp_path / "other.safetensors")) == ["a.weight"]


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "members"])
def test_damaged_safetensors_are_refused(mask_run, tmp_path, damage):
    path = tmp_path / "m.safetensors"
    export_run(mask_run, path)
    content = path.read_bytes()
    damaged = {
        "empty": b"",
        "cut": content[:-9],
        "members": content.replace(b'"members"', b'"remembs"'),
    }
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])
    with pytest.raises(StoreError, match="damaged"):
        read_safetensors(path)


# The command


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, words)))


def test_command(mask_run, tmp_path):
    done = invoke("export", mask_run.path, tmp_path / "m.safetensors")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.endswith("MB\n")
    refused = invoke("export", mask_run.path, tmp_path / "m.txt")
    assert isinstance(refused.exception, InputError)


@pytest.mark.full
def test_command_says_nothing_but_its_result(mask_run, tmp_path):
    """In a process of its own: this is about what torch and onnx print and warn of."""
    code = (
        "import sys, ecgfit.cli; sys.argv = ['ecgfit', 'export', *sys.argv[1:]]; ecgfit.cli.main()"
    )
    words = [sys.executable, "-W", "error", "-c", code, mask_run.path, "m.onnx", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["max_difference"] <= 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.full
@pytest.mark.parametrize(
    "settings",
    [{}, {"seeds": [0, 1], "tabular": ["age", "sex"], "missing": "mask"}],
    ids=["single", "ensemble"],
)
def test_200_real_recordings_have_the_same_probability(make_real_corpus, tmp_path, settings):
    real = make_real_corpus("--task", "ABNORM", "--limit", "300", "--defects")
    manifest, covariates = real / "manifest.csv", ("age", "sex")
    store = build(manifest, tmp_path / "s.zarr", covariates=covariates, max_rejected=0.1)
    full_width = {"epochs": 1, "threads": 2, "model_args": ""}
    run = trained(store, tmp_path / "r", **full_width, **settings)
    export_run(run, tmp_path / "m.onnx")
    rows, names = select_rows(store, "all", run.config.missing)[:200], run.config.tabular
    assert len(rows) == 200
    ensemble = load_ensemble(run.members, "cpu")
    predictions = predict_rows(ensemble, store, rows, names, amp=False)
    expected = run.calibration.apply(predictions.logit_difference())
    (batch,) = make_loader(store, rows, 200, covariates=names)
    feed = {"waveforms": batch.waveforms.numpy()}
    if names:
        feed["covariates"] = batch.covariates.numpy()
    session = onnx_session((tmp_path / "m.onnx").read_bytes())
    difference = np.abs(session.run(["probability"], feed)[0] - expected)
    _, derived_span = derive_mask_and_span(batch.waveforms)
    span_agrees = (derived_span == batch.valid_span).all(dim=1).numpy()
    assert span_agrees.mean() > 0.9
    assert difference[span_agrees].max() <= 1e-5
