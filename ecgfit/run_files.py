"""The files of a run folder: their names, and how a run is recognised, written and deleted."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecgprep.errors import StoreError
from ecgprep.files.atomic import PARTIAL, write_file

if TYPE_CHECKING:
    from ecgfit.config import TrainConfig

CONFIG = "config.yaml"
NORM_STATS = "norm_stats.json"
CALIBRATION = "calibration.json"
THRESHOLD = "threshold.json"
CURVES = "curves.csv"
BEST, LAST = "checkpoints/best.pt", "checkpoints/last.pt"
MEMBERS = "members"
REPORT, EXPLAIN = "report.html", "explain"
EXPLANATIONS = [
    f"{EXPLAIN}/explain_true_positives.png",
    f"{EXPLAIN}/explain_false_positives.png",
    f"{EXPLAIN}/attributions.npz",
    f"{EXPLAIN}/explain.json",
]

EVENTS = "events.out.tfevents.ecgfit"
"""Named without time and host, both of which TensorBoard's own writer would put there."""

RUNS = Path("runs")
"""Where numbered runs go, and where `ecgfit eval` looks for one."""

LOCKED = "training"
"""Training holds `.training.lock` in the folder."""

DECIDED = ("val", "oof")
"""Rows on which the end of training writes results; `oof` only where a fold is scored."""

OF_MACHINE = {"device", "amp", "threads", "resident", "compile", "deterministic"}
"""Settings that say how a machine computes, not what."""

_LEFTOVER = re.compile(rf"\..+\.\d+\.[0-9a-f]{{8}}{re.escape(PARTIAL)}")
_ROWS = r"(train|val|test|all|oof|external_[0-9a-f]{12})"
RESULT = re.compile(
    rf"metrics_{_ROWS}(_(mean|max|first|last|none))?\.json|predictions_{_ROWS}\.csv"
)
"""Names of results on some rows, which training and `ecgfit eval` write."""


def config_values(path: Path) -> dict[str, Any]:
    """Read a run's config.yaml: the settings, and under `recorded` the store and the machine.

    Raises StoreError when the file is missing, damaged, or does not name the run's store.
    """
    import yaml

    from ecgfit.config import RECORDED

    try:
        values = yaml.safe_load((path / CONFIG).read_bytes())
        has_store = isinstance(values[RECORDED]["store"]["content_sha256"], str)
        if not has_store or not all(isinstance(key, str) for key in values):
            raise TypeError
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        raise StoreError(f"{path}/{CONFIG} is damaged. Train again.") from None
    return dict(values)


def origin_of(recorded: Mapping[str, Any]) -> tuple[str, dict[str, str] | None]:
    """Return the content hash of a recorded store and the versions that built it, if recorded."""
    software = recorded.get("software")
    return str(recorded["content_sha256"]), software if isinstance(software, dict) else None


def differing_settings(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Name the settings that differ, with both values; return an empty text if none does.

    The values of `init_from` are left out: a path can name a person or a machine.
    """
    changed = []
    for key in sorted(wanted):
        if saved.get(key) == wanted[key]:
            continue
        if key == "init_from":
            changed.append(key)
        else:
            changed.append(f"{key}: {saved.get(key)}, now {wanted[key]}")
    return ", ".join(changed)


def looks_like_run(path: Path) -> bool:
    """Say whether a folder is a run of ours, finished or not: it may be resumed or overwritten."""
    try:
        return bool(config_values(path))
    except StoreError:
        return False


def delete_run(path: Path) -> None:
    """Delete the files of a run and nothing else that may lie in its folder.

    The marker of a finished run goes first, and config.yaml, which says that this is a run, last.
    """
    (path / THRESHOLD).unlink(missing_ok=True)
    for member in list(path.glob(f"{MEMBERS}/*")):
        if looks_like_run(member):
            delete_run(member)
        remove_if_empty(member)
    results = [found for found in path.glob("*_*.*") if RESULT.fullmatch(found.name)]
    for found in results:
        found.unlink()
    remove_leftovers(path)
    others = (CALIBRATION, BEST, LAST, CURVES, EVENTS, NORM_STATS, REPORT, *EXPLANATIONS)
    for name in (*others, CONFIG):
        (path / name).unlink(missing_ok=True)
    remove_if_empty(path / MEMBERS, path / Path(BEST).parent, path / EXPLAIN)


def remove_if_empty(*folders: Path) -> None:
    """Remove those of the folders, in this order, that are there and empty."""
    for folder in folders:
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()


def is_leftover(path: Path) -> bool:
    """Say whether a killed training left this file in a run folder: half a write, or its lock."""
    return _LEFTOVER.fullmatch(path.name) is not None or path.name == f".{LOCKED}.lock"


def remove_leftovers(path: Path) -> None:
    """Delete what a killed program left of writes into a run folder, its members not included."""
    for folder in (path, path / Path(BEST).parent):
        leftovers = [found for found in folder.glob(f".*{PARTIAL}") if is_leftover(found)]
        for found in leftovers:
            found.unlink(missing_ok=True)


def new_run_dir(folder: Path) -> Path:
    """Make the next numbered run folder, such as runs/002; no other program gets the same."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [path.name for path in folder.glob("*")]
    numbers = [int(name) for name in names if name.isascii() and name.isdecimal()]
    for number in count(max(numbers, default=0) + 1):
        made = folder / f"{number:03d}"
        with contextlib.suppress(FileExistsError):  # another program was quicker
            made.mkdir()
            break
    return made


def save_config(path: Path, config: TrainConfig, recorded: Mapping[str, Any]) -> None:
    """Write config.yaml in the order of the fields."""
    import yaml

    from ecgfit.config import RECORDED

    values = config.model_dump(mode="json") | {RECORDED: dict(recorded)}
    write_file(path / CONFIG, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV of numbers, whole or not at all."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_file(path, buffer.getvalue().encode())


def write_curves(run: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write curves.csv and the same as TensorBoard events.

    The events carry the epoch's number as their time, in seconds. So TensorBoard's axis of relative
    time counts epochs, and a resumed run has the same bytes as one that was not interrupted.
    """
    header = list(history[0])
    write_table(run / CURVES, header, [_cells(row, header) for row in history])
    write_file(run / EVENTS, _events(history))


def _cells(row: Mapping[str, float], header: Sequence[str]) -> list[str]:
    return [f"{row[key]:.10g}" for key in header]


def _events(history: Sequence[Mapping[str, float]]) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(file_version="brain.Event:2").SerializeToString())
    for row in history:
        epoch = row["epoch"]
        values = [
            Summary.Value(tag=key, simple_value=value)
            for key, value in row.items()
            if key != "epoch"
        ]
        event = Event(wall_time=float(epoch), step=int(epoch), summary=Summary(value=values))
        writer.write(event.SerializeToString())
    return buffer.getvalue()
