"""The networks of the benchmark of own networks: classes as users write them, and ours that compute the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from distens.models.mlp import Mlp

INPUTS, HIDDEN, CLASSES = 64, 128, 10


def mlp() -> nn.Module:
    """Return our `mlp`, 64-128-10."""
    return Mlp(hidden=(HIDDEN,)).build((INPUTS,), CLASSES)


def convolutions() -> nn.Module:
    """Return the layers of `Convolutions` as a chain, as our own image networks are."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    )


class Chain(nn.Module):
    """A chain of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU())
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits_NC."""
        return self.head(self.body(inputs))


class Functional(nn.Module):
    """The same with functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits_NC."""
        hidden = functional.relu(self.first(torch.flatten(inputs, 1)))
        return self.second(hidden)


class WithDropout(Functional):
    """The same with a function that drops."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits_NC."""
        hidden = functional.dropout(functional.relu(self.first(inputs)), 0.2, self.training)
        return self.second(hidden)


class Normalised(nn.Module):
    """The same with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.normalise = nn.Linear(INPUTS, HIDDEN), nn.BatchNorm1d(HIDDEN)
        self.second = nn.Linear(HIDDEN, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits_NC."""
        return self.second(self.normalise(self.first(inputs)).relu())


class Residual(nn.Module):
    """A network with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits_NC."""
        hidden = torch.relu(self.first(inputs))
        return self.last(hidden + torch.relu(self.inner(hidden)))


class Convolutions(nn.Module):
    """Two convolutions with pooling, and two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.dense, self.head = nn.Linear(64, 64), nn.Linear(64, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits_NC."""
        images = functional.max_pool2d(functional.relu(self.first(inputs)), 2)
        images = functional.max_pool2d(functional.relu(self.second(images)), 2)
        return self.head(functional.relu(self.dense(images.view(images.size(0), -1))))


class NormalisedConvolutions(nn.Module):
    """The same with batch normalisation and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.one, self.other = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
        self.dense, self.head = nn.Linear(64, 64), nn.Linear(64, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits_NC."""
        images = functional.max_pool2d(functional.relu(self.one(self.first(inputs))), 2)
        images = functional.relu(images + self.other(self.second(images)))
        return self.head(functional.relu(self.dense(functional.max_pool2d(images, 2).flatten(1))))
