"""The files of a run folder: their names, and how a run is recognised and deleted."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from ecgfit.config import RECORDED, TrainConfig
from ecgprep.errors import StoreError
from ecgprep.files.atomic import PARTIAL, write_file
from ecgprep.files.output import ReservedNames

CONFIG, NORM_STATS, CALIBRATION, THRESHOLD, CURVES = (
    "config.yaml",
    "norm_stats.json",
    "calibration.json",
    "threshold.json",
    "curves.csv",
)


MEMBERS = "members"


REPORT, EXPLAIN = "report.html", "explain"


EXPLANATIONS = [
    f"{EXPLAIN}/{name}"
    for name in (
        "explain_true_positives.png",
        "explain_false_positives.png",
        "attributions.npz",
        "explain.json",
    )
]


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


_RESULT = re.compile(
    rf"metrics_{_ROWS}(_(mean|max|first|last|none))?\.json|predictions_{_ROWS}\.csv"
)


_STEMS = "|".join(Path(name).stem for name in (CONFIG, NORM_STATS, CALIBRATION, THRESHOLD, CURVES))


RESERVED = ReservedNames(
    files=re.compile(
        rf"({_STEMS})\.\w+|metrics_.*\.json|events\.out\..*"
        r"|predictions_(train|val|test|all|oof|external_.*)\.csv"
    ),
    folders=frozenset({Path(BEST).parts[0], MEMBERS, EXPLAIN}),
)
"""Names in a run folder under which no other result may be written."""


def config_values(path: Path) -> dict[str, Any]:
    """Read a run's config.yaml, which names the store that it was trained on. Raises StoreError when it does not."""
    try:
        values = yaml.safe_load((path / CONFIG).read_bytes())
        if not isinstance(values[RECORDED]["store"]["content_sha256"], str) or not all(
            isinstance(key, str) for key in values
        ):
            raise TypeError
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        raise StoreError(f"{path}/{CONFIG} is damaged. Train again.") from None
    return dict(values)


def differing_settings(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Name the settings that are not what they were, with both values where these are not paths; empty where all are the same."""
    changed = sorted(key for key in wanted if saved.get(key) != wanted[key])
    return ", ".join(
        key if key == "init_from" else f"{key}: {saved.get(key)}, now {wanted[key]}"
        for key in changed
    )


def looks_like_run(path: Path) -> bool:
    """Say whether a folder is a run of ours, finished or not: what may be resumed or overwritten."""
    try:
        return bool(config_values(path))
    except StoreError:
        return False


def delete_run(path: Path) -> None:
    """Delete the files of a run and nothing else that may lie in its folder."""
    (path / THRESHOLD).unlink(
        missing_ok=True
    )  # the marker of a finished run goes first, what says that this is a run goes last
    for member in list(path.glob(f"{MEMBERS}/*")):
        if looks_like_run(member):
            delete_run(member)
        remove_if_empty(member)
    for found in [found for found in path.glob("*_*.*") if _RESULT.fullmatch(found.name)]:
        found.unlink()
    remove_leftovers(path)
    for name in (
        CALIBRATION,
        BEST,
        LAST,
        CURVES,
        EVENTS,
        NORM_STATS,
        REPORT,
        *EXPLANATIONS,
        CONFIG,
    ):
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


def new_run_dir(folder: Path) -> Path:
    """Make the next numbered run folder, runs/001, runs/002, …, and return it: no other program gets the same."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [
        int(path.name) for path in folder.glob("*") if path.name.isascii() and path.name.isdecimal()
    ]
    for number in count(max(numbers, default=0) + 1):
        with contextlib.suppress(FileExistsError):  # another program was quicker
            (made := folder / f"{number:03d}").mkdir()
            break
    return made


def save_config(path: Path, config: TrainConfig, recorded: dict[str, Any]) -> None:
    """Write config.yaml in the order of the fields."""
    values = config.model_dump(mode="json") | {RECORDED: recorded}
    write_file(path / CONFIG, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())


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
        writer.write(
            Event(step=int(row["epoch"]), summary=Summary(value=values)).SerializeToString()
        )
    write_file(run / EVENTS, buffer.getbuffer())
