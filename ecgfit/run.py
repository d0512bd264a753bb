"""A run folder: what lies in it, and how it is written and found.

config.yaml              every setting, and under `recorded` the store's identity, versions and device
checkpoints/best.pt      the weights of the best epoch       checkpoints/last.pt   all that resuming needs
norm_stats.json          what the train rows decide: mean and deviation of leads, medians and scales of covariates, ranges seen
calibration.json, threshold.json      from logits to a probability, and the operating point: chosen on validation when training ends
metrics_val.json, metrics_test.json, predictions_val.csv, predictions_test.csv
curves.csv               one line an epoch; events.out.tfevents.ecgfit holds the same for TensorBoard
members/NAME/            an ensemble's members, each a run folder of its own; the ensemble has no checkpoints and curves
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import pickle
import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
import yaml

from ecgfit.calibration import Calibration
from ecgfit.config import RECORDED, TrainConfig, make_config
from ecgfit.data import NormStats, covariate_columns
from ecgprep.durable import PARTIAL, write_file
from ecgprep.errors import InputError, StoreError
from ecgprep.leads import LEADS
from ecgprep.store import Store

CONFIG, NORM_STATS, CALIBRATION, THRESHOLD, CURVES = "config.yaml", "norm_stats.json", "calibration.json", "threshold.json", "curves.csv"
MEMBERS = "members"
REPORT, EXPLAIN = "report.html", "explain"
EXPLANATIONS = [f"{EXPLAIN}/{name}" for name in ("explain_true_positives.png", "explain_false_positives.png", "attributions.npz", "explain.json")]
RUNS = Path("runs")
"""Where numbered runs go, and where `ecgfit eval` looks for one."""
LOCKED = "training"
"""Training holds `.training.lock` in the folder."""
BEST, LAST = "checkpoints/best.pt", "checkpoints/last.pt"
DECIDED = ("val", "oof")
"""Rows on which the end of training writes results; `oof` only where a fold is scored."""
OF_MACHINE = {"device", "amp", "threads", "resident", "compile", "deterministic"}
"""Settings that say how a machine computes, not what."""
EVENTS = "events.out.tfevents.ecgfit"
"""Named without time or host, both of which TensorBoard's own writer would put there."""


_LEFTOVER = re.compile(rf"\..+\.\d+\.[0-9a-f]{{8}}{re.escape(PARTIAL)}")
_ROWS = r"(train|val|test|all|oof|external_[0-9a-f]{12})"
_RESULT = re.compile(rf"metrics_{_ROWS}(_(mean|max|first|last|none))?\.json|predictions_{_ROWS}\.csv")


class Run:
    """A finished run. Raises StoreError when the folder is missing, unfinished or damaged."""

    def __init__(self, path: Path, ensemble: Path | None = None) -> None:
        """Read the run at `path`; `ensemble` is the folder of the run that it is a member of."""
        self.path, self._trained_as = path, ensemble or path
        self._require(CONFIG, THRESHOLD, CALIBRATION)
        values = config_values(path)
        self.recorded: dict[str, Any] = values.pop(RECORDED)
        try:
            self.config: TrainConfig = make_config(values, CONFIG)
        except InputError as error:
            raise StoreError(f"{path}: {error}") from None
        names = self.config.member_configs()
        self.members: list[Run] = [self._member(name, config) for name, config in names.items()] or [self]
        if not names:
            self._require(NORM_STATS, BEST)
        try:
            self.stats = NormStats.from_json(self.members[0].read_json(NORM_STATS))
        except ValueError as error:
            raise StoreError(f"{self.members[0].path}/{NORM_STATS} {error}. {self._remedy(NORM_STATS)}") from None
        self.threshold = self._threshold()
        try:
            self.calibration = Calibration.from_json(self.read_json(CALIBRATION))
        except ValueError as error:
            raise StoreError(f"{path}/{CALIBRATION} is damaged ({str(error).rstrip('.')}). {self._remedy(CALIBRATION)}") from None

    def _member(self, name: str, expected: TrainConfig) -> Run:
        """Read a member. Raises StoreError where it is another run, copied here: the ensemble's calibration and threshold are not for it."""
        member = Run(self.path / MEMBERS / name, self.path)
        values = [config.model_dump(mode="json", exclude=OF_MACHINE) for config in (member.config, expected)]
        changed = differing_settings(*values) or ("store" if member.content_sha256 != self.content_sha256 else "")
        if changed:
            raise StoreError(
                f"{member.path} is not the member that this ensemble was made of (it differs in {changed}). Put that one there, or train again."
            )
        return member

    def _require(self, *names: str) -> None:
        missing = [name for name in names if not (self.path / name).is_file()]
        if missing:
            again = " --overwrite" if BEST in missing else " --resume"  # of a finished run: its weights are lost
            resume = again if looks_like_run(self._trained_as) else ""
            raise StoreError(
                f"{self.path} is not a finished run (missing: {', '.join(missing)}). "
                f"`ecgfit train --store STORE --outdir {shlex.quote(str(self._trained_as))}{resume}` with its settings makes one."
            )

    def _remedy(self, name: str) -> str:
        """Say how a damaged file of the run is made again."""
        if name in (CALIBRATION, THRESHOLD, NORM_STATS, *(f"metrics_{rows}.json" for rows in DECIDED)):
            return "`ecgfit train` with the run's settings and --resume makes it again."
        if _RESULT.fullmatch(name):
            return "`ecgfit eval` makes it again."
        return "Train again."

    def _threshold(self) -> float:
        value = self.read_json(THRESHOLD).get("value")  # just above 1 calls nobody positive, not even a probability of 1
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= math.nextafter(1, 2):
            raise StoreError(f"{self.path}/{THRESHOLD} is damaged. {self._remedy(THRESHOLD)}")
        return float(value)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object of the run. Raises StoreError."""
        try:
            value = json.loads((self.path / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise StoreError(f"{self.path}/{name} is missing or damaged. {self._remedy(name)}")
        return value

    def shown_settings(self) -> dict[str, Any]:
        """Return the settings as others may see them: of the path to other weights, which can name a person or a machine, the last part."""
        values = self.config.model_dump(mode="json")
        return values | {"init_from": Path(values["init_from"]).name}

    @property
    def content_sha256(self) -> str:
        """Identity of the store that the run was trained on."""
        return str(self.recorded["store"]["content_sha256"])

    def check_store(self, store: Store) -> None:
        """Refuse a store other than the one the run was trained on: its test split may hold the run's train patients."""
        if self.content_sha256 != store.content_sha256:
            raise StoreError(
                f"{self.path} was trained on another store (content_sha256 {self.content_sha256[:12]}…) than {store.path} "
                f"({store.content_sha256[:12]}…). Its splits need not be disjoint from the run's. Give the run's own store, train on this one, "
                "or say --external when no patient of this store was in the other."
            )
        self.check_layout(store)

    def check_layout(self, store: Store) -> None:
        """Refuse a store whose recordings the model cannot take: other leads, rate, length, or covariates that are not there."""
        recorded = self.recorded["store"]
        for what, here, there in (
            ("leads", list(store.attributes["lead_names"]), list(LEADS)),
            ("sampling rate in Hz", store.sample_rate_hz, recorded["sample_rate_hz"]),
            ("number of samples", store.n_samples, recorded["n_samples"]),
        ):
            if here != there:
                raise StoreError(
                    f"{store.path}: the {what} (={here}) is not that of the run's store ({there}). Build the store with the same settings."
                )
        covariate_columns(store, self.config.tabular)


def config_values(path: Path) -> dict[str, Any]:
    """Read a run's config.yaml, which names the store that it was trained on. Raises StoreError when it does not."""
    try:
        values = yaml.safe_load((path / CONFIG).read_bytes())
        if not isinstance(values[RECORDED]["store"]["content_sha256"], str) or not all(isinstance(key, str) for key in values):
            raise TypeError
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        raise StoreError(f"{path}/{CONFIG} is damaged. Train again.") from None
    return dict(values)


def differing_settings(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Name the settings that are not what they were, with both values where these are not paths; empty where all are the same."""
    changed = sorted(key for key in wanted if saved.get(key) != wanted[key])
    return ", ".join(key if key == "init_from" else f"{key}: {saved.get(key)}, now {wanted[key]}" for key in changed)


def looks_like_run(path: Path) -> bool:
    """Say whether a folder is a run of ours, finished or not: what may be resumed or overwritten."""
    try:
        return bool(config_values(path))
    except StoreError:
        return False


def delete_run(path: Path) -> None:
    """Delete the files of a run and nothing else that may lie in its folder."""
    (path / THRESHOLD).unlink(missing_ok=True)  # the marker of a finished run goes first, what says that this is a run goes last
    for member in list(path.glob(f"{MEMBERS}/*")):
        if looks_like_run(member):
            delete_run(member)
        remove_if_empty(member)
    for found in [found for found in path.glob("*_*.*") if _RESULT.fullmatch(found.name)]:
        found.unlink()
    remove_leftovers(path)
    for name in (CALIBRATION, BEST, LAST, CURVES, EVENTS, NORM_STATS, REPORT, *EXPLANATIONS, CONFIG):
        (path / name).unlink(missing_ok=True)
    remove_if_empty(path / MEMBERS, path / Path(BEST).parent, path / EXPLAIN)


def remove_if_empty(*folders: Path) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()


def is_leftover(path: Path) -> bool:
    """Say whether a file is what training leaves in a run folder when it is killed: half a file, or its lock."""
    return _LEFTOVER.fullmatch(path.name) is not None or path.name == f".{LOCKED}.lock"


def remove_leftovers(path: Path) -> None:
    """Delete what a killed program has left of writes into a run folder, its members not included."""
    for folder in (path, path / Path(BEST).parent):
        for found in [found for found in folder.glob(f".*{PARTIAL}") if is_leftover(found)]:
            found.unlink(missing_ok=True)


def newest_run(folder: Path, store: Store) -> Run:
    """Return the run under `folder` that finished last on this store. Raises StoreError when there is none."""
    finished = sorted(folder.glob(f"*/{THRESHOLD}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for marker in finished:
        try:
            run = Run(marker.parent)
        except StoreError:  # another program's or a damaged folder is not a candidate; named with --run it is reported
            continue
        if run.content_sha256 == store.content_sha256:
            return run
    raise StoreError(
        f"No finished run under {folder}/ was trained on {store.path}. `ecgfit train --store {store.path}` makes one, or name one with --run."
    )


def new_run_dir(folder: Path) -> Path:
    """Make the next numbered run folder, runs/001, runs/002, …, and return it: no other program gets the same."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name) for path in folder.glob("*") if path.name.isascii() and path.name.isdecimal()]
    for number in count(max(numbers, default=0) + 1):
        with contextlib.suppress(FileExistsError):  # another program was quicker
            (made := folder / f"{number:03d}").mkdir()
            break
    return made


def save_config(path: Path, config: TrainConfig, recorded: dict[str, Any]) -> None:
    """Write config.yaml in the order of the fields."""
    values = config.model_dump(mode="json") | {RECORDED: recorded}
    write_file(path / CONFIG, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())


def save_checkpoint(path: Path, value: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all; through memory, since torch puts the name of a file into the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_file(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it can run code. Raises StoreError."""
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - the one place
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError, pickle.UnpicklingError):
        raise StoreError(f"{path} is missing or damaged. Train again.") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path} is not a checkpoint of ecgfit. Train again.")
    return value


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV of numbers, whole or not at all."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_file(path, buffer.getvalue().encode())


def write_curves(run: Path, history: Sequence[dict[str, float]]) -> None:
    """Write curves.csv and the same as TensorBoard events."""
    header = list(history[0])
    write_table(run / CURVES, header, [[f"{row[key]:.10g}" for key in header] for row in history])
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(file_version="brain.Event:2").SerializeToString())
    for row in history:
        values = [Summary.Value(tag=key, simple_value=row[key]) for key in header if key != "epoch"]
        writer.write(Event(step=int(row["epoch"]), summary=Summary(value=values)).SerializeToString())
    write_file(run / EVENTS, buffer.getbuffer())
