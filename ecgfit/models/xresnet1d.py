"""xresnet1d: the strongest published networks on PTB-XL.

Strodthoff et al. 2020, "Deep learning for ECG analysis: benchmarks and insights from PTB-XL". It is
the residual network of He et al. 2019 ("Bag of tricks for image classification with convolutional
neural networks") in one dimension: a stem of three convolutions, a shortcut that averages before
its 1x1 convolution, blocks that start as their shortcut. Unlike its image ancestor all four stages
are equally wide, 64 channels, or 256 after a bottleneck, so 101 layers have only 1.9 M parameters.

It was made for 100 Hz; at 500 Hz a kernel of 5 in the stem spans 10 ms. It is too large for a
thousand recordings, and kept for comparison, for larger cohorts and for transfer.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from ecgfit.models.network import (
    BatchNorm,
    EcgNetwork,
    GroupMean,
    dense_head,
    mean_and_max,
    scaled,
)

DEPTHS: dict[str, tuple[int, tuple[int, ...]]] = {
    "xresnet1d18": (1, (2, 2, 2, 2)),
    "xresnet1d34": (1, (3, 4, 6, 3)),
    "xresnet1d50": (4, (3, 4, 6, 3)),
    "xresnet1d101": (4, (3, 4, 23, 3)),
}
"""Name -> expansion (1: two convolutions a block, 4: bottleneck) and blocks of each stage."""


def conv_norm(c_in: int, c_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Convolution and batch normalisation: (B, c_in, n) -> (B, c_out, ceil(n / stride))."""
    return [nn.Conv1d(c_in, c_out, kernel, stride, kernel // 2, bias=False), BatchNorm(c_out)]


class Block(nn.Module):
    """Convolutions and a shortcut: (B, c_in, n) -> (B, expansion * inner, ceil(n / stride))."""

    def __init__(self, c_in: int, inner: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        c_out = expansion * inner
        if expansion == 1:
            layers = [
                *conv_norm(c_in, inner, kernel, stride),
                nn.ReLU(),
                *conv_norm(inner, c_out, kernel),
            ]
        else:
            layers = [
                *conv_norm(c_in, inner, 1),
                nn.ReLU(),
                *conv_norm(inner, inner, kernel, stride),
                nn.ReLU(),
                *conv_norm(inner, c_out, 1),
            ]
        self.convs = nn.Sequential(*layers)
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut.append(GroupMean(2, rest=True))
        if c_in != c_out:
            self.shortcut.extend(conv_norm(c_in, c_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut."""
        return F.relu(self.convs(x) + self.shortcut(x))


class XResNet1d(EcgNetwork):
    """Stem, four stages, dense head: (B, channels, L) -> logits (B, 2)."""

    def __init__(
        self,
        depth: str,
        n_channels: int,
        n_extra: int = 0,
        width: float = 1,
        kernel: int = 5,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        expansion, n_blocks = DEPTHS[depth]
        half, inner = scaled(32, width), scaled(64, width)
        self.stem = nn.Sequential(
            nn.Sequential(*conv_norm(n_channels, half, kernel, stride=2), nn.ReLU()),
            nn.Sequential(*conv_norm(half, half, kernel), nn.ReLU()),
            nn.Sequential(*conv_norm(half, inner, kernel), nn.ReLU()),
        )
        self.stages = nn.Sequential()
        c_in = inner
        for i, n in enumerate(n_blocks):
            stage = nn.Sequential()
            for j in range(n):
                halves_the_rate = i > 0 and j == 0
                stride = 2 if halves_the_rate else 1
                stage.append(Block(c_in, inner, expansion, kernel, stride))
                c_in = expansion * inner
            self.stages.append(stage)
        self.n_features = 2 * c_in
        self.n_extra = n_extra
        self.head = dense_head(self.n_features + n_extra, dropout)
        self.apply(_initialise)

    def features(self, x: Tensor) -> Tensor:
        """Return the mean and maximum over time of the last stage."""
        return mean_and_max(self.stages(F.max_pool1d(self.stem(x), 3, 2, 1)))

    def depth_groups(self) -> list[list[nn.Module]]:
        """Return the stem, each stage, the head."""
        stages: list[list[nn.Module]] = [[stage] for stage in self.stages]
        return [[self.stem], *stages, [self.head]]


def _initialise(module: nn.Module) -> None:
    """Draw weights as He et al. 2015 do, and let each block start as its shortcut.

    "Delving deep into rectifiers: surpassing human-level performance on ImageNet classification".
    """
    if isinstance(module, nn.Conv1d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Block):
        last = module.convs[-1]
        assert isinstance(last, BatchNorm)
        nn.init.zeros_(last.weight)


def _xresnet1d(depth: str, n_channels: int, n_extra: int = 0, **args: float) -> EcgNetwork:
    # Whole numbers are checked to be such in arguments.py.
    return XResNet1d(depth, n_channels, n_extra, **args)  # type: ignore[arg-type]


xresnet1d18 = partial(_xresnet1d, "xresnet1d18")
"""0.36 M parameters and 0.23 GMAC at 8 x 5000."""
xresnet1d34 = partial(_xresnet1d, "xresnet1d34")
"""0.69 M parameters and 0.39 GMAC at 8 x 5000."""
xresnet1d50 = partial(_xresnet1d, "xresnet1d50")
"""0.95 M parameters and 0.52 GMAC at 8 x 5000."""
xresnet1d101 = partial(_xresnet1d, "xresnet1d101")
"""1.87 M parameters and 0.81 GMAC at 8 x 5000."""
