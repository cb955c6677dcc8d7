"""A multilayer perceptron."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Lt, MaxLen

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Mlp:
    """A multilayer perceptron: dense layers over the flattened input, each followed by an activation and dropout, and a
    linear layer at the end.

    Attributes:
        hidden: the width of each hidden layer, at most 1,000 layers; without any it is multinomial logistic regression.
        dropout: the share of every hidden layer's outputs that is dropped in training.
        activation: the function after every hidden layer.
    """

    hidden: Annotated[tuple[Annotated[int, Ge(1)], ...], MaxLen(1000)] = (128, 128)
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    activation: Literal["relu", "gelu", "tanh"] = "relu"

    def __post_init__(self) -> None:
        if self.dropout and not self.hidden:
            raise ValueError(f"dropout: {self.dropout} has no effect without hidden layers")

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a freshly initialised network: inputs (N, *input_shape) -> outputs_NK."""
        from torch import nn

        activation = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}[self.activation]
        layers: list[nn.Module] = [nn.Flatten()]
        width = prod(input_shape)
        for wanted in self.hidden:
            layers += [nn.Linear(width, wanted), activation()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            width = wanted
        return nn.Sequential(*layers, nn.Linear(width, classes))

    def widened(self, factor: float) -> Mlp:
        """Return the same network with every hidden width times `factor`, rounded, at least 1."""
        return replace(self, hidden=tuple(max(1, round(width * factor)) for width in self.hidden))
