"""Networks that make up rows of inputs from noise."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distens.training import network

NOISE = 256
"""Numbers that a row is made from."""


class Range:
    """What inputs lie between.

    Args:
        low, high: broadcast to `shape`.
        shape: of one row.
    """

    def __init__(self, low: Any, high: Any, shape: tuple[int, ...], device: str = "cpu") -> None:
        self._low, top = (torch.tensor(np.asarray(x, dtype=np.float32)).expand(shape).to(device) for x in (low, high))
        self.span = top - self._low

    def scaled(self, unit: Tensor) -> Tensor:
        """Return inputs (N, …) of numbers in [0, 1]."""
        return self._low + self.span * unit

    def levels(self, inputs: Tensor) -> Tensor:
        """Return inputs as whole numbers 0 … 255, uint8: what an image file would keep of them."""
        unit = (inputs - self._low) / self.span.clamp(min=1e-12)
        return (unit.clamp(0, 1) * 255).round().to(torch.uint8)

    def restored(self, levels: Tensor) -> Tensor:
        """Return the inputs that `levels` keeps."""
        return self.scaled(levels.float() / 255)


class Generator(nn.Module):
    """noise (N, 256) and, if it is conditional, labels_N -> rows (N, *shape) of numbers in [0, 1].

    Images (three axes): the generator of DENSE (Zhang et al. 2022) and Co-Boosting (Dai et al. 2024), dense to a
    quarter of the size, twice doubled, each time a 3x3 convolution, batch normalisation, leaky rectifiers; we round the
    quarter up and crop. Anything else: two dense layers with batch normalisation. All end with a sigmoid.

    Conditional: noise and the one-hot label each have a first layer of their own, of half the width (Zhang et al. 2022,
    "Fine-tuning Global Model via Data-Free Knowledge Distillation for Non-IID Federated Learning", FedFTG). We differ
    in the last layer: theirs is tanh and batch normalisation, which knows no range.
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
        """Return made-up rows."""
        small = self.noise(noise)
        if self.label is not None:
            assert labels_N is not None
            one_hot_NC = nn.functional.one_hot(labels_N, self._classes).to(small.dtype)
            small = torch.cat([small, self.label(one_hot_NC)], dim=1)
        small = small.view(-1, *self._small)
        if small.ndim == 4:
            small = small.contiguous(memory_format=torch.channels_last)  # on a CPU, half the time
        rows = self.body(small)
        return rows[:, :, : self._shape[1], : self._shape[2]] if rows.ndim == 4 else rows.view(-1, *self._shape)


def make(shape: tuple[int, ...], width: int, seed: int, device: str, classes: int = 0) -> Generator:
    """Return an untrained generator by the seed alone, ready to learn; it is conditional if told how many classes."""
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
    """Give a layer its first weights: N(0, 0.02), those of a normalisation N(1, 0.02); biases 0."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    if isinstance(getattr(module, "bias", None), Tensor):
        nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
