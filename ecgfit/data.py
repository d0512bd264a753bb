"""From store to batches: which rows, in which order, as which tensors.

The loader runs in the process that trains: a batch is one gather from the memory-mapped store into a reused int16 buffer, made one
batch ahead by a thread. Worker processes would cost more than the work: 0.05-0.07 of a memcpy's speed against 0.64-0.85.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ecgfit.augment import augment
from ecgprep.durable import write_json
from ecgprep.errors import STATUS_CODE, InputError, StoreError
from ecgprep.leads import LEADS
from ecgprep.store import SPLITS, Store

Missing = Literal["drop", "mask"]
_RING = 3
"""Buffers in turn: one with the caller, one being filled, one to spare for a caller that keeps the batch before."""
_ORDER_STREAM, _AUGMENT_STREAM, _DROPOUT_STREAM = 0, 1, 2


def select_rows(store: Store, split: str, missing: Missing) -> NDArray[np.int64]:
    """Return the usable, labelled rows of a split, ascending; with `drop`, only those with all eight leads.

    Raises InputError for an unknown split and StoreError when no row is left.
    """
    if split not in SPLITS:
        raise InputError(f"--split (={split}) must be one of {', '.join(SPLITS)}")
    keep = (store.array("status") == STATUS_CODE["ok"]) & (store.array("split") == SPLITS.index(split)) & (store.array("label") >= 0)
    if missing == "drop":
        keep &= store.array("lead_mask").all(axis=1)
    rows = np.flatnonzero(keep)
    if not rows.size:
        hint = " with all eight leads; --missing mask keeps the others" if missing == "drop" else ""
        raise StoreError(f"{store.path}: the {split} split has no usable labelled recording{hint}.")
    return rows


@dataclass(frozen=True)
class NormStats:
    """Per-lead mean and standard deviation in µV of the valid samples of the train rows."""

    mean_uv: tuple[float, ...]
    std_uv: tuple[float, ...]
    n_records: int

    @classmethod
    def of(cls, store: Store, rows: NDArray[np.int64]) -> NormStats:
        """Compute from the store's integer moments: exact, and no waveform is read."""
        mean, std = store.lead_statistics(rows)
        return cls(tuple(mean.tolist()), tuple(std.tolist()), len(rows))

    def save(self, path: Path) -> None:
        """Write `norm_stats.json`."""
        value = {"leads": list(LEADS), "mean_uv": list(self.mean_uv), "std_uv": list(self.std_uv), "n_train_records": self.n_records}
        write_json(path, value)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> NormStats:
        """Read what `save` wrote. Raises StoreError when it is not that."""
        try:
            stats = cls(tuple(map(float, value["mean_uv"])), tuple(map(float, value["std_uv"])), int(value["n_train_records"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise StoreError("norm_stats.json is damaged. Train again.") from None
        if value.get("leads") != list(LEADS) or len(stats.mean_uv) != len(LEADS) or len(stats.std_uv) != len(LEADS):
            raise StoreError(f"norm_stats.json is not for the leads {', '.join(LEADS)}. Train again.")
        return stats


@dataclass(frozen=True, eq=False)
class Batch:
    """`waveforms` int16 (B, 8, L) µV lies in a reused buffer: valid until two batches later. The other arrays are the caller's."""

    waveforms: Tensor
    lead_mask: Tensor
    valid_span: Tensor
    label: Tensor
    rows: NDArray[np.int64]


class Batches(IterableDataset[Batch]):
    """Batches of `rows`: in a new order per epoch when `seed` is given, a function of (seed, epoch) alone, else as they are.

    The last batch of a shuffled epoch is left out when it holds a single recording: batch normalisation has no variance of one.
    """

    def __init__(self, store: Store, rows: NDArray[np.int64], batch_size: int, seed: int | None = None, pin: bool = False) -> None:
        self.store, self.rows, self.batch_size, self.seed, self.pin, self.epoch = store, rows, batch_size, seed, pin, 0
        self._spare: list[Tensor] | None = None

    def __len__(self) -> int:
        n_full, rest = divmod(len(self.rows), self.batch_size)
        return n_full + (rest > (1 if self.seed is not None and n_full else 0))

    def order(self) -> list[NDArray[np.int64]]:
        """Return the rows of every batch of the current epoch."""
        rows = self.rows if self.seed is None else generator_for(self.seed, self.epoch, 0, _ORDER_STREAM).permutation(self.rows)
        return [rows[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self))]

    def __iter__(self) -> Iterator[Batch]:
        order, ring = self.order(), self._take_ring()
        with ThreadPoolExecutor(1) as ahead:
            pending = ahead.submit(self._fill, order[0], ring[0])
            for i in range(len(order)):
                batch = pending.result()
                if i + 1 < len(order):
                    pending = ahead.submit(self._fill, order[i + 1], ring[(i + 1) % _RING])
                yield batch
        self._spare = ring

    def _take_ring(self) -> list[Tensor]:
        """Return the buffers of the epoch before, or new ones where another iteration still holds them: touching new pages costs
        more than the copy into them."""
        ring, self._spare = self._spare, None
        shape = (min(self.batch_size, len(self.rows)), len(LEADS), self.store.n_samples)
        return ring or [torch.empty(shape, dtype=torch.int16, pin_memory=self.pin) for _ in range(_RING)]

    def _fill(self, rows: NDArray[np.int64], buffer: Tensor) -> Batch:
        waveforms = buffer[: len(rows)]
        self.store.gather(rows, waveforms.numpy())
        mask, span, label = (torch.from_numpy(np.array(self.store.array(name)[rows])) for name in ("lead_mask", "valid_span", "label"))
        return Batch(waveforms, mask, span, label.long(), rows)


def make_loader(store: Store, rows: NDArray[np.int64], batch_size: int, seed: int | None = None, pin: bool = False) -> DataLoader[Batch]:
    """Return a DataLoader whose items are whole batches, gathered in this process; `loader.dataset.epoch` chooses the order."""
    return DataLoader(Batches(store, rows, batch_size, seed, pin), batch_size=None)


def generator_for(seed: int, epoch: int, step: int, stream: int) -> np.random.Generator:
    """Return numbers that depend on (seed, epoch, step, stream) alone, whatever was drawn before: resume and repeats are exact."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, step, stream])))


def torch_seeds(seed: int, epoch: int, step: int) -> tuple[int, int]:
    """Return the seeds of augmentation and of dropout for one training step."""
    augmentation, dropout = (int(generator_for(seed, epoch, step, stream).integers(2**63)) for stream in (_AUGMENT_STREAM, _DROPOUT_STREAM))
    return augmentation, dropout


class ModelInput(nn.Module):
    """From int16 µV to what the model sees: z-score with train statistics, zeros where nothing was measured, optional mask channel.

    Returns float32 (B, 8, L), or (B, 9, L) with `missing="mask"`: the ninth channel is, at each sample, the fraction of the eight
    leads that is present and not padding.
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, stats: NormStats, missing: Missing) -> None:
        super().__init__()
        std = torch.tensor(stats.std_uv, dtype=torch.float64)
        self.register_buffer("mean", torch.tensor(stats.mean_uv, dtype=torch.float64).float()[:, None], persistent=False)
        self.register_buffer("inverse_std", torch.where(std > 0, 1 / std, 1.0).float()[:, None], persistent=False)
        self.missing = missing

    @property
    def n_channels(self) -> int:
        """Channels that the model gets."""
        return len(LEADS) + (self.missing == "mask")

    def forward(
        self,
        waveforms: Tensor,
        lead_mask: Tensor,
        valid_span: Tensor,
        augmentations: tuple[str, ...] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Normalise, mask and, where a generator is given, augment."""
        time = torch.arange(waveforms.shape[2], device=waveforms.device, dtype=torch.int32)
        inside = (time >= valid_span[:, :1]) & (time < valid_span[:, 1:])
        valid = inside[:, None, :] & lead_mask[:, :, None]
        x = (waveforms.float() - self.mean) * self.inverse_std * valid
        if generator is not None:
            x, valid = augment(x, valid, augmentations, generator)
        if self.missing == "mask":
            x = torch.cat([x, valid.float().mean(dim=1, keepdim=True)], dim=1)
        return x
