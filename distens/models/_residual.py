"""The block that `resnet` is made of."""

from __future__ import annotations

from math import gcd

from torch import Tensor, nn


def norm(channels: int) -> nn.GroupNorm:
    """Return group normalisation in eight groups, or as many as divide the channels evenly."""
    return nn.GroupNorm(gcd(channels, 8), channels)


class Residual(nn.Module):
    """relu(shortcut(x) + two 3x3 convolutions of x), each convolution normalised (He et al. 2015, figure 2)."""

    def __init__(self, channels: int, wanted: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, wanted, 3, stride, padding=1, bias=False),
            norm(wanted),
            nn.ReLU(),
            nn.Conv2d(wanted, wanted, 3, padding=1, bias=False),
            norm(wanted),
        )
        same = channels == wanted and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, wanted, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (N, wanted, height / stride, width / stride)."""
        return (self.shortcut(inputs) + self.body(inputs)).relu()
