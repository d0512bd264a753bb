"""Training by several processes that `torchrun` started, as if they were one.

Each process takes its share of every batch; gradients are sums over the whole batch divided by its whole weight, so they are those of one
process up to rounding. Two things differ: on CPUs BatchNorm sees a process's share, and each process drops out numbers of its own. A single
process needs none of this and pays nothing for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
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
"""How long a process waits for the others: the first one alone computes intervals and writes files. Of one that died torchrun tells them."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Return this process's part of n items: contiguous, sizes that differ by one at most."""
        bounds = np.linspace(0, n, self.world + 1).round().astype(int)
        return slice(int(bounds[self.rank]), int(bounds[self.rank + 1]))

    def sum_(self, tensors: Iterable[Tensor], *, divide_by: int = 1) -> None:
        """Replace each tensor by its sum over the processes, divided; one message for all of them."""
        tensors = list(tensors)
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(
            tensors,
            torch.split(flat.div_(divide_by), [tensor.numel() for tensor in tensors]),
            strict=True,
        ):
            tensor.copy_(part.view_as(tensor))

    def gather(self, part: NDArray[Any]) -> NDArray[Any]:
        """Return every process's array, joined in the order of the processes."""
        if self.world == 1:
            return part
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, part)
        return np.concatenate(parts)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            dist.barrier()


def start(device: str) -> Ranks:
    """Join the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), with gloo on CPUs and nccl on GPUs; else a single process.

    Raises InputError where the environment is not that of torchrun, or has more processes than GPUs.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    if not world.isdecimal():
        raise InputError(
            "WORLD_SIZE is not a whole number: start several processes with torchrun, or unset it."
        )
    if int(world) == 1:
        return Ranks()
    absent = [
        name
        for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        if name not in os.environ
    ]
    if absent:
        raise InputError(
            f"WORLD_SIZE is set, but not {', '.join(absent)}: start several processes with torchrun, or unset WORLD_SIZE."
        )
    ranks = Ranks(
        int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    )
    if not dist.is_initialized():
        if device == "cpu":
            dist.init_process_group("gloo", timeout=PATIENCE)
        else:
            if ranks.local_rank >= (here := torch.cuda.device_count()):
                raise InputError(
                    f"Each process needs a GPU of its own, and {here} can be seen here: torchrun --nproc-per-node {here}, or --device cpu."
                )
            torch.cuda.set_device(ranks.local_rank)
            dist.init_process_group(
                "nccl", timeout=PATIENCE, device_id=torch.device("cuda", ranks.local_rank)
            )
    return ranks


def stop() -> None:
    """Leave the other processes, if there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def left_together() -> Iterator[None]:
    """Leave the other processes at the end, or where all end early by agreement. One that fails alone just ends: leaving would wait for the
    others, who wait for it, and torchrun ends them when it sees one dead."""
    try:
        yield
    except SystemExit:
        stop()
        raise
    stop()


def synchronised(model: nn.Module, ranks: Ranks, device: str) -> nn.Module:
    """Let BatchNorm use the whole batch's statistics where PyTorch can: on GPUs. On CPUs each process uses those of its share."""
    if ranks.world > 1 and device == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return, no-untyped-call]
    return model


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return the floating-point buffers of modules in train mode, which processes with shares of their own must average."""
    training = (module for module in model.modules() if module.training)
    return [
        buffer
        for module in training
        for buffer in module.buffers(recurse=False)
        if buffer.is_floating_point()
    ]
