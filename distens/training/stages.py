"""Stages: the steps of a stack's forward pass, each with a backward step, and the numbers that they work on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from distens.training.dropout import Masks


class Unstackable(Exception):
    """An error: these networks cannot be stacked; the message is the reason."""


class Stage(Protocol):
    """A stage of a stack: one layer of all members, or several.

    Example:
        A stack calls its stages in order, and backwards::

            for stage in stages:
                values = stage.forward(values, masks)
            for stage in reversed(stages):
                gradients = stage.backward(gradients)
    """

    def forward(self, values: Tensor, masks: Masks | None) -> Tensor:
        """Return the stage's outputs; with masks as in training, without as in prediction."""
        ...

    def backward(self, gradients: Tensor) -> Tensor | None:
        """Write the gradients of the stage's weights, and return those of its inputs; the first stage has none.

        The given gradients may be overwritten.
        """
        ...


@dataclass(frozen=True)
class Numbers:
    """The numbers of all members of a stack, found by those of one network of their architecture, the template.

    Attributes:
        members: M.
        leaves: the id of the template's parameter -> weights and gradients, both (M, *shape).
        buffers: the id of the template's buffer -> the members' (M, *shape).
        rates_M: dropout layer -> each member's rate.
    """

    members: int
    leaves: Mapping[int, tuple[Tensor, Tensor]]
    buffers: Mapping[int, Tensor]
    rates_M: Mapping[str, Tensor]

    def leaf(self, parameter: Tensor | None) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return the weights and gradients of a parameter of the template; None for both if it has none."""
        return (None, None) if parameter is None else self.leaves[id(parameter)]

    def statistics(self, module: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """Return the members' running mean and variance, both (M * channels,), and number of batches, (M,)."""
        mean, variance, count = (
            self.buffers[id(module._buffers[name])] for name in ("running_mean", "running_var", "num_batches_tracked")
        )
        return mean.view(-1), variance.view(-1), count


class Sum(nn.Module):
    """The sum of two branches over the same inputs, as in a residual block."""

    def __init__(self, first: nn.Sequential, second: nn.Sequential) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sum."""
        return self.first(inputs) + self.second(inputs)


class Reused:
    """Memory for one result, kept between steps: fresh pages would cost as much as the arithmetic."""

    def __init__(self) -> None:
        self._kept = self._view = torch.empty(0)

    def take(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Return a tensor to write to, of a shape, and of the device and type of another."""
        if torch.is_inference_mode_enabled():  # several threads may predict at once
            return like.new_empty(shape)
        if self._view.shape != shape:
            count = math.prod(shape)
            if self._kept.numel() < count:
                self._kept = like.new_empty(count)
            self._view = self._kept[:count].view(shape)
        return self._view
