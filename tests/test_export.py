"""A run as one file: the same probabilities in another program, nothing of this machine in it, whole or not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import build
from test_ecgfit_cli import ecgfit

import ecgfit.inference.export as export_module
from ecgfit.checkpoint import load_checkpoint, read_safetensors, weights_of
from ecgfit.config import make_config
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
from ecgfit.run import Run
from ecgfit.run_files import BEST
from ecgfit.training.runner import train
from ecgprep.building.plan import BuildSettings
from ecgprep.errors import EcgError, InputError, StoreError
from ecgprep.store.reader import Store

CALIBRATION = Calibration("platt", 1.7, -0.3)
NONE = np.empty(0, np.float32)


def trained(store: Store, out: Path, **settings: object) -> Run:
    return train(
        make_config({"epochs": 1, "batch": 16, "threads": 2} | settings, "test"),
        store,
        out,
        say=lambda _: None,
    )


@pytest.fixture(scope="module")
def ensemble_run(store, tmp_path_factory) -> Run:
    """Two members with covariates and the mask channel."""
    return trained(
        store,
        tmp_path_factory.mktemp("runs") / "r",
        missing="mask",
        tabular=["age", "sex"],
        seeds=[3, 4],
        model_args={"width": 0.25},
    )


@pytest.fixture(scope="module")
def exported(ensemble_run) -> bytes:
    path = ensemble_run.path / "m.onnx"
    assert export_run(ensemble_run, path)["max_difference"] <= 1e-5
    return path.read_bytes()


@pytest.fixture(scope="module")
def short() -> tuple[NormStats, NormStats]:
    """Statistics without and with two covariates."""
    common = {
        "mean_uv": [20.0] * 8,
        "std_uv": [150.0] * 8,
        "n_train_records": 9,
        "leads": "I II V1 V2 V3 V4 V5 V6".split(),
    }
    seen = {
        "rates_hz": [500.0],
        "lead_sd_uv": [[1.0, 2.0]] * 8,
        "shortest_samples": 9,
        "fewest_leads": 8,
    }
    names = ["age", "sex"]
    return tuple(
        NormStats.from_json(
            common
            | {
                "covariates": {
                    "names": names[:k],
                    "median": [60.0, 1.0][:k],
                    "scale": [15.0, 0.5][:k],
                },
                "seen": seen | {"covariates": [[0.0, 9.0]] * k},
            }
        )
        for k in (0, 2)
    )


def lively(model: torch.nn.Module, n_channels: int, n_covariates: int) -> torch.nn.Module:
    """Give every normalisation weights and the statistics of some input: untrained blocks are only their shortcut."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.2, 0.2)
            norm.momentum = 1.0
        model.train()(
            torch.randn(16, n_channels, 1003),
            torch.randn(16, 2 * n_covariates) if n_covariates else None,
        )
    return model.eval()


def check_network(stats: NormStats, missing: str, name: str, **how: object) -> None:
    """Export an ensemble of two networks and compare it on every kind of row."""
    n = len(stats.covariates.names)
    model_input = ModelInput(stats, missing)
    scorers = [
        Scorer(
            model_input,
            lively(
                build_model(name, model_input.n_channels, seed, n, **how), model_input.n_channels, n
            ),
        )
        for seed in (0, 1)
    ]
    ensemble = Ensemble(scorers[: 1 if name.startswith("x") else 2]).eval().requires_grad_(False)
    proto = to_onnx(StandaloneModel(ensemble, CALIBRATION).eval(), 1003, n)
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString()
    assert differences_of(content, ensemble, CALIBRATION, 1003, amp=False).max_difference <= (
        1e-4 if name == "xresnet1d101" else 1e-5
    )  # rounding grows with 101 layers
    waveforms, _, _, covariates = probes(
        1003,
        np.array(stats.covariates.median, np.float32),
        np.array(stats.covariates.scale, np.float32),
    )
    feed = {"waveforms": waveforms} | ({"covariates": covariates} if n else {})
    assert np.ptp(onnx_session(content).run(["probability"], feed)[0]) > 1e-4


@pytest.mark.parametrize("name", ["xresnet1d18", "inception1d"])
def test_networks_export(short, name):
    depth = {"depth": 3} if name == "inception1d" else {}
    check_network(short[0], "drop", name, model_args={"width": 0.25} | depth)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_exports_with_covariates_and_mask_channel(short, name):
    check_network(short[1], "mask", name, model_args={"width": 0.5})


def test_covariates_alone_export(short):
    check_network(short[1], "drop", "resnet1d", ecg=False)


def test_mask_and_span_are_those_of_the_store(store):
    rows = select_rows(store, "all", "mask")
    (batch,) = make_loader(store, rows, len(rows))
    lead_mask, valid_span = derive_mask_and_span(batch.waveforms)
    assert torch.equal(lead_mask, batch.lead_mask)
    assert not batch.lead_mask.all()
    agrees = (valid_span == batch.valid_span).all(dim=1)
    assert agrees.float().mean() > 0.99


def test_mask_and_span_of_every_kind_of_row():
    waveforms, lead_mask, valid_span, _ = probes(1000, NONE, NONE)
    found_mask, found_span = derive_mask_and_span(torch.from_numpy(waveforms))
    assert found_span.dtype == torch.int32
    assert found_span.tolist() == valid_span.tolist()
    assert found_mask.tolist() == lead_mask.tolist()
    flat = torch.zeros(1, 8, 100, dtype=torch.int16)
    flat[:, 0, 10:90], flat[:, 1, 10:90] = torch.arange(1, 81, dtype=torch.int16), 7
    assert derive_mask_and_span(flat)[0].tolist() == [[True] + [False] * 7]


@pytest.mark.parametrize("size", [1, 7])
def test_ensemble_gives_the_runs_probabilities_for_any_batch(ensemble_run, exported, store, size):
    rows = select_rows(store, "all", "mask")[-35:]
    lacking = np.flatnonzero(~store.array("lead_mask").all(axis=1))[:7]
    rows = np.union1d(rows, lacking)
    expected = predict_rows(
        load_ensemble(ensemble_run.members, "cpu"), store, rows, ("age", "sex"), amp=False
    )
    session = onnx_session(exported)
    found = [
        session.run(
            ["probability", "logits"],
            {"waveforms": batch.waveforms.numpy(), "covariates": batch.covariates.numpy()},
        )
        for batch in make_loader(store, rows, size, covariates=("age", "sex"))
    ]
    probability, logits = (np.concatenate(part) for part in zip(*found, strict=True))
    assert probability.dtype == np.float32
    assert (
        np.abs(probability - ensemble_run.calibration.apply(expected.logit_difference())).max()
        <= 1e-5
    )
    assert np.abs(logits - expected.logits).max() <= 1e-5


def test_padded_recordings_and_absent_covariates(ensemble_run, exported, store):
    (batch,) = make_loader(
        store, select_rows(store, "test", "drop")[:6], 6, covariates=("age", "sex")
    )
    x, covariates, span = (
        batch.waveforms.clone(),
        batch.covariates.clone(),
        batch.valid_span.clone(),
    )
    for i, (first, last) in enumerate([(700, 4300), (0, 2500), (2499, 5000)]):
        x[i, :, :first], x[i, :, last:], span[i] = 0, 0, torch.tensor([first, last])
    covariates[1], covariates[2, 0] = torch.nan, torch.nan
    with torch.inference_mode():
        logits = (
            load_ensemble(ensemble_run.members, "cpu")(x, batch.lead_mask, span, covariates)
            .double()
            .numpy()
        )
    found = onnx_session(exported).run(
        ["probability"], {"waveforms": x.numpy(), "covariates": covariates.numpy()}
    )[0]
    assert np.abs(found - ensemble_run.calibration.apply(logits[:, 1] - logits[:, 0])).max() <= 1e-5


def test_file_says_what_it_is_and_nothing_of_this_machine(ensemble_run, exported):
    model = onnx.load_from_string(exported)
    assert [entry.version for entry in model.opset_import] == [export_module.OPSET]
    assert [value.name for value in model.graph.input] == ["waveforms", "covariates"]
    assert [value.name for value in model.graph.output] == ["probability", "logits"]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["leads"] == "I,II,V1,V2,V3,V4,V5,V6"
    assert (said["sample_rate_hz"], said["samples"], said["unit"]) == ("500", "5000", "µV")
    assert float(said["threshold"]) == ensemble_run.threshold
    assert said["threshold_rule"] == "youden"
    assert Calibration.from_json(json.loads(said["calibration"])) == ensemble_run.calibration
    assert (said["covariates"], said["probability_of"]) == ("age,sex", "1")
    assert said["store_content_sha256"] == ensemble_run.content_sha256
    assert "research" in said["intended_use"]
    for path in (Path(__file__).parent.parent, ensemble_run.path, Path(torch.__file__).parent):
        assert str(path).encode() not in exported
    assert b".py" not in exported


def test_file_that_differs_from_the_run_is_not_written(ensemble_run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        export_module,
        "differences_of",
        lambda *_, amp: export_module.Differences(float("nan"), None),
    )
    monkeypatch.setattr(
        export_module, "to_onnx", lambda *_: onnx.load(ensemble_run.path / "m.onnx")
    )
    with pytest.raises(StoreError, match="differs from the run"):
        export_run(ensemble_run, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_what_bfloat16_adds_is_said(small_store, tmp_path):
    run = trained(small_store, tmp_path / "r", amp="on", model_args={"width": 0.25})
    written = export_run(run, tmp_path / "m.onnx")
    assert written["max_difference"] <= 1e-5 < written["max_difference_bfloat16"] < 0.05
    done = subprocess.run(
        [sys.executable, "-m", "ecgfit.cli", "export", run.path, tmp_path / "m.onnx"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        f"computes in bfloat16 (amp), and its probabilities differ from the file's by up to {written['max_difference_bfloat16']:.0e}"
        in done.stdout
    )


def test_another_suffix_is_refused(ensemble_run, tmp_path):
    with pytest.raises(InputError, match=r"must be .onnx or .safetensors"):
        export_run(ensemble_run, tmp_path / "m.pt")


def test_absent_packages_are_named_with_their_extra(ensemble_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for name, absent in (("m.onnx", "onnxscript"), ("m.safetensors", "safetensors")):
        with pytest.raises(EcgError, match=rf"extra `export` \({absent} not found\)"):
            export_run(ensemble_run, tmp_path / name)


def test_safetensors_hold_all_members_and_give_the_first_back(ensemble_run, tmp_path):
    from safetensors import safe_open

    path = tmp_path / "m.safetensors"
    assert export_run(ensemble_run, path)["max_difference"] is None
    again = tmp_path / "again.safetensors"
    export_run(ensemble_run, again)
    assert path.read_bytes() == again.read_bytes()
    first = load_checkpoint(ensemble_run.members[0].path / BEST)["model"]
    with safe_open(path, framework="pt") as file:
        said, names = file.metadata(), set(file.keys())
    assert names == {f"member.{member}.{key}" for member in (3, 4) for key in first}
    stats = json.loads(said["norm_stats"])
    assert set(stats) == {"3", "4"}
    assert "seen" not in stats["3"]  # the least and greatest value of a covariate is a patient's
    assert json.loads(said["config"])["tabular"] == ["age", "sex"]
    found = weights_of(path, "9")
    assert set(found) == set(first)
    assert all(torch.equal(found[key], first[key]) for key in first)


def test_safetensors_of_others_are_taken_as_they_are(tmp_path):
    from safetensors.torch import save_file

    save_file({"a.weight": torch.ones(2, 3)}, tmp_path / "other.safetensors")
    assert list(read_safetensors(tmp_path / "other.safetensors")) == ["a.weight"]


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "members"])
def test_damaged_safetensors_are_refused(ensemble_run, tmp_path, damage):
    path = tmp_path / "m.safetensors"
    export_run(ensemble_run, path)
    content = path.read_bytes()
    path.unlink()
    if damage != "absent":
        path.write_bytes(
            {
                "empty": b"",
                "cut": content[:-9],
                "members": content.replace(b'"members"', b'"remembs"'),
            }[damage]
        )
    with pytest.raises(StoreError, match="damaged"):
        read_safetensors(path)


def test_command(ensemble_run, tmp_path):
    done = ecgfit("export", ensemble_run.path, tmp_path / "m.safetensors", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("MB\n")
    assert ecgfit("export", ensemble_run.path, "m.txt", cwd=tmp_path).returncode == 3


@pytest.mark.full
def test_command_says_nothing_but_its_result(ensemble_run, tmp_path):
    code = (
        "import sys, ecgfit.cli; sys.argv = ['ecgfit', 'export', *sys.argv[1:]]; ecgfit.cli.main()"
    )
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        code,
        str(ensemble_run.path),
        "m.onnx",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
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
    store = build(
        real / "manifest.csv",
        tmp_path / "s.zarr",
        BuildSettings(),
        covariates=("age", "sex"),
        max_rejected=0.1,
    )
    run = trained(store, tmp_path / "r", **settings)
    export_run(run, tmp_path / "m.onnx")
    rows, names = select_rows(store, "all", run.config.missing)[:200], run.config.tabular
    assert len(rows) == 200
    expected = run.calibration.apply(
        predict_rows(
            load_ensemble(run.members, "cpu"), store, rows, names, amp=False
        ).logit_difference()
    )
    session = onnx_session((tmp_path / "m.onnx").read_bytes())
    (batch,) = make_loader(store, rows, 200, covariates=names)
    feed = {"waveforms": batch.waveforms.numpy()} | (
        {"covariates": batch.covariates.numpy()} if names else {}
    )
    difference = np.abs(session.run(["probability"], feed)[0] - expected)
    spans = (derive_mask_and_span(batch.waveforms)[1] == batch.valid_span).all(dim=1).numpy()
    print(  # noqa: T201
        f"{difference.max():.2e} over all, {difference[spans].max():.2e} where the span agrees ({spans.sum()})"
    )  # with -s
    assert spans.mean() > 0.9
    assert difference[spans].max() <= 1e-5
