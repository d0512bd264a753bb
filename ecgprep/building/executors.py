"""Who builds the parts: this process, several processes, or the workers of a Dask cluster.

The bytes are the same. Every executor is an iterator that yields the counts of each part as it is
done.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ecgprep.building.parts import Outcome, Part, PartCounts, build_part, read_one, stamp_of
from ecgprep.conform import Conformity
from ecgprep.errors import EcgError, InputError, missing_extra
from ecgprep.workers import READER_DIED, IsolatedProcess, run_tasks


def run_parts(parts: Sequence[Part], jobs: int) -> Iterator[PartCounts]:
    """Build every part: in this process if `jobs` is 1, else in that many processes.

    Each process has a memory limit. A worker that dies costs the file that killed it the status
    `reader_crashed`, not the build.

    Raises:
        EcgError: if worker processes cannot start at all.
    """
    return run_tasks(build_part, parts, jobs, run_isolated)


def run_isolated(parts: Sequence[Part]) -> Iterator[PartCounts]:
    """Build parts one file at a time, in a process that may die."""
    with contextlib.closing(IsolatedReader()) as read:
        for part in parts:
            yield build_part(part, read)


class IsolatedReader:
    """Read files one at a time in a process that may die."""

    def __init__(self) -> None:
        self._process = IsolatedProcess()

    def __call__(self, part: Part, i: int) -> Outcome:
        """Read row i of a part; the file that kills the process is `reader_crashed`."""
        outcome = self._process.run(_read_one, (part.root, part.paths[i], part.target))
        return outcome or Outcome(
            stamp_of(part.root / part.paths[i]), status="reader_crashed", message=READER_DIED
        )

    def close(self) -> None:
        """End the process."""
        self._process.close()


def _read_one(arguments: tuple[Path, str, Conformity]) -> Outcome:
    return read_one(*arguments)


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
