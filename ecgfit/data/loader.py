"""From rows to batches: a DataLoader whose items are whole batches, made in the process that trains.

A batch is one gather from the memory-mapped store into one of two or three buffers that are used in turn. Worker processes would cost more
than the work: 0.05-0.07 of a memcpy's speed. So would larger buffers, filled for several small batches at once: 2.5 MB stay in the processor's
cache, 20 MB do not, and the copy takes 1.6 times as long. A thread makes batches ahead where there is something to wait for, a GPU or a disk;
where the same cores train, it would only take turns with them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ecgfit.compute.distributed import Ranks
from ecgfit.data.rows import covariate_columns
from ecgfit.data.seeds import ORDER_STREAM, generator_for
from ecgprep.leads import LEADS
from ecgprep.store.reader import Store

_LOOKED_UP_TOGETHER = 4096
"""Recordings whose labels, masks and so on are looked up at once: for each batch alone it would take up to a third of the copy's time, most of
it waiting for memory, since a gather empties the processor's caches."""


_ANNOUNCED = 512
"""Recordings that the disk knows of before they are read, at least."""


_END = object()


T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Batch:
    """One process's share of a batch. `waveforms` int16 (B, 8, L) µV lies in a reused buffer: valid until two batches later; the other
    arrays are the caller's. `all_rows` are the store rows of the whole batch, of which this share begins at `first`."""

    waveforms: Tensor
    lead_mask: Tensor
    valid_span: Tensor
    covariates: Tensor
    label: Tensor
    rows: NDArray[np.int64]
    all_rows: NDArray[np.int64]
    first: int


class Batches(IterableDataset[Batch]):
    """Batches of `rows`: in a new order per epoch when `seed` is given, a function of (seed, epoch) alone, else as they are.

    The last batch of a shuffled epoch is left out when a process would get a single recording of it: batch normalisation has no variance of
    one. `epoch` and `first_step` say where the next iteration begins.
    """

    def __init__(
        self,
        store: Store,
        rows: NDArray[np.int64],
        batch_size: int,
        seed: int | None = None,
        pin: bool = False,
        covariates: Sequence[str] = (),
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    ) -> None:
        self.store, self.rows, self.batch_size, self.seed, self.pin, self.ranks = (
            store,
            rows,
            batch_size,
            seed,
            pin,
            ranks,
        )
        self.columns = covariate_columns(store, covariates)
        self.epoch = self.first_step = 0
        self._share = cache(ranks.share)
        self._spare: list[Tensor] | None = None

    def __len__(self) -> int:
        n_full, rest = divmod(len(self.rows), self.batch_size)
        least = 2 * self.ranks.world if self.seed is not None and n_full else 1
        return n_full + (rest >= least)

    def order(self) -> list[NDArray[np.int64]]:
        """Return the rows of every batch of the current epoch."""
        rows = (
            self.rows
            if self.seed is None
            else generator_for(self.seed, self.epoch, 0, ORDER_STREAM).permutation(self.rows)
        )
        return [rows[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self))]

    def __iter__(self) -> Generator[Batch, None, None]:
        if get_worker_info() is not None:
            raise ValueError(
                "Batches are made in the process that trains: every worker would make all of them. Use num_workers=0."
            )
        order, cold = self.order()[self.first_step :], not self.store.is_resident(self.rows)
        by_thread, buffers = cold or self.pin, self._take_buffers()
        ring = buffers if by_thread else buffers[::2]
        batches = self._made(order, ring, cold)
        yield from ahead(batches, 1, self.pin) if by_thread else batches
        oldest = len(order) % len(ring)
        ring = (
            ring[oldest:] + ring[:oldest]
        )  # so the last batch is not the first to go in the next iteration
        self._spare = ring if by_thread else [ring[0], buffers[1], ring[1]]

    def _take_buffers(self) -> list[Tensor]:
        """Return the buffers of the epoch before, or new ones where another iteration still holds them: touching new pages costs
        more than the copy into them."""
        buffers, self._spare = self._spare, None
        n = -(-min(self.batch_size, len(self.rows)) // self.ranks.world)
        shape = (3, n, len(LEADS), self.store.n_samples)
        return buffers or list(
            torch.empty(shape, dtype=torch.int16, pin_memory=True)
            if self.pin
            else torch.from_numpy(np.empty(shape, np.int16))
        )

    def _announced(self, order: list[NDArray[np.int64]]) -> Generator[None, None, None]:
        """Tell the disk of one batch after the other; it makes us wait when it has enough to do."""
        for all_rows in order:
            self.store.prefetch(all_rows[self._share(len(all_rows))])
            yield

    def _made(
        self, order: list[NDArray[np.int64]], ring: list[Tensor], cold: bool
    ) -> Generator[Batch, None, None]:
        """Make one batch after the other, each in the next buffer."""
        depth = max(2, _ANNOUNCED // self.batch_size)
        with (
            closing(ahead(self._announced(order), depth))
            if cold
            else nullcontext(repeat(None)) as announced
        ):
            for i, ((rows, *rest), _) in enumerate(
                zip(self._looked_up(order), announced, strict=False)
            ):
                waveforms = ring[i % len(ring)][: len(rows)]
                self.store.gather(rows, waveforms.numpy())
                yield Batch(waveforms, *rest)

    def _looked_up(self, order: list[NDArray[np.int64]]) -> Iterator[tuple[Any, ...]]:
        """Yield rows and, after them, what a Batch holds besides waveforms."""
        together = max(1, _LOOKED_UP_TOGETHER // self.batch_size)
        arrays = [
            self.store.array(name) for name in ("lead_mask", "valid_span", "label", "covariates")
        ]
        for load in (order[i : i + together] for i in range(0, len(order), together)):
            shares = [self._share(len(all_rows)) for all_rows in load]
            parts = [all_rows[share] for all_rows, share in zip(load, shares, strict=True)]
            sizes, rows = [len(part) for part in parts], np.concatenate(parts)
            mask, span, label = (torch.from_numpy(array[rows]) for array in arrays[:3])
            covariates = torch.from_numpy(arrays[3][np.ix_(rows, self.columns)])
            tensors = (mask, span, covariates, label.long())
            columns = (
                torch.split(tensor.pin_memory() if self.pin and tensor.numel() else tensor, sizes)
                for tensor in tensors
            )
            yield from zip(
                parts, *columns, parts, load, (share.start for share in shares), strict=True
            )


def ahead(
    items: Generator[T, None, None], depth: int, pin: bool = False
) -> Generator[T, None, None]:
    """Yield items that a thread makes, `depth` of them before they are asked for; what goes wrong there is raised here.

    With `pin` none is begun before the GPU has done what it had been asked until then: its copy out of a buffer that is to be filled again
    may not even have begun.
    """
    asked: SimpleQueue[Any] = SimpleQueue()
    made: SimpleQueue[Any] = SimpleQueue()

    device = torch.cuda.current_device() if pin else 0

    def make() -> None:
        try:
            if pin:
                torch.cuda.set_device(
                    device
                )  # a new thread has the first, and would pin memory for that
            while (event := asked.get()) is not _END:
                if event is not None:
                    event.synchronize()
                made.put(next(items, _END))
        except BaseException as error:
            made.put(error)

    thread = Thread(target=make, name="loader", daemon=True)
    thread.start()
    try:
        for _ in range(depth):
            asked.put(_asked_of_the_gpu(pin))
        while True:
            asked.put(_asked_of_the_gpu(pin))
            if (item := made.get()) is _END:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        asked.put(_END)
        thread.join()
        items.close()


def _asked_of_the_gpu(pin: bool) -> Any:
    """Return an event that comes when the GPU has done what it has been asked until now; the thread that waits for it sleeps. None without a GPU."""
    if not pin:
        return None
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record()  # type: ignore[no-untyped-call]
    return event


class Loader(DataLoader[Batch]):
    """A DataLoader without workers, collation or memory of its own: DataLoader's way through them takes a tenth of a small batch's time."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # an iterator is all that is promised
        return iter(self.dataset)


def make_loader(
    store: Store,
    rows: NDArray[np.int64],
    batch_size: int,
    seed: int | None = None,
    pin: bool = False,
    covariates: Sequence[str] = (),
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> DataLoader[Batch]:
    """Return a DataLoader whose items are whole batches, gathered in this process; `loader.dataset.epoch` chooses the order."""
    return Loader(Batches(store, rows, batch_size, seed, pin, covariates, ranks), batch_size=None)
