"""Train one model, or the members of an ensemble, on one store: selected by validation, resumable to the bit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ecgfit.compute.device import pick_device
from ecgfit.compute.distributed import start
from ecgfit.config import TrainConfig
from ecgfit.run import Run
from ecgfit.run_files import (
    MEMBERS,
    RUNS,
)
from ecgfit.training.ensemble import _train_members
from ecgfit.training.outdir import _held, _missing, _numbered, check_outdir
from ecgfit.training.single import Say, _train_one
from ecgfit.training.trainer import Stopped
from ecgprep.errors import EXIT_TERMINATED
from ecgprep.files.output import refuse_inside_store
from ecgprep.store.reader import Store


def train(
    config: TrainConfig,
    store: Store,
    outdir: Path | None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Say = print,
) -> Run:
    """Train, go back to the best epoch, let validation choose calibration and threshold, and return the finished run.

    With `seeds` or `folds` this is done for each member, and then for their mean logit. Test rows are never read. SIGTERM saves a checkpoint
    and ends the program with exit code 143. The first process locks the folder; without `outdir` it is the next number under runs/.
    Raises TargetExists, InputError, StoreError.
    """
    ranks = start(pick_device(config.device))
    say = say if ranks.is_first else _silent
    refuse_inside_store(outdir or RUNS / "001")
    missing = _missing(outdir or RUNS / "any")
    if outdir is None:
        outdir = _numbered(ranks)
        missing = [outdir, *missing[1:]]
    members = config.member_configs()
    with ExitStack() as held, _asked_to_stop() as stop:
        held.enter_context(_held(outdir, ranks, missing))
        check_outdir(outdir, resume, overwrite, config.init_from)
        ranks.wait()
        for name in members:  # nobody else goes on with one of them meanwhile
            folder = outdir / MEMBERS / name
            held.enter_context(_held(folder, ranks, _missing(folder)))
        if not members:
            _train_one(config, store, outdir, ranks, resume, say, stop)
        else:
            _train_members(config, members, store, outdir, ranks, resume, overwrite, say, stop)
    return Run(outdir)


def _silent(line: str) -> None:
    """Say nothing: the first process speaks for all."""


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGTERM has come; the first one does nothing else, a second one ends the program as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False
    before = signal.getsignal(signal.SIGTERM)

    def note(*_: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: asked
    except Stopped:
        raise SystemExit(EXIT_TERMINATED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
