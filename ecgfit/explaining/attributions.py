"""Show what a run looks at: attributions per lead and time, averaged over aligned beats.

They say what the model used, not what causes a disease. Needs the extras `explain` and `report`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from ecgfit.data.rows import select_rows
from ecgfit.explaining.averages import GroupAverage, average_group, window_samples
from ecgfit.explaining.picture import draw_average
from ecgfit.inference.scorer import Ensemble, load_run, predict_rows
from ecgfit.run import RunFolder
from ecgfit.run_files import BEST, EXPLAIN, looks_like_run
from ecgprep.errors import EcgError, InputError, TargetExists, missing_extra
from ecgprep.files.atomic import write_file, write_json
from ecgprep.files.output import check_folder, check_output, refuse_inside_store
from ecgprep.leads import LEADS
from ecgprep.store.reader import Store

LEAST_PATIENTS = 10
"""The average of fewer patients would show persons."""

GROUPS = {"true_positives": 1, "false_positives": 0}
"""Groups of recordings called positive, with their label."""

RESULT, ARRAYS = "explain.json", "attributions.npz"

PICTURES = {name: f"explain_{name}.png" for name in GROUPS}


class ExplainedGroup(TypedDict):
    """The average of one group; a group that is too small has nothing but a note."""

    note: str
    """Why there is no average; empty where there is one."""
    n_recordings: NotRequired[int]
    n_patients: NotRequired[int]
    n_beats: NotRequired[int]
    completeness_error: NotRequired[float]
    """How far the attributions are from adding up to the network's output."""
    lead_share: NotRequired[dict[str, float]]
    """Each lead's share of all absolute attribution."""


class Explanation(TypedDict):
    """The content of explain.json, and the folder it is in."""

    folder: NotRequired[str]
    split: str
    store: str
    """The store's content_sha256."""
    weights_sha256: str
    threshold: float
    leads: list[str]
    groups: dict[str, ExplainedGroup]


def explain_run(
    run: RunFolder,
    store: Store,
    split: str = "test",
    out: Path | None = None,
    n: int = 100,
    say: Callable[[str], object] = str,
    overwrite: bool = False,
) -> Explanation:
    """Explain a run on a split of its store; return the content of explain.json and the folder.

    Writes pictures, attributions.npz and explain.json into `out`, by default the run's folder
    `explain`. Each recording is called at the run's threshold. From each patient in a group one
    recording is drawn, and from more than `n` patients `n` are drawn, with the run's seed. Nothing
    is written about a group of fewer than 10 patients except that it is so small.

    Explanations of another run in `out` are only replaced with `overwrite`. Raises InputError,
    StoreError, TargetExists, and EcgError where an extra is not installed.
    """
    _require_extras()
    run.check_store(store)
    if run.config.tabular_only:
        raise InputError(f"{run.path} does not use the ECG, so there is nothing to draw.")
    if n < LEAST_PATIENTS:
        raise InputError(f"--n (={n}) must be at least {LEAST_PATIENTS}.")
    out = out or run.path / EXPLAIN
    _check_out(run, out, overwrite)
    ensemble, amp = load_run(run)
    ensemble.requires_grad_(False)
    chosen = draw_called_positive(run, store, ensemble, split, amp, n)
    out.mkdir(parents=True, exist_ok=True)
    groups: dict[str, ExplainedGroup] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name, rows in chosen.items():
        title = name.replace("_", " ")
        say(f"{title}: {_hide_few(len(rows))} recordings")
        average = _average_unless_few(run, store, ensemble, rows)
        groups[name] = _describe_group(average, len(rows))
        # A picture of an earlier run goes: a group that is too small now must not keep it.
        (out / PICTURES[name]).unlink(missing_ok=True)
        if average is not None and not groups[name]["note"]:
            write_file(out / PICTURES[name], draw_average(average, _caption(title, average)))
            arrays |= _arrays_of_group(name, average)
    arrays["time_s"] = _beat_times(store.sample_rate_hz)
    _write_arrays(out / ARRAYS, arrays)
    result: Explanation = {
        "split": split,
        "store": store.content_sha256,
        "weights_sha256": _weights_sha256(run),
        "threshold": run.threshold,
        "leads": list(LEADS),
        "groups": groups,
    }
    write_json(out / RESULT, result)
    return {"folder": str(out), **result}


def _require_extras() -> None:
    absent = [name for name in ("captum", "matplotlib") if importlib.util.find_spec(name) is None]
    if absent:
        raise EcgError(missing_extra(" and ".join(absent), "fit,explain,report"))


def _check_out(run: RunFolder, out: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be written to, or that holds what is not this run's.

    The run's own folder `explain` is always its own.
    """
    check_folder(out)
    refuse_inside_store(out / RESULT)
    real = out.resolve()
    if real == (run.path / EXPLAIN).resolve():
        return
    if real.name == EXPLAIN and looks_like_run(real.parent):
        raise InputError("The output folder is another run's own. Name another folder.")
    if not out.is_dir():
        return
    paths = [out / name for name in (RESULT, ARRAYS, *PICTURES.values())]
    if any(path.exists() for path in paths) and not overwrite and not _is_of_run(out, run):
        raise TargetExists(
            "The output folder holds explanations of another run, or files of yours with their "
            "names. Name another folder, or say --overwrite to replace them."
        )
    for path in paths:
        check_output(path, marks=(), overwrite=True)


def _is_of_run(out: Path, run: RunFolder) -> bool:
    """Say whether explain.json in a folder is of this run, by its weights.

    The threshold would not tell: it may be a given number. Explanations that do not name their
    weights, as those of earlier versions, count as another run's.
    """
    try:
        found = json.loads((out / RESULT).read_bytes())
        return bool(found["weights_sha256"] == _weights_sha256(run))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _weights_sha256(run: RunFolder) -> str:
    """Return the hash of the checkpoints of all members."""
    digest = hashlib.sha256()
    for member in run.members:
        digest.update((member.path / BEST).read_bytes())
    return digest.hexdigest()


def draw_called_positive(
    run: RunFolder, store: Store, ensemble: Ensemble, split: str, amp: bool, n: int
) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each group, ascending: one recording each of at most `n` patients.

    A recording is called positive when its own probability is at or above the threshold.
    """
    rows = select_rows(store, split, run.config.missing)
    predictions = predict_rows(ensemble, store, rows, run.config.tabular, amp)
    positive = run.calibration.apply(predictions.logit_difference()) >= run.threshold
    generator = np.random.Generator(np.random.PCG64(run.config.seed))
    chosen = {}
    for name, label in GROUPS.items():
        members = np.flatnonzero(positive & (predictions.label == label))
        shuffled = generator.permutation(members)
        # One of each patient: those who were recorded often count no more than others.
        _, first = np.unique(predictions.patient[shuffled], return_index=True)
        drawn = shuffled[np.sort(first)[:n]]
        chosen[name] = np.sort(predictions.rows[drawn])
    return chosen


def _average_unless_few(
    run: RunFolder, store: Store, ensemble: Ensemble, rows: NDArray[np.int64]
) -> GroupAverage | None:
    if len(np.unique(store.array("patient")[rows])) < LEAST_PATIENTS:
        return None
    return average_group(store, ensemble, rows, run.config.tabular)


def _hide_few(n: int) -> str:
    return f"{n:,}" if n == 0 or n >= LEAST_PATIENTS else f"fewer than {LEAST_PATIENTS}"


def _describe_group(average: GroupAverage | None, n_called: int) -> ExplainedGroup:
    """Return what explain.json says of a group; too few patients are not described further."""
    if n_called == 0:
        return {"note": "there are none"}
    if average is None or average.n_patients < LEAST_PATIENTS:
        return {
            "note": f"fewer than {LEAST_PATIENTS} patients with whole beats: "
            "their average is not written"
        }
    return {
        "note": "",
        "n_recordings": average.n_recordings,
        "n_patients": average.n_patients,
        "n_beats": average.n_beats,
        "completeness_error": average.error,
        "lead_share": dict(zip(LEADS, average.lead_share.tolist(), strict=True)),
    }


def _caption(title: str, average: GroupAverage) -> str:
    return (
        f"{title.capitalize()}: {average.n_recordings:,} recordings, "
        f"{average.n_patients:,} patients"
    )


def _arrays_of_group(name: str, average: GroupAverage) -> dict[str, NDArray[Any]]:
    counts = [average.n_recordings, average.n_patients, average.n_beats]
    return {
        f"{name}_mean_beat_uv": average.mean_beat_uv.astype(np.float32),
        f"{name}_mean_attribution": average.mean_attribution.astype(np.float32),
        f"{name}_n": np.array(counts),
    }


def _beat_times(rate_hz: float) -> NDArray[np.float32]:
    """Return the times in seconds from the R peak of the samples of a beat (T,)."""
    before, after = window_samples(rate_hz)
    return (np.arange(-before, after) / rate_hz).astype(np.float32)


def _write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    buffer = io.BytesIO()
    # The stub takes names of arrays for options.
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_file(path, buffer.getbuffer())
