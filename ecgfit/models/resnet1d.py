"""A small residual 1D-CNN: the default model.

At 500 Hz most of the cost of a CNN lies in its first layers, while an ECG holds little above 40 Hz, so the stem goes to a tenth
of the rate at once (a strided convolution of 50 ms, then pooling) and the residual stages work at 50 Hz and below. Blocks are those
of He et al. 2016 ("Deep residual learning") with kernels of 7 as in Strodthoff et al. 2021 (PTB-XL benchmarks); the shortcut
averages before its 1x1 convolution (He et al. 2019, "Bag of tricks"); the head joins mean and maximum over time.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

STEM_KERNEL = 25
"""50 ms at 500 Hz: half a QRS complex."""
STAGES = ((48, 1), (64, 1), (96, 1), (128, 1))
"""Width and number of blocks; each stage but the first halves the rate."""


class Block(nn.Module):
    """Two convolutions and a shortcut: (B, c_in, n) -> (B, c_out, ceil(n / stride))."""

    def __init__(self, c_in: int, c_out: int, stride: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.norm1 = nn.BatchNorm1d(c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv1d(c_out, c_out, kernel, 1, kernel // 2, bias=False)
        self.norm2 = nn.BatchNorm1d(c_out)
        nn.init.zeros_(self.norm2.weight)  # each block starts as its shortcut, which steadies the first epochs
        pool = [nn.AvgPool1d(stride, ceil_mode=True, count_include_pad=False)] if stride > 1 else []
        project = [nn.Conv1d(c_in, c_out, 1, bias=False), nn.BatchNorm1d(c_out)] if c_in != c_out else []
        self.shortcut = nn.Sequential(*pool, *project)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.dropout(F.relu(self.norm1(self.conv1(x))))
        return F.relu(self.norm2(self.conv2(h)) + self.shortcut(x))


class ResNet1d(nn.Module):
    """Stem, residual stages, head: (B, channels, L) -> logits (B, 2)."""

    def __init__(self, n_channels: int, stages: tuple[tuple[int, int], ...] = STAGES, kernel: int = 7, dropout: float = 0.2) -> None:
        super().__init__()
        width = stages[0][0]
        self.stem = nn.Sequential(
            nn.Conv1d(n_channels, width, STEM_KERNEL, 5, STEM_KERNEL // 2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.MaxPool1d(3, 2, 1),
        )
        blocks: list[nn.Module] = []
        for i, (c_out, n_blocks) in enumerate(stages):
            for k in range(n_blocks):
                blocks.append(Block(width, c_out, 2 if i and not k else 1, kernel, dropout))
                width = c_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * width, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.blocks(self.stem(x))
        logits: torch.Tensor = self.head(torch.cat([h.mean(dim=2), h.amax(dim=2)], dim=1))
        return logits


def resnet1d(n_channels: int) -> nn.Module:
    """The default network: 0.41 M parameters and 0.06 GMAC at 8 x 5000."""
    return ResNet1d(n_channels)
