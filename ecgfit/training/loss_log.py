"""The losses of an epoch's steps, left on the device until somebody reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecgfit.compute.distributed import Ranks
from ecgprep.errors import InputError


@dataclass(frozen=True, eq=False)
class StepLoss:
    """What one step leaves behind; the tensors are on the device."""

    batch_loss: Tensor
    """Loss of the whole batch, a scalar that all processes share."""
    row_losses: Tensor
    """Losses (B,) of this process's share."""
    rows: NDArray[np.int64]
    """Store rows of this process's share (B,)."""
    all_rows: NDArray[np.int64]
    """Store rows of the whole batch."""


class LossLog:
    """Losses in the order of the steps. Reading them synchronises a GPU; appending does not."""

    def __init__(self, ranks: Ranks, epoch: int, step: int) -> None:
        self.ranks = ranks
        self.epoch = epoch
        self.step = step
        """Steps of the epoch whose loss has been read."""
        self._unread: list[StepLoss] = []

    def __len__(self) -> int:
        """Return the number of losses that have not been read."""
        return len(self._unread)

    def append(self, loss: StepLoss) -> None:
        """Add the loss of the next step."""
        self._unread.append(loss)

    def read(self) -> list[float]:
        """Return the batch losses since the last call.

        Raises InputError naming the step and the store rows when one is not finite. The loss is
        that of the whole batch, so all processes raise at the same step.
        """
        losses, self._unread = self._unread, []
        values = torch.stack([loss.batch_loss for loss in losses]).tolist()
        for loss, value in zip(losses, values, strict=True):
            self.step += 1
            if not math.isfinite(value):
                self._refuse(loss, value)
        return [float(value) for value in values]

    def _refuse(self, loss: StepLoss, value: float) -> None:
        is_bad = ~torch.isfinite(loss.row_losses).cpu().numpy()
        bad = self.ranks.gather(loss.rows[is_bad])
        shown = bad if len(bad) else loss.all_rows
        listed = ", ".join(map(str, shown[:8]))
        raise InputError(
            f"The loss is {value} at epoch {self.epoch + 1}, step {self.step} (store rows "
            f"{listed}). Lower --lr, or look at these recordings with `ecgprep report`."
        )
