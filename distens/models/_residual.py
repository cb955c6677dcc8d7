"""The residual block of `resnet`."""

from __future__ import annotations

from math import gcd

from torch import Tensor, nn


def norm(channels: int) -> nn.GroupNorm:
    """Return a group normalisation, whose number of groups is the greatest common divisor of the channels and 8."""
    return nn.GroupNorm(gcd(channels, 8), channels)


class Residual(nn.Module):
    """A residual block (He et al. 2015, figure 2).

    It computes relu(shortcut(x) + two 3x3 convolutions of x), with each convolution normalised.
    """

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
        """Return the block's outputs, (N, wanted, height / stride, width / stride)."""
        return (self.shortcut(inputs) + self.body(inputs)).relu()
