"""From rows to batches: a DataLoader of whole batches, made in the process that trains.

A batch is one gather from the memory-mapped store into one of two or three buffers that are used in
turn. Worker processes would cost more than the work: they reach 0.05-0.07 of a memcpy's speed.
Larger buffers, filled for several small batches at once, would be slower too: 2.5 MB stay in the
processor's cache, 20 MB do not, and the copy takes 1.6 times as long.

A thread makes batches ahead where there is something to wait for, a GPU or a disk. Where the same
cores train, a thread would only take turns with them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache, partial
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

LOOKED_UP_TOGETHER = 4096
"""Recordings whose labels, masks and spans are looked up at once.

Looking them up for each batch alone would take up to a third of the copy's time. Most of that is
waiting for memory, because a gather empties the processor's caches.
"""

READ_AHEAD = 512
"""Recordings, at least, that the disk is asked for before they are gathered."""

_END = object()

T = TypeVar("T")


@dataclass(eq=False, kw_only=True)
class Share:
    """One process's share of a batch, without its waveforms. Its arrays belong to the caller."""

    lead_mask: Tensor
    """Bool (B, 8): which leads were recorded."""
    valid_span: Tensor
    """int32 (B, 2): first sample that is not padding, and the one after the last."""
    covariates: Tensor
    """float32 (B, K), NaN where missing."""
    label: Tensor
    """int64 (B,)."""
    rows: NDArray[np.int64]
    """Store rows of this share (B,)."""
    all_rows: NDArray[np.int64]
    """Store rows of the whole batch."""
    first: int
    """Where this share begins within the whole batch."""


@dataclass(eq=False, kw_only=True)
class Batch(Share):
    """One process's share of a batch."""

    waveforms: Tensor
    """int16 (B, 8, L) in µV, in a reused buffer: valid until the batch after the next."""


class BufferPool:
    """Buffers of one shape that are filled, released and filled again.

    They are reused because touching new pages of memory costs more than the copy into them. With
    `pin` they are in page-locked memory, from which a GPU copies while the program continues.
    """

    def __init__(self, shape: Sequence[int], *, pin: bool) -> None:
        self.shape, self.pin = tuple(shape), pin
        self._free: deque[tuple[Tensor, Any]] = deque()

    def hold(self, n_buffers: int) -> None:
        """Have this many buffers free, so that none is filled again before the others were used."""
        while len(self._free) > n_buffers:
            self._free.popleft()
        while len(self._free) < n_buffers:
            self._free.appendleft((self._allocate(), None))

    def take(self, n: int) -> Tensor:
        """Return the first `n` items of the buffer that was released longest ago.

        Waits until the GPU has finished what it had been asked to do when the buffer was released.
        If another iteration has taken all buffers, a new one is made.
        """
        try:
            buffer, copied = self._free.popleft()
        except IndexError:
            return self._allocate()[:n]
        if copied is not None:
            copied.synchronize()
        return buffer[:n]

    def release(self, part: Tensor) -> None:
        """Allow the buffer that `part` begins to be filled again.

        The GPU may not even have begun to copy from it, so an event that follows the copy goes with
        the buffer.
        """
        copied = None
        if self.pin:
            # Blocking: the thread that waits for the event sleeps instead of using up a core.
            copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            copied.record()  # type: ignore[no-untyped-call]
        if part.shape != self.shape:
            part = part.as_strided(self.shape, part.stride(), 0)
        self._free.append((part, copied))

    def _allocate(self) -> Tensor:
        if self.pin:
            return torch.empty(self.shape, dtype=torch.int16, pin_memory=True)
        return torch.from_numpy(np.empty(self.shape, np.int16))


class Batches(IterableDataset[Batch]):
    """Batches of `rows`, as they are or, with a `seed`, in a new order each epoch.

    The order is a function of (seed, epoch) alone. `epoch` and `first_step` say where the next
    iteration begins. The last batch of a shuffled epoch is left out if a process would get a single
    recording of it: batch normalisation has no variance of one value.
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
        self.store = store
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.pin = pin
        self.ranks = ranks
        self.columns = covariate_columns(store, covariates)
        self.epoch = self.first_step = 0
        self._share_of = cache(ranks.share)
        largest = min(batch_size, len(rows))
        largest_share = -(-largest // ranks.world)
        self._buffers = BufferPool((largest_share, len(LEADS), store.n_samples), pin=pin)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        n_full, rest = divmod(len(self.rows), self.batch_size)
        is_training = self.seed is not None and n_full > 0
        fewest = 2 * self.ranks.world if is_training else 1
        return n_full + (rest >= fewest)

    def order(self) -> list[NDArray[np.int64]]:
        """Return the rows of every batch of the current epoch."""
        rows = self.rows
        if self.seed is not None:
            rows = generator_for(self.seed, self.epoch, 0, ORDER_STREAM).permutation(rows)
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        return [rows[start : start + self.batch_size] for start in starts]

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yield the batches that are left of the current epoch."""
        if get_worker_info() is not None:
            raise ValueError(
                "Batches are made in the process that trains, and every worker would make all of "
                "them. Use num_workers=0."
            )
        order = self.order()[self.first_step :]
        is_cold = not self.store.is_resident(self.rows)
        by_thread = is_cold or self.pin
        # The caller may use two batches at a time; a third is made meanwhile by the thread.
        n_buffers = 3 if by_thread else 2
        self._buffers.hold(n_buffers)
        on_start = None
        if self.pin:
            # A new thread uses the first GPU, and would pin memory for that one.
            on_start = partial(torch.cuda.set_device, torch.cuda.current_device())
        with ExitStack() as stack:
            shares = self._look_up(order)
            if is_cold:
                depth = max(2, READ_AHEAD // self.batch_size)
                shares = prefetch(self._ask_the_disk(shares), depth, on_start)
                stack.enter_context(closing(shares))
            batches = self._gather(shares)
            if by_thread:
                batches = prefetch(batches, 1, on_start)
                stack.enter_context(closing(batches))
            yield from self._release_in_turn(batches)

    def _look_up(self, order: list[NDArray[np.int64]]) -> Generator[Share, None, None]:
        """Look up everything but the waveforms, for several batches at once."""
        n_batches = max(1, LOOKED_UP_TOGETHER // self.batch_size)
        for i in range(0, len(order), n_batches):
            yield from self._look_up_together(order[i : i + n_batches])

    def _look_up_together(self, batches: list[NDArray[np.int64]]) -> Iterator[Share]:
        spans = [self._share_of(len(all_rows)) for all_rows in batches]
        parts = [all_rows[span] for all_rows, span in zip(batches, spans, strict=True)]
        sizes = [len(part) for part in parts]
        rows = np.concatenate(parts)
        covariates = self.store.array("covariates")[np.ix_(rows, self.columns)]
        values = zip(
            self._split(self.store.array("lead_mask")[rows], sizes),
            self._split(self.store.array("valid_span")[rows], sizes),
            self._split(covariates, sizes),
            self._split(self.store.array("label")[rows].astype(np.int64), sizes),
            strict=True,
        )
        for i, (lead_mask, valid_span, covariate, label) in enumerate(values):
            yield Share(
                lead_mask=lead_mask,
                valid_span=valid_span,
                covariates=covariate,
                label=label,
                rows=parts[i],
                all_rows=batches[i],
                first=spans[i].start,
            )

    def _split(self, values: NDArray[Any], sizes: list[int]) -> tuple[Tensor, ...]:
        """Return `values` as tensors of these lengths, pinned where the waveforms are."""
        tensor = torch.from_numpy(values)
        if self.pin and tensor.numel():
            tensor = tensor.pin_memory()
        return torch.split(tensor, sizes)

    def _ask_the_disk(self, shares: Iterable[Share]) -> Generator[Share, None, None]:
        """Ask the disk for each share's waveforms; it makes us wait while it has enough to do."""
        for share in shares:
            self.store.prefetch(share.rows)
            yield share

    def _gather(self, shares: Iterable[Share]) -> Generator[Batch, None, None]:
        """Copy each share's waveforms into a free buffer."""
        for share in shares:
            waveforms = self._buffers.take(len(share.rows))
            self.store.gather(share.rows, waveforms.numpy())
            yield Batch(waveforms=waveforms, **vars(share))

    def _release_in_turn(self, batches: Iterable[Batch]) -> Generator[Batch, None, None]:
        """Yield batches; release each one's buffer when the batch after the next is asked for.

        When the iteration is abandoned, the caller keeps what it holds.
        """
        held: deque[Tensor] = deque()
        for batch in batches:
            held.append(batch.waveforms)
            yield batch
            if len(held) == 2:
                self._buffers.release(held.popleft())
        for waveforms in held:
            self._buffers.release(waveforms)


def prefetch(
    items: Generator[T, None, None],
    depth: int,
    on_start: Callable[[], object] | None = None,
) -> Generator[T, None, None]:
    """Yield items that a thread makes, up to `depth` of them before they are asked for.

    The thread calls `on_start` first. Its errors are raised here. Closing the generator
    ends the thread and closes `items`.
    """
    orders: SimpleQueue[object] = SimpleQueue()
    made: SimpleQueue[Any] = SimpleQueue()

    def make() -> None:
        try:
            if on_start is not None:
                on_start()
            while orders.get() is not _END:
                made.put(next(items, _END))
        except BaseException as error:
            made.put(error)

    thread = Thread(target=make, name="loader", daemon=True)
    thread.start()
    try:
        for _ in range(depth):
            orders.put("one more")
        while True:
            orders.put("one more")
            item = made.get()
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        orders.put(_END)
        thread.join()
        items.close()


class Loader(DataLoader[Batch]):
    """A DataLoader without workers, collation or memory of its own.

    DataLoader's own way through them takes a tenth of a small batch's time.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # the base promises its own
        """Iterate over the dataset itself."""
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
    """Return a DataLoader whose items are whole batches, gathered in this process.

    `loader.dataset.epoch` chooses the order. See `Batches` for the other arguments.
    """
    return Loader(Batches(store, rows, batch_size, seed, pin, covariates, ranks), batch_size=None)
