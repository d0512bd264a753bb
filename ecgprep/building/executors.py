"""Who builds the parts: this process, several processes of this machine, or the workers of a Dask cluster. The bytes are the same.

Every engine is an iterator that yields (rows, rows rejected) for each part as it is done.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ecgprep.building.parts import Outcome, Part, build_part, read_one, stamp_of
from ecgprep.errors import EcgError, InputError

Done = tuple[int, int]


WORKER_MEMORY_BYTES = 2_000_000_000
"""What a worker may allocate beyond what it starts with. A part takes 0.1 GB; a file that needs more is `reader_crashed`."""


_PARTS_PER_WORKER = 200
"""Then it is replaced: libxml2 keeps every name it has ever seen (50 bytes each), and hostile files can bring new ones without end."""


_PARTS_AHEAD = 2
"""Parts handed out per worker: enough to keep it busy, few enough that a crash puts few under suspicion."""


def run_parts(parts: Sequence[Part], jobs: int) -> Iterator[Done]:
    """Build every part: in this process for `jobs` up to 1, else in that many processes with a memory limit each.

    A worker that dies costs the file that killed it the status `reader_crashed`, not the build.
    """
    if jobs <= 1:
        yield from map(build_part, parts)
        return
    waiting = deque(parts)
    while waiting:
        suspects = yield from _run_pool(waiting, jobs)
        yield from run_isolated(suspects)


def _run_pool(waiting: deque[Part], jobs: int) -> Generator[Done, None, list[Part]]:
    """Work through `waiting` until it is empty or a worker dies; return the parts that were in flight then."""
    flying: dict[Future[Done], Part] = {}
    with _pool(jobs) as pool:
        try:
            while waiting or flying:
                while waiting and len(flying) < _PARTS_AHEAD * jobs:
                    flying[pool.submit(build_part, waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    done = future.result()
                    del flying[future]
                    yield done
        except BrokenProcessPool:  # it takes every part in flight with it
            return list(flying.values())
        except BaseException:
            pool.shutdown(
                cancel_futures=True
            )  # waits for the parts in flight: a late worker would write into a deleted folder
            raise
    return []


def run_isolated(parts: Sequence[Part]) -> Iterator[Done]:
    """Build parts one file at a time, in a process that may die."""
    isolated = Isolated()
    try:
        for part in parts:
            yield build_part(part, isolated)
    finally:
        isolated.close()


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Start workers afresh (`spawn`): a forked copy of a process with threads can deadlock."""
    return ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        max_tasks_per_child=_PARTS_PER_WORKER,
    )


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and bound the memory: a worker that asks for more gets a MemoryError, and the machine stays up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_memory(WORKER_MEMORY_BYTES)


def limit_memory(more_bytes: int) -> None:
    """Let this process allocate `more_bytes` beyond what it holds now (Linux; elsewhere without effect)."""
    try:
        import resource

        held = next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmData:")
        )
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = held + more_bytes
        resource.setrlimit(
            resource.RLIMIT_DATA,
            (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard),
        )
    except (ImportError, OSError, StopIteration):
        return


class Isolated:
    """Read files one at a time in a process that may die."""

    def __init__(self) -> None:
        self._pool = _pool(1)

    def __call__(self, part: Part, i: int) -> Outcome:
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
        self._pool.shutdown(wait=False, cancel_futures=True)


def connect(scheduler: str) -> Any:
    """Connect to an existing Dask cluster whose workers see the same files under the same paths.

    `scheduler` is an address (`tcp://host:8786`, `tls://host:8786`) or the path of a scheduler file. Certificates for `tls` come from
    Dask's own configuration (`distributed.comm.tls`). Only outgoing connections are made. Raises InputError when the cluster cannot be
    reached, EcgError without the extra `dask`.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise EcgError(
            "--dask needs the package distributed: pip install 'ecgprep-ecgfit[dask]'."
        ) from error
    is_file = os.path.isfile(scheduler)  # noqa: PTH113
    unreachable = InputError(
        "--dask: no scheduler could be reached there. Give tcp://HOST:PORT, tls://HOST:PORT or a scheduler file."
    )
    if not is_file and "://" not in scheduler:
        raise unreachable
    address: dict[str, Any] = {"scheduler_file": scheduler} if is_file else {"address": scheduler}
    try:
        return Client(**address, timeout="30s", set_as_default=False)
    except Exception as error:  # what distributed raises for a bad address or file is not one kind
        raise unreachable from error


def run_parts_dask(parts: Sequence[Part], client: Any) -> Iterator[Done]:
    """Build every part on a cluster (`connect`). Parts whose workers died are built here, one file at a time."""
    from distributed import KilledWorker, as_completed

    suspects = []
    futures = client.map(build_part, list(parts), pure=False)
    flying = {future.key: part for future, part in zip(futures, parts, strict=True)}
    try:
        for future in as_completed(futures, loop=client.loop):
            try:
                yield future.result()
            except KilledWorker:
                suspects.append(flying[future.key])
    except BaseException:
        client.cancel(futures, force=True)
        raise
    yield from run_isolated(suspects)
