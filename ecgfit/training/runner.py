"""Train one model, or the members of an ensemble, on one store.

The epoch is selected by validation, and a training that was interrupted is resumable to the bit.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ecgfit.compute.device import pick_device
from ecgfit.compute.distributed import start
from ecgfit.config import TrainConfig
from ecgfit.run import RunFolder
from ecgfit.run_files import RUNS
from ecgfit.training.ensemble import train_ensemble
from ecgfit.training.job import Job, Say
from ecgfit.training.outdir import absent_folders, check_outdir, held, next_numbered
from ecgfit.training.single import train_one
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
    say: Say | None = None,
) -> RunFolder:
    """Train, let validation choose the epoch, calibration and threshold, and return the run.

    With `seeds` or `folds` this is done for each member, and then for their mean logit. Test rows
    are never read. Without `outdir` the run gets the next number under runs/. The first process
    locks the folder. SIGTERM saves a checkpoint and ends the program with exit code 143, but
    only where training runs in the main thread. `say` gets each line of progress.

    Raises TargetExists, InputError and StoreError.
    """
    ranks = start(pick_device(config.device))
    if say is None or not ranks.is_first:
        say = _say_nothing
    refuse_inside_store(outdir or RUNS / "001")
    absent = absent_folders(outdir or RUNS / "any")
    if outdir is None:
        outdir = next_numbered(ranks)
        absent = [outdir, *absent[1:]]

    with ExitStack() as locks, _asked_to_stop() as stop:
        locks.enter_context(held(outdir, ranks, absent))
        check_outdir(outdir, resume, overwrite, config.init_from)
        ranks.wait()
        job = Job(config, store, outdir, ranks, say, stop, resume, overwrite)
        members = job.members()
        for member in members.values():  # no other program may train one of them meanwhile
            locks.enter_context(held(member.outdir, ranks, absent_folders(member.outdir)))
        if members:
            train_ensemble(job)
        else:
            train_one(job)
    return RunFolder(outdir)


def _say_nothing(line: str) -> None:
    """Take a line of progress and show nothing."""


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGTERM has come.

    The first signal does nothing else; a second one ends the program as usual. Python lets only the
    main thread handle signals, so elsewhere, as in some notebooks, the answer is always no.
    """
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
