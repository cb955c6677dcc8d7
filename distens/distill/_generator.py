"""Networks that make up rows of inputs from noise."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distens.training import network

NOISE = 256
"""The number of random numbers that one row is made from."""


class InputBounds:
    """The bounds between which inputs lie.

    Args:
        low, high: the bounds; broadcast to `shape`.
        shape: the shape of one row of inputs.
    """

    def __init__(self, low: Any, high: Any, shape: tuple[int, ...], device: str = "cpu") -> None:
        self._low, top = (torch.tensor(np.asarray(x, dtype=np.float32)).expand(shape).to(device) for x in (low, high))
        self.span = top - self._low

    def scaled(self, unit: Tensor) -> Tensor:
        """Return inputs (N, …) between the bounds, from numbers in [0, 1]."""
        return self._low + self.span * unit

    def levels(self, inputs: Tensor) -> Tensor:
        """Return inputs as whole numbers 0 … 255, uint8, the precision of an image file."""
        unit = (inputs - self._low) / self.span.clamp(min=1e-12)
        return (unit.clamp(0, 1) * 255).round().to(torch.uint8)

    def restored(self, levels: Tensor) -> Tensor:
        """Return inputs from the whole numbers that `levels` returned."""
        return self.scaled(levels.float() / 255)


class Generator(nn.Module):
    """A network from noise (N, 256) to rows (N, *shape) of numbers in [0, 1]; it takes labels_N too if conditional.

    For images (three axes) it is the generator of DENSE (Zhang et al. 2022) and Co-Boosting (Dai et al. 2024): a dense
    layer to a quarter of the image's size, which is then doubled twice, each time followed by a 3x3 convolution, batch
    normalisation and a leaky rectifier; a last 3x3 convolution makes the channels. We round the quarter up and crop.
    For any other shape it has dense layers with batch normalisation: one for the noise, and two more. All generators
    end with a sigmoid.

    A conditional generator has a first layer for the noise and one for the one-hot label, each of half the width (Zhang
    et al. 2022, "Fine-tuning Global Model via Data-Free Knowledge Distillation for Non-IID Federated Learning",
    FedFTG). We differ in the last layer: theirs is tanh and batch normalisation, which keeps to no range.

    Args:
        classes: C, if the generator is conditional; 0 if it is not.
    """

    def __init__(self, shape: tuple[int, ...], width: int, classes: int = 0) -> None:
        super().__init__()
        self._shape, self._classes = shape, classes
        images = len(shape) == 3
        height, along = ((size + 3) // 4 for size in shape[1:]) if images else (1, 1)
        channels = 2 * width if images else 16 * width
        self._small = (channels, height, along) if images else (channels,)
        half = prod(self._small) // 2
        self.noise = nn.Linear(NOISE, half if classes else 2 * half)
        self.label = nn.Linear(classes, half) if classes else None
        self.body = _images(channels, shape[0]) if images else _flat(channels, prod(shape))
        for module in self.modules():
            _begin(module)

    def forward(self, noise: Tensor, labels_N: Tensor | None = None) -> Tensor:
        """Return made-up rows (N, *shape)."""
        small = self.noise(noise)
        if self.label is not None:
            assert labels_N is not None
            one_hot_NC = nn.functional.one_hot(labels_N, self._classes).to(small.dtype)
            small = torch.cat([small, self.label(one_hot_NC)], dim=1)
        small = small.view(-1, *self._small)
        if small.ndim == 4:
            small = small.contiguous(memory_format=torch.channels_last)  # takes half the time on a CPU
        rows = self.body(small)
        return rows[:, :, : self._shape[1], : self._shape[2]] if rows.ndim == 4 else rows.view(-1, *self._shape)


def make_generator(shape: tuple[int, ...], width: int, seed: int, device: str, classes: int = 0) -> Generator:
    """Return an untrained generator, in training mode, that follows from the seed alone (see `Generator`)."""
    made = network.initialise(lambda: Generator(shape, width, classes), seed)
    assert isinstance(made, Generator)
    return made.to(device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]


def _images(channels: int, wanted: int) -> nn.Module:
    narrow = channels // 2
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(channels, narrow, 3, padding=1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.LeakyReLU(0.2),
        nn.Conv2d(narrow, wanted, 3, padding=1),
        nn.Sigmoid(),
    )


def _flat(channels: int, wanted: int) -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm1d(channels),
        nn.LeakyReLU(0.2),
        nn.Linear(channels, channels, bias=False),
        nn.BatchNorm1d(channels),
        nn.LeakyReLU(0.2),
        nn.Linear(channels, wanted),
        nn.Sigmoid(),
    )


def _begin(module: nn.Module) -> None:
    """Initialise a layer: weights from N(0, 0.02), those of a normalisation from N(1, 0.02); biases 0."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    if isinstance(getattr(module, "bias", None), Tensor):
        nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
