"""A trained run as one file for other programs.

ONNX applies it anywhere, safetensors holds its weights for further training. See docs/export.md.
Needs the extra `export`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecgfit.checkpoint import FORMAT, MEMBER_PREFIX, require
from ecgfit.inference.scorer import Ensemble, load_ensemble
from ecgfit.metrics.calibration import Calibration
from ecgfit.run import RunFolder
from ecgfit.run_files import NORM_STATS, THRESHOLD
from ecgprep import __version__
from ecgprep.errors import InputError, StoreError
from ecgprep.files.atomic import canonical_json
from ecgprep.files.output import write_output
from ecgprep.leads import LEADS

OPSET = 20
"""The ONNX operator set, fixed so that a file does not depend on the exporter's default."""

TOLERANCE = 1e-4
"""Greatest difference in a probability between the file and ecgfit, both in float32.

It is ten times the rounding of a network of 101 layers.
"""

MARKS = (b"\n\x06format\x12\x08" + FORMAT.encode(), b'"format":"' + FORMAT.encode() + b'"')
"""A file that `export_run` wrote holds one of these.

The first is an entry of ONNX's metadata (key and value with their lengths), the second one of
safetensors' metadata.
"""

_INT16 = np.iinfo(np.int16)

_SHARED_BATCH_AXIS = (
    r"# The axis name: batch will not be used, since it shares the same shape constraints"
)


class StandaloneModel(nn.Module):
    """An ensemble that needs nothing but the recording.

    int16 µV (B, 8, L) and, where the run uses covariates, float32 (B, K) with NaN where missing ->
    float32 `probability` (B,) of label 1, and `logits` (B, 2).

    What a store knows about a row is derived from the samples. Leading and trailing samples at
    which all eight leads are exactly 0 are padding; a lead that is constant over the rest is
    missing. This gives the store's `valid_span` and `lead_mask`, with one exception: if the first
    or last samples of a recording really were 0 on all leads, they count as padding here, and
    become 0 in model space instead of -mean / deviation.
    """

    slope: Tensor
    intercept: Tensor

    def __init__(self, ensemble: Ensemble, calibration: Calibration) -> None:
        super().__init__()
        self.ensemble = ensemble
        slope = torch.tensor(calibration.slope, dtype=torch.float32)
        intercept = torch.tensor(calibration.intercept, dtype=torch.float32)
        self.register_buffer("slope", slope, persistent=False)
        self.register_buffer("intercept", intercept, persistent=False)

    def forward(self, waveforms: Tensor, covariates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return probability (B,) and logits (B, 2)."""
        lead_mask, valid_span = derive_mask_and_span(waveforms)
        logits = self.ensemble(waveforms, lead_mask, valid_span, covariates)
        difference = logits[:, 1] - logits[:, 0]
        return torch.sigmoid(self.slope * difference + self.intercept), logits


def derive_mask_and_span(waveforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return lead_mask bool (B, 8) and valid_span int32 (B, 2) of int16 (B, 8, L).

    A recording of zeros has no lead and the empty span (L, 0).
    """
    x = waveforms.int()  # ONNX takes no maximum of int16
    n = x.shape[2]
    time = torch.arange(n, dtype=torch.int32, device=x.device)
    has_signal = x.abs().amax(dim=1) > 0
    first = torch.where(has_signal, time, n).amin(dim=1)
    last = torch.where(has_signal, time + 1, 0).amax(dim=1)
    inside = ((time >= first[:, None]) & (time < last[:, None]))[:, None, :]
    highest = torch.where(inside, x, _INT16.min - 1).amax(dim=2)
    lowest = torch.where(inside, x, _INT16.max + 1).amin(dim=2)
    return highest > lowest, torch.stack([first, last], dim=1).int()


class Differences(NamedTuple):
    """Greatest differences in a probability between an ONNX file and ecgfit, on `probes`.

    NaN when a probability is not a number.
    """

    max_difference: float | None
    """From the run in float32; None where onnxruntime is not installed."""
    max_difference_bfloat16: float | None
    """From a run that computes in bfloat16 (`amp`); None where it does not."""


class ExportedFile(TypedDict):
    """A file that was written; differences are None where they were not measured."""

    path: str
    format: str
    """`onnx` or `safetensors`."""
    bytes: int
    max_difference: float | None
    """Of a probability in ONNX from the run's in float32."""
    max_difference_bfloat16: float | None
    """The same from a run that computes in bfloat16."""


def export_run(run: RunFolder, path: Path) -> ExportedFile:
    """Write a run as `path`, whole or not at all, in the format of its suffix.

    Returns path, format, bytes and, for ONNX, the differences from ecgfit. Raises InputError for
    another suffix, StoreError when the run is damaged or the ONNX file gives other probabilities
    than ecgfit, and EcgError where the extra is not installed.
    """
    differences = Differences(None, None)
    if path.suffix == ".onnx":
        require("onnx", "onnxscript")
        content, differences = onnx_bytes(run)
    elif path.suffix == ".safetensors":
        require("safetensors")
        content = safetensors_bytes(run)
    else:
        raise InputError(
            f"The output's suffix (={path.suffix}) must be .onnx or .safetensors: "
            "the format follows from it."
        )
    write_output(path, content)
    return {
        "path": str(path),
        "format": path.suffix[1:],
        "bytes": len(content),
        "max_difference": differences.max_difference,
        "max_difference_bfloat16": differences.max_difference_bfloat16,
    }


def onnx_bytes(run: RunFolder) -> tuple[bytes, Differences]:
    """Return an ONNX file of a run, checked, and its differences from ecgfit."""
    import onnx

    ensemble = load_ensemble(run.members, "cpu").requires_grad_(False)
    model = StandaloneModel(ensemble, run.calibration).eval()
    n_samples = int(run.recorded["store"]["n_samples"])
    proto = to_onnx(model, n_samples, len(run.config.tabular))
    onnx.helper.set_model_props(proto, describe(run))
    onnx.checker.check_model(proto, full_check=True)
    content = bytes(proto.SerializeToString(deterministic=True))
    if importlib.util.find_spec("onnxruntime") is None:
        return content, Differences(None, None)
    amp = bool(run.recorded.get("amp"))
    differences = differences_of(content, ensemble, run.calibration, n_samples, amp=amp)
    largest = differences.max_difference
    if largest is None or not largest <= TOLERANCE:  # NaN fails, too
        raise StoreError(
            f"{run.path}: the ONNX file differs from the run by {largest:.1e} in a probability "
            f"({TOLERANCE:.0e} is allowed), so it was not written. Please report this as a bug."
        )
    return content, differences


def to_onnx(model: StandaloneModel, n_samples: int, n_covariates: int) -> Any:
    """Return an onnx.ModelProto of a model in evaluation mode.

    The batch is dynamic, the weights are inside, and nothing in it tells about this machine.
    """
    inputs = {"waveforms": torch.zeros(2, len(LEADS), n_samples, dtype=torch.int16)}
    if n_covariates:
        inputs["covariates"] = torch.zeros(2, n_covariates)
    batch = torch.export.Dim("batch", min=1)
    with _quiet_exporter():
        program = torch.onnx.export(
            model,
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["probability", "logits"],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
        )
    assert program is not None
    proto = program.model_proto
    _remove_stack_traces(proto.graph)
    return proto


def _remove_stack_traces(graph: Any) -> None:
    """Delete what the exporter notes beside nodes: stack traces hold the paths of this machine."""
    parts = (graph.node, graph.value_info, graph.input, graph.output, graph.initializer, [graph])
    for part in parts:
        for entry in part:
            entry.doc_string = ""
            del entry.metadata_props[:]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what torch's exporter says that does not concern the user.

    That is: deprecations inside torch, that torchvision is not installed, and that two inputs share
    the axis `batch`.
    """
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    deprecated = r"`isinstance\(treespec, LeafSpec\)` is deprecated"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", deprecated, FutureWarning)
            warnings.filterwarnings("ignore", _SHARED_BATCH_AXIS, UserWarning)
            yield
    finally:
        registration.setLevel(level)


def describe(run: RunFolder) -> dict[str, str]:
    """Return the metadata of a file: what it was made from. Values are text, structures JSON."""
    config, store = run.config, run.recorded["store"]
    threshold = run.read_json(THRESHOLD)
    versions = {"ecgfit": __version__, **run.recorded.get("versions", {})}
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
        "threshold_rule": str(threshold.get("rule", config.threshold)),
        "threshold_level": str(threshold.get("level", "")),
        "aggregation": str(threshold.get("aggregation", config.aggregate)),
        "calibration": _json(run.calibration.to_json()),
        "covariates": ",".join(config.tabular),
        **({"sex_code": _json(store["sex_code"])} if run.sex_codes else {}),
        "model": config.model,
        "missing_leads": config.missing,
        "members": _json(member_names(run)),
        "store_content_sha256": run.content_sha256,
        "versions": _json(versions),
    }


def _json(value: Any) -> str:
    return canonical_json(value).decode()


def member_names(run: RunFolder) -> list[str]:
    """Return the names of a run's members; a single run is named by its seed."""
    if run.members == [run]:
        return [str(run.config.seed)]
    return [member.path.name for member in run.members]


def differences_of(
    content: bytes, ensemble: Ensemble, calibration: Calibration, n_samples: int, amp: bool
) -> Differences:
    """Compare an ONNX file with the models that it was made from."""
    model_input: Any = ensemble.get_submodule("scorers.0.model_input")
    arrays = probes(n_samples, model_input.median.numpy(), model_input.scale.numpy())
    feed: dict[str, NDArray[Any]] = {"waveforms": arrays.waveforms}
    if arrays.covariates.size:
        feed["covariates"] = arrays.covariates
    session = onnx_session(content)
    batches = (slice(None), slice(0, 1), slice(-1, None))  # all rows, and batches of one
    found = []
    for batch in batches:
        part = {name: array[batch] for name, array in feed.items()}
        found.append(session.run(["probability"], part)[0])

    def largest_difference(in_bfloat16: bool) -> float:
        expected = _probabilities(ensemble, calibration, arrays, in_bfloat16)
        pairs = zip(found, batches, strict=True)
        return float(max(np.abs(p - expected[batch]).max() for p, batch in pairs))

    bfloat16 = largest_difference(True) if amp else None
    return Differences(largest_difference(False), bfloat16)


def onnx_session(content: bytes) -> Any:
    """Return an onnxruntime session of a file's bytes on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class Probes(NamedTuple):
    """Rows of a store on which programs are compared."""

    waveforms: NDArray[np.int16]
    lead_mask: NDArray[np.bool_]
    valid_span: NDArray[np.int32]
    covariates: NDArray[np.float32]


def _probabilities(
    ensemble: Ensemble, calibration: Calibration, arrays: Probes, in_bfloat16: bool
) -> NDArray[np.float64]:
    """Return ecgfit's own probabilities of probes (n,)."""
    tensors = [torch.from_numpy(array) for array in arrays]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
        logits = ensemble(*tensors).double().numpy()
    return calibration.apply(logits[:, 1] - logits[:, 0])


def probes(n_samples: int, median: NDArray[np.float32], scale: NDArray[np.float32]) -> Probes:
    """Return 12 rows to compare programs on: always the same, and of every kind.

    They hold beats of 1 mV with noise. Some rows lack leads or have a single one, are padded on one
    side or on both, have two samples of signal or none, or reach the greatest amplitudes.
    Covariates lie some `scale` (K,) from the `median` (K,), or are missing.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    n, time = 12, np.arange(n_samples)
    beats = 1000 * np.exp(-0.5 * ((time % 400 - 200) / 8) ** 2)
    amplitude = generator.uniform(-1, 1, (n, len(LEADS), 1))
    noise = generator.normal(20, 50, (n, len(LEADS), n_samples))
    waveforms = np.rint(amplitude * beats + noise).astype(np.int16)
    waveforms[waveforms == 0] = 1  # so that no sample of signal looks like padding
    lead_mask = np.ones((n, len(LEADS)), np.bool_)
    lead_mask[1, 0] = lead_mask[2, 1:7] = lead_mask[3, :7] = False
    valid_span = np.tile(np.array([0, n_samples], np.int32), (n, 1))
    quarter = n_samples // 4
    valid_span[4] = 0, 2 * quarter
    valid_span[5] = quarter, n_samples
    valid_span[6] = quarter, 3 * quarter + 1
    valid_span[7] = 1, n_samples - 1
    valid_span[8] = quarter, quarter + 2
    extremes = np.where(np.arange(len(LEADS)) % 2, _INT16.min, _INT16.max)
    waveforms[9, :, ::100] = extremes[:, None]
    lead_mask[10], valid_span[10] = False, (n_samples, 0)
    inside = (time >= valid_span[:, :1]) & (time < valid_span[:, 1:])
    waveforms *= lead_mask[:, :, None] & inside[:, None, :]
    offsets = generator.normal(0, 2, (n, len(median)))
    covariates = (median + scale * offsets).astype(np.float32)
    covariates[1::3] = np.nan
    covariates[2, :1] = np.nan
    return Probes(waveforms, lead_mask, valid_span, covariates)


def safetensors_bytes(run: RunFolder) -> bytes:
    """Return a safetensors file of all members, with the metadata that applying them needs.

    Tensors are named `member.<name>.<tensor>`.
    """
    from safetensors.torch import save

    names, ensemble = member_names(run), load_ensemble(run.members, "cpu")
    tensors = {}
    for name, scorer in zip(names, ensemble.scorers, strict=True):
        for key, tensor in scorer.get_submodule("model").state_dict().items():
            tensors[f"{MEMBER_PREFIX}{name}.{key}"] = tensor.contiguous()
    stats = {}
    for name, member in zip(names, run.members, strict=True):
        stats[name] = member.read_json(NORM_STATS)
        del stats[name]["seen"]  # least and greatest values, each of which is one patient's
    metadata = describe(run) | {"config": _json(run.shown_settings()), "norm_stats": _json(stats)}
    return _sort_metadata(save(tensors, metadata))


def _sort_metadata(content: bytes) -> bytes:
    """Return the same safetensors file with its metadata in order, as the library's order varies.

    A file is the length of the header in 8 bytes, little-endian; the header, JSON padded with
    spaces to a multiple of 8; and the tensors.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]
