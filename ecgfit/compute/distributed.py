"""Training by several processes that `torchrun` started, as if they were one.

Each process takes its share of every batch. Gradients are summed over the whole batch and divided
by its whole weight, so they equal those of one process up to rounding. Two things differ: on CPUs
BatchNorm sees only a process's share, and each process draws its own dropout. A single process
needs none of this and pays nothing for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from ecgprep.errors import InputError

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others.

Only the first one computes intervals and writes files. torchrun reports a process that died.
"""


@dataclass(frozen=True)
class Ranks:
    """The number of this process among those that train together, and how many there are."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Return this process's part of n items: contiguous, sizes that differ by at most one."""
        bounds = np.linspace(0, n, self.world + 1).round().astype(int)
        return slice(int(bounds[self.rank]), int(bounds[self.rank + 1]))

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, with one message for all of them."""
        self._reduce(list(tensors), divide_by=1)

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, with one message for all of them."""
        self._reduce(list(tensors), divide_by=self.world)

    def _reduce(self, tensors: list[Tensor], divide_by: int) -> None:
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat.div_(divide_by)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, part: NDArray[Any]) -> NDArray[Any]:
        """Return the arrays of all processes, joined in the order of their ranks."""
        if self.world == 1:
            return part
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, part)
        return np.concatenate(parts)

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.world > 1:
            dist.barrier()


def start(device: str) -> Ranks:
    """Join the processes that torchrun started, by gloo on CPUs and nccl on GPUs.

    torchrun tells each its place in RANK, WORLD_SIZE and LOCAL_RANK. Without them this is a single
    process. Raises InputError where the environment is incomplete, or there are too few GPUs.
    """
    ranks = _ranks_of_environment()
    if ranks.world == 1 or dist.is_initialized():
        return ranks
    if device == "cpu":
        dist.init_process_group("gloo", timeout=PATIENCE)
        return ranks
    n_gpus = torch.cuda.device_count()
    if ranks.local_rank >= n_gpus:
        raise InputError(
            f"Each process needs a GPU of its own, and {n_gpus} can be seen here. Use "
            f"torchrun --nproc-per-node {n_gpus}, or --device cpu."
        )
    torch.cuda.set_device(ranks.local_rank)
    gpu = torch.device("cuda", ranks.local_rank)
    dist.init_process_group("nccl", timeout=PATIENCE, device_id=gpu)
    return ranks


def _ranks_of_environment() -> Ranks:
    """Read torchrun's variables. Raises InputError where some are missing or not numbers."""
    world = os.environ.get("WORLD_SIZE", "1")
    if not world.isdecimal():
        raise InputError(
            "WORLD_SIZE is not a whole number: start several processes with torchrun, or unset it."
        )
    if int(world) == 1:
        return Ranks()
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    absent = [name for name in needed if name not in os.environ]
    if absent:
        raise InputError(
            f"WORLD_SIZE is set, but not {', '.join(absent)}: start several processes with "
            "torchrun, or unset WORLD_SIZE."
        )
    return Ranks(int(os.environ["RANK"]), int(world), int(os.environ["LOCAL_RANK"]))


def stop() -> None:
    """Leave the other processes, if there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def stop_at_end() -> Iterator[None]:
    """Leave the other processes at the end, or where all end early by agreement.

    A process that fails alone just ends. Leaving would wait for the others while they wait for it;
    torchrun ends them when it sees one dead.
    """
    try:
        yield
    except SystemExit:
        stop()
        raise
    stop()


def synchronised(model: nn.Module, ranks: Ranks, device: str) -> nn.Module:
    """Let BatchNorm use the whole batch's statistics on GPUs, where PyTorch can.

    On CPUs each process uses the statistics of its own share.
    """
    if ranks.world > 1 and device == "cuda":
        convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
        return convert(model)
    return model


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return the floating-point buffers of modules in train mode.

    Processes that see shares of their own must average them.
    """
    training = [module for module in model.modules() if module.training]
    buffers = [buffer for module in training for buffer in module.buffers(recurse=False)]
    return [buffer for buffer in buffers if buffer.is_floating_point()]
