"""Who builds the parts: this process, several processes, or the workers of a Dask cluster.

The bytes are the same. Every executor is an iterator that yields the counts of each part as it is
done.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ecgprep.building.parts import Outcome, Part, PartCounts, build_part, read_one, stamp_of
from ecgprep.errors import EcgError, InputError, missing_extra

WORKER_MEMORY_BYTES = 2_000_000_000
"""What a worker may allocate beyond what it starts with; a file that needs more `reader_crashed`.

A part takes 0.1 GB.
"""

_PARTS_PER_WORKER = 200
"""After so many parts a worker is replaced.

libxml2 keeps every name it has ever seen (50 bytes each), and hostile files can bring new ones
without end.
"""

_PARTS_AHEAD = 2
"""Parts handed out per worker: enough to keep it busy, few enough that a crash suspects few."""


def run_parts(parts: Sequence[Part], jobs: int) -> Iterator[PartCounts]:
    """Build every part: in this process if `jobs` is 1, else in that many processes.

    Each process has a memory limit. A worker that dies costs the file that killed it the status
    `reader_crashed`, not the build.

    Raises:
        EcgError: if worker processes cannot start at all.
    """
    if jobs <= 1:
        yield from map(build_part, parts)
        return
    waiting = deque(parts)
    while waiting:
        suspects = yield from _run_pool(waiting, jobs)
        yield from run_isolated(suspects)


def _run_pool(waiting: deque[Part], jobs: int) -> Generator[PartCounts, None, list[Part]]:
    """Work through `waiting` until it is empty or a worker dies.

    Returns the parts that were being built when a worker died.
    """
    in_flight: dict[Future[PartCounts], Part] = {}
    with _pool(jobs) as pool:
        started = pool.submit(os.getpid)
        try:
            while waiting or in_flight:
                while waiting and len(in_flight) < _PARTS_AHEAD * jobs:
                    in_flight[pool.submit(build_part, waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                    counts = future.result()
                    del in_flight[future]
                    yield counts
        except BrokenProcessPool:  # it takes every part in flight with it
            _check_started(started)
            return list(in_flight.values())
        except BaseException:
            # Wait for the parts in flight: a late worker would write into a deleted folder.
            pool.shutdown(cancel_futures=True)
            raise
    return []


def _check_started(started: Future[int]) -> None:
    """Tell a pool whose workers never began from one that a file killed. Raises EcgError."""
    if started.exception() is not None:
        raise EcgError(
            "The worker processes could not start. In a script, call ecgprep.build below "
            '`if __name__ == "__main__":`, since each worker imports the script; or use jobs=1.'
        )


def run_isolated(parts: Sequence[Part]) -> Iterator[PartCounts]:
    """Build parts one file at a time, in a process that may die."""
    with contextlib.closing(IsolatedReader()) as read:
        for part in parts:
            yield build_part(part, read)


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Start workers afresh (`spawn`): a forked copy of a process with threads can deadlock."""
    return ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        max_tasks_per_child=_PARTS_PER_WORKER,
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


class IsolatedReader:
    """Read files one at a time in a process that may die."""

    def __init__(self) -> None:
        self._pool = _pool(1)

    def __call__(self, part: Part, i: int) -> Outcome:
        """Read row i of a part; the file that kills the process is `reader_crashed`."""
        try:
            return self._pool.submit(read_one, part.root, part.paths[i], part.target).result()
        except BrokenProcessPool:
            self._pool = _pool(1)
            return Outcome(
                stamp_of(part.root / part.paths[i]),
                status="reader_crashed",
                message="the reader's process died on this file",
            )

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def connect(scheduler: str) -> Any:
    """Connect to an existing Dask cluster whose workers see the same files under the same paths.

    Only outgoing connections are made. Certificates for `tls` come from Dask's own configuration
    (`distributed.comm.tls`).

    Args:
        scheduler: an address (`tcp://host:8786`, `tls://host:8786`), or the path of a scheduler
            file.

    Returns:
        A `distributed.Client`.

    Raises:
        InputError: if the cluster cannot be reached.
        EcgError: without the extra `dask`.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise EcgError(f"--dask: {missing_extra('distributed', 'dask')}") from error
    is_file = os.path.isfile(scheduler)  # noqa: PTH113
    unreachable = InputError(
        "--dask: no scheduler could be reached there. "
        "Give tcp://HOST:PORT, tls://HOST:PORT or a scheduler file."
    )
    if not is_file and "://" not in scheduler:
        raise unreachable
    parameter = "scheduler_file" if is_file else "address"
    address: dict[str, Any] = {parameter: scheduler}
    try:
        return Client(**address, timeout="30s", set_as_default=False)
    except Exception as error:  # distributed raises many kinds for a bad address or file
        raise unreachable from error


def run_parts_dask(parts: Sequence[Part], client: Any) -> Iterator[PartCounts]:
    """Build every part on a cluster (`connect`).

    Parts whose workers died are built here, one file at a time.
    """
    from distributed import KilledWorker, as_completed

    suspects = []
    futures = client.map(build_part, list(parts), pure=False)
    part_of = {future.key: part for future, part in zip(futures, parts, strict=True)}
    try:
        for future in as_completed(futures, loop=client.loop):
            try:
                yield future.result()
            except KilledWorker:
                suspects.append(part_of[future.key])
    except BaseException:
        client.cancel(futures, force=True)
        raise
    yield from run_isolated(suspects)
