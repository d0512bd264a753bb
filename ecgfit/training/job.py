"""One training job: what to train, on which data, where to, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ecgfit.compute.distributed import Ranks
from ecgfit.config import TrainConfig
from ecgfit.run_files import MEMBERS
from ecgprep.store.reader import Store

Say = Callable[[str], None]
"""Takes a line of progress."""


@dataclass(frozen=True)
class Job:
    """A model, or an ensemble, to train into one run folder."""

    config: TrainConfig
    store: Store
    outdir: Path
    ranks: Ranks
    say: Say
    stop: Callable[[], bool]
    """Says whether the program was asked to end."""
    resume: bool = False
    overwrite: bool = False
    ensemble: Path | None = None
    """The run that this one is a member of."""

    def members(self) -> dict[str, Job]:
        """Return the jobs of an ensemble's members by folder name; empty for a single model."""
        configs = self.config.member_configs()
        return {name: self._member(name, config) for name, config in configs.items()}

    def _member(self, name: str, config: TrainConfig) -> Job:
        folder = self.outdir / MEMBERS / name
        return replace(self, config=config, outdir=folder, overwrite=False, ensemble=self.outdir)
