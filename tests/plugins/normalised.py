"""A model whose network is a class of the user's, with batch normalisation: `kind: plugins.normalised:Normalised`."""

from dataclasses import dataclass
from math import prod

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, inputs, width, classes):
        super().__init__()
        self.first, self.normalise = nn.Linear(inputs, width), nn.BatchNorm1d(width)
        self.last = nn.Linear(width, classes)

    def forward(self, inputs):
        return {"logits": self.last(torch.relu(self.normalise(self.first(inputs.flatten(1)))))}


@dataclass(frozen=True)
class Normalised:
    """The model."""

    width: int = 16

    def build(self, input_shape, classes):
        return Net(prod(input_shape), self.width, classes)

    def widened(self, factor):
        return Normalised(round(self.width * factor))
