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

import json
import math
import shlex
from pathlib import Path
from typing import Any

from ecgfit.config import RECORDED, TrainConfig, make_config
from ecgfit.data.rows import covariate_columns
from ecgfit.data.statistics import NormStats
from ecgfit.metrics.calibration import Calibration
from ecgfit.run_files import (
    _RESULT,
    BEST,
    CALIBRATION,
    CONFIG,
    DECIDED,
    MEMBERS,
    NORM_STATS,
    OF_MACHINE,
    THRESHOLD,
    config_values,
    differing_settings,
    looks_like_run,
)
from ecgprep.errors import InputError, StoreError
from ecgprep.leads import LEADS
from ecgprep.store.reader import Store


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
        self.members: list[Run] = [
            self._member(name, config) for name, config in names.items()
        ] or [self]
        if not names:
            self._require(NORM_STATS, BEST)
        try:
            self.stats = NormStats.from_json(self.members[0].read_json(NORM_STATS))
        except ValueError as error:
            raise StoreError(
                f"{self.members[0].path}/{NORM_STATS} {error}. {self._remedy(NORM_STATS)}"
            ) from None
        self.threshold = self._threshold()
        try:
            self.calibration = Calibration.from_json(self.read_json(CALIBRATION))
        except ValueError as error:
            raise StoreError(
                f"{path}/{CALIBRATION} is damaged ({str(error).rstrip('.')}). {self._remedy(CALIBRATION)}"
            ) from None

    def _member(self, name: str, expected: TrainConfig) -> Run:
        """Read a member. Raises StoreError where it is another run, copied here: the ensemble's calibration and threshold are not for it."""
        member = Run(self.path / MEMBERS / name, self.path)
        values = [
            config.model_dump(mode="json", exclude=OF_MACHINE)
            for config in (member.config, expected)
        ]
        changed = differing_settings(*values) or (
            "store" if member.content_sha256 != self.content_sha256 else ""
        )
        if changed:
            raise StoreError(
                f"{member.path} is not the member that this ensemble was made of (it differs in {changed}). Put that one there, or train again."
            )
        return member

    def _require(self, *names: str) -> None:
        missing = [name for name in names if not (self.path / name).is_file()]
        if missing:
            again = (
                " --overwrite" if BEST in missing else " --resume"
            )  # of a finished run: its weights are lost
            resume = again if looks_like_run(self._trained_as) else ""
            raise StoreError(
                f"{self.path} is not a finished run (missing: {', '.join(missing)}). "
                f"`ecgfit train --store STORE --outdir {shlex.quote(str(self._trained_as))}{resume}` with its settings makes one."
            )

    def _remedy(self, name: str) -> str:
        """Say how a damaged file of the run is made again."""
        if name in (
            CALIBRATION,
            THRESHOLD,
            NORM_STATS,
            *(f"metrics_{rows}.json" for rows in DECIDED),
        ):
            return "`ecgfit train` with the run's settings and --resume makes it again."
        if _RESULT.fullmatch(name):
            return "`ecgfit eval` makes it again."
        return "Train again."

    def _threshold(self) -> float:
        value = self.read_json(THRESHOLD).get(
            "value"
        )  # just above 1 calls nobody positive, not even a probability of 1
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not 0 <= value <= math.nextafter(1, 2)
        ):
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


def newest_run(folder: Path, store: Store) -> Run:
    """Return the run under `folder` that finished last on this store. Raises StoreError when there is none."""
    finished = sorted(
        folder.glob(f"*/{THRESHOLD}"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
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
