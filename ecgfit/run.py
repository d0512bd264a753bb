"""A run folder: its files, and how they are read and found.

config.yaml              every setting, and under `recorded` the store's identity, versions, device
checkpoints/best.pt      the weights of the best epoch
checkpoints/last.pt      all that resuming needs
norm_stats.json          what the train rows decide: mean and deviation of leads, medians and
                         scales of covariates, ranges seen
calibration.json         from logits to a probability, chosen on validation when training ends
threshold.json           the operating point, chosen likewise; marks a run as finished. After
                         `ecgfit decide` it also holds its calibration, and the earlier decisions
metrics_val.json, metrics_test.json, predictions_val.csv, predictions_test.csv
curves.csv               one line an epoch; events.out.tfevents.ecgfit: the same for TensorBoard
members/NAME/            an ensemble's members, each a run folder of its own; the ensemble itself
                         has no checkpoints and curves

Importing this module loads neither numpy nor pydantic: the help of each command imports it.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecgfit.run_files import (
    BEST,
    CALIBRATION,
    CONFIG,
    DECIDED,
    MEMBERS,
    NORM_STATS,
    OF_MACHINE,
    RESULT,
    THRESHOLD,
    config_values,
    differing_settings,
    looks_like_run,
    origin_of,
)
from ecgprep.errors import InputError, StoreError

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from ecgfit.config import TrainConfig
    from ecgfit.data.statistics import NormStats
    from ecgfit.metrics.calibration import Calibration
    from ecgprep.sex_code import SexCode
    from ecgprep.store.reader import Store

LARGEST_THRESHOLD = math.nextafter(1, 2)
"""Just above 1: it calls nobody positive, not even at a probability of 1."""

MADE_BY_TRAINING = {
    CALIBRATION,
    THRESHOLD,
    NORM_STATS,
    *(f"metrics_{rows}.json" for rows in DECIDED),
}
"""Files that `ecgfit train --resume` makes again from the weights."""


class RunFolder:
    """The content of a finished run's folder, read and checked when this is made."""

    def __init__(self, path: Path, ensemble: Path | None = None) -> None:
        """Read the run at `path`; `ensemble` is the folder of the run that it is a member of.

        Raises StoreError when the folder is missing, unfinished or damaged.
        """
        from ecgfit.config import RECORDED, make_config

        self.path = path
        self._trained_as = ensemble or path
        self._require(CONFIG, THRESHOLD, CALIBRATION)
        values = config_values(path)
        self.recorded: dict[str, Any] = values.pop(RECORDED)
        try:
            self.config: TrainConfig = make_config(values, CONFIG)
        except InputError as error:
            raise StoreError(f"{path}: {error}") from None
        self.members: list[RunFolder] = self._read_members()
        self.stats = self._read_stats()
        self.read_decision()
        self.sex_codes = self._read_sex_codes()

    def outdated_results(self) -> list[str]:
        """Return the names of results that were made under an earlier decision."""
        names = sorted(path.name for path in self.path.glob("metrics_*.json"))
        results = [name for name in names if RESULT.fullmatch(name)]
        return [name for name in results if "outdated" in self.read_json(name)]

    def _read_members(self) -> list[RunFolder]:
        """Return an ensemble's members, or this run itself where it is a single model."""
        expected = self.config.member_configs()
        if expected:
            return [self._read_member(name, config) for name, config in expected.items()]
        self._require(NORM_STATS, BEST)
        return [self]

    def _read_member(self, name: str, expected: TrainConfig) -> RunFolder:
        """Read a member. Raises StoreError where it is another run, copied here.

        The ensemble's calibration and threshold would not be for it.
        """
        member = RunFolder(self.path / MEMBERS / name, self.path)
        changed = differing_settings(
            member.config.model_dump(mode="json", exclude=OF_MACHINE),
            expected.model_dump(mode="json", exclude=OF_MACHINE),
        )
        if not changed and member.content_sha256 != self.content_sha256:
            changed = "store"
        if changed:
            raise StoreError(
                f"{member.path} is not the member that this ensemble was made of (it differs in "
                f"{changed}). Put that one there, or train again."
            )
        return member

    def _read_stats(self) -> NormStats:
        from ecgfit.data.statistics import NormStats

        first = self.members[0]
        try:
            return NormStats.from_json(first.read_json(NORM_STATS))
        except ValueError as error:
            raise StoreError(
                f"{first.path}/{NORM_STATS} {error}. {remedy_for(NORM_STATS)}"
            ) from None

    def read_decision(self) -> None:
        """Read the operating point and the calibration in force. Raises StoreError."""
        self.point = self.read_json(THRESHOLD)
        self.earlier = self._read_earlier()
        self.threshold = self._threshold_of(self.point)
        # After `ecgfit decide` one file decides: it is written whole or not at all.
        calibration = self.point.get("calibration") or self.read_json(CALIBRATION)
        self.calibration = self._calibration_of(calibration)

    @property
    def rule(self) -> str:
        """The rule that chose the threshold in force, such as `youden` or `sensitivity=0.9`."""
        return str(self.point.get("rule", self.config.threshold))

    def _read_earlier(self) -> list[dict[str, Any]]:
        """Return the decisions before the one in force, the oldest first."""
        earlier: Any = self.point.get("earlier", [])
        if not isinstance(earlier, list) or not all(isinstance(entry, dict) for entry in earlier):
            raise StoreError(f"{self.path}/{THRESHOLD} is damaged. {remedy_for(THRESHOLD)}")
        return list(earlier)

    @property
    def decisions(self) -> list[tuple[float, Calibration]]:
        """Threshold and calibration in force, then those of earlier decisions, if any."""
        earlier = [
            (self._threshold_of(entry), self._calibration_of(entry.get("calibration")))
            for entry in self.earlier
        ]
        return [(self.threshold, self.calibration), *earlier]

    def _threshold_of(self, point: dict[str, Any]) -> float:
        value: Any = point.get("value")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= LARGEST_THRESHOLD:
            raise StoreError(f"{self.path}/{THRESHOLD} is damaged. {remedy_for(THRESHOLD)}")
        return float(value)

    def _calibration_of(self, content: Any) -> Calibration:
        from ecgfit.metrics.calibration import Calibration

        try:
            return Calibration.from_json(content)
        except ValueError as error:
            detail = str(error).rstrip(".")
            raise StoreError(
                f"{self.path}/{CALIBRATION} is damaged ({detail}). {remedy_for(CALIBRATION)}"
            ) from None

    def _require(self, *names: str) -> None:
        missing = [name for name in names if not (self.path / name).is_file()]
        if not missing:
            return
        option = ""
        if looks_like_run(self._trained_as):
            # Only training anew brings back the weights of a finished run.
            option = " --overwrite" if BEST in missing else " --resume"
        outdir = shlex.quote(str(self._trained_as))
        found = "there is no such folder"
        if self.path.is_dir():
            found = f"missing: {', '.join(missing)}"
        raise StoreError(
            f"{self.path} is not a finished run ({found}). "
            f"`ecgfit train --store STORE --outdir {outdir}{option}` with its settings makes one."
        )

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object of the run. Raises StoreError, which says what makes it again."""
        try:
            value = json.loads((self.path / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise StoreError(f"{self.path}/{name} is missing or damaged. {remedy_for(name)}")
        return value

    def _read_sex_codes(self) -> dict[str, SexCode]:
        """Return {covariate: code} of the run's covariates that hold sexes of a known code."""
        from ecgprep.store.format import sex_codes_of

        try:
            return sex_codes_of(self.recorded["store"])
        except (AttributeError, InputError, TypeError):
            raise StoreError(
                f"{self.path}: damaged: {CONFIG} has no readable sex_code. {remedy_for(CONFIG)}"
            ) from None

    def shown_settings(self) -> dict[str, Any]:
        """Return the settings as others may see them.

        Only the last part of the path to other weights is kept: the rest can name a person or a
        machine.
        """
        values = self.config.model_dump(mode="json")
        return values | {"init_from": Path(values["init_from"]).name}

    @property
    def content_sha256(self) -> str:
        """Identity of the store that the run was trained on."""
        return str(self.recorded["store"]["content_sha256"])

    def is_of(self, store: Store) -> bool:
        """Say whether a run was trained on a store, or on one that only other versions built."""
        return store.has_content(*origin_of(self.recorded["store"]))

    def check_store(self, store: Store) -> None:
        """Refuse a store other than the run's own, whose test split may hold its train patients.

        One that holds the same to the bit, but was built by other versions, is accepted and noted.
        Raises StoreError.
        """
        if not self.is_of(store):
            raise StoreError(
                f"{self.path} was trained on another store (content_sha256 "
                f"{self.content_sha256[:12]}…) than {store.path} "
                f"({store.content_sha256[:12]}…). "
                "Its splits need not be disjoint from the run's. Give the run's own store, or "
                "train on this one. If no patient of this store was in the other, `ecgfit eval "
                "--external` tests the run on it."
            )
        if self.content_sha256 != store.content_sha256:
            log.info(
                "%s holds the same as the store of %s, bit by bit; only the versions of the "
                "packages that built it differ.",
                store.path,
                self.path,
            )
        self.check_layout(store)

    def check_layout(self, store: Store) -> None:
        """Refuse recordings that the model cannot take: other leads, rate, length or covariates.

        Raises StoreError and InputError.
        """
        from ecgfit.data.rows import covariate_columns
        from ecgprep.leads import LEADS

        recorded = self.recorded["store"]
        expected_and_found = {
            "leads": (list(LEADS), list(store.attributes["lead_names"])),
            "sampling rate in Hz": (recorded["sample_rate_hz"], store.sample_rate_hz),
            "number of samples": (recorded["n_samples"], store.n_samples),
        }
        for what, (expected, found) in expected_and_found.items():
            if found != expected:
                raise StoreError(
                    f"{store.path}: the {what} (={found}) is not that of the run's store "
                    f"({expected}). Build the store with the same settings."
                )
        covariate_columns(store, self.config.tabular)
        for name, code in self.sex_codes.items():
            found_code = store.sex_codes.get(name, code)
            if found_code != code:
                raise StoreError(
                    f"{store.path}: the code of {name} (={found_code}) is not that of the run's "
                    f"store ({code}). Build the store with --sex-code {code}."
                )


def remedy_for(name: str) -> str:
    """Say how a damaged file of a run is made again."""
    if name in MADE_BY_TRAINING:
        return "`ecgfit train` with the run's settings and --resume makes it again."
    if RESULT.fullmatch(name):
        return "`ecgfit eval` makes it again."
    return "Train again."


def newest_run(folder: Path, store: Store) -> RunFolder:
    """Return the run under `folder` that finished last on this store.

    Raises StoreError when there is none.
    """
    markers = list(folder.glob(f"*/{THRESHOLD}"))
    markers.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    runs = []
    for marker in markers:
        try:
            run = RunFolder(marker.parent)
        except StoreError:  # damaged, or another program's: reported only when named with --run
            continue
        if run.content_sha256 == store.content_sha256:
            return run
        runs.append(run)
    for run in runs:
        if run.is_of(store):  # this reads the whole store
            return run
    raise StoreError(
        f"No finished run under {folder}/ was trained on {store.path}. "
        f"`ecgfit train --store {store.path}` makes one, or name one with --run."
    )
