"""The train recordings kept on the device as int16, where they fit.

A recording of 8 x 5000 takes 80 kB, so half of an 80 GB GPU holds 450,000. Epochs then read nothing
from the store, and a batch is one gather on the device.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ecgfit.data.loader import Batch, Batches, Loader
from ecgprep.errors import InputError
from ecgprep.leads import LEADS

SHARE_OF_FREE = 0.5
"""Share of the device's free memory that `auto` takes at most.

The rest is for weights, activations and the allocator's fragments.
"""

SENT_TOGETHER = 256
"""Recordings that are read from the store and sent to the device at a time."""


class DoesNotFit(InputError):
    """The device has too little memory for the recordings that are to be kept there."""


def fits(asked: Literal["auto", "on", "off"], n_bytes: int, device: str) -> bool:
    """Return whether to keep waveforms of so many bytes on the device.

    `auto` keeps them on a GPU that has room.
    """
    if asked != "auto":
        return asked == "on"
    if device != "cuda":
        return False
    torch.cuda.empty_cache()  # what an ensemble's earlier member left cached would count as taken
    n_free, _ = torch.cuda.mem_get_info()
    return n_bytes <= SHARE_OF_FREE * n_free


class ResidentBatches(Batches):
    """The batches of `streamed`, the same to the bit, gathered from a copy on the device."""

    def __init__(self, streamed: Batches, device: str) -> None:
        """Copy the recordings. Raises DoesNotFit."""
        super().__init__(
            streamed.store, streamed.rows, streamed.batch_size, streamed.seed, ranks=streamed.ranks
        )
        self._sorted = np.sort(self.rows)
        self._waveforms = self._copy_waveforms(device)
        covariates = self.store.array("covariates")[np.ix_(self._sorted, streamed.columns)]
        self._covariates = torch.from_numpy(covariates).to(device)
        self._lead_mask = self._sent("lead_mask", device)
        self._valid_span = self._sent("valid_span", device)
        self._label = self._sent("label", device).long()

    def _sent(self, name: str, device: str) -> Tensor:
        return torch.from_numpy(self.store.array(name)[self._sorted]).to(device)

    def _copy_waveforms(self, device: str) -> Tensor:
        shape = (len(self.rows), len(LEADS), self.store.n_samples)
        try:
            waveforms = torch.empty(shape, dtype=torch.int16, device=device)
        except torch.OutOfMemoryError:
            size = 2 * math.prod(shape) / 2**30
            raise DoesNotFit(
                f"resident: {len(self.rows):,} train recordings take {size:.1f} GiB, more than the "
                "device has free. Use auto or off."
            ) from None
        for first in range(0, len(self.rows), SENT_TOGETHER):
            rows = self._sorted[first : first + SENT_TOGETHER]
            part = self.store.gather(rows, np.empty((len(rows), *shape[1:]), np.int16))
            waveforms[first : first + len(rows)] = torch.from_numpy(part)
        return waveforms

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yield the batches that are left of the current epoch."""
        device = self._waveforms.device
        for all_rows in self.order()[self.first_step :]:
            share = self.ranks.share(len(all_rows))
            rows = all_rows[share]
            here = torch.from_numpy(np.searchsorted(self._sorted, rows))
            if device.type == "cuda":
                here = here.pin_memory().to(device, non_blocking=True)
            yield Batch(
                waveforms=self._waveforms.index_select(0, here),
                lead_mask=self._lead_mask.index_select(0, here),
                valid_span=self._valid_span.index_select(0, here),
                covariates=self._covariates.index_select(0, here),
                label=self._label.index_select(0, here),
                rows=rows,
                all_rows=all_rows,
                first=share.start,
            )


def resident_loader(loader: DataLoader[Batch], device: str) -> DataLoader[Batch]:
    """Return a loader of the same batches whose recordings are on the device."""
    assert isinstance(loader.dataset, Batches)
    return Loader(ResidentBatches(loader.dataset, device), batch_size=None)
