"""A user's own network: members of an old run, of kind `module`, name it as `old_user_net:Net`."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn


class Net(nn.Module):
    """One hidden layer."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, width: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), width), nn.Tanh())
        self.last = nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.layers(inputs))
