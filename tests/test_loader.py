"""Batches: the right rows in a repeatable order, in buffers that stay whole as long as promised."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ecgfit.compute.distributed import Ranks
from ecgfit.data.loader import Batches, BufferPool, make_loader, prefetch
from ecgfit.data.rows import select_rows
from ecgprep.store.reader import Store


@pytest.fixture(params=[True, False], ids=["resident", "cold"])
def resident(request, monkeypatch) -> bool:
    """Make batches of a store in memory, and of one on disk: those by a thread, ahead."""
    monkeypatch.setattr(Store, "is_resident", lambda self, rows: request.param)
    return bool(request.param)


def expected(store: Store, rows: np.ndarray) -> np.ndarray:
    return store.gather(rows, np.empty((len(rows), 8, store.n_samples), np.int16))


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "loader"]


def test_loader_is_a_dataloader_and_gives_what_the_store_holds(store, resident):
    rows = select_rows(store, "train", "mask")
    loader = make_loader(store, rows, 16)
    assert isinstance(loader, DataLoader)
    seen = []
    for batch in loader:
        assert torch.equal(batch.waveforms, torch.from_numpy(expected(store, batch.rows)))
        assert batch.waveforms.dtype == torch.int16
        assert batch.label.tolist() == store.array("label")[batch.rows].tolist()
        seen.extend(batch.rows)
    assert seen == rows.tolist()
    assert len(loader) == len(list(loader))


def test_batch_stays_whole_while_the_next_is_made(store, resident):
    rows = select_rows(store, "train", "mask")
    previous = None
    for batch in make_loader(store, rows, 4):
        if previous is not None:
            np.testing.assert_array_equal(
                previous.waveforms.numpy(), expected(store, previous.rows)
            )
        previous = batch


def test_order_is_a_function_of_seed_and_epoch(store):
    rows = select_rows(store, "train", "mask")

    def order(seed, epoch):
        batches = Batches(store, rows, 8, seed)
        batches.epoch = epoch
        return np.concatenate(batches.order()).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert set(order(1, 0)) <= set(rows)


@pytest.mark.parametrize(
    ("n", "batch", "expected"), [(9, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (8, 4, [4, 4])]
)
def test_single_leftover_record_is_left_out_of_training_only(store, n, batch, expected):
    assert [len(rows) for rows in Batches(store, np.arange(n), batch, seed=0).order()] == expected
    assert sum(len(rows) for rows in Batches(store, np.arange(n), batch).order()) == n


def test_reading_can_stop_in_the_middle_and_leaves_no_thread(store, resident):
    batches = Batches(store, np.arange(32), 4, seed=0)
    for batch in batches:
        held = batch
        break
    assert not loader_threads()
    again = [batch.waveforms.clone() for batch in batches]
    assert torch.equal(held.waveforms, again[0])  # the new iteration has buffers of its own
    assert len(again) == 8


@pytest.mark.parametrize(
    ("n", "world", "expected"),
    [(12, 2, [8, 4]), (11, 2, [8]), (13, 2, [8, 5]), (14, 3, [8, 6]), (13, 3, [8])],
)
def test_last_batch_is_left_out_where_a_process_would_get_a_single_record(
    store, n, world, expected
):
    orders = [
        Batches(store, np.arange(n), 8, 0, ranks=Ranks(rank, world)).order()
        for rank in range(world)
    ]
    assert [len(rows) for rows in orders[0]] == expected
    assert all(
        np.array_equal(one, other)
        for order in orders[1:]
        for one, other in zip(orders[0], order, strict=True)
    )


def test_processes_share_every_batch(store, resident):
    rows = select_rows(store, "train", "mask")
    whole = list(make_loader(store, rows, 10, 0, covariates=("age",)))
    shares = [
        list(make_loader(store, rows, 10, 0, covariates=("age",), ranks=Ranks(rank, 3)))
        for rank in range(3)
    ]
    assert len({len(share) for share in shares}) == 1
    for batch, *parts in zip(whole, *shares, strict=False):
        assert np.array_equal(np.concatenate([part.rows for part in parts]), batch.rows)
        assert all(np.array_equal(part.all_rows, batch.rows) for part in parts)
        assert [part.first for part in parts] == [
            0,
            len(parts[0].rows),
            len(parts[0].rows) + len(parts[1].rows),
        ]
        torch.testing.assert_close(
            torch.cat([part.covariates for part in parts]),
            batch.covariates,
            equal_nan=True,
            rtol=0,
            atol=0,
        )


def test_epoch_goes_on_from_any_step(store, resident):
    batches = Batches(store, select_rows(store, "train", "mask"), 8, seed=3)
    whole = [batch.rows.tolist() for batch in batches]
    batches.first_step = 3
    assert [batch.rows.tolist() for batch in batches] == whole[3:]
    batches.first_step = len(batches)
    assert list(batches) == []


def test_no_buffer_is_filled_again_before_two_batches_later(store, resident):
    where = [batch.waveforms.data_ptr() for batch in make_loader(store, np.arange(40), 4)]
    in_turn = 2 if resident else 3  # the third is the thread's
    assert len(set(where)) == in_turn
    assert where[in_turn:] == where[:-in_turn]


def test_last_two_batches_stay_whole_into_the_next_epoch(store, resident):
    loader = make_loader(store, np.arange(20), 4, seed=0)
    *_, before, last = loader
    iterator = iter(loader)
    next(iterator)
    assert torch.equal(last.waveforms, torch.from_numpy(expected(store, last.rows)))
    assert before.waveforms.data_ptr() != last.waveforms.data_ptr()
    iterator.close()


def test_two_iterations_at_once_do_not_share_buffers(store, resident):
    loader = make_loader(store, np.arange(24), 4)
    for one, other in zip(loader, loader, strict=True):
        assert np.array_equal(one.rows, other.rows)
        assert one.waveforms.data_ptr() != other.waveforms.data_ptr()


@pytest.mark.parametrize("name", ["gather", "prefetch", "array"])
def test_failure_reaches_who_asks_for_the_batch(store, monkeypatch, name):
    monkeypatch.setattr(Store, "is_resident", lambda self, rows: False)
    loader = make_loader(store, np.arange(20), 4)

    def fail(*arguments: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Store, name, fail)
    with pytest.raises(OSError, match="the disk is gone"):
        list(loader)
    assert not loader_threads()


def test_cold_store_hears_of_every_row_before_it_is_read(store, monkeypatch):
    heard, read = [], []
    gather = Store.gather
    monkeypatch.setattr(Store, "is_resident", lambda self, rows: False)
    monkeypatch.setattr(Store, "prefetch", lambda self, rows: heard.append(rows.tolist()))
    monkeypatch.setattr(
        Store,
        "gather",
        lambda self, rows, out: (read.append((rows.tolist(), len(heard))), gather(self, rows, out)),
    )
    shares = [
        batch.rows.tolist()
        for batch in make_loader(store, np.arange(40), 8, seed=1, ranks=Ranks(1, 2))
    ]
    assert heard == shares
    assert [rows for rows, _ in read] == shares
    assert all(n_heard > i for i, (_, n_heard) in enumerate(read))


def test_resident_store_hears_nothing_and_there_is_no_thread(store, monkeypatch):
    monkeypatch.setattr(Store, "is_resident", lambda self, rows: True)
    monkeypatch.setattr(Store, "prefetch", lambda self, rows: pytest.fail("prefetched"))
    for _ in make_loader(store, np.arange(20), 4):
        assert not loader_threads()


def test_random_numbers_of_the_program_are_left_alone(store, resident):
    before = torch.get_rng_state()
    list(make_loader(store, np.arange(20), 4, seed=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetch_keeps_the_order_and_the_depth(depth):
    begun = []

    def numbers():
        for i in range(10):
            begun.append(i)
            yield i

    items = prefetch(numbers(), depth)
    for i, item in enumerate(items):
        assert item == i
        assert len(begun) <= i + 1 + depth
    assert list(items) == []


def test_prefetch_yields_what_was_made_before_a_failure():
    def failing():
        yield from (1, 2)
        raise ValueError("third")

    items = prefetch(failing(), 1)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(items)


def test_prefetch_starts_its_thread_as_told_and_closes_what_it_reads():
    started, closed = [], []

    def endless():
        try:
            while True:
                yield threading.current_thread().name
        finally:
            closed.append(True)

    items = prefetch(endless(), 1, lambda: started.append(threading.current_thread().name))
    assert next(items) == "loader"
    items.close()
    assert started == ["loader"]
    assert closed == [True]
    assert not loader_threads()


def test_a_buffer_is_used_again_whole_after_a_short_batch():
    pool = BufferPool((4, 8, 10), pin=False)
    pool.hold(2)
    short = pool.take(3)
    assert short.shape == (3, 8, 10)
    assert pool.take(4).data_ptr() != short.data_ptr()
    pool.release(short)
    pool.hold(1)
    again = pool.take(4)
    assert (again.shape, again.data_ptr()) == ((4, 8, 10), short.data_ptr())


class LazyGpu:
    """A GPU that copies nothing until somebody waits for an event that follows the copy."""

    def __init__(self) -> None:
        self.queue: deque[Callable[[], None]] = deque()
        self.n_asked = self.n_done = 0
        self.threads: list[tuple[int, str]] = []

    def ask(self, work: Callable[[], None]) -> None:
        self.queue.append(work)
        self.n_asked += 1

    def finish(self, n: int) -> None:
        while self.n_done < n:
            self.queue.popleft()()
            self.n_done += 1

    def event(self, blocking: bool) -> LazyGpuEvent:
        assert blocking, "a thread that spins would take a core"
        return LazyGpuEvent(self)

    def set_device(self, device: int) -> None:
        self.threads.append((device, threading.current_thread().name))


class LazyGpuEvent:
    def __init__(self, gpu: LazyGpu) -> None:
        self.gpu = gpu

    def record(self) -> None:
        self.n_asked = self.gpu.n_asked

    def synchronize(self) -> None:
        self.gpu.finish(self.n_asked)


@pytest.fixture
def gpu(monkeypatch) -> LazyGpu:
    """Pretend that there is a GPU, the fourth, and that memory can be pinned for it."""
    gpu, empty = LazyGpu(), torch.empty

    def not_pinned(*shape, pin_memory=False, **settings):
        return empty(*shape, **settings)

    monkeypatch.setattr(torch, "empty", not_pinned)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", gpu.set_device)
    return gpu


def test_no_buffer_is_filled_before_the_gpu_has_copied_from_it(store, resident, gpu):
    loader = make_loader(store, np.arange(42), 4, pin=True)
    copied: list[tuple[list[int], torch.Tensor]] = []

    def copy_of(batch) -> Callable[[], None]:
        return lambda: copied.append((batch.rows.tolist(), batch.waveforms.clone()))

    buffers = set()
    for _ in range(2):
        for batch in loader:
            gpu.ask(copy_of(batch))
            buffers.add(batch.waveforms.data_ptr())
    assert 0 < len(gpu.queue) < gpu.n_asked, "some copies had to wait, and some were waited for"
    gpu.finish(gpu.n_asked)
    assert [rows for rows, _ in copied] == 2 * [batch.rows.tolist() for batch in loader]
    for rows, waveforms in copied:
        assert torch.equal(waveforms, torch.from_numpy(expected(store, np.array(rows))))
    assert len(buffers) == 3


def test_threads_pin_memory_for_the_gpu_in_use(store, resident, gpu):
    list(make_loader(store, np.arange(8), 4, pin=True))
    n_threads = 1 if resident else 2  # one gathers, the other asks the disk
    assert gpu.threads == n_threads * [(3, "loader")]


def test_workers_that_would_each_make_every_batch_are_refused(store):
    with pytest.raises(ValueError, match="Use num_workers=0"):
        list(DataLoader(Batches(store, np.arange(8), 4), batch_size=None, num_workers=2))
