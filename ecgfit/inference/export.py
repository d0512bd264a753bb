"""A trained run as one file for other programs: ONNX to apply it anywhere, safetensors to go on with its weights.

See docs/export.md. Needs the extra `export`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecgfit.checkpoint import FORMAT, MEMBER_PREFIX, require
from ecgfit.inference.scorer import Ensemble, load_ensemble
from ecgfit.metrics.calibration import Calibration
from ecgfit.run import Run
from ecgfit.run_files import NORM_STATS, THRESHOLD
from ecgprep import __version__
from ecgprep.errors import InputError, StoreError
from ecgprep.files.atomic import canonical_json
from ecgprep.files.output import write_output
from ecgprep.leads import LEADS

OPSET = 20
"""Of ONNX, fixed: a file does not depend on what the exporter thinks is newest."""


TOLERANCE = 1e-4
"""Greatest difference of a probability between the file and ecgfit, both in float32: ten times what 101 layers round away."""


MARKS = (b"\n\x06format\x12\x08" + FORMAT.encode(), b'"format":"' + FORMAT.encode() + b'"')
"""Of which a file that `export_run` wrote holds one: an entry of ONNX's metadata (key and value with their lengths), and of safetensors'."""


_SCALAR = np.iinfo(np.int16)


_AXIS_NAME = r"# The axis name: batch will not be used, since it shares the same shape constraints"


class Standalone(nn.Module):
    """An ensemble that needs nothing but the recording: int16 µV (B, 8, L) and, where there are covariates, float32 (B, K) with NaN where
    missing -> float32 `probability` (B,) of label 1, and `logits` (B, 2).

    What a store knows of a row is derived: leading and trailing samples at which all eight leads are exactly 0 are padding, and a lead that
    is constant over the rest is missing. That is a store's `valid_span` and `lead_mask` but for a recording whose first or last samples
    were 0 on all leads when it was recorded: those count as padding here, and normalise to 0 rather than to -mean / deviation.
    """

    slope: Tensor
    intercept: Tensor

    def __init__(self, ensemble: Ensemble, calibration: Calibration) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.register_buffer(
            "slope", torch.tensor(calibration.slope, dtype=torch.float32), persistent=False
        )
        self.register_buffer(
            "intercept", torch.tensor(calibration.intercept, dtype=torch.float32), persistent=False
        )

    def forward(self, waveforms: Tensor, covariates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lead_mask, valid_span = derive(waveforms)
        logits = self.ensemble(waveforms, lead_mask, valid_span, covariates)
        return torch.sigmoid(self.slope * (logits[:, 1] - logits[:, 0]) + self.intercept), logits


def derive(waveforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return lead_mask bool (B, 8) and valid_span int32 (B, 2) of int16 (B, 8, L); of a recording of zeros, no lead and an empty span (L, 0)."""
    x = waveforms.int()  # ONNX takes no maximum of int16
    n = x.shape[2]
    time = torch.arange(n, dtype=torch.int32, device=x.device)
    signal = x.abs().amax(dim=1) > 0
    first = torch.where(signal, time, n).amin(dim=1)
    last = torch.where(signal, time + 1, 0).amax(dim=1)
    inside = ((time >= first[:, None]) & (time < last[:, None]))[:, None, :]
    lead_mask = torch.where(inside, x, _SCALAR.min - 1).amax(dim=2) > torch.where(
        inside, x, _SCALAR.max + 1
    ).amin(dim=2)
    return lead_mask, torch.stack([first, last], dim=1).int()


class Differences(NamedTuple):
    """Greatest differences of a probability between an ONNX file and ecgfit, on `probes`; NaN when one is not a number."""

    max_difference: float | None
    """From the run in float32; None where onnxruntime is not installed."""
    max_difference_bfloat16: float | None
    """From a run that computes in bfloat16 (`amp`), as it does; None where it does not."""


def export_run(run: Run, path: Path) -> dict[str, Any]:
    """Write a run as `path`, in the format of its suffix, whole or not at all; return its path, format, bytes and, of ONNX, parity.

    Raises InputError for another suffix, StoreError when the run is damaged or the ONNX file gives other probabilities than ecgfit, and
    EcgError where the extra is not installed.
    """
    if path.suffix == ".onnx":
        require("onnx", "onnxscript")
        content, differences = onnx_bytes(run)
    elif path.suffix == ".safetensors":
        require("safetensors")
        content, differences = safetensors_bytes(run), Differences(None, None)
    else:
        raise InputError(
            f"{path.name}: the format follows from the suffix, which must be .onnx or .safetensors."
        )
    write_output(path, content)
    return {
        "path": str(path),
        "format": path.suffix[1:],
        "bytes": len(content),
        **differences._asdict(),
    }


def onnx_bytes(run: Run) -> tuple[bytes, Differences]:
    """Return an ONNX file of a run, checked, and its differences from ecgfit."""
    import onnx

    ensemble = load_ensemble(run.members, "cpu").requires_grad_(False)
    n_samples, names = int(run.recorded["store"]["n_samples"]), run.config.tabular
    model = to_onnx(Standalone(ensemble, run.calibration).eval(), n_samples, len(names))
    onnx.helper.set_model_props(model, describe(run))
    onnx.checker.check_model(model, full_check=True)
    content = bytes(model.SerializeToString(deterministic=True))
    if importlib.util.find_spec("onnxruntime") is None:
        return content, Differences(None, None)
    found = differences_of(
        content, ensemble, run.calibration, n_samples, amp=bool(run.recorded.get("amp"))
    )
    if found.max_difference is None or not found.max_difference <= TOLERANCE:
        raise StoreError(
            f"{run.path}: the ONNX file differs from the run by {found.max_difference:.1e} in a probability ({TOLERANCE:.0e} is allowed). It was "
            "not written."
        )
    return content, found


def to_onnx(model: Standalone, n_samples: int, n_covariates: int) -> Any:
    """Return an onnx.ModelProto of a model in eval mode: dynamic batch, weights inside, nothing of this machine in it."""
    example = [torch.zeros(2, len(LEADS), n_samples, dtype=torch.int16)] + [
        torch.zeros(2, n_covariates)
    ] * bool(n_covariates)
    names = ["waveforms", "covariates"][: len(example)]
    batch = torch.export.Dim("batch", min=1)
    with _quiet_exporter():
        program = torch.onnx.export(
            model,
            tuple(example),
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=OPSET,
            input_names=names,
            output_names=["probability", "logits"],
            dynamic_shapes=tuple({0: batch} for _ in names),
        )
    assert program is not None
    proto = program.model_proto
    for node in (
        *proto.graph.node,
        *proto.graph.value_info,
        *proto.graph.input,
        *proto.graph.output,
        *proto.graph.initializer,
        proto.graph,
    ):
        node.doc_string = ""
        del node.metadata_props[:]  # stack traces, which hold the paths of this machine
    return proto


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what torch's exporter says that is no concern of the user: what of torch it deprecates, that torchvision is not installed,
    and that two inputs share the axis `batch`."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning
            )
            warnings.filterwarnings("ignore", _AXIS_NAME, UserWarning)
            yield
    finally:
        registration.setLevel(level)


def describe(run: Run) -> dict[str, str]:
    """Return what a file says of the run it was made of; every value is text, structures are JSON."""
    chosen, store = run.read_json(THRESHOLD), run.recorded["store"]
    return {
        "format": FORMAT,
        "intended_use": "research; not a medical device",
        "leads": ",".join(LEADS),
        "sample_rate_hz": f"{store['sample_rate_hz']:g}",
        "samples": str(store["n_samples"]),
        "unit": "µV",
        "labels": _json(["0", "1"]),
        "probability_of": "1",
        "threshold": repr(run.threshold),
        "threshold_rule": str(chosen.get("rule", run.config.threshold)),
        "threshold_level": str(chosen.get("level", "")),
        "aggregation": str(chosen.get("aggregation", run.config.aggregate)),
        "calibration": _json(run.calibration.to_json()),
        "covariates": ",".join(run.config.tabular),
        "model": run.config.model,
        "missing_leads": run.config.missing,
        "members": _json(member_names(run)),
        "store_content_sha256": run.content_sha256,
        "versions": _json({"ecgfit": __version__, **run.recorded.get("versions", {})}),
    }


def _json(value: Any) -> str:
    return canonical_json(value).decode()


def member_names(run: Run) -> list[str]:
    """Return a run's member names; of a single run, its seed."""
    return (
        [member.path.name for member in run.members]
        if run.members != [run]
        else [str(run.config.seed)]
    )


def differences_of(
    content: bytes, ensemble: Ensemble, calibration: Calibration, n_samples: int, amp: bool
) -> Differences:
    """Compare an ONNX file with the models that it was made of."""
    usual: Any = ensemble.get_submodule("scorers.0.model_input")
    waveforms, lead_mask, valid_span, covariates = probes(
        n_samples, usual.median.numpy(), usual.scale.numpy()
    )
    session = onnx_session(content)
    feed = {"waveforms": waveforms} | ({"covariates": covariates} if covariates.size else {})
    batches = (slice(None), slice(0, 1), slice(-1, None))
    found = [
        session.run(["probability"], {name: array[part] for name, array in feed.items()})[0]
        for part in batches
    ]

    def difference(in_bfloat16: bool) -> float:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            logits = (
                ensemble(
                    *(
                        torch.from_numpy(array)
                        for array in (waveforms, lead_mask, valid_span, covariates)
                    )
                )
                .double()
                .numpy()
            )
        expected = calibration.apply(logits[:, 1] - logits[:, 0])
        return float(
            max(np.abs(p - expected[part]).max() for p, part in zip(found, batches, strict=True))
        )

    return Differences(difference(False), difference(True) if amp else None)


def onnx_session(content: bytes) -> Any:
    """Return an onnxruntime session of a file's bytes on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


Probes = tuple[NDArray[np.int16], NDArray[np.bool_], NDArray[np.int32], NDArray[np.float32]]


def probes(n_samples: int, median: NDArray[np.float32], scale: NDArray[np.float32]) -> Probes:
    """Return rows of a store to compare programs on: waveforms (12, 8, L), lead_mask, valid_span and covariates, always the same.

    Beats of 1 mV with noise; with leads missing, one lead left, padding on one side and on both, one sample of signal, nothing at all, and
    the greatest amplitudes; covariates some `scale` from the `median`, and missing.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    n, time = 12, np.arange(n_samples)
    beats = 1000 * np.exp(-0.5 * ((time % 400 - 200) / 8) ** 2)
    x = generator.uniform(-1, 1, (n, len(LEADS), 1)) * beats + generator.normal(
        20, 50, (n, len(LEADS), n_samples)
    )
    waveforms = np.rint(x).astype(np.int16)
    waveforms[waveforms == 0] = 1  # so that no sample of signal looks like padding
    lead_mask = np.ones((n, len(LEADS)), np.bool_)
    lead_mask[1, 0] = lead_mask[2, 1:7] = lead_mask[3, :7] = False
    valid_span = np.tile(np.array([0, n_samples], np.int32), (n, 1))
    quarter = n_samples // 4
    valid_span[4:9] = [
        [0, 2 * quarter],
        [quarter, n_samples],
        [quarter, 3 * quarter + 1],
        [1, n_samples - 1],
        [quarter, quarter + 2],
    ]
    waveforms[9, :, ::100] = np.where(np.arange(len(LEADS)) % 2, _SCALAR.min, _SCALAR.max)[:, None]
    lead_mask[10], valid_span[10] = False, (n_samples, 0)
    inside = (time >= valid_span[:, :1]) & (time < valid_span[:, 1:])
    waveforms *= lead_mask[:, :, None] & inside[:, None, :]
    covariates = (median + scale * generator.normal(0, 2, (n, len(median)))).astype(np.float32)
    covariates[1::3] = np.nan
    covariates[2, :1] = np.nan
    return waveforms, lead_mask, valid_span, covariates


def safetensors_bytes(run: Run) -> bytes:
    """Return a safetensors file: the tensors of every member as `member.<name>.<tensor>`, and what else applying them needs as metadata."""
    from safetensors.torch import save

    names, ensemble = member_names(run), load_ensemble(run.members, "cpu")
    tensors = {
        f"{MEMBER_PREFIX}{name}.{key}": tensor.contiguous()
        for name, scorer in zip(names, ensemble.scorers, strict=True)
        for key, tensor in scorer.get_submodule("model").state_dict().items()
    }
    stats = {
        name: member.read_json(NORM_STATS) for name, member in zip(names, run.members, strict=True)
    }
    for own in stats.values():
        del own["seen"]  # least and greatest values, each of which is one patient's
    metadata = describe(run) | {"config": _json(run.shown_settings()), "norm_stats": _json(stats)}
    return _sorted_header(save(tensors, metadata))


def _sorted_header(content: bytes) -> bytes:
    """Return the same safetensors file with its metadata in order: the library writes them in another one each time.

    A file is 8 bytes, little-endian, of the header's length; the header, JSON padded with spaces to a multiple of 8; the tensors.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]
