"""The rows that train, kept on the device as int16 where they fit: 80 kB a recording of 8 x 5000, so 450,000 in half of 80 GB.

Each epoch then reads nothing from the store, and a batch is one gather on the device.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from ecgfit.data.loader import Batch, Batches, Loader
from ecgprep.errors import InputError
from ecgprep.leads import LEADS

SHARE_OF_FREE = 0.5
"""Of the device's free memory, what `auto` takes at most; the rest is for weights, activations and the allocator's fragments."""


_TOGETHER = 256
"""Recordings that are read from the store and sent to the device at a time."""


class DoesNotFit(InputError):
    """The device has not enough memory for the recordings that are to be kept there."""


def fits(asked: Literal["auto", "on", "off"], n_bytes: int, device: str) -> bool:
    """Say whether waveforms of so many bytes are to be kept on the device: `auto` means on a GPU that has room."""
    if asked != "auto":
        return asked == "on"
    if device != "cuda":
        return False
    torch.cuda.empty_cache()  # what an ensemble's earlier member has left cached would count as taken
    return n_bytes <= SHARE_OF_FREE * torch.cuda.mem_get_info()[0]


class ResidentBatches(Batches):
    """The batches of `streamed`, the same to the bit, gathered on the device from a copy of all its rows. Raises DoesNotFit."""

    def __init__(self, streamed: Batches, device: str) -> None:
        super().__init__(
            streamed.store, streamed.rows, streamed.batch_size, streamed.seed, ranks=streamed.ranks
        )
        self._sorted = np.sort(self.rows)
        names = ("lead_mask", "valid_span", "covariates", "label")
        mask, span, covariates, label = (
            torch.from_numpy(self.store.array(name)[self._sorted]) for name in names
        )
        small = (mask, span, covariates[:, torch.from_numpy(streamed.columns)], label.long())
        shape = (len(self.rows), len(LEADS), self.store.n_samples)
        try:
            waveforms = torch.empty(shape, dtype=torch.int16, device=device)
        except torch.OutOfMemoryError:
            size = 2 * math.prod(shape) / 2**30
            raise DoesNotFit(
                f"resident: {len(self.rows):,} train recordings take {size:.1f} GiB, which the device has not. Use auto or off."
            ) from None
        for first in range(0, len(self.rows), _TOGETHER):
            rows = self._sorted[first : first + _TOGETHER]
            waveforms[first : first + len(rows)] = torch.from_numpy(
                self.store.gather(rows, np.empty((len(rows), *waveforms.shape[1:]), np.int16))
            )
        self._tensors = (waveforms, *(tensor.to(device) for tensor in small))

    def __iter__(self) -> Generator[Batch, None, None]:
        for all_rows in self.order()[self.first_step :]:
            share = self.ranks.share(len(all_rows))
            rows = all_rows[share]
            here = torch.from_numpy(np.searchsorted(self._sorted, rows))
            if (device := self._tensors[0].device).type == "cuda":
                here = here.pin_memory().to(device, non_blocking=True)
            waveforms, mask, span, covariates, label = (
                tensor.index_select(0, here) for tensor in self._tensors
            )
            yield Batch(
                waveforms=waveforms,
                lead_mask=mask,
                valid_span=span,
                covariates=covariates,
                label=label,
                rows=rows,
                all_rows=all_rows,
                first=share.start,
            )


def resident_loader(loader: DataLoader[Batch], device: str) -> DataLoader[Batch]:
    """Return a loader of the same batches whose recordings lie on the device."""
    assert isinstance(loader.dataset, Batches)
    return Loader(ResidentBatches(loader.dataset, device), batch_size=None)
