"""Requests to save or to stop a run, heeded by all its processes at the same step."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ecgfit.compute.distributed import Ranks


class StopSignal:
    """The requests of all processes: to stop when one is asked to, to save when it is time.

    A process that stopped by itself would leave the others waiting for its share of the next batch.
    Requests are therefore added up over the processes, in the message that carries the gradients: a
    message of their own would take 0.6 ms a step (gloo, two processes).
    """

    def __init__(
        self, stop: Callable[[], bool], ranks: Ranks, device: str, seconds_between_saves: float
    ) -> None:
        self.ranks, self.device = ranks, device
        self.seconds_between_saves = seconds_between_saves
        self.wants_to_stop = self.wants_to_save = False
        """This process's own requests."""
        self.requests: list[Tensor] = []
        """Requests to stop and to save, to be summed over the processes; none where it is alone."""
        self._asked_to_stop = stop
        self._saved_at = time.monotonic()

    def poll(self) -> None:
        """Note what this process asks for, before a step. Does not wait for a GPU."""
        self.wants_to_stop = self._asked_to_stop()
        self.wants_to_save = time.monotonic() - self._saved_at > self.seconds_between_saves
        if self.ranks.world > 1:
            own = (self.wants_to_stop, self.wants_to_save)
            self.requests = [torch.full((), float(wish), device=self.device) for wish in own]

    @property
    def is_urgent(self) -> bool:
        """Whether a process that trains alone asks for something: it need not wait for others."""
        return self.ranks.world == 1 and (self.wants_to_stop or self.wants_to_save)

    def agree(self) -> None:
        """Make the requests of any process, once they are summed, those of this one."""
        if self.ranks.world > 1:
            stop, save = self.requests
            self.wants_to_stop, self.wants_to_save = bool(stop), bool(save)

    def saved(self) -> None:
        """Start the clock again."""
        self._saved_at = time.monotonic()
