"""A small residual network, for small images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le, Lt

from distens.errors import Refused

if TYPE_CHECKING:
    from torch import nn

MIN_IMAGE_SIDE = 8
"""The smallest height and width, in pixels: two halvings leave 2x2 pixels, so that a normalised group always has
several values."""


@dataclass(frozen=True)
class Resnet:
    """A residual network (He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2).

    It has three stages of residual blocks, with `width`, 2 `width` and 4 `width` channels; the second and third stage
    each halve the resolution; the mean over pixels follows.

    We differ in the normalisation, which is over groups of channels (Wu and He 2018) instead of batches. A group's
    statistics come from one image alone. So a network computes the same in training and in prediction, any batch size
    works (even a last batch of one image), and a state holds only weights, which can be averaged. Shortcuts that change
    the shape are 1x1 convolutions (the paper's option B).

    Attributes:
        depth: blocks per stage, the paper's n, for 6 n + 2 weighted layers; at most 200, as in the paper.
        width: the number of channels in the first stage.
        dropout: the share of the pooled channels that is dropped in training.
    """

    depth: Annotated[int, Ge(1), Le(200)] = 1
    width: Annotated[int, Ge(1)] = 16
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a freshly initialised network: inputs (N, channels, height, width) -> outputs_NK.

        Raises:
            Refused: the inputs are not images, or are smaller than 8x8 pixels.
        """
        from torch import nn

        from distens.models._residual import Residual, norm

        if len(input_shape) != 3 or min(input_shape[1:]) < MIN_IMAGE_SIDE:
            raise Refused(
                f"resnet: needs images (channels, height, width) of at least {MIN_IMAGE_SIDE}x{MIN_IMAGE_SIDE} pixels, "
                f"found inputs of shape {tuple(input_shape)}"
            )
        stem = nn.Conv2d(input_shape[0], self.width, 3, padding=1, bias=False)
        layers: list[nn.Module] = [stem, norm(self.width), nn.ReLU()]
        channels = self.width
        for stage in range(3):
            wanted = self.width * 2**stage
            for block in range(self.depth):
                layers.append(Residual(channels, wanted, stride=2 if stage and not block else 1))
                channels = wanted
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if self.dropout:
            layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(channels, classes))

    def widened(self, factor: float) -> Resnet:
        """Return the same network with every hidden width times `factor`, rounded, at least 1."""
        return replace(self, width=max(1, round(self.width * factor)))
