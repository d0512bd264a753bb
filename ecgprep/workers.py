"""Worker processes that read files: a memory limit for each, and a file that kills one found.

Whoever hands out the work says what a task is, such as a part of a build or a few files to index.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import TypeVar

from ecgprep.errors import EcgError

Task = TypeVar("Task")
Result = TypeVar("Result")

WORKER_MEMORY_BYTES = 2_000_000_000
"""What a worker may allocate beyond what it starts with; a file that needs more `reader_crashed`.

256 recordings take 0.1 GB.
"""

READER_DIED = "the reader's process died on this file"
READER_OUT_OF_MEMORY = "the reader ran out of memory on this file"
"""Messages of files with the status `reader_crashed`."""

_TASKS_PER_WORKER = 200
"""After so many tasks a worker is replaced.

libxml2 keeps every name it has ever seen (50 bytes each), and hostile files can bring new ones
without end.
"""

_TASKS_AHEAD = 2
"""Tasks handed out per worker: enough to keep it busy, few enough that a crash suspects few."""


def run_tasks(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    jobs: int,
    run_isolated: Callable[[Sequence[Task]], Iterable[Result]],
) -> Generator[Result, None, None]:
    """Yield `work(task)` for every task, as each is done.

    With `jobs` of 1 this process works; else that many do, each with a memory limit. When a worker
    dies, `run_isolated` is given the tasks that it may have died of, and must survive them.

    Raises:
        EcgError: if worker processes cannot start at all.
    """
    if jobs <= 1:
        yield from map(work, tasks)
        return
    waiting = iter(tasks)
    while suspects := (yield from _run_pool(work, waiting, jobs)):
        yield from run_isolated(suspects)


def _run_pool(
    work: Callable[[Task], Result], waiting: Iterator[Task], jobs: int
) -> Generator[Result, None, list[Task]]:
    """Work through `waiting` until it is empty or a worker dies.

    Returns the tasks that were handed out when a worker died.
    """
    unfinished: list[Task] = []
    in_flight: dict[Future[Result], Task] = {}
    with start_pool(jobs) as pool:
        started = pool.submit(os.getpid)
        try:
            while True:
                for task in islice(waiting, _TASKS_AHEAD * jobs - len(in_flight)):
                    unfinished.append(task)
                    in_flight[pool.submit(work, task)] = task
                if not in_flight:
                    return []
                for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    unfinished.remove(in_flight.pop(future))
                    yield result
        except BrokenProcessPool:  # it takes every task in flight with it
            _check_started(started)
            return unfinished
        except BaseException:
            # Wait for the tasks in flight: a late worker would write into a deleted folder.
            pool.shutdown(cancel_futures=True)
            raise


def _check_started(started: Future[int]) -> None:
    """Tell a pool whose workers never began from one that a file killed. Raises EcgError."""
    if started.exception() is not None:
        raise EcgError(
            "The worker processes could not start. In a script, call ecgprep below "
            '`if __name__ == "__main__":`, since each worker imports the script; or use jobs=1.'
        )


def start_pool(jobs: int) -> ProcessPoolExecutor:
    """Start workers afresh (`spawn`): a forked copy of a process with threads can deadlock."""
    return ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        max_tasks_per_child=_TASKS_PER_WORKER,
    )


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and bound the memory.

    A worker that asks for more gets a MemoryError, and the machine stays up.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_memory(WORKER_MEMORY_BYTES)


def limit_memory(more_bytes: int) -> None:
    """Let this process allocate `more_bytes` beyond what it holds now.

    This works on Linux and has no effect elsewhere.
    """
    try:
        import resource

        limit = _data_bytes() + more_bytes
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    except (ImportError, OSError, LookupError):
        return


def _data_bytes() -> int:
    """Return the size of this process's data segment. Raises OSError or LookupError."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise LookupError("no VmData in /proc/self/status")


class IsolatedProcess:
    """A process that works on one task at a time, and may die of it."""

    def __init__(self) -> None:
        self._pool = start_pool(1)

    def run(self, work: Callable[[Task], Result], task: Task) -> Result | None:
        """Return `work(task)`, or None if the process died of it."""
        try:
            return self._pool.submit(work, task).result()
        except BrokenProcessPool:
            self._pool = start_pool(1)
            return None

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
