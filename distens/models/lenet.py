"""LeNet-5, for small images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Lt

from distens.errors import Refused

if TYPE_CHECKING:
    from torch import nn

MIN_IMAGE_SIDE = 4
"""The smallest height and width, in pixels: two halvings leave one pixel."""


@dataclass(frozen=True)
class Lenet:
    """LeNet-5: two convolutions and two hidden dense layers (LeCun et al. 1998, "Gradient-Based Learning Applied to
    Document Recognition", section II.B).

    We differ: both convolutions are padded, so that images from 4x4 pixels on are large enough; rectified linear units
    and maximum pooling replace scaled tanh and trained subsampling; the second convolution reads every channel.

    Attributes:
        width: the factor by which the paper's 6 and 16 channels, and 120 and 84 units, are multiplied.
        dropout: the share of the inputs of both hidden dense layers that is dropped in training.
    """

    width: Annotated[float, Gt(0)] = 1.0
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a freshly initialised network: inputs (N, channels, height, width) -> outputs_NK.

        Raises:
            Refused: the inputs are not images, or are smaller than 4x4 pixels.
        """
        from torch import nn

        if len(input_shape) != 3 or min(input_shape[1:]) < MIN_IMAGE_SIDE:
            raise Refused(
                f"lenet: needs images (channels, height, width) of at least {MIN_IMAGE_SIDE}x{MIN_IMAGE_SIDE} pixels, "
                f"found inputs of shape {tuple(input_shape)}"
            )
        channels, height, width = input_shape
        first, second, third, fourth = (max(1, round(units * self.width)) for units in (6, 16, 120, 84))
        layers: list[nn.Module] = [
            nn.Conv2d(channels, first, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),  # after pooling the result is the same, for a quarter of the work
            nn.Conv2d(first, second, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            *([nn.Dropout(self.dropout)] if self.dropout else []),
            nn.Linear(second * (height // 4) * (width // 4), third),
            nn.ReLU(),
            *([nn.Dropout(self.dropout)] if self.dropout else []),
            nn.Linear(third, fourth),
            nn.ReLU(),
            nn.Linear(fourth, classes),
        ]
        return nn.Sequential(*layers)

    def widened(self, factor: float) -> Lenet:
        """Return the same network with every hidden width times `factor`, rounded, at least 1."""
        return replace(self, width=self.width * factor)
