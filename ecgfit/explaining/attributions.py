"""What a run looks at: integrated gradients per lead and time, averaged over aligned beats. Needs the extras `explain` and `report`.

Integrated gradients (Sundararajan, Taly & Yan 2017) share the difference between the output for a recording and for a baseline among the
samples: they add up to it. The output is the difference of logits, the baseline "no signal": 0 in model space, which is the mean of the
train recordings. It says what the model used, not what causes a disease.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecgfit.data.loader import Batch, make_loader
from ecgfit.data.rows import select_rows
from ecgfit.explaining.beats import cut_beats, find_beats
from ecgfit.inference.scorer import Ensemble, Scorer, load_run, predict_rows
from ecgfit.run import Run
from ecgfit.run_files import EXPLAIN
from ecgprep.errors import EcgError, InputError
from ecgprep.files.atomic import write_file, write_json
from ecgprep.files.output import check_folder, refuse_inside_store
from ecgprep.leads import LEADS
from ecgprep.store.reader import Store

STEPS = 50
"""Of the path from the baseline to the recording (Gauss-Legendre)."""


MORE_STEPS = 200
"""Where so few do not add up."""


TOLERANCE = 0.05
"""Greatest part of the difference of outputs by which attributions may miss it, over a batch, before MORE_STEPS are taken."""


BEFORE_S, AFTER_S = 0.25, 0.45


LEAST_PATIENTS = 10
"""The average of fewer would show persons."""


GROUPS = {"true_positives": 1, "false_positives": 0}
"""Group of recordings called positive -> their label."""


_AT_A_TIME, _INTERNAL = 4, 100


Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Explained:
    """A group of recordings: mean over recordings of each one's mean beat; a lead counts where it is present.

    `mean_beat_uv` and `mean_attribution` (8, T) µV about the beat's median, and parts of the difference of logits per sample; `lead_share`
    (8,) of the absolute attribution over whole recordings; `error`, by which part of the difference the attributions miss it.
    """

    mean_beat_uv: Floats
    mean_attribution: Floats
    lead_share: Floats
    n_recordings: int
    n_patients: int
    n_beats: int
    error: float


def explain_run(
    run: Run,
    store: Store,
    split: str = "test",
    out: Path | None = None,
    n: int = 100,
    say: Callable[[str], object] = str,
) -> dict[str, Any]:
    """Explain a run on a split of its store; write pictures, attributions.npz and explain.json into `out` and return the last.

    Recordings are called at the run's threshold, each on its own; of each patient in a group one is drawn, of more than `n` patients `n`, with
    the run's seed. Of a group with fewer than 10 patients nothing is written but that. Raises InputError, StoreError, and EcgError where an
    extra is not installed.
    """
    _require()
    run.check_store(store)
    if run.config.tabular_only:
        raise InputError(f"{run.path} does not use the ECG: there is nothing to draw.")
    if n < LEAST_PATIENTS:
        raise InputError(f"--n (={n}) must be at least {LEAST_PATIENTS}")
    out = out or run.path / EXPLAIN
    check_folder(out)
    refuse_inside_store(out / "explain.json")
    ensemble, amp = load_run(run)
    ensemble.requires_grad_(False)
    rows = called_positive(run, store, ensemble, split, amp, n)
    out.mkdir(parents=True, exist_ok=True)
    groups: dict[str, dict[str, Any]] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name, chosen in rows.items():
        say(f"{name.replace('_', ' ')}: {_few(len(chosen))} recordings")
        picture = out / f"explain_{name}.png"
        picture.unlink(
            missing_ok=True
        )  # of an earlier run: a group that is too small now must not keep it
        few = len(np.unique(store.array("patient")[chosen])) < LEAST_PATIENTS
        found = None if few else explain_rows(run, store, ensemble, chosen)
        groups[name] = _summary(found, len(chosen))
        if found is None or groups[name]["note"]:
            continue
        write_file(
            picture,
            draw(
                found,
                f"{name.replace('_', ' ').capitalize()}: {found.n_recordings:,} recordings, {found.n_patients:,} patients",
            ),
        )
        for key in ("mean_beat_uv", "mean_attribution"):
            arrays[f"{name}_{key}"] = getattr(found, key).astype(np.float32)
        arrays[f"{name}_n"] = np.array([found.n_recordings, found.n_patients, found.n_beats])
    before, after = _window(store.sample_rate_hz)
    arrays["time_s"] = (np.arange(-before, after) / store.sample_rate_hz).astype(np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes the names for options
    write_file(out / "attributions.npz", buffer.getbuffer())
    result = {
        "split": split,
        "store": store.content_sha256,
        "threshold": run.threshold,
        "leads": list(LEADS),
        "groups": groups,
    }
    write_json(out / "explain.json", result)
    return {"folder": str(out), **result}


def _require() -> None:
    absent = [name for name in ("captum", "matplotlib") if importlib.util.find_spec(name) is None]
    if absent:
        raise EcgError(
            f"This needs the extras `explain` and `report` ({', '.join(absent)} not found): pip install 'ecgprep-ecgfit[fit,explain,report]'."
        )


def _few(n: int) -> str:
    return f"{n:,}" if n == 0 or n >= LEAST_PATIENTS else f"fewer than {LEAST_PATIENTS}"


def _summary(found: Explained | None, n_called: int) -> dict[str, Any]:
    """Return what explain.json says of a group; a group of too few patients is not described further."""
    if n_called == 0:
        return {"note": "there are none"}
    if found is None or found.n_patients < LEAST_PATIENTS:
        return {
            "note": f"fewer than {LEAST_PATIENTS} patients with whole beats: their average is not written"
        }
    return {
        "note": "",
        "n_recordings": found.n_recordings,
        "n_patients": found.n_patients,
        "n_beats": found.n_beats,
        "completeness_error": found.error,
        "lead_share": dict(zip(LEADS, found.lead_share.tolist(), strict=True)),
    }


def called_positive(
    run: Run, store: Store, ensemble: Ensemble, split: str, amp: bool, n: int
) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each group, ascending: of at most `n` patients one recording each whose own probability is at or above the threshold."""
    predictions = predict_rows(
        ensemble, store, select_rows(store, split, run.config.missing), run.config.tabular, amp
    )
    positive = run.calibration.apply(predictions.logit_difference()) >= run.threshold
    generator = np.random.Generator(np.random.PCG64(run.config.seed))
    chosen = {}
    for name, label in GROUPS.items():
        drawn = generator.permutation(np.flatnonzero(positive & (predictions.label == label)))
        _, first = np.unique(
            predictions.patient[drawn], return_index=True
        )  # a patient who was recorded often counts no more than another
        chosen[name] = np.sort(predictions.rows[drawn[np.sort(first)[:n]]])
    return chosen


def _window(rate_hz: float) -> tuple[int, int]:
    return round(BEFORE_S * rate_hz), round(AFTER_S * rate_hz)


def explain_rows(
    run: Run, store: Store, ensemble: Ensemble, rows: NDArray[np.int64]
) -> Explained | None:
    """Explain rows of a store and average them; a recording without a whole beat is left out. None when none has one."""
    before, after = _window(store.sample_rate_hz)
    beats, parts, shares, used, missed, moved, n_beats = [], [], [], [], 0.0, 0.0, 0
    for batch in make_loader(store, rows, _AT_A_TIME, covariates=run.config.tabular):
        attribution, difference = attribute(ensemble, batch)
        missed += float(np.abs(attribution.sum(axis=(1, 2)) - difference).sum())
        moved += float(np.abs(difference).sum())
        for i, row in enumerate(batch.rows.tolist()):
            waveform, mask = batch.waveforms[i].numpy(), batch.lead_mask[i].numpy()
            span = (int(batch.valid_span[i, 0]), int(batch.valid_span[i, 1]))
            at = find_beats(waveform, mask, span, store.sample_rate_hz)
            cut = cut_beats(waveform.astype(np.float64), at, before, after, span)
            if not len(cut):
                continue
            absent = np.where(mask, 0.0, np.nan)[:, None]
            beats.append((cut - np.median(cut, axis=2, keepdims=True)).mean(axis=0) + absent)
            parts.append(cut_beats(attribution[i], at, before, after, span).mean(axis=0) + absent)
            shares.append(np.abs(attribution[i]).sum(axis=1))
            used.append(row)
            n_beats += len(cut)
    if not used:
        return None
    share = np.stack(shares)
    share = (share / np.maximum(share.sum(axis=1, keepdims=True), np.finfo(float).tiny)).mean(
        axis=0
    )
    patients = len(np.unique(store.array("patient")[used]))
    return Explained(
        _mean(beats),
        _mean(parts),
        share,
        len(used),
        patients,
        n_beats,
        missed / max(moved, np.finfo(float).tiny),
    )


def _mean(recordings: list[Floats]) -> Floats:
    """Return the mean over recordings, NaN for a lead that none has."""
    stack = np.stack(recordings)
    known = ~np.isnan(stack)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, stack, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def attribute(ensemble: Ensemble, batch: Batch) -> tuple[Floats, Floats]:
    """Return attributions (B, 8, L) to the ensemble's difference of logits, and by how much that differs from the baseline's (B,).

    Integrated gradients are linear in the output, so those of an ensemble are the mean over its members. What is not a waveform, the mask
    channel and covariates, stays at the recording's own value along the path.
    """
    device = next(ensemble.parameters()).device
    inputs = [
        tensor.to(device)
        for tensor in (batch.waveforms, batch.lead_mask, batch.valid_span, batch.covariates)
    ]
    members = [_attribute_member(scorer, inputs, STEPS) for scorer in ensemble.scorers]  # type: ignore[arg-type]  # ModuleList of Scorer
    return _average([pair[0] for pair in members]), _average([pair[1] for pair in members])


def _average(arrays: list[Floats]) -> Floats:
    return np.asarray(np.mean(np.stack(arrays), axis=0))


def _attribute_member(scorer: Scorer, inputs: list[Tensor], steps: int) -> tuple[Floats, Floats]:
    from captum.attr import IntegratedGradients

    with torch.no_grad():
        x, tabular = scorer.model_input(*inputs)
    signal, mask_channel = x[:, : len(LEADS)], x[:, len(LEADS) :]

    def difference(signal: Tensor, mask_channel: Tensor, *tabular: Tensor) -> Tensor:
        logits: Tensor = scorer.model(
            torch.cat([signal, mask_channel], dim=1), tabular[0] if tabular else None
        )
        return logits[:, 1] - logits[:, 0]

    others = (mask_channel, *([] if tabular is None else [tabular]))
    parts: Tensor = IntegratedGradients(difference).attribute(
        signal.requires_grad_(),
        torch.zeros_like(signal),
        additional_forward_args=others,
        n_steps=steps,
        internal_batch_size=max(_INTERNAL, len(signal)),
    )
    with torch.no_grad():
        moved = (
            (difference(signal, *others) - difference(torch.zeros_like(signal), *others))
            .double()
            .cpu()
            .numpy()
        )
    found = parts.detach().double().cpu().numpy()
    missed = np.abs(found.sum(axis=(1, 2)) - moved).sum()
    if steps < MORE_STEPS and missed > TOLERANCE * np.abs(moved).sum():
        return _attribute_member(scorer, inputs, MORE_STEPS)
    return found, moved


def draw(found: Explained, title: str) -> bytes:
    """Return a PNG: the mean beat of each lead in black over its mean attribution in colour, all leads on one scale each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    beat, parts = found.mean_beat_uv / 1000, 1000 * _smooth(found.mean_attribution)
    known = np.abs(parts[np.isfinite(parts)])
    limit = max(float(np.quantile(known, 0.995)), 1e-9)
    low, high = float(np.nanmin(beat)) - 0.1, float(np.nanmax(beat)) + 0.15
    for k, (axes, lead) in enumerate(zip(panels.flat, LEADS, strict=True)):
        extent = (-1000 * BEFORE_S, 1000 * AFTER_S, low, high)
        image: Any = axes.imshow(
            parts[k : k + 1],
            aspect="auto",
            extent=extent,
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            interpolation="nearest",
        )
        axes.plot(
            np.linspace(extent[0], extent[1], beat.shape[1], endpoint=False),
            beat[k],
            color="black",
            linewidth=1.3,
        )
        axes.set_title(f"{lead}   {100 * found.lead_share[k]:.0f} %", fontsize=11)
        axes.axvline(0, color="0.5", linewidth=0.6, linestyle=":")
        axes.set(xlim=extent[:2], ylim=(low, high))
    for axes in panels[-1]:
        axes.set_xlabel("ms from the R peak")
    for axes in panels[:, 0]:
        axes.set_ylabel("mV")
    bar = figure.colorbar(image, ax=panels, shrink=0.9, aspect=40)
    bar.set_label("1000 × attribution per sample; red speaks for label 1, blue against")
    figure.suptitle(
        f"{title}\nmean beat, integrated gradients of the difference of logits; % = share of all absolute attribution",
        fontsize=11,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _smooth(parts: Floats, width: int = 5) -> Floats:
    """Average over 5 samples, for the eye: networks that decimate spread a sample's part over its neighbours unevenly."""
    return np.stack(
        [
            np.convolve(
                np.pad(lead, width // 2, mode="edge"), np.full(width, 1 / width), mode="valid"
            )
            for lead in parts
        ]
    )
